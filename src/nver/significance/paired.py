"""Tests of two systems on the same clips: permutation over speakers, McNemar, effect sizes.

If two systems are equally good, a speaker's two sets of answers could as well have come the other
way round. The permutation test swaps them, speaker by speaker, in all ways or in many random ones,
and asks how often the difference is as large as the one that was seen (Good 2005, Permutation,
Parametric and Bootstrap Tests of Hypotheses; for classifiers: Noreen 1989). All seeds of a speaker
are swapped together, since they are answers to the same clips.

McNemar's test is of single clips, and only right where clips are independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Num

from nver.errors import EvaluationError
from nver.metrics import Margins, Metric, margins
from nver.significance.bootstrap import check_paired
from nver.significance.resampling import Score, hits_and_weights, kinds_of

_CELLS = 4_000_000  # numbers held at once: 32 MB
_BITS = 60  # more clusters have more ways than fit into an integer
_ROUNDING = 1e-12  # sums of the same numbers in another order differ by less


@dataclass(frozen=True)
class PermutationTest:
    """How unusual a difference is where nothing but chance tells two systems apart.

    Parameters
    ----------
    difference : float
        Score of the first minus score of the second.
    p : float
        Two-sided; NaN where the difference is undefined.
    swaps : int
        Ways of swapping that were tried, the given one among them.
    exact : bool
        Whether these are all. If not, ``p = (b + 1) / swaps``, where b of the random ones were as
        extreme (Phipson and Smyth 2010), which is never 0.
    discordant : int
        Clusters in which the systems differ; the others cannot tell them apart.
    """

    difference: float
    p: float
    swaps: int
    exact: bool
    discordant: int


@dataclass(frozen=True)
class McNemar:
    """Exact test of the clips that one system alone got right.

    Parameters
    ----------
    b, c : int
        Clips that only the first, and only the second, got right.
    p : float
        Two-sided, of ``b`` under Binomial(b + c, 1/2); 1 where both are 0.
    """

    b: int
    c: int
    p: float


def permutation_test(
    first: Num[np.ndarray, "clusters *seeds classes classes"],
    second: Num[np.ndarray, "others *repeats classes classes"],
    metric: Metric,
    *,
    n: int = 9999,
    seed: int = 0,
) -> PermutationTest:
    """Return the test of no difference, swapping the systems' answers cluster by cluster.

    Parameters
    ----------
    first, second : array [clusters, ..., classes, classes]
        Counts of the same clusters. Axes between are seeds, whose mean is compared; where the
        numbers of seeds differ, both are repeated to the same number.
    metric : Metric
        The score.
    n : int
        Random ways of swapping, from 1. All ways are tried instead where they are no more.
    seed : int
        Of the generator; the same seed gives the same p.

    Raises
    ------
    EvaluationError
        If the two are not of the same clips, or `n` is below 1.

    Examples
    --------
    >>> from nver.metrics import METRICS
    >>> better, worse = np.array([[[3, 1], [1, 3]]] * 4), np.array([[[2, 2], [2, 2]]] * 4)
    >>> test = permutation_test(better, worse, METRICS["uar"])
    >>> test.difference, test.p, test.exact
    (0.25, 0.125, True)
    """
    if n < 1:
        raise EvaluationError(f"Expected at least one random way of swapping, got {n}.")
    check_paired(first, second)
    sides = [_seeded(side) for side in (first, second)]
    seeds = math.lcm(*(side.shape[1] for side in sides))
    sides = [np.tile(side, (1, seeds // side.shape[1], 1, 1)) for side in sides]
    rows, score = (_linear if metric.linear else _general)(sides[0], sides[1], metric)
    rows = rows[np.any(rows != 0, axis=1)]
    observed = float(score(rows.sum(axis=0, keepdims=True))[0])
    if math.isnan(observed):
        return PermutationTest(observed, math.nan, 0, exact=False, discordant=len(rows))
    parts, exact = _sums(rows, n, np.random.default_rng(seed))
    found = np.concatenate([np.abs(score(part)) for part in parts])
    extreme = int((found >= abs(observed) - _ROUNDING).sum())
    if exact:
        return PermutationTest(observed, extreme / len(found), len(found), True, len(rows))
    return PermutationTest(observed, (extreme + 1) / (n + 1), n + 1, False, len(rows))


def mcnemar(first: Bool[np.ndarray, "clips"], second: Bool[np.ndarray, "others"]) -> McNemar:
    """Return McNemar's exact test of which clips two systems got right.

    Parameters
    ----------
    first, second : bool [clips]
        Whether each clip was right. The clips must be independent: none of the same speaker.

    Raises
    ------
    EvaluationError
        If the numbers of clips differ.

    Examples
    --------
    >>> mcnemar(np.array([True] * 5 + [False]), np.array([False] * 5 + [True]))
    McNemar(b=5, c=1, p=0.21875)
    """
    from scipy.stats import binomtest

    if len(first) != len(second):
        raise EvaluationError(
            f"Expected the same clips on both sides, got {len(first)} and {len(second)}."
        )
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(b, b + c).pvalue) if b + c else 1.0
    return McNemar(b, c, p)


def cohens_g(test: McNemar) -> float:
    """Return ``b / (b + c) - 1/2``, in [-1/2, 1/2]: the first's share of the one-sided successes.

    After Cohen (1988): .05 is small, .15 medium, .25 large. NaN where no clip tells them apart.
    """
    discordant = test.b + test.c
    return test.b / discordant - 0.5 if discordant else math.nan


def standardised_difference(
    first: Num[np.ndarray, "clusters *seeds classes classes"],
    second: Num[np.ndarray, "others *repeats classes classes"],
    metric: Metric,
) -> float:
    """Return d_z: the clusters' mean difference of score over its standard deviation.

    ``d_z = mean_k(D_k) / sd_k(D_k)``, D_k the difference of cluster k alone, the mean over seeds
    (Lakens 2013, Frontiers in Psychology 4). 0.2 is small, 0.5 medium, 0.8 large; speakers count
    alike, whatever their number of clips. NaN for fewer than two clusters, and where all
    differences are equal.

    Raises
    ------
    EvaluationError
        If the two are not of the same clips.
    """
    check_paired(first, second)
    each = [metric(_seeded(side)).mean(axis=1) for side in (first, second)]
    differences = each[0] - each[1]
    if len(differences) < 2:
        return math.nan
    spread = float(differences.std(ddof=1))
    return float(differences.mean()) / spread if spread > _ROUNDING else math.nan


def _seeded(counts: np.ndarray) -> np.ndarray:
    return counts.reshape(len(counts), -1, *counts.shape[-2:])


def signed_sums(
    rows: Float64[np.ndarray, "clusters columns"], n: int, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "ways columns"], bool]:
    """Return the sums of the rows with their signs turned in all ways, or in `n` random ones.

    All where they are no more than ``n + 1``; the second result says so.
    """
    parts, exact = _sums(rows, n, rng)
    return np.concatenate(list(parts)), exact


def _sums(rows: np.ndarray, n: int, rng: np.random.Generator) -> tuple[Iterator[np.ndarray], bool]:
    if len(rows) < _BITS and 2 ** len(rows) <= n + 1:
        return _all_sums(rows), True
    return _random_sums(rows, n, rng), False


def _all_sums(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the signed sums of the rows, for every choice of signs."""
    ways = 2 ** len(rows)
    step = max(1, _CELLS // max(1, *rows.shape))
    for start in range(0, ways, step):
        codes = np.arange(start, min(start + step, ways))[:, None]
        yield (1.0 - 2.0 * (codes >> np.arange(len(rows)) & 1)) @ rows


def _random_sums(rows: np.ndarray, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the signed sums of the rows for `n` random choices of signs.

    Rows that are equal but for the sign are one kind, of which a binomial number is turned.
    """
    leading = rows[np.arange(len(rows)), np.argmax(rows != 0, axis=1)]
    kinds, times, _ = kinds_of(rows * np.sign(leading)[:, None])
    step = max(1, _CELLS // max(kinds.shape))
    for start in range(0, n, step):
        size = (min(step, n - start), len(kinds))
        single = len(kinds) == len(rows)  # then a bit is enough, and several times as fast
        turned = rng.integers(0, 2, size, np.int8) if single else rng.binomial(times, 0.5, size)
        yield (2.0 * turned - times) @ kinds


def _linear(first: np.ndarray, second: np.ndarray, metric: Metric) -> tuple[np.ndarray, Score]:
    """Return each cluster's share in the difference [clusters, 1]; a swap turns its sign.

    A score that is linear in the hits needs no more, since swaps leave the truth as it is.
    """
    one, weights = hits_and_weights(first, metric)
    other, _ = hits_and_weights(second, metric)
    hits = (one - other).mean(axis=1)
    return (hits @ weights)[:, None], lambda sums: sums[:, 0]


def _general(first: np.ndarray, second: np.ndarray, metric: Metric) -> tuple[np.ndarray, Score]:
    """Return half the difference of the margins of each cluster; a swap turns its sign.

    The sums of the two sides are their mean plus and minus the signed sum of these.
    """
    one, other = (np.stack(margins(side), axis=1) for side in (first, second))
    shape = one.shape[1:]
    rows = ((one - other) / 2).reshape(len(one), -1)
    middle = ((one + other) / 2).sum(axis=0).reshape(-1)

    def score(sums: np.ndarray) -> np.ndarray:
        sides = (side.reshape(-1, *shape) for side in (middle + sums, middle - sums))
        one, other = (
            metric.function(Margins(*np.moveaxis(side, 1, 0))).mean(axis=1) for side in sides
        )
        return np.asarray(one - other)

    return rows, score
