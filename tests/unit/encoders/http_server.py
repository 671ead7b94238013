"""A small HTTP server for tests: ranges, truncation, redirects, the hub's headers; counts bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

RANGE = re.compile(r"bytes=(\d+)-(\d*)")
BLOCK = 1 << 16
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hosted:
    """A file, and how its server misbehaves.

    ``cut``: how many bytes of a body are sent before the connection closes, one number per answer
    with more bytes than that, used up from the front. ``wrong_range``: added to the range's begin
    in Content-Range. ``redirect``: a Location instead of the file. ``before``: called before every
    answer.
    """

    data: bytes = b""
    etag: str | None = '"one"'
    ranges: bool = True
    cut: list[int] = field(default_factory=list)
    status: int | None = None
    redirect: str | None = None
    before: Callable[[], object] = bool
    wrong_range: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    code: int = 302


NOT_THERE = Hosted(status=404, headers={"X-Error-Code": "EntryNotFound"})


@dataclass
class Asked:
    method: str
    path: str
    range: str | None
    authorization: str | None
    if_range: str | None
    sent: int = 0


class Server:
    """What is hosted, what was asked, and where."""

    def __init__(self) -> None:
        self.files: dict[str, Hosted] = {}
        self.asked: list[Asked] = []
        self.url = ""

    @property
    def sent(self) -> int:
        """Bytes of all bodies."""
        return sum(asked.sent for asked in self.asked)

    def hub(self, repository: str, file: str, data: bytes, **changes: object) -> Hosted:
        """Host a large file as the hub does: its facts on a redirect to another path."""
        blob = f"/blobs/{hashlib.sha256(data).hexdigest()}"
        self.files[blob] = Hosted(data, **changes)  # type: ignore[arg-type]
        facts = {
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }
        for revision in ("main", COMMIT):
            place = f"/{repository}/resolve/{revision}/{file}"
            # Another name of this machine: as the hub, it sends on to another host.
            away = self.url.replace("127.0.0.1", "localhost") + blob
            self.files[place] = Hosted(redirect=away, headers=facts)
        return self.files[blob]

    def hub_small(self, repository: str, file: str, data: bytes) -> None:
        """Host a small file as the hub does."""
        for revision in ("main", COMMIT):
            self.files[f"/{repository}/resolve/{revision}/{file}"] = Hosted(
                data,
                f'"{hashlib.sha256(data).hexdigest()[:40]}"',
                headers={"X-Repo-Commit": COMMIT},
            )


class Handler(BaseHTTPRequestHandler):
    """Answers from `Server.files`."""

    hosting: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        facts = (self.headers[name] for name in ("Range", "Authorization", "If-Range"))
        asked = Asked(self.command, path, *facts)
        self.hosting.asked.append(asked)
        hosted = self.hosting.files.get(path, NOT_THERE)
        hosted.before()
        if hosted.redirect is not None:
            facts = {"Location": hosted.redirect, "Content-Length": "0"}
            self.reply(hosted.code, facts | hosted.headers)
        elif hosted.status is not None:
            self.reply(hosted.status, {"Content-Length": "0"} | hosted.headers)
        else:
            self.send_file(hosted, asked, body)

    def send_file(self, hosted: Hosted, asked: Asked, body: bool) -> None:
        first, stop, status = 0, len(hosted.data), 200
        facts = {"ETag": hosted.etag} if hosted.etag else {}
        wanted = RANGE.fullmatch(asked.range or "")
        current = self.headers["If-Range"] in (None, hosted.etag)
        if wanted and hosted.ranges and current:
            first, status = int(wanted[1]), 206
            stop = min(int(wanted[2]) + 1 if wanted[2] else stop, stop)
            if first >= len(hosted.data):
                self.reply(416, {"Content-Range": f"bytes */{len(hosted.data)}"})
                return
            said = f"{first + hosted.wrong_range}-{stop - 1}/{len(hosted.data)}"
            facts["Content-Range"] = f"bytes {said}"
        data = hosted.data[first:stop] if body else b""
        if hosted.cut and len(data) > hosted.cut[0]:
            data = data[: hosted.cut.pop(0)]
        asked.sent = len(data)  # counted before the client knows that it is answered
        self.reply(status, {"Content-Length": str(stop - first)} | facts | hosted.headers)
        self.send_body(data)

    def send_body(self, data: bytes) -> None:
        with suppress(OSError):  # the client had enough
            for begin in range(0, len(data), BLOCK):
                self.wfile.write(data[begin : begin + BLOCK])

    def reply(self, status: int, facts: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in facts.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving() -> Iterator[Server]:
    """Serve on a free port of this machine."""
    server = Server()
    handler = type("Bound", (Handler,), {"hosting": server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
