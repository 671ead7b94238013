"""The audio tower of LanguageBind gives what its reference gives.

The tiny model and outputs of ../shared/parity, made by the unmodified reference
(PKU-YuanGroup/LanguageBind) in its pinned environment.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nver.audio import Waveform
from nver.encoders import languagebind_weights as layout
from nver.encoders import load_encoder
from nver.encoders.languagebind import LanguageBindEncoder
from nver.encoders.vit import layer_norm, patches

pytestmark = pytest.mark.usefixtures("nver_home")

LONG = "mono13p37s_16k"  # the one clip that has more than one window
CLIPS = (
    "mono10s_16k",
    "mono2s_16k",
    "mono0p6s_16k",
    "mono3p3s_44k1",
    "stereo5s_16k",
    LONG,
    "dc3s_16k",
    "silence3s_16k",
    "mono1p7s_8k",
    "odd2p0137s_16k",
)
CASES = [(clip, "thirds", "first/" if clip == LONG else "") for clip in CLIPS]
CASES += [(LONG, "random", "rand0/")]


@pytest.fixture(scope="module")
def folder(shared_parity: Path) -> Path:
    return shared_parity / "languagebind_tiny"


@pytest.fixture(scope="module")
def waveforms(shared_parity: Path) -> dict[str, Waveform]:
    with np.load(shared_parity / "waveforms.npz") as file:
        return {name: Waveform(file[name], int(file[f"{name}__sr"])) for name in CLIPS}


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "outputs.npz") as file:
        return dict(file)


@pytest.fixture(params=["state_dict.safetensors", "pytorch_model.bin"])
def path(request, folder: Path) -> Path:
    return folder / request.param


@pytest.mark.parametrize(("clip", "windows", "variant"), CASES)
def test_input_and_embedding(path: Path, waveforms, expected, clip, windows, variant):
    encoder = load_encoder("languagebind", checkpoint=path, windows=windows, seed=0)
    key = f"{clip}/{variant}"
    if f"{key}pixel_values" in expected:
        error = np.abs(encoder.frontend(waveforms[clip]) - expected[f"{key}pixel_values"])
        assert error.max() < 2e-3
        assert error.mean() < 1e-5
    found = encoder.encode([waveforms[clip]])[0]
    np.testing.assert_allclose(found, expected[f"{key}projected"], atol=1e-5)


@pytest.mark.parametrize(("clip", "windows", "variant"), CASES)
def test_the_other_representations(folder: Path, waveforms, expected, clip, windows, variant):
    for representation, name in (("normalised", "l2"), ("trunk", "pooled")):
        encoder = load_encoder(
            "languagebind", checkpoint=folder, windows=windows, representation=representation
        )
        found = encoder.encode([waveforms[clip]])[0]
        np.testing.assert_allclose(found, expected[f"{clip}/{variant}{name}"], atol=1e-5)


def test_all_clips_in_one_batch(path: Path, waveforms, expected):
    found = load_encoder("languagebind", checkpoint=path).encode(list(waveforms.values()))
    wanted = [expected[f"{clip}/{'first/' * (clip == LONG)}projected"] for clip in waveforms]
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-5)


def test_every_step_of_the_network(folder: Path, expected):
    encoder = LanguageBindEncoder(folder)
    weights, trunk = encoder._weights, encoder._trunk
    clip, close = "mono2s_16k", {"atol": 2e-5, "rtol": 1e-5}
    mel = torch.from_numpy(expected[f"{clip}/pixel_values"])[None]
    with torch.inference_mode():
        found = patches(mel, weights[layout.PATCHES], 14)
        np.testing.assert_allclose(found[0], expected[f"{clip}/patch"], **close)
        placed = found + weights[layout.POSITIONS][1:]
        np.testing.assert_allclose(placed[0], expected[f"{clip}/embeddings"][1:], **close)
        x = encoder.tokens(mel)
        np.testing.assert_allclose(x[0], expected[f"{clip}/pre_ln"], **close)
        for number, block in enumerate(trunk.blocks):
            np.testing.assert_allclose(x[0, 0], expected[f"{clip}/hidden{number}_cls"], **close)
            x = trunk.through(x, block)
            np.testing.assert_allclose(x[0], expected[f"{clip}/layer{number}"], **close)
        np.testing.assert_allclose(x[0, 0], expected[f"{clip}/hidden3_cls"], **close)
        mean = x[0, 1:].mean(dim=0)
        np.testing.assert_allclose(mean, expected[f"{clip}/last_hidden_meanpool_patches"], **close)
        norm = layout.layer(weights, "vision_model.post_layernorm")
        pooled = layer_norm(x[:, 0], norm, 1e-5)[0]
    np.testing.assert_allclose(pooled, expected[f"{clip}/pooled"], **close)


def test_the_network_on_the_references_input(folder: Path, expected):
    encoder = LanguageBindEncoder(folder)
    keys = [key.removesuffix("pixel_values") for key in expected if "pixel_values" in key]
    assert len(keys) == len(CLIPS)
    found = encoder.embed([expected[f"{key}pixel_values"] for key in keys])
    for key, vector in zip(keys, found, strict=True):
        np.testing.assert_allclose(vector, expected[f"{key}projected"], atol=1e-5)
        scaled = vector / np.linalg.norm(vector) * np.exp(2.6592)
        np.testing.assert_allclose(scaled, expected[f"{key}l2_times_exp_logit_scale"], atol=1e-4)
