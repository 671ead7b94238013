"""Towers from addresses: their ranges, their records, and files that are something else."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save
from tests.contracts.checkpoints import save_torch
from tests.unit.encoders.hosted_tower import AUDIO, BYTES, CONFIG, TENSORS, left, parts
from tests.unit.encoders.http_server import Hosted, Server

from nver.audio import Waveform
from nver.encoders import http_file, load_encoder, torch_ranges
from nver.encoders.imagebind import TOWER
from nver.encoders.remote import fetch_tower
from nver.encoders.safetensors_ranges import read_places
from nver.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("nver_home")
CLIP = Waveform(0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32), 16_000)


@pytest.fixture(scope="module")
def torch_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_torch(tmp_path_factory.mktemp("torch") / "x.pth", TENSORS).read_bytes()


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"modality_heads.audio.0.bias": None},
                r"1 missing \(modality_heads\.audio\.0\.bias\)",
            ),
            ({"modality_heads.audio.9.x": np.zeros(3)}, r"1 unexpected \(modality_heads\.audio\.9"),
            ({"modality_heads.audio.0.bias": np.zeros(3)}, r"0\.bias \[3\] instead of \[32\]"),
        ],
    )
    @pytest.mark.parametrize("kind", ["safetensors", "pth"])
    def test_are_refused_before_a_tensor_is_sent(
        self, server: Server, tmp_path: Path, change, message: str, kind: str, monkeypatch
    ):
        tensors = {**TENSORS, **{key: value for key, value in change.items() if value is not None}}
        tensors = {key: value for key, value in tensors.items() if change.get(key, 0) is not None}
        monkeypatch.setattr(torch_ranges, "TAIL", 20_000)
        data = (
            save(tensors)
            if kind == "safetensors"
            else save_torch(tmp_path / "x.pth", tensors).read_bytes()
        )
        server.files[f"/x.{kind}"] = Hosted(data)
        server.files["/config.json"] = Hosted(CONFIG)
        with pytest.raises(CheckpointError, match=message) as caught:
            fetch_tower(TOWER, f"{server.url}/x.{kind}")
        assert "\n" not in str(caught.value)
        assert f"/x.{kind} is not the expected checkpoint" in str(caught.value)
        assert server.sent < 45_000
        assert server.sent < BYTES / 2
        assert left() == ([], [])

    @pytest.mark.parametrize("without_ranges", [True, False])
    def test_a_page_instead_of_a_file(self, server: Server, without_ranges: bool):
        for kind in ("safetensors", "pth"):
            server.files[f"/x.{kind}"] = Hosted(b"<html>" * 5000, ranges=not without_ranges)
            with pytest.raises(
                CheckpointError,
                match=r"is (truncated or )?no (safetensors file|PyTorch checkpoint)",
            ) as caught:
                fetch_tower(TOWER, f"{server.url}/x.{kind}")
            assert "\n" not in str(caught.value)
        assert left() == ([], [])

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"[]", "header that cannot be read"),
            (b'{"', "header that cannot be read"),
            (b'{"a": 1}', "header that cannot be read"),
            (
                b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
                "header that cannot be read.*other sizes",
            ),
            (
                b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
                "header that cannot be read.*negative",
            ),
            (
                b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
                r"a at byte 73 instead of 69",
            ),
            (
                b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
                r"bytes instead of",
            ),
        ],
    )
    def test_headers_that_contradict_themselves(self, server: Server, header, message: str):
        data = len(header).to_bytes(8, "little") + header + bytes(8)
        server.files["/x.safetensors"] = Hosted(data)
        with pytest.raises(CheckpointError, match=message) as caught:
            read_places(http_file.probe(f"{server.url}/x.safetensors"))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1])
    def test_absurd_header_lengths(self, server: Server, length: int):
        server.files["/x.safetensors"] = Hosted(length.to_bytes(8, "little") + bytes(100))
        with pytest.raises(CheckpointError, match=rf"a header of {length} bytes in 108"):
            read_places(http_file.probe(f"{server.url}/x.safetensors"))
        assert server.sent == 9


class TestAddresses:
    def test_a_torch_file_by_its_records(
        self, server: Server, torch_file: bytes, monkeypatch, caplog: pytest.LogCaptureFixture
    ):
        monkeypatch.setattr(torch_ranges, "TAIL", 20_000)
        server.files["/x.pth"] = Hosted(torch_file)
        server.files["/config.json"] = Hosted(CONFIG)
        fetched = fetch_tower(TOWER, f"{server.url}/x.pth")
        assert BYTES < server.sent < BYTES + 45_000 < len(torch_file) / 2
        with safe_open(fetched.path, framework="np") as file:
            assert set(file.keys()) == set(AUDIO)
            for name, value in AUDIO.items():
                np.testing.assert_array_equal(file.get_tensor(name), value)
        assert parts(fetched.path.parent) == []
        assert "MB of 0.5" in caplog.text

    def test_a_damaged_record_is_noticed(self, server: Server, torch_file: bytes, monkeypatch):
        monkeypatch.setattr(torch_ranges, "TAIL", 20_000)
        damaged = bytearray(torch_file)
        value = AUDIO["modality_heads.audio.0.weight"].tobytes()
        damaged[torch_file.index(value) + 5] ^= 1
        server.files["/x.pth"] = Hosted(bytes(damaged))
        server.files["/config.json"] = Hosted(CONFIG)
        with pytest.raises(CheckpointError, match=r"/x\.pth came damaged \(checksum of .*/data/"):
            fetch_tower(TOWER, f"{server.url}/x.pth")
        assert left() == ([], [])

    def test_an_interrupted_torch_file_goes_on(
        self, server: Server, torch_file: bytes, monkeypatch
    ):
        monkeypatch.setattr(torch_ranges, "TAIL", 20_000)
        server.files["/config.json"] = Hosted(CONFIG)
        hosted = server.files["/x.pth"] = Hosted(torch_file)
        url = f"{server.url}/x.pth"
        hosted.cut = [50_000] + [0] * 50
        with pytest.raises(CheckpointError, match="run it again to go on"):
            fetch_tower(TOWER, url)
        before = server.sent
        hosted.cut = []
        fetch_tower(TOWER, url)
        assert server.sent - before < BYTES + 25_000 - 50_000

    @pytest.mark.parametrize("seed", range(16))
    def test_any_torch_file_gives_its_own_numbers(
        self, server: Server, tmp_path: Path, seed: int, monkeypatch
    ):
        rng = np.random.default_rng(seed)
        tail = int(rng.choice([4_000, 9_000, 40_000]))
        monkeypatch.setattr(torch_ranges, "TAIL", tail)
        count = int(rng.integers(1, 24))
        state = {
            f"{'ear' if rng.random() < 0.5 else 'eye'}.{index}": torch.from_numpy(
                rng.standard_normal(int(rng.choice([0, 1, 2, 15, 16, 17, 300, 2000])))
            ).to(torch.float16 if rng.random() < 0.3 else torch.float32)
            for index in rng.permutation(count)
        }
        if seed % 3 == 0:  # two tensors in one storage
            state["ear.shared"] = next(iter(state.values()))[:1]
        torch.save(state, tmp_path / "x.pth")
        server.files["/x.pth"] = Hosted((tmp_path / "x.pth").read_bytes())
        found = torch_ranges.fetch_tensors(
            http_file.probe(f"{server.url}/x.pth"),
            tmp_path / "kept",
            lambda name: name.startswith("ear"),
            lambda tensors, size: None,
        )
        assert found is not None
        _, tensors = found
        assert set(tensors) == {name for name in state if name.startswith("ear")}
        for name, tensor in tensors.items():
            assert torch.equal(tensor, state[name].float()), name

    @pytest.mark.parametrize("strange", ["a record that no tensor has", "nested"])
    def test_what_is_laid_out_otherwise_is_not_guessed_at(
        self, server: Server, tmp_path: Path, strange: str, monkeypatch
    ):
        monkeypatch.setattr(torch_ranges, "TAIL", 2000)
        state = {f"ear.{index}": torch.full((500,), float(index)) for index in range(9)}
        torch.save({"model": state} if strange == "nested" else state, tmp_path / "x.pth")
        if strange == "a record that no tensor has":
            with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive:
                archive.writestr("x/data/99", b"1234")
        server.files["/x.pth"] = Hosted((tmp_path / "x.pth").read_bytes())
        remote = http_file.probe(f"{server.url}/x.pth")
        found = torch_ranges.fetch_tensors(
            remote, tmp_path / "kept", lambda name: name.startswith("ear"), print
        )
        assert found is None

    @pytest.mark.parametrize("old", [True, False])
    def test_torch_files_without_a_usable_list_come_whole(
        self, server: Server, tmp_path: Path, old: bool, caplog: pytest.LogCaptureFixture
    ):
        state = {name: torch.from_numpy(value.copy()) for name, value in TENSORS.items()}
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(state, tmp_path / "x.bin", _use_new_zipfile_serialization=not old)
        finally:
            torch.serialization.set_crc32_options(True)
        data = (tmp_path / "x.bin").read_bytes()
        server.files["/x.bin"] = Hosted(data)
        server.files["/config.json"] = Hosted(CONFIG)
        fetched = fetch_tower(TOWER, f"{server.url}/x.bin")
        assert server.sent > len(data)
        with safe_open(fetched.path, framework="np") as file:
            assert set(file.keys()) == set(AUDIO)
        assert "(all of the file)" in caplog.text
        assert parts(fetched.path.parent) == []

    @pytest.mark.parametrize("kind", ["safetensors", "pth"])
    def test_a_server_without_ranges_is_said_to_send_everything(
        self, server: Server, torch_file: bytes, kind: str, caplog: pytest.LogCaptureFixture
    ):
        data = save(TENSORS) if kind == "safetensors" else torch_file
        server.files[f"/x.{kind}"] = Hosted(data, ranges=False)
        server.files["/config.json"] = Hosted(CONFIG)
        fetched = fetch_tower(TOWER, f"{server.url}/x.{kind}")
        assert "(its server gives no parts)" in caplog.text
        assert fetched.bytes < len(data) / 2
        assert parts(fetched.path.parent) == []

    def test_half_precision_is_kept_as_float32(self, server: Server):
        halves = {name: value.astype(np.float16) for name, value in TENSORS.items()}
        server.files["/x.safetensors"] = Hosted(save(halves))
        server.files["/config.json"] = Hosted(CONFIG)
        encoder = load_encoder("imagebind", checkpoint=f"{server.url}/x.safetensors")
        assert np.isfinite(encoder.encode([CLIP])).all()

    @pytest.mark.parametrize("page", [b"<html>", b"[]", None])
    def test_beside_an_address_there_may_be_no_configuration(self, server: Server, page):
        server.files["/x.safetensors"] = Hosted(save(TENSORS))
        if page is not None:
            server.files["/config.json"] = Hosted(page)
        encoder = load_encoder("imagebind", checkpoint=f"{server.url}/x.safetensors", heads=4)
        assert encoder.card.facts["heads"] == "4"

    def test_another_kind_of_file_is_refused(self, server: Server):
        with pytest.raises(
            CheckpointError, match=r"must end in one of \.safetensors, .*x\.zip does"
        ):
            fetch_tower(TOWER, f"{server.url}/x.zip")
        assert server.asked == []
