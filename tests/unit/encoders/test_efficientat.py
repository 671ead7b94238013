"""EfficientAT mn04 on a random checkpoint: shapes, layers, fingerprints, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.contracts.checkpoints import EFFICIENTAT_CONFIG, write_efficientat

from nver.audio import Waveform
from nver.encoders import load_encoder
from nver.encoders.efficientat import EfficientATEncoder, divisible
from nver.errors import CheckpointError, UnknownNameError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_efficientat(tmp_path_factory.mktemp("weights") / "efficientat_mn04")


def noise(samples: int, seed: int = 0) -> Waveform:
    rng = np.random.default_rng(seed)
    return Waveform(0.1 * rng.standard_normal(samples).astype(np.float32), 32000)


def test_the_card_says_what_it_is(folder: Path):
    card = load_encoder("efficientat-mn04", checkpoint=folder).card
    assert (card.name, card.dim, card.rate) == ("efficientat-mn04", 384, 32000)
    assert card.parameters == 516_128
    assert card.min_seconds == pytest.approx(0.032)
    assert (card.layer, card.pooling) == ("last", "mean over frequency and time")


def test_it_is_found_by_its_folder_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NVER_WEIGHTS", str(folder.parent))
    encoder = load_encoder("efficientat-mn04", layer="features.11")
    assert encoder.card.layer == "features.11"


@pytest.mark.parametrize(
    ("channels", "rounded"), [(6.4, 8), (9.6, 16), (16.0, 16), (25.6, 24), (28.8, 32), (384.0, 384)]
)
def test_channel_counts_are_multiples_of_eight(channels: float, rounded: int):
    assert divisible(channels) == rounded


@pytest.mark.parametrize("layer", ["last", "features.11"])
def test_clips_do_not_change_each_other(folder: Path, layer: str):
    encoder = EfficientATEncoder(folder, layer=layer)
    clips = [noise(n, seed) for seed, n in enumerate((32000, 32000, 9000, 50000, 1, 1025))]
    together = encoder.encode(clips)
    alone = np.concatenate([encoder.encode([clip]) for clip in clips])
    np.testing.assert_allclose(together, alone, rtol=0, atol=3e-6 * np.abs(alone).max())
    assert np.ptp(together, axis=0).max() > 0.01


def test_layers_are_different_views(folder: Path):
    last, early = (EfficientATEncoder(folder, layer=name) for name in ("last", "features.11"))
    assert last.card.fingerprint != early.card.fingerprint
    assert not np.allclose(last.encode([noise(9000)]), early.encode([noise(9000)]))


def test_all_layers_are_those_layers_side_by_side(folder: Path):
    every = EfficientATEncoder(folder, layer="all")
    clips = [noise(9000), noise(20000, 1)]
    layers = [EfficientATEncoder(folder, layer=name) for name in ("features.11", "last")]
    expected = np.concatenate([encoder.encode(clips) for encoder in layers], axis=1)
    np.testing.assert_array_equal(every.encode(clips), expected)
    assert (every.card.dim, every.card.layers) == (expected.shape[1], 2)
    assert len({encoder.card.fingerprint for encoder in (every, *layers)}) == 3


def test_an_unknown_layer_gets_the_nearest(folder: Path):
    with pytest.raises(UnknownNameError, match=r"'features.1'. Did you mean 'features.11'\?"):
        EfficientATEncoder(folder, layer="features.1")


def test_the_input_is_preemphasised_and_normalised(folder: Path):
    mel = EfficientATEncoder(folder).frontend(Waveform(np.zeros(32000, np.float32), 32000))
    assert mel.shape == (128, 100)
    np.testing.assert_allclose(mel, (np.log(1e-5) + 4.5) / 5, rtol=1e-6)


@pytest.mark.parametrize(
    "blocks",
    [
        None,
        EFFICIENTAT_CONFIG["blocks"][:14],
        [{"kernel": 3}] * 15,
        [{**EFFICIENTAT_CONFIG["blocks"][0], "kernel": "3"}] * 15,
    ],
)
def test_a_configuration_of_other_blocks_is_refused(folder: Path, tmp_path: Path, blocks: object):
    (tmp_path / "config.json").write_text(json.dumps(EFFICIENTAT_CONFIG | {"blocks": blocks}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="must list 15 blocks, each with act, kernel"):
        EfficientATEncoder(tmp_path)


def test_blocks_of_other_kernels_do_not_fit_the_tensors(folder: Path, tmp_path: Path):
    blocks = [{**block, "kernel": 3} for block in EFFICIENTAT_CONFIG["blocks"]]
    (tmp_path / "config.json").write_text(json.dumps(EFFICIENTAT_CONFIG | {"blocks": blocks}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"6 misshaped \(features.13.block.1.0.weight"):
        EfficientATEncoder(tmp_path)
