from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter

from nver.encoders.frames import RATE, normalised
from nver.encoders.voice import (
    TILT,
    VoiceFrames,
    analyse,
    cepstral_peak_prominence,
    harmonic_levels,
    predictor,
)


def voice(sound) -> VoiceFrames:
    return analyse(normalised(np.asarray(sound, dtype=np.float32))[0])


def resonances(source, formants, widths):
    for formant, width in zip(formants, widths, strict=True):
        radius = np.exp(-np.pi * width / RATE)
        source = lfilter(
            [1.0], [1.0, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], source
        )
    return source


def pulses(f0, seconds=1.0):
    train = np.zeros(round(seconds * RATE))
    train[:: round(RATE / f0)] = 1.0
    return train


def tones(levels, f0=250.0):
    time = np.arange(RATE) / RATE
    return sum(
        10 ** (level / 20) * np.sin(2 * np.pi * order * f0 * time)
        for order, level in enumerate(levels, start=1)
    )


def test_the_predictor_solves_the_normal_equations():
    rng = np.random.default_rng(0)
    sounds = lfilter([1.0], [1.0, -0.7, 0.3], rng.standard_normal((4, 500)))
    rows = np.stack([[s[: 500 - k] @ s[k:] for k in range(9)] for s in sounds])
    for row, found in zip(rows, predictor(rows), strict=True):
        np.testing.assert_allclose(found[0], 1.0)
        np.testing.assert_allclose(found[1:], solve_toeplitz(row[:-1], -row[1:]), atol=1e-10)


@pytest.mark.parametrize("excitation", ["pulses", "noise"])
def test_formants_of_a_tube_are_found(excitation):
    rng = np.random.default_rng(0)
    source = pulses(100.0) if excitation == "pulses" else rng.standard_normal(RATE)
    vowel = resonances(source, (600, 1700, 2600, 3700), (80, 90, 120, 150))
    found = np.nanmedian(voice(vowel).formants, axis=1)
    np.testing.assert_allclose(found, (600, 1700, 2600, 3700), rtol=0.08)


def test_fewer_peaks_than_formants_are_nan():
    found = voice(resonances(np.random.default_rng(0).standard_normal(RATE), (900,), (60,)))
    assert np.nanmedian(found.formants[0]) == pytest.approx(900, rel=0.05)
    silent = voice(np.zeros(RATE))
    assert np.isnan(silent.formants).all()
    np.testing.assert_array_equal(np.isnan(found.formants), np.isnan(found.prominence))


def test_harmonics_have_the_levels_they_were_made_with():
    found = harmonic_levels(voice(tones([0.0, -6.0, -20.0, -9.0])), (1, 2, 3, 4))
    np.testing.assert_allclose(np.median(found[0] - found[1]), 6.0, atol=1.0)
    np.testing.assert_allclose(np.median(found[0] - found[2]), 20.0, atol=1.0)
    np.testing.assert_allclose(np.median(found[1] - found[3]), 3.0, atol=1.0)


def test_valleys_lie_under_harmonics():
    one, valley = harmonic_levels(voice(tones([0.0, 0.0, 0.0])), (1, 1.5))
    assert np.median(one - valley) > 30


def test_a_voiceless_clip_has_no_harmonics():
    found = harmonic_levels(voice(np.zeros(RATE)), (1, 2))
    assert found.shape == (2, 0)


def test_the_alpha_ratio_compares_below_and_above_one_kilohertz():
    time = np.arange(RATE) / RATE
    sound = np.sin(2 * np.pi * 500 * time) + 0.1 * np.sin(2 * np.pi * 3000 * time)
    found = voice(sound).tilt
    assert found[TILT.index("alpha_ratio")].mean() == pytest.approx(20.0, abs=0.1)
    # The highest bin of a Hann window may miss a tone by up to 1.4 dB.
    assert found[TILT.index("hammarberg")].mean() == pytest.approx(20.0, abs=1.4)


def test_a_periodic_spectrum_has_a_cepstral_peak_and_noise_has_less():
    rng = np.random.default_rng(0)
    buzz = voice(pulses(160.0)).cepstral_peak.mean()
    breath = voice(rng.standard_normal(RATE)).cepstral_peak.mean()
    assert buzz > 3 * breath


def test_the_cepstral_peak_is_measured_from_the_regression_line():
    quefrency = np.arange(1200)
    cepstrum = np.zeros(1200)
    cepstrum[[100, -100]] = 2.0  # a ripple in the spectrum, of 100 samples
    cepstrum += 0.01 * np.minimum(quefrency, 1200 - quefrency)  # and a line
    log_power = np.fft.rfft(cepstrum).real.astype(np.float32)[None]
    np.testing.assert_allclose(cepstral_peak_prominence(log_power), 2.0, atol=0.03)
