"""Folds times systems: every clip is predicted by models that never saw it.

Here the columns meet: the dataset says what was heard, the table of systems what is learned. One
job is one training: a system on its encoders, one fold, one seed. Everything that is fitted sees
the training part of the fold only; the test part is looked at once, to be predicted.

The longest jobs start first, so that no core waits at the end. A training that fails takes its
system out of the table, with its reason; the others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from nver import systems as table_of_systems
from nver.dataset import EmbeddingDataset
from nver.errors import EvaluationError, SettingsError
from nver.jobs import Data, Job, Outcome, SystemRun, Systems, execute
from nver.predictions import Predictions, SystemEntry, SystemFailure, SystemNote, scores
from nver.splits import Fold

__all__ = ["Predictions", "SystemRun", "cross_validate", "scores"]

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how much is done, and the total."""

KILLED = "its process was killed, most often for want of memory"


class _Ledger:
    """Which jobs are planned, done and given up."""

    def __init__(self, jobs: Sequence[Job], progress: Progress | None) -> None:
        self.jobs = {job.number: job for job in jobs}
        self.outcomes: dict[int, Outcome] = {}
        self.failed: dict[SystemRun, SystemFailure] = {}
        self._progress = progress
        self._left = Counter(job.run for job in jobs)
        self._current = jobs[0]
        self._report()

    def waiting(self) -> Iterator[Job]:
        """Yield the jobs left; a run that has failed once is not trained again."""
        for job in self.jobs.values():
            if job.run not in self.failed and job.number not in self.outcomes:
                self._current = job
                yield job

    def add(self, outcome: Outcome) -> None:
        """Note a finished job."""
        run = self.jobs[outcome.number].run
        if outcome.failure is not None:
            self.failed.setdefault(run, outcome.failure)
        self.outcomes[outcome.number] = outcome
        self._left[run] = 0 if run in self.failed else self._left[run] - 1
        self._report()

    def give_up_current(self) -> None:
        """Note that the process of the one job under way was killed."""
        job = self._current
        failure = SystemFailure(job.run.name, job.run.encoders, job.fold.name, job.seed, KILLED)
        self.add(Outcome(job.number, {}, {}, (), failure))

    def of(self, run: SystemRun) -> list[tuple[Job, Outcome]]:
        """Return the finished jobs of a run by seed and fold."""
        mine = sorted(n for n in self.outcomes if self.jobs[n].run == run)
        return [(self.jobs[number], self.outcomes[number]) for number in mine]

    def _report(self) -> None:
        if self._progress:
            self._progress("trainings", len(self.jobs) - self._left.total(), len(self.jobs))


def cross_validate(
    dataset: EmbeddingDataset,
    runs: Sequence[SystemRun],
    folds: Sequence[Fold],
    *,
    seeds: Sequence[int] = (0,),
    jobs: int | None = None,
    progress: Progress | None = None,
    systems: Systems | ModuleType = table_of_systems,
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
        Called as ``progress("trainings", done, total)``.
    systems : module or object
        The table of systems.

    Returns
    -------
    Predictions
        Systems that failed are in its ``failures`` only.

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
    planned = _plan(dataset, runs, folds, tuple(dict.fromkeys(seeds)), systems)
    data = Data(dataset.X, dataset.y, dataset.speakers, dict(dataset.views), dataset.labels)
    ledger = _Ledger(planned, progress)
    _train(ledger, min(jobs or _cores(), len(planned)), data, systems)
    if len(ledger.failed) == len(runs):
        first = ledger.failed[runs[0]]
        raise EvaluationError(f"No system could be evaluated. {first.sentence()}")
    return _collect(dataset, runs, ledger, systems)


def _train(ledger: _Ledger, processes: int, data: Data, systems: Any) -> None:
    """Do the jobs; after a process was killed, go on with one at a time to find the culprit."""
    alone = False
    while True:
        try:
            with closing(execute(ledger.waiting(), processes, data, systems, alone)) as finished:
                for outcome in finished:
                    ledger.add(outcome)
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


def _plan(
    dataset: EmbeddingDataset,
    runs: Sequence[SystemRun],
    folds: Sequence[Fold],
    seeds: tuple[int, ...],
    systems: Any,
) -> list[Job]:
    """Return the jobs, numbered by run, seed and fold, the longest first."""
    jobs: list[Job] = []
    costs: list[float] = []
    for run in runs:
        spec = systems.get_system(run.name)
        width = sum(dataset.view(name).shape[1] for name in run.encoders)
        # A rough duration: only the order of the jobs depends on it.
        cost = 1.0 if _linear(spec) else 20.0 if "cnn" in spec.settings.values() else 5.0
        for seed in seeds[:1] if _linear(spec) else seeds:
            for fold in folds:
                jobs.append(Job(len(jobs), run, spec.rules, fold, seed))
                costs.append(cost * width * len(spec.rules) * len(fold.train))
    return [jobs[index] for index in np.argsort(costs, kind="stable")[::-1]]


def _linear(spec: Any) -> bool:
    return spec.settings.get("head") in ("lda", "logreg")


def _cores() -> int:
    from joblib import cpu_count

    return int(cpu_count())


def _collect(
    dataset: EmbeddingDataset, runs: Sequence[SystemRun], ledger: _Ledger, systems: Any
) -> Predictions:
    """Return the record, ordered by run, rule, seed, fold and clip."""
    tables: list[pd.DataFrame] = []
    entries: list[SystemEntry] = []
    notes: list[SystemNote] = []
    for run in runs:
        if run in ledger.failed:
            continue
        spec, finished = systems.get_system(run.name), ledger.of(run)
        said = Counter(text for _, outcome in finished for text in outcome.notes)
        notes += [SystemNote(run.name, run.encoders, text, n) for text, n in said.items()]
        for rule in spec.rules:
            seconds = sum(outcome.seconds[rule] for _, outcome in finished)
            entry = SystemEntry(spec.reported_as(rule), run.encoders, seconds)
            entries.append(entry)
            tables += [
                _rows(dataset, entry, job, outcome.probabilities[rule]) for job, outcome in finished
            ]
    return Predictions(
        frame=pd.concat(tables, ignore_index=True),
        labels=dataset.labels,
        entries=tuple(entries),
        failures=tuple(ledger.failed[run] for run in runs if run in ledger.failed),
        notes=tuple(notes),
    )


def _rows(
    dataset: EmbeddingDataset, entry: SystemEntry, job: Job, probabilities: np.ndarray
) -> pd.DataFrame:
    test = np.sort(job.fold.test).tolist()
    speakers = dataset.speakers
    best = probabilities.argmax(axis=1).tolist()
    columns: dict[str, Any] = {
        "clip": [dataset.digests[row] for row in test],
        "file": [dataset.files[row] for row in test],
        "speaker": [None if speakers is None else _text(speakers[row]) for row in test],
        "label": [str(dataset.y[row]) for row in test],
        "system": entry.name,
        "encoders": entry.joined,
        "seed": job.seed,
        "fold": job.fold.name,
        "predicted": [dataset.labels[place] for place in best],
    }
    columns |= {f"p_{label}": probabilities[:, i] for i, label in enumerate(dataset.labels)}
    return pd.DataFrame(columns)


def _text(speaker: object) -> str | None:
    return None if speaker is None else str(speaker)
