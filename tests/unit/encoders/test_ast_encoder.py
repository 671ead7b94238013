"""AST on a tiny random network: transformers' own extractor and model are the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.contracts.checkpoints import change, copied
from tests.contracts.checkpoints_ast import ast_extractor, tiny_ast, write_ast
from tests.unit.encoders.likeness import relative

from nver.audio import Waveform
from nver.encoders import ast
from nver.encoders.ast import ASTEncoder
from nver.encoders.conformance import check_encoder
from nver.encoders.example_sounds import gliding_voice
from nver.errors import CheckpointError, EncoderError, SettingsError, UnknownNameError

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

WINDOW = 255 * 160 + 400  # samples of the tiny network's 256 frames
SECONDS = (0.1, 0.13, 0.5, 1.0, 2.5, 2.55, 2.6, 4.0, 7.7, 15.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ast(tmp_path_factory.mktemp("ast") / "tiny")


@pytest.fixture
def spoiled(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint, which the test may spoil."""
    return copied(folder, tmp_path / "tiny")


def voice(seconds: float, seed: int = 0) -> Waveform:
    return Waveform(gliding_voice(np.random.default_rng(seed), seconds, 16_000), 16_000)


def reference(samples: np.ndarray) -> object:
    """Return what transformers gives for one clip, all states among it."""
    inputs = ast_extractor()(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        network = tiny_ast().audio_spectrogram_transformer
        return network(inputs.input_values, output_hidden_states=True)


@pytest.mark.parametrize("seconds", [0.1, 1.0, WINDOW / 16_000])
def test_input_and_vector_are_those_of_transformers(folder: Path, seconds: float):
    encoder, clip = ASTEncoder(folder), voice(seconds)
    samples = clip.samples[0]
    mel = ast_extractor()(samples, sampling_rate=16_000, return_tensors="np").input_values[0]
    found = encoder.frontend(clip)
    assert found.shape == (1, 256, 32)
    assert np.abs(found[0] - mel).max() < 1e-3
    assert np.abs(found[0] - mel).mean() < 1e-5
    expected = reference(samples).pooler_output.numpy()
    assert relative(encoder.encode([clip]), expected) < 1e-5


def test_a_constant_offset_is_not_heard(folder: Path):
    encoder, clip = ASTEncoder(folder), voice(1.0)
    moved = Waveform(clip.samples + np.float32(0.25), 16_000)
    assert np.abs(encoder.frontend(moved) - encoder.frontend(clip)).max() < 1e-2


def test_padding_is_normalised_with_the_clip(folder: Path):
    mel = ASTEncoder(folder).frontend(voice(0.5))[0]
    assert (mel[48:] == np.float32(4.2677393 / (2 * 4.5689974))).all()
    assert (mel[:48] != mel[48]).any(axis=1).all()


def test_layers_are_those_of_transformers(folder: Path):
    clip = voice(1.0)
    output = reference(clip.samples[0])
    states = [state[0] for state in output.hidden_states[:3]] + [output.last_hidden_state[0]]
    tokens = [state[:2].mean(dim=0) for state in states]
    expected = {
        0: tokens[0],
        2: tokens[2],
        -2: tokens[2],
        3: tokens[3],
        "last": tokens[3],
        "mean": torch.stack(tokens[1:]).mean(dim=0),
        "all": torch.cat(tokens),
    }
    for layer, vector in expected.items():
        found = ASTEncoder(folder, layer=layer).encode([clip])
        assert relative(found, vector.numpy()) < 1e-5, layer


def test_the_last_layer_is_after_the_norm(folder: Path):
    # The last of transformers' own `hidden_states` is before it from release 5.16 on.
    clip, before = voice(1.0), []
    inputs = ast_extractor()(clip.samples[0], sampling_rate=16_000, return_tensors="pt")
    network = tiny_ast().audio_spectrogram_transformer
    network.layernorm.register_forward_pre_hook(lambda module, given: before.append(given[0]))
    with torch.inference_mode():
        network(inputs.input_values)
        after = network.layernorm(before[0])
    vectors = [states[0, :2].mean(dim=0).numpy() for states in (before[0], after)]
    found = ASTEncoder(folder, layer=3).encode([clip])
    assert relative(found, vectors[1]) < 1e-5
    assert relative(found, vectors[0]) > 0.01


@pytest.mark.parametrize("pooling", ["mean", "mean+std"])
def test_patches_of_padding_are_not_pooled(folder: Path, pooling: str):
    clip = voice(0.5)  # 48 frames: columns that begin at 0, 10, ..., 40 hold one of them
    state = reference(clip.samples[0]).last_hidden_state[0, 2:]
    patches = state.unflatten(0, (2, 25)).numpy()

    def pooled(frames: np.ndarray) -> np.ndarray:
        vectors = frames.reshape(-1, frames.shape[-1]).astype(np.float64)
        both = np.concatenate([vectors.mean(axis=0), vectors.std(axis=0)])
        return both if pooling == "mean+std" else vectors.mean(axis=0)

    found = ASTEncoder(folder, pooling=pooling).encode([clip])
    assert relative(found, pooled(patches[:, :5])) < 1e-5
    assert relative(pooled(patches)[None], pooled(patches[:, :5])) > 0.05  # what is usual


@pytest.mark.parametrize("pooling", ["cls", "mean", "mean+std"])
def test_batches_are_exact(folder: Path, pooling: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ast, "CPU_WINDOWS", 16)  # windows share a forward pass, as on a GPU
    encoder = ASTEncoder(folder, pooling=pooling, layer="all")
    clips = [voice(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    alone = np.concatenate([encoder.encode([clip]) for clip in clips])
    assert relative(encoder.encode(clips), alone) < 2e-6
    assert relative(encoder.encode(clips[::-1])[::-1], alone) < 2e-6
    assert np.ptp(alone, axis=0).max() > 0.1 * np.abs(alone).max()


def test_padding_to_a_longer_window_would_change_the_vector(folder: Path):
    # The naive way to one batch: zeros behind the samples instead of behind the spectrogram.
    clip = voice(1.0)
    padded = np.pad(clip.samples[0], (0, WINDOW - clip.samples.size))
    encoder = ASTEncoder(folder)
    assert relative(encoder.encode([Waveform(padded, 16_000)]), encoder.encode([clip])) > 0.02


def test_a_longer_clip_is_heard_whole(folder: Path):
    encoder, clip = ASTEncoder(folder), voice(6.0)
    mel = encoder.frontend(clip)
    starts = [0, 171, 342]  # of 598 frames
    assert mel.shape == (3, 256, 32)
    for window, first in zip(mel, starts, strict=True):
        piece = clip.samples[:, first * 160 : first * 160 + WINDOW]
        assert np.abs(window - encoder.frontend(Waveform(piece, 16_000))[0]).max() < 0.01
    with torch.inference_mode():
        network = tiny_ast().audio_spectrogram_transformer
        windows = network(torch.from_numpy(mel)).pooler_output
    assert relative(encoder.encode([clip]), windows.mean(dim=0).numpy()) < 1e-5
    cut = encoder.encode([Waveform(clip.samples[:, :WINDOW], 16_000)])
    assert relative(cut, encoder.encode([clip])) > 0.01


def test_the_deviation_of_a_longer_clip_is_over_all_its_patches(folder: Path):
    encoder, clip = ASTEncoder(folder, pooling="mean+std"), voice(6.0)
    with torch.inference_mode():
        network = tiny_ast().audio_spectrogram_transformer
        states = network(torch.from_numpy(encoder.frontend(clip))).last_hidden_state[:, 2:]
    patches = states.flatten(0, 1).numpy().astype(np.float64)
    expected = np.concatenate([patches.mean(axis=0), patches.std(axis=0)])
    assert relative(encoder.encode([clip]), expected) < 1e-5


def test_one_more_frame_changes_a_vector_by_little(folder: Path):
    encoder, long = ASTEncoder(folder), voice(5.0)
    whole, more = (
        encoder.encode([Waveform(long.samples[:, :count], 16_000)])
        for count in (WINDOW, WINDOW + 160)
    )
    assert relative(more, whole) < 0.1 * relative(encoder.encode([voice(5.0, 1)]), whole)


def test_it_conforms(folder: Path):
    encoder = ASTEncoder(folder, pooling="mean+std", layer="mean")
    check_encoder(encoder, [voice(0.1), voice(1.0, 1), voice(3.0, 2)]).raise_if_failed()


def test_the_card_says_what_it_is(folder: Path):
    card = ASTEncoder(folder).card
    network = tiny_ast().audio_spectrogram_transformer
    assert card.parameters == sum(tensor.numel() for tensor in network.parameters())
    assert (card.name, card.dim, card.rate) == ("ast:tiny", 64, 16_000)
    assert card.min_seconds == 0.025
    every = ASTEncoder(folder, pooling="mean+std", layer="all").card
    assert (every.dim, every.layers) == (4 * 2 * 64, 4)
    others = (ASTEncoder(folder, layer=1).card, ASTEncoder(folder, pooling="mean").card)
    assert len({card.fingerprint, *(other.fingerprint for other in others)}) == 3


def test_the_preprocessor_may_be_missing_and_is_honoured(spoiled: Path):
    encoder, clip = ASTEncoder(spoiled), voice(1.0)
    change(spoiled / "preprocessor_config.json", mean=-5.0, std=3.0)
    other = ASTEncoder(spoiled)
    sound = slice(0, 98)
    raw = encoder.frontend(clip)[0, sound] * 2 * 4.5689974 - 4.2677393
    assert np.abs(other.frontend(clip)[0, sound] - (raw + 5.0) / 6.0).max() < 1e-5
    assert other.card.fingerprint != encoder.card.fingerprint
    change(spoiled / "preprocessor_config.json", do_normalize=False)
    assert np.abs(ASTEncoder(spoiled).frontend(clip)[0, sound] - raw).max() < 1e-5
    (spoiled / "preprocessor_config.json").unlink()
    assert np.array_equal(ASTEncoder(spoiled).frontend(clip), encoder.frontend(clip))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"std": "wide"}, "must give a number for std, it gives 'wide'"),
        ({"std": 0.0}, "must give a positive std"),
        ({"max_length": 1024}, "gives 1024 for max_length, config.json beside it 256"),
    ],
)
def test_a_foreign_preprocessor_is_refused(spoiled: Path, values: dict[str, object], said: str):
    change(spoiled / "preprocessor_config.json", **values)
    with pytest.raises(CheckpointError, match=said):
        ASTEncoder(spoiled)


def test_missing_and_misshaped_tensors_are_named(spoiled: Path):
    path = spoiled / "model.safetensors"
    tensors = load_file(path)
    prefix = "audio_spectrogram_transformer."
    del tensors[prefix + "layernorm.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"1 missing \(layernorm\.weight\)"):
        ASTEncoder(spoiled)
    tensors[prefix + "layernorm.weight"] = np.ones(63, np.float32)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"1 misshaped \(layernorm\.weight"):
        ASTEncoder(spoiled)
    tensors[prefix + "layernorm.weight"] = np.ones(64, np.float32)
    tensors[prefix + "embeddings.more"] = np.ones(3, np.float32)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="1 unexpected"):
        ASTEncoder(spoiled)


def test_a_headless_checkpoint_is_read(folder: Path, tmp_path: Path):
    tiny_ast().audio_spectrogram_transformer.save_pretrained(tmp_path)
    clip = voice(1.0)
    assert relative(ASTEncoder(tmp_path).encode([clip]), ASTEncoder(folder).encode([clip])) < 1e-6


def test_options_and_types_are_refused(spoiled: Path):
    with pytest.raises(CheckpointError, match="needs a checkpoint"):
        ASTEncoder()
    with pytest.raises(SettingsError, match="must be 0 to 3"):
        ASTEncoder(spoiled, layer=4)
    with pytest.raises(UnknownNameError, match="Did you mean 'mean'"):
        ASTEncoder(spoiled, pooling="means")
    change(spoiled / "config.json", model_type="clap")
    with pytest.raises(EncoderError, match="reads model_type audio-spectrogram-transformer"):
        ASTEncoder(spoiled)


def test_half_precision_is_close(folder: Path):
    clips = [voice(1.0), voice(4.0)]
    half = ASTEncoder(folder, dtype="bfloat16").encode(clips)
    assert relative(half, ASTEncoder(folder).encode(clips)) < 0.1
