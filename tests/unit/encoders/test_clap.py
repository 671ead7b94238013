"""CLAP on tiny random networks that hear 2 s: transformers' own code is the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.contracts.checkpoints import change, copied
from tests.contracts.checkpoints_ast import clap_extractor, tiny_clap, write_clap
from tests.unit.encoders.likeness import relative

from nver.audio import Waveform
from nver.encoders import clap
from nver.encoders.clap import ClapEncoder
from nver.encoders.clap_spectrogram import Spectrograms
from nver.encoders.conformance import check_encoder
from nver.encoders.example_sounds import gliding_voice, noise_bursts
from nver.errors import CheckpointError, EncoderError, UnknownNameError

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

RATE = 48_000
WINDOW = 2 * RATE
SECONDS = (0.1, 0.11, 0.6, 1.0, 1.1, 2.0, 2.005, 2.02, 3.9, 4.1, 15.0)
FUSED = pytest.mark.parametrize("fused", [False, True])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Return a function from fused or not to the checkpoint's folder, each written once."""
    root = tmp_path_factory.mktemp("clap")
    found = {fused: write_clap(root / ("fused" if fused else "unfused"), fused) for fused in (0, 1)}
    return lambda fused: found[int(fused)]


@pytest.fixture
def spoiled(folders: Callable[[bool], Path], tmp_path: Path) -> Path:
    """Return a copy of the unfused checkpoint, which the test may spoil."""
    return copied(folders(False), tmp_path / "tiny")


@pytest.fixture
def wide_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let windows share a forward pass, as on a GPU."""
    monkeypatch.setattr(clap, "CPU_WINDOWS", 8)


def voice(seconds: float, seed: int = 0) -> Waveform:
    make = noise_bursts if seed % 2 else gliding_voice
    return Waveform(make(np.random.default_rng(seed), seconds, RATE), RATE)


def by_network(fused: bool, mel: np.ndarray, longer: bool) -> dict[str, np.ndarray]:
    """Return what the whole CLAP of transformers gives for inputs [windows, channels, ...]."""
    network, inputs = tiny_clap(fused), torch.as_tensor(mel)
    flags = torch.full((len(inputs), 1), longer)
    with torch.inference_mode():
        trunk = network.audio_model(input_features=inputs, is_longer=flags).pooler_output
        features = network.get_audio_features(input_features=inputs, is_longer=flags)
        return {
            "trunk": trunk.numpy(),
            "projected": network.audio_projection(trunk).numpy(),
            "normalised": getattr(features, "pooler_output", features).numpy(),
        }


def the_draw(monkeypatch: pytest.MonkeyPatch, starts: list[int]) -> None:
    """Let the reference draw these starts."""
    drawn = iter(starts)

    def choice(possible: np.ndarray) -> int:
        start = next(drawn)
        assert start in possible
        return start

    monkeypatch.setattr(np.random, "choice", choice)


@FUSED
@pytest.mark.parametrize("seconds", [0.1, 1.1, 2.0])
def test_input_and_vector_are_those_of_transformers(
    fused: bool, seconds: float, folders: Callable[[bool], Path]
):
    clip = voice(seconds)
    extracted = clap_extractor(fused)(clip.samples[0], sampling_rate=RATE, return_tensors="np")
    mel = extracted.input_features
    expected = by_network(fused, mel, longer=False)
    for representation, vectors in expected.items():
        encoder = ClapEncoder(folders(fused), representation=representation)
        found = encoder.frontend(clip)
        assert found.shape == (1, 1, 201, 16)
        assert np.abs(found[0, 0] - mel[0]).max() < 1e-4  # decibels, all channels
        assert relative(encoder.encode([clip]), vectors) < 1e-6
    assert abs(np.linalg.norm(expected["normalised"]) - 1) < 1e-6


def published(fused: bool) -> Spectrograms:
    """Return the front end of the published checkpoints."""
    return Spectrograms(RATE, 1024, 480, 64, 50.0, 14e3, fused, 10, "repeatpad", fused, "even")


@FUSED
def test_filters_are_those_of_the_published_front_end(fused: bool):
    extractor = transformers.ClapFeatureExtractor(
        frequency_min=50, truncation="fusion" if fused else "rand_trunc"
    )
    samples = voice(1.0, 1).samples[0]
    expected = extractor(samples, sampling_rate=RATE, return_tensors="np").input_features[0]
    assert np.abs(published(fused)(samples)[0] - expected).max() < 1e-4
    assert np.abs(published(not fused)(samples)[0] - expected).max() > 1.0  # the other bank


@FUSED
def test_batches_are_exact(fused: bool, folders: Callable[[bool], Path], wide_batches: None):
    encoder = ClapEncoder(folders(fused))
    clips = [voice(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    alone = np.concatenate([encoder.encode([clip]) for clip in clips])
    assert np.ptp(alone, axis=0).max() > 0.1 * np.abs(alone).max()
    assert relative(encoder.encode(clips), alone) < 2e-6
    assert relative(encoder.encode(clips[::-1])[::-1], alone) < 2e-6


def test_the_reference_fuses_a_clip_of_the_batch_at_random(folders: Callable[[bool], Path]):
    # What is not done here: the vector of a clip up to 10 s would depend on the draw.
    clips = [voice(1.0, seed) for seed in range(4)]
    extracted = clap_extractor(fused=True)(
        [clip.samples[0] for clip in clips], sampling_rate=RATE, return_tensors="np"
    )
    drawn = int(np.flatnonzero(extracted.is_longer)[0])
    network, inputs = tiny_clap(fused=True), torch.from_numpy(extracted.input_features)
    with torch.inference_mode():
        output = network.audio_model(
            input_features=inputs, is_longer=torch.from_numpy(np.array(extracted.is_longer))
        )
        found = network.audio_projection(output.pooler_output).numpy()
    own = ClapEncoder(folders(True)).encode(clips)
    others = [index for index in range(4) if index != drawn]
    assert relative(found[others], own[others]) < 1e-6
    assert relative(found[[drawn]], own[[drawn]]) > 0.01


def test_the_reference_draws_its_window_and_here_all_is_heard(folders: Callable[[bool], Path]):
    clip, extractor = voice(4.5), clap_extractor()
    first, second = (
        extractor(clip.samples[0], sampling_rate=RATE, return_tensors="np").input_features
        for _ in range(2)
    )
    assert np.abs(first - second).max() > 1.0  # decibels
    encoder = ClapEncoder(folders(False))
    mel = encoder.frontend(clip)
    for window, start in zip(mel, (0, 60_000, 120_000), strict=True):
        piece = clip.samples[0, start : start + WINDOW]
        expected = extractor(piece, sampling_rate=RATE, return_tensors="np").input_features[0]
        assert np.abs(window - expected).max() < 1e-4
    expected = by_network(False, mel, longer=False)["projected"].mean(axis=0)
    assert relative(encoder.encode([clip]), expected) < 1e-6


def test_windows_at_length_one_have_a_mean_of_length_one(folders: Callable[[bool], Path]):
    encoder = ClapEncoder(folders(False), representation="normalised")
    clip = voice(5.0)
    expected = by_network(False, encoder.frontend(clip), longer=False)["normalised"].mean(axis=0)
    found = encoder.encode([clip])
    assert relative(found, expected / np.linalg.norm(expected)) < 1e-6
    assert abs(np.linalg.norm(found) - 1) < 1e-6


def test_fusion_is_a_draw_that_the_reference_could_make(monkeypatch: pytest.MonkeyPatch):
    samples = voice(12.5, 1).samples[0]  # 1251 frames: starts 0 to 250
    the_draw(monkeypatch, [0, 125, 250])
    extractor = transformers.ClapFeatureExtractor(frequency_min=50, truncation="fusion")
    extracted = extractor(samples, sampling_rate=RATE, return_tensors="np")
    assert extracted.is_longer.tolist() == [[True]]
    assert np.abs(published(fused=True)(samples) - extracted.input_features).max() < 1e-4


def test_a_longer_clip_is_fused(folders: Callable[[bool], Path]):
    encoder, clip = ClapEncoder(folders(True)), voice(4.5)
    found = encoder.frontend(clip)
    assert found.shape == (1, 4, 201, 16)
    expected = by_network(True, found, longer=True)["projected"]
    assert relative(encoder.encode([clip]), expected) < 1e-6
    assert relative(by_network(True, found, longer=False)["projected"], expected) > 0.01


def test_a_clip_longer_by_less_than_a_frame_is_not_fused(folders: Callable[[bool], Path]):
    clip = Waveform(voice(3.0).samples[:, : WINDOW + 100], RATE)
    extracted = clap_extractor(fused=True)(clip.samples[0], sampling_rate=RATE, return_tensors="np")
    found = ClapEncoder(folders(True)).frontend(clip)
    assert found.shape == (1, 1, 201, 16)
    assert np.abs(found[0, 0] - extracted.input_features[0]).max() < 1e-4


@FUSED
def test_the_first_window_alone_may_be_heard(fused: bool, folders: Callable[[bool], Path]):
    clip = voice(5.0)
    cut = Waveform(clip.samples[:, :WINDOW], RATE)
    encoder = ClapEncoder(folders(fused), windows="first")
    assert np.array_equal(encoder.encode([clip]), encoder.encode([cut]))
    even = ClapEncoder(folders(fused))
    assert np.array_equal(even.encode([cut]), encoder.encode([cut]))
    assert relative(even.encode([clip]), encoder.encode([clip])) > 1e-3
    assert even.card.fingerprint != encoder.card.fingerprint


@pytest.mark.parametrize("padding", ["repeat", "pad"])
def test_other_paddings_are_honoured(padding: str, spoiled: Path):
    change(spoiled / "preprocessor_config.json", padding=padding)
    clip, extractor = voice(0.7), clap_extractor()
    expected = extractor(
        clip.samples[0], padding=padding, sampling_rate=RATE, return_tensors="np"
    ).input_features
    assert np.abs(ClapEncoder(spoiled).frontend(clip) - expected).max() < 1e-4


@pytest.mark.parametrize(("fused", "representation"), [(False, "normalised"), (True, "projected")])
def test_it_conforms(
    fused: bool, representation: str, folders: Callable[[bool], Path], wide_batches: None
):
    encoder = ClapEncoder(folders(fused), representation=representation)
    check_encoder(encoder, [voice(0.1), voice(1.0, 1), voice(2.5, 2)]).raise_if_failed()


def test_the_card_says_what_it_is(folders: Callable[[bool], Path]):
    card = ClapEncoder(folders(False)).card
    assert (card.name, card.dim, card.rate, card.min_seconds) == ("clap:unfused", 24, RATE, 0.1)
    assert ClapEncoder(folders(False), representation="trunk").card.dim == 32
    network = tiny_clap()
    towers = (network.audio_model, network.audio_projection)
    assert card.parameters == sum(t.numel() for tower in towers for t in tower.parameters())


def test_the_text_tower_is_not_kept(folders: Callable[[bool], Path]):
    names = ClapEncoder(folders(False))._network.state_dict()
    assert {name.partition(".")[0] for name in names} == {"audio_model", "audio_projection"}


def test_without_a_preprocessor_the_published_values_hold(spoiled: Path):
    (spoiled / "preprocessor_config.json").unlink()
    # Ten seconds are too long for the tiny network, whose spectrogram has 256 frames.
    with pytest.raises(CheckpointError, match="spectrograms of 1001 frames and 16 bands"):
        ClapEncoder(spoiled)
    (spoiled / "preprocessor_config.json").write_text('{"max_length_s": 2}', encoding="utf-8")
    found = ClapEncoder(spoiled)._spectrograms
    assert found == replace(published(fused=False), n_mels=16, seconds=2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"padding": "mirror"}, "must give one of repeatpad, repeat, pad for padding"),
        ({"truncation": "none"}, "must give one of fusion, rand_trunc for truncation"),
        ({"frequency_min": 15_000}, "must give frequency_min below frequency_max"),
        ({"feature_size": 64}, "201 frames and 64 bands, the network beside it takes"),
    ],
)
def test_a_foreign_preprocessor_is_refused(spoiled: Path, values: dict[str, object], said: str):
    change(spoiled / "preprocessor_config.json", **values)
    with pytest.raises(CheckpointError, match=said):
        ClapEncoder(spoiled)


def test_missing_and_misshaped_tensors_are_named(spoiled: Path):
    path, name = spoiled / "model.safetensors", "audio_projection.linear2.weight"
    tensors = load_file(path)
    kept = tensors.pop(name)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=rf"1 missing \({name}\)"):
        ClapEncoder(spoiled)
    save_file({**tensors, name: kept[:, :9].copy()}, path)
    with pytest.raises(CheckpointError, match=rf"1 misshaped \({name}"):
        ClapEncoder(spoiled)
    save_file({**tensors, name: kept, "audio_model.more": kept}, path)
    with pytest.raises(CheckpointError, match="1 unexpected"):
        ClapEncoder(spoiled)


def test_older_files_without_indices_and_without_text_are_read(spoiled: Path):
    path, clip = spoiled / "model.safetensors", voice(1.0)
    expected = ClapEncoder(spoiled).encode([clip])
    left = {
        name: tensor
        for name, tensor in load_file(path).items()
        if name.startswith("audio_") and not name.endswith(clap.UNUSED)
    }
    save_file(left, path)
    assert relative(ClapEncoder(spoiled).encode([clip]), expected) < 1e-6


def test_options_and_types_are_refused(spoiled: Path):
    with pytest.raises(CheckpointError, match="needs a checkpoint"):
        ClapEncoder()
    with pytest.raises(UnknownNameError, match="Did you mean 'projected'"):
        ClapEncoder(spoiled, representation="projection")
    with pytest.raises(UnknownNameError, match="Known: even, first"):
        ClapEncoder(spoiled, windows="random")
    change(spoiled / "config.json", model_type="clip")
    with pytest.raises(EncoderError, match=r"reads model_type clap; .* says 'clip'"):
        ClapEncoder(spoiled)


def test_half_precision_is_close(folders: Callable[[bool], Path]):
    clips = [voice(1.0), voice(5.0)]
    for fused in (False, True):
        half = ClapEncoder(folders(fused), dtype="bfloat16").encode(clips)
        assert relative(half, ClapEncoder(folders(fused)).encode(clips)) < 0.1
