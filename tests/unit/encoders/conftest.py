"""A server of this machine, for what is downloaded; tiny speech networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.encoders.http_server import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a running server that is the hub of audio towers; its clients never pause."""
    from nver.encoders import http_file

    monkeypatch.setattr(http_file, "PAUSE", 0.0)
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a kind of speech network to its checkpoint's folder, written once."""
    from tests.contracts.checkpoints import write_speech

    root = tmp_path_factory.mktemp("speech")

    def folder(kind: str) -> Path:
        path = root / kind
        return path if path.is_dir() else write_speech(path, kind)

    return folder


@pytest.fixture
def group(folders: Callable[[str], Path], tmp_path: Path) -> Path:
    """Return a copy of the tiny wav2vec 2.0 with group norm, which the test may spoil."""
    source, copy = folders("wav2vec2-group"), tmp_path / "tiny"
    copy.mkdir()
    for path in source.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy
