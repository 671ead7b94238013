"""The x-vector gives what SpeechBrain gives, its noise left out.

Inputs and outputs of ../shared/parity, made by the unmodified reference (speechbrain 1.1.0,
9c826ef3) with and without the noise of its pooling. The published sizes have random weights there,
drawn by a recipe from each tensor's name and shape.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nver.audio import Waveform
from nver.encoders.xvector import (
    DIM,
    KERNELS,
    WIDTHS,
    XVectorEncoder,
    decibel_mel,
    network_shapes,
)

Arrays = Mapping[str, np.ndarray]
pytestmark = pytest.mark.usefixtures("nver_home")

CLIPS = (
    "mono10s_16k",
    "mono2s_16k",
    "mono0p6s_16k",
    "stereo5s_16k",
    "mono13p37s_16k",
    "dc3s_16k",
    "silence3s_16k",
    "odd2p0137s_16k",
)


@pytest.fixture(scope="module")
def folder(shared_parity: Path) -> Path:
    return shared_parity / "xvector"


@pytest.fixture(scope="module")
def waveforms(shared_parity: Path) -> dict[str, Waveform]:
    with np.load(shared_parity / "waveforms.npz") as file:
        return {name: Waveform(file[name], int(file[f"{name}__sr"])) for name in CLIPS}


@pytest.fixture(scope="module")
def outputs(folder: Path) -> Arrays:
    with np.load(folder / "outputs.npz") as file:
        return dict(file)


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor by the recipe of ../shared/parity."""
    stream = np.random.RandomState(zlib.crc32(f"fmparity-v1:{name}".encode()))
    values = stream.standard_normal(size=shape)
    if len(shape) > 1:
        values /= np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.1 * values + name.endswith(".weight")
    tensor = torch.from_numpy(values.astype(np.float32))
    return tensor.abs() * 5 + 0.5 if name.endswith("running_var") else tensor


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xvector") / "full.safetensors"
    shapes = network_shapes(WIDTHS, KERNELS, DIM)
    save_file({name: drawn(name, shape) for name, shape in shapes.items()}, path)
    return path


@pytest.fixture(params=["tiny ckpt", "tiny safetensors", "full"])
def case(request, folder: Path, published: Path) -> tuple[XVectorEncoder, str]:
    """Return an encoder and the name of its outputs."""
    paths = {
        "tiny ckpt": folder / "tiny_embedding_model.ckpt",
        "tiny safetensors": folder / "tiny_state_dict.safetensors",
        "full": published,
    }
    return XVectorEncoder(paths[request.param]), request.param.split()[0]


@pytest.mark.parametrize("clip", CLIPS)
def test_the_input(waveforms, outputs, folder: Path, clip: str):
    # Up to 8e-4 dB in cells near the floor: the reference transforms in float32.
    error = np.abs(decibel_mel(waveforms[clip].samples[0]).T - outputs[f"{clip}/fbank"])
    assert error.max() < 2e-3
    assert error.mean() < 2e-5
    encoder = XVectorEncoder(folder / "tiny_state_dict.safetensors")
    error = np.abs(encoder.frontend(waveforms[clip]) - outputs[f"{clip}/fbank_norm"])
    assert error.max() < 2e-3
    assert error.mean() < 2e-5


@pytest.mark.parametrize("clip", CLIPS)
def test_the_embedding(case, waveforms, outputs, clip: str):
    encoder, size = case
    expected = outputs[f"{clip}/{size}_embedding_noise_free"]
    scale = np.abs(expected).max()
    found = encoder.encode([waveforms[clip]])[0]
    assert np.abs(found - expected).max() < 5e-6 * scale
    given = outputs[f"{clip}/fbank_norm"]
    assert np.abs(encoder.embed([given])[0] - expected).max() < 5e-6 * scale
    # The reference as it runs draws noise: that is more than all of nver's rounding.
    noisy = outputs[f"{clip}/{size}_embedding_seed0"]
    assert 2e-5 < np.abs(found - noisy).max() < 2e-4


def test_all_clips_in_one_batch(case, waveforms, outputs):
    encoder, size = case
    found = encoder.encode(list(waveforms.values()))
    expected = np.stack([outputs[f"{clip}/{size}_embedding_noise_free"] for clip in waveforms])
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert error.max() < 5e-6


def test_the_published_size(published: Path):
    card = XVectorEncoder(published).card
    assert (card.dim, card.parameters, card.min_seconds) == (512, 4_211_604, 0.03)
    assert XVectorEncoder(published, representation="statistics").card.dim == 3000
