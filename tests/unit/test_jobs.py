"""One training: what the system gets, and what becomes of what it gives."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nver import jobs, systems
from nver.jobs import Curve, Data, Job, SystemRun, Systems, train_pack
from nver.splits import Fold
from nver.training import History

RUN = SystemRun("toy", ("b", "a"))


class Recorder:
    """A system that remembers how it was used, and predicts the first column."""

    def __init__(self):
        self.COUPLINGS = {"": None}
        self.threads = None

    def get_system(self, name):
        return SimpleNamespace(settings={}, rules=("",))

    def build(self, name, views, seed):
        self.name, self.views, self.seed = name, views, seed
        return self

    def fit(self, X, y, groups=None):
        self.X, self.y, self.groups = X, y, groups
        self.classes_ = np.array(["joy", "fear"])
        self.threads = torch.get_num_threads()

    def predict_proba(self, X):
        self.tested = X
        return np.stack([X[:, 0], 1.0 - X[:, 0]], axis=1)


@pytest.fixture
def data():
    X = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    views = {"a": slice(0, 1), "b": slice(1, 3)}
    speakers = np.array(["s1", "s2", None, "s3"], dtype=object)
    return Data(X, np.array(["joy", "fear", "joy", "fear"]), speakers, views, ("fear", "joy"))


def trained(data, systems, *jobs):
    """Return the outcomes of one pack."""
    return list(train_pack(jobs, data, systems))


def job(rules=("",), seed=7):
    return Job(3, RUN, rules, Fold("0", np.array([2, 3]), np.array([0, 1])), seed)


def test_a_job_trains_on_its_columns_rows_and_seed(data):
    recorder = Recorder()
    (outcome,) = trained(data, recorder, job())
    assert (recorder.name, recorder.seed) == ("toy", 7)
    assert recorder.views == {"b": slice(0, 2), "a": slice(2, 3)}
    np.testing.assert_array_equal(recorder.X, data.X[2:][:, [1, 2, 0]])
    assert recorder.y.tolist() == ["joy", "fear"]
    assert recorder.groups.tolist() == [None, "s3"]
    assert outcome.number == 3
    assert outcome.failure is None


def test_probabilities_are_put_in_the_order_of_labels_and_clips(data):
    for seed in range(4):  # the test clips are shuffled by the seed
        (outcome,) = trained(data, Recorder(), job(seed=seed))
        joy = data.X[:2, 1]
        expected = np.stack([1 - joy, joy], axis=1)
        np.testing.assert_allclose(outcome.probabilities[""], expected, atol=1e-6)
        assert outcome.probabilities[""].dtype == np.float32


def test_it_computes_with_one_thread_and_puts_the_number_back(data):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        recorder = Recorder()
        trained(data, recorder, job())
        assert recorder.threads == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_unknown_rule_is_a_failure_that_names_its_place(data):
    (outcome,) = trained(data, Recorder(), job(rules=("psychic",)))
    assert outcome.probabilities == {}
    assert outcome.failure.sentence() == (
        "System 'toy' on b+a failed in fold '0', seed 7: KeyError: 'psychic'"
    )


def test_ctrl_c_is_no_failure_of_a_system(data):
    recorder = Recorder()

    def interrupted(X, y, groups=None):
        raise KeyboardInterrupt

    recorder.fit = interrupted
    with pytest.raises(KeyboardInterrupt):
        trained(data, recorder, job())


class Together:
    """A table that trains several recorders at once, unless one of them must not be trained."""

    def __init__(self, forbidden=None):
        self.COUPLINGS, self.forbidden, self.calls = {"": None}, forbidden, []

    def build(self, name, views, seed, chosen=None):
        model = Recorder().build(name, views, seed)
        model.chosen = chosen
        if seed == self.forbidden:
            model.fit = self._refuse
        return model

    def _refuse(self, X, y, groups=None):
        raise FloatingPointError("the cost is not finite")

    def fit_many(self, models, parts):
        self.calls.append([model.seed for model in models])
        warnings.warn("two of them did not converge", UserWarning, stacklevel=1)
        for model, (X, y, groups) in zip(models, parts, strict=True):
            model.fit(X, y, groups=groups)
        yield from range(len(models))


def pack(*seeds):
    return [replace(job(seed=seed), number=seed) for seed in seeds]


def test_a_pack_is_trained_at_once_and_each_member_is_what_it_is_alone(data):
    table = Together()
    outcomes = trained(data, table, *pack(3, 4, 5))
    assert table.calls == [[3, 4, 5]]
    assert [outcome.number for outcome in outcomes] == [3, 4, 5]
    for outcome in outcomes:
        (alone,) = trained(data, Recorder(), job(seed=outcome.number))
        np.testing.assert_array_equal(outcome.probabilities[""], alone.probabilities[""])
        assert outcome.failure is None
        assert 0 < outcome.elapsed < 60
    said = [outcome.notes for outcome in outcomes]
    assert said == [("UserWarning: two of them did not converge",), (), ()]


def test_in_a_pack_one_failure_is_one_members(data):
    outcomes = trained(data, Together(forbidden=4), *pack(3, 4, 5))
    assert [outcome.failure is None for outcome in outcomes] == [True, False, True]
    assert outcomes[1].failure.sentence() == (
        "System 'toy' on b+a failed in fold '0', seed 4: FloatingPointError: the cost is not finite"
    )


def test_a_table_that_cannot_trains_one_by_one(data):
    recorder = Recorder()
    outcomes = trained(data, recorder, *pack(3, 4))
    assert [outcome.number for outcome in outcomes] == [3, 4]
    assert recorder.seed == 4


def test_alone_a_job_needs_no_pack(data):
    table = Together()
    trained(data, table, job())
    assert table.calls == []


def test_chosen_settings_reach_the_table(data):
    built = []
    table = Together()
    build = table.build
    table.build = lambda *args, **more: built.append(more) or build(*args, **more)
    trained(data, table, replace(job(), chosen={"dropout": 0.4}), job())
    assert built[-2:] == [{"chosen": {"dropout": 0.4}}, {}]


class Timed(Recorder):
    """Building takes 100 seconds of a clock that nothing else moves, fitting 10, predicting 1."""

    now = 0.0

    def build(self, name, views, seed):
        self.now += 100
        return super().build(name, views, seed)

    def fit(self, X, y, groups=None):
        self.now += 10
        super().fit(X, y, groups)

    def predict_proba(self, X):
        self.now += 1
        return super().predict_proba(X)


@pytest.fixture
def timed(monkeypatch):
    system = Timed()
    monkeypatch.setattr(jobs, "time", SimpleNamespace(perf_counter=lambda: system.now))
    return system


def test_a_training_is_counted_once_however_many_rules_judge_it(data, timed):
    timed.COUPLINGS = {"inductive": None, "transductive": None}
    (outcome,) = trained(data, timed, job(rules=("inductive", "transductive")))
    assert outcome.seconds == {"inductive": 11, "transductive": 11}
    assert outcome.elapsed == 12


def test_what_building_a_system_loads_is_not_its_time(data, timed):
    (outcome,) = trained(data, timed, job())
    assert (outcome.seconds, timed.now) == ({"": 11}, 111)


def test_the_table_of_systems_keeps_the_protocol():
    assert isinstance(systems, Systems)
    assert all(
        rule in systems.COUPLINGS for spec in systems.SYSTEMS.values() for rule in spec.rules
    )


def test_a_networks_curve_and_example_plans_are_returned(data):
    recorder = Recorder()
    recorder.history_ = History((2.0, 1.0), (3.0, 2.5), 1)
    recorder.plans = lambda X: {("b", "a"): np.eye(len(X)) / len(X)}
    outcomes = trained(data, recorder, replace(job(), plans=True), job())
    assert {outcome.curve for outcome in outcomes} == {Curve((2.0, 1.0), (3.0, 2.5))}
    assert outcomes[1].examples is None
    assert sorted(outcomes[0].examples.rows.tolist()) == [0, 1]
    np.testing.assert_array_equal(recorder.tested, data.X[outcomes[0].examples.rows][:, [1, 2, 0]])
    assert outcomes[0].examples.plans["b", "a"].dtype == np.float32


def test_what_a_model_says_of_itself_is_a_note(data):
    recorder = Recorder()
    recorder.said_ = ("'b' was chosen",)
    (outcome,) = trained(data, recorder, job())
    assert outcome.notes == ("'b' was chosen",)


def test_what_is_no_network_has_no_curve(data):
    (outcome,) = trained(data, Recorder(), replace(job(), plans=True))
    assert (outcome.curve, outcome.examples) == (None, None)
