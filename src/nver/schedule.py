"""Which trainings there are, which belong together, in what order they start, and which are done.

Jobs that share a system and its encoders differ in their clips and seeds only: they have one shape,
and form packs that are trained at once where that pays (`pack_size`). The longest packs start
first, so that no core waits at the end; what has been measured corrects what was guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from nver.jobs import Data, Job, SystemRun
from nver.predictions import SystemFailure
from nver.progress import Expectation, Progress, TimedProgress
from nver.splits import Fold

LINEAR = ("lda", "logreg")
DENSE_AT_ONCE = 8
EVERYTHING = 10**9
MOST_DONE = 0.95
"""Share of a task that can be done before it has ended: shares are estimates."""

KILLED = "its process was killed, most often for want of memory"


@runtime_checkable
class Task(Protocol):
    """What the ledger knows of a task."""

    @property
    def number(self) -> int:
        """Its name."""

    @property
    def run(self) -> SystemRun:
        """What it is for; where one task of a run fails, the others are not worth doing."""

    @property
    def fold(self) -> Fold:
        """Where."""

    @property
    def seed(self) -> int:
        """Under which seed."""

    @property
    def cost(self) -> float:
        """A rough duration."""


@runtime_checkable
class Result(Protocol):
    """What the ledger knows of a finished task."""

    @property
    def number(self) -> int:
        """Of the task."""

    @property
    def failure(self) -> SystemFailure | None:
        """Why there is nothing else."""

    @property
    def elapsed(self) -> float:
        """Seconds of one process."""


AnyTask = TypeVar("AnyTask", bound=Task)
AnyResult = TypeVar("AnyResult", bound=Result)


def is_linear(spec: Any) -> bool:
    """Return whether a system has no chance in it: one seed is then as good as many."""
    return spec.settings.get("head") in LINEAR


def plan(
    data: Data,
    runs: Sequence[SystemRun],
    folds: Sequence[Fold],
    seeds: Sequence[int],
    systems: Any,
    inner: Mapping[str, Sequence[Fold]] | None = None,
    device: str = "cpu",
) -> list[Job]:
    """Return the jobs, numbered by run, seed and fold; linear systems get the first seed only.

    Where clips are coupled, so that there are two rules, the first job is asked for example plans.
    `inner` has folds of the training part of each fold, by its name: they become jobs too.
    """
    jobs: list[Job] = []
    for run in runs:
        spec = systems.get_system(run.name)
        for seed in seeds[:1] if is_linear(spec) else seeds:
            for fold in folds:
                plans = len(spec.rules) > 1 and seed == seeds[0] and fold is folds[0]
                for part in (fold, *(inner or {}).get(fold.name, ())):
                    job = Job(
                        len(jobs),
                        run,
                        spec.rules,
                        part,
                        seed,
                        rough_cost(spec, run, data, part),
                        plans=plans and part is fold,
                        outer=None if part is fold else fold.name,
                        device=device,
                    )
                    jobs.append(job)
    return jobs


def rough_cost(spec: Any, run: SystemRun, data: Data, fold: Fold) -> float:
    """Return a rough duration, in no unit: only the order of the first tasks depends on it."""
    kind = 1.0 if is_linear(spec) else 20.0 if "cnn" in spec.settings.values() else 5.0
    views = [(data.views[name], data.layers.get(name, 1)) for name in run.encoders]
    width = sum((view.stop - view.start) / layers for view, layers in views)
    return float(kind * width * len(spec.rules) * len(fold.train))


def pack_size(settings: Mapping[str, Any], device: str = "cpu") -> int:
    """Return how many jobs of a system are best trained at once.

    Dense networks on a CPU take half the time a step in packs of eight (bench/training.py).
    Convolutions would gain a seventh, but take so long that each is better saved by itself; linear
    systems gain nothing. On a GPU the more the better: `nver.training` cuts
    what does not fit into its memory.
    """
    if settings.get("head") in LINEAR or "choose" in settings:
        return 1
    if device != "cpu":
        return EVERYTHING
    return 1 if "cnn" in settings.values() else DENSE_AT_ONCE


def make_packs(jobs: Sequence[Job], processes: int, systems: Any) -> list[tuple[Job, ...]]:
    """Return the jobs in packs of one system and its encoders.

    No pack is longer than half of what each process has to do, and each system's packs can be
    shared out evenly: no process waits long at the end. A table that cannot train several models at
    once (`nver.jobs.Systems`) gets packs of one.
    """
    groups: dict[SystemRun, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.run, []).append(job)
    share = sum(job.cost for job in jobs) / processes
    together = hasattr(systems, "fit_many")
    packs = []
    for run, group in groups.items():
        # Neighbours in cost keep a pack's members alike, and those of one fold share their clips.
        group.sort(key=lambda job: (job.cost, job.outer or "", job.fold.name))
        settings = systems.get_system(run.name).settings
        size = pack_size(settings, group[0].device) if together else 1
        if processes > 1:
            size = min(size, int(share / 2 / max(group[-1].cost, 1e-12)))
        count = math.ceil(len(group) / max(size, 1))
        count = min(len(group), math.ceil(count / processes) * processes)
        edges = [len(group) * i // count for i in range(count + 1)]
        packs += [tuple(group[a:b]) for a, b in pairwise(edges)]
    return packs


class Ledger(Generic[AnyTask, AnyResult]):
    """Which tasks are planned, done and given up, and how long the rest will take.

    Parameters
    ----------
    what : str
        What the tasks are called in the progress.
    tasks : sequence of Task
        All of them, those of an earlier run too.
    failed : mapping of SystemRun to SystemFailure
        Runs that have failed before this.
    progress : Progress or None
    processes : int
        For the time left.
    """

    def __init__(
        self,
        what: str,
        tasks: Sequence[AnyTask],
        failed: Mapping[SystemRun, SystemFailure],
        progress: Progress | None,
        processes: int,
    ) -> None:
        self.what = what
        self.tasks = {task.number: task for task in tasks}
        self.results: dict[int, AnyResult] = {}
        self.failed = dict(failed)
        self._progress = progress
        self._processes = processes
        self._left = Counter(task.run for task in tasks if task.run not in failed)
        self._expected = Expectation()
        self._current: tuple[AnyTask, ...] = ()
        self._parts: dict[int, tuple[float, float]] = {}

    def waiting(self, packs: Iterable[tuple[AnyTask, ...]]) -> Iterator[tuple[AnyTask, ...]]:
        """Yield the packs that are left, the longest first.

        A run that has failed once is not trained again. What has been measured while earlier packs
        were under way changes the order. Nothing is under way any more where this is called again.
        """
        self._parts.clear()
        queues: dict[SystemRun, list[tuple[AnyTask, ...]]] = {}
        for pack in sorted(packs, key=_cost):
            queues.setdefault(pack[0].run, []).append(pack)
        while queues := {run: q for run, q in queues.items() if q and run not in self.failed}:
            longest = max(queues, key=lambda run: self._seconds(queues[run][-1]))
            pack = tuple(task for task in queues[longest].pop() if task.number not in self.results)
            if pack:
                self._current = pack
                yield pack

    def add(self, results: Iterable[AnyResult]) -> None:
        """Note finished tasks."""
        for result in results:
            task = self.tasks[result.number]
            if result.failure is not None:
                self.failed.setdefault(task.run, result.failure)
            else:
                done, spent = self._parts.pop(task.number, (0.0, 0.0))
                rest = max(result.elapsed - spent, 0.0)
                self._expected.learn(task.run, task.cost * (1 - done), rest)
            self.results[result.number] = result
            self._left[task.run] = 0 if task.run in self.failed else self._left[task.run] - 1
        self.report()

    def add_part(self, number: int, share: float, elapsed: float) -> None:
        """Note that about this share of a task is done, and the seconds that it took."""
        task = self.tasks[number]
        done, spent = self._parts.get(number, (0.0, 0.0))
        share = min(share, MOST_DONE - done)
        self._parts[number] = done + share, spent + elapsed
        self._expected.learn(task.run, task.cost * share, elapsed)
        self.report()

    def give_up_current(self) -> None:
        """Note that the process of the one pack under way was killed."""
        task = self._current[0]
        run = task.run
        failure = SystemFailure(run.name, run.encoders, task.fold.name, task.seed, KILLED)
        self.failed.setdefault(run, failure)
        self._left[run] = 0
        self.report()

    def of(self, run: SystemRun) -> list[tuple[AnyTask, AnyResult]]:
        """Return the finished tasks of a run in the order of their numbers."""
        mine = sorted(number for number in self.results if self.tasks[number].run == run)
        return [(self.tasks[number], self.results[number]) for number in mine]

    def report(self) -> None:
        """Tell the progress how far it has come, and the time left if it wants to know."""
        progress, total = self._progress, len(self.tasks)
        if progress is None or not total:
            return
        if isinstance(progress, TimedProgress):
            left = self._time_left()
            if left is not None:
                progress.time_left(self.what, left)
        progress(self.what, total - self._left.total(), total)

    def _time_left(self) -> float | None:
        open_tasks = [
            (task.run, task.cost * (1 - self._parts.get(number, (0.0, 0.0))[0]))
            for number, task in self.tasks.items()
            if number not in self.results and task.run not in self.failed
        ]
        return self._expected.left(open_tasks, self._processes)

    def _seconds(self, pack: tuple[AnyTask, ...]) -> float:
        return sum(self._expected.seconds(task.run, task.cost) for task in pack)


def _cost(pack: tuple[Task, ...]) -> float:
    return sum(task.cost for task in pack)
