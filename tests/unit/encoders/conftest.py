"""A server of this machine, for what is downloaded."""

from __future__ import annotations

from collections.abc import Iterator

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
