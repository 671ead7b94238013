from __future__ import annotations

import numpy as np
import pytest

from nver.encoders.prosodic import ProsodicEncoder

RATE = 16_000
ENCODER = ProsodicEncoder()


def features(sound):
    vector = ENCODER.features(np.asarray(sound, dtype=np.float32))
    return dict(zip(ENCODER.feature_names, vector.tolist(), strict=True))


def time(seconds):
    return np.arange(round(seconds * RATE)) / RATE


def voice(f0, seconds=1.0):
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(f0, round(seconds * RATE))) / RATE
    return 0.3 * sum(np.sin(order * phase) / order for order in range(1, 9))


def noise(seconds=1.0, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def laugh(rate, seconds=2.0):
    bursts = np.maximum(np.sin(2 * np.pi * rate * time(seconds)), 0) ** 2
    return (bursts + 0.01) * voice(300.0, seconds)


def test_names_are_unique_and_as_many_as_dimensions():
    assert ENCODER.card.dim == len(ENCODER.feature_names) == len(set(ENCODER.feature_names)) == 354


def test_the_pitch_of_a_steady_voice():
    found = features(voice(440.0))
    assert found["f0_mean"] == pytest.approx(12.0, abs=0.05)  # an octave above 220 Hz
    assert found["f0_sd"] == pytest.approx(0.0, abs=0.05)
    assert found["voiced_of_span"] == 1.0
    assert found["harmonicity_mean"] > 20


def test_the_direction_of_a_glide():
    rise = features(voice(220.0 * 2.0 ** time(1.0)))
    fall = features(voice(440.0 * 0.5 ** time(1.0)))
    assert rise["f0_slope"] == pytest.approx(12.0, abs=1.0)
    assert fall["f0_slope"] == pytest.approx(-12.0, abs=1.0)
    assert rise["f0_time_of_max"] > 0.9 > 0.1 > fall["f0_time_of_max"]


def test_vibrato_is_in_its_band():
    found = features(voice(300.0 * 2.0 ** (np.sin(2 * np.pi * 5.5 * time(2.0)) / 12), 2.0))
    bands = {name: value for name, value in found.items() if name.startswith("f0_mod_")}
    assert max(bands, key=lambda name: bands[name]) == "f0_mod_5-6hz"


def test_noise_is_voiceless():
    found = features(noise())
    assert found["voiced_of_active"] < 0.1
    assert found["strength_mean"] < 0.5


@pytest.mark.parametrize("rate", [4.0, 5.0, 7.0])
def test_the_rate_of_a_laugh(rate):
    found = features(laugh(rate))
    assert found["swing_frequency"] == pytest.approx(rate, abs=0.2)
    assert found["burst_number"] == 2 * rate
    assert found["burst_gap_mean"] == pytest.approx(1 / rate, abs=0.01)
    assert found["swing_period"] == pytest.approx(1 / rate, abs=0.01)


def test_roughness_is_where_it_was_put():
    rough = (1 + np.sin(2 * np.pi * 65 * time(1.0))) * voice(700.0)
    found = features(rough)
    bands = {n: v for n, v in found.items() if n.startswith("rough") and n.endswith("_mean")}
    assert max(bands, key=lambda name: bands[name]) == "rough55-75hz_mean"


def test_pauses_between_voiced_stretches():
    silence = np.zeros(RATE // 2)
    found = features(np.concatenate([voice(300.0, 0.5), silence, voice(300.0, 0.5)]))
    assert np.expm1(found["voiced_number_log"]) == pytest.approx(2)
    assert found["pause_length_max"] == pytest.approx(0.5, abs=0.06)


def test_attack_and_decay():
    envelope = np.minimum(time(1.0) / 0.1, np.exp(-(time(1.0) - 0.1) / 0.2))
    found = features(envelope * noise())
    assert found["onset_attack"] == pytest.approx(0.1, abs=0.06)
    assert found["onset_decay"] > 0.3
    assert found["energy_slope"] < 0


def test_the_second_formant_of_a_vowel():
    from scipy.signal import lfilter

    source = noise()
    for formant in (500, 2000, 3200):
        radius = np.exp(-np.pi * 80 / RATE)
        pole = [1.0, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2]
        source = lfilter([1.0], pole, source)
    found = features(source)
    assert 1000 * 2.0 ** found["formant2_mean"] == pytest.approx(2000, rel=0.1)
    assert found["formant2-1_mean"] == pytest.approx(2.0, abs=0.3)


def test_a_silent_clip_has_neutral_values():
    found = features(np.zeros(RATE))
    assert found["f0_mean"] == found["strength_mean"] == found["h1-h2_mean"] == 0
    assert 1000 * 2.0 ** found["formant1_mean"] == pytest.approx(500)
    assert found["harmonicity_mean"] == -10
