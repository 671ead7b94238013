"""How far vectors are from what is expected, and clips of noise to make them of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nver.audio import Waveform


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest error of a clip, relative to its largest value."""
    return float((np.abs(found - expected).max(-1) / np.abs(expected).max(-1)).max())


def noises(lengths: Sequence[int]) -> list[Waveform]:
    """Return clips of so many samples at 16 kHz, of unlike levels."""
    rng = np.random.default_rng(0)
    return [
        Waveform((0.3 * rng.random() * rng.standard_normal(n)).astype(np.float32), 16000)
        for n in lengths
    ]
