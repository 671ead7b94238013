"""The sinc resampler: lengths, tones, channels, odd rates."""

from __future__ import annotations

import numpy as np
import pytest

from nver.audio import Waveform
from nver.encoders.sinc import SAMPLES_AT_ONCE, resample


def tone(hertz: float, seconds: float, rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000, 44056, 15999])
def test_a_tone_stays_a_tone(rate: int):
    found = resample(Waveform(tone(1000, 0.5, rate), rate), 16000)
    assert found.rate == 16000
    assert abs(found.samples.shape[1] - 8000) <= 1
    inner = slice(200, -200)
    expected = tone(1000, 0.6, 16000)[: found.samples.shape[1]]
    np.testing.assert_allclose(found.samples[0, inner], expected[inner], atol=2e-3)


def test_the_same_rate_is_the_same_waveform():
    clip = Waveform(tone(440, 0.1, 16000), 16000)
    assert resample(clip, 16000) is clip


def test_what_is_above_the_new_band_is_taken_away():
    found = resample(Waveform(tone(12000, 0.5, 44100), 44100), 16000).samples[0]
    assert np.abs(found[200:-200]).max() < 0.02


def test_channels_are_resampled_apart():
    rows = np.stack([tone(440, 0.1, 44100), tone(880, 0.1, 44100)])
    together = resample(Waveform(rows, 44100), 16000).samples
    alone = [resample(Waveform(row, 44100), 16000).samples[0] for row in rows]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 3, 47, 441])
def test_tiny_clips_have_at_least_a_sample(samples: int):
    clip = Waveform(np.full(samples, 0.5, dtype=np.float32), 48000)
    assert resample(clip, 16000).samples.shape == (1, -(-samples // 3))


def test_a_long_clip_is_not_cut_where_its_parts_meet():
    clip = Waveform(tone(300, (SAMPLES_AT_ONCE + 5000) / 8000, 8000), 8000)
    found = resample(clip, 16000).samples[0]
    expected = tone(300, found.size / 16000, 16000)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=2e-3)
