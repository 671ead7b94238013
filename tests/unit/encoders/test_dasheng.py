"""Dasheng on a random checkpoint: the contract, its traps, layouts and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests.contracts.checkpoints import save_torch
from tests.contracts.checkpoints_ssl import (
    DASHENG_CONFIG,
    WIDTH,
    burst,
    dasheng_tensors,
    save_wrapped,
    write_dasheng,
    write_shards,
)
from tests.unit.encoders.likeness import relative

from nver.audio import Waveform
from nver.encoders.dasheng import DashengEncoder
from nver.encoders.decibel_mel import DecibelMel
from nver.encoders.hub import Model
from nver.errors import CheckpointError, SettingsError, UnknownNameError

# Seconds: below the least, many lengths, one window exactly, one frame more, two windows.
LENGTHS = (0.02, 0.1, 0.13, 0.5, 0.5, 1.7, 3.21, 10.07, 10.09, 12.6, 15.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dasheng(tmp_path_factory.mktemp("weights") / "dasheng")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> DashengEncoder:
    return DashengEncoder(folder)


def clip(seconds: float, gain: float = 1.0) -> Waveform:
    return Waveform(np.float32(gain) * burst(seconds), 16_000)


def test_the_card_says_what_it_is(encoder, folder):
    card = encoder.card
    assert (card.name, card.dim, card.rate) == ("dasheng:dasheng", WIDTH, 16_000)
    assert (card.licence, card.modality) == ("Apache-2.0", "audio-only")
    assert card.min_seconds == pytest.approx(0.03)
    assert card.facts["heads"] == "4"
    assert DashengEncoder(folder, alias="ears").card.name == "ears"


@pytest.mark.parametrize("options", [{}, {"last": "padded"}, {"layer": "all"}])
def test_single_batch_shuffled_and_sorted_are_one(folder, options):
    encoder = DashengEncoder(folder, **options)
    clips = [clip(seconds) for seconds in LENGTHS]
    alone = np.concatenate([encoder.encode([one]) for one in clips])
    order = np.random.default_rng(0).permutation(len(clips))
    shuffled = encoder.encode([clips[index] for index in order])
    assert relative(encoder.encode(clips), alone) < 1e-5
    assert relative(encoder.encode(clips[::-1])[::-1], alone) < 1e-5
    assert relative(shuffled[np.argsort(order)], alone) < 1e-5
    assert np.ptp(alone, axis=0).max() > 0.1


def test_a_loud_neighbour_would_lift_a_quiet_clip(encoder):
    # Of a batch torchaudio cuts off 120 dB below the loudest cell of all clips.
    quiet = np.concatenate([burst(1.0) * np.float32(1e-3), np.zeros(8000, dtype=np.float32)])
    loud = np.float32(100.0) * burst(1.5)
    bank = encoder._bank
    together = max(bank(torch.from_numpy(samples)).max() for samples in (quiet, loud))
    naive = bank(torch.from_numpy(quiet)).clamp_min(float(together) - bank.top_db)
    statistics = [encoder._norm[f"init_bn.1.{part}"] for part in ("running_mean", "running_var")]
    weights = [encoder._norm[f"init_bn.1.{part}"] for part in ("weight", "bias")]
    normalised = torch.nn.functional.batch_norm(naive, *statistics, *weights, eps=1e-5).numpy()
    own = encoder.encode([Waveform(quiet, 16_000), Waveform(loud, 16_000)])
    alone = encoder.encode([Waveform(quiet, 16_000)])
    assert relative(own[:1], alone) < 1e-5
    assert relative(encoder.embed([normalised]), alone) > 1e-2


def test_padding_to_the_longest_would_change_a_clip(encoder):
    short, long = encoder.frontend(clip(0.5)), encoder.frontend(clip(1.7))
    padded = np.pad(short, ((0, len(long) - len(short)), (0, 0)))
    tokens = encoder._states(torch.from_numpy(np.stack([padded, long])[:, :168]))[0]
    naive = tokens[0, : len(short) // 4].mean(0).detach().numpy()
    assert relative(naive[None], encoder.encode([clip(0.5)])) > 1e-3


def test_the_last_window(folder, encoder):
    padded = DashengEncoder(folder, last="padded")
    assert (
        relative(padded.encode([clip(10.07)]), encoder.encode([clip(10.07)])) < 1e-6
    )  # one window
    assert relative(padded.encode([clip(12.6)]), encoder.encode([clip(12.6)])) > 1e-4
    # Frames after the last whole patch, in a window of less than one, are not heard in either.
    frames = encoder.frontend(clip(10.09))
    assert len(frames) == 1010
    for one in (encoder, padded):
        assert [window.tokens for window in one.windows(frames)] == [252]


def test_nothing_is_dropped_where_whole_windows_fit(encoder):
    # The hub's code forgets the last of two whole windows.
    windows = encoder.windows(np.zeros((2016, 64), dtype=np.float32))
    assert [window.tokens for window in windows] == [252, 252]


def test_what_is_left_of_the_last_patch_is_not_heard(encoder):
    frames = encoder.frontend(clip(0.5))
    assert len(frames) == 51
    changed = frames.copy()
    changed[48:] += 1.0
    np.testing.assert_array_equal(encoder.embed([changed]), encoder.embed([frames]))


def test_layers_and_poolings(folder):
    layers = [DashengEncoder(folder, layer=number).encode([clip(0.5)]) for number in range(3)]
    every = DashengEncoder(folder, layer="all")
    assert every.card.dim == 3 * WIDTH
    assert every.card.layers == 3
    assert relative(every.encode([clip(0.5)]), np.concatenate(layers, axis=1)) < 1e-6
    middle = DashengEncoder(folder, layer="mean").encode([clip(0.5)])
    assert relative(middle, (layers[1] + layers[2]) / 2) < 1e-6
    both = DashengEncoder(folder, pooling="mean+std").encode([clip(0.5)])
    assert relative(both[:, :WIDTH], layers[2]) < 1e-6


def test_every_layout_is_one_network(folder, encoder, tmp_path):
    tensors = dasheng_tensors()
    hub = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    front = {"front_end.0.spectrogram.window": np.zeros(512, dtype=np.float32)}
    flat = save_torch(tmp_path / "flat" / "flat.pt", tensors)
    (flat.parent / "config.json").write_text(json.dumps(DASHENG_CONFIG), encoding="utf-8")
    layouts = [
        save_wrapped(tmp_path / "dasheng_base.pt", tensors | front, "config", DASHENG_CONFIG),
        flat,
        write_shards(tmp_path / "shards", {"encoder_kwargs": DASHENG_CONFIG}, hub),
        folder / "model.safetensors",
    ]
    expected = encoder.encode([clip(0.5)])
    for layout in layouts:
        other = DashengEncoder(layout)
        assert other.card.revision == encoder.card.revision, layout
        np.testing.assert_array_equal(other.encode([clip(0.5)]), expected)
        named = DashengEncoder(layout, alias="d").card.fingerprint
        assert named == DashengEncoder(folder, alias="d").card.fingerprint


def test_the_fingerprint_follows_what_changes_the_numbers(folder):
    options = [{}, {"last": "padded"}, {"layer": 1}, {"pooling": "mean+std"}, {"dtype": "bfloat16"}]
    cards = [DashengEncoder(folder, alias="d", **option).card for option in options]
    assert len({card.fingerprint for card in cards}) == len(options)


def test_half_precision_is_near(folder, encoder):
    half = DashengEncoder(folder, dtype="bfloat16").encode([clip(0.5)])
    assert 0 < relative(half, encoder.encode([clip(0.5)])) < 0.1


def test_a_front_end_that_the_checkpoint_describes(folder, tmp_path):
    tensors = {f"encoder.{name}": tensor for name, tensor in dasheng_tensors().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"encoder_kwargs": DASHENG_CONFIG}))
    said = {"feature_size": 64, "hop_size": 320, "sampling_rate": 32_000, "center": True}
    beside = tmp_path / "preprocessor_config.json"
    beside.write_text(json.dumps(said), encoding="utf-8")
    encoder = DashengEncoder(tmp_path)
    assert encoder._bank == DecibelMel(32_000, 512, 512, 320, 64, 0.0, 8000.0, 120.0)
    assert encoder.card.rate == 32_000
    beside.write_text(json.dumps(said | {"n_fft": "many"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"must give a number for n_fft, not 'many'"):
        DashengEncoder(tmp_path)
    beside.write_text(json.dumps(said | {"center": False}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="must have centred frames"):
        DashengEncoder(tmp_path)


def test_it_is_found_by_its_folder_name(folder, encoder, monkeypatch, nver_home):
    with pytest.raises(CheckpointError, match=r"looked for a folder dasheng or dasheng-base"):
        DashengEncoder()
    monkeypatch.setenv("NVER_WEIGHTS", str(folder.parent))
    assert DashengEncoder(alias="d").card == DashengEncoder(folder, alias="d").card
    assert DashengEncoder("dasheng").card == encoder.card


def test_a_hub_id_is_looked_up_on_the_hub(folder, encoder, monkeypatch, nver_home):
    asked = []

    def hub(*arguments, **options):
        asked.append((arguments, options))
        return Model("mispeech/dasheng-base", folder, (folder / "model.safetensors",), "0")

    monkeypatch.setattr("nver.encoders.published.find_model", hub)
    card = DashengEncoder("mispeech/dasheng-base@main").card
    assert asked == [
        (("dasheng", "mispeech/dasheng-base@main", "speech"), {"licence": "Apache-2.0"})
    ]
    assert (card.name, card.revision) == ("dasheng:dasheng-base", encoder.card.revision)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    tensors = dasheng_tensors()
    del tensors["blocks.1.mlp.fc2.bias"]
    tensors["blocks.2.norm1.bias"] = np.zeros(3, dtype=np.float32)
    tensors["norm.bias"] = np.zeros(5, dtype=np.float32)
    path = save_wrapped(tmp_path / "d.pt", tensors, "config", DASHENG_CONFIG)
    with pytest.raises(CheckpointError) as raised:
        DashengEncoder(path)
    said = str(raised.value)
    assert "1 missing (blocks.1.mlp.fc2.bias)" in said
    assert "1 unexpected (blocks.2.norm1.bias)" in said
    assert f"norm.bias [5] instead of [{WIDTH}]" in said
    assert "\n" not in said


def test_a_whole_missing_block_is_noticed(tmp_path):
    tensors = {n: t for n, t in dasheng_tensors().items() if not n.startswith("blocks.1.")}
    path = save_wrapped(tmp_path / "d.pt", tensors, "config", DASHENG_CONFIG)
    with pytest.raises(CheckpointError, match=r"12 missing \(blocks\.1\.attn"):
        DashengEncoder(path)


def test_damaged_and_strange_files_are_refused(tmp_path, folder):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated or no safetensors file"):
        DashengEncoder(cut)
    whole = save_wrapped(tmp_path / "whole.pt", dasheng_tensors(), "config", DASHENG_CONFIG)
    data = bytearray(whole.read_bytes())
    data[len(data) // 2] ^= 0xFF
    broken = tmp_path / "broken.pt"
    broken.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"damaged|truncated"):
        DashengEncoder(broken)
    objects = tmp_path / "objects.pt"
    torch.save({"model": {"norm.weight": Path("x")}}, objects)
    with pytest.raises(CheckpointError, match="Python objects besides tensors"):
        DashengEncoder(objects)
    numbers = tmp_path / "numbers.pt"
    torch.save([1, 2], numbers)
    with pytest.raises(CheckpointError, match=r"tensors by name.*holds a list"):
        DashengEncoder(numbers)
    torch.save({"model": {"norm.weight": 3}}, numbers)
    with pytest.raises(CheckpointError, match=r"must hold tensors, norm.weight is none"):
        DashengEncoder(numbers)
    doubled = dasheng_tensors() | {"encoder.norm.bias": np.zeros(WIDTH, dtype=np.float32)}
    with pytest.raises(CheckpointError, match=r"norm.bias is there twice"):
        DashengEncoder(save_torch(tmp_path / "doubled.pt", doubled))


def test_an_unknown_number_of_heads_is_refused(tmp_path):
    path = save_torch(tmp_path / "flat.pt", dasheng_tensors())
    with pytest.raises(CheckpointError, match=r"attention heads of .* it is unknown"):
        DashengEncoder(path)
    odd = save_wrapped(
        tmp_path / "odd.pt", dasheng_tensors(), "config", DASHENG_CONFIG | {"num_heads": 5}
    )
    with pytest.raises(CheckpointError, match="must divide its width 32, it is 5"):
        DashengEncoder(odd)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layer": 3}, SettingsError, "0 to 2"),
        ({"pooling": "cls"}, UnknownNameError, "Unknown pooling of 'dasheng' 'cls'"),
        ({"last": "pad"}, UnknownNameError, "Did you mean 'padded'"),
        ({"dtype": "float8"}, UnknownNameError, "Unknown dtype of 'dasheng'"),
        ({"device": "abacus"}, SettingsError, "must be one that torch can use"),
    ],
)
def test_options_out_of_range(folder, options, error, text):
    with pytest.raises(error, match=text):
        DashengEncoder(folder, **options)
