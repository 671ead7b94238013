"""w2v-BERT on tiny random networks: transformers' own front end and network are the reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contracts.checkpoints import copied, spoil
from tests.contracts.checkpoints_w2v_bert import tiny_w2v_bert, write_w2v_bert
from tests.unit.encoders.likeness import noises, relative

from nver.audio import Waveform
from nver.encoders import w2v_bert
from nver.encoders.conformance import check_encoder
from nver.encoders.w2v_bert import StackedMel, W2vBertEncoder
from nver.errors import (
    CheckpointError,
    EncoderError,
    MissingExtraError,
    SettingsError,
    UnknownNameError,
)

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

# One pair of mel frames, an odd frame behind it, ...: 0.035 to 15 s.
LENGTHS = (560, 720, 1600, 1760, 7777, 16000, 15900, 16000, 17111, 48000, 240000)
ODD = (720, 1760, 7777)  # 3, 9 and 47 mel frames
EXACT = 2e-6


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_w2v_bert(tmp_path_factory.mktemp("w2v") / "tiny")


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint, which the test may spoil."""
    return copied(shared, tmp_path / "tiny")


def alone(encoder: W2vBertEncoder, waveforms: list[Waveform]) -> np.ndarray:
    return np.concatenate([encoder.encode([waveform]) for waveform in waveforms])


def their_inputs(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    extractor = transformers.SeamlessM4TFeatureExtractor(padding_value=1.0)
    found = extractor(samples, sampling_rate=16000, return_tensors="np")
    return found["input_features"], found["attention_mask"]


def their_states(waveform: Waveform, network: Any, masked: bool = True) -> list[np.ndarray]:
    """Return each layer's frames of a clip alone, by transformers, those that its mask keeps."""
    features, mask = their_inputs(waveform.samples[0])
    kept = mask[0].astype(bool) if masked else np.ones(mask.shape[1], dtype=bool)
    with torch.inference_mode():
        output = network(
            torch.from_numpy(features),
            attention_mask=torch.from_numpy(mask) if masked else None,
            output_hidden_states=True,
        )
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    return [state[0].numpy()[kept] for state in states]


@pytest.mark.parametrize("samples", sorted(set(LENGTHS)))
def test_the_input_is_that_of_the_reference(samples: int):
    clip = noises((samples,))[0].samples[0]
    features, mask = their_inputs(clip)
    found = StackedMel(16000, 80, 2)(clip)
    assert found.shape == (mask.sum(), 160)
    np.testing.assert_allclose(found, features[0, : mask.sum()], rtol=0, atol=1e-6)


def test_an_odd_last_mel_frame_is_paired_with_padding_and_masked_by_the_reference():
    features, mask = their_inputs(noises((ODD[-1],))[0].samples[0])
    np.testing.assert_array_equal(mask[0], [1] * 23 + [0])
    np.testing.assert_array_equal(features[0, -1, 80:], 1.0)  # padding_value


def test_silence_is_zero(shared: Path):
    features = W2vBertEncoder(shared).features(np.zeros(4000, dtype=np.float32))
    np.testing.assert_array_equal(features, 0.0)


@pytest.mark.parametrize("positions", ["relative_key", "relative", "rotary"])
def test_batches_are_exact_in_every_layer(
    positions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(w2v_bert, "PADDING", 1.0)  # 1 frame beside 53: the worst batch
    monkeypatch.setattr(w2v_bert, "MOST_FRAMES", 10**6)
    folder = write_w2v_bert(tmp_path, position_embeddings_type=positions)
    encoder, waveforms = W2vBertEncoder(folder, layer="all"), noises(LENGTHS[:-2])
    network = tiny_w2v_bert(position_embeddings_type=positions)
    expected = alone(encoder, waveforms)
    theirs = np.stack([np.stack(their_states(w, network)).mean(axis=1).ravel() for w in waveforms])
    assert encoder.card.layers == len(their_states(waveforms[0], network))
    order = np.random.default_rng(1).permutation(len(waveforms))
    shuffled = encoder.encode([waveforms[index] for index in order])
    batches = (
        encoder.encode(waveforms),
        encoder.encode(waveforms[::-1])[::-1],
        shuffled[np.argsort(order)],
    )
    for layer in range(4):
        columns = slice(32 * layer, 32 * layer + 32)
        assert np.ptp(expected[:, columns], axis=0).max() > 0.01
        assert relative(expected[:, columns], theirs[:, columns]) < EXACT
        for vectors in batches:
            assert relative(vectors[:, columns], expected[:, columns]) < EXACT


def test_a_tenth_of_a_second_beside_15_s(shared: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(w2v_bert, "PADDING", 1.0)
    encoder, waveforms = W2vBertEncoder(shared), noises((1600, 240000))
    network = tiny_w2v_bert()
    theirs = np.stack([their_states(w, network)[-1].mean(axis=0) for w in waveforms])
    assert relative(encoder.encode(waveforms), theirs) < EXACT
    assert relative(encoder.encode(waveforms), alone(encoder, waveforms)) < EXACT


def test_batches_without_the_mask_are_not_exact(shared: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(w2v_bert, "PADDING", 1.0)
    encoder, waveforms = W2vBertEncoder(shared), noises((1600, 16000))
    expected = alone(encoder, waveforms)
    forward = encoder._network.forward
    encoder._network.forward = lambda x, attention_mask=None, **rest: forward(x, **rest)
    assert relative(encoder.encode(waveforms), expected) > 1e-2
    assert relative(alone(encoder, waveforms), expected) < EXACT


def test_the_odd_frame_would_be_heard_without_the_mask(shared: Path):
    encoder, network = W2vBertEncoder(shared), tiny_w2v_bert()
    for waveform in noises(ODD):
        found = encoder.encode([waveform])
        naive = their_states(waveform, network, masked=False)[-1].mean(axis=0)[None]
        assert relative(found, naive) > 1e-3
        hidden = their_states(waveform, network)[-1].mean(axis=0)[None]
        assert relative(found, hidden) < EXACT


def test_bands_normalised_over_padding_too_would_be_others():
    clip = noises((8000,))[0].samples[0]
    mel = StackedMel(16000, 80, 2)
    padded = mel(np.pad(clip, (0, 8000)))
    assert np.abs(padded[:24] - mel(clip)[:24]).max() > 1


@pytest.mark.parametrize("layer", [0, 1, -2, 3, "last"])
def test_layers_are_those_of_the_network(layer: int | str, shared: Path):
    waveforms = noises((4800, 16000))
    number = {"last": 3, -2: 2}.get(layer, layer)
    network = tiny_w2v_bert()
    expected = [their_states(waveform, network)[number].mean(axis=0) for waveform in waveforms]
    encoder = W2vBertEncoder(shared, layer=layer)
    assert relative(encoder.encode(waveforms), np.stack(expected)) < EXACT
    assert len(encoder._network.encoder.layers) == number  # later ones are not run
    assert encoder.card.layer == ("last" if number == 3 else str(number))


def test_the_mean_of_layers_and_deviations(shared: Path):
    waveforms = noises((560, 4800, 16000))
    network = tiny_w2v_bert()
    frames = [np.mean(their_states(waveform, network)[1:], axis=0) for waveform in waveforms]
    expected = [np.concatenate([clip.mean(axis=0), clip.std(axis=0)]) for clip in frames]
    found = W2vBertEncoder(shared, layer="mean", pooling="mean+std").encode(waveforms)
    assert relative(found, np.stack(expected)) < EXACT
    np.testing.assert_array_equal(found[0, 32:], 0.0)  # one frame


def test_it_conforms(shared: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(w2v_bert, "PADDING", 1.0)
    waveforms = noises((1600, 15900, 16000))
    check_encoder(W2vBertEncoder(shared), waveforms).raise_if_failed()


def test_a_head_is_left_aside(shared: Path, tmp_path: Path):
    whole = tiny_w2v_bert(seed=1, head="Wav2Vec2BertForCTC", vocab_size=9)
    whole.wav2vec2_bert.load_state_dict(tiny_w2v_bert().state_dict())
    whole.save_pretrained(tmp_path)  # and no preprocessor_config.json: the published front end
    found = W2vBertEncoder(tmp_path).encode(noises((5000,)))
    np.testing.assert_array_equal(found, W2vBertEncoder(shared).encode(noises((5000,))))


def test_half_precision_only_when_asked(tmp_path: Path):
    tiny_w2v_bert().half().save_pretrained(tmp_path)
    full, half = W2vBertEncoder(tmp_path), W2vBertEncoder(tmp_path, dtype="bfloat16")
    assert full._network.dtype == torch.float32
    waveforms = noises((15900, 16000))
    assert relative(half.encode(waveforms), full.encode(waveforms)) < 0.1


def test_the_card_says_what_it_is(folder: Path, nver_home: Path):
    card = W2vBertEncoder(folder).card
    assert (card.name, card.dim, card.rate, card.extra) == ("w2v-bert:tiny", 32, 16000, "speech")
    assert (card.min_seconds, card.licence) == (560 / 16000, "see the checkpoint's page")
    assert card.parameters == sum(p.numel() for p in tiny_w2v_bert().parameters())
    assert W2vBertEncoder(folder, layer=1, alias="w").card.parameters == card.parameters
    assert W2vBertEncoder(folder, alias="w").card.name == "w"
    write_w2v_bert(nver_home / "weights" / "facebook" / "w2v-bert-2.0")
    card = W2vBertEncoder("facebook/w2v-bert-2.0").card
    assert (card.name, card.licence) == ("w2v-bert:w2v-bert-2.0", "MIT")


def test_the_fingerprint_follows_what_changes_the_numbers(folder: Path, tmp_path: Path):
    options: list[dict[str, Any]] = [{}, {"layer": 1}, {"pooling": "mean+std"}]
    cards = [W2vBertEncoder(folder, **chosen).card for chosen in options]
    cards.append(W2vBertEncoder(folder, dtype="bfloat16").card)
    cards.append(W2vBertEncoder(write_w2v_bert(tmp_path / "b" / "tiny", seed=1)).card)
    assert len({card.fingerprint for card in cards}) == len(cards)
    assert W2vBertEncoder(folder).card.fingerprint == cards[0].fingerprint


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        W2vBertEncoder(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_tensors_are_named(folder: Path):
    name = "encoder.layers.1.conv_module.depthwise_conv.weight"
    path = spoil(folder, lambda tensors: tensors.pop(name))
    message = refusal(folder)
    assert message.startswith(f"{path} is not the expected checkpoint: of ")
    assert message.endswith(f" tensors, 1 missing ({name}).")


def test_a_tensor_of_training_may_be_missing(folder: Path):
    spoil(folder, lambda tensors: tensors.pop("masked_spec_embed"))
    before = torch.random.get_rng_state()
    encoder = W2vBertEncoder(folder)  # transformers fills it with random numbers
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.isfinite(encoder.encode(noises((900,)))).all()


def test_misshaped_and_foreign_tensors_are_named(folder: Path):
    name = "feature_projection.projection.weight"
    spoil(folder, lambda tensors: tensors.update({name: tensors[name][:, :8].copy()}))
    assert f"1 misshaped ({name}" in refusal(folder)  # with both shapes by transformers 5
    spoil(folder, lambda t: t.update({"encoder.layers.9.ffn1.output_dense.bias": np.zeros(4)}))
    assert "1 unexpected (encoder.layers.9.ffn1.output_dense.bias)" in refusal(folder)


def test_a_truncated_file_is_named(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert refusal(folder).startswith(f"{path} cannot be read as a Wav2Vec2BertModel (")


def test_another_kind_of_model_is_refused(folder: Path):
    (folder / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(EncoderError, match=r"reads model_type wav2vec2-bert; .* says 'wav2vec2'"):
        W2vBertEncoder(folder)


def test_a_length_adapter_is_refused(tmp_path: Path):
    with pytest.raises(EncoderError, match="has a length adapter on top"):
        W2vBertEncoder(write_w2v_bert(tmp_path, add_adapter=True))


def test_a_front_end_of_another_network_is_refused(folder: Path):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({"num_mel_bins": 64}))
    assert "a front end of 2 x 64 bands for a network of 160. Fetch all" in refusal(folder)
    path.write_text(json.dumps({"stride": 0}))
    assert "must give a positive whole number for stride, it gives 0" in refusal(folder)


def test_options_out_of_range_are_refused(shared: Path):
    for layer in (4, -5, "first", True):
        with pytest.raises(SettingsError, match=r"layer of 'w2v-bert' must be 0 to 3"):
            W2vBertEncoder(shared, layer=layer)
    with pytest.raises(UnknownNameError, match="pooling of 'w2v-bert' 'cls'"):
        W2vBertEncoder(shared, pooling="cls")
    with pytest.raises(UnknownNameError, match="Did you mean 'float16'"):
        W2vBertEncoder(shared, dtype="float61")
    with pytest.raises(SettingsError, match="'warp' is not"):
        W2vBertEncoder(shared, device="warp")


def test_without_a_checkpoint_it_says_what_to_pass():
    with pytest.raises(CheckpointError, match=r"-e w2v-bert=facebook/w2v-bert-2\.0"):
        W2vBertEncoder()


def test_without_the_extra_it_says_how_to_install_it(shared: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nver\[speech\]'"):
        W2vBertEncoder(shared)


def test_nothing_is_printed_or_logged(
    shared: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    W2vBertEncoder(shared).encode(noises((15900, 16000)))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("transformers")]
