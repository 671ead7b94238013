"""Colours that can be told apart, shades that can be read, and labels that fit.

The drawings are small templates, not matplotlib: a matrix of 30 classes with its counts is a fifth
of the size (97 kB against 540), and every system of a run has one. The output depends on the input
alone, so two reports of one run are equal byte for byte.
"""

from __future__ import annotations

import unicodedata

import numpy as np

COLOURS = ("#0072b2", "#d55e00", "#222222", "#a58084", "#7210de", "#783514")
"""Told apart under the three colour-vision deficiencies; 3:1 or more against white."""

SHAPES = ("disc", "triangle", "cross", "square", "ring")
"""Six colours and five shapes make 30 classes, no two alike: 6 and 5 have no common divisor."""

LONGEST_LABEL = 24

_SHADES = (
    (255, 255, 255),
    (222, 235, 247),
    (158, 202, 225),
    (66, 146, 198),
    (8, 81, 156),
    (8, 48, 107),
)


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


def shortened(label: str) -> str:
    """Return a label of at most 24 characters."""
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def text_width(text: str) -> float:
    """Return about how wide a text is at 12 px, in px; a Chinese or Japanese sign counts double."""
    return sum(12.5 if unicodedata.east_asian_width(sign) in "WF" else 6.8 for sign in text)
