"""Short-time analysis that the weight-free encoders share: frames, power spectra, mel bands, dB.

Work goes block by block, so that the spectra of a long clip never stand in memory together and a
block stays in the processor's cache. Not an encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from scipy import fft

from nver.encoders.mel import hann, mel_filters
from nver.shapes import Mono

RATE = 16_000
"""Sampling rate of the weight-free encoders in Hz."""

HOP = 160
"""Samples from one frame to the next: 10 ms, 100 frames a second."""

BLOCK = 256
"""Frames analysed at a time."""

FLOOR = 1e-10
"""Power below which nothing is heard: -100 dB under the clip's peak, as clips are normalised."""

SILENT = 1e-6
"""Peak up to which a clip is treated as digital silence: a tenth of a step of 20-bit audio."""


def normalised(samples: Mono) -> tuple[Mono, float]:
    """Return the samples without offset and with a peak of 1, and the peak they had.

    Whatever is measured afterwards does not depend on the recording level; the peak keeps it. A
    silent or constant clip (peak up to `SILENT`) becomes zeros.
    """
    offset = samples.mean(dtype=np.float64).astype(np.float32)
    moved = samples - offset
    peak = float(np.abs(moved).max())
    if peak <= SILENT:
        return np.zeros_like(samples), peak
    return (moved / np.float32(peak)).astype(np.float32), peak


def frames(samples: Mono, length: int, hop: int = HOP) -> Float32[np.ndarray, "frames length"]:
    """Return the whole frames of a clip as a view; a shorter clip is padded with zeros to one."""
    if samples.size < length:
        samples = np.pad(samples, (0, length - samples.size))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(samples, length)[::hop])


def frozen(table: np.ndarray, dtype: type[np.floating[Any]]) -> np.ndarray:
    """Return a table that is computed once and shared, safe from being written to."""
    table = np.ascontiguousarray(table, dtype=dtype)
    table.setflags(write=False)
    return table


@cache
def unit_window(length: int) -> Float32[np.ndarray, "length"]:
    """Return the periodic Hann window with an energy of 1."""
    window = hann(length, periodic=True)
    return frozen(window / np.sqrt(np.sum(window**2)), np.float32)


def power_spectra(
    samples: Mono, length: int, bins: int
) -> Iterator[Float32[np.ndarray, "frames bins"]]:
    """Yield the power spectra of the Hann-windowed frames of a clip, block by block.

    Parameters
    ----------
    samples : float32 [samples]
    length : int
        Of a frame, in samples.
    bins : int
        Frequencies from 0 Hz to half the sampling rate: the FFT has ``2 (bins - 1)`` points.

    Yields
    ------
    float32 [frames, bins]
        ``|FFT|^2 / sum(window^2)``: white noise of variance s2 reads s2 in every bin.
    """
    window = unit_window(length)
    every = frames(samples, length)
    for start in range(0, len(every), BLOCK):
        block = every[start : start + BLOCK]
        padded = np.zeros((len(block), 2 * (bins - 1)), dtype=np.float32)
        np.multiply(block, window, out=padded[:, :length])
        spectrum = fft.rfft(padded, axis=-1)
        yield spectrum.real**2 + spectrum.imag**2


@cache
def mel_means(bands: int, bins: int) -> Float32[np.ndarray, "bins bands"]:
    """Return the weights of triangular mel bands from 50 Hz to 8 kHz, each with a sum of 1."""
    triangles = mel_filters(RATE, 2 * (bins - 1), bands, 50.0, RATE / 2, "mel")
    return frozen(triangles / triangles.sum(axis=0), np.float32)


@lru_cache(maxsize=64)
def cosines(terms: int, length: int) -> Float[np.ndarray, "terms length"]:
    """Return the first `terms` rows of the orthonormal DCT-II of `length` points."""
    order = np.arange(terms).reshape(-1, 1)
    scale = np.where(order > 0, np.sqrt(2.0 / length), np.sqrt(1.0 / length))
    angle = np.pi * order * (np.arange(length) + 0.5) / length
    return frozen(np.cos(angle) * scale, np.float64)


def decibels(
    power: Float[np.ndarray, "*shape"], span: float | None = None
) -> Float[np.ndarray, "*shape"]:
    """Return ``10 log10(power)``, not below `FLOOR` nor more than `span` dB under the largest.

    With a `span`, digital silence in one file and a quiet room in the next read alike.
    """
    floor = FLOOR
    if span is not None:
        floor = max(floor, float(power.max()) * 10.0 ** (-span / 10.0))
    return np.asarray(10.0 * np.log10(np.maximum(power, power.dtype.type(floor))))
