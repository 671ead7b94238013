"""Made sounds of many lengths, to check encoders with: nothing to download, always the same."""

from __future__ import annotations

import numpy as np

from nver.audio import Waveform
from nver.shapes import Mono

SECONDS = (0.1, 0.25, 0.6, 1.0, 1.7, 2.3, 6.0)
"""Durations of `example_waveforms`."""


def example_waveforms(rate: int = 16_000, seed: int = 0) -> list[Waveform]:
    """Return made sounds of 0.1 to 6 s: noise bursts and gliding harmonic sounds, by turns.

    The second is stereo at 44.1 kHz; the others are mono at `rate`.
    """
    rng = np.random.default_rng(seed)
    clips = []
    for index, seconds in enumerate(SECONDS):
        own = 44_100 if index == 1 else rate
        make = noise_bursts if index % 2 else gliding_voice
        sound = make(rng, seconds, own)
        samples = np.stack([sound, 0.5 * sound]) if index == 1 else sound
        clips.append(Waveform(samples, own))
    return clips


def noise_bursts(rng: np.random.Generator, seconds: float, rate: int) -> Mono:
    """Return bursts of noise, four a second."""
    time = np.arange(round(seconds * rate)) / rate
    envelope = 0.05 + np.sin(4 * np.pi * time) ** 2
    return (0.2 * envelope * rng.standard_normal(time.size)).astype(np.float32)


def gliding_voice(rng: np.random.Generator, seconds: float, rate: int) -> Mono:
    """Return ten harmonics of a falling pitch, with a little noise."""
    time = np.arange(round(seconds * rate)) / rate
    f0 = rng.uniform(150.0, 400.0) * 2.0 ** (-time / max(2.0, seconds))
    phase = 2 * np.pi * np.cumsum(f0) / rate
    sound = sum(np.sin(order * phase) / order for order in range(1, 11))
    return (0.2 * sound + 0.005 * rng.standard_normal(time.size)).astype(np.float32)
