"""Whatever decides the numbers decides what is found again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nver import finished
from nver.finished import Finished
from nver.jobs import Curve, Data, ExamplePlans, Job, Outcome, SystemRun
from nver.predictions import SystemFailure, SystemTuning
from nver.splits import Fold
from nver.systems import SPANS, Span
from nver.trainings import SavedTrainings
from nver.tuning import Attempt, Choice, Search

RUN = SystemRun("mata", ("a", "b"))
RULES = ("inductive", "transductive")


class Table:
    def __init__(self, settings=None, space=None, spans=SPANS):
        self.settings, self.SPANS = settings or {"fusion": "mata"}, spans
        self.space = lambda name: space or {"dropout": 0.5}

    def get_system(self, name):
        return SimpleNamespace(settings=self.settings, rules=RULES)


@pytest.fixture
def data():
    X = np.arange(24, dtype=np.float32).reshape(6, 4)
    y = np.array(["x", "y"] * 3)
    speakers = np.array(["s1", "s1", "s2", "s2", None, "s3"], dtype=object)
    views = {"a": slice(0, 1), "b": slice(1, 3), "c": slice(3, 4)}
    return Data(X, y, speakers, views, ("x", "y"), tuple("uvwxyz"))


@pytest.fixture
def job():
    return Job(4, RUN, RULES, Fold("0", np.array([0, 1, 2, 3]), np.array([4, 5])), 7)


@pytest.fixture
def search(job):
    return Search(2, RUN, RULES[0], job.fold, 7, 1.0, trials=8)


def outcome(number=4):
    given = np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)
    probabilities = {"inductive": given, "transductive": given[::-1]}
    seconds = {"inductive": 1.5, "transductive": 2.5}
    mass = np.full((2, 2), 0.25, dtype=np.float32)
    return Outcome(
        number,
        probabilities,
        seconds,
        ("a warning",),
        elapsed=3.0,
        curve=Curve((0.7, 0.1), ()),
        examples=ExamplePlans(np.array([5, 4]), {("b", "a"): mass}),
    )


def choice(search):
    found = (0.5, np.nan, 8, 3, "4 folds by speaker", {"b": 7})
    tuning = SystemTuning("mata", RUN.encoders, "0", {"dropout": 0.25}, *found)
    return Choice(search.number, tuning, elapsed=9.0)


@pytest.fixture
def kept(tmp_path, data, job, search):
    """Return a folder in which one job and one search are saved."""
    saved = SavedTrainings(tmp_path / "trainings")
    done = Finished(saved, data, Table())
    done.keep_outcome(job, outcome())
    done.keep_choice(search, choice(search))
    return saved


def test_what_was_done_is_found_under_its_number_and_names_of_today(kept, data, job, search):
    fold = replace(job.fold, name="left out")
    views = {"one": slice(0, 1), "two": slice(1, 3)}
    run = SystemRun("mata", ("one", "two"))
    done = Finished(kept, replace(data, views=views), Table())
    found = done.outcome(replace(job, number=9, run=run, fold=fold))
    assert (found.number, found.notes, found.elapsed) == (9, ("a warning",), 3.0)
    assert found.seconds == outcome().seconds
    assert found.curve == Curve((0.7, 0.1), ())
    assert found.examples.rows.tolist() == [5, 4]
    assert list(found.examples.plans) == [("two", "one")]  # as they are called today
    assert found.examples.plans["two", "one"].sum() == 1
    for rule in RULES:
        np.testing.assert_array_equal(found.probabilities[rule], outcome().probabilities[rule])
    again = done.choice(replace(search, number=1, run=run, fold=fold))
    assert (again.number, again.elapsed, again.tuning.fold) == (1, 9.0, "left out")
    assert again.tuning.encoders == ("one", "two")
    assert again.tuning.chosen == {"dropout": 0.25}
    assert again.tuning.layers == {"two": 7}
    assert np.isnan(again.tuning.default_uar)


def _at(array, place, value):
    changed = array.copy()
    changed[place] = value
    return changed


CHANGED_DATA = {
    "an embedding": lambda d: replace(d, X=_at(d.X, (5, 2), 0.5)),
    "the precision": lambda d: replace(d, X=d.X.astype(np.float64)),
    "a label": lambda d: replace(d, y=_at(d.y, 4, "y")),
    "a speaker": lambda d: replace(d, speakers=_at(d.speakers, 4, "s9")),
    "how many layers a view holds": lambda d: replace(d, layers={"b": 2}),
    "no speakers": lambda d: replace(d, speakers=None),
    "the order of labels": lambda d: replace(d, labels=("y", "x")),
    "the audio": lambda d: replace(d, digests=tuple("uvwxyy")),
    "the order of clips": lambda d: replace(d, X=d.X[::-1]),
    "the columns": lambda d: replace(d, views=d.views | {"a": slice(3, 4)}),
}


@pytest.mark.parametrize("change", CHANGED_DATA.values(), ids=CHANGED_DATA)
def test_another_corpus_finds_nothing(kept, data, job, search, change):
    done = Finished(kept, change(data), Table())
    assert done.outcome(job) is None
    assert done.choice(search) is None


PLACES = {
    "system": {"run": SystemRun("late", ("a", "b"))},
    "order of encoders": {"run": SystemRun("mata", ("b", "a"))},
    "encoders": {"run": SystemRun("mata", ("a",))},
    "seed": {"seed": 8},
    "training part": {"fold": Fold("0", np.array([0, 1, 2]), np.array([4, 5]))},
    "test part": {"fold": Fold("0", np.array([0, 1, 2, 3]), np.array([5]))},
}


@pytest.mark.parametrize("changed", PLACES.values(), ids=PLACES)
def test_another_place_finds_nothing(kept, data, job, search, changed):
    done = Finished(kept, data, Table())
    assert done.outcome(replace(job, **changed)) is None
    assert done.choice(replace(search, **changed)) is None


def test_other_settings_find_nothing(kept, data, job, search, monkeypatch):
    done = Finished(kept, data, Table())
    assert done.outcome(replace(job, chosen={"dropout": 0.4})) is None
    assert done.outcome(replace(job, layers={"b": 1})) is None
    assert done.outcome(replace(job, rules=RULES[:1])) is None
    assert done.choice(replace(search, trials=9)) is None
    assert done.choice(replace(search, rule=RULES[1])) is None
    other = Finished(kept, data, Table(settings={"fusion": "mata", "branch": "cnn"}))
    assert (other.outcome(job), other.choice(search)) == (None, None)
    assert Finished(kept, data, Table(space={"dropout": 0.3})).choice(search) is None
    spans = {**SPANS, "dropout": Span(0.0, 0.1)}
    assert Finished(kept, data, Table(spans=spans)).choice(search) is None
    monkeypatch.setattr(finished, "engine", lambda: "of tomorrow")
    assert (done.outcome(job), done.choice(search)) == (None, None)


def attempt(search, x=0.25, fold="1"):
    return Attempt(search.number, {"dropout": x}, fold, 0.5, 2.0, {"b": 3})


def test_what_was_tried_is_found_by_a_search_of_another_number_of_trials(kept, data, search):
    done = Finished(kept, data, Table())
    for one in (attempt(search), attempt(search, 0.5), attempt(search)):
        done.keep_choice(search, one)
    done.keep_choice(search, choice(search))
    again = replace(search, number=3, trials=16)
    tried = (attempt(again), attempt(again, 0.5))
    assert Finished(kept, data, Table()).attempts(again) == tried
    done = Finished(kept, data, Table())
    more = replace(again, seen=done.attempts(again))
    done.keep_choice(more, attempt(more, 0.75))
    found = Finished(kept, data, Table()).attempts(search)
    assert [one.chosen["dropout"] for one in found] == [0.25, 0.5, 0.75]
    for changed in (*PLACES.values(), {"rule": RULES[1]}):
        assert Finished(kept, data, Table()).attempts(replace(search, **changed)) == ()


def test_columns_that_a_system_does_not_see_do_not_matter(kept, data, job):
    done = Finished(kept, replace(data, X=_at(data.X, (0, 3), 99.0)), Table())
    assert done.outcome(job) is not None


def test_failures_are_not_saved(tmp_path, data, job, search):
    saved = SavedTrainings(tmp_path / "trainings")
    done, failure = Finished(saved, data, Table()), SystemFailure("mata", ("a", "b"), "0", 7, "no")
    done.keep_outcome(job, Outcome(4, {}, {}, (), failure))
    done.keep_choice(search, replace(choice(search), failure=failure))
    assert not saved.folder.exists()


def test_without_a_folder_nothing_is_remembered(data, job, search):
    done = Finished(None, data, Table())
    done.keep_outcome(job, outcome())
    done.keep_choice(search, choice(search))
    assert done.outcome(job) is None
    assert done.choice(search) is None


@pytest.mark.parametrize(
    ("arrays", "facts"),
    [
        ({}, {"seconds": {}, "notes": [], "elapsed": 1.0}),
        ({"rule inductive": np.zeros((2, 2))}, {"seconds": {"inductive": 1}, "notes": []}),
        (
            dict.fromkeys((f"rule {rule}" for rule in RULES), np.zeros((3, 2))),  # of three clips
            {"seconds": dict.fromkeys(RULES, 1.0), "notes": [], "elapsed": 1.0},
        ),
        ({}, {}),
    ],
)
def test_a_file_that_lacks_something_is_done_again(kept, data, job, search, arrays, facts):
    done = Finished(kept, data, Table())
    for path in kept.folder.iterdir():
        kept.put(path.stem, arrays, facts)
    assert done.outcome(job) is None
    assert done.choice(search) is None


def test_plans_that_nobody_asked_for_then_are_missing_now(kept, data, job):
    done = Finished(kept, data, Table())
    assert done.outcome(replace(job, plans=True)) is None
    done.keep_outcome(replace(job, plans=True), outcome())
    assert done.outcome(replace(job, plans=True)) is not None
    assert done.outcome(job) is not None
