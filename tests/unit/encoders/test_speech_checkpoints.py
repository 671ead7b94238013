"""What speech encoders refuse: checkpoints that are not whole, options out of range."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contracts.checkpoints import spoil, tiny_network

from nver.audio import Waveform
from nver.encoders import load_encoder
from nver.encoders.speech import SpeechEncoder
from nver.errors import (
    CheckpointError,
    EncoderError,
    MissingExtraError,
    SettingsError,
    UnknownNameError,
)

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        SpeechEncoder(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_tensors_are_named(group: Path):
    path = spoil(group, lambda tensors: tensors.pop("encoder.layers.1.final_layer_norm.bias"))
    assert refusal(group) == (
        f"{path} is not the expected checkpoint: of 67 tensors, "
        "1 missing (encoder.layers.1.final_layer_norm.bias)."
    )


def test_an_unused_tensor_may_be_missing(group: Path):
    spoil(group, lambda tensors: tensors.pop("masked_spec_embed"))
    assert np.isfinite(
        SpeechEncoder(group).encode([Waveform(np.full(900, 0.1, np.float32), 16000)])
    ).all()


def test_tensors_of_another_backbone_are_named(group: Path):
    layer = np.zeros(32, np.float32)
    path = spoil(group, lambda t: t.update({"encoder.layers.9.layer_norm.bias": layer}))
    assert refusal(group) == (
        f"{path} is not the expected checkpoint: of 67 tensors, "
        "1 unexpected (encoder.layers.9.layer_norm.bias)."
    )


def test_misshaped_tensors_are_named(group: Path):
    name = "feature_projection.projection.weight"
    path = spoil(group, lambda tensors: tensors.update({name: tensors[name][:, :8].copy()}))
    assert refusal(group) == (
        f"{path} is not the expected checkpoint: of 67 tensors, "
        f"1 misshaped ({name} [32, 8] instead of [32, 16])."
    )


@pytest.mark.parametrize("keep", [0, 5000, -10])
def test_a_truncated_file_is_named(group: Path, keep: int):
    path = group / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(group)
    assert message.startswith(f"{path} cannot be read as a Wav2Vec2Model (")
    assert message.endswith("). Fetch the checkpoint again.")


class Intruder:
    """What a hostile file holds: an object that runs something when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


def test_python_objects_are_never_read(group: Path, tmp_path: Path):
    (group / "model.safetensors").unlink()
    torch.save({"a": Intruder(tmp_path / "ran")}, group / "pytorch_model.bin")
    assert "holds Python objects besides tensors, which are never read" in refusal(group)
    assert not (tmp_path / "ran").exists()


def test_another_kind_of_model_gets_the_nearest_supported(group: Path):
    (group / "config.json").write_text('{"model_type": "wavlm2"}')
    with pytest.raises(EncoderError, match=r"reads model_type wav2vec2, .* says 'wavlm2'.*'wavlm'"):
        SpeechEncoder(group)


def test_a_length_adapter_is_refused(tmp_path: Path):
    tiny_network("wav2vec2-group", add_adapter=True).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="has a length adapter on top"):
        SpeechEncoder(tmp_path)


def test_options_out_of_range_are_refused(group: Path):
    for layer in (4, -5, "first", True):
        with pytest.raises(SettingsError, match=r"must be 0 to 3, -1 \(last\), 'mean' or 'all'"):
            SpeechEncoder(group, layer=layer)
    with pytest.raises(SettingsError, match="normalise must be yes or no, it is 'maybe'"):
        SpeechEncoder(group, normalise="maybe")
    with pytest.raises(SettingsError, match="'warp' is not"):
        SpeechEncoder(group, device="warp")
    with pytest.raises(UnknownNameError, match="Did you mean 'mean'"):
        SpeechEncoder(group, pooling="meen")
    with pytest.raises(UnknownNameError, match="Did you mean 'float16'"):
        SpeechEncoder(group, dtype="float61")


def test_without_a_checkpoint_it_says_what_to_pass():
    with pytest.raises(CheckpointError, match=r"-e speech=facebook/wav2vec2-base"):
        load_encoder("speech")


def test_without_the_extra_it_says_how_to_install_it(group: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nver\[speech\]'"):
        SpeechEncoder(group)
