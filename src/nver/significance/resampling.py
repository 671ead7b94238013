"""Drawing clusters with replacement, and scoring every draw.

A score needs only sums over clusters, so each cluster is one row of numbers, and a resample is a
weighted sum of rows: how often each was drawn. Clusters with equal rows are interchangeable: where
every clip is a cluster, a few kinds of rows stand for thousands of clips.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64, Num

from nver.metrics import Margins, Metric, margins

Score = Callable[[np.ndarray], np.ndarray]

_CELLS = 4_000_000  # numbers held at once while resampling: 32 MB


def score_of(
    confusions: Num[np.ndarray, "clusters *seeds classes classes"],
    metric: Metric | Callable[[np.ndarray], np.ndarray],
) -> tuple[Float64[np.ndarray, "clusters columns"], Score]:
    """Return one row per cluster, and what turns sums of rows into a score for each seed.

    The second returns ``[draws, seeds]`` from ``[draws, columns]``; all axes between the first and
    the last two count as seeds. The metrics of `nver.metrics` need the margins only; any other
    callable is given whole matrices.
    """
    clusters, classes = len(confusions), confusions.shape[-1]
    counts = confusions.reshape(clusters, -1, classes, classes)
    if not isinstance(metric, Metric):
        shape = counts.shape[1:]
        rows = counts.reshape(clusters, -1).astype(np.float64)
        return rows, lambda sums: np.asarray(metric(sums.reshape(len(sums), *shape)))
    found = np.stack(margins(counts), axis=1)  # [clusters, 3, seeds, classes]
    shape = found.shape[1:]

    def score(sums: np.ndarray) -> np.ndarray:
        return metric.function(Margins(*np.moveaxis(sums.reshape(len(sums), *shape), 1, 0)))

    return found.reshape(clusters, -1), score


def kinds_of(
    rows: Num[np.ndarray, "clusters columns"],
) -> tuple[
    Num[np.ndarray, "kinds columns"], Int64[np.ndarray, "kinds"], Int64[np.ndarray, "clusters"]
]:
    """Return the distinct rows, how many clusters have each, and which one each cluster has."""
    kinds, which, times = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    return kinds, times.astype(np.int64), which.reshape(-1).astype(np.int64)


def resampled(
    rows: Num[np.ndarray, "clusters columns"], score: Score, n: int, seed: int
) -> Float64[np.ndarray, "draws seeds"]:
    """Return the scores of `n` resamples of as many clusters as there are."""
    kinds, times, which = kinds_of(rows)
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // max(kinds.size, len(rows)))
    scores = []
    for start in range(0, n, step):
        size = min(step, n - start)
        scores.append(score(_weights(rng, times, which, size) @ kinds.astype(np.float64)))
    return np.concatenate(scores)


def _weights(
    rng: np.random.Generator, times: np.ndarray, which: np.ndarray, size: int
) -> np.ndarray:
    """Return how often each kind is drawn in each of `size` resamples, by the cheaper way."""
    clusters, kinds = len(which), len(times)
    if kinds * 4 < clusters:
        return rng.multinomial(clusters, times / clusters, size=size).astype(np.float64)
    drawn = which[rng.integers(0, clusters, size=(size, clusters))]
    drawn += np.arange(size)[:, None] * kinds
    counts = np.bincount(drawn.ravel(), minlength=size * kinds)
    return counts.reshape(size, kinds).astype(np.float64)
