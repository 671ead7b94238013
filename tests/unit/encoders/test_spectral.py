from __future__ import annotations

import numpy as np
import pytest

from nver.encoders.spectral import SpectralEncoder

RATE = 16_000
ENCODER = SpectralEncoder()


def features(sound):
    vector = ENCODER.features(np.asarray(sound, dtype=np.float32))
    return dict(zip(ENCODER.feature_names, vector.tolist(), strict=True))


def tone(hertz, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def noise(seconds=1.0, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def test_names_are_unique_and_as_many_as_dimensions():
    assert ENCODER.card.dim == len(ENCODER.feature_names) == len(set(ENCODER.feature_names)) == 309


def test_the_centroid_of_a_tone_is_its_octave():
    for hertz, octave in ((250, -2), (1000, 0), (4000, 2)):
        assert features(tone(hertz))["centroid_mean"] == pytest.approx(octave, abs=0.05)


def test_the_band_of_a_tone_is_the_loudest():
    found = features(tone(1000))
    bands = [found[f"mel{band:02d}_mean"] for band in range(40)]
    mel = 2595 * np.log10(1 + np.array([50.0, 1000.0, 8000.0]) / 700)
    place = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 41 - 1
    assert np.argmax(bands) == round(place)


def test_noise_is_flat_and_a_tone_is_not():
    white, pure = features(noise()), features(tone(1000))
    for band in range(2, 7):
        # The mean logarithm of white noise's power lies 0.577 below the logarithm of its mean.
        assert white[f"flatness{band}_mean"] == pytest.approx(-0.577, abs=0.1)
    assert pure["flatness2_mean"] < -2
    assert white["rolloff50_mean"] == pytest.approx(2.0, abs=0.05)  # half of it below 4 kHz
    assert white["slope_mean"] == pytest.approx(0.0, abs=0.05)


def test_loudness_is_in_decibels_against_full_scale():
    found = features(noise())
    assert found["loudness_mean"] == pytest.approx(-20.0, abs=0.1)
    assert features(tone(440))["loudness_peak"] == pytest.approx(20 * np.log10(0.5), abs=0.01)
    silent = features(np.zeros(RATE))
    assert silent["loudness_peak"] == silent["loudness_max"] == silent["loudness_mean"] == -100


def test_a_steady_sound_does_not_change():
    found = features(tone(1000))
    assert found["flux_mean"] < 0.01
    assert found["mel20_delta"] < 0.01
    assert features(noise())["flux_mean"] > 0.1


def test_bands_that_swell_together_are_correlated():
    swell = 0.01 + np.sin(np.pi * np.arange(RATE) / RATE * 4) ** 2
    found = features(swell * noise())
    assert found["together2-6"] > 0.7
    low, high = tone(300), tone(5000)
    turns = features(low * swell + high * (1.02 - swell) + 0.001 * noise())
    assert turns["together1-6"] < -0.5


def test_the_envelope_is_placed_in_time():
    late = np.concatenate([np.zeros(RATE), noise(0.5), np.zeros(RATE // 2)])
    found = features(late)
    assert found["level_centre"] == pytest.approx(1.25 / 2, abs=0.02)
    assert found["level_active"] == pytest.approx(0.25, abs=0.02)
    assert np.exp(found["seconds_active_log"]) == pytest.approx(0.5, abs=0.05)
    assert np.expm1(found["seconds_before_log"]) == pytest.approx(1.0, abs=0.03)
