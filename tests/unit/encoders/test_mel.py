"""Mel filters and log-mel spectrograms against an independent implementation and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nver.encoders import mel
from nver.encoders.mel import LogMel, hann, hz_to_mel, mel_filters, mel_to_hz

HTK = LogMel(16000, 1024, 400, 160, 64, 60.0, 7800.0, 1e-7, "hz")
KALDI = LogMel(32000, 1024, 800, 320, 128, 0.0, 15000.0, 1e-5, "mel", False, 0.97)


def test_one_thousand_hz_is_one_thousand_mel():
    assert hz_to_mel(np.array([1000.0]))[0] == pytest.approx(1000.0, rel=1e-4)


def test_the_mel_scale_has_an_inverse():
    hz = np.array([0.0, 60.0, 440.0, 15000.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz)), hz, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("front", [HTK, KALDI])
def test_filters_agree_with_transformers(front: LogMel):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    kaldi = front.triangles == "mel"
    theirs = audio_utils.mel_filter_bank(
        num_frequency_bins=front.n_fft // 2 + 1,
        num_mel_filters=front.n_mels,
        min_frequency=front.f_min,
        max_frequency=front.f_max,
        sampling_rate=front.rate,
        mel_scale="kaldi" if kaldi else "htk",
        triangularize_in_mel_space=kaldi,
    )
    ours = mel_filters(
        front.rate, front.n_fft, front.n_mels, front.f_min, front.f_max, front.triangles
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_neighbouring_triangles_sum_to_one_between_the_first_and_last_centre():
    filters = mel_filters(16000, 1024, 20, 100.0, 8000.0, "hz")
    centres = filters.argmax(axis=0)
    np.testing.assert_allclose(filters[centres[0] + 1 : centres[-1]].sum(axis=1), 1.0, atol=1e-12)


def test_windows_agree_with_torch():
    for periodic in (True, False):
        theirs = torch.hann_window(400, periodic=periodic, dtype=torch.float64).numpy()
        np.testing.assert_allclose(hann(400, periodic), theirs, atol=1e-12)


@pytest.mark.parametrize("front", [HTK, KALDI])
def test_the_spectrogram_agrees_with_torch(front: LogMel):
    samples = np.random.default_rng(1).standard_normal(7000).astype(np.float32)
    signal = torch.from_numpy(samples).double()
    if front.preemphasis:
        signal = signal[1:] - front.preemphasis * signal[:-1]
    window = torch.hann_window(front.win_length, periodic=front.periodic, dtype=torch.float64)
    spectrum = torch.stft(
        signal, front.n_fft, front.hop_length, front.win_length, window, return_complex=True
    )
    filters = mel_filters(
        front.rate, front.n_fft, front.n_mels, front.f_min, front.f_max, front.triangles
    )
    theirs = np.log(filters.T @ spectrum.abs().square().numpy() + front.floor)
    ours = front(samples)
    assert ours.dtype == np.float32
    assert ours.shape == (front.n_mels, front.frames(samples.size))
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("front", [HTK, KALDI])
@pytest.mark.parametrize("samples", [1120, 1599, 1600, 1601])
def test_frames_are_counted(front: LogMel, samples: int):
    assert front(np.ones(samples, dtype=np.float32)).shape[1] == front.frames(samples)


def test_long_clips_are_transformed_in_parts(monkeypatch: pytest.MonkeyPatch):
    samples = np.random.default_rng(2).standard_normal(5000).astype(np.float32)
    whole = HTK(samples)
    monkeypatch.setattr(mel, "FRAMES_AT_ONCE", 3)
    np.testing.assert_array_equal(HTK(samples), whole)


def test_silence_is_the_logarithm_of_the_floor():
    np.testing.assert_allclose(HTK(np.zeros(2000, dtype=np.float32)), np.log(1e-7), rtol=1e-6)
