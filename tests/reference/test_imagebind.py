"""The audio tower of ImageBind gives what its reference gives.

The tiny model and outputs of ../shared/parity, made by the unmodified reference
(facebookresearch/ImageBind). It subtracts means in place; ``outputs_no_inplace.npz`` is the same
reference with every window cloned, which is what nver does unless asked for ``in_place``.
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
from nver.encoders import load_encoder
from nver.encoders.imagebind import HEAD, SCALE, ImageBindEncoder, network_shapes
from nver.encoders.vit import layer_norm

Arrays = Mapping[str, np.ndarray]
pytestmark = pytest.mark.usefixtures("nver_home")

CLIPS = (
    "mono10s_16k",
    "mono2s_16k",
    "mono0p6s_16k",
    "mono3p3s_44k1",
    "stereo5s_16k",
    "mono13p37s_16k",
    "dc3s_16k",
    "silence3s_16k",
    "mono1p7s_8k",
    "odd2p0137s_16k",
)
DETAILED = ("mono10s_16k", "mono0p6s_16k", "stereo5s_16k")


@pytest.fixture(scope="module")
def folder(shared_parity: Path) -> Path:
    return shared_parity / "imagebind_tiny"


@pytest.fixture(scope="module")
def waveforms(shared_parity: Path) -> dict[str, Waveform]:
    with np.load(shared_parity / "waveforms.npz") as file:
        return {name: Waveform(file[name], int(file[f"{name}__sr"])) for name in CLIPS}


@pytest.fixture(scope="module")
def own(folder: Path) -> Arrays:
    with np.load(folder / "outputs_no_inplace.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def in_place(folder: Path) -> Arrays:
    with np.load(folder / "outputs.npz") as file:
        return dict(file)


@pytest.fixture(params=["audio_state_dict.safetensors", "full_state_dict.pth"])
def encoder(request, folder: Path) -> ImageBindEncoder:
    return load_encoder("imagebind", checkpoint=folder / request.param)


@pytest.mark.parametrize("clip", CLIPS)
def test_input_and_embedding(encoder, waveforms, own, clip: str):
    error = np.abs(encoder.frontend(waveforms[clip]) - own[f"{clip}/mel"])
    assert error.max() < 2e-3
    assert error.mean() < 1e-5
    found = encoder.encode([waveforms[clip]])[0]
    np.testing.assert_allclose(found, own[f"{clip}/embedding"], atol=1e-3)


def test_all_clips_in_one_batch(encoder, waveforms, own):
    found = encoder.encode(list(waveforms.values()))
    expected = np.stack([own[f"{clip}/embedding"] for clip in waveforms])
    np.testing.assert_allclose(found, expected, atol=1e-4)


# Of several channels the reference subtracts the mean of all: the windows of a stereo clip move
# each other by what the second channel holds, which nver does not hear.
@pytest.mark.parametrize("clip", [clip for clip in CLIPS if "stereo" not in clip])
def test_the_reference_as_published(folder: Path, waveforms, in_place, clip: str):
    encoder = load_encoder("imagebind", checkpoint=folder, in_place=True)
    error = np.abs(encoder.frontend(waveforms[clip]) - in_place[f"{clip}/mel"])
    assert error.max() < 2e-3
    assert error.mean() < 1e-5
    found = encoder.encode([waveforms[clip]])[0]
    np.testing.assert_allclose(found, in_place[f"{clip}/embedding"], atol=1e-3)


@pytest.mark.parametrize("clip", CLIPS)
def test_the_network_on_the_references_input(encoder, in_place, clip: str):
    # Fine enough to tell the epsilons of the layer norms apart (4e-5 of a length of 20).
    mel = in_place[f"{clip}/mel"]
    np.testing.assert_allclose(encoder.embed([mel])[0], in_place[f"{clip}/embedding"], atol=1e-5)
    with torch.inference_mode():
        each = encoder.forward(torch.from_numpy(mel)).numpy()
    np.testing.assert_allclose(each / 20, in_place[f"{clip}/clip_l2"], atol=1e-6)


@pytest.mark.parametrize("clip", DETAILED)
def test_every_step_of_the_network(encoder, in_place, clip: str):
    weights, trunk = encoder._weights, encoder._trunk
    close = {"atol": 2e-5, "rtol": 1e-5}
    with torch.inference_mode():
        x = encoder.tokens(torch.from_numpy(in_place[f"{clip}/mel"]))
        positions = weights["modality_preprocessors.audio.pos_embedding_helper.pos_embed"]
        np.testing.assert_allclose(x, in_place[f"{clip}/tokens"], **close)
        np.testing.assert_allclose((x - positions)[:, 1:], in_place[f"{clip}/stem"], **close)
        for number, block in enumerate(trunk.blocks):
            last, x = trunk.through(x, block, 1), trunk.through(x, block)
            np.testing.assert_allclose(x, in_place[f"{clip}/block{number}"], **close)
            np.testing.assert_allclose(last[:, 0], x[:, 0], **close)
        np.testing.assert_allclose(x, in_place[f"{clip}/trunk"], **close)
        normed = layer_norm(x, (weights[f"{HEAD}0.weight"], weights[f"{HEAD}0.bias"]), 1e-6)
        np.testing.assert_allclose(normed, in_place[f"{clip}/head_ln"], **close)
        head = normed[:, 0] @ weights[f"{HEAD}2.weight"].T
    np.testing.assert_allclose(head, in_place[f"{clip}/clip_head"], **close)


def test_the_trunk_is_the_normed_class_token(folder: Path, waveforms, in_place):
    encoder = load_encoder("imagebind", checkpoint=folder, representation="trunk")
    expected = in_place["mono10s_16k/head_ln"][:, 0].mean(axis=0)
    np.testing.assert_allclose(encoder.encode([waveforms["mono10s_16k"]])[0], expected, atol=1e-4)


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor of the full-size model by the recipe of ../shared/parity."""
    if name == SCALE:
        return torch.tensor(np.log(20.0), dtype=torch.float32)
    stream = np.random.RandomState(zlib.crc32(f"fmparity-v1:{name}".encode()))
    values = stream.standard_normal(size=shape)
    if any(part in name for part in ("cls_token", "pos_embed", "bias_k", "bias_v")):
        values *= 0.5
    elif len(shape) > 1:
        values /= np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.1 * values + name.endswith(".weight")
    return torch.from_numpy(values.astype(np.float32))


def test_the_recipe_draws_the_tiny_model(folder: Path, encoder):
    # in_proj_bias and its like are "any other" one-dimensional tensors: no offset of 1.
    for name, tensor in encoder._weights.items():
        if name != SCALE:
            assert torch.equal(tensor, drawn(name, tuple(tensor.shape))), name


@pytest.mark.slow
def test_the_full_size(tmp_path: Path, waveforms):
    shapes = network_shapes(width=768, depth=12, hidden=3072, dim=1024)
    path = tmp_path / "audio.safetensors"
    save_file({name: drawn(name, shape) for name, shape in shapes.items()}, path)
    first = load_encoder("imagebind", checkpoint=path)
    assert (first.card.dim, first.card.parameters) == (1024, 86_235_649)
    assert first.card.facts["heads"] == "12"
    clips = [waveforms[clip] for clip in ("mono0p6s_16k", "stereo5s_16k")]
    together = first.encode(clips)
    assert together.shape == (2, 1024)
    np.testing.assert_allclose(np.linalg.norm(together[0]), 20.0, rtol=1e-5)
    alone = np.concatenate([first.encode([clip]) for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    trunk = load_encoder("imagebind", checkpoint=path, representation="trunk")
    assert trunk.encode(clips[:1]).shape == (1, 768)
