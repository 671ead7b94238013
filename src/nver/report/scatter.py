"""The map of an encoder as SVG: a scatter plot of clips with its key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from nver.report.colours import COLOURS, SHAPES, shortened
from nver.report.render import render

_MAP = 560.0
_MAP_MARGIN = 12.0
_KEY_WIDTH = 18

LOOKS = 30
"""Six colours times five shapes."""


def map_svg(
    coordinates: Float[np.ndarray, "clips 2"],
    groups: Sequence[str],
    names: Sequence[str],
    encoder: str,
    by: str = "label",
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
    by : str
        What the groups are. With more groups than looks there is no key: it would not tell them
        apart.
    """
    points = placed(coordinates)
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
    keys = marks if by == "label" or len(marks) <= LOOKS else []
    per_line = 3 if all(len(mark.name) <= _KEY_WIDTH for mark in marks) else 2
    return render(
        "map.svg",
        marks=marks,
        keys=keys,
        by=by,
        size=round(_MAP),
        per_line=per_line,
        lines=-(-len(keys) // per_line),
        alt=f"t-SNE map of {len(points)} clips as {encoder} hears them, marked by {by}.",
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


def placed(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Return where points lie in the picture, in px: centred, both axes on one scale."""
    points = np.asarray(points, dtype=np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    scale = (_MAP - 2 * _MAP_MARGIN) / span
    fitted: np.ndarray = (points - (low + high) / 2) * scale + _MAP / 2
    return fitted


def neighbours(
    coordinates: Float[np.ndarray, "clips 2"], groups: Sequence[str]
) -> tuple[float, float]:
    """Return how often a clip's nearest neighbour on the map is of its own group, and by chance.

    Both in [0, 1]; chance is what a map that knows nothing of the groups would give. NaN for fewer
    than two clips.
    """
    if len(groups) < 2:
        return math.nan, math.nan
    from scipy.spatial import cKDTree

    _, nearest = cKDTree(np.asarray(coordinates, dtype=np.float64)).query(coordinates, k=2)
    clips = np.arange(len(groups))
    # of two clips in one point either may come first
    other = np.where(nearest[:, 0] == clips, nearest[:, 1], nearest[:, 0])
    _, codes, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    chance = float((counts * (counts - 1)).sum() / (len(groups) * (len(groups) - 1)))
    return float((codes[other] == codes).mean()), chance
