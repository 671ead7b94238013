"""Finding a model's files: folders, shards, the hub's cache without a network."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.encoders.http_server import COMMIT, Hosted, Server, serving

from nver.encoders.fetching import available_locally, fetch
from nver.encoders.hub import find_model, local_or_cached, one_line, verify
from nver.encoders.network import offline
from nver.errors import CheckpointError, MissingExtraError

ID = "some-lab/burst-net"
WEIGHTS = b"weights" * 3000


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


class TestDownloading:
    @pytest.fixture
    def server(self, tmp_path: Path, nver_home: Path, monkeypatch) -> Iterator[Server]:
        """Host some-lab/burst-net as the hub does; the client's cache is this test's own."""
        constants = pytest.importorskip("huggingface_hub.constants")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with serving() as running:
            monkeypatch.setattr(constants, "ENDPOINT", running.url)
            template = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            running.hub_small(ID, "config.json", b"{}")
            yield running

    def test_it_is_announced_verified_and_asked_for_once(
        self, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch
    ):
        server.hub(ID, "model.safetensors", WEIGHTS)
        server.hub_small(ID, "preprocessor_config.json", b"{}")
        assert local_or_cached(ID) is None
        with caplog.at_level(logging.WARNING, "nver"):
            model = find_model("net", ID, "speech", licence="CC BY-NC 4.0")
        assert (model.revision, model.bytes) == (COMMIT, len(WEIGHTS))
        assert model.weights[0].read_bytes() == WEIGHTS
        (said,) = [entry.getMessage() for entry in caplog.records if "nver" in entry.name]
        assert f"the model {ID}: 0.02 MB, licence CC BY-NC 4.0, from {server.url}" in said
        before = len(server.asked)
        assert find_model("net", ID, "speech") == model
        assert find_model("net", f"{ID}@{COMMIT}", "speech") == model
        assert available_locally("speech", ID) == model.folder
        assert fetch("speech", ID).already
        assert fetch(f"hf:{ID}").already
        assert len(server.asked) == before

    def test_a_preprocessor_that_others_did_not_cache_is_fetched(self, server: Server, tmp_path):
        repository = tmp_path / "hub" / "models--some-lab--burst-net"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        folder = write(repository / "snapshots" / COMMIT, model__safetensors="x")
        server.hub_small(ID, "preprocessor_config.json", b'{"do_normalize": true}')
        assert find_model("net", ID, "speech").folder == folder
        assert (folder / "preprocessor_config.json").read_text() == '{"do_normalize": true}'

    def test_shards_are_announced_together(self, server: Server, caplog):
        index = json.dumps({"weight_map": {"a": "part-1", "b": "part-2"}}).encode()
        server.hub_small(ID, "model.safetensors.index.json", index)
        server.hub(ID, "part-1", WEIGHTS)
        server.hub(ID, "part-2", WEIGHTS + b"x")
        with caplog.at_level(logging.WARNING, "nver"):
            fetched = fetch("speech", ID)
        assert (fetched.bytes, fetched.already) == (2 * len(WEIGHTS) + 1, False)
        assert f"the model {ID}: 0.04 MB, licence see the checkpoint's page" in caplog.text

    def test_the_published_model_of_a_name(self, server: Server, caplog):
        server.hub("facebook/mms-300m", "model.safetensors", WEIGHTS)
        server.hub_small("facebook/mms-300m", "config.json", b"{}")
        assert available_locally("mms") is None
        fetched = fetch("mms")
        assert (fetched.already, available_locally("mms")) == (False, fetched.path)
        assert fetched.licence == "CC BY-NC 4.0 (non-commercial)"
        assert "0.02 MB, licence CC BY-NC 4.0 (non-commercial), from" in caplog.text
        assert fetched.sentence("mms").endswith("(non-commercial)), downloaded.")
        assert fetched.to_dict()["path"] == str(fetched.path)

    def test_a_bin_file_is_taken_where_there_is_nothing_else(self, server: Server):
        server.hub(ID, "pytorch_model.bin", WEIGHTS)
        assert find_model("net", ID, "speech").weights[0].name == "pytorch_model.bin"

    def test_a_wrong_checksum_removes_the_file(self, server: Server):
        blob = server.hub(ID, "model.safetensors", WEIGHTS)
        blob.data = WEIGHTS[:-1] + b"?"
        with pytest.raises(CheckpointError, match=r"must have SHA-256 .* it is removed") as caught:
            find_model("net", ID, "speech")
        assert "\n" not in str(caught.value)
        assert local_or_cached(ID) is None
        blob.data = WEIGHTS
        assert find_model("net", ID, "speech").weights[0].read_bytes() == WEIGHTS

    @pytest.mark.parametrize(
        ("status", "code", "message"),
        [
            (401, "RepoNotFound", "the hub knows no such model, or it is private"),
            (403, "GatedRepo", r"it is gated: accept its conditions .* set HF_TOKEN\."),
            (404, "RevisionNotFound", "the hub knows no such revision"),
            (404, "EntryNotFound", r"it has no config\.json\."),
            (400, "", "the hub answers .*400"),
        ],
    )
    def test_refusals_are_one_line(self, server: Server, status: int, code: str, message: str):
        for revision in ("main", COMMIT):
            server.files[f"/{ID}/resolve/{revision}/config.json"] = Hosted(
                status=status, headers={"X-Error-Code": code}
            )
        with pytest.raises(
            CheckpointError, match=rf"found no model '{ID}' on the hub, .*: .*{message}"
        ) as caught:
            find_model("net", ID, "speech")
        assert "\n" not in str(caught.value)

    def test_a_model_without_weights(self, server: Server):
        with pytest.raises(CheckpointError, match=rf"The weights of '{ID}' could not be had: none"):
            find_model("net", ID, "speech")

    def test_an_unreachable_hub(self, server: Server, monkeypatch):
        from huggingface_hub import constants

        slept = []  # the client's own retries would wait
        monkeypatch.setattr(time, "sleep", slept.append)
        template = "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        with pytest.raises(CheckpointError, match=r"on the hub, .* cannot be reached") as caught:
            find_model("net", ID, "speech")
        assert "\n" not in str(caught.value)
        assert slept == []


def test_only_what_is_a_sha256_is_verified(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"x")
    for etag in (None, "short", "0" * 40, hashlib.sha256(b"x").hexdigest()):
        verify(path, etag)
    assert path.exists()


def test_a_message_of_many_lines_becomes_one():
    assert one_line(OSError("a\nb")) == "a b"
