"""Settings chosen for one fold, inside its training part; the test part is never looked at.

The training part is divided once more by speaker. Every setting that is tried is trained on the
first of these inner folds; the worse half is given up, the others go on to the second fold, the
better half of those to the rest (successive halving; Jamieson and Talwalkar, AISTATS 2016, in the
asynchronous form of Li et al., MLSys 2020). Optuna proposes the settings by its tree-structured
Parzen estimator (Bergstra et al., NeurIPS 2011) and decides what is given up. The untuned settings
are tried first, so that what is chosen is never worse than they are on the inner folds.

The layer of an encoder that gives several is one more setting, for linear systems the only one: its
untuned value is the last layer. Half of the trials, at most, go through the layers under settings
that are otherwise untuned, before everything is proposed together. Where layers are all there is to
choose, all trials do, and every combination is tried if there are enough.

The search is a function of data, fold, system and seed. Where no layer is searched, one of more
trials begins as one of fewer. The settings that a fold gets serve all its seeds.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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

DRAWN = 4
"""Trials before any is proposed, the untuned one among them; it must not depend on how many follow:
then a search of more trials finds all trainings of one of fewer again."""

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
        What was trained before, by this search until it was interrupted or by one of another number
        of trials: it is not trained again.
    """

    number: int
    run: SystemRun
    rule: str
    fold: Fold
    seed: int
    cost: float
    trials: int
    seen: tuple[Attempt, ...] = ()

    @property
    def trainings(self) -> int:
        """About how many it takes: half of the settings one, a quarter two, a quarter all."""
        return self.trials * (2 + 2 + INNER_FOLDS) // 4


@dataclass(frozen=True)
class Attempt:
    """One training of a search: settings, inner fold, UAR on it, seconds of one process, layers."""

    number: int
    chosen: Mapping[str, float]
    fold: str
    uar: float
    elapsed: float
    layers: Mapping[str, int] = field(default_factory=dict)


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
    loaded, clock, spent = False, 0.0, 0.0
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
        if step in search.seen:
            spent += step.elapsed
        yield step


def _load_libraries(search: Search, data: Data, systems: Any) -> None:
    """Import what a search needs: that is no part of its time, as it is none of a training's."""
    require("optuna", "tune")
    job = Job(0, search.run, (search.rule,), search.fold, search.seed)
    untrained(with_choice(job, None, data, systems), data, systems)


def to_search(run: SystemRun, data: Data, systems: Any) -> bool:
    """Return whether a run has anything to choose."""
    return bool(systems.space(run.name) or _held(run, data, systems))


def with_choice(job: Job, tuning: SystemTuning | None, data: Data, systems: Any) -> Job:
    """Return a job with what was chosen for its fold: the last layers where nothing was."""
    last = _held(job.run, data, systems)
    if tuning is None:
        return replace(job, layers=last)
    return replace(job, chosen=tuning.chosen, layers=last | dict(tuning.layers))


def _held(run: SystemRun, data: Data, systems: Any) -> dict[str, int]:
    """Return the encoders of a run of which one layer is to be found, and the last of each.

    A system that chooses among encoders has none: each layer is one more encoder to it.
    """
    if "choose" in systems.get_system(run.name).settings:
        return {}
    return {name: data.layers[name] - 1 for name in run.encoders if name in data.layers}


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
    untuned, held = systems.space(run.name), _held(run, data, systems)
    planned, trials = _planned(untuned, held, search.trials, search.seed)
    with _quiet_optuna() as optuna:
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=DRAWN),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        )
        for settings in planned:
            study.enqueue_trial(settings)
        for _ in range(trials):
            trial = study.ask()
            chosen = {name: _suggest(trial, name, systems.SPANS[name]) for name in untuned}
            layers = {name: trial.suggest_int(_layer(name), 0, last) for name, last in held.items()}
            job = Job(search.number, run, (search.rule,), search.fold, search.seed)
            job = replace(job, chosen=chosen, layers=layers)
            yield from _try(study, trial, _attempts(job, folds, search, data, systems), len(folds))
        states = [trial.state.name for trial in study.trials]
        best = study.best_trial.params
        yield replace(
            about,
            chosen={name: best[name] for name in untuned},
            layers={name: best[_layer(name)] for name in held},
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


def _planned(
    untuned: Mapping[str, float], held: Mapping[str, int], trials: int, seed: int
) -> tuple[list[dict[str, float]], int]:
    """Return the trials that are not proposed, the untuned settings first, and how many in all.

    Layers are spread evenly over each network, those of several encoders in an order of their own:
    half of the trials at most, unless there is nothing else to choose.
    """
    draw = np.random.default_rng(seed)
    if not untuned and math.prod(last + 1 for last in held.values()) <= trials:
        every = list(itertools.product(*(range(last + 1) for last in held.values())))
        others = [every[place] for place in draw.permutation(len(every) - 1)]  # the last is first
        trials = len(every)
    else:
        rounds = min(max(held.values(), default=0), trials // 2 if untuned else trials - 1)
        middles = (np.arange(rounds) + 0.5) / max(rounds, 1)
        spread = [draw.permutation((middles * last).astype(int)) for last in held.values()]
        others = list(zip(*spread, strict=True))
    layers = [tuple(held.values()), *others]
    names = [_layer(name) for name in held]
    return [{**untuned, **dict(zip(names, map(int, one), strict=True))} for one in layers], trials


def _layer(encoder: str) -> str:
    """Return what a search calls the layer of an encoder."""
    return f"layer of {encoder}"


def _suggest(trial: Any, name: str, span: Any) -> float:
    return float(trial.suggest_float(name, span.low, span.high, log=span.log))


def _attempts(
    job: Job, folds: Sequence[Fold], search: Search, data: Data, systems: Any
) -> Iterator[Attempt]:
    """Yield the trainings on one inner fold after the other, each as it is done."""
    what = (job.chosen, job.layers)
    seen = {one.fold: one for one in search.seen if (one.chosen, one.layers) == what}
    for fold in folds:
        if fold.name in seen:
            yield seen[fold.name]
            continue
        clock = time.perf_counter()
        probabilities, _, _ = fit_and_predict(replace(job, fold=fold), data, systems)
        best = probabilities[search.rule].argmax(axis=1)
        predicted = np.array(data.labels)[best]
        found = float(uar(confusion(data.y[np.sort(fold.test)], predicted, data.labels)))
        spent = time.perf_counter() - clock
        yield Attempt(search.number, job.chosen, fold.name, found, spent, job.layers)


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
