"""The synthesiser against what acoustics says it must do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nver.corpora.vocal_tract import CONTROL_RATE, RATE, Gesture, Voice, render

VOICE = Voice(
    name="steady",
    sex="female",
    pitch=200.0,
    formant_scale=1.0,
    breath=0.0,
    jitter=0.0,
    shimmer=0.0,
    tension=0.5,
    expression=1.0,
    tempo=1.0,
    brightness=0.0,
    hiss=-90.0,
)


def steady(seconds: float = 1.0, **values: float) -> Gesture:
    defaults = {
        "pitch": 1.0,
        "voicing": 1.0,
        "noise": 0.0,
        "f1": 700.0,
        "f2": 1200.0,
        "mouth": 1.0,
        "tension": 0.0,
        "roughness": 0.0,
    }
    size = round(seconds * CONTROL_RATE)
    return Gesture(**{name: np.full(size, v) for name, v in (defaults | values).items()})


def spectrum(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    middle = sound[sound.size // 4 : -sound.size // 4]
    power = np.abs(np.fft.rfft(middle * np.hanning(middle.size))) ** 2
    return np.fft.rfftfreq(middle.size, 1 / RATE), power


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_steady_voice_is_harmonic_at_its_pitch(factor: float) -> None:
    frequencies, power = spectrum(render(VOICE, steady(pitch=factor), np.random.default_rng(0)))
    pitch = VOICE.pitch * factor
    away = np.abs(frequencies / pitch - np.round(frequencies / pitch)) * pitch
    assert power[away < 5].sum() > 0.98 * power.sum()


def test_noise_is_shaped_by_the_formants() -> None:
    for f1, scale in ((400.0, 1.0), (800.0, 1.0), (800.0, 1.2)):
        gesture = steady(8.0, voicing=0.0, noise=1.0, f1=f1, f2=2000.0)
        voice = replace(VOICE, formant_scale=scale)
        frequencies, power = spectrum(render(voice, gesture, np.random.default_rng(0)))
        low = (frequencies > 200) & (frequencies < 1400)
        smooth = np.convolve(power, np.ones(400) / 400, mode="same")
        peak = frequencies[low][smooth[low].argmax()]
        assert peak == pytest.approx(f1 * scale, rel=0.12)


def test_a_closed_mouth_is_duller() -> None:
    shares = []
    for mouth in (0.0, 1.0):
        gesture = steady(voicing=0.0, noise=1.0, mouth=mouth)
        frequencies, power = spectrum(render(VOICE, gesture, np.random.default_rng(0)))
        shares.append(power[frequencies > 3000].sum() / power.sum())
    assert shares[0] < 0.3 * shares[1]


def test_tension_brightens_and_roughness_adds_a_subharmonic() -> None:
    def energy(gesture: Gesture, low: float, high: float) -> float:
        frequencies, power = spectrum(render(VOICE, gesture, np.random.default_rng(0)))
        return float(power[(frequencies > low) & (frequencies < high)].sum() / power.sum())

    assert energy(steady(tension=0.5), 2000, 8000) > 2 * energy(steady(tension=-0.5), 2000, 8000)
    assert energy(steady(roughness=1.0), 90, 110) > 50 * energy(steady(), 90, 110)


def test_length_ends_and_silence() -> None:
    sound = render(VOICE, steady(0.5), np.random.default_rng(0))
    assert sound.shape == (RATE // 2,)
    assert sound[0] == sound[-1] == 0
    assert np.isfinite(sound).all()
    silent = render(VOICE, steady(0.5, voicing=0.0), np.random.default_rng(0))
    assert not silent.any()
