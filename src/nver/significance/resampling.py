"""Drawing clusters with replacement, and scoring every draw.

A score needs only sums over clusters, so each cluster is one row of numbers, and a resample is a
weighted sum of rows: how often each was drawn. Clusters with equal rows are interchangeable: where
every clip is a cluster, a few kinds of rows stand for thousands of clips.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int64, Num

from nver.metrics import Margins, Metric, margins

Score = Callable[[np.ndarray], np.ndarray]

_CELLS = 4_000_000  # numbers held at once while resampling: 32 MB
_FEW = 200  # with no more clusters, looking for equal ones costs more than it saves


def score_of(
    sides: Sequence[Num[np.ndarray, "..."]],
    metric: Metric | Callable[[np.ndarray], np.ndarray],
) -> tuple[Float64[np.ndarray, "clusters columns"], Score]:
    """Return one row per cluster, and what turns sums of rows into a score for each seed.

    `sides` are counts ``[clusters, ..., classes, classes]`` of the same clusters; all axes between
    count as seeds, and those of all sides stand one after the other. The second result returns
    ``[draws, seeds]`` from ``[draws, columns]``. The metrics of `nver.metrics` need the margins
    only; any other callable is given whole matrices.
    """
    classes = sides[0].shape[-1]
    seeded = [side.reshape(len(side), -1, classes, classes) for side in sides]
    if not isinstance(metric, Metric):
        counts = np.concatenate(seeded, axis=1).astype(np.float64)
        shape = counts.shape[1:]
        rows = counts.reshape(len(counts), -1)
        return rows, lambda sums: np.asarray(metric(sums.reshape(len(sums), *shape)))
    found = Margins(
        *(np.concatenate(part, axis=1) for part in zip(*map(margins, seeded), strict=True))
    )
    if metric.linear and (found.true == found.true[:, :1]).all():
        return _linear(found, metric)
    table = np.stack(found, axis=1)  # [clusters, 3, seeds, classes]
    shape = table.shape[1:]

    def score(sums: np.ndarray) -> np.ndarray:
        return metric.function(Margins(*np.moveaxis(sums.reshape(len(sums), *shape), 1, 0)))

    return table.reshape(len(table), -1), score


def _linear(found: Margins, metric: Metric) -> tuple[np.ndarray, Score]:
    """Return the same for a score that asks for hits and truth alone, the truth kept once."""
    clusters, *shape = found.hits.shape
    rows = np.concatenate([found.hits.reshape(clusters, -1), found.true[:, 0]], axis=1)
    width = rows.shape[1] - shape[-1]

    def score(sums: np.ndarray) -> np.ndarray:
        hits = sums[:, :width].reshape(len(sums), *shape)
        true = np.broadcast_to(sums[:, None, width:], hits.shape)
        return metric.function(Margins(hits, true, np.broadcast_to(np.nan, hits.shape)))

    return rows, score


def hits_and_weights(
    counts: Num[np.ndarray, "clusters *seeds classes classes"], metric: Metric
) -> tuple[Float64[np.ndarray, "clusters repetitions classes"], Float64[np.ndarray, "classes"]]:
    """Return what a metric that is linear in the hits is made of: score = sum of hits @ weights.

    The truth must be the same in every seed.
    """
    classes = counts.shape[-1]
    found = margins(counts.reshape(len(counts), -1, classes, classes))
    true = np.broadcast_to(found.true[:, 0].sum(axis=0), (classes, classes))
    weights = metric.function(Margins(np.eye(classes), true, np.zeros((classes, classes))))
    return found.hits.copy(), weights  # a view would hold on to the whole matrices


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
    if n == 0:
        return np.empty((0, score(rows[:1]).shape[1]))
    # Whole numbers below 2^24 are exact in float32, and summed twice as fast.
    exact = (rows == np.rint(rows)).all() and len(rows) * np.abs(rows).max() < 2**24
    rows = rows.astype(np.float32 if exact else np.float64)
    step = max(1, _CELLS // max(rows.shape))
    scores = []
    for table, times in _weights(rows, n, seed, step):
        scores.append(score((times.astype(rows.dtype) @ table).astype(np.float64)))
    return np.concatenate(scores)


def _weights(
    rows: np.ndarray, n: int, seed: int, step: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows, and how often each is drawn in each of at most `step` resamples."""
    clusters = len(rows)
    if clusters > _FEW:
        kinds, times, _ = kinds_of(rows)
        if len(kinds) * 4 < clusters:
            rng = np.random.default_rng(seed)
            for start in range(0, n, step):
                size = min(step, n - start)
                yield kinds, rng.multinomial(clusters, times / clusters, size=size)
            return
    if n * clusters <= _CELLS:
        yield from ((rows, part) for part in _parts(_drawn(clusters, n, seed), step))
        return
    rng = np.random.default_rng(seed)
    for start in range(0, n, step):
        yield rows, _times(rng, clusters, min(step, n - start))


def _parts(weights: np.ndarray, step: int) -> Iterator[np.ndarray]:
    for start in range(0, len(weights), step):
        yield weights[start : start + step]


@functools.lru_cache(maxsize=4)
def _drawn(clusters: int, n: int, seed: int) -> np.ndarray:
    """Return the same again for other scores of as many clusters: 8 MB at most."""
    return _times(np.random.default_rng(seed), clusters, n)


def _times(rng: np.random.Generator, clusters: int, size: int) -> np.ndarray:
    """Return how often each cluster is drawn in each of `size` resamples."""
    drawn = rng.integers(0, clusters, size=(size, clusters))
    drawn += np.arange(size)[:, None] * clusters
    counts = np.bincount(drawn.ravel(), minlength=size * clusters)
    return counts.reshape(size, clusters).astype(np.uint16)
