"""Finding a checkpoint and refusing the wrong one: every message names what is at fault."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nver.encoders.checkpoint import Checkpoint, find_folder, read_json
from nver.errors import CheckpointError

NAMES = ("net", "net_v1")
SHAPES = {"a": (2, 3), "b": (4,)}


def write(folder: Path, **tensors: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"input": {"rate": 8000, "name": "x", "on": true}}')
    given = {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)} | tensors
    save_file({name: tensor for name, tensor in given.items() if tensor.size}, weights(folder))
    return folder


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder).tensors(SHAPES, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_given_folder_is_taken(tmp_path: Path):
    folder = write(tmp_path / "mine")
    assert find_folder("net", NAMES, str(folder), "MIT") == folder


def test_a_given_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"needs a folder with model.safetensors and config"):
        find_folder("net", NAMES, tmp_path, "MIT")
    with pytest.raises(CheckpointError, match="is no folder"):
        find_folder("net", NAMES, tmp_path / "absent", "MIT")


def test_folders_are_searched_in_order(
    tmp_path: Path, nver_home: Path, monkeypatch: pytest.MonkeyPatch
):
    last = write(nver_home / "weights" / "net")
    assert find_folder("net", NAMES, None, "MIT") == last
    second = write(tmp_path / "listed" / "net_v1")
    monkeypatch.setenv("NVER_WEIGHTS", f"{tmp_path / 'absent'}:{tmp_path / 'listed'}")
    assert find_folder("net", NAMES, None, "MIT") == second
    first = write(tmp_path / "listed" / "net")
    assert find_folder("net", NAMES, None, "MIT") == first


def test_nothing_found_says_where_it_looked_and_what_to_pass(nver_home: Path):
    message = (
        f"No checkpoint for encoder 'net' (licence MIT): looked for a folder net or net_v1 in "
        f"{nver_home / 'weights'}. Pass its folder (-e net=FOLDER) or list the folder above it in "
        "$NVER_WEIGHTS."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        find_folder("net", NAMES, None, "MIT")


def test_the_tensors_are_read_as_float32(tmp_path: Path):
    folder = write(tmp_path, a=np.full((2, 3), 0.5, np.float16), spare=np.ones(1))
    tensors = Checkpoint.open(folder).tensors(SHAPES, ignored=("spare",))
    assert set(tensors) == set(SHAPES)
    assert tensors["a"].dtype == np.float32
    np.testing.assert_array_equal(tensors["a"], 0.5)


def test_bfloat16_is_read(tmp_path: Path):
    import torch
    from safetensors.torch import save_file as save_torch

    folder = write(tmp_path)
    save_torch({"a": torch.full((2, 3), 0.5).bfloat16(), "b": torch.zeros(4)}, weights(folder))
    np.testing.assert_array_equal(Checkpoint.open(folder).tensors(SHAPES)["a"], 0.5)


def test_the_revision_is_the_hash_of_the_weights(tmp_path: Path):
    one = Checkpoint.open(write(tmp_path / "one")).revision
    assert one == Checkpoint.open(write(tmp_path / "same")).revision
    assert one != Checkpoint.open(write(tmp_path / "other", b=np.ones(4, np.float32))).revision


def test_other_tensors_are_named(tmp_path: Path):
    folder = write(tmp_path, a=np.zeros((3, 2), np.float32), b=np.zeros(0), c=np.zeros(1))
    assert refusal(folder) == (
        f"{weights(folder)} is not the expected checkpoint: of 2 tensors, 1 missing (b), "
        "1 unexpected (c), 1 misshaped (a [3, 2] instead of [2, 3])."
    )


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int):
    folder = write(tmp_path)
    weights(folder).write_bytes(weights(folder).read_bytes()[:keep])
    message = refusal(folder)
    assert message.startswith(f"{weights(folder)} is truncated or no safetensors file (")
    assert message.endswith("Fetch it again.")


def test_a_text_file_is_no_checkpoint(tmp_path: Path):
    folder = write(tmp_path)
    weights(folder).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is truncated or no safetensors file" in refusal(folder)


def test_numbers_of_the_configuration(tmp_path: Path):
    opened = Checkpoint.open(write(tmp_path))
    assert opened.number("input", "rate") == 8000
    for path in (("input", "name"), ("input", "on"), ("input", "absent"), ("absent", "rate")):
        with pytest.raises(CheckpointError, match=f"must give a number for {'.'.join(path)}"):
            opened.number(*path)


@pytest.mark.parametrize(
    ("text", "fault"), [("{", "unreadable"), ("[1]", "holds a list"), (None, "is missing")]
)
def test_a_bad_configuration_is_named(tmp_path: Path, text: str | None, fault: str):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CheckpointError, match=fault) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_reading_does_not_change_the_file(tmp_path: Path):
    folder = write(tmp_path)
    Checkpoint.open(folder).tensors(SHAPES)
    assert set(load_file(weights(folder))) == {"a", "b"}
