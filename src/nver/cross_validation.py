"""Folds times systems: every clip is predicted by models that never saw it.

Here the columns meet: the dataset says what was heard, the table of systems what is learned. One
job is one training: a system on its encoders, one fold, one seed. Everything that is fitted or
chosen sees the training part of the fold only; the test part is looked at once, to be predicted.

With a folder for them, finished trainings are saved one by one, and found again by whoever asks for
the same numbers (`nver.trainings`). A training that fails takes its system out of the table, with
its reason; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nver import systems as table_of_systems
from nver.dataset import EmbeddingDataset
from nver.errors import EvaluationError, SettingsError
from nver.finished import Finished
from nver.jobs import Data, Job, Outcome, SystemRun, Systems, train_pack
from nver.predictions import Predictions, SystemFailure
from nver.processes import stream
from nver.progress import Progress
from nver.record import record
from nver.schedule import AnyResult, AnyTask, Ledger, make_packs, plan, rough_cost
from nver.splits import Fold
from nver.trainings import SavedTrainings
from nver.tuning import (
    Attempt,
    Choice,
    Search,
    check_tuning,
    inner_folds,
    search_pack,
    to_search,
    with_choice,
)

__all__ = ["Predictions", "SystemRun", "calibration_folds", "cross_validate"]

CALIBRATION_FOLDS = 3
"""Of each training part; a model of two thirds of it is close to the one that is calibrated."""


def cross_validate(  # noqa: PLR0913 - all but the first three are named
    dataset: EmbeddingDataset,
    runs: Sequence[SystemRun],
    folds: Sequence[Fold],
    *,
    seeds: Sequence[int] = (0,),
    jobs: int | None = None,
    progress: Progress | None = None,
    systems: Systems | ModuleType = table_of_systems,
    saved: Path | None = None,
    tune: int | None = None,
    inner: Mapping[str, Sequence[Fold]] | None = None,
    perturbed: Mapping[str, np.ndarray] | None = None,
    device: str = "cpu",
) -> Predictions:
    """Train every system on every fold, and predict the clips that were left out.

    Parameters
    ----------
    dataset : EmbeddingDataset
        The clips.
    runs : sequence of SystemRun
        What is compared; a run that is given twice is done once.
    folds : sequence of Fold
        From `nver.splits.make_folds`; check them with `nver.leakage.check_leakage` first.
    seeds : sequence of int
        One training of each neural system per seed. Linear systems have no chance in them: they are
        trained once, under the first seed.
    jobs : int or None
        Number of processes, from 1; None means one per core. With 1 everything runs in this
        process.
    progress : callable or None
        Called as ``progress("trainings", done, total)``. If it has a method ``time_left``, it is
        told the seconds that are left as well (`nver.progress.TimedProgress`).
    systems : module or object
        The table of systems.
    saved : Path or None
        Folder in which finished trainings are saved as they finish, and looked up before they are
        done again; None saves nothing. With a table of systems of your own, a system's name and
        ``settings`` must say all that decides its numbers.
    tune : int or None
        Settings to try for each neural system in each fold, inside its training part
        (`nver.tuning`), and of encoders whose views hold several layers (``dataset.layers``) the
        layer that every system is given in place of all; None takes the systems and the views as
        they are. Its progress counts "searches".
    inner : mapping of str to sequence of Fold, optional
        Name of a fold to folds of its training part (`calibration_folds`): they are trained and
        predicted too, into ``tables["inner"]``.
    perturbed : mapping of str to float32 [clips, dim], optional
        Embeddings of perturbed clips, like the dataset's X, by what was done to them; NaN where a
        clip has none. The test clips are predicted from them too, into ``tables["perturbed"]``.
    device : {"cpu", "cuda"}
        Where networks are trained. On a GPU all trainings of a system are one pack, in this
        process; searches (`tune`) stay on the CPU.

    Returns
    -------
    Predictions
        Systems that failed are in its ``failures`` only; ``tables`` as in `nver.record.record`.

    Raises
    ------
    UnknownNameError
        If a system or an encoder is unknown.
    EvaluationError
        If a clip is tested twice, or every system failed.
    SettingsError
        If there is nothing to do.
    """
    runs = tuple(dict.fromkeys(runs))
    _check(dataset, runs, folds, seeds, jobs)
    check_device(device)
    if tune is not None:
        check_tuning(tune)
    layers = {} if tune is None else dict(dataset.layers)
    data = replace(_data(dataset), perturbed=dict(perturbed or {}), layers=layers)
    grid = _Grid(
        runs,
        tuple(folds),
        tuple(dict.fromkeys(seeds)),
        data,
        systems,
        Finished(None if saved is None else SavedTrainings(saved), data, systems),
        jobs or _cores(),
        progress,
        inner or {},
        device,
    )
    searches = None if tune is None else grid.search(tune)
    ledger = grid.train(searches)
    if len(ledger.failed) == len(runs):
        first = ledger.failed[runs[0]]
        raise EvaluationError(f"No system could be evaluated. {first.sentence()}")
    return record(dataset, runs, ledger, searches, systems)


def calibration_folds(
    dataset: EmbeddingDataset, folds: Sequence[Fold]
) -> tuple[dict[str, tuple[Fold, ...]], tuple[str, ...]]:
    """Divide the training part of every fold into three, so that its clips can be predicted too.

    Whole speakers where they are known, two parts where there are too few of them.

    Returns
    -------
    inner : dict of str to tuple of Fold
        By name of the outer fold; one that cannot be divided is absent.
    sentences : tuple of str
        Which are absent, if any.
    """
    data = _data(dataset)
    made = {fold.name: inner_folds(data, fold.train, CALIBRATION_FOLDS, True)[0] for fold in folds}
    lacking = [f"'{name}'" for name, parts in made.items() if not parts]
    if not lacking:
        return made, ()
    sentence = (
        f"The training part of fold {', '.join(lacking)} cannot be divided by speaker so that "
        "every class stands on both sides: its predictions are not calibrated."
    )
    return {name: parts for name, parts in made.items() if parts}, (sentence,)


def _data(dataset: EmbeddingDataset) -> Data:
    views = dict(dataset.views)
    return Data(dataset.X, dataset.y, dataset.speakers, views, dataset.labels, dataset.digests)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Everything that is to be done, and with what."""

    runs: tuple[SystemRun, ...]
    folds: tuple[Fold, ...]
    seeds: tuple[int, ...]
    data: Data
    systems: Any
    finished: Finished
    processes: int
    progress: Progress | None
    inner: Mapping[str, Sequence[Fold]]
    device: str

    def search(self, trials: int) -> Ledger[Search, Choice]:
        """Choose settings for each fold of each system that has some to choose."""
        searches: list[Search] = []
        for run in self.runs:
            spec = self.systems.get_system(run.name)
            for fold in self.folds if to_search(run, self.data, self.systems) else ():
                cost = rough_cost(spec, run, self.data, fold)
                place = (len(searches), run, spec.rules[0], fold, self.seeds[0])
                searches.append(Search(*place, cost, trials))
        ledger: Ledger[Search, Choice] = Ledger(
            "searches", searches, {}, self.progress, self.processes
        )
        finished = self.finished
        packs = [(search,) for search in searches]
        ways = (finished.choice, finished.keep_choice)
        self._work(ledger, search_pack, packs, *ways, self.processes)
        return ledger

    def train(self, searches: Ledger[Search, Choice] | None) -> Ledger[Job, Outcome]:
        """Do the trainings, with the settings that the searches have chosen."""
        planned = plan(
            self.data, self.runs, self.folds, self.seeds, self.systems, self.inner, self.device
        )
        failed: Mapping[SystemRun, SystemFailure] = {}
        if searches is not None:
            failed = searches.failed
            found = {
                (search.run, search.fold.name): choice.tuning
                for run in self.runs
                for search, choice in searches.of(run)
            }
            planned = [
                with_choice(
                    job,
                    found.get((job.run, job.outer or job.fold.name)),
                    self.data,
                    self.systems,
                )
                for job in planned
            ]
        processes = self.processes if self.device == "cpu" else 1
        ledger: Ledger[Job, Outcome] = Ledger(
            "trainings", planned, failed, self.progress, processes
        )
        packs = make_packs(planned, processes, self.systems)
        finished = self.finished
        self._work(ledger, train_pack, packs, finished.outcome, finished.keep_outcome, processes)
        return ledger

    def _work(
        self,
        ledger: Ledger[AnyTask, AnyResult],
        work: Callable[[Sequence[AnyTask], Data, Any], Generator[AnyResult | Attempt, None, None]],
        packs: Sequence[tuple[AnyTask, ...]],
        find: Callable[[AnyTask], AnyResult | None],
        keep: Callable[[AnyTask, Any], None],
        processes: int,
    ) -> None:
        """Take what was finished before, and do the rest.

        After a process was killed, go on with one pack at a time to find the culprit; a search goes
        on from the last training that has arrived.
        """
        found = (find(task) for task in ledger.tasks.values())
        ledger.add([result for result in found if result is not None])
        processes = min(processes, max(1, len(ledger.tasks) - len(ledger.results)))
        alone = False

        def arrived(result: AnyResult | Attempt) -> None:
            task = ledger.tasks[result.number]
            keep(task, result)
            if isinstance(result, Attempt):
                share = 1 / task.trainings if isinstance(task, Search) else 0.0
                ledger.add_part(result.number, share, result.elapsed)
            else:
                ledger.add([result])

        while True:
            waiting = (tuple(map(self.finished.resumed, pack)) for pack in ledger.waiting(packs))
            try:
                stream(work, waiting, processes, self.data, self.systems, arrived, alone)
            except BrokenProcessPool:
                if alone:
                    ledger.give_up_current()
                alone = True
            else:
                return


def _check(
    dataset: EmbeddingDataset,
    runs: Sequence[SystemRun],
    folds: Sequence[Fold],
    seeds: Sequence[int],
    jobs: int | None,
) -> None:
    if not runs or not folds or not seeds:
        raise SettingsError(
            f"Expected at least one system, fold and seed, got {len(runs)}, {len(folds)} and "
            f"{len(seeds)}."
        )
    if jobs is not None and jobs < 1:
        raise SettingsError(f"Expected at least one process, got {jobs}.")
    for encoder in dict.fromkeys(name for run in runs for name in run.encoders):
        dataset.view(encoder)
    times = np.bincount(np.concatenate([fold.test for fold in folds]))
    if times.max() > 1:
        raise EvaluationError(
            "Expected folds that test every clip at most once, but "
            f"'{dataset.files[times.argmax()]}' is tested {times.max()} times."
        )


def check_device(device: str) -> None:
    """Refuse a device that is unknown or not there.

    Raises
    ------
    SettingsError
    """
    if device == "cpu":
        return
    if device != "cuda":
        raise SettingsError(f"Networks are trained on 'cpu' or 'cuda', got '{device}'.")
    import torch

    if not torch.cuda.is_available():
        raise SettingsError(
            "PyTorch finds no CUDA device here. Use --device cpu, or install a CUDA build of "
            "PyTorch on a machine with a GPU."
        )


def _cores() -> int:
    from joblib import cpu_count

    return int(cpu_count())
