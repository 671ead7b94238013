"""The map of an encoder: where each clip lies, by t-SNE. Everything else in the report draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from nver.shapes import Embeddings, Indices

MAP_CLIPS = 2000
MAP_FEWEST = 5
MAP_COMPONENTS = 50
MAP_PERPLEXITY = 30.0


@dataclass(frozen=True, eq=False)
class Projection:
    """A map of clips.

    Parameters
    ----------
    indices : int [n]
        Which rows of the embeddings are on the map, ascending.
    coordinates : float32 [n, 2]
        Where they lie; the axes have no unit.
    """

    indices: Indices
    coordinates: Float32[np.ndarray, "n 2"]


def project(
    X: Embeddings, labels: Sequence[str], *, seed: int = 0, limit: int = MAP_CLIPS
) -> Projection:
    """Return a t-SNE map of embeddings: clips that sound alike to the encoder lie together.

    Columns are standardised, reduced to their first 50 principal components, and mapped by
    Barnes-Hut t-SNE (van der Maaten, JMLR 15, 2014) with perplexity 30, less where there are fewer
    than 91 clips. One thread computes it, so that a seed gives the same map on any number of cores.

    Parameters
    ----------
    X : float32 [clips, dim]
        Embeddings of one encoder, finite.
    labels : sequence of str [clips]
        Their classes.
    seed : int
        Of the choice of clips and of the map.
    limit : int
        Most clips on the map. Of more, every class keeps its share and at least one clip.

    Returns
    -------
    Projection
        Empty where there are fewer than 5 clips: t-SNE says nothing then. Clips whose embeddings
        are all equal lie in one point.
    """
    rng = np.random.default_rng(seed)
    indices = stratified(labels, limit, rng)
    if indices.size < MAP_FEWEST:
        return Projection(indices[:0], np.empty((0, 2), dtype=np.float32))
    coordinates = np.zeros((indices.size, 2), dtype=np.float32)
    chosen = X[indices].astype(np.float64)
    if np.ptp(chosen, axis=0).any():
        coordinates[:] = _tsne(chosen, seed)
    return Projection(indices, coordinates)


def stratified(labels: Sequence[str], limit: int, rng: np.random.Generator) -> Indices:
    """Return at most `limit` indices, ascending, with every class in its share.

    The i-th clip of a class of n, in random order, gets the rank i / n; the lowest ranks are taken.
    The first clip of every class has rank 0, so no class is lost while `limit` allows it.
    """
    names, codes, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    ranks = np.empty(len(codes))
    for code in range(len(names)):
        ranks[codes == code] = rng.permutation(sizes[code]) / sizes[code]
    return np.sort(np.argsort(ranks, kind="stable")[:limit])


def _tsne(X: Float[np.ndarray, "clips dim"], seed: int) -> Float32[np.ndarray, "clips 2"]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    clips, dim = X.shape
    with threadpool_limits(1):
        reduced = PCA(min(MAP_COMPONENTS, clips, dim), random_state=seed).fit_transform(
            StandardScaler().fit_transform(X)
        )
        tsne = TSNE(
            perplexity=min(MAP_PERPLEXITY, (clips - 1) / 3),
            init="pca" if reduced.shape[1] > 1 else "random",
            random_state=seed,
            n_jobs=1,
        )
        return np.asarray(tsne.fit_transform(reduced), dtype=np.float32)
