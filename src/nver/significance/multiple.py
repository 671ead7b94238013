"""Many tests in one table: with twenty of them at .05, one is below .05 by chance alone.

The tests are made at once. A cluster's answers are swapped in all pairs of systems together, which
turns the sign of all of its differences, and leaves how alike the systems are as it is. The null
distribution of a table is that of the largest of its differences, each over its own standard error
under swapping. The pair that differs most is judged first, then each of the others without those
judged before it (step-down max-T: Westfall and Young 1993, Resampling-Based Multiple Testing;
Romano and Wolf 2005, JASA 100). For a single pair that is `permutation_test`.

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
from jaxtyping import Float64, Num

from nver.errors import EvaluationError
from nver.metrics import Metric
from nver.significance.bootstrap import check_paired
from nver.significance.intervals import seed_variance
from nver.significance.paired import signed_sums
from nver.significance.resampling import hits_and_weights

_ROUNDING = 1e-10  # sums of the same numbers in another order differ by less


@dataclass(frozen=True, eq=False)
class Swapped:
    """The scores of several systems, seen and swapped in many ways, each less that of one of them.

    Parameters
    ----------
    seen : float64 [systems]
        As they are.
    sums : float64 [systems, ways]
        With the clusters' answers swapped.
    errors : float64 [systems, systems]
        Standard error of each two systems' difference under swapping.
    luck : float64 [systems]
        Variance that the choice of seeds gives to each score.
    exact : bool
        Whether these are all ways of swapping there are.
    """

    seen: Float64[np.ndarray, "systems"]
    sums: Float64[np.ndarray, "systems ways"]
    errors: Float64[np.ndarray, "systems systems"]
    luck: Float64[np.ndarray, "systems"]
    exact: bool

    @property
    def swaps(self) -> int:
        """How many ways were tried, the given one among them."""
        return int(self.sums.shape[1]) + (0 if self.exact else 1)

    def observed(self, first: np.ndarray, second: np.ndarray) -> Float64[np.ndarray, "pairs"]:
        """Return the statistic of each pair, with what the seeds add to its standard error."""
        errors = np.sqrt(self.errors[first, second] ** 2 + self.luck[first] + self.luck[second])
        return _over(np.abs(self.seen[first] - self.seen[second]), errors)

    def largest(self, first: np.ndarray, second: int) -> Float64[np.ndarray, "ways"]:
        """Return, for every way of swapping, the largest statistic of a system and several."""
        gaps = np.abs(self.sums[first] - self.sums[second])
        found: np.ndarray = _over(gaps, self.errors[first, second][:, None]).max(axis=0)
        return found

    def p(self, largest: Float64[np.ndarray, "ways"], statistic: float) -> float:
        """Return the share of ways, the given one among them, in which it is as large."""
        extreme = int((largest >= statistic - _ROUNDING).sum())
        return (extreme + (0 if self.exact else 1)) / self.swaps


def swapped(
    systems: Sequence[Num[np.ndarray, "..."]],
    metric: Metric,
    *,
    n: int = 9999,
    seed: int = 0,
) -> Swapped | None:
    """Swap the answers of several systems, cluster by cluster; None where a score is undefined.

    Arguments and errors are those of `step_down`. The order of the systems does not matter, for the
    random ways either.
    """
    if n < 1:
        raise EvaluationError(f"Expected at least one random way of swapping, got {n}.")
    if not metric.linear:
        raise EvaluationError(f"Expected a score that is linear in the hits, got {metric.title}.")
    for other in systems:
        check_paired(systems[0], other)
    found = [hits_and_weights(counts, metric) for counts in systems]
    weights = found[0][1]
    each = [hits.mean(axis=1) for hits, _ in found]
    # Which way a random sign turns a cluster hangs on the columns: they stand by their contents.
    order = sorted(range(len(each)), key=lambda place: each[place].tobytes())
    hits = np.stack([each[place] for place in order], axis=1)
    rows = (hits - hits[:, :1]) @ weights  # [clusters, systems]
    rows = rows[np.any(rows != 0, axis=1)]
    if np.isnan(rows).any():
        return None
    sums, exact = signed_sums(rows, n, np.random.default_rng(seed))
    luck = _luck([hits @ weights for hits, _ in found])
    back = np.argsort(order)
    errors = _errors(rows)[np.ix_(back, back)]
    return Swapped(rows.sum(axis=0)[back], sums.T[back], errors, luck, exact)


def step_down(
    systems: Sequence[Num[np.ndarray, "..."]],
    metric: Metric,
    pairs: Sequence[tuple[int, int]],
    *,
    beside: Sequence[tuple[int, int]] = (),
    n: int = 9999,
    seed: int = 0,
) -> Float64[np.ndarray, "pairs"]:
    """Return the p of the difference of each pair of systems, corrected over the table.

    Parameters
    ----------
    systems : sequence of array [clusters, ..., classes, classes]
        Counts of each system, of the same clips. Axes between are seeds, whose mean is compared;
        their numbers may differ.
    metric : Metric
        The score; one that is linear in the hits (`Metric.linear`).
    pairs : sequence of two int
        Places of the two systems of each pair.
    beside : sequence of two int
        Pairs that would have been judged in place of one of these, had they differed more.
    n : int
        Random ways of swapping, from 1. All ways are tried instead where they are no more.
    seed : int
        Of the generator; the same seed gives the same p.

    Returns
    -------
    float64 [pairs]
        In (0, 1]; NaN where a score is undefined.

    Raises
    ------
    EvaluationError
        If the systems are not of the same clips, the score is not linear, or `n` is below 1.

    Examples
    --------
    >>> from nver.metrics import METRICS
    >>> good, fair = np.array([[[4, 0], [1, 3]]] * 8), np.array([[[3, 1], [2, 2]]] * 8)
    >>> step_down([good, fair, good], METRICS["uar"], [(0, 1), (0, 2)]).tolist()
    [0.0078125, 1.0]
    """
    found = swapped(systems, metric, n=n, seed=seed)
    if found is None:
        return np.full(len(pairs), math.nan)
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    seen = found.observed(first, second)
    largest = np.zeros(found.sums.shape[1])
    for place in {two for _, two in beside}:
        others = np.array([one for one, two in beside if two == place])
        largest = np.maximum(largest, found.largest(others, place))
    # The smallest first: each is judged with those that are smaller.
    p = np.ones(len(pairs))
    rising = np.argsort(seen, kind="stable")
    for place in rising:
        largest = np.maximum(largest, found.largest(first[[place]], int(second[place])))
        p[place] = found.p(largest, seen[place])
    p[rising[::-1]] = np.maximum.accumulate(p[rising[::-1]])
    return p


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
