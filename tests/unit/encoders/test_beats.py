"""BEATs on a random checkpoint: the contract, its traps, layouts and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contracts.checkpoints import save_torch, write_checkpoint
from tests.contracts.checkpoints_ssl import (
    BEATS_CONFIG,
    BIASES,
    WIDTH,
    beats_tensors,
    burst,
    save_wrapped,
    write_beats,
)
from tests.unit.encoders.likeness import relative

from nver.audio import Waveform
from nver.encoders.beats import ROW, WINDOW, BEATsEncoder, whole_patches
from nver.encoders.beats_network import buckets, position_bias
from nver.encoders.conformance import check_encoder
from nver.errors import CheckpointError, SettingsError, UnknownNameError

# Seconds: below one patch, many lengths, as many patches of unequal lengths.
LENGTHS = (0.02, 0.1, 0.18, 0.5, 0.51, 0.62, 0.5, 1.7, 3.21, 10.2, 15.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_beats(tmp_path_factory.mktemp("weights") / "beats")


@pytest.fixture(scope="module")
def encoder(path: Path) -> BEATsEncoder:
    return BEATsEncoder(path)


def clip(seconds: float) -> Waveform:
    return Waveform(burst(seconds), 16_000)


def written(folder: Path, tensors: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """Write a checkpoint with another configuration; None takes a key away."""
    config = {k: v for k, v in (BEATS_CONFIG | changes).items() if v is not None}
    return save_wrapped(folder / "b.pt", tensors or beats_tensors(), "cfg", config)


def test_the_card_says_what_it_is(encoder, path):
    card = encoder.card
    assert (card.name, card.dim, card.rate) == ("beats:BEATs_tiny", WIDTH, 16_000)
    assert (card.licence, card.modality) == ("MIT", "audio-only")
    assert card.min_seconds == pytest.approx(0.175)
    once = {n: t for n, t in beats_tensors().items() if not ("layers.1" in n and BIASES in n)}
    assert card.parameters == sum(tensor.size for tensor in once.values())
    assert BEATsEncoder(path, alias="ears").card.name == "ears"


def test_it_keeps_the_contract_with_padded_tails(path):
    check_encoder(BEATsEncoder(path, tail="padded")).raise_if_failed()


@pytest.mark.parametrize("options", [{}, {"tail": "padded"}, {"layer": "all"}])
def test_single_batch_shuffled_and_sorted_are_one(path, options):
    encoder = BEATsEncoder(path, **options)
    clips = [clip(seconds) for seconds in LENGTHS]
    alone = np.concatenate([encoder.encode([one]) for one in clips])
    order = np.random.default_rng(0).permutation(len(clips))
    shuffled = encoder.encode([clips[index] for index in order])
    assert relative(encoder.encode(clips), alone) < 1e-5
    assert relative(encoder.encode(clips[::-1])[::-1], alone) < 1e-5
    assert relative(shuffled[np.argsort(order)], alone) < 1e-5
    assert np.ptp(alone, axis=0).max() > 0.1


def test_padding_the_samples_of_a_batch_would_change_a_clip(encoder):
    # Even when what is only padding is left out of the mean, as MTEB does not.
    short, long = burst(0.5), burst(1.7)
    padded = encoder.frontend(Waveform(np.pad(short, (0, long.size - short.size)), 16_000))
    tokens = encoder._states(torch.from_numpy(padded[None, :160]))[0][0]
    expected = encoder.encode([clip(0.5)])[0]
    assert relative(tokens[: 3 * ROW].mean(0).numpy(), expected) > 1e-2
    assert relative(tokens.mean(0).numpy(), expected) > 1e-2


def test_the_samples_are_on_the_16_bit_scale(encoder):
    frames = encoder.frontend(clip(0.5))
    assert -2 < frames.mean() < 2
    loud = encoder.frontend(Waveform(burst(0.5) * np.float32(2), 16_000))
    # Twice the amplitude is 2 ln 2 more, divided by twice the deviation; the fourth band is empty.
    more = np.delete(loud - frames, 3, axis=1)
    np.testing.assert_allclose(more, 2 * np.log(2) / (2 * 6.55582), atol=1e-4)


def test_the_tail(path, encoder):
    padded = BEATsEncoder(path, tail="padded")
    changed = burst(0.5).copy()
    changed[7800:] *= -1  # 48 frames end at 7920
    heard = [one.encode([clip(0.5), Waveform(changed, 16_000)]) for one in (encoder, padded)]
    assert relative(*heard[0]) > 1e-4  # 0.5 s is 48 frames, three whole patches
    long = burst(0.6)
    changed = long.copy()
    changed[8000:] *= -1
    clips = [Waveform(samples, 16_000) for samples in (long, changed)]
    dropped, kept = encoder.encode(clips), padded.encode(clips)
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert relative(kept[:1], kept[1:]) > 1e-3


@pytest.mark.parametrize("seconds", [0.175, 0.335])
def test_without_a_tail_padding_changes_nothing(path, encoder, seconds):
    assert whole_patches(round(seconds * 16_000)) == round(seconds * 16_000)
    padded = BEATsEncoder(path, tail="padded")
    np.testing.assert_array_equal(padded.encode([clip(seconds)]), encoder.encode([clip(seconds)]))


def test_long_clips_are_heard_in_windows(encoder):
    frames = np.tile(encoder.frontend(clip(2.7))[:256], (13, 1))
    assert len(frames) > WINDOW
    whole = encoder.embed([frames])[0]
    first, second = encoder.embed([frames[:WINDOW]])[0], encoder.embed([frames[WINDOW:]])[0]
    parts = np.average([first, second], axis=0, weights=[WINDOW, len(frames) - WINDOW])
    assert relative(whole, parts) < 1e-5
    assert relative(whole, first) > 1e-6


def test_buckets_of_distances():
    found = buckets(1001, 320, 800)
    distances = np.arange(-1000, 1001)
    assert len(found) == 2001
    np.testing.assert_array_equal(
        found[(distances > -80) & (distances <= 0)], np.arange(79, -1, -1)
    )
    np.testing.assert_array_equal(found[(distances > 0) & (distances < 80)], 160 + np.arange(1, 80))
    assert set(found[np.abs(distances) >= 800].tolist()) == {159, 319}
    away = found[distances >= 1]
    assert (away.diff() >= 0).all()


def test_the_bias_follows_the_distance():
    table = torch.arange(8.0)[:, None] * torch.tensor([1.0, 10.0])
    bias = position_bias(table, 4, 16)
    assert bias.shape == (2, 4, 4)
    # Of query 1: the key before it, itself, and two after it.
    assert bias[0, 1].tolist() == [1, 0, 5, 6]
    assert bias[1, 1].tolist() == [10, 0, 50, 60]


def test_layers_and_poolings(path):
    layers = [BEATsEncoder(path, layer=number).encode([clip(0.5)]) for number in range(3)]
    every = BEATsEncoder(path, layer="all")
    assert every.card.dim == 3 * WIDTH
    assert every.card.layers == 3
    assert relative(every.encode([clip(0.5)]), np.concatenate(layers, axis=1)) < 1e-6
    middle = BEATsEncoder(path, layer="mean").encode([clip(0.5)])
    assert relative(middle, (layers[1] + layers[2]) / 2) < 1e-6
    both = BEATsEncoder(path, pooling="mean+std").encode([clip(0.5)])
    assert relative(both[:, :WIDTH], layers[2]) < 1e-6


def test_every_layout_is_one_network(path, tmp_path):
    tensors = beats_tensors()
    old = "encoder.pos_conv.0.weight_"
    new = "encoder.pos_conv.0.parametrizations.weight.original"
    renamed = {
        n.replace(f"{old}g", f"{new}0").replace(f"{old}v", f"{new}1"): t for n, t in tensors.items()
    }
    alone = {n: t for n, t in tensors.items() if not ("layers.1" in n and n.endswith(BIASES))}
    flat = write_checkpoint(tmp_path / "flat", BEATS_CONFIG, alone)
    expected = BEATsEncoder(path, alias="b")
    for other in (written(tmp_path / "new", renamed), flat, path.parent):
        found = BEATsEncoder(other, alias="b")
        assert found.card.fingerprint == expected.card.fingerprint
        np.testing.assert_array_equal(found.encode([clip(0.5)]), expected.encode([clip(0.5)]))


def test_the_fingerprint_follows_what_changes_the_numbers(path, tmp_path):
    options = [{}, {"tail": "padded"}, {"layer": 1}, {"pooling": "mean+std"}, {"dtype": "float16"}]
    cards = [BEATsEncoder(path, alias="b", **option).card for option in options]
    changes = [{"deep_norm": False}, {"max_distance": 400}]
    for number, change in enumerate(changes):
        cards.append(BEATsEncoder(written(tmp_path / str(number), **change), alias="b").card)
    assert len({card.fingerprint for card in cards}) == len(cards)


@pytest.mark.filterwarnings("ignore:TF32")
def test_half_precision_is_near(path, encoder):
    # oneDNN's bfloat16 convolutions in narrow groups, as of this toy, are wrong on CPUs with AMX.
    with torch.backends.mkldnn.flags(enabled=False):
        half = BEATsEncoder(path, dtype="bfloat16").encode([clip(0.5)])
    assert 0 < relative(half, encoder.encode([clip(0.5)])) < 0.1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"max_distance": None}, r"needs a configuration .* with max_distance: no tensor"),
        ({"deep_norm": None}, "true or false for deep_norm; it says None"),
        ({"activation_fn": "relu"}, "must have the activation 'gelu', .* says 'relu'"),
        ({"max_distance": 60}, "must be more than 80, a quarter of its 320 buckets, it is 60"),
        ({"encoder_attention_heads": 5}, "must divide its width 32, it is 5"),
        ({"encoder_attention_heads": 8}, r"misshaped .* instead of"),
        ({"encoder_layers": 3}, r"missing \(encoder\.layers\.2"),
        ({"encoder_layers": "two"}, "must give a number for encoder_layers"),
    ],
)
def test_another_architecture_is_refused(tmp_path, changes, text):
    with pytest.raises(CheckpointError, match=text):
        BEATsEncoder(written(tmp_path, **changes))


def test_a_file_without_a_configuration_is_refused(tmp_path):
    bare = save_torch(tmp_path / "bare.pt", beats_tensors())
    with pytest.raises(CheckpointError, match="encoder_layers, encoder_attention_heads, max_dist"):
        BEATsEncoder(bare)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    tensors = beats_tensors()
    del tensors["encoder.layers.1.self_attn.grep_a"]
    tensors["encoder.layers.0.self_attn.bias_k"] = np.zeros(2, dtype=np.float32)
    with pytest.raises(CheckpointError) as raised:
        BEATsEncoder(written(tmp_path, tensors))
    said = str(raised.value)
    assert "1 missing (encoder.layers.1.self_attn.grep_a)" in said
    assert "1 unexpected (encoder.layers.0.self_attn.bias_k)" in said


def test_tables_that_differ_are_refused(tmp_path):
    tensors = beats_tensors()
    tensors[f"encoder.layers.1.{BIASES}"] = tensors[f"encoder.layers.1.{BIASES}"] + 1
    with pytest.raises(CheckpointError, match=r"layers\.1\..* differs from the first"):
        BEATsEncoder(written(tmp_path, tensors))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layer": 3}, SettingsError, "0 to 2"),
        ({"pooling": "cls"}, UnknownNameError, "Unknown pooling of 'beats' 'cls'"),
        ({"tail": "pad"}, UnknownNameError, "Did you mean 'padded'"),
        ({"dtype": "float8"}, UnknownNameError, "Unknown dtype of 'beats'"),
    ],
)
def test_options_out_of_range(path, options, error, text):
    with pytest.raises(error, match=text):
        BEATsEncoder(path, **options)


def test_it_is_found_by_its_folder_name(path, encoder, monkeypatch, nver_home):
    with pytest.raises(CheckpointError, match="looked for a folder beats or BEATs_iter3"):
        BEATsEncoder()
    monkeypatch.setenv("NVER_WEIGHTS", str(path.parent.parent))
    assert BEATsEncoder(alias="b").card == BEATsEncoder(path, alias="b").card
