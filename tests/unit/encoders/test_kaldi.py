"""Kaldi's filter bank: frames, bands, what it does not hear."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nver.encoders.kaldi import LOG_FLOOR, FilterBank, tables
from nver.errors import SettingsError

BANK = FilterBank(16000, 128, "hanning")
FLOOR = math.log(LOG_FLOOR)


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def test_frames_are_whole():
    for samples, frames in ((400, 1), (559, 1), (560, 2), (720, 3), (32000, 198)):
        assert BANK.frames(samples) == frames
        assert BANK(noise(samples)).shape == (frames, 128)
    assert BANK.frames(399) == 0


def test_less_than_one_frame_is_refused():
    with pytest.raises(
        SettingsError, match=r"needs 400 samples \(25 ms at 16000 Hz\), this clip has 399\. Pad it"
    ):
        BANK(noise(399))


def test_a_tone_is_loudest_in_its_band():
    time = torch.arange(16000) / 16000
    for hertz in (300.0, 1000.0, 5000.0):
        mel = 1127 * math.log1p(hertz / 700)
        lowest, highest = (1127 * math.log1p(edge / 700) for edge in (20.0, 8000.0))
        band = (mel - lowest) / (highest - lowest) * 129 - 1
        loudest = BANK(torch.sin(2 * math.pi * hertz * time)).mean(dim=0).argmax().item()
        assert abs(loudest - band) < 1.5  # low bands are narrower than a line of the spectrum


def test_silence_is_the_floor_and_so_is_a_constant():
    for level in (0.0, 0.25):
        assert torch.allclose(BANK(torch.full((1000,), level)), torch.tensor(FLOOR))


def test_one_of_128_bands_is_empty():
    _, filters, n_fft = tables(BANK)
    assert n_fft == 512
    empty = torch.nonzero(filters.sum(dim=0) == 0).flatten()
    assert len(empty) == 1
    assert torch.allclose(BANK(noise(4000))[:, empty], torch.tensor(FLOOR))
    assert (tables(FilterBank(16000, 112, "hanning"))[1].sum(dim=0) > 0).all()


def test_the_povey_window_is_the_hann_window_to_the_power_of_085():
    hann, povey = (tables(FilterBank(16000, 80, name))[0] for name in ("hanning", "povey"))
    expected = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    np.testing.assert_allclose(povey, expected, atol=1e-6)
    assert hann.max() > 0.9999
    np.testing.assert_allclose(hann, torch.flip(hann, (0,)), atol=1e-6)


def test_frames_scale_with_the_rate():
    bank = FilterBank(48000, 80, "povey")
    assert (bank.length, bank.hop, tables(bank)[2]) == (1200, 480, 2048)
