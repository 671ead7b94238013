"""Audio towers of large checkpoints: found, read, refused, kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nver.encoders.torch_file import content_key, listed
from nver.encoders.tower import Tower, find_file, read_tower
from nver.errors import CheckpointError

STATE = {
    "ear.weight": torch.arange(2000.0).reshape(20, 100),
    "ear.scale": torch.tensor(2.5),
    "eye.weight": torch.ones(300),
}
FOLDERS = ("ears",)


def is_ear(name: str) -> bool:
    return name.startswith("ear.")


def read(path: Path) -> Tower:
    tower = read_tower("ears", path, is_ear)
    tower.keep()
    return tower


@pytest.fixture
def source(tmp_path: Path, nver_home: Path) -> Path:
    folder = tmp_path / "download"
    folder.mkdir()
    torch.save(STATE, folder / "big.pth")
    return folder / "big.pth"


@pytest.fixture
def kept(nver_home: Path) -> Path:
    return nver_home / "towers" / "ears"


def test_only_the_tower_is_read_and_kept(source: Path, kept: Path):
    tower = read(source)
    assert set(tower.tensors) == {"ear.weight", "ear.scale"}
    assert tower.values == 2001
    (copy,) = kept.iterdir()
    assert set(load_file(copy)) == {"ear.weight", "ear.scale"}
    assert copy.stat().st_size < source.stat().st_size
    assert copy.stat().st_mode & 0o777 == source.stat().st_mode & 0o777


def test_what_was_kept_is_read_the_next_time(
    source: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
):
    first = read(source)
    monkeypatch.setattr("nver.encoders.tower.from_torch", None)  # would fail if it were called
    moved = source.rename(source.with_name("renamed.bin"))
    second = read(moved)
    assert second.revision == first.revision
    assert second.path == moved
    assert len(list(kept.iterdir())) == 1


def test_what_was_kept_is_the_encoder_once_it_is_moved_there(source: Path, kept: Path):
    (source.parent / "config.json").write_text('{"heads": 3}')
    revision = read(source).revision
    source.unlink()
    with pytest.raises(CheckpointError, match="No checkpoint for encoder 'ears'"):
        find_file("ears", FOLDERS, None, "MIT")  # a file that was tried once is not the encoder
    kept.parent.with_name("weights").mkdir()
    moved = kept.rename(kept.parent.with_name("weights") / "ears")
    found = find_file("ears", FOLDERS, None, "MIT")
    assert found.parent == moved
    tower = read_tower("ears", found, is_ear)
    assert (tower.revision, tower.config, tower.copy) == (revision, {"heads": 3}, None)


def test_a_new_configuration_is_kept_too(source: Path, kept: Path):
    for heads in (3, 4):
        (source.parent / "config.json").write_text(json.dumps({"heads": heads}))
        assert read(source).config == {"heads": heads}
        (copy,) = kept.iterdir()
        with safe_open(copy, framework="pt") as file:
            assert json.loads(file.metadata()["nver.config"]) == {"heads": heads}


def test_another_content_under_the_same_name_is_another_tower(source: Path, kept: Path):
    before = read(source).revision
    torch.save(STATE | {"ear.scale": torch.tensor(3.5)}, source)
    assert read(source).revision != before
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "changed", "foreign"])
def test_a_damaged_copy_is_made_anew(source: Path, kept: Path, damage: str):
    before = read(source).revision
    (copy,) = kept.iterdir()
    if damage == "truncated":
        copy.write_bytes(copy.read_bytes()[:-100])
    elif damage == "changed":
        data = bytearray(copy.read_bytes())
        data[-50] ^= 1
        copy.write_bytes(bytes(data))
    else:
        save_file({"other": torch.ones(3)}, copy)
    assert read(source).revision == before
    (copy,) = kept.iterdir()
    assert read(copy).revision == before


def test_a_changed_copy_that_is_named_itself_is_refused(source: Path, kept: Path):
    read(source)
    (copy,) = kept.iterdir()
    data = bytearray(copy.read_bytes())
    data[-50] ^= 1
    copy.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"has changed since it was kept here\. Delete it\."):
        read(copy)


def test_a_home_that_cannot_be_written_is_no_error(source: Path, nver_home: Path):
    nver_home.parent.mkdir(exist_ok=True)
    nver_home.write_text("a file where the folder should be")
    assert read(source).values == 2001


def test_the_revision_is_that_of_the_tensors(source: Path, tmp_path: Path):
    safe = tmp_path / "small.safetensors"
    save_file({name: tensor for name, tensor in STATE.items() if is_ear(name)}, safe)
    old = tmp_path / "old.bin"
    torch.save(STATE, old, _use_new_zipfile_serialization=False)
    assert len({read(path).revision for path in (source, safe, old)}) == 1
    halves = {name: tensor.half() for name, tensor in STATE.items() if is_ear(name)}
    save_file({**halves, "ear.scale": torch.tensor(7.0)}, safe)
    tower = read(safe)
    assert tower.revision != read(source).revision
    assert {tensor.dtype for tensor in tower.tensors.values()} == {torch.float32}


def test_tensors_do_not_change_with_the_file(source: Path, tmp_path: Path):
    safe = tmp_path / "small.safetensors"
    save_file(STATE, safe)
    for path in (safe, source):
        tensor = read_tower("ears", path, is_ear).tensors["ear.weight"]
        before = tensor.clone()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.write(bytes(size))
        assert torch.equal(tensor, before)


@pytest.mark.parametrize("keep", [0.1, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_truncated_file_gives_one_line(source: Path, tmp_path: Path, keep: float, kind: str):
    path = source
    if kind == "safetensors":
        path = tmp_path / "small.safetensors"
        save_file(STATE, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CheckpointError, match=r"is truncated or no .* Fetch it again") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_noticed(source: Path):
    data = bytearray(source.read_bytes())
    data[data.index(np.float32(1234.0).tobytes())] ^= 1
    source.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"is damaged \(checksum of .*\)\. Fetch it again\."):
        read(source)


def test_a_file_without_checksums_is_known_by_its_whole_content(source: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, source)
    finally:
        torch.serialization.set_crc32_options(True)
    assert listed(source) == []
    before = content_key(source)
    assert read(source).values == 2001
    data = bytearray(source.read_bytes())
    data[data.index(np.float32(1234.0).tobytes())] ^= 1
    source.write_bytes(bytes(data))
    assert content_key(source) != before


class Harmful:
    """Would write a file if it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(source: Path, tmp_path: Path):
    torch.save({"ear.weight": Harmful(tmp_path / "executed")}, source)
    with pytest.raises(CheckpointError, match="or holds Python objects besides tensors") as caught:
        read(source)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], r"must hold a state dict \(tensors by name\), it holds a list\."),
        ({1: torch.ones(2)}, r"must hold a state dict"),
        ({"ear.weight": "text"}, r"must hold tensors, ear\.weight is none\."),
    ],
)
def test_what_is_no_state_dict_is_refused(source: Path, content: object, message: str):
    torch.save(content, source)
    with pytest.raises(CheckpointError, match=message):
        read(source)


def test_a_page_instead_of_a_checkpoint_is_refused(source: Path):
    source.write_text("<html>Not found</html>")
    with pytest.raises(
        CheckpointError, match=r"no PyTorch checkpoint: it begins with b'<html>Not found"
    ):
        read(source)


def test_a_pointer_instead_of_a_checkpoint_is_told(source: Path):
    source.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(CheckpointError, match=r"is a Git LFS pointer, not the file: run `git lfs"):
        read(source)


def test_a_broken_configuration_is_refused(source: Path):
    (source.parent / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json must hold a JSON object"):
        read(source)


def test_numbers_of_the_configuration():
    tower = Tower(Path("x/big.pth"), {}, {"a": {"b": 2}, "c": "two"}, None)
    assert tower.number(("nothing",), ("a", "b")) == 2.0
    assert tower.number(("a", "b", "c")) is None
    with pytest.raises(CheckpointError, match=r"must give a number for c, it gives 'two'"):
        tower.number(("c",))


class TestFinding:
    def test_a_file_a_folder_or_a_name(self, source: Path, monkeypatch: pytest.MonkeyPatch):
        assert find_file("ears", FOLDERS, source, "MIT") == source
        assert find_file("ears", FOLDERS, str(source.parent), "MIT") == source
        monkeypatch.setenv("NVER_WEIGHTS", str(source.parent.parent))
        assert find_file("ears", FOLDERS, "download", "MIT") == source
        assert find_file("ears", ("nothing", "download"), None, "MIT") == source

    def test_published_names_come_first(self, source: Path):
        other = source.with_name("pytorch_model.bin")
        other.write_bytes(source.read_bytes())
        assert find_file("ears", FOLDERS, source.parent, "MIT") == other

    def test_safetensors_come_before_other_kinds(self, source: Path):
        safe = source.with_name("a.safetensors")
        save_file(STATE, safe)
        assert find_file("ears", FOLDERS, source.parent, "MIT") == safe

    def test_several_are_not_guessed_from(self, source: Path):
        source.with_name("small.pth").write_bytes(b"")
        with pytest.raises(
            CheckpointError, match=r"holds big\.pth, small\.pth\. Pass the file instead"
        ):
            find_file("ears", FOLDERS, source.parent, "MIT")

    def test_an_empty_folder_is_refused(self, tmp_path: Path):
        with pytest.raises(
            CheckpointError, match=r"needs a checkpoint \(model\.safeten.*holds none"
        ):
            find_file("ears", FOLDERS, tmp_path, "MIT")

    def test_what_is_not_there_is_refused(self, nver_home: Path):
        with pytest.raises(
            CheckpointError, match=r"or a folder with one; absent\.pth is neither\."
        ):
            find_file("ears", FOLDERS, "absent.pth", "MIT")
        with pytest.raises(
            CheckpointError,
            match=r"No checkpoint for encoder 'ears' \(licence MIT\).*ears in .*-e ears=PATH",
        ):
            find_file("ears", FOLDERS, None, "MIT")
