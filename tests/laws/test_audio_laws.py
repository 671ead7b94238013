"""Laws of waveforms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nver.audio import NEAR_IDENTICAL, Waveform, check_audible, thumbprint
from nver.errors import AudioError

RATES = st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])


def bursts(seed: int, rate: int, channels: int = 1) -> Waveform:
    """Return noise bursts with a moving envelope, 0.3 s, band-limited to 4 kHz."""
    rng = np.random.default_rng(seed)
    envelope = np.interp(np.arange(2400), np.linspace(0, 2399, 12), rng.uniform(0, 1, 12) ** 2)
    noise = rng.normal(size=(channels, 2400)) * envelope
    return Waveform(0.1 * noise, 8000).resample(rate)


@given(st.integers(0, 2**32), RATES, st.floats(1e-3, 4))
@settings(max_examples=25)
def test_thumbprints_ignore_gain_and_rate(seed, rate, gain):
    clip = bursts(seed, 48000)
    louder = Waveform(clip.samples * np.float32(gain), clip.rate).resample(rate)
    cosine = float(thumbprint(louder) @ thumbprint(clip))
    assert NEAR_IDENTICAL <= cosine <= 1.00001


@given(st.integers(0, 2**32), st.integers(0, 2**32))
@settings(max_examples=25)
def test_thumbprints_tell_different_sounds_apart(one, two):
    cosine = float(thumbprint(bursts(one, 16000)) @ thumbprint(bursts(two, 16000)))
    assert (one == two) == (cosine >= NEAR_IDENTICAL)


@given(st.integers(0, 2**32), RATES, RATES)
@settings(max_examples=25)
def test_resampling_keeps_the_duration(seed, rate, target):
    clip = bursts(seed, rate)
    other = clip.resample(target)
    assert abs(other.seconds - clip.seconds) <= 1 / min(rate, target)


@given(st.integers(0, 2**32), RATES, RATES)
@settings(max_examples=25)
def test_resampling_is_linear_and_keeps_channels_apart(seed, rate, target):
    clip = bursts(seed, rate, channels=2)
    together = clip.resample(target).samples
    apart = [Waveform(row, rate).resample(target).samples[0] for row in clip.samples]
    np.testing.assert_allclose(together, apart, atol=1e-6)
    mean = clip.mono().resample(target).samples
    np.testing.assert_allclose(together.mean(axis=0, keepdims=True), mean, atol=1e-5)


@given(st.integers(0, 2**32), st.integers(1, 8))
@settings(max_examples=25)
def test_the_mean_of_equal_channels_is_that_channel(seed, channels):
    clip = bursts(seed, 16000)
    many = Waveform(np.repeat(clip.samples, channels, axis=0), clip.rate)
    np.testing.assert_allclose(many.mono().samples, clip.samples, atol=1e-7)


@given(st.integers(0, 2**32), st.floats(0.01, 0.29))
@settings(max_examples=25)
def test_two_slices_are_the_whole(seed, cut):
    clip = bursts(seed, 16000)
    parts = [clip.slice(0.0, cut).samples, clip.slice(cut, 1.0).samples]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), clip.samples)


@given(st.floats(-1, 1), st.integers(1, 500), st.integers(1, 3))
@settings(max_examples=25)
def test_no_constant_is_audible(level, samples, channels):
    waveform = Waveform(np.full((channels, samples), level), 8000)
    with pytest.raises(AudioError):
        check_audible(waveform, "clip")
