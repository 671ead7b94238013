"""Figures as SVG: confusion matrices, and maps of what each encoder hears.

The drawings are small templates, not matplotlib: a matrix of 30 classes with its counts is a fifth
of the size (97 kB against 540), and every system of a run has one. The output depends on the input
alone, so two reports of one run are equal byte for byte.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from markupsafe import Markup

from nver.metrics import Confusion
from nver.report.render import render
from nver.shapes import Embeddings, Indices

COLOURS = ("#0072b2", "#d55e00", "#222222", "#a58084", "#7210de", "#783514")
"""Told apart under the three colour-vision deficiencies; 3:1 or more against white."""

SHAPES = ("disc", "triangle", "cross", "square", "ring")
"""Six colours and five shapes make 30 classes, no two alike: 6 and 5 have no common divisor."""

MAP_CLIPS = 2000
MAP_FEWEST = 5
MAP_COMPONENTS = 50
MAP_PERPLEXITY = 30.0

LONGEST_LABEL = 24
_CELL = 38
_MAP = 560.0
_MAP_MARGIN = 12.0
_KEY_WIDTH = 18

_SHADES = (
    (255, 255, 255),
    (222, 235, 247),
    (158, 202, 225),
    (66, 146, 198),
    (8, 81, 156),
    (8, 48, 107),
)


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


def confusion_svg(counts: Confusion, labels: Sequence[str], name: str) -> Markup:
    """Return a confusion matrix: the share of its row in each cell, with the count below.

    Parameters
    ----------
    counts : int64 [classes, classes]
        Truth in rows, predictions in columns.
    labels : sequence of str [classes]
        Long ones are cut.
    name : str
        What the matrix is of, for the text that a screen reader speaks.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    short = [shortened(label) for label in labels]
    left = round(26 + max(text_width(label) for label in short))
    slant = 0.71 * max(text_width(label) for label in short)
    cells = [
        _Cell(
            left + column * _CELL, row * _CELL, float(shares[row, column]), int(counts[row, column])
        )
        for row, column in np.argwhere(counts).tolist()
    ]
    return render(
        "confusion.svg",
        cells=cells,
        labels=short,
        totals=counts.sum(axis=1).tolist(),
        cell=_CELL,
        left=left,
        top=round(slant + 34),
        right=round(max(slant, 40) + 8),
        alt=f"Confusion matrix of {name}. {most_confused(counts, labels)}",
    )


def most_confused(counts: Confusion, labels: Sequence[str], shown: int = 3) -> str:
    """Return the largest confusions as a sentence: ``fear taken for surprise (34 %), …``."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0.0)
    order = np.argsort(-shares, axis=None, kind="stable")[:shown]
    places = [divmod(int(cell), len(labels)) for cell in order]
    phrases = [
        f"{labels[row]} taken for {labels[column]} ({100 * shares[row, column]:.0f} %)"
        for row, column in places
        if shares[row, column] > 0
    ]
    return f"Most frequent confusions: {', '.join(phrases)}." if phrases else "No confusions."


@dataclass(frozen=True)
class _Cell:
    x: int
    y: int
    share: float
    count: int

    @property
    def fill(self) -> str:
        return shade(self.share)

    @property
    def ink(self) -> str:
        return ink(self.fill)


def shade(share: float) -> str:
    """Return the colour of a share in [0, 1]: white to dark blue, evenly in between.

    >>> shade(0.0), shade(1.0)
    ('#ffffff', '#08306b')
    """
    channels = zip(*_SHADES, strict=True)
    steps = np.linspace(0, 1, len(_SHADES))
    return "#" + "".join(f"{round(float(np.interp(share, steps, c))):02x}" for c in channels)


def ink(fill: str) -> str:
    """Return black or white, whichever is read better on a colour (4.5:1 or more on any)."""
    light = luminance(fill)
    return "#000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#fff"


def luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb`` in [0, 1] (WCAG 2.2)."""
    values = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def map_svg(
    coordinates: Float[np.ndarray, "clips 2"],
    groups: Sequence[str],
    names: Sequence[str],
    encoder: str,
) -> Markup:
    """Return a map of clips as a scatter plot with its key.

    Parameters
    ----------
    coordinates : float [clips, 2]
        Where the clips lie; scaled alike on both axes to fill the picture.
    groups : sequence of str [clips]
        The group of each clip, one of `names`.
    names : sequence of str
        All groups; their order gives colour and shape. The 31st looks like the first again.
    encoder : str
        Whose map it is, for the text that a screen reader speaks.
    """
    points = _fitted(coordinates)
    member = np.asarray(groups)
    marks = [
        Mark(
            shortened(name),
            COLOURS[i % len(COLOURS)],
            SHAPES[i % len(SHAPES)],
            points[member == name],
        )
        for i, name in enumerate(names)
    ]
    per_line = 3 if all(len(mark.name) <= _KEY_WIDTH for mark in marks) else 2
    return render(
        "map.svg",
        marks=marks,
        size=round(_MAP),
        per_line=per_line,
        lines=-(-len(marks) // per_line),
        alt=f"t-SNE map of {len(points)} clips as {encoder} hears them, marked by label.",
    )


@dataclass(frozen=True, eq=False)
class Mark:
    """How the clips of one group are drawn, and where."""

    name: str
    colour: str
    shape: str
    points: Float[np.ndarray, "n 2"]

    @property
    def path(self) -> str:
        """SVG path data: the shape at every point."""
        return "".join(_glyph(self.shape, x, y) for x, y in self.points.tolist())

    @property
    def key(self) -> str:
        """SVG path data of the shape at the origin, for the key."""
        return _glyph(self.shape, 0.0, 0.0)


def _glyph(shape: str, x: float, y: float) -> str:
    if shape == "disc":
        return f"M{x:.1f} {y:.1f}h.01"  # a dot: the round ends of a stroke without length
    if shape == "triangle":
        return f"M{x:.1f} {y - 4.2:.1f}l4 7h-8z"
    if shape == "cross":
        return f"M{x - 3:.1f} {y - 3:.1f}l6 6m0-6l-6 6"
    if shape == "square":
        return f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z"
    return f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0-6 0"


def _fitted(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Return points centred in the picture, both axes on one scale."""
    points = np.asarray(points, dtype=np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    scale = (_MAP - 2 * _MAP_MARGIN) / span
    fitted: np.ndarray = (points - (low + high) / 2) * scale + _MAP / 2
    return fitted


def shortened(label: str) -> str:
    """Return a label of at most 24 characters."""
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def text_width(text: str) -> float:
    """Return about how wide a text is at 12 px, in px; a Chinese or Japanese sign counts double."""
    return sum(12.5 if unicodedata.east_asian_width(sign) in "WF" else 6.8 for sign in text)
