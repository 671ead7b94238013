"""Which systems of a table can be told from one of them, where that one may be the best of them.

The best system of a table is chosen on the clips on which it is then compared, and the more systems
there are, the larger is its lead by chance alone. A correction for the number of tests does not
allow for that. The model confidence set does (Hansen, Lunde and Nason 2011, Econometrica 79): the
systems that are left in it hold every truly best one with probability 1 - alpha.

Its null distribution is that of the largest difference between any two systems, each over its own
standard error, so the choice of the best is in it. Here it comes of swapping: a cluster's answers
are swapped in all pairs of systems at once, which turns the sign of all of its differences, and
leaves how alike the systems are as it is. For two systems that is `permutation_test`. The system
that differs most is judged first, then each of the others without those judged before it (step-down
max-T: Westfall and Young 1993, Resampling-Based Multiple Testing; Romano and Wolf 2005, JASA 100).

Swapping speakers knows nothing of lucky trainings. The variance of the seeds widens the standard
errors of what was seen. From a few seeds it comes out too small as often as too large, and the
luckiest of many systems is one whose luck was underrated: so no system's counts as smaller than the
table's mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Num

from nver.errors import EvaluationError
from nver.metrics import Metric
from nver.significance.bootstrap import check_paired
from nver.significance.intervals import seed_variance
from nver.significance.paired import signed_sums
from nver.significance.resampling import hits_and_weights

_ROUNDING = 1e-10  # sums of the same numbers in another order differ by less


@dataclass(frozen=True, eq=False)
class ConfidenceSet:
    """How well each system of a table can be told from the reference.

    Parameters
    ----------
    reference : int
        Place of the system with which the others are compared.
    p : float64 [systems]
        Corrected for the number of systems and, as far as they are rivals, for the choice of the
        reference. Those above alpha make up the set. 1 for the reference; NaN where a score is
        undefined.
    swaps : int
        Ways of swapping that were tried.
    exact : bool
        Whether these are all ways there are.
    """

    reference: int
    p: Float64[np.ndarray, "systems"]
    swaps: int
    exact: bool


def confidence_set(
    systems: Sequence[Num[np.ndarray, "..."]],
    metric: Metric,
    *,
    reference: int,
    rivals: Bool[np.ndarray, "systems"],
    n: int = 9999,
    seed: int = 0,
) -> ConfidenceSet:
    """Compare every system with the reference, allowing for how that was chosen.

    Parameters
    ----------
    systems : sequence of array [clusters, ..., classes, classes]
        Counts of each system, of the same clips. Axes between are seeds, whose mean is compared;
        their numbers may differ.
    metric : Metric
        The score; one that is linear in the hits (`Metric.linear`).
    reference : int
        Place of the system with which the others are compared.
    rivals : bool [systems]
        Those of which the reference would have been another, had they scored higher. None of them
        for a reference that was named beforehand; then only the number of systems is corrected for.
    n : int
        Random ways of swapping, from 1. All ways are tried instead where they are no more.
    seed : int
        Of the generator; the same seed gives the same p.

    Raises
    ------
    EvaluationError
        If the systems are not of the same clips, the score is not linear, or `n` is below 1.

    Notes
    -----
    For two systems of one seed each, p is that of `permutation_test`, two-sided.

    Examples
    --------
    >>> from nver.metrics import METRICS
    >>> good, fair = np.array([[[4, 0], [1, 3]]] * 8), np.array([[[3, 1], [2, 2]]] * 8)
    >>> rivals = np.array([True, True, True])
    >>> found = confidence_set([good, fair, good], METRICS["uar"], reference=0, rivals=rivals)
    >>> found.p.tolist()
    [1.0, 0.0078125, 1.0]
    """
    if n < 1:
        raise EvaluationError(f"Expected at least one random way of swapping, got {n}.")
    if not metric.linear:
        raise EvaluationError(f"Expected a score that is linear in the hits, got {metric.title}.")
    for other in systems:
        check_paired(systems[reference], other)
    found = [hits_and_weights(counts, metric) for counts in systems]
    weights = found[reference][1]
    hits = np.stack([each.mean(axis=1) for each, _ in found], axis=1)
    rows = (hits - hits[:, [reference]]) @ weights  # [clusters, systems]
    rows = rows[np.any(rows != 0, axis=1)]
    if np.isnan(rows).any():
        return ConfidenceSet(reference, np.full(len(systems), math.nan), 0, exact=False)
    sums, exact = signed_sums(rows, n, np.random.default_rng(seed))
    sums, errors = np.ascontiguousarray(sums.T), _errors(rows)
    luck = _luck([each @ weights for each, _ in found])
    widened = np.sqrt(errors[reference] ** 2 + luck[reference] + luck)
    seen = _over(np.abs(rows.sum(axis=0)), widened)
    # The largest first; what is judged later stays in the null distribution of what is before it.
    order = [int(place) for place in np.argsort(-seen, kind="stable") if place != reference]
    counts = _extreme(sums, errors, seen, order[::-1], reference, rivals)
    ways = sums.shape[1] + (0 if exact else 1)
    p = np.ones(len(systems))
    p[order] = np.maximum.accumulate((counts[order] + (0 if exact else 1)) / ways)
    return ConfidenceSet(reference, p, ways, exact)


def _extreme(
    sums: Float64[np.ndarray, "systems ways"],
    errors: Float64[np.ndarray, "systems systems"],
    seen: Float64[np.ndarray, "systems"],
    rising: Sequence[int],
    reference: int,
    rivals: Bool[np.ndarray, "systems"],
) -> np.ndarray:
    """Return in how many ways the largest statistic of each system's set is that of the system.

    Its set are the reference and the systems up to it, from the smallest statistic that was seen.
    """
    counts = np.zeros(len(seen))
    largest = np.zeros(sums.shape[1])
    members = [reference]
    for place in rising:
        # Two systems that cannot be the reference are never compared.
        met = [other for other in members if rivals[place] or rivals[other] or other == reference]
        found = _over(np.abs(sums[met] - sums[place]), errors[place, met][:, None])
        largest = np.maximum(largest, found.max(axis=0))
        counts[place] = (largest >= seen[place] - _ROUNDING).sum()
        members.append(place)
    return counts


def _errors(rows: Float64[np.ndarray, "clusters systems"]) -> np.ndarray:
    """Return the standard error of each two systems' difference under swapping."""
    columns = [rows[:, [place]] for place in range(rows.shape[1])]
    return np.stack([np.sqrt(((rows - one) ** 2).sum(axis=0)) for one in columns])


def _luck(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the variance that the choice of seeds gives to each system's score.

    The parts are each system's shares ``[clusters, seeds]`` in the score of each seed.

    It is 0 where all trainings answered alike, else at least the mean of those that did not.
    """
    found = np.zeros(len(parts))
    differ = np.array([np.ptp(part, axis=1).max() > _ROUNDING for part in parts])
    for place, part in enumerate(parts):
        if differ[place]:
            centred = part - part.mean(axis=0)
            covariance = centred.T @ centred * (len(part) / max(1, len(part) - 1))
            found[place] = seed_variance(part.sum(axis=0), covariance)
    if differ.any():
        found[differ] = np.maximum(found[differ], found[differ].mean())
    return found


def _over(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the quotient; 0 where two systems' answers are worth the same for every cluster."""
    quotient = np.zeros_like(values)
    np.divide(values, errors, out=quotient, where=errors > _ROUNDING)
    return quotient
