"""One training at a time in one thread, and many of them side by side in processes.

Small trainings gain nothing from threads, and lose much to threads that wait for each other: each
job computes with one, and the cores are used by as many processes. The embeddings are mapped into
the processes, not sent with each job. A job's numbers do not depend on the number of processes.
"""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nver.errors import EvaluationError
from nver.predictions import SystemFailure
from nver.splits import Fold


@runtime_checkable
class Systems(Protocol):
    """A table of systems; the module `nver.systems` is one."""

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


@dataclass(frozen=True, eq=False)
class Job:
    """One training: a system on its encoders, one fold, one seed; judged by each of `rules`."""

    number: int
    run: SystemRun
    rules: tuple[str, ...]
    fold: Fold
    seed: int


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
    """

    number: int
    probabilities: Mapping[str, np.ndarray]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    failure: SystemFailure | None = None


def execute(
    waiting: Iterable[Job], processes: int, data: Data, systems: Any, alone: bool = False
) -> Generator[Outcome, None, None]:
    """Yield outcomes as they come; closing the iterator stops the processes.

    With `alone`, one job is under way at a time, still in a process of its own.

    Raises
    ------
    BrokenProcessPool
        If a process was killed from outside.
    """
    if processes == 1:
        for job in waiting:
            yield work(job, data, systems)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", n_jobs=processes, inner_max_num_threads=1, max_nbytes="1M"):
        ahead = 1 if alone else "2 * n_jobs"
        parallel = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=ahead)
    results = parallel(delayed(work)(job, data, systems) for job in waiting)
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


def work(job: Job, data: Data, systems: Any) -> Outcome:
    """Train and predict once; an error becomes a failure, with its place."""
    with warnings.catch_warnings(record=True) as caught, _one_thread():
        warnings.simplefilter("always")
        try:
            probabilities, seconds = _fit_and_predict(job, data, systems)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other systems go on
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            run, fold = job.run, job.fold.name
            failure = SystemFailure(
                run.name, run.encoders, fold, job.seed, reason, traceback.format_exc()
            )
            return Outcome(job.number, {}, {}, (), failure)
    said = (f"{warning.category.__name__}: {warning.message}" for warning in caught)
    notes = dict.fromkeys(" ".join(text.split()) for text in said)
    return Outcome(job.number, probabilities, seconds, tuple(notes))


@contextmanager
def _one_thread() -> Iterator[None]:
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


def _fit_and_predict(
    job: Job, data: Data, systems: Any
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return probabilities (test clips sorted) and seconds of each evaluation rule."""
    views, parts = _cut(data.views, job.run.encoders)
    train = job.fold.train
    # The test clips come in a shuffled order: a transductive system couples neighbours, and in the
    # order of a corpus neighbours share their speaker or even their label.
    test = np.random.default_rng(job.seed).permutation(job.fold.test)
    clock = time.perf_counter()
    model = systems.build(job.run.name, views, job.seed)
    groups = None if data.speakers is None else data.speakers[train]
    model.fit(_columns(data.X, train, parts), data.y[train], groups=groups)
    fitted = time.perf_counter() - clock
    probabilities, seconds = {}, {}
    inputs = _columns(data.X, test, parts)
    for rule in job.rules:
        clock = time.perf_counter()
        coupling = systems.COUPLINGS[rule]
        asked = {} if coupling is None else {"coupling": coupling}
        given = model.predict_proba(inputs, **asked)
        aligned = _aligned(given, model.classes_.tolist(), data.labels, len(test))
        probabilities[rule] = aligned[np.argsort(test)]
        seconds[rule] = fitted + time.perf_counter() - clock
    return probabilities, seconds


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
