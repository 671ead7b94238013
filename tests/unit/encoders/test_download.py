"""Files over HTTP: facts, resuming, truncation, checksums, redirects, two processes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.unit.encoders.http_server import COMMIT, Hosted, Server, serving

from nver.encoders import download as downloading
from nver.encoders import http_file
from nver.encoders.download import (
    download,
    download_ranges,
    merged,
    only_one,
    part_of,
    remove_other_parts,
)
from nver.encoders.http_file import DownloadError, fetch_small, probe
from nver.errors import CheckpointError

DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def hosted(server: Server) -> Hosted:
    server.files["/big.bin"] = Hosted(DATA)
    return server.files["/big.bin"]


def take(server: Server, part: Path, path: str = "/big.bin") -> bytes:
    download(probe(server.url + path), part)
    return part.read_bytes()


class TestFacts:
    def test_of_a_plain_server(self, server: Server, hosted: Hosted):
        remote = probe(f"{server.url}/big.bin")
        assert (remote.size, remote.ranges, remote.validator) == (len(DATA), True, '"one"')
        assert (remote.sha256, remote.commit) == (None, None)
        assert remote.resumable
        assert server.sent == 1

    def test_of_a_server_without_ranges(self, server: Server, hosted: Hosted):
        hosted.ranges = False
        remote = probe(f"{server.url}/big.bin")
        assert (remote.size, remote.ranges, remote.resumable) == (len(DATA), False, False)

    def test_of_the_hub_stand_on_its_redirect(self, server: Server):
        server.hub("lab/net", "model.safetensors", DATA)
        remote = probe(f"{server.url}/lab/net/resolve/main/model.safetensors")
        assert (remote.size, remote.sha256, remote.commit) == (len(DATA), SHA256, COMMIT)

    def test_a_weak_etag_is_none(self, server: Server, hosted: Hosted):
        hosted.etag = 'W/"one"'
        remote = probe(f"{server.url}/big.bin")
        assert (remote.validator, remote.identity, remote.resumable) == (None, None, False)
        hosted.headers["Last-Modified"] = "Wed, 21 Oct 2015 07:28:00 GMT"
        assert probe(f"{server.url}/big.bin").resumable

    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (404, r"/big\.bin is not there \(404 Not Found\)\."),
            (401, r"is private, gated or not there \(401 .*set HF_TOKEN\."),
            (403, r"is private, gated or not there \(403 .*set HF_TOKEN\."),
            (503, r"cannot be had: its server answers 503"),
            (416, r"cannot be had: its server answers 416"),
        ],
    )
    def test_refusals(self, server: Server, hosted: Hosted, status: int, message: str):
        hosted.status = status
        with pytest.raises(DownloadError, match=message) as caught:
            probe(f"{server.url}/big.bin")
        assert caught.value.status == status
        assert "\n" not in str(caught.value)

    def test_an_unreachable_server(self, server: Server):
        with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1/x cannot be reached \(.*refused"):
            probe("http://127.0.0.1:1/x")

    def test_a_slow_server(self, server: Server, hosted: Hosted, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(http_file, "TIMEOUT", 0.1)
        answer = threading.Event()
        hosted.before = answer.wait
        try:
            with pytest.raises(DownloadError, match=r"cannot be reached \(timed out\)"):
                probe(f"{server.url}/big.bin")
        finally:
            answer.set()

    @pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://host/x", "x"])
    def test_other_kinds_of_address(self, server: Server, url: str):
        with pytest.raises(DownloadError, match="must begin with http:// or https://"):
            probe(url)

    def test_offline(self, server: Server, hosted: Hosted, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for ask in (probe, lambda url: fetch_small(url, None, 10)):
            with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids the network"):
                ask(f"{server.url}/big.bin")
        assert server.asked == []


class TestRedirects:
    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_are_followed_with_the_range(self, server: Server, hosted: Hosted, code: int):
        server.files["/old.bin"] = Hosted(redirect="/big.bin", code=code)
        assert probe(f"{server.url}/old.bin").read(5, 25) == DATA[5:25]

    def test_credentials_stay_with_their_host(self, server: Server, hosted: Hosted):
        with serving() as other:
            other.files["/big.bin"] = hosted
            server.files["/away"] = Hosted(redirect=f"{other.url}/big.bin")
            server.files["/here"] = Hosted(redirect="/big.bin")
            probe(f"{server.url}/away", "secret")
            probe(f"{server.url}/here", "secret")
            assert [asked.authorization for asked in server.asked] == ["Bearer secret"] * 3
            assert [asked.authorization for asked in other.asked] == [None]

    def test_credentials_are_not_shown(self, server: Server, hosted: Hosted):
        assert "secret" not in repr(probe(f"{server.url}/big.bin", "secret"))

    def test_to_another_kind_of_address_are_refused(self, server: Server):
        server.files["/x"] = Hosted(redirect="ftp://host/x")
        with pytest.raises(DownloadError, match=r"/x cannot be (reached|had)"):
            probe(f"{server.url}/x")

    def test_from_https_to_http_are_refused(self):
        request = http_file.Request("https://host/x", headers={"Authorization": "secret"})
        redirects = http_file._Redirects()
        with pytest.raises(http_file.URLError, match="redirected to http://host, which is not"):
            redirects.redirect_request(request, None, 302, "", {}, "http://host/y")
        safe = redirects.redirect_request(request, None, 302, "", {}, "https://host/y")
        assert safe.headers == {"Authorization": "secret"}

    def test_in_circles_are_an_error(self, server: Server):
        server.files["/x"] = Hosted(redirect="/x")
        with pytest.raises(DownloadError, match="cannot be had: its server answers 302"):
            probe(f"{server.url}/x")


class TestWholeFiles:
    def test_come_whole(self, server: Server, hosted: Hosted, tmp_path: Path):
        assert take(server, tmp_path / "part") == DATA
        assert server.sent == len(DATA) + 1

    @pytest.mark.parametrize("ranges", [True, False])
    def test_what_broke_off_is_asked_for_again(
        self, server: Server, hosted: Hosted, tmp_path: Path, ranges: bool
    ):
        hosted.ranges = ranges
        remote = probe(f"{server.url}/big.bin")
        hosted.cut = [100_000, 50_000]
        download(remote, tmp_path / "part")
        assert (tmp_path / "part").read_bytes() == DATA
        # Without ranges it begins at zero each time.
        sent = [asked.sent for asked in server.asked[1:]]
        assert sent == [100_000, 50_000, 150_000 if ranges else 300_000]

    def test_a_part_is_kept_and_the_next_run_goes_on(
        self, server: Server, hosted: Hosted, tmp_path: Path
    ):
        remote = probe(f"{server.url}/big.bin")
        hosted.cut = [120_000] + [0] * http_file.ATTEMPTS
        with pytest.raises(
            DownloadError, match=r"ended after 120000 of 300000 bytes, 5 times .*run it again to go"
        ) as caught:
            download(remote, tmp_path / "part")
        assert "\n" not in str(caught.value)
        assert (tmp_path / "part").stat().st_size == 120_000
        hosted.cut, before = [], server.sent
        download(remote, tmp_path / "part")
        assert (tmp_path / "part").read_bytes() == DATA
        assert server.sent - before == len(DATA) - 120_000

    def test_attempts_are_counted_only_without_progress(
        self, server: Server, hosted: Hosted, tmp_path: Path
    ):
        remote = probe(f"{server.url}/big.bin")
        hosted.cut = [20_000] * 14
        download(remote, tmp_path / "part")
        assert (tmp_path / "part").read_bytes() == DATA

    def test_a_server_without_ranges_that_never_ends_is_given_up(
        self, server: Server, hosted: Hosted, tmp_path: Path
    ):
        hosted.ranges, hosted.cut = False, [1000] * 50
        with pytest.raises(DownloadError, match=r"ended after 1000 of 300000 bytes, 5 times"):
            take(server, tmp_path / "part")

    def test_a_complete_part_is_not_asked_for(self, server: Server, hosted: Hosted, tmp_path: Path):
        take(server, tmp_path / "part")
        before = server.sent
        assert take(server, tmp_path / "part") == DATA
        assert server.sent - before == 1

    def test_without_anything_that_names_the_content_nothing_is_resumed(
        self, server: Server, hosted: Hosted, tmp_path: Path
    ):
        hosted.etag = None
        (tmp_path / "part").write_bytes(b"x" * 1000)  # of another content, perhaps
        assert take(server, tmp_path / "part") == DATA

    def test_a_wrong_checksum_removes_the_file(self, server: Server, tmp_path: Path):
        blob = server.hub("lab/net", "x.bin", DATA)
        blob.data = DATA[:-1] + b"?"
        with pytest.raises(
            CheckpointError, match=rf"must have SHA-256 {SHA256}, what came has .* it is removed"
        ) as caught:
            take(server, tmp_path / "part", "/lab/net/resolve/main/x.bin")
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_changes_meanwhile_is_refused(
        self, server: Server, hosted: Hosted, tmp_path: Path
    ):
        remote = probe(f"{server.url}/big.bin")
        hosted.etag = '"two"'
        with pytest.raises(DownloadError, match=r'has changed while .*"one"; now version "two"\)'):
            download(remote, tmp_path / "part")

    def test_a_full_disk_is_said(self, server: Server, hosted: Hosted):
        if not Path("/dev/full").exists():
            pytest.skip("needs /dev/full")
        with pytest.raises(DownloadError, match=r"/dev/full cannot be written \(.*No space"):
            download_ranges(probe(f"{server.url}/big.bin"), [(0, 1000)], Path("/dev/full"))


class TestRanges:
    SPANS = ((10, 60_000), (100_000, 180_000), (299_000, 300_000))
    EXPECTED = b"head" + b"".join(DATA[first:stop] for first, stop in SPANS)

    def take(self, server: Server, part: Path) -> bytes:
        download_ranges(probe(f"{server.url}/big.bin"), self.SPANS, part, b"head")
        return part.read_bytes()

    def test_only_they_are_sent(self, server: Server, hosted: Hosted, tmp_path: Path):
        assert self.take(server, tmp_path / "part") == self.EXPECTED
        assert server.sent == 1 + len(self.EXPECTED) - 4

    @pytest.mark.parametrize("cut", [1, 59_990, 60_000, 100_000, 140_000])
    def test_they_resume_where_they_broke_off(
        self, server: Server, hosted: Hosted, tmp_path: Path, cut: int
    ):
        (tmp_path / "part").write_bytes(self.EXPECTED[: 4 + cut])
        assert self.take(server, tmp_path / "part") == self.EXPECTED
        assert server.sent == 1 + len(self.EXPECTED) - 4 - cut

    def test_truncated_answers_are_continued(self, server: Server, hosted: Hosted, tmp_path: Path):
        hosted.cut = [1, 30_000, 5_000, 999]
        assert self.take(server, tmp_path / "part") == self.EXPECTED

    def test_another_head_begins_anew(self, server: Server, hosted: Hosted, tmp_path: Path):
        (tmp_path / "part").write_bytes(b"tail" + self.EXPECTED[4:90_000])
        assert self.take(server, tmp_path / "part") == self.EXPECTED

    def test_without_an_etag_they_begin_anew(self, server: Server, hosted: Hosted, tmp_path: Path):
        hosted.etag = None
        (tmp_path / "part").write_bytes(b"head" + bytes(5000))
        assert self.take(server, tmp_path / "part") == self.EXPECTED

    def test_another_range_than_asked_is_refused(self, server: Server, hosted: Hosted):
        remote = probe(f"{server.url}/big.bin")
        hosted.wrong_range = 1
        with pytest.raises(
            DownloadError, match=r"asked for bytes 10-19/300000, its server sent bytes 11-19/300000"
        ):
            remote.read(10, 20)

    def test_the_whole_file_instead_of_a_range_is_refused(self, server: Server, hosted: Hosted):
        remote = probe(f"{server.url}/big.bin")
        hosted.ranges = False
        with pytest.raises(DownloadError, match="asked for a part of it and its server sent all"):
            remote.read(10, 20)
        assert server.asked[-1].range == "bytes=10-19"

    def test_a_changed_file_is_refused(self, server: Server, hosted: Hosted):
        remote = probe(f"{server.url}/big.bin")
        hosted.etag = '"two"'
        with pytest.raises(DownloadError, match="has changed while it was downloaded"):
            remote.read(10, 20)
        assert server.asked[-1].if_range == '"one"'

    def test_small_reads_are_tried_again(self, server: Server, hosted: Hosted):
        remote = probe(f"{server.url}/big.bin")
        hosted.cut = [3, 0]
        assert remote.read(10, 20) == DATA[10:20]
        hosted.cut = [3] * 5
        with pytest.raises(DownloadError, match=r"gave 3 of 10 bytes, 5 times"):
            remote.read(10, 20)

    def test_they_are_merged(self):
        assert merged([]) == []
        assert merged([(0, 3), (2, 5), (6, 7)]) == [(0, 5), (6, 7)]


def test_small_files(server: Server, hosted: Hosted):
    assert fetch_small(f"{server.url}/big.bin", None, 300_000) == DATA
    with pytest.raises(DownloadError, match=r"at most 299999; 300000 came"):
        fetch_small(f"{server.url}/big.bin", None, 299_999)
    hosted.cut = [10]
    with pytest.raises(DownloadError, match=r"must have 300000 bytes"):
        fetch_small(f"{server.url}/big.bin", None, 300_000)


def test_parts_are_named_after_the_content(server: Server, hosted: Hosted, tmp_path: Path):
    target = tmp_path / "x.bin"
    first = part_of(target, probe(f"{server.url}/big.bin"))
    assert part_of(target, probe(f"{server.url}/big.bin")) == first
    hosted.etag = '"two"'
    second = part_of(target, probe(f"{server.url}/big.bin"))
    ranges = part_of(target, probe(f"{server.url}/big.bin"), [(0, 5)])
    assert len({first, second, ranges}) == 3
    for part in (first, second, ranges):
        part.write_bytes(b"")
    remove_other_parts(target, second)
    assert list(tmp_path.iterdir()) == [second]


class TestOneAtATime:
    def test_the_second_waits_and_says_so(self, tmp_path: Path, monkeypatch):
        target, order, said = tmp_path / "folder" / "x", [], []
        inside, go = threading.Event(), threading.Event()

        def first() -> None:
            with only_one(target):
                inside.set()
                go.wait(60)
                order.append("first")

        thread = threading.Thread(target=first)
        thread.start()
        assert inside.wait(60)
        # The first goes on when the second has said that it waits.
        monkeypatch.setattr(downloading, "say", lambda line: said.append(line) or go.set())
        with only_one(target):
            order.append("second")
        thread.join()
        assert order == ["first", "second"]
        assert said == [f"Another process makes {target}: waiting for it."]

    def test_a_killed_process_blocks_nobody(self, tmp_path: Path):
        target = tmp_path / "x"
        code = (
            "import os, signal; from pathlib import Path; "
            "from nver.encoders.download import only_one; "
            f"only_one(Path({str(target)!r})).__enter__(); os.kill(os.getpid(), 9)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
        with only_one(target):
            pass
