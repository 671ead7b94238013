"""Which systems of a table can be told from one of them, where that one may be the best of them.

The best system of a table is chosen on the clips on which it is then compared, and the more systems
there are, the larger is its lead by chance alone. A correction for the number of tests does not
allow for that. The model confidence set does (Hansen, Lunde and Nason 2011, Econometrica 79): the
systems that are left in it hold every truly best one with probability 1 - alpha.

Its null distribution is that of the largest difference between any two systems, each over its own
standard error, so the choice of the best is in it. It comes of swapping, step by step, with what
the seeds add, as in `nver.significance.multiple`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Num

from nver.metrics import Metric
from nver.significance.multiple import swapped


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
    systems, metric, n, seed
        As in `step_down`.
    reference : int
        Place of the system with which the others are compared.
    rivals : bool [systems]
        Those of which the reference would have been another, had they scored higher. None of them
        for a reference that was named beforehand; then only the number of systems is corrected for.

    Raises
    ------
    EvaluationError
        As in `step_down`.

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
    found = swapped(systems, metric, n=n, seed=seed)
    if found is None:
        return ConfidenceSet(reference, np.full(len(systems), math.nan), 0, exact=False)
    places = np.arange(len(systems))
    seen = found.observed(places, np.full_like(places, reference))
    # The largest first; what is judged later stays in the null distribution of what is before it.
    order = [int(place) for place in np.argsort(-seen, kind="stable") if place != reference]
    p = np.ones(len(systems))
    members, largest = [reference], np.zeros(found.sums.shape[1])
    for place in reversed(order):
        # Two systems that cannot be the reference are never compared.
        met = [other for other in members if rivals[place] or rivals[other] or other == reference]
        largest = np.maximum(largest, found.largest(np.array(met), place))
        p[place] = found.p(largest, seen[place])
        members.append(place)
    p[order] = np.maximum.accumulate(p[order])
    return ConfidenceSet(reference, p, found.swaps, found.exact)
