"""Drawing speakers: the interval of a score, of many scores, and of a difference.

How the interval is made of the draws is told in `nver.significance.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Num

from nver.errors import EvaluationError
from nver.metrics import Metric
from nver.significance.intervals import Draws, Interval, Unit, interval_of, no_interval
from nver.significance.resampling import resampled, score_of

_CELLS = 4_000_000  # numbers of all systems that are drawn at once


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
    (interval,) = cluster_bootstraps([confusions], metric, n=n, seed=seed, level=level, unit=unit)
    return interval


def cluster_bootstraps(
    confusions: Sequence[Num[np.ndarray, "..."]],
    metric: Metric | Callable[[np.ndarray], np.ndarray],
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    unit: Unit = "speaker",
) -> tuple[Interval, ...]:
    """Return the scores of several systems, each with its interval.

    The same as `cluster_bootstrap` of each, but drawn once for all: many times as fast.

    Parameters
    ----------
    confusions : sequence of array [clusters, ..., classes, classes]
        Counts of each system; the numbers of seeds may differ.
    metric, n, seed, level, unit
        As in `cluster_bootstrap`, as are the errors.
    """
    bounds = (metric.low, metric.high) if isinstance(metric, Metric) else (-math.inf, math.inf)
    found = []
    for part in _batches(confusions, n, level):
        for side in _drawn(part, metric, n, seed):
            reason = no_interval(side.value, len(part[0]), unit)
            found.append(interval_of((side,), (1.0,), level, len(part[0]), unit, reason, bounds))
    return tuple(found)


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
    (interval,) = paired_differences(
        first, [second], metric, n=n, seed=seed, level=level, unit=unit, same_seeds=same_seeds
    )
    return interval


def paired_differences(
    first: Num[np.ndarray, "clusters *seeds classes classes"],
    others: Sequence[Num[np.ndarray, "..."]],
    metric: Metric,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    unit: Unit = "speaker",
    same_seeds: bool = False,
) -> tuple[Interval, ...]:
    """Return the score of `first` minus that of each of the others, drawn once for all.

    Parameters
    ----------
    first, others : array [clusters, ..., classes, classes], and a sequence of such
        Counts of the same clips.
    metric, n, seed, level, unit, same_seeds
        As in `paired_difference`, as are the errors.
    """
    for other in others:
        check_paired(first, other)
    clusters, span = len(first), metric.high - metric.low
    found = []
    for part in _batches(others, n, level):
        one, *sides = _drawn([first, *part], metric, n, seed)
        for side in sides:
            reason = no_interval(one.value - side.value, clusters, unit)
            about = (level, clusters, unit, reason, (-span, span))
            if same_seeds:
                found.append(interval_of((one.minus(side),), (1.0,), *about))
            else:
                found.append(interval_of((one, side), (1.0, -1.0), *about))
    return tuple(found)


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
    reason = no_interval(float(values[0]), len(rows), unit)
    draws = np.empty((0, 1)) if reason else resampled(rows, score, n, seed)
    # Sums of what is never negative have a mean of at least 0, and numbers of clips a share to 1.
    share = bool(np.all(rows[:, 0] == np.rint(rows[:, 0])) and np.all(rows[:, 0] <= rows[:, 1]))
    bounds = (0.0 if np.min(parts) >= 0 else -math.inf, 1.0 if share else math.inf)
    return interval_of((Draws(values, draws),), (1.0,), level, len(rows), unit, reason, bounds)


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


def _batches(
    confusions: Sequence[np.ndarray], n: int, level: float
) -> Iterator[Sequence[np.ndarray]]:
    """Yield systems with equally many clusters, as many at a time as fit into the memory."""
    batch: list[np.ndarray] = []
    held = 0
    for counts in confusions:
        _check(counts, n, level)
        size = counts.size // counts.shape[-1]
        if batch and (held + size > _CELLS or len(counts) != len(batch[0])):
            yield batch
            batch, held = [], 0
        batch.append(counts)
        held += size
    if batch:
        yield batch


def _drawn(
    sides: Sequence[np.ndarray],
    metric: Metric | Callable[[np.ndarray], np.ndarray],
    n: int,
    seed: int,
) -> list[Draws]:
    """Return what each side scores, in all and in each resample of the clusters they share."""
    rows, score = score_of(sides, metric)
    values = score(rows.sum(axis=0, keepdims=True))[0]
    # One cluster has no resamples but itself.
    draws = resampled(rows, score, n if len(rows) > 1 else 0, seed)
    ends = np.cumsum([int(np.prod(side.shape[1:-2])) for side in sides])
    parts = zip(np.split(values, ends[:-1]), np.split(draws, ends[:-1], axis=1), strict=True)
    return [Draws(one, drawn) for one, drawn in parts]
