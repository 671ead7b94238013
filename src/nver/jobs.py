"""What one training gets and gives, and packs of them that are trained at once.

A job's numbers depend on its system, clips and seed alone, neither on the number of processes nor,
beyond rounding, on its pack.
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nver.columns import Cut, cut
from nver.errors import EvaluationError
from nver.predictions import SystemFailure
from nver.processes import one_thread
from nver.splits import Fold

EXAMPLE_CLIPS = 32
"""Test clips whose transport plans are kept as examples: a batch of the paper."""


@runtime_checkable
class Systems(Protocol):
    """A table of systems; the module `nver.systems` is one.

    It may have more: ``build(..., chosen=...)`` and ``space(name)`` where systems can be tuned,
    ``build(..., device=...)`` where they can be trained elsewhere than on the CPU, and
    ``fit_many(models, parts)``, which trains several models of one system at once, in place, and
    yields the place of each as it is trained. A model may have a ``history_``
    (`nver.training.History`), ``plans(X)`` (as `FusionClassifier` does) and ``said_``, sentences
    for the run's notes.
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
    """What every job needs of the dataset; large arrays are mapped into the processes.

    `perturbed` has other embeddings of the same clips, by what was done to these: arrays like `X`
    with NaN in the rows of clips that have none. They are predicted, and never learned from.
    `layers` has how many layers the views hold of which one is to be chosen (`nver.columns`).
    """

    X: np.ndarray
    y: np.ndarray
    speakers: np.ndarray | None
    views: Mapping[str, slice]
    labels: tuple[str, ...]
    digests: tuple[str, ...] | None = None
    perturbed: Mapping[str, np.ndarray] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)


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
    layers : mapping of str to int
        Encoder to its chosen layer, of those in `Data.layers`.
    plans : bool
        Whether to return example transport plans, where the system has some.
    outer : str or None
        Name of the fold whose training part this one divides; None for a fold of the grid itself.
    device : str
        Where it is trained.
    """

    number: int
    run: SystemRun
    rules: tuple[str, ...]
    fold: Fold
    seed: int
    cost: float = 1.0
    chosen: Mapping[str, float] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    plans: bool = False
    outer: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Curve:
    """Mean loss per epoch, from epoch 0; no validation part gives an empty second tuple."""

    training: tuple[float, ...]
    validation: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ExamplePlans:
    """How one batch of test clips was coupled.

    Parameters
    ----------
    rows : int [clips]
        The clips, by their rows in the dataset.
    plans : mapping of (str, str) to float32 [clips, clips]
        Source and target encoder to the mass moved from clip to clip; each sums to 1.
    """

    rows: np.ndarray
    plans: Mapping[tuple[str, str], np.ndarray]


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
    curve : Curve or None
        How a network's loss fell; None for what is no network.
    examples : ExamplePlans or None
        Where the job asks for them and the system couples clips.
    perturbed : mapping of str to float32 [test clips, labels]
        By perturbation, under the first rule; NaN where a clip has no such embedding.
    """

    number: int
    probabilities: Mapping[str, np.ndarray]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    failure: SystemFailure | None = None
    elapsed: float = 0.0
    curve: Curve | None = None
    examples: ExamplePlans | None = None
    perturbed: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A trained estimator, how long that took, and what it said."""

    model: Any
    seconds: float
    notes: tuple[str, ...] = ()


def train_pack(pack: Sequence[Job], data: Data, systems: Any) -> Generator[Outcome, None, None]:
    """Train and predict the jobs of a pack, and yield the outcome of each as it finishes.

    An error becomes the failure of one job. Where a pack cannot be trained at once, because the
    table of systems knows no way or because a member fails, those that have not finished are
    trained one by one.
    """
    left = list(pack)
    with one_thread():
        for job, fitted in _fit_together(pack, data, systems) if len(pack) > 1 else ():
            left.remove(job)
            yield _outcome(job, data, systems, fitted)
        for job in left:
            yield _outcome(job, data, systems, None)


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
            curve, examples = _curve(fitted.model), _examples(job, fitted.model, data)
            perturbed = _perturbed(job, fitted.model, data, systems)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other systems go on
            failure = failure_of(job.run, job.fold.name, job.seed, error)
            return Outcome(job.number, {}, {}, (), failure)
    said = getattr(fitted.model, "said_", ())
    notes = tuple(dict.fromkeys((*said, *fitted.notes, *_said(caught))))
    return Outcome(
        job.number,
        probabilities,
        seconds,
        notes,
        elapsed=elapsed,
        curve=curve,
        examples=examples,
        perturbed=perturbed,
    )


def _curve(model: Any) -> Curve | None:
    history = getattr(model, "history_", None)
    if history is None:
        return None
    return Curve(tuple(history.training_loss), tuple(history.validation_loss))


def _examples(job: Job, model: Any, data: Data) -> ExamplePlans | None:
    """Return the plans of the first batch that the transductive rule sees."""
    if not job.plans or not hasattr(model, "plans"):
        return None
    rows = _shuffled(job)[:EXAMPLE_CLIPS]
    plans = model.plans(_cut(job, data).of(data.X, rows))
    masses = {pair: np.asarray(plan, dtype=np.float32) for pair, plan in plans.items()}
    return ExamplePlans(rows, masses) if masses else None


def _perturbed(job: Job, model: Any, data: Data, systems: Any) -> dict[str, np.ndarray]:
    """Return what the model makes of perturbed test clips, under a rule that judges each alone."""
    if job.outer is not None:
        return {}
    test = np.sort(job.fold.test)
    columns, found = _cut(job, data), {}
    for name, X in data.perturbed.items():
        inputs = columns.of(X, test)
        there = np.isfinite(inputs).all(axis=1)
        found[name] = np.full((len(test), len(data.labels)), np.nan, dtype=np.float32)
        if there.any():
            found[name][there] = _asked(model, inputs[there], job.rules[0], data, systems)
    return found


def _said(caught: Sequence[warnings.WarningMessage]) -> Iterator[str]:
    for warning in caught:
        yield " ".join(f"{warning.category.__name__}: {warning.message}".split())


def fit_and_predict(
    job: Job, data: Data, systems: Any
) -> tuple[dict[str, np.ndarray], dict[str, float], float]:
    """Return probabilities [test clips, labels] and seconds of each rule, and seconds of all."""
    return _predict(job, _fit(job, data, systems), data, systems)


def _fit(job: Job, data: Data, systems: Any) -> _Fitted:
    model = untrained(job, data, systems)  # the first one of a process loads its libraries
    clock = time.perf_counter()
    X, y, groups = _training_part(job, data)
    model.fit(X, y, groups=groups)
    return _Fitted(model, time.perf_counter() - clock)


def _fit_together(pack: Sequence[Job], data: Data, systems: Any) -> Iterator[tuple[Job, _Fitted]]:
    """Yield the members of a pack as they finish, up to where they must be trained one by one."""
    share = 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            models = [untrained(job, data, systems) for job in pack]
            clock = time.perf_counter()
            places = iter(systems.fit_many(models, _training_parts(pack, data)))
        except Exception:  # noqa: BLE001 - trained alone, it fails again, and alone
            return
    said = [*_said(caught)]
    for waiting in range(len(pack), 0, -1):
        # Not around the yield: what others do meanwhile warns elsewhere.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                place = next(places)
            except Exception:  # noqa: BLE001 - as above
                return
        share += (time.perf_counter() - clock) / waiting
        # Nobody knows which member a warning speaks of: it is told once, by the first.
        yield pack[place], _Fitted(models[place], share, (*said, *_said(caught)))
        said, clock = [], time.perf_counter()


def untrained(job: Job, data: Data, systems: Any) -> Any:
    """Return the estimator of a job; the first one of a process loads its libraries."""
    more: dict[str, Any] = {"chosen": job.chosen} if job.chosen else {}
    if job.device != "cpu":
        more["device"] = job.device
    return systems.build(job.run.name, dict(_cut(job, data).views), job.seed, **more)


def _training_part(job: Job, data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return X, y and the speakers that a job may learn from."""
    train = job.fold.train
    groups = None if data.speakers is None else data.speakers[train]
    return _cut(job, data).of(data.X, train), data.y[train], groups


def _training_parts(
    pack: Sequence[Job], data: Data
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Return the training part of every job; seeds of one fold share the same arrays."""
    made: dict[Any, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}
    places = [(id(job.fold), *job.layers.items()) for job in pack]
    for place, job in zip(places, pack, strict=True):
        if place not in made:
            made[place] = _training_part(job, data)
    return [made[place] for place in places]


def _predict(
    job: Job, fitted: _Fitted, data: Data, systems: Any
) -> tuple[dict[str, np.ndarray], dict[str, float], float]:
    """Return probabilities (test clips sorted) and seconds of each evaluation rule, and of all."""
    test = _shuffled(job)
    probabilities, seconds, elapsed = {}, {}, fitted.seconds
    inputs = _cut(job, data).of(data.X, test)
    for rule in job.rules:
        clock = time.perf_counter()
        aligned = _asked(fitted.model, inputs, rule, data, systems)
        probabilities[rule] = aligned[np.argsort(test)]
        spent = time.perf_counter() - clock
        seconds[rule] = fitted.seconds + spent
        elapsed += spent
    return probabilities, seconds, elapsed


def _asked(model: Any, X: np.ndarray, rule: str, data: Data, systems: Any) -> np.ndarray:
    """Return probabilities [clips, labels] under an evaluation rule."""
    coupling = systems.COUPLINGS[rule]
    asked = {} if coupling is None else {"coupling": coupling}
    given = model.predict_proba(X, **asked)
    return _aligned(given, model.classes_.tolist(), data.labels, len(X))


def _shuffled(job: Job) -> np.ndarray:
    """Return the test clips in the order in which they are predicted.

    A transductive system couples neighbours, and in the order of a corpus neighbours share their
    speaker or even their label.
    """
    shuffled: np.ndarray = np.random.default_rng(job.seed).permutation(job.fold.test)
    return shuffled


def _cut(job: Job, data: Data) -> Cut:
    """Return the columns that a job sees."""
    return cut(data.views, job.run.encoders, data.layers, job.layers)


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
