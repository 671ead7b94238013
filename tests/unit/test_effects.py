"""Each effect, measured on what it returns."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from scipy import signal

from nver.audio import Waveform
from nver.effects import _room
from nver.errors import AudioError
from nver.perturbation import PERTURBATIONS, STANDARD, perturbation

RATES = (8000, 16000, 44100, 48000)
NAMES = [pytest.param(name, id=name.replace(":", "-")) for name in STANDARD]


def burst(rate: int, seconds: float = 1.2, channels: int = 1) -> Waveform:
    """Return noise below 2.5 kHz with an envelope, on a small offset: like a short vocal burst."""
    rng = np.random.default_rng(rate)
    samples = rng.standard_normal((channels, round(seconds * rate)))
    low = signal.sosfilt(signal.butter(4, 2500, fs=rate, output="sos"), samples, axis=1)
    envelope = np.hanning(samples.shape[1]) ** 0.5
    return Waveform(0.3 * low / np.abs(low).max() * envelope + 0.01, rate)


def heard(waveform: Waveform, name: str) -> np.ndarray:
    return perturbation(name).apply(waveform).samples.astype(np.float64)


def decibels(power: float) -> float:
    return 10 * float(np.log10(power))


def power_above(samples: np.ndarray, rate: int, hertz: float) -> float:
    """Return the share of the power above a frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size))) ** 2
    return float(spectrum[np.fft.rfftfreq(samples.size, 1 / rate) > hertz].sum() / spectrum.sum())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_rate_channels_and_length_stay(name, channels):
    clip = burst(16000, channels=channels)
    found = perturbation(name).apply(clip)
    longer = 4000 if name.startswith("shift") else 0
    assert found.rate == clip.rate
    assert found.samples.shape == (channels, clip.samples.shape[1] + longer)
    assert not np.array_equal(found.samples[:, : clip.samples.shape[1]], clip.samples)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_clip_gives_the_same_samples(name):
    first = perturbation(name).apply(burst(16000))
    perturbation(name).apply(burst(8000))  # nothing is drawn from a common generator
    second = perturbation(name).apply(burst(16000))
    np.testing.assert_array_equal(first.samples, second.samples)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [2, 50, 300])
@pytest.mark.parametrize("rate", [1000, 16000, 96000])
def test_very_short_clips_of_any_rate_are_finite_and_whole(name, samples, rate):
    clip = Waveform(np.random.default_rng(0).uniform(-0.5, 0.5, samples), rate)
    found = perturbation(name).apply(clip)  # a Waveform is finite
    assert found.samples.shape[1] >= samples


class TestNoise:
    @pytest.mark.parametrize("rate", RATES)
    @pytest.mark.parametrize("snr", [20, 10, 0, -5])
    def test_has_the_ratio_that_was_asked_for(self, rate, snr):
        clip = burst(rate)
        before = clip.samples[0].astype(np.float64)
        added = heard(clip, f"noise:{snr}")[0] - before
        assert decibels(before.var() / np.mean(added**2)) == pytest.approx(snr, abs=0.1)

    def test_is_pink_within_its_band(self):
        clip = burst(48000, seconds=20)
        added = heard(clip, "noise:0")[0] - clip.samples[0]
        hertz, density = signal.welch(added, 48000, nperseg=16384)
        inside = (hertz > 100) & (hertz < 7500)
        slope = np.polyfit(np.log2(hertz[inside]), 10 * np.log10(density[inside]), 1)[0]
        assert slope == pytest.approx(-3.01, abs=0.15)  # dB an octave
        assert density[hertz > 8100].max() < 1e-6 * density[inside].min()

    def test_differs_from_clip_to_clip_and_from_level_to_level(self):
        one, other = burst(16000), burst(16000)
        other.samples[0, 0] += 0.1
        noises = [
            heard(clip, name)[0] - clip.samples[0]
            for clip, name in ((one, "noise:10"), (other, "noise:10"), (one, "noise:10.5"))
        ]
        for first, second in ((0, 1), (0, 2)):
            assert abs(np.corrcoef(noises[first], noises[second])[0, 1]) < 0.1

    def test_is_the_same_on_all_channels(self):
        clip = burst(16000, channels=2)
        added = heard(clip, "noise:5") - clip.samples
        np.testing.assert_allclose(added[0], added[1], atol=1e-6)

    def test_refuses_silence(self):
        with pytest.raises(AudioError, match="silence has no signal-to-noise ratio"):
            heard(Waveform(np.full(1000, 0.5), 16000), "noise:10")


class TestReverb:
    @pytest.mark.parametrize(
        ("rate", "seconds"), [(8000, 0.5), (48000, 0.5), (16000, 0.3), (16000, 0.8)]
    )
    def test_decays_in_the_time_that_was_asked_for(self, rate, seconds):
        click = np.zeros(round(1.5 * rate))
        click[100] = 0.5
        response = heard(Waveform(click, rate), f"reverb:{seconds}")[0]
        energy = np.cumsum(response[::-1] ** 2)[::-1]  # Schroeder's backward integral
        level = 10 * np.log10(energy / energy[0])
        fall = np.flatnonzero((level < -5) & (level > -25))
        slope = np.polyfit(fall / rate, level[fall], 1)[0]
        assert -60 / slope == pytest.approx(seconds, rel=0.2)

    def test_keeps_the_direct_sound_in_its_place_and_the_level(self):
        clip = burst(16000)
        wet = heard(clip, "reverb:0.3")
        _, direct = _room(0.3, 16000)
        assert direct > 80  # there was a delay to take out
        click = np.zeros(8000)
        click[1000] = 0.5
        assert abs(int(np.argmax(np.abs(heard(Waveform(click, 16000), "reverb:0.3")))) - 1000) <= 1
        assert np.mean(wet**2) == pytest.approx(np.mean(clip.samples.astype(float) ** 2), rel=1e-3)


class TestTelephone:
    @pytest.mark.parametrize("rate", RATES)
    def test_leaves_the_band(self, rate):
        noise = Waveform(0.1 * np.random.default_rng(1).standard_normal(2 * rate), rate)
        found = heard(noise, "telephone")[0]
        assert power_above(found, rate, 4000) < 1e-4
        assert power_above(found, rate, 3600) < 0.01
        assert 1 - power_above(found, rate, 200) < 0.01
        assert power_above(found, rate, 400) - power_above(found, rate, 3200) > 0.85

    def test_is_aligned_and_quantised_as_g711(self):
        time = np.arange(16000) / 16000
        tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
        found = heard(Waveform(tone, 16000), "telephone")[0]
        middle = slice(2000, 14000)
        basis = np.stack([np.sin(2 * np.pi * 1000 * time), np.cos(2 * np.pi * 1000 * time)])
        parts = np.linalg.lstsq(basis.T[middle], found[middle], rcond=None)[0]
        error = found[middle] - (parts @ basis)[middle]
        # G.711 has about 38 dB; without the companding it would be far above.
        assert 33 < decibels(np.mean(tone**2) / np.mean(error**2)) < 45

    def test_cuts_what_exceeds_full_scale(self):
        time = np.arange(8000) / 8000  # at its own rate: a resampling would ring
        found = heard(Waveform(3 * np.sin(2 * np.pi * 500 * time), 8000), "telephone")
        assert np.abs(found).max() == pytest.approx(1, abs=0.02)


class TestMp3:
    @pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 10000])
    @pytest.mark.parametrize("name", ["mp3:32", "mp3:128"])
    def test_is_aligned_to_the_sample(self, rate, name):
        clip = burst(rate, seconds=0.7)
        found, sent = heard(clip, name)[0], clip.samples[0] - clip.samples[0].mean()
        lags = signal.correlate(found - found.mean(), sent, "full", method="fft")
        assert abs(int(lags.argmax()) - (sent.size - 1)) <= 1
        assert np.corrcoef(found, sent)[0, 1] > 0.93

    @pytest.mark.parametrize("rate", RATES)
    def test_has_the_bit_rate_that_was_asked_for(self, rate, monkeypatch):
        sizes, write = [], soundfile.write
        monkeypatch.setattr(
            soundfile, "write", lambda file, *a, **k: (write(file, *a, **k), sizes.append(file))
        )
        heard(burst(rate, seconds=10), "mp3:32")
        assert sizes[0].getbuffer().nbytes * 8 / 10 == pytest.approx(32000, rel=0.03)

    def test_loses_something_and_less_at_a_higher_rate(self):
        clip = burst(16000)
        loss = [np.mean((heard(clip, f"mp3:{k}") - clip.samples) ** 2) for k in (32, 64, 128)]
        assert loss[0] > 2 * loss[1] > 1.2 * loss[2] > 0

    def test_keeps_peaks_beyond_full_scale(self):
        time = np.arange(16000) / 16000
        found = heard(Waveform(1.8 * np.sin(2 * np.pi * 500 * time), 16000), "mp3:64")
        assert np.abs(found).max() == pytest.approx(1.8, rel=0.1)

    def test_channels_stay_apart(self):
        clip = burst(16000, channels=3)
        found = heard(clip, "mp3:64")
        for channel in range(3):
            alike = [np.corrcoef(found[channel], other)[0, 1] for other in clip.samples]
            assert int(np.argmax(alike)) == channel
            assert alike[channel] > 0.95


@pytest.mark.parametrize("value", [-12, 12])
def test_gain_is_exact_and_keeps_what_exceeds_full_scale(value):
    clip = burst(16000)
    found = heard(clip, f"gain:{value}")
    np.testing.assert_allclose(found, clip.samples * 10 ** (value / 20), rtol=1e-6)
    assert (np.abs(found).max() > 1) == (value > 0)


def test_clipping_cuts_what_lies_beyond_the_level_and_nothing_else():
    clip = burst(16000)
    level = np.abs(clip.samples).max() * 10 ** (-12 / 20)
    found = heard(clip, "clipping:12")
    beyond = np.abs(clip.samples) > level
    assert 0.05 < beyond.mean() < 0.5
    np.testing.assert_allclose(np.abs(found[beyond]), level, rtol=1e-6)
    np.testing.assert_array_equal(found[~beyond], clip.samples[~beyond])


def test_shift_puts_silence_before_the_whole_clip():
    clip = burst(16000)
    found = heard(clip, "shift:0.25")
    assert not found[:, :4000].any()
    np.testing.assert_array_equal(found[:, 4000:], clip.samples)


def test_every_kind_is_measured_here():
    """The standard set names every kind, and every test above that takes NAMES runs them all."""
    assert {name.partition(":")[0] for name in STANDARD} == set(PERTURBATIONS)
