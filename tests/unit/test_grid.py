"""The grid from Python: what is saved, what is trained again, what is tuned."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest

from contracts.interrupted_grid import (
    FOLDS,
    NAMES,
    SEEDS,
    TRAININGS,
    UNTUNED,
    Packs,
    Systems,
    dataset,
)
from nver import schedule, tuning
from nver.cross_validation import cross_validate
from nver.jobs import SystemRun
from nver.scores import scores
from nver.splits import make_folds

RUNS = [SystemRun(name, ("a",)) for name in NAMES]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def evaluate(tmp_path, log):
    """Return a function that cross-validates and says how often something was trained."""

    def function(data=None, **options):
        data = data or dataset()
        log.write_text("")
        given = {
            "runs": RUNS,
            "folds": make_folds("speaker", data.y, data.speakers, k=FOLDS),
            "seeds": SEEDS,
            "jobs": 1,
            "systems": Systems(log, 0.0),
            "saved": tmp_path / "trainings",
        } | options
        predictions = cross_validate(data, **given)
        return predictions, len(log.read_text().splitlines())

    return function


def test_what_is_saved_is_not_trained_again(evaluate):
    first, trained = evaluate()
    assert trained == TRAININGS
    again, trained = evaluate()
    assert trained == 0
    assert again.frame.equals(first.frame)
    assert again.entries == first.entries  # the seconds of the first time


def test_only_what_is_missing_is_trained(evaluate):
    evaluate(seeds=(0, 2), runs=RUNS[:1])
    _, trained = evaluate(seeds=(0, 1, 2), runs=RUNS[:1])
    assert trained == FOLDS
    _, trained = evaluate(seeds=(2, 1, 0))
    assert trained == TRAININGS // 2


def test_another_corpus_seed_or_fold_trains_anew(evaluate):
    evaluate()
    data = dataset()
    X = data.X.copy()
    X[7, 2] = np.nextafter(X[7, 2], 1)  # one bit of one embedding
    assert evaluate(replace(data, X=X))[1] == TRAININGS
    y = data.y.copy()
    y[0] = "laugh"
    folds = make_folds("speaker", data.y, data.speakers, k=FOLDS)
    assert evaluate(replace(data, y=y), folds=folds)[1] == TRAININGS
    assert evaluate(data, seeds=(7,))[1] == TRAININGS // len(SEEDS)
    other = make_folds("speaker", data.y, data.speakers, k=FOLDS, seed=1)
    assert evaluate(data, folds=other)[1] == TRAININGS
    assert evaluate()[1] == 0  # what was saved first is still there


def test_nothing_is_saved_unless_asked(evaluate, tmp_path):
    evaluate(saved=None)
    assert evaluate(saved=None)[1] == TRAININGS
    assert not (tmp_path / "trainings").exists()


def test_a_damaged_file_is_trained_again(evaluate, tmp_path):
    first, _ = evaluate()
    one, two, *_ = sorted((tmp_path / "trainings").iterdir())
    one.write_bytes(one.read_bytes()[:-9])
    two.unlink()
    again, trained = evaluate()
    assert trained == 2
    assert again.frame.equals(first.frame)


def test_the_progress_begins_with_what_is_there(evaluate):
    evaluate(seeds=(0,))
    seen = []
    evaluate(progress=lambda *args: seen.append(args))
    assert seen[0] == ("trainings", TRAININGS // len(SEEDS), TRAININGS)
    assert seen[-1] == ("trainings", TRAININGS, TRAININGS)


def test_packs_change_no_number_and_are_saved_and_counted_by_member(evaluate, log, monkeypatch):
    alone, _ = evaluate(saved=None)
    monkeypatch.setattr(schedule, "pack_size", lambda settings, device: 4)
    together, seen = [], []

    class Packing(Packs):
        def fit_many(self, models, parts):
            together.append(len(models))
            return super().fit_many(models, parts)

    watch = {"progress": lambda what, done, total: seen.append(done)}
    packed, trained = evaluate(systems=Packing(log, 0.0), **watch)
    assert trained == TRAININGS
    assert set(together) <= {3, 4}
    assert sum(together) == TRAININGS
    assert packed.frame.equals(alone.frame)
    assert seen == list(range(TRAININGS + 1))
    assert evaluate()[1] == 0  # each member was saved by itself


class Interrupted(Packs):
    """A table that stops everything in the training after so many."""

    def __init__(self, log, left):
        super().__init__(log, 0.0)
        self.left = left

    def build(self, *args, **more):
        model = super().build(*args, **more)
        fit = model.fit

        def fit_unless_over(*args):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            fit(*args)

        model.fit = lambda X, y, groups=None: fit_unless_over(X, y, groups)
        return model


@pytest.mark.parametrize("done", [1, 7, 12])  # in packs of eight
def test_members_that_finished_in_a_pack_are_not_trained_again(evaluate, log, done):
    whole, _ = evaluate(saved=None)
    with pytest.raises(KeyboardInterrupt):
        evaluate(systems=Interrupted(log, done))
    assert len(log.read_text().splitlines()) == done
    resumed, trained = evaluate(systems=Packs(log, 0.0))
    assert trained == TRAININGS - done
    assert resumed.frame.equals(whole.frame)


class Watcher:
    """A progress that wants to know the time left."""

    def __init__(self):
        self.told = []

    def __call__(self, what, done, total):
        self.told.append((what, done))

    def time_left(self, what, seconds):
        self.told.append(("time left", what))


def test_a_search_goes_on_from_its_last_training(evaluate, log):
    """And the time left is told from the first of its trainings on."""
    pytest.importorskip("optuna")
    data = replace(dataset(), layers={"a": 2})
    whole, trained = evaluate(data, tune=4, saved=None)
    watch = Watcher()
    for done in (2, 9):
        with pytest.raises(KeyboardInterrupt):
            evaluate(data, tune=4, systems=Interrupted(log, done), progress=watch)
    resumed, again = evaluate(data, tune=4)
    assert again == trained - 11
    assert watch.told[:2] == [("searches", 0), ("time left", "searches")]
    assert resumed.tunings == whole.tunings
    assert resumed.frame.equals(whole.frame)


def test_tuned_trainings_are_others_and_are_found_again(evaluate):
    pytest.importorskip("optuna")
    data = replace(dataset(), layers={"a": 2})
    plain, trained = evaluate(data)
    assert trained == TRAININGS
    tuned, trained = evaluate(data, tune=4)
    assert trained > TRAININGS
    assert not tuned.frame.equals(plain.frame)
    again, trained = evaluate(data, tune=4)
    assert trained == 0
    assert again.frame.equals(tuned.frame)
    assert again.tunings == tuned.tunings
    assert again.entries == tuned.entries  # the seconds of the first time, the search's too
    assert evaluate(data, tune=5)[1] > 0
    assert evaluate()[1] == 0  # what is not tuned does not know of layers


def test_more_trials_train_only_what_fewer_have_not(evaluate, log):
    pytest.importorskip("optuna")
    one = {"runs": RUNS[:1]}
    evaluate(tune=6, **one)
    fewer = set(log.read_text().splitlines())
    more, trained = evaluate(tune=12, **one)
    assert fewer.isdisjoint(log.read_text().splitlines())
    assert trained > 0
    again, trained = evaluate(tune=6, **one)
    assert trained == 0
    anew, _ = evaluate(tune=12, saved=None, **one)
    assert anew.tunings == more.tunings
    assert anew.frame.equals(more.frame)
    assert [t.trials for t in (*again.tunings, *more.tunings)] == [6] * FOLDS + [12] * FOLDS


def test_every_seed_of_a_fold_is_trained_with_what_the_fold_chose(evaluate, log):
    pytest.importorskip("optuna")
    tuned, _ = evaluate(tune=4)
    assert any(tuning.chosen["x"] != UNTUNED for tuning in tuned.tunings)
    places = [(tuning.name, tuning.fold) for tuning in tuned.tunings]
    assert places == [(name, str(fold)) for name in NAMES for fold in range(FOLDS)]
    lines = [line.split() for line in log.read_text().splitlines()[-TRAININGS:]]
    for name in NAMES:
        chosen = sorted(f"{t.chosen['x']:.9f}" for t in tuned.tunings if t.name == name)
        for seed in map(str, SEEDS):
            assert sorted(x for n, s, x, _ in lines if (n, s) == (name, seed)) == chosen


def test_the_seconds_of_a_tuned_system_hold_its_searches(evaluate, log, monkeypatch):
    pytest.importorskip("optuna")
    searched = {}

    def pack(given, data, systems):
        *attempts, choice = tuning.search_pack(given, data, systems)
        name = given[0].run.name
        searched[name] = searched.get(name, 0) + 100.0
        yield from attempts
        yield replace(choice, elapsed=100.0)

    monkeypatch.setattr("nver.cross_validation.search_pack", pack)
    tuned, _ = evaluate(tune=2)
    assert searched == dict.fromkeys(NAMES, 100.0 * FOLDS)
    for entry in tuned.entries:
        assert entry.search_seconds == 100.0 * FOLDS
        assert 0 < entry.seconds - entry.search_seconds < 60
    plain, _ = evaluate()
    assert all(entry.search_seconds == 0 < entry.seconds < 60 for entry in plain.entries)
    systems = scores(tuned, corpus="toy", folds="speaker", k=FOLDS, resamples=50)["systems"]
    assert [one["search_seconds"] for one in systems] == [100.0 * FOLDS] * 2


def test_labels_of_the_test_part_change_no_choice(evaluate):
    pytest.importorskip("optuna")
    data = replace(dataset(), layers={"a": 2})
    folds = make_folds("speaker", data.y, data.speakers, k=FOLDS)
    before, _ = evaluate(data, tune=4, folds=folds)
    for fold in folds[:2]:
        X, y = data.X.copy(), data.y.copy()
        X[fold.test] += 3.0
        y[fold.test] = np.random.default_rng(0).permutation(y[fold.test])
        after, trained = evaluate(replace(data, X=X, y=y), tune=4, folds=folds)
        assert trained > TRAININGS  # nothing was looked up: it was searched anew
        mine = [[t for t in p.tunings if t.fold == fold.name] for p in (before, after)]
        assert mine[0] == mine[1]
        others = [[t for t in p.tunings if t.fold != fold.name] for p in (before, after)]
        assert others[0] != others[1]  # there it is training data
        assert all(set(tuning.layers) == {"a"} for tuning in after.tunings)


def test_a_fold_trains_on_the_layer_that_it_chose(evaluate, log):
    pytest.importorskip("optuna")
    data = dataset()
    inputs = set()

    class Spied(Systems):
        def build(self, name, views, seed, chosen=None):
            inputs.add(str(views))
            return super().build(name, views, seed, chosen)

    tuned, _ = evaluate(replace(data, layers={"a": 2}), tune=4, systems=Spied(log, 0.0))
    assert inputs == {str({"a": slice(0, 2)})}  # one layer, never both
    lines = [line.split() for line in log.read_text().splitlines()[-TRAININGS:]]
    folds = {fold.name: fold for fold in make_folds("speaker", data.y, data.speakers, k=FOLDS)}
    for choice in tuned.tunings:
        layer = choice.layers["a"]
        X = data.X[folds[choice.fold].train][:, 2 * layer : 2 * layer + 2]
        seen = str(zlib.crc32(np.ascontiguousarray(X).tobytes()))
        places = {(name, seed) for name, seed, _, crc in lines if crc == seen}
        assert places >= {(choice.name, str(seed)) for seed in SEEDS}
    assert {choice.layers["a"] for choice in tuned.tunings} == {0}  # two labels differ in it


def test_a_search_that_fails_takes_its_system_down(evaluate, log):
    pytest.importorskip("optuna")

    class Broken(Systems):
        def build(self, name, views, seed, chosen=None):
            if name == "one":
                raise FloatingPointError("no")
            return super().build(name, views, seed, chosen)

    seen = []
    predictions, _ = evaluate(
        tune=4, systems=Broken(log, 0.0), progress=lambda *args: seen.append(args)
    )
    assert [entry.name for entry in predictions.entries] == ["two"]
    assert [failure.name for failure in predictions.failures] == ["one"]
    assert {tuning.name for tuning in predictions.tunings} == {"two"}
    assert ("searches", 2 * FOLDS, 2 * FOLDS) in seen
    assert seen[-1] == ("trainings", TRAININGS, TRAININGS)
