"""Small charts as SVG: lines with bands, and values with their interval on a track."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from nver.report.render import render

TRACK = 170
"""Width of a track, in px."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Whisker:
    """Where a value, its interval and its references lie on a track, in px; None where undefined.

    Parameters
    ----------
    value, low, high : float or None
        The dot and the ends of its bar.
    chance : float or None
        The dashed line.
    linear : float or None
        The blue line.
    """

    value: float | None
    low: float | None
    high: float | None
    chance: float | None = None
    linear: float | None = None


def whisker(
    value: float, low: float, high: float, *, end: float, chance: float = math.nan
) -> Whisker:
    """Return the whisker of fractions on a track from 0 to `end`."""
    return Whisker(along(value, end), along(low, end), along(high, end), along(chance, end))


def along(value: float, end: float, start: float = 0.0) -> float | None:
    """Return where a value lies on a track, in px, held within it; None for NaN."""
    if math.isnan(value):
        return None
    share = (value - start) / (end - start)
    return round(TRACK * min(max(share, 0.0), 1.0), 1)


def ceiling(values: Sequence[float]) -> float:
    """Return where tracks end: the next ten percent above every value that is drawn.

    >>> ceiling([0.42, 0.56, float("nan")]), ceiling([])
    (0.6, 0.1)
    """
    return min(1.0, math.ceil(10 * max([0.1, *(v for v in values if not math.isnan(v))])) / 10)


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Parameters
    ----------
    name : str
        For the key.
    look : str
        Class of the style sheet: ``first``, ``second`` or ``ideal``.
    points : sequence of (x, y)
        In data coordinates, from left to right.
    low, high : sequence of float
        The band around it, where there is one.
    dots : sequence of float
        Radius of the dot at each point, in px, where there are dots.
    """

    name: str
    look: str
    points: Sequence[Point]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dots: Sequence[float] = ()


@dataclass(frozen=True)
class Axis:
    """An axis: its name, its ends, and the values that get a tick with their text."""

    name: str
    start: float
    end: float
    ticks: Sequence[tuple[float, str]] = field(default_factory=tuple)


SHARE = tuple((tick / 4, f"{25 * tick}") for tick in range(5))
"""Ticks of a share, in percent."""


def line_chart(
    lines: Sequence[Line], x: Axis, y: Axis, alt: str, *, width: int = 340, height: int = 260
) -> Markup:
    """Return a chart of lines.

    Parameters
    ----------
    lines : sequence of Line
        Drawn in this order.
    x, y : Axis
        Every point lies between their ends, or is moved there.
    alt : str
        What a screen reader says.
    width, height : int
        In px.
    """
    left, top, right, bottom = 46, 8, width - 14, height - 40

    def place(point: Point) -> Point:
        across = (point[0] - x.start) / ((x.end - x.start) or 1.0)
        up = (point[1] - y.start) / ((y.end - y.start) or 1.0)
        across, up = (min(max(share, 0.0), 1.0) for share in (across, up))
        return round(left + across * (right - left), 1), round(bottom - up * (bottom - top), 1)

    def path(points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{px} {py}" for px, py in map(place, points)) if points else ""

    def band(line: Line) -> str:
        if not line.low:
            return ""
        xs = [point[0] for point in line.points]
        upper = list(zip(xs, line.high, strict=True))
        lower = list(zip(xs, line.low, strict=True))[::-1]
        return path(upper + lower) + "z"

    return render(
        "chart.svg",
        width=width,
        height=height,
        box=(left, top, right, bottom),
        xticks=[(place((value, y.start))[0], text) for value, text in x.ticks],
        yticks=[(place((x.start, value))[1], text) for value, text in y.ticks],
        xname=x.name,
        yname=y.name,
        lines=[
            (
                line.look,
                path(line.points),
                band(line),
                [(*place(p), r) for p, r in zip(line.points, line.dots, strict=False)],
            )
            for line in lines
        ],
        alt=alt,
    )


def ticks(start: float, end: float, about: int = 4) -> list[tuple[float, str]]:
    """Return round values between two ends, about as many as asked for.

    >>> ticks(0, 29), ticks(0.4, 1.3)
    ([(0.0, '0'), (10.0, '10'), (20.0, '20')], [(0.5, '0.5'), (1.0, '1')])
    """
    raw = (end - start) / about or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = math.ceil(start / step - 1e-9), math.floor(end / step + 1e-9)
    return [(number * step, f"{number * step:g}") for number in range(first, last + 1)]
