"""Laws of the Kaldi filter bank and the sinc resampler."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nver.audio import Waveform
from nver.encoders.kaldi import LOG_FLOOR, FilterBank
from nver.encoders.sinc import resample

BANK = FilterBank(16000, 112, "hanning")
SEEDS = st.integers(0, 2**32 - 1)
RATES = st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 12345])


def noise(samples: int, seed: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@settings(max_examples=25)
@given(SEEDS, st.integers(0, 6), st.integers(1, 8))
def test_frames_of_a_slice_are_a_slice_of_the_frames(seed: int, first: int, count: int):
    clip = torch.from_numpy(noise(4000, seed))
    part = clip[first * 160 : (first + count - 1) * 160 + 400]
    torch.testing.assert_close(BANK(part), BANK(clip)[first : first + count], atol=1e-4, rtol=0)


@settings(max_examples=25)
@given(SEEDS, st.floats(0.5, 20.0), st.floats(-0.5, 0.5))
def test_gain_is_added_and_an_offset_is_not_heard(seed: int, gain: float, offset: float):
    clip = torch.from_numpy(noise(2000, seed))
    before = BANK(clip)
    heard = before > math.log(LOG_FLOOR) + 4  # a band near the floor is held, or mostly rounding
    expected = before + 2 * math.log(gain)
    found = BANK(gain * clip + offset)
    torch.testing.assert_close(found[heard], expected[heard], atol=5e-2, rtol=0)


@settings(max_examples=25)
@given(SEEDS, RATES, st.integers(1, 3000))
def test_resampling_is_linear_and_keeps_the_duration(seed: int, rate: int, samples: int):
    first, second = noise(samples, seed), noise(samples, seed + 1)
    found, other, both = (
        resample(Waveform(clip, rate), 16000).samples
        for clip in (first, second, first + 2 * second)
    )
    assert both.shape[1] == -(-samples * 16000 // rate)
    np.testing.assert_allclose(both, found + 2 * other, atol=1e-5)
