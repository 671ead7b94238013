"""EAT on a random checkpoint: the contract, its traps, layouts and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.contracts.checkpoints import write_checkpoint
from tests.contracts.checkpoints_ssl import (
    EAT_CONFIG,
    WIDTH,
    burst,
    eat_tensors,
    save_wrapped,
    write_eat,
)
from tests.unit.encoders.likeness import relative

from nver.audio import Waveform
from nver.encoders.conformance import check_encoder
from nver.encoders.eat import POSITIONS, ROW, EATEncoder
from nver.errors import CheckpointError, SettingsError, UnknownNameError

# Seconds: below one frame, many lengths, equal grids of unequal lengths, two windows of 10.24 s.
LENGTHS = (0.02, 0.1, 0.13, 0.5, 0.51, 0.5, 1.7, 3.21, 10.2, 12.6, 15.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eat(tmp_path_factory.mktemp("weights") / "eat")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> EATEncoder:
    return EATEncoder(folder)


def clip(seconds: float) -> Waveform:
    return Waveform(burst(seconds), 16_000)


def test_the_card_says_what_it_is(encoder, folder):
    card = encoder.card
    assert (card.name, card.dim, card.rate, card.licence) == ("eat:eat", WIDTH, 16_000, "MIT")
    assert card.pooling == "class token"
    assert card.min_seconds == pytest.approx(0.025)
    assert card.facts["window"] == "1024 frames, padded to a multiple of 16 frames"
    assert card.parameters == sum(t.size for n, t in eat_tensors().items() if n != POSITIONS)
    assert EATEncoder(folder, alias="ears").card.name == "ears"


@pytest.mark.parametrize("options", [{"pooling": "mean"}, {"frames": 512}])
def test_it_keeps_the_contract(folder, options):
    check_encoder(EATEncoder(folder, **options)).raise_if_failed()


@pytest.mark.parametrize(
    "options", [{}, {"pooling": "mean+std"}, {"frames": 1024}, {"layer": "all"}]
)
def test_single_batch_shuffled_and_sorted_are_one(folder, options):
    encoder = EATEncoder(folder, **options)
    clips = [clip(seconds) for seconds in LENGTHS]
    alone = np.concatenate([encoder.encode([one]) for one in clips])
    order = np.random.default_rng(0).permutation(len(clips))
    shuffled = encoder.encode([clips[index] for index in order])
    assert relative(encoder.encode(clips), alone) < 1e-5
    assert relative(encoder.encode(clips[::-1])[::-1], alone) < 1e-5
    assert relative(shuffled[np.argsort(order)], alone) < 1e-5
    assert np.ptp(alone, axis=0).max() > 0.1


def test_padding_to_the_longest_would_change_a_clip(encoder):
    short, long = (encoder.windows(encoder.frontend(clip(s)))[0].spectrogram for s in (0.5, 1.7))
    missing = len(long) - len(short)
    padded = np.pad(short, ((0, missing), (0, 0)), constant_values=short[-1, -1])
    naive = encoder._states(torch.from_numpy(np.stack([padded, long])))[0][0, 0].numpy()
    assert relative(naive[None], encoder.encode([clip(0.5)])) > 1e-3


def test_padding_is_zero_before_the_normalisation(encoder):
    frames = encoder.frontend(clip(0.5))
    (window,) = encoder.windows(frames)
    assert (len(frames), len(window.spectrogram)) == (48, 48)
    frames = encoder.frontend(clip(0.51))
    (window,) = encoder.windows(frames)
    assert (len(frames), len(window.spectrogram), window.tokens) == (49, 64, 4 * ROW)
    np.testing.assert_allclose(window.spectrogram[49:], 4.268 / 9.138, rtol=1e-6)
    np.testing.assert_array_equal(window.spectrogram[:49], frames)


def test_the_patches_of_padding_are_not_pooled(folder):
    fixed = EATEncoder(folder, frames=1024, pooling="mean")
    (window,) = fixed.windows(fixed.frontend(clip(0.5)))
    assert (len(window.spectrogram), window.tokens) == (1024, 3 * ROW)
    tokens = fixed._states(torch.from_numpy(window.spectrogram[None]))[0][0]
    found = fixed.encode([clip(0.5)])[0]
    assert relative(found, tokens[1 : 1 + 3 * ROW].mean(0).numpy()) < 1e-6
    assert relative(found, tokens[1:].mean(0).numpy()) > 1e-3


def test_long_clips_are_heard_whole(folder):
    # The reference cuts them off: whatever comes after is the same to it.
    encoder = EATEncoder(folder, frames=256)
    first, second = burst(4.0), burst(4.0).copy()
    second[48_000:] *= -0.5
    frames = encoder.frontend(Waveform(first, 16_000))
    assert [window.tokens for window in encoder.windows(frames)] == [16 * ROW, 9 * ROW]
    both = encoder.encode([Waveform(samples, 16_000) for samples in (first, second)])
    assert relative(both[:1], both[1:]) > 1e-3


def test_the_class_token_of_several_windows_is_their_mean(encoder):
    windows = encoder.windows(encoder.frontend(clip(12.6)))
    assert len(windows) == 2
    each = [
        encoder._states(torch.from_numpy(window.spectrogram[None]))[0][0, 0].numpy()
        for window in windows
    ]
    assert relative(encoder.encode([clip(12.6)])[0], (each[0] + each[1]) / 2) < 1e-6


def test_layers_and_poolings(folder):
    layers = [EATEncoder(folder, layer=number).encode([clip(0.5)]) for number in range(3)]
    every = EATEncoder(folder, layer="all")
    assert every.card.dim == 3 * WIDTH
    assert every.card.layers == 3
    assert relative(every.encode([clip(0.5)]), np.concatenate(layers, axis=1)) < 1e-6
    middle = EATEncoder(folder, layer="mean").encode([clip(0.5)])
    assert relative(middle, (layers[1] + layers[2]) / 2) < 1e-6
    mean = EATEncoder(folder, pooling="mean").encode([clip(0.5)])
    both = EATEncoder(folder, pooling="mean+std").encode([clip(0.5)])
    assert relative(both[:, :WIDTH], mean) < 1e-6
    assert relative(mean, layers[2]) > 1e-2


def fairseq_names(tensors: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """Return the tensors by the names of the original training code."""
    image = f"{prefix}modality_encoders.IMAGE."
    return {
        f"{prefix}{name}"
        if name.startswith("blocks.")
        else f"{image}{name}".replace("pre_norm", "context_encoder.norm"): tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_names_of_the_training_code(tmp_path, folder, prefix):
    tensors = fairseq_names(eat_tensors(), prefix)
    decoder = f"{prefix}modality_encoders.IMAGE.decoder.proj.weight"
    tensors[decoder] = np.zeros((3, 3), dtype=np.float32)
    path = save_wrapped(tmp_path / "eat.pt", tensors, "config", EAT_CONFIG)
    found, expected = EATEncoder(path, alias="e"), EATEncoder(folder, alias="e")
    assert found.card.fingerprint == expected.card.fingerprint
    np.testing.assert_array_equal(found.encode([clip(0.5)]), expected.encode([clip(0.5)]))


def test_blocks_before_the_shared_ones_are_refused(tmp_path):
    tensors = fairseq_names(eat_tensors())
    strange = "modality_encoders.IMAGE.context_encoder.blocks.0.norm1.bias"
    tensors[strange] = np.zeros(WIDTH, dtype=np.float32)
    path = save_wrapped(tmp_path / "eat.pt", tensors, "config", EAT_CONFIG)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(context_encoder\.blocks\.0"):
        EATEncoder(path)


def test_the_fingerprint_follows_what_changes_the_numbers(folder, tmp_path):
    config = EAT_CONFIG | {"norm_eps": 1e-5}
    tensors = {f"model.{name}": tensor for name, tensor in eat_tensors().items()}
    other = write_checkpoint(tmp_path / "other", config, tensors)
    options = [{}, {"frames": 1024}, {"layer": 1}, {"pooling": "mean"}, {"dtype": "float16"}]
    cards = [EATEncoder(folder, alias="e", **option).card for option in options]
    cards.append(EATEncoder(other, alias="e").card)
    assert len({card.fingerprint for card in cards}) == len(cards)


def test_half_precision_is_near(folder, encoder):
    half = EATEncoder(folder, dtype="bfloat16").encode([clip(0.5)])
    assert 0 < relative(half, encoder.encode([clip(0.5)])) < 0.1


def test_a_foreign_checkpoint_is_refused(tmp_path):
    tensors = {f"model.{name}": tensor for name, tensor in eat_tensors().items()}
    del tensors["model.pre_norm.bias"]
    tensors["model.blocks.1.attn.extra"] = np.zeros(2, dtype=np.float32)
    tensors["model.blocks.0.norm2.weight"] = np.zeros(5, dtype=np.float32)
    with pytest.raises(CheckpointError) as raised:
        EATEncoder(write_checkpoint(tmp_path, EAT_CONFIG, tensors))
    said = str(raised.value)
    assert "1 missing (pre_norm.bias)" in said
    assert "1 unexpected (blocks.1.attn.extra)" in said
    assert f"blocks.0.norm2.weight [5] instead of [{WIDTH}]" in said


def test_another_architecture_is_refused(tmp_path):
    tensors = {f"model.{name}": tensor for name, tensor in eat_tensors().items()}
    first = write_checkpoint(tmp_path / "a", EAT_CONFIG | {"layer_norm_first": True}, tensors)
    with pytest.raises(CheckpointError, match="must have post-norm blocks"):
        EATEncoder(first)
    unclear = write_checkpoint(tmp_path / "b", EAT_CONFIG | {"layer_norm_first": 1}, tensors)
    with pytest.raises(CheckpointError, match="true or false for layer_norm_first; it says 1"):
        EATEncoder(unclear)
    headless = {name: value for name, value in EAT_CONFIG.items() if name != "num_heads"}
    with pytest.raises(CheckpointError, match=r"attention heads of .* it is unknown"):
        EATEncoder(write_checkpoint(tmp_path / "c", headless, tensors))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layer": -4}, SettingsError, "0 to 2"),
        ({"pooling": "max"}, UnknownNameError, "Unknown pooling of 'eat' 'max'"),
        ({"frames": 1000}, SettingsError, "must be a multiple of 16 .* they are 1000"),
        ({"frames": 0}, SettingsError, "must be a multiple of 16"),
        ({"frames": 2048}, SettingsError, "at most 1024 with this checkpoint, they are 2048"),
        ({"dtype": "float8"}, UnknownNameError, "Unknown dtype of 'eat'"),
    ],
)
def test_options_out_of_range(folder, options, error, text):
    with pytest.raises(error, match=text):
        EATEncoder(folder, **options)


def test_it_is_found_by_its_folder_name(folder, encoder, monkeypatch, nver_home):
    with pytest.raises(CheckpointError, match="looked for a folder eat or EAT-base"):
        EATEncoder()
    monkeypatch.setenv("NVER_WEIGHTS", str(folder.parent))
    assert EATEncoder().card == encoder.card
