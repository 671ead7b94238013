"""Settings chosen for one fold, inside its training part; the test part is never looked at.

The training part is divided once more by speaker. Every setting that is tried is trained on the
first of these inner folds; the worse half is given up, the others go on to the second fold, the
better half of those to the rest (successive halving; Jamieson and Talwalkar, AISTATS 2016, in the
asynchronous form of Li et al., MLSys 2020). Optuna proposes the settings by its tree-structured
Parzen estimator (Bergstra et al., NeurIPS 2011) and decides what is given up. The untuned settings
are tried first, so that what is chosen is never worse than they are on the inner folds.

The search is a function of data, fold, system and seed. The settings that a fold gets serve all
its seeds.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nver.errors import SettingsError, SplitError
from nver.jobs import Data, Job, SystemRun, failure_of, fit_and_predict, untrained
from nver.metrics import confusion, uar
from nver.predictions import SystemFailure, SystemTuning
from nver.processes import one_thread
from nver.registry import require
from nver.splits import Fold, make_folds

INNER_FOLDS = 4
"""Of the training part; halving is decided after the first and the second."""

FRUITLESS = SystemTuning("", (), "", {}, math.nan, math.nan, 0, 0, "")


@dataclass(frozen=True, eq=False)
class Search:
    """One search: a system on its encoders in one fold, under the first seed.

    Parameters
    ----------
    number : int
        Its name.
    run, rule, fold, seed
        What is tuned, and by which evaluation rule.
    cost : float
        A rough duration.
    trials : int
        Settings to try, the untuned ones among them.
    seen : tuple of Attempt
        What was trained before the search was interrupted: it is not trained again.
    """

    number: int
    run: SystemRun
    rule: str
    fold: Fold
    seed: int
    cost: float
    trials: int
    seen: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """One training of a search: settings, inner fold, UAR on it, and seconds of one process."""

    number: int
    chosen: Mapping[str, float]
    fold: str
    uar: float
    elapsed: float


@dataclass(frozen=True, eq=False)
class Choice:
    """What a search found and how many seconds of one process it took, or why it failed."""

    number: int
    tuning: SystemTuning
    elapsed: float = 0.0
    failure: SystemFailure | None = None


def check_tuning(trials: int) -> None:
    """Refuse what cannot be searched, before anything is trained.

    Raises
    ------
    MissingExtraError
        If Optuna is not installed.
    SettingsError
        If there are fewer than two settings to try.
    """
    require("optuna", "tune")
    if trials < 2:
        raise SettingsError(f"Expected at least 2 settings to try, got {trials}.")


def search_pack(
    pack: Sequence[Search], data: Data, systems: Any
) -> Generator[Attempt | Choice, None, None]:
    """Do the searches of a pack; yield each training and each search as it finishes.

    An error becomes the failure of one search.
    """
    with one_thread():
        for search in pack:
            yield from _choice(search, data, systems)


def _choice(search: Search, data: Data, systems: Any) -> Iterator[Attempt | Choice]:
    steps = searching(search, data, systems)
    spent = sum(attempt.elapsed for attempt in search.seen)
    loaded, clock = False, 0.0
    while True:
        try:
            # Not around the yield: what others do meanwhile warns as ever.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the training with the chosen settings warns again
                if not loaded:
                    _load_libraries(search, data, systems)
                    loaded, clock = True, time.perf_counter()
                step = next(steps)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other systems go on
            failure = failure_of(search.run, search.fold.name, search.seed, error)
            yield Choice(search.number, FRUITLESS, failure=failure)
            return
        if isinstance(step, SystemTuning):
            yield Choice(search.number, step, spent + time.perf_counter() - clock)
            return
        yield step


def _load_libraries(search: Search, data: Data, systems: Any) -> None:
    """Import what a search needs: that is no part of its time, as it is none of a training's."""
    require("optuna", "tune")
    untrained(Job(0, search.run, (search.rule,), search.fold, search.seed), data, systems)


def tune(search: Search, data: Data, systems: Any) -> SystemTuning:
    """Return the best of the settings that were tried; arguments as of `searching`."""
    steps = searching(search, data, systems)
    return next(step for step in steps if isinstance(step, SystemTuning))


def searching(search: Search, data: Data, systems: Any) -> Iterator[Attempt | SystemTuning]:
    """Yield every training of a search as it finishes, and at last the best of the settings.

    Parameters
    ----------
    search : Search
        What to tune.
    data : Data
        Of it, only the rows of the fold's training part are used.
    systems : module or object
        A table of systems with ``space(name)`` and `SPANS`.
    """
    folds, inner = inner_folds(data, search.fold.train)
    run = search.run
    about = replace(
        FRUITLESS, name=run.name, encoders=run.encoders, fold=search.fold.name, inner=inner
    )
    if not folds:
        yield about
        return
    untuned = systems.space(run.name)
    with _quiet_optuna() as optuna:
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(
                seed=search.seed, n_startup_trials=max(4, search.trials // 3)
            ),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        )
        study.enqueue_trial(untuned)
        for _ in range(search.trials):
            trial = study.ask()
            chosen = {name: _suggest(trial, name, systems.SPANS[name]) for name in untuned}
            attempts = _attempts(chosen, folds, search, data, systems)
            yield from _try(study, trial, attempts, len(folds))
        states = [trial.state.name for trial in study.trials]
        yield replace(
            about,
            chosen=dict(study.best_trial.params),
            uar=float(study.best_value),
            default_uar=float(study.trials[0].value),
            trials=len(states),
            pruned=len(states) - states.count("COMPLETE"),
        )


def inner_folds(
    data: Data, train: np.ndarray, most: int = INNER_FOLDS, strict: bool = False
) -> tuple[tuple[Fold, ...], str]:
    """Divide the training part of a fold: whole speakers where they are known.

    Parameters
    ----------
    data : Data
    train : int [n]
        The rows of the training part.
    most : int
        Folds, if there are enough speakers or clips of every class.
    strict : bool
        Whether known speakers are never divided; else the clips are, if there is no other way.

    Returns
    -------
    folds : tuple of Fold
        Indices are those of `data`; empty where the clips cannot be divided.
    inner : str
        How they were made, in words.
    """
    labels = data.y[train]
    ways: list[tuple[str, np.ndarray | None, str]] = [("random", None, "at random")]
    if data.speakers is not None:
        # A clip of an unknown speaker counts as a speaker of its own.
        listed = enumerate(data.speakers[train])
        names = np.array([f"none {i}" if who is None else f"name {who}" for i, who in listed])
        ways = [("speaker", names, "by speaker"), *([] if strict else ways)]
    digests = None if data.digests is None else [data.digests[row] for row in train]
    for protocol, speakers, words in ways:
        for k in range(most, 1, -1):
            try:
                parts = make_folds(protocol, labels, speakers, k=k, digests=digests)
            except SplitError:
                continue
            folds = tuple(Fold(part.name, train[part.train], train[part.test]) for part in parts)
            return folds, f"{k} folds {words}"
    return (), "the training part cannot be divided"


def _suggest(trial: Any, name: str, span: Any) -> float:
    return float(trial.suggest_float(name, span.low, span.high, log=span.log))


def _attempts(
    chosen: Mapping[str, float],
    folds: Sequence[Fold],
    search: Search,
    data: Data,
    systems: Any,
) -> Iterator[Attempt]:
    """Yield the trainings on one inner fold after the other, each as it is done."""
    seen = {attempt.fold: attempt for attempt in search.seen if attempt.chosen == chosen}
    for fold in folds:
        if fold.name in seen:
            yield seen[fold.name]
            continue
        clock = time.perf_counter()
        job = Job(0, search.run, (search.rule,), fold, search.seed, chosen=chosen)
        probabilities, _, _ = fit_and_predict(job, data, systems)
        best = probabilities[search.rule].argmax(axis=1)
        predicted = np.array(data.labels)[best]
        found = float(uar(confusion(data.y[np.sort(fold.test)], predicted, data.labels)))
        yield Attempt(search.number, chosen, fold.name, found, time.perf_counter() - clock)


def _try(study: Any, trial: Any, attempts: Iterator[Attempt], folds: int) -> Iterator[Attempt]:
    """Train on one inner fold after the other, as long as their mean UAR is good enough."""
    from optuna.trial import TrialState

    seen: list[float] = []
    try:
        for attempt in attempts:
            yield attempt
            seen.append(attempt.uar)
            trial.report(float(np.mean(seen)), step=len(seen))
            if trial.number > 0 and len(seen) < folds and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return
    except Exception:
        if trial.number == 0:  # with its own settings too
            raise
        study.tell(trial, state=TrialState.FAIL)
        return
    study.tell(trial, float(np.mean(seen)))


@contextmanager
def _quiet_optuna() -> Iterator[Any]:
    """Import Optuna; it tells of every trial on standard error unless it is asked not to."""
    optuna = require("optuna", "tune")
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield optuna
    finally:
        optuna.logging.set_verbosity(before)
