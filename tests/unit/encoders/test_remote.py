"""Audio towers over HTTP: only their bytes, kept, found again, refused in one line."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save
from tests.contracts.checkpoints import (
    IMAGEBIND_CONFIG,
    LANGUAGEBIND_CONFIG,
    imagebind_tensors,
    languagebind_tensors,
    save_torch,
    with_lora,
    write_checkpoint,
)
from tests.unit.encoders.hosted_tower import AUDIO, BYTES, CONFIG, TENSORS, left, parts, visible
from tests.unit.encoders.http_server import Hosted, Server

from nver.audio import Waveform
from nver.encoders import fetching, imagebind, load_encoder, torch_ranges
from nver.encoders.fetching import available_locally, fetch
from nver.encoders.imagebind import TOWER
from nver.encoders.remote import fetch_tower, is_remote, kept_file, local_tower
from nver.errors import CheckpointError, UnknownNameError

pytestmark = pytest.mark.usefixtures("nver_home")
ID = "nielsr/imagebind-huge"
CLIP = Waveform(0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32), 16_000)


@pytest.fixture
def blob(server: Server) -> Hosted:
    """Host a tiny ImageBind as it lies on the hub."""
    server.hub_small(ID, "config.json", CONFIG)
    return server.hub(ID, "model.safetensors", save(TENSORS))


@pytest.fixture(scope="module")
def torch_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_torch(tmp_path_factory.mktemp("torch") / "x.pth", TENSORS).read_bytes()


class TestTheHub:
    def test_only_the_bytes_of_the_tower_are_sent(self, server: Server, blob: Hosted):
        header = 8 + int.from_bytes(blob.data[:8], "little")
        fetched = fetch_tower(TOWER)
        config = len(CONFIG)
        assert server.sent == 1 + config + header + BYTES
        assert server.sent < len(blob.data) / 2
        assert fetched.path == kept_file("imagebind", ID)
        assert (fetched.bytes, fetched.already) == (fetched.path.stat().st_size, False)
        with safe_open(fetched.path, framework="np") as file:
            assert set(file.keys()) == set(AUDIO)
            for name, value in AUDIO.items():
                np.testing.assert_array_equal(file.get_tensor(name), value)
            facts = file.metadata()
        assert json.loads(facts["nver.config"]) == IMAGEBIND_CONFIG
        assert facts["nver.source"] == ID
        assert "non-commercial" in facts["nver.licence"]
        assert (fetched.path.stat().st_mode & 0o777) == (0o666 & ~umask())

    def test_the_next_run_asks_nothing(self, server: Server, blob: Hosted, monkeypatch):
        first = load_encoder("imagebind")
        before = len(server.asked)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for checkpoint in (None, ID):
            second = load_encoder("imagebind", checkpoint=checkpoint)
            assert second.card.fingerprint == first.card.fingerprint
        assert fetch_tower(TOWER, ID).already
        assert len(server.asked) == before

    def test_it_is_the_tower_of_the_local_file(self, blob: Hosted, torch_file: bytes, tmp_path):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "imagebind_huge.pth").write_bytes(torch_file)
        (tmp_path / "x" / "config.json").write_bytes(CONFIG)
        local, remote = (
            load_encoder("imagebind", checkpoint=tmp_path / "x"),
            load_encoder("imagebind", checkpoint=ID),
        )
        assert local.card.fingerprint == remote.card.fingerprint
        np.testing.assert_array_equal(local.encode([CLIP]), remote.encode([CLIP]))
        assert len(visible(kept_file("imagebind", ID).parent)) == 1  # the local one is elsewhere
        assert local_tower(TOWER) == kept_file("imagebind", ID)

    def test_it_is_announced_before(self, blob: Hosted, caplog: pytest.LogCaptureFixture):
        with caplog.at_level(logging.WARNING):
            fetch_tower(TOWER)
        (record,) = caplog.records
        said = record.getMessage()
        assert "the audio tower of imagebind: 0.1" in said
        assert "MB of 0.5" in said
        assert "CC BY-NC-SA 4.0 (code and weights: non-commercial)" in said
        assert f"/{ID}/resolve/main/model.safetensors to {kept_file('imagebind', ID)}" in said
        assert "\n" not in said

    def test_a_revision_and_a_token(self, server: Server, blob: Hosted, monkeypatch):
        for path in list(server.files):
            server.files[path.replace("/main/", "/v2/")] = server.files[path]
        monkeypatch.setenv("HF_TOKEN", "secret")
        fetched = fetch_tower(TOWER, f"{ID}@v2")
        assert fetched.path != kept_file("imagebind", ID)
        asked = [entry for entry in server.asked if "/v2/" in entry.path]
        assert asked
        for entry in server.asked:
            elsewhere = entry.path.startswith("/blobs/")
            assert entry.authorization == (None if elsewhere else "Bearer secret")

    def test_an_interrupted_download_goes_on(self, server: Server, blob: Hosted):
        # The first byte and the header come, then half a tower, then nothing any more.
        header = 8 + int.from_bytes(blob.data[:8], "little")
        blob.cut = [BYTES // 2] + [0] * 50
        came = fetch_interrupted()
        kept = kept_file("imagebind", ID)
        assert 0 < came < BYTES
        assert visible(kept.parent) == []
        blob.cut = []
        before = server.sent
        fetch_tower(TOWER)
        small = 1 + len(CONFIG) + header
        assert server.sent - before == small + BYTES - came
        assert parts(kept.parent) == []

    def test_a_source_that_changed_is_begun_anew(self, server: Server, blob: Hosted):
        blob.cut = [BYTES // 2] + [0] * 50
        assert fetch_interrupted() > 0
        changed = {name: np.asarray(value + 1) for name, value in TENSORS.items()}
        server.hub(ID, "model.safetensors", save(changed))
        fetched = fetch_tower(TOWER)
        with safe_open(fetched.path, framework="np") as file:
            for name in AUDIO:
                np.testing.assert_array_equal(file.get_tensor(name), changed[name])
        assert parts(fetched.path.parent) == []

    def test_a_whole_file_with_the_wrong_checksum_is_removed(self, server: Server):
        blob = server.hub(ID, "model.safetensors", save(TENSORS), ranges=False)
        blob.data = blob.data[:-1] + b"?"
        with pytest.raises(CheckpointError, match="must have SHA-256"):
            fetch_tower(TOWER)
        assert left() == ([], [])

    def test_other_tensors_than_known_are_refused(self, blob: Hosted):
        kind = replace(TOWER, revisions={ID: "0" * 64})
        with pytest.raises(
            CheckpointError, match=rf"tower of {ID} must have SHA-256 0{{64}}, what came has"
        ):
            fetch_tower(kind)
        assert left() == ([], [])
        revision = load_encoder("imagebind").card.revision
        kept_file("imagebind", ID).unlink()
        assert not fetch_tower(replace(TOWER, revisions={ID: revision})).already

    def test_two_processes_share_one_download(self, server: Server, blob: Hosted, nver_home):
        # The first answer is held back until both have asked: neither finds what the other made.
        both = Barrier(2, timeout=60)
        first = iter((both.wait, both.wait))
        blob.before = lambda: next(first, bool)()
        code = (
            "from nver.encoders.imagebind import TOWER; "
            "from nver.encoders.remote import fetch_tower; print(fetch_tower(TOWER).path)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_ENDPOINT": server.url, "NVER_HOME": str(nver_home)},
        ) as other:
            while not server.asked and other.poll() is None:
                time.sleep(0.01)
            mine = fetch_tower(TOWER)
            out, errors = other.communicate()
        assert other.returncode == 0, errors
        assert out.strip() == str(mine.path) == str(kept_file("imagebind", ID))
        header = 8 + int.from_bytes(blob.data[:8], "little")
        config = len(CONFIG)
        assert server.sent == 2 * (1 + config) + header + BYTES
        assert parts(mine.path.parent) == []


def fetch_interrupted() -> int:
    """Fetch from a server that cuts, and return how many bytes of the tower came."""
    with pytest.raises(CheckpointError, match=r"5 times .*run it again to go on") as caught:
        fetch_tower(TOWER)
    assert "\n" not in str(caught.value)
    (part,) = parts(kept_file("imagebind", ID).parent)
    data = part.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


class TestWhatCannotBeHad:
    def test_the_second_source_is_taken(self, server: Server, torch_file: bytes, monkeypatch):
        monkeypatch.setattr(torch_ranges, "TAIL", 20_000)
        url = f"{server.url}/official/imagebind_huge.pth"
        server.files["/official/imagebind_huge.pth"] = Hosted(torch_file)
        kind = replace(TOWER, sources=(ID, url))
        for status in (404, 401, 503):
            for file in ("model.safetensors", "pytorch_model.bin", "imagebind_huge.pth"):
                server.files[f"/{ID}/resolve/main/{file}"] = Hosted(status=status)
            monkeypatch.setattr(imagebind, "_audio", lambda *_: 2)
            fetched = fetch_tower(kind)
            assert fetched.path == kept_file("imagebind", url)
            fetched.path.unlink()

    def test_everything_is_said_in_one_line(self, server: Server, nver_home: Path):
        kind = replace(TOWER, sources=(ID, "http://127.0.0.1:1/x.pth"))
        with pytest.raises(CheckpointError) as caught:
            fetch_tower(kind)
        said = str(caught.value)
        for part in (
            "No checkpoint for encoder 'imagebind' (licence CC BY-NC-SA 4.0",
            f"no folder imagebind or imagebind_huge or imagebind-huge in {nver_home / 'weights'}",
            "resolve/main/pytorch_model.bin is not there (404 Not Found).",
            "http://127.0.0.1:1/x.pth cannot be reached (",
            "Pass its file or folder (-e imagebind=PATH)",
        ):
            assert part in said
        assert "\n" not in said

    def test_offline(self, server: Server, blob: Hosted, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for given in (None, "some-lab/other", f"{server.url}/x.pth"):
            with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids the network"):
                fetch_tower(TOWER, given)
        assert server.asked == []

    def test_a_gated_model(self, server: Server):
        for file in ("model.safetensors", "pytorch_model.bin"):
            server.files[f"/{ID}/resolve/main/{file}"] = Hosted(status=401)
        with pytest.raises(CheckpointError, match="is private, gated or not there"):
            fetch_tower(TOWER, ID)
        assert len(server.asked) == 1

    def test_a_broken_configuration_on_the_hub(self, server: Server, blob: Hosted):
        server.hub_small(ID, "config.json", b"[1]")
        with pytest.raises(CheckpointError, match=r"config\.json must hold a JSON object"):
            fetch_tower(TOWER)

    def test_a_home_that_cannot_be_written(self, blob: Hosted, nver_home: Path):
        nver_home.write_text("a file where the folder should be")
        with pytest.raises(CheckpointError, match=r"cannot be written \(.*set NVER_HOME"):
            fetch_tower(TOWER)

    def test_what_is_no_name_of_anything(self):
        for given in ("absent.pth", "a/b/c", "folder/absent.pth"):
            assert not is_remote(given)
            with pytest.raises(CheckpointError, match=rf"{given} is neither\."):
                fetch_tower(TOWER, given)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_file_that_is_all_tower_is_verified(server: Server, tmp_path: Path, damaged: bool):
    """Whoever wants nearly all of a file takes all of it: only then its SHA-256 can be checked."""
    tensors = {name: value for name, value in imagebind_tensors().items() if "vision" not in name}
    folder = write_checkpoint(tmp_path / "x", IMAGEBIND_CONFIG, tensors)
    data = bytearray((folder / "model.safetensors").read_bytes())
    hosted = server.hub(ID, "model.safetensors", bytes(data))
    server.hub_small(ID, "config.json", CONFIG)
    if damaged:
        data[-1] ^= 1
        hosted.data = bytes(data)
        with pytest.raises(CheckpointError, match="SHA-256"):
            fetch_tower(TOWER, ID)
    else:
        assert fetch_tower(TOWER, ID).path.is_file()


@pytest.mark.parametrize("lora", [0, 3])
def test_languagebind_from_the_hub(server: Server, tmp_path: Path, lora: int, monkeypatch):
    monkeypatch.setattr(torch_ranges, "TAIL", 20_000)
    name = "LanguageBind/LanguageBind_Audio_FT"
    tensors = languagebind_tensors() | {"text_model.big": np.zeros(100_000, dtype=np.float32)}
    tensors = with_lora(tensors, lora) if lora else tensors
    data = save_torch(tmp_path / "x" / "pytorch_model.bin", tensors).read_bytes()
    (tmp_path / "x" / "config.json").write_text(json.dumps(LANGUAGEBIND_CONFIG))
    server.hub(name, "pytorch_model.bin", data)
    server.hub_small(name, "config.json", json.dumps(LANGUAGEBIND_CONFIG).encode())
    remote = load_encoder("languagebind")
    local = load_encoder("languagebind", checkpoint=tmp_path / "x")
    assert remote.card.fingerprint == local.card.fingerprint
    before = len(server.asked)
    again = load_encoder("languagebind")
    np.testing.assert_array_equal(again.encode([CLIP]), local.encode([CLIP]))
    assert len(server.asked) == before


class TestFetching:
    def test_towers(self, server: Server, blob: Hosted):
        assert available_locally("imagebind") is None
        assert server.asked == []
        first = fetch("imagebind")
        asked = len(server.asked)
        assert available_locally("imagebind") == available_locally("imagebind", ID) == first.path
        assert (fetch("imagebind").already, first.already) == (True, False)
        assert "non-commercial" in first.licence
        assert len(server.asked) == asked

    def test_two_unknown_files_are_not_guessed_from_but_no_error_of_a_listing(self, nver_home):
        folder = nver_home / "weights" / "imagebind"
        folder.mkdir(parents=True)
        for name in ("a.safetensors", "b.safetensors"):
            (folder / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match="Pass the file instead of the folder"):
            fetch("imagebind")
        assert available_locally("imagebind") is None

    def test_an_encoder_without_a_published_source_needs_a_checkpoint(self):
        for name in ("speech", "spectral"):
            with pytest.raises(CheckpointError, match=rf"'{name}' has nothing to fetch"):
                fetch(name)
            assert available_locally(name) is None

    def test_an_unknown_name_is_said(self):
        with pytest.raises(UnknownNameError, match="Did you mean 'imagebind'"):
            fetch("imagebnd")

    def test_every_tower_is_known(self):
        for name, target in fetching.TOWERS.items():
            assert fetching.tower_kind(name).encoder == name, target
