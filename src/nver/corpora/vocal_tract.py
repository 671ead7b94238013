"""A source-filter synthesiser of voices: glottal pulses and breath noise through moving formants.

After Fant's linear source-filter model: the derivative of the glottal flow (lip radiation included)
and turbulent noise pass through a cascade of resonances. The pulse is Rosenberg's polynomial one
(J. Acoust. Soc. Am. 49, 583-590, 1971, shape B); jitter, shimmer and a subharmonic alternation of
the pulses make it rough. The resonances are Klatt's digital ones (J. Acoust. Soc. Am. 67, 971-995,
1980). They move: the filter is applied frame by frame in the frequency domain and overlap-added.

Good for test signals that are built like vocalisations. No model of a person, and not meant to be
mistaken for one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex128, Float64, Shaped
from scipy.signal import lfilter, resample_poly

RATE = 16000
"""Sampling rate of the synthesised sound in Hz."""

CONTROL_RATE = 200
"""Rate of a gesture's contours in Hz."""

_OVERSAMPLING = 2  # pulses have sharp closures: they are made at twice the rate, against aliasing
_FRAME, _HOP, _FFT = 512, 256, 1024
_HIGHER_FORMANTS = (2550.0, 3500.0, 4500.0, 5500.0, 6500.0)

Contour = Float64[np.ndarray, "time"]
Sound = Float64[np.ndarray, "samples"]


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker.

    Parameters
    ----------
    name : str
        Its id.
    sex : str
        ``female`` or ``male``: which range its pitch and tract length are drawn from.
    pitch : float
        Resting fundamental frequency in Hz.
    formant_scale : float
        Factor on all formants: 1 for a 17.5 cm tract, more for a shorter one.
    breath, jitter, shimmer : float
        Share of noise in the source; relative perturbation of pulse times and of pulse amplitudes.
    tension : float
        0 (lax, dull) to 1 (pressed, bright).
    expression, tempo : float
        Factors on how strongly and how fast it does things.
    brightness, hiss : float
        Its microphone: tilt in dB from 0 to 8 kHz, level of the background noise in dB.
    """

    name: str
    sex: str
    pitch: float
    formant_scale: float
    breath: float
    jitter: float
    shimmer: float
    tension: float
    expression: float
    tempo: float
    brightness: float
    hiss: float


@dataclass(frozen=True)
class Gesture:
    """What a voice does during one burst: contours of equal length at CONTROL_RATE.

    Parameters
    ----------
    pitch : float64 [time]
        Fundamental frequency as a factor on the voice's resting pitch.
    voicing, noise : float64 [time]
        Amplitudes of the glottal pulses and of the turbulent noise, 0 to about 1.
    f1, f2 : float64 [time]
        First two formants in Hz, for a tract of scale 1.
    mouth : float64 [time]
        Opening of the mouth, 0 (closed, humming) to 1.
    tension, roughness : float64 [time]
        0 to 1; added to the voice's own tension.
    """

    pitch: Contour
    voicing: Contour
    noise: Contour
    f1: Contour
    f2: Contour
    mouth: Contour
    tension: Contour
    roughness: Contour


def render(voice: Voice, gesture: Gesture, rng: np.random.Generator) -> Sound:
    """Return the sound of `voice` doing `gesture`: float64 [samples] at RATE, unscaled."""
    count = gesture.pitch.size * RATE // CONTROL_RATE
    pulses, opening = _glottis(voice, gesture, count * _OVERSAMPLING, rng)
    voiced = resample_poly(pulses, 1, _OVERSAMPLING)[:count]
    noise = rng.standard_normal(count)
    # breath is heard while the folds are open, so it pulses with the voice
    share = _sampled(gesture.voicing, count)
    gate = 1 - 0.7 * np.minimum(share, 1) * (1 - opening[::_OVERSAMPLING])
    amount = _sampled(gesture.noise, count) + voice.breath * share
    sound = _tract(voice, gesture, voiced + 0.5 * amount * gate * noise)
    fade = np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.01 * RATE)
    return sound * np.minimum(fade, 1)


def _glottis(
    voice: Voice, gesture: Gesture, count: int, rng: np.random.Generator
) -> tuple[Sound, Sound]:
    """Return the pulses and the opening (0 to 1) of the glottis, both [count]."""
    rate = RATE * _OVERSAMPLING
    roughness = _sampled(gesture.roughness, count)
    phase = np.cumsum(_sampled(gesture.pitch, count) * voice.pitch) / rate
    cycles = int(phase[-1]) + 3
    jitter = np.clip(rng.standard_normal(cycles), -2, 2)
    spread = np.minimum(voice.jitter + 0.05 * roughness, 0.12)
    phase = phase + 0.2 + spread * np.interp(phase, np.arange(cycles), jitter)
    cycle = np.clip(np.floor(phase).astype(np.int64), 0, cycles - 1)
    within = phase - np.floor(phase)

    tension = np.clip(voice.tension + _sampled(gesture.tension, count), 0, 1)
    open_share = 0.8 - 0.4 * tension
    rise, fall = 0.66 * open_share, 0.34 * open_share
    rising = within < rise
    falling = ~rising & (within < open_share)
    up, down = within / rise, (within - rise) / fall
    flow = np.where(rising, up * up * (3 - 2 * up), np.where(falling, 1 - down * down, 0.0))
    slope = np.where(rising, 6 * up * (1 - up) / rise, np.where(falling, -2 * down / fall, 0.0))

    shimmer = 1 + voice.shimmer * np.clip(rng.standard_normal(cycles), -2.5, 2.5)
    shimmer = shimmer[cycle] * (1 - 0.7 * roughness * (cycle % 2))
    dull = lfilter([0.08], [1, -0.92], slope)
    bright = 0.1 * (tension * slope + (1 - tension) * 2 * dull)
    return _sampled(gesture.voicing, count) * shimmer * bright, flow


def _tract(voice: Voice, gesture: Gesture, source: Sound) -> Sound:
    """Return `source` through the moving formants, [samples]."""
    padded = np.concatenate([np.zeros(_FRAME), source, np.zeros(_FRAME)])
    starts = np.arange(0, padded.size - _FRAME, _HOP)
    # a frame's centre lies half a frame after its start; the padding shifts time by one frame
    times = (starts - _FRAME / 2) / RATE
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[starts]
    window = np.hanning(_FRAME + 1)[:-1]  # half-overlapping, these add up to one
    spectra = np.fft.rfft(frames * window, _FFT) * _response(voice, gesture, times)
    pieces = np.fft.irfft(spectra, _FFT)
    out = np.zeros(padded.size + _FFT)
    for start, piece in zip(starts, pieces, strict=True):
        out[start : start + _FFT] += piece
    return out[_FRAME : _FRAME + source.size]


def _response(
    voice: Voice, gesture: Gesture, times: Float64[np.ndarray, "frames"]
) -> Complex128[np.ndarray, "frames bins"]:
    """Return the tract's and the microphone's transfer function at `times` (s)."""
    clock = np.arange(gesture.pitch.size) / CONTROL_RATE
    f1, f2, mouth = (
        np.interp(times, clock, contour)[:, None]
        for contour in (gesture.f1, gesture.f2, gesture.mouth)
    )
    widening = 1 + 0.5 * mouth
    response = _resonance(f1 * voice.formant_scale, 70 * widening)
    response = response * _resonance(f2 * voice.formant_scale, 110 * widening)
    fixed = np.array(_HIGHER_FORMANTS)[:, None] * voice.formant_scale
    widths = 160 + 50 * np.arange(len(_HIGHER_FORMANTS))[:, None]
    frequencies = np.fft.rfftfreq(_FFT, 1 / RATE)
    tilt = 10 ** (voice.brightness * frequencies / (RATE / 2) / 20)
    response *= _resonance(fixed, widths).prod(axis=0) * tilt
    corner = 500 * 16**mouth  # closed lips pass little above 500 Hz
    return np.asarray(response / np.sqrt(1 + (frequencies / corner) ** 2))


def _resonance(
    centre: Float64[np.ndarray, "formants 1"], bandwidth: Shaped[np.ndarray, "formants 1"]
) -> Complex128[np.ndarray, "formants bins"]:
    """Return Klatt's digital resonator, gain 1 at 0 Hz; centre and bandwidth in Hz."""
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(_FFT, 1 / RATE) / RATE)
    radius = np.exp(-np.pi * bandwidth / RATE)
    b = 2 * radius * np.cos(2 * np.pi * np.minimum(centre, 0.48 * RATE) / RATE)
    c = radius**2
    return np.asarray((1 - b + c) / (1 + z * (c * z - b)))


def _sampled(contour: Contour, count: int) -> Sound:
    """Return a contour interpolated to `count` samples."""
    steps = np.linspace(0, contour.size - 1, count)
    return np.asarray(np.interp(steps, np.arange(contour.size), contour))
