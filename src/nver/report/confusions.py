"""Confusion matrices as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from nver.metrics import Confusion
from nver.report.colours import ink, shade, shortened, text_width
from nver.report.render import render

_CELL = 38


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
        _Cell(column * _CELL, row * _CELL, float(shares[row, column]), int(counts[row, column]))
        for row, column in np.argwhere(counts).tolist()
    ]
    # cells of one colour are one path, and their texts share its ink: half the size
    fills: dict[str, str] = {}
    inks: dict[str, list[_Cell]] = {}
    for cell in cells:
        square = f"M{cell.x} {cell.y}h{_CELL}v{_CELL}h-{_CELL}z"
        fills[cell.fill] = fills.get(cell.fill, "") + square
        inks.setdefault(cell.ink, []).append(cell)
    return render(
        "confusion.svg",
        fills=fills.items(),
        inks=inks.items(),
        labels=short,
        totals=counts.sum(axis=1).tolist(),
        cell=_CELL,
        left=left,
        top=round(slant + 44),
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
