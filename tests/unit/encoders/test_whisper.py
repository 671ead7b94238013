"""Whisper on tiny random networks: transformers' own front end and encoder are the reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contracts.checkpoints import copied, spoil
from tests.contracts.checkpoints_whisper import tiny_whisper, write_whisper
from tests.unit.encoders.likeness import noises, relative

from nver.audio import Waveform
from nver.encoders import whisper
from nver.encoders.conformance import check_encoder
from nver.encoders.whisper import WhisperEncoder, WindowMel
from nver.errors import (
    CheckpointError,
    EncoderError,
    MissingExtraError,
    SettingsError,
    UnknownNameError,
)

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

WINDOW = 32000  # of the tiny network: 2 s
# One state, two, odd ones; near a window's end its reflected edge is heard; several windows.
LENGTHS = (320, 321, 1600, 7777, 16000, 31681, 31900, WINDOW, WINDOW + 1, 70001, 240000)
EXACT = 2e-6


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint, which the test may spoil."""
    return copied(shared, tmp_path / "tiny")


def alone(encoder: WhisperEncoder, waveforms: list[Waveform]) -> np.ndarray:
    return np.concatenate([encoder.encode([waveform]) for waveform in waveforms])


def their_mel(samples: np.ndarray, mels: int = 80, window: int = WINDOW) -> np.ndarray:
    extractor = transformers.WhisperFeatureExtractor(mels, chunk_length=window // 16000)
    return extractor(samples, sampling_rate=16000, return_tensors="np").input_features[0]


def their_states(waveform: Waveform, network: Any = None, window: int = WINDOW) -> list[np.ndarray]:
    """Return each layer's states of a clip's own samples, window by window, by transformers."""
    network = tiny_whisper() if network is None else network
    samples = waveform.samples[0]
    parts = []
    for start in range(0, samples.size, window):
        part = samples[start : start + window]
        mel = their_mel(part, network.config.num_mel_bins, window)
        with torch.inference_mode():
            output = network.get_encoder()(torch.from_numpy(mel)[None], output_hidden_states=True)
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        parts.append([state[0, : -(-part.size // 320)].numpy() for state in states])
    return [np.concatenate(states) for states in zip(*parts, strict=True)]


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("samples", [1, 320, 5001, 31679, 31801, 31999, WINDOW])
def test_the_spectrogram_is_that_of_the_reference(samples: int, mels: int):
    rng = np.random.default_rng(samples)
    clip = (0.1 * rng.standard_normal(samples)).astype(np.float32)
    clip[: samples // 3] *= 1e-6  # below the floor of the range
    found = WindowMel(16000, 400, 160, mels, 200)(clip)
    np.testing.assert_allclose(found, their_mel(clip, mels), rtol=0, atol=1e-6)


def test_features_are_windows_over_the_mark_of_own_frames(shared: Path):
    samples = noises((WINDOW + 161,))[0].samples[0]
    features = WhisperEncoder(shared).features(samples)
    assert features.shape == (81, 400)
    np.testing.assert_allclose(features[:80, 200:], their_mel(samples[WINDOW:]), atol=1e-6)
    np.testing.assert_array_equal(features[80], [1.0] * 202 + [0.0] * 198)


def test_silence_is_the_floor(shared: Path):
    features = WhisperEncoder(shared).features(np.zeros(800, dtype=np.float32))
    np.testing.assert_allclose(features[:80], -1.5, atol=1e-6)  # (log10(1e-10) + 4) / 4


def test_embeddings_are_the_mean_of_the_clips_own_states_in_any_batch(shared: Path):
    encoder, waveforms = WhisperEncoder(shared), noises(LENGTHS)
    expected = np.stack([their_states(waveform)[-1].mean(axis=0) for waveform in waveforms])
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()
    assert relative(alone(encoder, waveforms), expected) < EXACT
    assert relative(encoder.encode(waveforms), expected) < EXACT
    assert relative(encoder.encode(waveforms[::-1])[::-1], expected) < EXACT
    order = np.random.default_rng(1).permutation(len(waveforms))
    shuffled = encoder.encode([waveforms[index] for index in order])
    assert relative(shuffled, expected[order]) < EXACT


def test_a_window_of_the_published_30_s(tmp_path: Path):
    change = {"max_source_positions": 1500, "num_mel_bins": 128, "encoder_layers": 1}
    encoder = WhisperEncoder(write_whisper(tmp_path, **change))
    waveforms = noises((1600, 240000, 480001))
    assert [encoder.frontend(waveform).shape[1] for waveform in waveforms] == [3000, 3000, 6000]
    network = tiny_whisper(**change)
    expected = [their_states(waveform, network, 480000)[-1] for waveform in waveforms]
    assert [len(states) for states in expected] == [5, 750, 1501]
    means = np.stack([states.mean(axis=0) for states in expected])
    assert relative(encoder.encode(waveforms), means) < EXACT


def test_the_usual_mean_over_padding_too_is_another_vector(shared: Path):
    encoder, waveform = WhisperEncoder(shared), noises((4800,))[0]
    with torch.inference_mode():
        mel = torch.from_numpy(their_mel(waveform.samples[0]))[None]
        naive = tiny_whisper().get_encoder()(mel).last_hidden_state.mean(dim=1).numpy()
    assert relative(encoder.encode([waveform]), naive) > 1e-1


def test_what_lies_behind_the_first_window_is_heard(shared: Path):
    encoder, waveform = WhisperEncoder(shared), noises((2 * WINDOW,))[0]
    cut = Waveform(waveform.samples[:, :WINDOW], 16000)
    # The reference truncates: both would be the same.
    assert np.array_equal(their_mel(waveform.samples[0]), their_mel(cut.samples[0]))
    assert relative(encoder.encode([waveform]), encoder.encode([cut])) > 1e-2


def test_the_last_short_window_counts_by_its_states(shared: Path):
    encoder, waveform = WhisperEncoder(shared), noises((WINDOW + 3200,))[0]
    first, last = (
        encoder.encode([Waveform(part, 16000)])
        for part in np.split(waveform.samples, [WINDOW], axis=1)
    )
    found = encoder.encode([waveform])
    assert relative(found, (100 * first + 10 * last) / 110) < EXACT
    assert relative(found, (first + last) / 2) > 1e-2


@pytest.mark.parametrize("layer", [0, 1, -2, 3, "last"])
def test_layers_are_those_of_the_network(layer: int | str, shared: Path):
    waveforms = noises((4800, WINDOW + 900))
    number = {"last": 3, -2: 2}.get(layer, layer)
    expected = [their_states(waveform)[number].mean(axis=0) for waveform in waveforms]
    encoder = WhisperEncoder(shared, layer=layer)
    assert relative(encoder.encode(waveforms), np.stack(expected)) < EXACT
    assert len(encoder._network.layers) == number  # later ones are not run
    assert encoder.card.layer == ("last" if number == 3 else str(number))


def test_the_mean_of_layers_and_all_of_them_with_deviations(shared: Path):
    waveforms = noises((4800, WINDOW + 900))
    states = [their_states(waveform) for waveform in waveforms]
    means = [np.mean(clip[1:], axis=0).mean(axis=0) for clip in states]
    found = WhisperEncoder(shared, layer="mean").encode(waveforms)
    assert relative(found, np.stack(means)) < EXACT
    both = [np.concatenate([[s.mean(0), s.std(0)] for s in clip]).ravel() for clip in states]
    encoder = WhisperEncoder(shared, layer="all", pooling="mean+std")
    assert (encoder.card.dim, encoder.card.layers) == (4 * 2 * 32, 4)
    assert relative(encoder.encode(waveforms), np.stack(both)) < EXACT


def test_one_state_has_no_deviation(shared: Path):
    found = WhisperEncoder(shared, pooling="mean+std").encode(noises((320,)))
    np.testing.assert_array_equal(found[0, 32:], 0.0)


def test_every_layer_conforms(shared: Path):
    encoder = WhisperEncoder(shared, layer="all", pooling="mean+std")
    check_encoder(encoder, noises(LENGTHS)).raise_if_failed()


@pytest.mark.parametrize("head", ["WhisperModel", "WhisperForAudioClassification"])
def test_the_encoder_is_found_in_every_layout(head: str, shared: Path, tmp_path: Path):
    whole, network = tiny_whisper(), tiny_whisper(seed=1, head=head)
    network.get_submodule("encoder").load_state_dict(whole.get_encoder().state_dict())
    network.save_pretrained(tmp_path)  # and no preprocessor_config.json: the published front end
    found = WhisperEncoder(tmp_path).encode(noises((5000,)))
    np.testing.assert_array_equal(found, WhisperEncoder(shared).encode(noises((5000,))))


def test_a_classifier_of_another_width_is_left_aside(folder: Path):
    spoil(folder, lambda t: t.update({"projector.weight": np.zeros((3, 32), dtype=np.float32)}))
    assert np.isfinite(WhisperEncoder(folder).encode(noises((5000,)))).all()


def test_a_bin_file_gives_the_same(folder: Path, shared: Path):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = WhisperEncoder(folder).encode(noises((5000,)))
    np.testing.assert_array_equal(found, WhisperEncoder(shared).encode(noises((5000,))))


def test_only_the_encoder_is_kept(shared: Path):
    encoder = WhisperEncoder(shared)
    theirs = tiny_whisper().get_encoder()
    kept = {name: tuple(t.shape) for name, t in encoder._network.state_dict().items()}
    assert kept == {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    assert encoder.card.parameters == sum(t.numel() for t in theirs.parameters())
    assert WhisperEncoder(shared, layer=1).card.parameters == encoder.card.parameters


def test_loading_draws_no_random_numbers(shared: Path):
    before = torch.random.get_rng_state()
    WhisperEncoder(shared)  # without the head of its class
    assert torch.equal(torch.random.get_rng_state(), before)


def test_half_precision_only_when_asked(tmp_path: Path, shared: Path):
    tiny_whisper().half().save_pretrained(tmp_path)
    full, half = WhisperEncoder(tmp_path), WhisperEncoder(tmp_path, dtype="bfloat16")
    assert full._network.dtype == torch.float32
    waveforms = noises((9000, 40000))
    assert relative(half.encode(waveforms), full.encode(waveforms)) < 0.1
    assert relative(full.encode(waveforms), WhisperEncoder(shared).encode(waveforms)) < 0.1


def test_the_card_says_what_it_is(folder: Path, nver_home: Path):
    card = WhisperEncoder(folder).card
    assert (card.name, card.dim, card.rate, card.extra) == ("whisper:tiny", 32, 16000, "speech")
    assert (card.min_seconds, card.licence) == (0.02, "see the checkpoint's page")
    assert WhisperEncoder(folder, alias="w").card.name == "w"
    write_whisper(nver_home / "weights" / "openai" / "whisper-tiny")
    card = WhisperEncoder("openai/whisper-tiny").card
    assert (card.name, card.licence) == ("whisper:whisper-tiny", "MIT")


def test_the_fingerprint_follows_what_changes_the_numbers(folder: Path, tmp_path: Path):
    options: list[dict[str, Any]] = [{}, {"layer": 1}, {"pooling": "mean+std"}]
    cards = [WhisperEncoder(folder, **chosen).card for chosen in options]
    cards.append(WhisperEncoder(folder, dtype="bfloat16").card)
    cards.append(WhisperEncoder(write_whisper(tmp_path / "b" / "tiny", seed=1)).card)
    assert len({card.fingerprint for card in cards}) == len(cards)
    assert WhisperEncoder(folder).card.fingerprint == cards[0].fingerprint


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        WhisperEncoder(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors_of_the_decoder_may_be_missing(folder: Path):
    spoil(folder, lambda t: t.pop("model.decoder.layers.0.fc1.weight"))
    assert np.isfinite(WhisperEncoder(folder).encode(noises((5000,)))).all()


def test_missing_tensors_are_named(folder: Path):
    path = spoil(folder, lambda tensors: tensors.pop("model.encoder.layers.1.fc1.bias"))
    message = refusal(folder)
    assert message.startswith(f"{path} is not the expected checkpoint: of ")
    assert message.endswith(" tensors, 1 missing (encoder.layers.1.fc1.bias).")


def test_misshaped_tensors_are_named(folder: Path):
    name = "model.encoder.conv1.weight"
    spoil(folder, lambda tensors: tensors.update({name: tensors[name][:, :8].copy()}))
    assert "1 misshaped (encoder.conv1.weight" in refusal(folder)


def test_tensors_of_a_larger_encoder_are_named(folder: Path):
    spoil(folder, lambda t: t.update({"model.encoder.layers.9.fc1.bias": np.zeros(48, "f4")}))
    assert "1 unexpected (" in refusal(folder)
    assert "encoder.layers.9.fc1.bias" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 5000, -10])
def test_a_truncated_file_is_named(folder: Path, keep: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert refusal(folder).startswith(f"{path} cannot be read as a ")


def test_another_kind_of_model_is_refused(folder: Path):
    (folder / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(EncoderError, match=r"reads model_type whisper; .* says 'wav2vec2'\.$"):
        WhisperEncoder(folder)


@pytest.mark.parametrize(("key", "value"), [("feature_size", 128), ("chunk_length", 30)])
def test_a_front_end_of_another_network_is_refused(key: str, value: int, folder: Path):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert "for a network of 80 bands and 2 s. Fetch all files" in refusal(folder)


def test_a_front_end_without_numbers_is_refused(folder: Path):
    (folder / "preprocessor_config.json").write_text('{"hop_length": "long"}')
    assert "positive whole number for hop_length, it gives 'long'" in refusal(folder)


def test_options_out_of_range_are_refused(shared: Path):
    for layer in (4, -5, "first", True):
        with pytest.raises(SettingsError, match=r"layer of 'whisper' must be 0 to 3"):
            WhisperEncoder(shared, layer=layer)
    with pytest.raises(UnknownNameError, match="Did you mean 'mean'"):
        WhisperEncoder(shared, pooling="meen")
    with pytest.raises(UnknownNameError, match="pooling of 'whisper' 'cls'"):
        WhisperEncoder(shared, pooling="cls")
    with pytest.raises(UnknownNameError, match="Did you mean 'float16'"):
        WhisperEncoder(shared, dtype="float61")
    with pytest.raises(SettingsError, match="'warp' is not"):
        WhisperEncoder(shared, device="warp")


def test_without_a_checkpoint_it_says_what_to_pass():
    with pytest.raises(CheckpointError, match="-e whisper=openai/whisper-base"):
        WhisperEncoder()


def test_without_the_extra_it_says_how_to_install_it(shared: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nver\[speech\]'"):
        WhisperEncoder(shared)


def test_nothing_is_printed_or_logged(
    shared: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    WhisperEncoder(shared).encode(noises((900, 40000)))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("transformers")]


def test_windows_beyond_one_pass_give_the_same(shared: Path, monkeypatch: pytest.MonkeyPatch):
    encoder, waveforms = WhisperEncoder(shared), noises(LENGTHS)
    expected = encoder.encode(waveforms)
    monkeypatch.setattr(whisper, "MOST_WINDOWS", 1)
    assert relative(encoder.encode(waveforms), expected) < EXACT
