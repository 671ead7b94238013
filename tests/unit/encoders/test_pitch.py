from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from scipy.signal import lfilter

from nver.encoders.frames import frames, normalised, power_spectra
from nver.encoders.pitch import (
    BINS,
    RATE,
    WINDOW,
    PitchTrack,
    _moves,
    _viterbi,
    autocorrelation,
    best_path,
    candidates,
)


def track(sound) -> PitchTrack:
    samples, _ = normalised(np.asarray(sound, dtype=np.float32))
    (power,) = power_spectra(samples, WINDOW, BINS)
    peak = np.abs(frames(samples, WINDOW)).max(axis=1)
    return best_path(*candidates(autocorrelation(power)), peak)


def harmonics(f0, seconds=1.0, count=20):
    f0 = np.broadcast_to(f0, round(seconds * RATE))
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    return sum(
        np.where(order * f0 < 7500, np.sin(order * phase) / order, 0.0)
        for order in range(1, count + 1)
    )


def noise(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count)


@pytest.mark.parametrize("hertz", [65.0, 110.0, 220.0, 443.0, 800.0, 1200.0, 1550.0])
def test_the_pitch_of_a_harmonic_sound(hertz):
    found = track(harmonics(hertz) + 0.01 * noise(RATE))
    assert found.voiced.all()
    np.testing.assert_allclose(found.f0, hertz, rtol=2e-3)
    assert found.strength.min() > 0.95


def test_a_glide_is_followed():
    f0 = 150.0 * 4.0 ** np.linspace(0, 1, RATE)
    found = track(harmonics(f0))
    centre = f0[WINDOW // 2 :: 160][: found.f0.size]
    np.testing.assert_allclose(found.f0, centre, rtol=0.02)


def test_a_missing_fundamental_is_heard():
    sound = harmonics(200.0) - np.sin(2 * np.pi * 200.0 * np.arange(1, RATE + 1) / RATE)
    np.testing.assert_allclose(track(sound).f0, 200.0, rtol=0.01)


def test_noise_is_unvoiced():
    assert track(noise(RATE)).voiced.mean() < 0.1


def test_noise_through_a_resonance_is_no_voice():
    radius, place = 0.97, 2 * np.pi * 1400 / RATE  # 155 Hz wide
    breath = lfilter([1.0], [1.0, -2 * radius * np.cos(place), radius**2], noise(RATE))
    assert track(breath).voiced.mean() < 0.1


def test_a_voice_between_silences_is_voiced_where_it_is():
    silence = 1e-4 * noise(RATE // 2)
    found = track(np.concatenate([silence, harmonics(300.0, 0.5), silence]))
    assert found.voiced[53:92].all()
    assert not found.voiced[:40].any()


def test_silence_has_no_pitch_and_no_strength():
    found = track(np.zeros(RATE))
    assert not found.voiced.any()
    assert not found.strength.any()


def test_harmonicity_is_the_ratio_of_harmonics_to_noise():
    # Boersma 1993, eq. 4: below 4 kHz the noise has half of its power.
    sound = harmonics(200.0, count=5)
    for ratio in (5.0, 15.0):
        level = np.sqrt(2 * np.mean(sound**2) / 10 ** (ratio / 10))
        found = track(sound + level * noise(RATE))
        assert np.median(found.harmonicity) == pytest.approx(ratio, abs=1.5)


def test_semitones_are_relative_to_220_hertz():
    found = PitchTrack(np.array([220.0, 440.0, 0.0]), np.zeros(3))
    np.testing.assert_allclose(found.semitones, [0.0, 12.0, 0.0])


def test_the_autocorrelation_is_the_direct_sum():
    sound = lfilter([1.0], [1.0, -0.9, 0.5], noise(WINDOW)).astype(np.float32)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    spectrum = np.fft.rfft(sound * window, 4 * WINDOW)
    spectrum[np.fft.rfftfreq(4 * WINDOW, 1 / RATE) >= 3990] = 0
    spectrum[np.fft.rfftfreq(4 * WINDOW, 1 / RATE) < 35] = 0
    band = np.fft.irfft(spectrum)  # what the module hears: 40 Hz to 4 kHz
    direct = np.array([band[: band.size - lag] @ band[lag:] for lag in range(269)])
    own = np.correlate(window, window, "full")[WINDOW - 1 :][:269]
    expected = direct / direct[0] / (own / own[0])
    (power,) = power_spectra(sound, WINDOW, BINS)
    np.testing.assert_allclose(autocorrelation(power)[0, :269], expected, atol=0.02)


def test_the_path_is_the_best_of_all():
    rng = np.random.default_rng(5)
    for _ in range(20):
        octaves = rng.uniform(0, 4, (5, 2))
        local, moves = rng.standard_normal((5, 3)), _moves(octaves)

        def gain(path, local=local, moves=moves):
            steps = sum(moves[t, a, b] for t, (a, b) in enumerate(pairwise(path)))
            return sum(local[t, state] for t, state in enumerate(path)) + steps

        best = max(product(range(3), repeat=5), key=gain)
        np.testing.assert_array_equal(_viterbi(local, moves), best)
