"""Packs of trainings, each in one thread, and many of them side by side in processes.

Small trainings gain nothing from threads, and lose much to threads that wait for each other: each
pack computes with one, and the cores are used by as many processes. The embeddings are mapped into
the processes, not sent with each pack. A job's numbers depend neither on the number of processes
nor on its pack.
"""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from nver.errors import EvaluationError
from nver.predictions import SystemFailure
from nver.splits import Fold

Task = TypeVar("Task")
Result = TypeVar("Result")


@runtime_checkable
class Systems(Protocol):
    """A table of systems; the module `nver.systems` is one.

    It may have more: ``build(..., chosen=...)`` and ``space(name)`` where systems can be tuned, and
    ``fit_many(models, parts)``, which trains several models of one system at once.
    """

    COUPLINGS: Mapping[str, str | None]

    def get_system(self, name: str) -> Any:
        """Return the facts of a system."""

    def build(self, name: str, views: Mapping[str, slice], seed: int) -> Any:
        """Return an untrained estimator."""


@dataclass(frozen=True)
class SystemRun:
    """A system and the encoders that it gets, in order."""

    name: str
    encoders: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Data:
    """What every job needs of the dataset; large arrays are mapped into the processes."""

    X: np.ndarray
    y: np.ndarray
    speakers: np.ndarray | None
    views: Mapping[str, slice]
    labels: tuple[str, ...]
    digests: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """One training: a system on its encoders, one fold, one seed; judged by each of `rules`.

    Parameters
    ----------
    number : int
        Its name.
    run, rules, fold, seed
        What is trained, and on what.
    cost : float
        A rough duration, to be compared with those of other jobs.
    chosen : mapping of str to float
        Settings that take the place of the system's own.
    """

    number: int
    run: SystemRun
    rules: tuple[str, ...]
    fold: Fold
    seed: int
    cost: float = 1.0
    chosen: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a job returns for each evaluation rule, or why it failed.

    Parameters
    ----------
    number : int
        Of the job.
    probabilities : mapping of str to float32 [test clips, labels]
        By rule; the test clips in ascending order.
    seconds : mapping of str to float
        By rule: training, and prediction by this rule.
    notes : tuple of str
        Warnings, each once.
    failure : SystemFailure or None
        Then everything else is empty.
    elapsed : float
        Seconds of one process, the training counted once; its share in those of its pack.
    """

    number: int
    probabilities: Mapping[str, np.ndarray]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    failure: SystemFailure | None = None
    elapsed: float = 0.0


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A trained estimator, how long that took, and what it said."""

    model: Any
    seconds: float
    notes: tuple[str, ...] = ()


def execute(
    work: Callable[[Task, Data, Any], Result],
    waiting: Iterable[Task],
    processes: int,
    data: Data,
    systems: Any,
    alone: bool = False,
) -> Generator[Result, None, None]:
    """Yield ``work(task, data, systems)`` as it comes; closing the iterator stops the processes.

    With `alone`, one task is under way at a time, still in a process of its own.

    Raises
    ------
    BrokenProcessPool
        If a process was killed from outside.
    """
    if processes == 1:
        for task in waiting:
            yield work(task, data, systems)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", n_jobs=processes, inner_max_num_threads=1, max_nbytes="1M"):
        ahead = 1 if alone else "2 * n_jobs"
        parallel = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=ahead)
    results = parallel(delayed(work)(task, data, systems) for task in waiting)
    try:
        yield from results
    finally:
        with warnings.catch_warnings():
            # On Ctrl-C joblib warns that it stops jobs, which is what was asked for.
            warnings.simplefilter("ignore")
            results.close()
            _stop_processes()


def _stop_processes() -> None:
    """End joblib's processes now: idle ones would hold up the exit of the program."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


def train_pack(pack: Sequence[Job], data: Data, systems: Any) -> tuple[Outcome, ...]:
    """Train and predict the jobs of a pack; an error becomes the failure of one job.

    Where a pack cannot be trained at once, because the table of systems knows no way or because a
    member fails, its members are trained one by one.
    """
    with one_thread():
        fitted = _fit_together(pack, data, systems) if len(pack) > 1 else {}
        return tuple(_outcome(job, data, systems, fitted.get(job.number)) for job in pack)


def failure_of(run: SystemRun, fold: str, seed: int, error: Exception) -> SystemFailure:
    """Return an error, caught where it arose, as the failure of a system."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return SystemFailure(run.name, run.encoders, fold, seed, reason, traceback.format_exc())


def _outcome(job: Job, data: Data, systems: Any, fitted: _Fitted | None) -> Outcome:
    """Train, unless that is done, and predict."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fitted = fitted or _fit(job, data, systems)
            probabilities, seconds, elapsed = _predict(job, fitted, data, systems)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other systems go on
            failure = failure_of(job.run, job.fold.name, job.seed, error)
            return Outcome(job.number, {}, {}, (), failure)
    notes = tuple(dict.fromkeys((*fitted.notes, *_said(caught))))
    return Outcome(job.number, probabilities, seconds, notes, elapsed=elapsed)


def _said(caught: Sequence[warnings.WarningMessage]) -> Iterator[str]:
    for warning in caught:
        yield " ".join(f"{warning.category.__name__}: {warning.message}".split())


def fit_and_predict(
    job: Job, data: Data, systems: Any
) -> tuple[dict[str, np.ndarray], dict[str, float], float]:
    """Return probabilities [test clips, labels] and seconds of each rule, and seconds of all."""
    return _predict(job, _fit(job, data, systems), data, systems)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that speed and numbers do not depend on the number of jobs."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    with threadpool_limits(limits=1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def _fit(job: Job, data: Data, systems: Any) -> _Fitted:
    clock = time.perf_counter()
    model = _untrained(job, data, systems)
    X, y, groups = _training_part(job, data)
    model.fit(X, y, groups=groups)
    return _Fitted(model, time.perf_counter() - clock)


def _fit_together(pack: Sequence[Job], data: Data, systems: Any) -> dict[int, _Fitted]:
    """Return the members of a pack by number; none where they must be trained one by one."""
    fit_many = getattr(systems, "fit_many", None)
    if fit_many is None:
        return {}
    clock = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            models = [_untrained(job, data, systems) for job in pack]
            fit_many(models, [_training_part(job, data) for job in pack])
        except Exception:  # noqa: BLE001 - trained alone, it fails again, and alone
            return {}
    seconds = (time.perf_counter() - clock) / len(pack)
    # Nobody knows which member a warning speaks of: it is told once, by the first.
    notes = [tuple(_said(caught)), *[()] * (len(pack) - 1)]
    return {
        job.number: _Fitted(model, seconds, said)
        for job, model, said in zip(pack, models, notes, strict=True)
    }


def _untrained(job: Job, data: Data, systems: Any) -> Any:
    views, _ = _cut(data.views, job.run.encoders)
    chosen = {"chosen": job.chosen} if job.chosen else {}
    return systems.build(job.run.name, views, job.seed, **chosen)


def _training_part(job: Job, data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return X, y and the speakers that a job may learn from."""
    train = job.fold.train
    _, parts = _cut(data.views, job.run.encoders)
    groups = None if data.speakers is None else data.speakers[train]
    return _columns(data.X, train, parts), data.y[train], groups


def _predict(
    job: Job, fitted: _Fitted, data: Data, systems: Any
) -> tuple[dict[str, np.ndarray], dict[str, float], float]:
    """Return probabilities (test clips sorted) and seconds of each evaluation rule, and of all."""
    # The test clips come in a shuffled order: a transductive system couples neighbours, and in the
    # order of a corpus neighbours share their speaker or even their label.
    test = np.random.default_rng(job.seed).permutation(job.fold.test)
    _, parts = _cut(data.views, job.run.encoders)
    model = fitted.model
    probabilities, seconds, elapsed = {}, {}, fitted.seconds
    inputs = _columns(data.X, test, parts)
    for rule in job.rules:
        clock = time.perf_counter()
        coupling = systems.COUPLINGS[rule]
        asked = {} if coupling is None else {"coupling": coupling}
        given = model.predict_proba(inputs, **asked)
        aligned = _aligned(given, model.classes_.tolist(), data.labels, len(test))
        probabilities[rule] = aligned[np.argsort(test)]
        spent = time.perf_counter() - clock
        seconds[rule] = fitted.seconds + spent
        elapsed += spent
    return probabilities, seconds, elapsed


def _cut(
    views: Mapping[str, slice], encoders: Sequence[str]
) -> tuple[dict[str, slice], list[slice]]:
    """Return the views of an X that holds these encoders only, and their columns in the whole X."""
    parts = [views[name] for name in encoders]
    ends = np.cumsum([0, *(part.stop - part.start for part in parts)]).tolist()
    own = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(encoders)}
    return own, parts


def _columns(X: np.ndarray, rows: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
    return np.concatenate([np.asarray(X[:, part][rows]) for part in parts], axis=1)


def _aligned(
    given: np.ndarray, classes: Sequence[str], labels: tuple[str, ...], clips: int
) -> np.ndarray:
    """Return probabilities [clips, labels]; a class that was not in the training part has 0."""
    if given.shape != (clips, len(classes)):
        raise EvaluationError(
            f"it returned probabilities {list(given.shape)}, expected {[clips, len(classes)]}"
        )
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise EvaluationError("it returned probabilities that are NaN, infinite or negative")
    if not np.allclose(given.sum(axis=1), 1.0, atol=1e-3):
        raise EvaluationError("it returned probabilities that do not add up to 1")
    aligned = np.zeros((clips, len(labels)), dtype=np.float32)
    aligned[:, [labels.index(label) for label in classes]] = given
    return aligned
