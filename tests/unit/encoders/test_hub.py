"""Finding a model's files: folders, shards, the hub's cache without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nver.encoders.hub import find_model, offline
from nver.errors import CheckpointError, MissingExtraError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the snapshot of some-lab/burst-net in an offline hub cache of this test's own."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = tmp_path / "hub" / "models--some-lab--burst-net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return write(repository / "snapshots" / COMMIT)


def test_the_revision_of_a_folder_is_the_hash_of_its_weights(tmp_path: Path):
    one = find_model("net", write(tmp_path / "one", model__safetensors="x"), "speech")
    assert (one.folder, one.weights[0].name, one.bytes) == (
        tmp_path / "one",
        "model.safetensors",
        1,
    )
    same = find_model("net", write(tmp_path / "two", model__safetensors="x"), "speech")
    other = find_model("net", write(tmp_path / "three", model__safetensors="y"), "speech")
    assert one.revision == same.revision != other.revision


def test_safetensors_are_preferred(tmp_path: Path):
    folder = write(tmp_path, model__safetensors="x", pytorch_model__bin="y")
    assert find_model("net", folder, "speech").weights == (folder / "model.safetensors",)


def test_shards_are_all_part_of_the_revision(tmp_path: Path):
    index = json.dumps({"weight_map": {"a": "part-1", "b": "part-2", "c": "part-1"}})
    folder = write(tmp_path, **{"part-1": "x", "part-2": "y"})
    (folder / "model.safetensors.index.json").write_text(index)
    before = find_model("net", folder, "speech")
    assert [path.name for path in before.weights] == ["part-1", "part-2"]
    (folder / "part-2").write_text("z")
    assert find_model("net", folder, "speech").revision != before.revision
    (folder / "part-2").unlink()
    with pytest.raises(CheckpointError, match=r"lists .*part-2, which is not there"):
        find_model("net", folder, "speech")


@pytest.mark.parametrize("index", ['{"weight_map": {"a": "../x"}}', '{"weight_map": {}}', "{}"])
def test_an_index_may_only_list_its_neighbours(tmp_path: Path, index: str):
    folder = write(tmp_path)
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="must list the files beside it"):
        find_model("net", folder, "speech")


def test_folders_below_the_weights_folders_are_found_by_name(nver_home: Path):
    folder = write(nver_home / "weights" / "lab" / "net", model__safetensors="x")
    model = find_model("net", "lab/net", "speech")
    assert (model.name, model.folder) == ("lab/net", folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"holds no weights\.$"):
        find_model("net", write(tmp_path), "speech")


@pytest.mark.parametrize("name", ["absent", "./a/b", "a/b/c", "/absent/folder"])
def test_what_is_neither_folder_nor_id_is_refused(name: str, nver_home: Path):
    with pytest.raises(
        CheckpointError, match=f"such as facebook/wav2vec2-base; '{name}' is neither"
    ):
        find_model("net", name, "speech")


def test_a_cached_model_needs_no_network(cache: Path):
    write(cache, model__safetensors="x", preprocessor_config__json="{}")
    model = find_model("net", "some-lab/burst-net", "speech")
    assert (model.folder, model.revision) == (cache, COMMIT)
    assert model.weights == (cache / "model.safetensors",)
    assert find_model("net", f"some-lab/burst-net@{COMMIT}", "speech") == model


def test_a_cached_model_may_hold_a_bin_file_only(cache: Path):
    write(cache, pytorch_model__bin="x")
    assert find_model("net", "some-lab/burst-net", "speech").weights[0].suffix == ".bin"


def test_a_cached_model_without_weights_is_refused(cache: Path):
    with pytest.raises(CheckpointError, match=r"The weights of 'some-lab/burst-net' could not be"):
        find_model("net", "some-lab/burst-net", "speech")


def test_offline_and_not_cached_is_said(cache: Path):
    with pytest.raises(CheckpointError) as caught:
        find_model("net", "some-lab/other-net", "speech")
    assert str(caught.value).startswith(
        "Encoder 'net' found no model 'some-lab/other-net' in the hub's cache "
        "(HF_HUB_OFFLINE is set), and no folder of that name:"
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False)])
def test_the_offline_switch(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert offline() is expected


def test_without_the_extra_it_says_how_to_install_it(
    nver_home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nver\[speech\]'"):
        find_model("net", "some-lab/burst-net", "speech")
