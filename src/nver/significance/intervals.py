"""Bootstrap intervals that resample speakers, not clips, and allow for other seeds.

Clips of one speaker resemble each other, so they are no independent draws: an interval that
resamples clips is about half as wide as it should be. Whole speakers are drawn instead, with all
their clips (Field and Welsh 2007, Bootstrapping clustered data, JRSS B 69).

The interval is the expanded percentile interval of Hesterberg (2015, What teachers should know
about the bootstrap, The American Statistician 69): the percentiles are moved outwards to what
Student's t asks for with so few speakers. It stays within the range of the score.

With several seeds the score is the mean over seeds, and other seeds would have given another mean.
The variance that the seeds bring, beyond what comes of the few clips on which they are compared
(that part is in the speakers' resamples already), gives a Student interval of its own, and the two
are joined by squares: ``low = value - sqrt((value - low_speakers)^2 + (value - low_seeds)^2)``, the
MOVER rule (Zou and Donner 2008, Construction of confidence limits about effect measures,
Statistics in Medicine 27). One seed says nothing about others: then the interval is that of the
trained models at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Num

from nver.errors import EvaluationError
from nver.metrics import Metric
from nver.significance.resampling import resampled, score_of

Unit = Literal["speaker", "clip", "mixed"]

FEW = 8
"""Fewer clusters than this, and intervals of level 0.95 cover clearly less often than they say."""


@dataclass(frozen=True)
class Interval:
    """A score and where it may lie with other speakers.

    Parameters
    ----------
    value : float
        The score of the clips at hand.
    low, high : float
        Ends of the interval; NaN where there is none.
    level : float
        Its nominal coverage, in (0, 1).
    clusters : int
        Number of independent units.
    unit : {"speaker", "clip", "mixed"}
        What the units are; "clip" where speakers are unknown (then the interval is too narrow if
        speakers repeat), "mixed" where some are: a clip of an unknown speaker is a unit of its own.
    reason : str
        Why there is no interval; "" where there is one.
    seeds : int
        Number of repetitions that it allows for; 1 where it is of the trained models alone.
    error : float
        Standard error of the value, over clusters and seeds; NaN where there is no interval.
    """

    value: float
    low: float
    high: float
    level: float
    clusters: int
    unit: Unit
    reason: str = ""
    seeds: int = 1
    error: float = math.nan

    @property
    def caution(self) -> str:
        """What a reader must know before trusting the interval; "" if nothing."""
        if self.reason:
            return self.reason
        cautions = []
        if self.clusters < FEW:
            cautions.append(
                f"it rests on {self.clusters} {plural(self.unit)}, too few for its width to be "
                "trusted"
            )
        if self.unit != "speaker":
            whose = "all" if self.unit == "clip" else "some"
            cautions.append(
                f"{whose} clips have no speaker and were taken as independent, so it is too narrow "
                "if speakers repeat"
            )
        return "; ".join(cautions)

    def to_dict(self) -> dict[str, Any]:
        """Return value, low and high as plain JSON values; None, with a reason, where undefined."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        table: dict[str, Any] = {k: None if math.isnan(v) else v for k, v in ends.items()}
        return table | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True)
class _Draws:
    """What a bootstrap found: values of each seed, and the same of every resample."""

    values: np.ndarray  # [seeds]
    draws: np.ndarray  # [draws, seeds]

    @property
    def value(self) -> float:
        return float(self.values.mean())

    def seed_variance(self) -> float:
        """Return the variance that the choice of seeds gives to their mean.

        The seeds' values differ by chance of the clips as well: that part is estimated from how
        differently the seeds move from resample to resample, and taken off.
        """
        seeds = len(self.values)
        if seeds < 2:
            return 0.0
        covariance = np.cov(self.draws, rowvar=False)
        own = covariance.trace() / seeds
        shared = (covariance.sum() - covariance.trace()) / (seeds * (seeds - 1))
        return max(0.0, float(self.values.var(ddof=1) - (own - shared))) / seeds


def cluster_bootstrap(
    confusions: Num[np.ndarray, "clusters *seeds classes classes"],
    metric: Metric | Callable[[np.ndarray], np.ndarray],
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    unit: Unit = "speaker",
) -> Interval:
    """Return a score with its interval over clusters and seeds.

    Parameters
    ----------
    confusions : array [clusters, ..., classes, classes]
        Counts of each cluster, truth in the rows. Axes between are repetitions (seeds): a drawn
        cluster brings all of them, and their own variance is added.
    metric : Metric or callable
        From counts ``[..., classes, classes]`` to values ``[...]``, as in `nver.metrics`; a
        `Metric` is faster. The mean over repetitions is the score.
    n : int
        Number of resamples, from 1.
    seed : int
        Of the generator; the same seed gives the same interval.
    level : float
        Nominal coverage, in (0, 1).
    unit : {"speaker", "clip", "mixed"}
        What a cluster is; only passed on.

    Returns
    -------
    Interval
        Its ends are NaN, with the reason, for fewer than two clusters or an undefined score.

    Raises
    ------
    EvaluationError
        If there is no cluster, one holds no clips, or `n` or `level` is out of range.

    Examples
    --------
    >>> from nver.metrics import METRICS
    >>> speakers = np.array([[[3, 1], [0, 4]], [[4, 0], [3, 1]], [[2, 2], [1, 3]]])
    >>> interval = cluster_bootstrap(speakers, METRICS["uar"])
    >>> round(interval.value, 3), interval.clusters
    (0.708, 3)
    """
    _check(confusions, n, level)
    rows, score = score_of(confusions, metric)
    sides = (_Draws(score(rows.sum(axis=0, keepdims=True))[0], np.empty((0, 0))),)
    reason = _no_interval(sides[0].value, len(rows), unit)
    if not reason:
        sides = (_Draws(sides[0].values, resampled(rows, score, n, seed)),)
    bounds = (metric.low, metric.high) if isinstance(metric, Metric) else (-math.inf, math.inf)
    return _interval(sides, (1.0,), level, len(rows), unit, reason, bounds)


def paired_difference(
    first: Num[np.ndarray, "clusters *seeds classes classes"],
    second: Num[np.ndarray, "others *repeats classes classes"],
    metric: Metric,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    unit: Unit = "speaker",
    same_seeds: bool = False,
) -> Interval:
    """Return the score of `first` minus that of `second` on the same clips, with its interval.

    A resample draws the same clusters for both, so what makes a speaker hard for both cancels. The
    numbers of seeds may differ; each side adds the variance of its own.

    Parameters
    ----------
    first, second : array [clusters, ..., classes, classes]
        Counts of the same clusters, as in `cluster_bootstrap`.
    metric, n, seed, level, unit
        As in `cluster_bootstrap`.
    same_seeds : bool
        Whether the two are answers of the same trained models, seed by seed, to other sounds: then
        the variance of the seeds is that of their difference.

    Raises
    ------
    EvaluationError
        As in `cluster_bootstrap`, and if the two are not of the same clips, or with `same_seeds`
        not of as many seeds.
    """
    _check(first, n, level)
    check_paired(first, second)
    (rows, score), (others, other) = score_of(first, metric), score_of(second, metric)
    width = rows.shape[1]
    both = np.hstack([rows, others])
    whole = both.sum(axis=0, keepdims=True)
    values = score(whole[:, :width])[0], other(whole[:, width:])[0]
    seeds = len(values[0])
    if same_seeds and len(values[1]) != seeds:
        raise EvaluationError(
            f"Expected the same seeds on both sides, got {seeds} and {len(values[1])}."
        )
    reason = _no_interval(float(values[0].mean() - values[1].mean()), len(both), unit)
    draws = np.empty((0, seeds + len(values[1])))
    if not reason:
        draws = resampled(
            both, lambda sums: np.hstack([score(sums[:, :width]), other(sums[:, width:])]), n, seed
        )
    span = metric.high - metric.low
    about = (level, len(both), unit, reason, (-span, span))
    if same_seeds:
        alone = _Draws(values[0] - values[1], draws[:, :seeds] - draws[:, seeds:])
        return _interval((alone,), (1.0,), *about)
    sides = _Draws(values[0], draws[:, :seeds]), _Draws(values[1], draws[:, seeds:])
    return _interval(sides, (1.0, -1.0), *about)


def ratio_bootstrap(
    parts: Num[np.ndarray, "clusters"],
    wholes: Num[np.ndarray, "clusters"],
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    unit: Unit = "speaker",
) -> Interval:
    """Return ``sum(parts) / sum(wholes)`` with its interval over clusters.

    The share of clips with some property, or the mean of any number over clips: `parts` has each
    cluster's sum, `wholes` its number of clips (above 0). Other arguments, result and errors as in
    `cluster_bootstrap`.

    Examples
    --------
    >>> ratio_bootstrap(np.array([3, 5, 4]), np.array([6, 6, 6])).value
    0.6666666666666666
    """
    if len(parts) != len(wholes) or (len(wholes) > 0 and np.min(wholes) <= 0):
        raise EvaluationError(
            f"Expected clips in every cluster of both, got {len(parts)} sums for {len(wholes)} "
            "numbers of clips."
        )
    _check(np.asarray(wholes)[:, None, None], n, level)
    rows = np.stack([parts, wholes], axis=1).astype(np.float64)

    def score(sums: np.ndarray) -> np.ndarray:
        return np.asarray(sums[:, :1] / sums[:, 1:])

    values = score(rows.sum(axis=0, keepdims=True))[0]
    reason = _no_interval(float(values[0]), len(rows), unit)
    draws = np.empty((0, 1)) if reason else resampled(rows, score, n, seed)
    free = (-math.inf, math.inf)
    return _interval((_Draws(values, draws),), (1.0,), level, len(rows), unit, reason, free)


def check_paired(first: np.ndarray, second: np.ndarray) -> None:
    """Refuse counts that are not of the same clips, cluster by cluster.

    Raises
    ------
    EvaluationError
    """
    if len(first) != len(second) or first.shape[-1] != second.shape[-1]:
        raise EvaluationError(
            f"Expected the same clips on both sides, got {len(first)} and {len(second)} clusters "
            f"of {first.shape[-1]} and {second.shape[-1]} classes."
        )
    classes = first.shape[-1]
    true = [side.reshape(len(side), -1, classes, classes).sum(-1) for side in (first, second)]
    odd = np.flatnonzero((true[0] != true[0][:, :1]).any((1, 2)))
    odd = np.union1d(odd, np.flatnonzero((true[1] != true[0][:, :1]).any((1, 2))))
    if odd.size:
        raise EvaluationError(
            f"Expected the same clips on both sides and in every seed, but {odd.size} of "
            f"{len(first)} clusters differ in how many clips of a class they hold. Leave out "
            "what one side lacks."
        )


def _check(confusions: np.ndarray, n: int, level: float) -> None:
    if n < 1 or not 0.0 < level < 1.0:
        raise EvaluationError(
            f"Expected at least one resample and a level between 0 and 1, got {n} and {level}."
        )
    if len(confusions) == 0:
        raise EvaluationError("Expected at least one cluster of clips to resample, got none.")
    empty = np.flatnonzero(confusions.reshape(len(confusions), -1).sum(axis=1) <= 0)
    if empty.size:
        raise EvaluationError(
            f"Expected clips in every cluster, but cluster {empty[0]} has none. Leave it out."
        )


def _no_interval(value: float, clusters: int, unit: Unit) -> str:
    """Return why there is none; "" if there is one."""
    if clusters < 2:
        return f"one {_noun(unit)} says nothing about others"
    return "the score is undefined" if math.isnan(value) else ""


def _interval(
    sides: tuple[_Draws, ...],
    signs: tuple[float, ...],
    level: float,
    clusters: int,
    unit: Unit,
    reason: str,
    bounds: tuple[float, float],
) -> Interval:
    """Return the interval of the signed sum of the sides."""
    value = sum(sign * side.value for sign, side in zip(signs, sides, strict=True))
    seeds = max(len(side.values) for side in sides)
    if reason:
        return Interval(value, math.nan, math.nan, level, clusters, unit, reason, seeds)
    draws = sum(sign * side.draws.mean(axis=1) for sign, side in zip(signs, sides, strict=True))
    tail = (1.0 - level) / 2.0
    wide = _expanded(tail, clusters)
    # A resample without any clip of any class cannot occur: every cluster holds clips.
    low, high = np.quantile(draws, [wide, 1.0 - wide])
    variances = [side.seed_variance() for side in sides]
    squares = sum(
        # By the book two seeds have t = 12.7, which says nothing of use; they are taken as three.
        variance * _student(tail, max(3, len(side.values))) ** 2
        for variance, side in zip(variances, sides, strict=True)
        if variance > 0
    )
    if squares:
        low = value - math.hypot(max(0.0, value - low), math.sqrt(squares))
        high = value + math.hypot(max(0.0, high - value), math.sqrt(squares))
    error = math.sqrt(float(np.var(draws)) * clusters / (clusters - 1) + sum(variances))
    ends = max(bounds[0], float(low)), min(bounds[1], float(high))
    return Interval(value, *ends, level, clusters, unit, "", seeds, error)


def _student(tail: float, n: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, tail))


def _expanded(tail: float, clusters: int) -> float:
    """Return the percentile that gives Student's t width: Phi(sqrt(m / (m - 1)) t_{m-1}(tail))."""
    from scipy.special import ndtr

    return float(ndtr(math.sqrt(clusters / (clusters - 1)) * _student(tail, clusters)))


def _noun(unit: Unit) -> str:
    return "speaker or clip" if unit == "mixed" else unit


def plural(unit: Unit) -> str:
    """Return what the independent units are called."""
    return "speakers and clips" if unit == "mixed" else f"{unit}s"
