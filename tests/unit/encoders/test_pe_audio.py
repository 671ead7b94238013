"""PE-Audio on a tiny random network: transformers' own extractor and model are the reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.contracts.checkpoints import change, copied
from tests.contracts.checkpoints_ast import tiny_pe_audio, write_pe_audio
from tests.unit.encoders.likeness import relative

from nver.audio import Waveform
from nver.encoders import pe_audio
from nver.encoders.example_sounds import gliding_voice, noise_bursts
from nver.encoders.pe_audio import PEAudioEncoder
from nver.errors import CheckpointError, EncoderError, SettingsError, UnknownNameError

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
if not hasattr(transformers, "PeAudioEncoder"):
    pytest.skip("this transformers has no PE-Audio", allow_module_level=True)

RATE = 48_000
SECONDS = (0.1, 0.11, 0.12, 1.0, 0.99, 1.0, 1.02, 0.3, 5.0)
KINDS = ("pe_audio", "pe_audio_encoder", "pe_audio_video")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a model_type to the checkpoint's folder, each written once."""
    root = tmp_path_factory.mktemp("pe")
    found = {kind: write_pe_audio(root / kind.replace("_", "-"), kind) for kind in KINDS}
    return found.__getitem__


@pytest.fixture(scope="module")
def folder(folders: Callable[[str], Path]) -> Path:
    return folders("pe_audio")


@pytest.fixture
def spoiled(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of a checkpoint, which the test may spoil."""
    return copied(folder, tmp_path / "tiny")


def voice(seconds: float, seed: int = 0) -> Waveform:
    make = noise_bursts if seed % 2 else gliding_voice
    return Waveform(make(np.random.default_rng(seed), seconds, RATE), RATE)


def extracted(*clips: Waveform) -> Any:
    """Return what transformers' extractor makes of clips: samples and mask, padded."""
    samples = [clip.samples[0] for clip in clips]
    return transformers.PeAudioFeatureExtractor()(samples, sampling_rate=RATE)


def reference(*clips: Waveform) -> Any:
    """Return what transformers gives for clips that it pads to one batch, with its mask."""
    inputs = extracted(*clips)
    with torch.inference_mode():
        return tiny_pe_audio().audio_encoder(
            torch.from_numpy(np.stack(inputs.input_values)),
            padding_mask=torch.from_numpy(np.stack(inputs.padding_mask)),
            output_hidden_states=True,
        )


@pytest.mark.parametrize("seconds", [0.1, 0.12, 1.0, 1.013, 2.5])
def test_input_and_vector_are_those_of_transformers(folder: Path, seconds: float):
    clip = voice(seconds)
    inputs, encoder = extracted(clip), PEAudioEncoder(folder)
    assert np.array_equal(encoder.frontend(clip), inputs.input_values[0][0])
    assert np.all(inputs.padding_mask)
    output = reference(clip)
    assert relative(encoder.encode([clip]), output.pooler_output.numpy()) < 1e-5
    frames = output.last_hidden_state[0].numpy().astype(np.float64)
    both = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
    assert relative(PEAudioEncoder(folder, pooling="mean").encode([clip]), both[:32]) < 1e-5
    assert relative(PEAudioEncoder(folder, pooling="mean+std").encode([clip]), both) < 1e-5


def test_the_end_is_mirrored_to_a_whole_frame(folder: Path):
    clip = voice(0.11)  # 5280 samples: 480 are missing
    found = PEAudioEncoder(folder).frontend(clip)
    assert found.shape == (5760,)
    assert np.array_equal(found[5280:], clip.samples[0, -2:-482:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_has_the_same_tower(kind: str, folders: Callable[[str], Path]):
    clip = voice(1.0)
    expected = reference(clip).pooler_output.numpy()
    assert relative(PEAudioEncoder(folders(kind)).encode([clip]), expected) < 1e-5


@pytest.mark.parametrize("kind", ["pe_audio", "pe_audio_video"])
def test_the_projection_is_that_of_transformers(kind: str, folders: Callable[[str], Path]):
    clip = voice(1.0)
    network = tiny_pe_audio()
    samples = torch.from_numpy(PEAudioEncoder(folders(kind)).frontend(clip))[None, None]
    with torch.inference_mode():
        token = network.get_audio_embeds(samples).numpy()
        frames = network.audio_head(network.audio_encoder(samples).last_hidden_state)[0].numpy()
    encoder = PEAudioEncoder(folders(kind), representation="projected")
    assert (encoder.card.dim, encoder.card.layer) == (24, "projected")
    assert relative(encoder.encode([clip]), token) < 1e-5
    pooled = PEAudioEncoder(folders(kind), representation="projected", pooling="mean")
    assert relative(pooled.encode([clip]), frames.mean(axis=0)) < 1e-5


def test_layers_are_those_of_transformers(folder: Path):
    clip = voice(1.0)
    output = reference(clip)
    states = [state[0] for state in output.hidden_states[:2]]
    states.append(torch.cat([output.pooler_output, output.last_hidden_state[0]]))
    expected = {0: states[0], 1: states[1], -2: states[1], 2: states[2]}
    expected["mean"] = torch.stack(states[1:]).mean(dim=0)
    for layer, state in expected.items():
        token = PEAudioEncoder(folder, layer=layer).encode([clip])
        assert relative(token, state[0].numpy()) < 1e-5, layer
        mean = PEAudioEncoder(folder, layer=layer, pooling="mean").encode([clip])
        assert relative(mean, state[1:].mean(dim=0).numpy()) < 1e-5, layer
    encoder = PEAudioEncoder(folder, layer="all")
    assert encoder.card.layers == len(states)
    every = encoder.encode([clip])
    assert relative(every, torch.cat([state[0] for state in states]).numpy()) < 1e-5


def test_batches_are_exact(folder: Path):
    encoder = PEAudioEncoder(folder, pooling="mean+std", layer="all")
    clips = [voice(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    alone = np.concatenate([encoder.encode([clip]) for clip in clips])
    assert np.ptp(alone, axis=0).max() > 0.1 * np.abs(alone).max()
    assert relative(encoder.encode(clips), alone) < 5e-6
    assert relative(encoder.encode(clips[::-1])[::-1], alone) < 5e-6


def test_padded_batches_would_not_be_exact(folder: Path):
    # What the reference does: zeros to the longest clip, and a mask.
    clips = [voice(1.0), voice(3.0)]
    encoder = PEAudioEncoder(folder)
    padded = reference(*clips).pooler_output.numpy()
    own = encoder.encode(clips)
    assert relative(padded[1:], own[1:]) < 1e-5
    assert relative(padded[:1], own[:1]) > 1e-4


def test_the_card_says_what_it_is(folders: Callable[[str], Path]):
    card = PEAudioEncoder(folders("pe_audio_encoder")).card
    assert (card.name, card.dim, card.rate) == ("pe-audio:pe-audio-encoder", 32, RATE)
    assert card.min_seconds == 0.04
    network = tiny_pe_audio().audio_encoder
    assert card.parameters == sum(tensor.numel() for tensor in network.parameters())


def test_only_the_tower_is_kept(folders: Callable[[str], Path]):
    encoder = PEAudioEncoder(folders("pe_audio_video"))
    assert set(encoder._network.state_dict()) == set(tiny_pe_audio().audio_encoder.state_dict())
    assert encoder._head == {}


def test_the_published_configuration_may_be_left_out(spoiled: Path):
    # Then all published values hold, which are not those of the tiny tensors.
    said = json.loads((spoiled / "config.json").read_text(encoding="utf-8"))
    del said["audio_config"]
    (spoiled / "config.json").write_text(json.dumps(said), encoding="utf-8")
    (spoiled / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"missing \(audio_encoder\.layers\.2\."):
        PEAudioEncoder(spoiled)


def test_without_a_preprocessor_the_published_values_hold(spoiled: Path):
    clip = voice(0.5)
    expected = PEAudioEncoder(spoiled).encode([clip])
    (spoiled / "preprocessor_config.json").unlink()
    encoder = PEAudioEncoder(spoiled)
    assert (encoder.card.rate, encoder.card.facts["hop"]) == (RATE, "1920")
    assert relative(encoder.encode([clip]), expected) < 1e-6


def test_missing_and_misshaped_tensors_are_named(spoiled: Path):
    path, name = spoiled / "model.safetensors", "audio_encoder.norm.weight"
    tensors = load_file(path)
    kept = tensors.pop(name)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=rf"1 missing \({name}\)"):
        PEAudioEncoder(spoiled)
    save_file({**tensors, name: kept[:9].copy()}, path)
    with pytest.raises(CheckpointError, match=rf"misshaped \({name} \[9\]"):
        PEAudioEncoder(spoiled)
    save_file({**tensors, name: kept, "audio_encoder.more": kept}, path)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(audio_encoder\.more\)"):
        PEAudioEncoder(spoiled)
    without = {n: t for n, t in tensors.items() if not n.startswith("audio_head.")}
    save_file({**without, name: kept}, path)
    PEAudioEncoder(spoiled)
    with pytest.raises(CheckpointError, match=r"3 missing \(audio_head\."):
        PEAudioEncoder(spoiled, representation="projected")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        PEAudioEncoder(spoiled)


def test_shards_and_older_files_are_read(spoiled: Path):
    path, clip = spoiled / "model.safetensors", voice(0.5)
    expected = PEAudioEncoder(spoiled).encode([clip])
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, spoiled / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (spoiled / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert relative(PEAudioEncoder(spoiled).encode([clip]), expected) < 1e-6
    (spoiled / "model.safetensors.index.json").unlink()
    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    torch.save(state, spoiled / "pytorch_model.bin")
    assert relative(PEAudioEncoder(spoiled).encode([clip]), expected) < 1e-6


def test_options_and_types_are_refused(
    folders: Callable[[str], Path], spoiled: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(CheckpointError, match="needs a checkpoint"):
        PEAudioEncoder()
    with pytest.raises(UnknownNameError, match="Did you mean 'projected'"):
        PEAudioEncoder(spoiled, representation="project")
    with pytest.raises(SettingsError, match="must be 0 to 2"):
        PEAudioEncoder(spoiled, layer=3)
    with pytest.raises(SettingsError, match="is of the last layer, the layer is 1"):
        PEAudioEncoder(spoiled, layer=1, representation="projected")
    with pytest.raises(SettingsError, match="has no projection"):
        PEAudioEncoder(folders("pe_audio_encoder"), representation="projected")
    change(spoiled / "config.json", audio_config={"hidden_size": "wide"})
    with pytest.raises(CheckpointError, match="describes no audio tower"):
        PEAudioEncoder(spoiled)
    change(spoiled / "config.json", model_type="pe_video")
    with pytest.raises(EncoderError, match=r"reads model_type pe_audio, .* says 'pe_video'"):
        PEAudioEncoder(spoiled)
    monkeypatch.setattr(pe_audio, "require", lambda name, extra: object())
    with pytest.raises(EncoderError, match="Install a newer one"):
        PEAudioEncoder(folders("pe_audio"))


@pytest.mark.filterwarnings("ignore:TF32")
def test_half_precision_is_close(folder: Path):
    clips = [voice(1.0), voice(2.0)]
    # oneDNN's bfloat16 convolutions in narrow groups, as of this toy, are wrong on CPUs with AMX.
    with torch.backends.mkldnn.flags(enabled=False):
        half = PEAudioEncoder(folder, dtype="bfloat16").encode(clips)
    assert relative(half, PEAudioEncoder(folder).encode(clips)) < 0.2
