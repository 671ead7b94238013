"""One analysis of a voice, frame by frame: pitch, formants, tilt, cepstral peak, harmonics.

Everything is read from one power spectrum per frame (50 ms Hann window, every 10 ms, 16 kHz):

- F0 and periodicity: `nver.encoders.pitch`;
- formant-like peaks: linear prediction of the band below 5.5 kHz from its own power spectrum
  (selective linear prediction, J. Makhoul, Proc. IEEE 63(4), 1975), 12 poles, peaks of the
  resulting envelope. On high voices they are drawn to the harmonics, as with any such method;
- cepstral peak prominence: J. Hillenbrand et al., J. Speech Hear. Res. 37, 1994;
- alpha ratio, Hammarberg index, slopes 0 to 500 and 500 to 1500 Hz: F. Eyben et al., GeMAPS, 2016.

Not an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy import fft

from nver.encoders.contours import Contour
from nver.encoders.frames import BLOCK, FLOOR, RATE, frames, frozen, mel_means, power_spectra
from nver.encoders.pitch import (
    BAND,
    BINS,
    LONGEST,
    POINTS,
    WINDOW,
    PitchTrack,
    autocorrelation,
    best_path,
    candidates,
)
from nver.shapes import Mono

BALANCE = 10  # mel bands of the spectral balance
POLES = 12
FORMANT_BINS = 413  # up to 5.5 kHz
FORMANTS = 4
GRID = 256  # points of the envelope: 21 Hz apart
LOWEST_FORMANT = 8  # grid points: 172 Hz
TILT = ("alpha_ratio", "hammarberg", "slope_0-500hz", "slope_500-1500hz")
Power = Float32[np.ndarray, "frames bins"]


@dataclass(frozen=True, eq=False)
class VoiceFrames:
    """What was measured in each frame of a clip whose peak is 1.

    Parameters
    ----------
    energy : float64 [frames]
        Power.
    pitch : PitchTrack
    balance : float64 [10, frames]
        Levels of mel bands in dB.
    formants, prominence : float64 [4, frames]
        Frequencies in Hz of the envelope's peaks from below, and their height over its mean in dB;
        NaN where there are fewer peaks.
    cepstral_peak : float64 [frames]
        Cepstral peak prominence in dB.
    tilt : float64 [4, frames]
        In the order of `TILT`: dB, dB, dB per kHz, dB per kHz.
    spectrum : float32 [frames, 300]
        Levels of the bins below 4 kHz in dB, 13.3 Hz apart: for the harmonics.
    """

    energy: Contour
    pitch: PitchTrack
    balance: Float64[np.ndarray, "balance frames"]
    formants: Float64[np.ndarray, "formants frames"]
    prominence: Float64[np.ndarray, "formants frames"]
    cepstral_peak: Contour
    tilt: Float64[np.ndarray, "tilts frames"]
    spectrum: Float32[np.ndarray, "frames band"]


def analyse(samples: Mono) -> VoiceFrames:
    """Return the measures of every frame of a clip that `normalised` has prepared."""
    blocks = [_describe(power) for power in power_spectra(samples, WINDOW, BINS)]
    parts = [np.concatenate(part, axis=-1) for part in zip(*blocks, strict=True)]
    energy, frequency, strength, balance, formants, prominence, cepstral_peak, tilt, spectrum = (
        parts
    )
    every = frames(samples, WINDOW)
    peak = np.concatenate(
        [_peak(every[start : start + BLOCK]) for start in range(0, len(every), BLOCK)]
    )
    return VoiceFrames(
        energy=energy.astype(np.float64),
        pitch=best_path(frequency.T, strength.T, peak),
        balance=balance.astype(np.float64),
        formants=formants,
        prominence=prominence,
        cepstral_peak=cepstral_peak.astype(np.float64),
        tilt=tilt.astype(np.float64),
        spectrum=spectrum.T,
    )


def _peak(block: Float32[np.ndarray, "frames window"]) -> Float32[np.ndarray, "frames"]:
    return np.asarray(np.maximum(block.max(axis=1), -block.min(axis=1)))


def _describe(power: Power) -> tuple[np.ndarray, ...]:
    """Return the measures of a block of frames, frames last."""
    log_power = 10.0 * np.log10(np.maximum(power, np.float32(FLOOR)))
    frequency, strength = candidates(autocorrelation(power))
    formants, prominence = formant_peaks(power)
    balance = np.maximum(power @ mel_means(BALANCE, BINS), np.float32(FLOOR))
    return (
        power.sum(axis=1),
        frequency.T,
        strength.T,
        10.0 * np.log10(balance.T),
        formants,
        prominence,
        cepstral_peak_prominence(log_power),
        _tilt(power, log_power),
        log_power[:, :BAND].T,
    )


@cache
def _lines() -> Float32[np.ndarray, "lags 2"]:
    """Return an orthonormal basis of the straight lines over the quefrencies 1 to 17 ms."""
    lags = np.arange(16, LONGEST)
    return frozen(np.linalg.qr(np.stack([np.ones(lags.size), lags], axis=1))[0], np.float32)


def cepstral_peak_prominence(log_power: Power) -> Float32[np.ndarray, "frames"]:
    """Return how far the cepstrum's highest peak (60 to 1000 Hz) lies over its regression line."""
    cepstrum = fft.dct(log_power, type=1, axis=-1)[:, 16:LONGEST] / np.float32(POINTS)
    return np.asarray((cepstrum - cepstrum @ _lines() @ _lines().T).max(axis=1))


def _tilt(power: Power, log_power: Power) -> Float32[np.ndarray, "4 frames"]:
    def level(values: np.ndarray) -> np.ndarray:
        return np.asarray(10.0 * np.log10(np.maximum(values, np.float32(FLOOR))))

    def at(hertz: float) -> int:
        return round(hertz * POINTS / RATE)

    low, high = power[:, at(50) : at(1000)].sum(axis=1), power[:, at(1000) : at(5000)].sum(axis=1)
    below, above = power[:, : at(2000)].max(axis=1), power[:, at(2000) : at(5000)].max(axis=1)
    rows = [level(low) - level(high), level(below) - level(above)]
    for first, last in ((0, at(500)), (at(500), at(1500))):
        kilohertz = np.arange(first, last) * RATE / POINTS / 1000.0
        away = (kilohertz - kilohertz.mean()).astype(np.float32)
        rows.append(log_power[:, first:last] @ (away / (away @ away)))
    return np.stack(rows)


@cache
def _to_autocorrelation() -> Float32[np.ndarray, "bins lags"]:
    """Return the cosines that turn pre-emphasised power below 5.5 kHz into autocorrelation.

    Pre-emphasis (1 - .97/z), the two-sided transform, and a Gaussian lag window of 40 Hz that keeps
    single harmonics from being taken for formants.
    """
    place = np.arange(FORMANT_BINS).reshape(-1, 1)
    emphasis = 1.0 + 0.97**2 - 2 * 0.97 * np.cos(2 * np.pi * place / POINTS)
    sides = np.where((place > 0) & (place < FORMANT_BINS - 1), 2.0, 1.0)
    lags = np.arange(POLES + 1)
    cosine = np.cos(np.pi * place * lags / (FORMANT_BINS - 1))
    blur = np.exp(-0.5 * (2 * np.pi * 40.0 / 11_000.0 * lags) ** 2)
    return frozen(emphasis * sides * cosine * blur, np.float32)


def predictor(
    correlation: Float64[np.ndarray, "frames lags"],
) -> Float64[np.ndarray, "frames lags"]:
    """Return the prediction-error filters 1, a1, ... of autocorrelations (Levinson-Durbin)."""
    error = correlation[:, 0].copy()
    filters = np.zeros_like(correlation)
    filters[:, 0] = 1.0
    for order in range(1, correlation.shape[1]):
        past = filters[:, :order]
        reflection = -np.einsum("fl,fl->f", past, correlation[:, order:0:-1]) / error
        turned = reflection[:, None] * past[:, ::-1]
        filters[:, 1 : order + 1] += turned
        error *= 1.0 - reflection**2
    return filters


def formant_peaks(
    power: Power,
) -> tuple[Float64[np.ndarray, "4 frames"], Float64[np.ndarray, "4 frames"]]:
    """Return the first four peaks of the all-pole envelope: Hz, dB over its mean; NaN if fewer."""
    correlation = (power[:, :FORMANT_BINS] @ _to_autocorrelation()).astype(np.float64)
    correlation[:, 0] = correlation[:, 0] * 1.0001 + 1e-8  # a noise floor: silence has a predictor
    filters = predictor(correlation)
    cosine, sine = _on_grid()
    envelope = -10.0 * np.log10((filters @ cosine) ** 2 + (filters @ sine) ** 2)
    left, mid, right = envelope[:, :-2], envelope[:, 1:-1], envelope[:, 2:]
    peak = (mid > left) & (mid >= right)
    peak[:, : LOWEST_FORMANT - 1] = False
    spacing = (FORMANT_BINS - 1) * RATE / POINTS / GRID
    rows = np.arange(len(power))
    mean = envelope.mean(axis=1)
    hertz, height = np.full((2, FORMANTS, len(power)), np.nan)
    for number in range(FORMANTS):
        place = peak.argmax(axis=1)  # the first that is left
        found = peak[rows, place]
        hertz[number, found] = (place[found] + 1) * spacing
        height[number, found] = (mid[rows, place] - mean)[found]
        peak[rows, place] = False
    return hertz, height


@cache
def _on_grid() -> tuple[Float64[np.ndarray, "lags grid"], Float64[np.ndarray, "lags grid"]]:
    """Return the cosines and sines that give a filter's response from 0 Hz to 5.5 kHz."""
    angle = np.pi * np.arange(POLES + 1).reshape(-1, 1) * np.arange(GRID + 1) / GRID
    return frozen(np.cos(angle), np.float64), frozen(np.sin(angle), np.float64)


def harmonic_levels(
    voice: VoiceFrames, orders: tuple[float, ...]
) -> Float[np.ndarray, "orders voiced"]:
    """Return the levels (dB) at multiples of F0 in the voiced frames.

    Whole orders are harmonics: the highest of the three bins around. Half orders are the valleys
    between them. Beyond 4 kHz the last bin is read.
    """
    voiced = voice.pitch.voiced
    spectrum = voice.spectrum[voiced]
    rows = np.arange(len(spectrum))
    found = []
    for order in orders:
        place = np.rint(order * voice.pitch.f0[voiced] * POINTS / RATE).astype(int)
        place = np.clip(place, 1, BAND - 2)
        level = spectrum[rows, place]
        if order == int(order):
            level = np.maximum(
                level, np.maximum(spectrum[rows, place - 1], spectrum[rows, place + 1])
            )
        found.append(level)
    return np.stack(found).astype(np.float64)
