"""Files behind HTTP, asked with the standard library: their facts, and ranges of their bytes.

A file is first asked for its first byte. The answer says whether the server gives ranges (206) or
not (200, whose body is left unread), how large the file is, and by what its content is known: the
hub's SHA-256 (``X-Linked-ETag``) or the server's strong ETag, else Last-Modified. Signed addresses
often refuse HEAD, so none is sent.

- Every request starts at the address that was asked for: a signed address that it is sent on to
  expires.
- Credentials are not sent on to another host, and nothing follows from https to http.
- A range answer must be the range that was asked for, of the same file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from nver.encoders.hub import SHA256, one_line
from nver.encoders.network import require_network
from nver.errors import CheckpointError

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row without a new byte
PAUSE = 0.5  # seconds after the first of them, then twice as long, ...
AGENT = "nver (+https://pypi.org/project/nver)"
COMMIT = re.compile(r"[0-9a-f]{40}")
PASSING = (408, 429, 500, 502, 503, 504)  # may be answered the next time
REFUSED = (401, 403)


class DownloadError(CheckpointError):
    """A file behind HTTP cannot be had.

    Parameters
    ----------
    message : str
        One line.
    status : int or None
        Of the answer, where there was one.
    passing : bool
        Whether asking again may help.
    """

    def __init__(self, message: str, status: int | None = None, passing: bool = False) -> None:
        super().__init__(message)
        self.status, self.passing = status, passing


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, keeps the headers of each hop, and takes no credentials elsewhere."""

    def __init__(self) -> None:
        self.hops: list[Message] = []

    def redirect_request(
        self,
        req: Request,
        fp: Any,  # noqa: ARG002 - the library calls it so
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: Any,
        newurl: str,
    ) -> Request:
        """Return the request for the next hop."""
        self.hops.append(headers)
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
            raise URLError(f"it is redirected to {new.scheme}://{new.netloc}, which is not safe")
        same = (old.scheme, old.netloc) == (new.scheme, new.netloc)
        kept = {key: value for key, value in req.headers.items() if same or key != "Authorization"}
        return Request(newurl, headers=kept)  # noqa: S310 - the scheme is checked above

    http_error_308 = HTTPRedirectHandler.http_error_302  # Python 3.10 does not know it


@dataclass(frozen=True)
class Remote:
    """A file behind HTTP, as its first answer described it.

    Parameters
    ----------
    url : str
        The address that was asked for.
    size : int or None
        In bytes; None where the server does not say it.
    ranges : bool
        Whether the server gives parts of it.
    validator : str or None
        The strong ETag, or Last-Modified, of the server that holds it.
    sha256 : str or None
        Of the file, where the hub says it.
    commit : str or None
        The hub's commit.
    token : str or None
        Sent as the credentials.
    """

    url: str
    size: int | None
    ranges: bool
    validator: str | None = None
    sha256: str | None = None
    commit: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def identity(self) -> str | None:
        """What tells two contents behind the address apart; None where nothing does."""
        known = self.sha256 or self.validator
        return f"{self.url} {self.size} {known}" if known else None

    @property
    def resumable(self) -> bool:
        """Whether the rest of a part can be asked for without mixing two contents."""
        return self.ranges and self.size is not None and self.identity is not None

    @contextmanager
    def open(self, first: int = 0, stop: int | None = None) -> Iterator[HTTPResponse]:
        """Ask for the bytes from `first` to before `stop` (else all); checked, not yet read.

        Raises
        ------
        DownloadError
            If the answer is an error, another range, or of a file that has changed.
        """
        asked = {}
        if first or stop is not None:
            asked["Range"] = f"bytes={first}-{'' if stop is None else stop - 1}"
            if self.validator is not None:
                asked["If-Range"] = self.validator
        with _opened(self.url, self.token, asked) as (response, _):
            self._check(response, first, stop, bool(asked))
            yield response

    def _check(self, response: HTTPResponse, first: int, stop: int | None, ranged: bool) -> None:
        validator = _validator(response.headers)
        whole = response.status == 200 and _length(response) in (None, self.size)
        if validator != self.validator or not (whole or response.status == 206):
            raise DownloadError(
                f"{self.url} has changed while it was downloaded (size {self.size}, version "
                f"{self.validator}; now version {validator}). Run it again."
            )
        if not ranged:
            return
        if response.status == 200:
            raise DownloadError(
                f"{self.url} was asked for a part of it and its server sent all of it, though it "
                "gave parts before. Run it again, or download the file and pass its path."
            )
        stop = self.size if stop is None else stop
        expected = f"bytes {first}-{(stop or 0) - 1}/{self.size}"
        found = response.headers.get("Content-Range", "nothing")
        length = _length(response)
        if found != expected or (length is not None and length != (stop or 0) - first):
            raise DownloadError(
                f"{self.url} was asked for {expected}, its server sent {found} with {length} "
                "bytes. Run it again, or download the file and pass its path."
            )

    def read(self, first: int, stop: int) -> bytes:
        """Return the bytes from `first` to before `stop`, few enough to be asked for at once.

        Raises
        ------
        DownloadError
            As `open`; or if fewer came, several times.
        """
        data, failure = b"", "no bytes"
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                with self.open(first, stop) as response:
                    data = response.read(stop - first)
            except DownloadError as error:
                if not error.passing:
                    raise
                failure = str(error)
            except (OSError, HTTPException) as error:
                failure = one_line(error)
            if len(data) == stop - first:
                return data
        raise DownloadError(
            f"{self.url} gave {len(data)} of {stop - first} bytes, {ATTEMPTS} times ({failure}). "
            "Run it again."
        )


def probe(url: str, token: str | None = None) -> Remote:
    """Return the facts of a file behind HTTP.

    Raises
    ------
    DownloadError
        If it is not there, refused, or the server cannot be reached.
    CheckpointError
        If $HF_HUB_OFFLINE forbids the network.
    """
    require_network(url)
    with _opened(url, token, {"Range": "bytes=0-0"}) as (response, hops):
        headers = response.headers
        place, _, total = headers.get("Content-Range", "").partition("/")
        ranges = response.status == 206 and place == "bytes 0-0"
        size = int(total) if ranges and total.isdecimal() else None
        linked = _first(hops, headers, "X-Linked-Size")
        if size is None and linked is not None and linked.isdecimal():
            size = int(linked)
        if size is None and response.status == 200:
            size = _length(response)
        digest = (_first(hops, headers, "X-Linked-ETag") or "").strip('"')
        commit = _first(hops, headers, "X-Repo-Commit") or ""
        return Remote(
            url,
            size,
            ranges and size is not None,
            _validator(headers),
            digest if SHA256.fullmatch(digest) else None,
            commit if COMMIT.fullmatch(commit) else None,
            token,
        )


def fetch_small(url: str, token: str | None, most: int) -> bytes:
    """Return a small file.

    Raises
    ------
    DownloadError
        If it is not there, refused, cut short, or has more than `most` bytes.
    """
    require_network(url)
    with _opened(url, token, {}) as (response, _):
        try:
            data = response.read(most + 1)
        except (OSError, HTTPException) as error:
            raise DownloadError(f"{url} cannot be read ({one_line(error)}).", None, True) from error
        length = _length(response)
        if len(data) > most or length not in (None, len(data)):
            raise DownloadError(
                f"{url} must have {length or 'some'} bytes, at most {most}; {len(data)} came."
            )
        return data


def _first(hops: list[Message], last: Message, name: str) -> str | None:
    """Return a header of the first answer that has it."""
    for headers in (*hops, last):
        if headers.get(name):
            return str(headers.get(name))
    return None


def _validator(headers: Message) -> str | None:
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _length(response: HTTPResponse) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdecimal() else None


@contextmanager
def _opened(
    url: str, token: str | None, headers: Mapping[str, str]
) -> Iterator[tuple[HTTPResponse, list[Message]]]:
    """Send a request and return the answer with the headers of the hops before it."""
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"An address must begin with http:// or https://, {url} does not.")
    credentials = {"Authorization": f"Bearer {token}"} if token else {}
    redirects = _Redirects()
    request = Request(url, headers={"User-Agent": AGENT, **credentials, **headers})  # noqa: S310
    try:
        response: HTTPResponse = build_opener(redirects).open(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        raise _answered(url, error) from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: no address at all
        reason = error.reason if isinstance(error, URLError) else error
        said = one_line(reason) if isinstance(reason, BaseException) else str(reason)
        raise DownloadError(f"{url} cannot be reached ({said}).", None, True) from error
    with response:
        yield response, redirects.hops


def _answered(url: str, error: HTTPError) -> DownloadError:
    said = f"{error.code} {one_line(ValueError(error.reason or ''))}"
    if error.code in REFUSED:
        message = (
            f"{url} is private, gated or not there ({said}): accept its conditions on its page and "
            "set HF_TOKEN."
        )
    elif error.code in (404, 410):
        message = f"{url} is not there ({said})."
    else:
        message = f"{url} cannot be had: its server answers {said}."
    return DownloadError(message, error.code, error.code in PASSING)
