"""Planning, packs, and the order in which they start."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nver import schedule, systems
from nver.jobs import Data, Job, Outcome, SystemRun
from nver.predictions import SystemFailure
from nver.schedule import Ledger, make_packs, plan
from nver.splits import Fold

FCN, MATA = SystemRun("fcn", ("a",)), SystemRun("mata", ("a", "b"))
FOLD = Fold("0", np.array([0, 1]), np.array([2]))


def job(number, run=FCN, cost=1.0, seed=0):
    return Job(number, run, ("",), FOLD, seed, cost)


def done(number, elapsed=1.0, failure=None):
    return Outcome(number, {}, {}, (), failure, elapsed)


def failed(run=FCN):
    return SystemFailure(run.name, run.encoders, "0", 0, "no")


def ledger(jobs, progress=None, processes=1, before=None):
    return Ledger("trainings", jobs, before or {}, progress, processes)


def singles(jobs):
    return [(one,) for one in jobs]


class Watcher:
    def __init__(self):
        self.counts, self.seconds = [], []

    def __call__(self, what, done, total):
        self.counts.append((what, done, total))

    def time_left(self, what, seconds):
        self.seconds.append(seconds)


def test_linear_systems_get_one_seed_and_networks_all():
    data = Data(np.zeros((3, 5)), np.zeros(3), None, {"a": slice(0, 2), "b": slice(2, 5)}, ("x",))
    runs = [SystemRun("lda", ("a",)), MATA, SystemRun("cnn", ("b",))]
    jobs = plan(data, runs, [FOLD, FOLD], (3, 4), systems)
    assert [one.number for one in jobs] == list(range(10))
    assert [one.seed for one in jobs] == [3, 3] + [3, 3, 4, 4] * 2
    assert {one.rules for one in jobs if one.run == MATA} == {("inductive", "transductive")}
    cost = {one.run.name: one.cost for one in jobs}
    assert cost["lda"] < cost["mata"] < 1.5 * cost["cnn"]


@given(
    st.lists(st.sampled_from([FCN, MATA]), min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(1, 8),
)
def test_packs_hold_every_job_once_and_one_system_each(runs, size, processes):
    jobs = [job(number, run, cost=number % 3 + 1.0) for number, run in enumerate(runs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "pack_size", lambda settings, device: size)
        packs = make_packs(jobs, processes, systems)
    assert sorted(one.number for pack in packs for one in pack) == list(range(len(runs)))
    for pack in packs:
        assert len({one.run for one in pack}) == 1
        assert len(pack) <= size
        if processes > 1 and len(pack) > 1:  # nobody stays idle for it
            assert sum(one.cost for one in pack) <= sum(one.cost for one in jobs) / processes
            assert len(pack) <= -(-runs.count(pack[0].run) // processes)


@pytest.mark.parametrize(
    ("name", "cpu", "cuda"),
    [
        ("mata", 8, 10**9),
        ("fcn", 8, 10**9),
        ("mata-cnn", 1, 10**9),
        ("lda", 1, 1),
        ("best-fcn", 1, 1),
    ],
)
def test_what_is_trained_at_once_depends_on_system_and_device(name, cpu, cuda):
    settings = systems.get_system(name).settings
    assert (schedule.pack_size(settings), schedule.pack_size(settings, "cuda")) == (cpu, cuda)


def test_packs_are_even_and_keep_folds_together():
    data = Data(np.zeros((9, 5)), np.zeros(9), None, {"a": slice(0, 2), "b": slice(2, 5)}, ("x",))
    folds = [Fold(str(i), np.delete(np.arange(9), i), np.array([i])) for i in range(5)]
    names = ("mata", "late", "concat", "attention")
    jobs = plan(data, [SystemRun(n, ("a", "b")) for n in names], folds, range(5), systems)
    packs = make_packs(jobs, 2, systems)
    assert [len(pack) for pack in packs] == [6, 6, 6, 7] * 4
    assert max(len({one.fold.name for one in pack}) for pack in packs) <= 3
    on_gpu = plan(data, [SystemRun("mata", ("a", "b"))], folds, range(5), systems, device="cuda")
    assert [len(pack) for pack in make_packs(on_gpu, 1, systems)] == [25]


def test_a_table_that_trains_one_by_one_gets_packs_of_one():
    table = SimpleNamespace(get_system=systems.get_system)
    packs = make_packs([job(number) for number in range(5)], 1, table)
    assert [len(pack) for pack in packs] == [1] * 5


def test_inner_folds_become_jobs_beside_their_own():
    data = Data(np.zeros((9, 5)), np.zeros(9), None, {"a": slice(0, 2), "b": slice(2, 5)}, ("x",))
    part = Fold("inner", np.array([0, 1]), np.array([2, 3]))
    jobs = plan(data, [MATA], [FOLD], (3, 4), systems, {FOLD.name: (part, part)})
    assert [one.outer for one in jobs] == [None, FOLD.name, FOLD.name] * 2
    assert [one.plans for one in jobs] == [True] + [False] * 5
    assert {id(one.fold) for one in jobs if one.outer} == {id(part)}


def test_the_longest_start_first():
    jobs = [job(0, cost=1), job(1, cost=9), job(2, MATA, cost=5), job(3, MATA, cost=20)]
    order = [pack[0].number for pack in ledger(jobs).waiting(singles(jobs))]
    assert order == [3, 1, 2, 0]


def test_what_is_measured_corrects_the_order():
    jobs = [job(0, cost=5), job(1, cost=4), job(2, MATA, cost=2), job(3, MATA, cost=1)]
    book = ledger(jobs)
    waiting = book.waiting(singles(jobs))
    assert next(waiting)[0].number == 0
    book.add([done(0, elapsed=5.0)])
    book.add([done(2, elapsed=40.0)])  # twenty times what its cost says
    assert [pack[0].number for pack in waiting] == [3, 1]


def test_what_is_done_is_not_yielded():
    jobs = [job(number) for number in range(6)]
    book = ledger(jobs)
    book.add([done(0), done(4)])
    packs = [tuple(jobs[:3]), tuple(jobs[3:5]), (jobs[5],)]
    left = {one.number for pack in book.waiting(packs) for one in pack}
    assert left == {1, 2, 3, 5}


def test_a_run_that_failed_is_given_up_and_counts_as_done():
    watch = Watcher()
    jobs = [job(0), job(1), job(2, MATA, cost=0.5)]
    book = ledger(jobs, watch)
    waiting = book.waiting(singles(jobs))
    first = next(waiting)[0]
    book.add([done(first.number, failure=failed())])
    assert [pack[0].number for pack in waiting] == [2]
    assert watch.counts[-1] == ("trainings", 2, 3)
    book.add([done(1 - first.number)])  # it was under way
    book.add([done(2)])
    assert watch.counts[-1] == ("trainings", 3, 3)
    assert list(book.failed) == [FCN]


def test_what_failed_before_is_not_tried():
    watch = Watcher()
    jobs = [job(0), job(1, MATA)]
    book = ledger(jobs, watch, before={MATA: failed(MATA)})
    assert [pack[0].number for pack in book.waiting(singles(jobs))] == [0]
    book.report()
    assert watch.counts == [("trainings", 1, 2)]


def test_the_time_left_is_told_once_something_is_measured():
    watch = Watcher()
    jobs = [job(0, cost=2), job(1, cost=2), job(2, MATA, cost=8)]
    book = ledger(jobs, watch, processes=2)
    book.report()
    assert watch.seconds == []
    book.add([done(0, elapsed=10.0)])
    assert watch.seconds == [pytest.approx(40.0)]  # the longest; the even share is 25
    book.add([done(2, elapsed=16.0)])
    assert watch.seconds[1:] == [pytest.approx(10.0)]
    book.add([done(1, elapsed=10.0)])
    assert watch.seconds[-1] == 0.0


def test_parts_of_a_task_count_for_the_time_left():
    watch = Watcher()
    book = ledger([job(0, cost=2), job(1, cost=4)], watch)
    book.add_part(0, 0.25, 10.0)
    assert watch.counts == [("trainings", 0, 2)]
    assert watch.seconds == [pytest.approx(110.0)]  # 30 of this one, 80 of the other
    for _ in range(9):  # shares are estimates
        book.add_part(0, 0.25, 10.0)
    assert watch.seconds[-1] == pytest.approx((2 * 0.05 + 4) * 100 / 1.9)
    book.add([done(0, elapsed=100.0)])
    assert watch.seconds[-1] == pytest.approx(200.0)  # as if there had been no parts


def test_a_killed_pack_is_named():
    jobs = [job(0, seed=7), job(1, MATA)]
    book = ledger(jobs)
    next(book.waiting([(jobs[0],)]))
    book.give_up_current()
    assert book.failed[FCN].seed == 7
    assert "its process was killed" in book.failed[FCN].sentence()
    assert [pack[0].number for pack in book.waiting(singles(jobs))] == [1]


def test_results_come_by_number():
    jobs = [job(0), job(1, MATA), job(2)]
    book = ledger(jobs)
    book.add([done(2), done(1), done(0)])
    assert [task.number for task, _ in book.of(FCN)] == [0, 2]


def test_a_spec_without_a_head_is_a_network():
    assert schedule.is_linear(SimpleNamespace(settings={"head": "lda"}))
    assert not schedule.is_linear(SimpleNamespace(settings={"fusion": "mata"}))
