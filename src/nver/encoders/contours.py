"""From contours (values over the frames of a clip) to a fixed set of numbers: functionals.

Moments and quantiles forget time. What remembers it: rates of change, the cosine transform over
the clip's own duration, the positions of extremes, and the spectrum of the contour itself (its
modulation: a laugh is a contour of energy that swings about five times a second). After the
functionals of F. Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS)", IEEE
Trans. Affective Computing 7(2), 2016, and the modulation spectra of S. Greenberg and B. Kingsbury,
ICASSP 1997.

Each function that returns a dict of names to finite floats gives the same names whatever the values
of a contour. Not an encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import fft

from nver.encoders.frames import FLOOR, HOP, RATE, cosines, frozen

Functionals = dict[str, float]
Contour = Float[np.ndarray, "frames"]
Contours = Float[np.ndarray, "_ frames"]

FRAME_RATE = RATE / HOP
"""Frames a second."""

FIVE = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The quantiles of a contour that is described alone."""


def named(names: Sequence[str], suffix: str, values: Float[np.ndarray, "contours"]) -> Functionals:
    """Return one functional of several contours as ``<contour>_<suffix>``."""
    return {f"{name}_{suffix}": value for name, value in zip(names, values.tolist(), strict=True)}


def quantiles(values: Contours, levels: Sequence[float]) -> Float[np.ndarray, "levels contours"]:
    """Return the quantiles of each row, linear between its sorted values (numpy's default)."""
    ordered = np.sort(values, axis=1)
    position = np.asarray(levels) * (values.shape[1] - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, values.shape[1] - 1)
    part = position - below
    return np.asarray((ordered[:, below] * (1.0 - part) + ordered[:, above] * part).T)


def moments(names: Sequence[str], values: Contours, levels: Sequence[float] = ()) -> Functionals:
    """Return mean, standard deviation (n, not n - 1) and the asked quantiles of each contour."""
    found = named(names, "mean", values.mean(axis=1)) | named(names, "sd", values.std(axis=1))
    if levels:
        for level, row in zip(levels, quantiles(values, levels), strict=True):
            found |= named(names, f"q{round(100 * level):02d}", row)
    return found


def loudness(energy: Contour) -> Contour:
    """Return how much each frame counts: its power to the 0.3, with a sum of 1.

    Loudness grows with the 0.3rd power of intensity (S. S. Stevens, Psychological Review 64, 1957).
    Frames count as they are heard: the room between two sobs hardly, and no threshold cuts in.
    """
    weight = (energy + FLOOR) ** 0.3
    return np.asarray(weight / weight.sum())


def weighted(names: Sequence[str], values: Contours, weights: Contour) -> Functionals:
    """Return mean and standard deviation of each contour under weights with a sum of 1."""
    mean = values @ weights
    variance = (values - mean[:, None]) ** 2 @ weights
    return named(names, "mean", mean) | named(names, "sd", np.sqrt(variance))


def spread(
    name: str, values: Contour, *, empty: float, levels: Sequence[float] = FIVE
) -> Functionals:
    """Return mean, sd and quantiles of the values that exist.

    Parameters
    ----------
    name : str
    values : float [frames]
        Only where the measure is defined: F0 of voiced frames, say. May be empty.
    empty : float
        What mean and quantiles are where it is defined nowhere: a neutral value of the measure (the
        share of defined frames is a functional of its own).
    levels : sequence of float
    """
    one = values.astype(np.float64) if values.size else np.full(1, empty)
    found = {f"{name}_mean": float(one.mean()), f"{name}_sd": float(one.std())}
    if levels:
        for level, value in zip(levels, quantiles(one[None], levels)[:, 0].tolist(), strict=True):
            found[f"{name}_q{round(100 * level):02d}"] = value
    return found


def trend(name: str, contour: Contour, terms: int = 4) -> Functionals:
    """Return how a contour moves over its own duration (time 0 to 1).

    DCT coefficients 1 to `terms` over ``sqrt(frames)``, the least-squares slope, the positions of
    the maximum and the minimum, end less begin, and of the steps from frame to frame: mean size,
    share that rises, steepest rise and steepest fall.
    """
    count = contour.size
    time = np.linspace(0.0, 1.0, count) if count > 1 else np.zeros(1)
    away = time - time.mean()
    steps = np.diff(contour) if count > 1 else np.zeros(1)
    shape = cosines(terms + 1, count)[1:] @ contour / np.sqrt(count)
    found = {f"{name}_dct{order}": value for order, value in enumerate(shape.tolist(), start=1)}
    return found | {
        f"{name}_slope": float(away @ contour / max(float(away @ away), 1.0 / 12.0)),
        f"{name}_time_of_max": float(time[contour.argmax()]),
        f"{name}_time_of_min": float(time[contour.argmin()]),
        f"{name}_end_less_begin": float(contour[-1] - contour[0]),
        f"{name}_step_mean": float(np.abs(steps).mean()),
        f"{name}_rising": float((steps > 0).mean()),
        f"{name}_steepest_rise": float(steps.max()),
        f"{name}_steepest_fall": float(steps.min()),
    }


@cache
def _bands(edges: tuple[float, ...], points: int) -> Float[np.ndarray, "bands bins"]:
    """Return the rows that average a spectrum of `points` from edge to edge (Hz)."""
    frequency = np.fft.rfftfreq(points, 1.0 / FRAME_RATE)
    inside = [(frequency >= low) & (frequency < high) for low, high in pairwise(edges)]
    return frozen(np.stack([row / row.sum() for row in inside]), np.float64)


def modulation_spectrum(
    contour: Contour,
) -> tuple[Float[np.ndarray, "bins"], Float[np.ndarray, "bins"]]:
    """Return frequencies (Hz) and power of a contour without its mean, under a Hann window.

    Zeros fill the contour to 1024 points (10 s) or the next power of two, so that the grid is as
    fine for a short clip as for a long one (its resolution is not).
    """
    points = max(1024, 1 << (contour.size - 1).bit_length())
    window = np.hanning(contour.size + 2)[1:-1]
    spectrum = fft.rfft((contour - contour.mean()) * window, n=points)
    return np.fft.rfftfreq(points, 1.0 / FRAME_RATE), np.abs(spectrum) ** 2 / contour.size


def modulation(
    name: str, contour: Contour, edges: tuple[float, ...], floor: float = 1e-4
) -> Functionals:
    """Return the modulation power of a contour in dB, in bands between `edges` (Hz)."""
    frequency, power = modulation_spectrum(contour)
    found = 10.0 * np.log10(_bands(edges, 2 * (frequency.size - 1)) @ power + floor)
    return {
        f"{name}_mod_{low:g}-{high:g}hz": value
        for (low, high), value in zip(pairwise(edges), found.tolist(), strict=True)
    }


def deltas(values: Contours, reach: int = 2) -> Contours:
    """Return the rate of change per frame: the regression slope over +-`reach` frames.

    Young et al., The HTK Book, eq. 5.16; the first and the last frame are repeated at the edges.
    """
    count = values.shape[1]
    wide = np.pad(values, ((0, 0), (reach, reach)), mode="edge")
    total = np.zeros_like(values)
    for lag in range(1, reach + 1):
        later = wide[:, reach + lag : reach + lag + count]
        total += lag * (later - wide[:, reach - lag : reach - lag + count])
    return total / (2 * sum(lag * lag for lag in range(1, reach + 1)))


def active(level: Contour, range_db: float = 25.0) -> Bool[np.ndarray, "frames"]:
    """Return the frames no more than `range_db` under the loudest: the voice, not the room."""
    return np.asarray(level >= level.max() - range_db)


def span(on: Bool[np.ndarray, "frames"]) -> tuple[int, int]:
    """Return the first true frame and the frame after the last; at least one must be true."""
    where = np.flatnonzero(on)
    return int(where[0]), int(where[-1]) + 1


def runs(flags: Bool[np.ndarray, "frames"]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Return the first frames of the true stretches, and the frames after their last."""
    change = np.diff(np.concatenate([[False], flags, [False]]).astype(int))
    return np.flatnonzero(change == 1), np.flatnonzero(change == -1)


def peaks(
    contour: Contour, prominence: float
) -> tuple[Int[np.ndarray, "peaks"], Float[np.ndarray, "peaks"]]:
    """Return the maxima that stand out by at least `prominence`, and by how much each does.

    A peak's prominence is its height over the higher of the two valleys that part it from higher
    ground on either side; beyond the ends lies the lowest ground. A contour has at least one peak,
    its maximum, unless it is flat to within `prominence`.
    """
    inner = np.concatenate([[-np.inf], contour, [-np.inf]])
    tops = np.flatnonzero((inner[1:-1] > inner[:-2]) & (inner[1:-1] >= inner[2:]))
    heights = np.empty(tops.size)
    lowest = contour.min()
    for index, top in enumerate(tops):
        higher = np.flatnonzero(contour > contour[top])
        left = higher[higher < top]
        right = higher[higher > top]
        before = contour[left[-1] : top].min() if left.size else lowest
        after = contour[top : right[0]].min() if right.size else lowest
        heights[index] = contour[top] - max(before, after)
    keep = heights >= prominence
    return tops[keep], heights[keep]
