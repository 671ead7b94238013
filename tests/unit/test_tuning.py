"""Settings are chosen by inner folds of speakers, never by the test part, and every time alike."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nver import systems as real_systems
from nver.cross_validation import cross_validate
from nver.dataset import EmbeddingDataset
from nver.errors import MissingExtraError, SettingsError
from nver.jobs import Data, Job, SystemRun, train_pack
from nver.splits import Fold, make_folds
from nver.systems import Span
from nver.tuning import (
    Search,
    check_tuning,
    inner_folds,
    search_pack,
    to_search,
    tune,
    with_choice,
)

optuna = pytest.importorskip("optuna")

LABELS = ("cry", "laugh", "sigh")
RUN = SystemRun("tunable", ("a",))


class Model:
    """Nearest class mean, whose view of the clips is the noisier the farther `x` is from 0.7."""

    def __init__(self, log, seed, x):
        self.log, self.seed, self.x = log, seed, x

    def fit(self, X, y, groups=None):
        self.log.append((self.x, set(map(str, groups)) if groups is not None else None, X))
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == label].mean(axis=0) for label in self.classes_])
        if self.x < 0.05:
            raise FloatingPointError("the loss is not finite")

    def predict_proba(self, X):
        noise = np.random.default_rng(self.seed).standard_normal(X.shape)
        X = X + 6.0 * abs(self.x - 0.7) * noise
        distance = ((X[:, None] - self.means_[None]) ** 2).sum(-1)
        weights = np.exp(distance.min(axis=1, keepdims=True) - distance)
        return weights / weights.sum(axis=1, keepdims=True)


class Table:
    """A table with one system that has one setting."""

    def __init__(self, untuned=0.2, low=0.1):
        self.COUPLINGS = {"": None}
        self.SPANS = {"x": Span(low, 1.0)}
        self.untuned = untuned
        self.log = []

    def get_system(self, name):
        return SimpleNamespace(settings={}, rules=("",), reported_as=lambda rule: name)

    def space(self, name):
        return {"x": self.untuned}

    def build(self, name, views, seed, chosen=None):
        return Model(self.log, seed, (chosen or self.space(name))["x"])


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = np.tile(np.repeat(LABELS, 3), 12)
    X = rng.standard_normal((len(y), 3)) + 2.5 * np.eye(3)[[LABELS.index(label) for label in y]]
    speakers = np.repeat([f"s{i:02d}" for i in range(12)], 9).astype(object)
    digests = tuple(f"{i:064x}" for i in range(len(y)))
    return Data(X.astype(np.float32), y, speakers, {"a": slice(0, 3)}, LABELS, digests)


@pytest.fixture
def fold(data):
    return make_folds("speaker", data.y, data.speakers, k=3)[1]


def search(fold, trials=12, seed=0):
    return Search(5, RUN, "", fold, seed, 1.0, trials)


def test_it_finds_better_settings_than_the_untuned(data, fold):
    found = tune(search(fold), data, Table())
    assert found.uar > found.default_uar + 0.1
    assert abs(found.chosen["x"] - 0.7) < 0.2
    assert (found.name, found.encoders, found.fold) == ("tunable", ("a",), fold.name)
    assert found.inner == "4 folds by speaker"


def test_settings_that_are_best_already_are_kept(data, fold):
    found = tune(search(fold), data, Table(untuned=0.7))
    assert found.uar == found.default_uar
    assert found.chosen == {"x": 0.7}


def test_it_is_the_same_every_time_and_another_with_another_seed(data, fold):
    one, again = (tune(search(fold), data, Table()) for _ in range(2))
    assert one == again
    assert tune(search(fold, seed=1), data, Table()).chosen != one.chosen


def test_more_trials_begin_as_fewer(data, fold):
    tables, uars = [], []
    for trials in (4, 8, 16, 20):
        tables.append(Table())
        uars.append(tune(search(fold, trials), data, tables[-1]).uar)
    logs = [[x for x, *_ in table.log] for table in tables]
    for fewer, more in itertools.pairwise(logs):
        assert more[: len(fewer)] == fewer
        assert len(more) > len(fewer)
    assert uars == sorted(uars)


def test_only_what_it_uses_of_earlier_searches_counts_as_its_time(data, fold):
    *tried, first = search_pack([search(fold, trials=4)], data, Table())
    other = replace(tried[0], chosen={"x": 0.123})
    seen = tuple(replace(one, elapsed=1e3) for one in (*tried, other))
    *again, choice = search_pack([replace(search(fold, trials=4), seen=seen)], data, Table())
    assert choice.tuning == first.tuning
    assert again == list(seen[:-1])
    assert 0 <= choice.elapsed - 1e3 * len(tried) < 1e3


def test_the_test_part_plays_no_part(data, fold):
    table, other = Table(), Table()
    found = tune(search(fold), data, table)
    X, y, speakers = data.X.copy(), data.y.copy(), data.speakers.copy()
    X[fold.test], y[fold.test], speakers[fold.test] = 1e6, "sigh", "somebody"
    changed = replace(data, X=X, y=y, speakers=speakers)
    assert tune(search(fold), changed, other) == found
    heard = set(data.speakers[fold.train])
    for _, speakers, rows in table.log:
        assert speakers < heard  # whole speakers are held out, and none is of the test part
        assert np.isin(rows[:, 0], data.X[fold.train, 0]).all()
    # Other labels of the training part would have changed it: the test above can fail.
    y = data.y.copy()
    y[fold.train] = np.random.default_rng(1).permutation(y[fold.train])
    assert tune(search(fold), replace(data, y=y), Table()) != found


def test_the_worse_half_is_given_up_early(data, fold):
    table = Table()
    found = tune(search(fold, trials=16), data, table)
    trained = [x for x, *_ in table.log]
    assert trained[:4] == [0.2] * 4  # the untuned settings: all four folds
    assert found.trials == len(set(trained)) == 16
    times = np.array([trained.count(x) for x in dict.fromkeys(trained)])
    assert set(times) <= {1, 2, 4}
    assert found.pruned == (times < 4).sum() >= 4
    assert len(trained) < 16 * 4 * 0.75


def test_settings_that_cannot_be_trained_are_passed_over(data, fold):
    found = tune(search(fold, trials=8), data, Table(low=0.0))
    assert found.chosen["x"] > 0.05


def test_where_the_untuned_settings_fail_the_system_does(data, fold):
    *_, choice = search_pack([search(fold)], data, Table(untuned=0.01, low=0.0))
    assert choice.failure.sentence() == (
        f"System 'tunable' on a failed in fold '{fold.name}', seed 0: FloatingPointError: the loss "
        "is not finite"
    )


def test_optuna_says_nothing_and_keeps_its_own_level(data, fold, capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    tune(search(fold, trials=2), data, Table())
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capfd.readouterr().err == ""


def test_inner_folds_share_no_speaker_and_stay_in_the_training_part(data, fold):
    folds, how = inner_folds(data, fold.train)
    assert how == "4 folds by speaker"
    assert sorted(np.concatenate([inner.test for inner in folds])) == sorted(fold.train)
    for inner in folds:
        assert not set(data.speakers[inner.train]) & set(data.speakers[inner.test])
        assert np.isin(np.union1d(inner.train, inner.test), fold.train).all()


def test_fewer_speakers_give_fewer_inner_folds(data):
    rows = np.flatnonzero(np.isin(data.speakers, ["s00", "s01", "s02"]))
    assert inner_folds(data, rows)[1] == "3 folds by speaker"
    one = np.flatnonzero(data.speakers == "s00")
    assert inner_folds(data, one)[1] == "3 folds at random"
    assert inner_folds(replace(data, speakers=None), rows)[1] == "4 folds at random"


def test_clips_of_unknown_speakers_count_as_speakers_of_their_own(data, fold):
    speakers = data.speakers.copy()
    speakers[fold.train[:9]] = None
    folds, how = inner_folds(replace(data, speakers=speakers), fold.train)
    assert how == "4 folds by speaker"
    known = [{who for who in speakers[part.test] if who} for part in folds]
    assert sum(map(len, known)) == len(set.union(*known))


def test_identical_clips_stay_on_one_side(data):
    twice = tuple(f"{row // 2}" for row in range(len(data.y)))
    rows = np.arange(len(data.y))
    folds, _ = inner_folds(replace(data, speakers=None, digests=twice), rows)
    for inner in folds:
        contents = [{twice[row] for row in part} for part in (inner.train, inner.test)]
        assert not contents[0] & contents[1]


def test_what_cannot_be_divided_keeps_its_settings(data):
    rows = np.array([0, 3, 6])  # one clip of each class
    fold = Fold("tiny", rows, np.array([9]))
    found = tune(search(fold), data, Table())
    assert (found.chosen, found.trials) == ({}, 0)
    assert found.inner == "the training part cannot be divided"
    assert found.to_dict()["uar"] is None


def test_what_cannot_be_searched_is_refused(monkeypatch):
    with pytest.raises(SettingsError, match="at least 2 settings to try, got 1"):
        check_tuning(1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nver\[tune\]'"):
        check_tuning(16)


def deep(data, layers=5, heard=2):
    """Return clips of which one layer of an encoder knows the label; the others are loud noise."""
    noise = np.random.default_rng(9).standard_normal((len(data.y), 3 * layers)).astype(np.float32)
    X = 2 * noise
    X[:, 3 * heard : 3 * heard + 3] = data.X
    X = np.concatenate([X, noise[:, :2]], axis=1)
    views = {"a": slice(0, 3 * layers), "b": slice(3 * layers, 3 * layers + 2)}
    return replace(data, X=X, views=views, layers={"a": layers})


def test_the_layer_that_knows_most_is_found_beside_the_settings(data, fold):
    found = tune(search(fold, trials=10), deep(data), Table())
    assert found.layers == {"a": 2}
    assert abs(found.chosen["x"] - 0.7) < 0.3
    assert found.uar > found.default_uar + 0.2  # that of the last layer
    assert tune(search(fold, trials=4), data, Table()).layers == {}


class Bare(Table):
    """Nearest class mean: no setting but the layer."""

    def space(self, name):
        return {}

    def build(self, name, views, seed):
        return Model(self.log, seed, 0.7)


def test_a_searched_layer_beats_the_mean_of_layers_in_every_fold(data):
    layered, names = deep(data), tuple(map(str, range(len(data.y))))
    about = (data.y, data.speakers, names, names, data.labels)
    every = EmbeddingDataset(layered.X, layered.views, *about, layers=layered.layers)
    X = layered.X[:, layered.views["a"]].reshape(len(data.y), 5, 3).mean(axis=1)
    mean = EmbeddingDataset(X, {"a": slice(0, 3)}, *about)
    folds = make_folds("speaker", data.y, data.speakers, k=3)
    tuned = cross_validate(every, [RUN], folds, jobs=1, tune=5, systems=Bare())
    assert [found.layers for found in tuned.tunings] == [{"a": 2}] * 3
    untuned = cross_validate(mean, [RUN], folds, jobs=1, systems=Bare())
    frames = (tuned.frame, untuned.frame)
    right = [(f["label"] == f["predicted"]).groupby(f["fold"]).mean() for f in frames]
    assert (right[0] > right[1] + 0.1).all()


@pytest.mark.parametrize("run", [SystemRun("lda", ("a",)), SystemRun("concat-lda", ("b", "a"))])
def test_linear_systems_get_the_best_layer_too(data, fold, run):
    found = tune(replace(search(fold, trials=5), run=run), deep(data), real_systems)
    assert (found.chosen, found.layers, found.trials) == ({}, {"a": 2}, 5)


def tried_by(table, layered):
    """Return the setting and the layer of each trial."""
    known = {value: layer for layer in range(5) for value in layered.X[:, 3 * layer]}
    return list(dict.fromkeys((x, known[rows[0, 0]]) for x, _, rows in table.log))


def test_layers_are_tried_first_spread_evenly_and_one_after_the_other(data, fold):
    table, layered = Table(), deep(data)
    tune(search(fold, trials=6), layered, table)
    tried = tried_by(table, layered)
    assert tried[0] == (0.2, 4)  # the untuned settings on the last layer
    assert {x for x, _ in tried[:4]} == {0.2}
    assert sorted(layer for _, layer in tried[1:4]) == [0, 2, 3]
    assert len({x for x, _ in tried}) == 3  # then everything moves


def test_where_layers_are_all_there_is_each_is_tried_once(data, fold):
    found = tune(search(fold, trials=16), deep(data), Bare())
    assert (found.chosen, found.layers, found.trials) == ({}, {"a": 2}, 5)


@pytest.mark.parametrize("trials", [2, 3, 4])
def test_of_more_layers_than_trials_none_is_tried_twice(data, fold, trials):
    table, layered = Bare(), deep(data)
    assert tune(search(fold, trials=trials), layered, table).trials == trials
    assert len(tried_by(table, layered)) == trials


def test_what_chooses_its_encoder_chooses_among_layers_too(data, fold):
    layered = deep(data)
    run = SystemRun("best-lda", ("b", "a"))
    assert not to_search(run, layered, real_systems)
    job = with_choice(Job(0, run, ("",), fold, 0), None, layered, real_systems)
    (outcome,) = train_pack([job], layered, real_systems)
    assert outcome.notes == ("'a, layer 2' was chosen inside the training part",)


def test_what_cannot_be_divided_gets_the_last_layer(data):
    fold = Fold("tiny", np.array([0, 3, 6]), np.array([9]))
    layered = deep(data)
    found = tune(search(fold), layered, Table())
    assert (found.chosen, found.layers) == ({}, {})
    job = with_choice(Job(0, RUN, ("",), fold, 0), found, layered, Table())
    assert job.layers == {"a": 4}


@pytest.mark.parametrize("name", real_systems.SYSTEMS)
def test_untuned_settings_lie_within_their_spans(name):
    space = real_systems.space(name)
    settings = real_systems.SYSTEMS[name].settings
    # Linear systems have nothing to tune, and those that choose an encoder do that instead.
    assert bool(space) == (
        settings.get("head") not in ("lda", "logreg") and "choose" not in settings
    )
    assert ("eps" in space) == (real_systems.SYSTEMS[name].rules != ("",))
    for setting, value in space.items():
        assert real_systems.SPANS[setting].low <= value <= real_systems.SPANS[setting].high
