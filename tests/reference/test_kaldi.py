"""The Kaldi filter bank and the sinc resampler give what torchaudio 2.11.0 gives.

Tolerances of ../shared/parity: near the logarithm's floor the reference itself moves by 1e-3 when
it is computed in float64. Its very short clips begin at sample 1000 of mono2s_16k.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from nver.audio import Waveform
from nver.encoders.kaldi import FilterBank
from nver.encoders.sinc import resample

SETTINGS = {
    "hanning128": (1.0, FilterBank(16000, 128, "hanning")),
    "hanning112": (1.0, FilterBank(16000, 112, "hanning")),
    "povey128_int16scale": (32768.0, FilterBank(16000, 128, "povey")),
    "povey80_int16scale": (32768.0, FilterBank(16000, 80, "povey")),
}


@pytest.fixture(scope="module")
def waveforms(shared_parity: Path) -> Mapping[str, np.ndarray]:
    with np.load(shared_parity / "waveforms.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def expected(shared_parity: Path) -> Mapping[str, np.ndarray]:
    with np.load(shared_parity / "kaldi_fbank" / "outputs.npz") as file:
        return dict(file)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_filter_bank_is_torchaudios(waveforms, expected, setting: str):
    scale, bank = SETTINGS[setting]
    keys = [key for key in expected if key.endswith(f"/{setting}")]
    assert len(keys) >= 4
    for key in keys:
        name = key.partition("/")[0]
        if name.startswith("len"):
            samples = waveforms["mono2s_16k"][0, 1000 : 1000 + int(name.removeprefix("len"))]
        else:
            samples = waveforms[name][0]
        error = np.abs(bank(torch.from_numpy(samples * np.float32(scale))).numpy() - expected[key])
        assert error.max() < 2e-3, key
        assert error.mean() < 1e-5, key


@pytest.mark.parametrize(
    ("name", "rate"), [("mono3p3s_44k1", 16000), ("mono1p7s_8k", 16000), ("mono2s_16k", 48000)]
)
def test_the_resampler_is_torchaudios(waveforms, expected, name: str, rate: int):
    clip = Waveform(waveforms[name], int(waveforms[f"{name}__sr"]))
    found = resample(clip, rate).samples
    np.testing.assert_allclose(found, expected[f"{name}/resampled{rate // 1000}k"], atol=2e-7)
