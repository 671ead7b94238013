"""What holds for every clip: finite named numbers that know the level in three columns only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nver.encoders.prosodic import ProsodicEncoder
from nver.encoders.spectral import SpectralEncoder

RATE = 16_000
ENCODERS = (SpectralEncoder(), ProsodicEncoder())
KINDS = ("noise", "tone", "clipped", "impulse", "silence", "offset", "burst", "swell")

each_encoder = pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: e.card.name)
seeds = st.integers(0, 2**32 - 1)


def made(kind, seed, seconds=0.5):
    rng = np.random.default_rng(seed)
    count = max(1, round(seconds * RATE))
    time = np.arange(count) / RATE
    tone = np.sin(2 * np.pi * rng.uniform(40, 4000) * time)
    noise = rng.standard_normal(count)
    sounds = {
        "noise": 0.1 * noise,
        "tone": tone,
        "clipped": np.clip(20 * tone, -1, 1),
        "impulse": (np.arange(count) == rng.integers(count)).astype(float),
        "silence": np.zeros(count),
        "offset": 0.4 + 0.01 * noise,
        "burst": np.exp(-time / rng.uniform(0.005, 0.1)) * noise,
        "swell": (1 + np.sin(2 * np.pi * rng.uniform(1, 40) * time)) * tone + 0.01 * noise,
    }
    return sounds[kind].astype(np.float32)


@each_encoder
@settings(max_examples=25)
@given(kind=st.sampled_from(KINDS), seed=seeds, seconds=st.floats(0.1, 1.5))
def test_every_clip_has_the_same_finite_columns(encoder, kind, seed, seconds):
    found = encoder.functionals(made(kind, seed, seconds))
    assert tuple(found) == encoder.feature_names
    values = np.array(list(found.values()))
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 1e4


@each_encoder
@settings(max_examples=10)
@given(kind=st.sampled_from(("noise", "burst", "swell")), seed=seeds, power=st.integers(-8, 8))
def test_only_loudness_columns_know_the_level(encoder, kind, seed, power):
    sound = made(kind, seed)
    # A power of two scales floats without rounding, so the rest must agree to the last bits.
    first, second = (encoder.functionals(x) for x in (sound, np.float32(2.0**power) * sound))
    for name in encoder.feature_names:
        moved = 20 * power * np.log10(2.0) if name.startswith("loudness_") else 0.0
        assert second[name] - first[name] == pytest.approx(moved, abs=1e-3), name


@each_encoder
@settings(max_examples=10)
@given(kind=st.sampled_from(("noise", "burst", "swell")), seed=seeds)
def test_polarity_is_not_heard(encoder, kind, seed):
    sound = made(kind, seed)
    sound -= sound.mean(dtype=np.float64)
    first, second = encoder.features(sound), encoder.features(-sound)
    np.testing.assert_allclose(first, second, atol=2e-3)


@each_encoder
def test_a_constant_offset_is_not_heard(encoder):
    sound = made("noise", 1)
    first, second = encoder.features(sound), encoder.features(sound + np.float32(0.25))
    np.testing.assert_allclose(first, second, atol=0.05)


@each_encoder
def test_a_long_clip_is_analysed_in_blocks_as_one(encoder):
    # A steady sound of 10 s crosses the blocks' borders: it reads like one of 2 s.
    tone = made("tone", 3, 10.0) + 0.1 * made("noise", 3, 10.0)
    names = [n for n in encoder.feature_names if n.endswith("_mean") and "burst" not in n]
    long, short = encoder.functionals(tone), encoder.functionals(tone[: 2 * RATE])
    for name in names:
        if not name.startswith(("voiced", "pause", "onset")):
            assert long[name] == pytest.approx(short[name], abs=1.5, rel=0.1), name
