"""Downloads that resume: a whole file, or chosen ranges of it, into a part file.

What has come stays in the part file and is not asked for again, in this run or in the next: of
ranges, the part holds the first so many bytes of them, one after the other, so its length is all
there is to remember. A part belongs to one content (`Remote.identity`): where that changes it is
begun anew, and where the server tells no two contents apart nothing is resumed.

A body that ends too early is resumed a few times, in a row without a new byte, then it is an error
and the part is kept. A whole file must have its SHA-256 where that is known; of ranges only lengths
can be checked.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from io import FileIO
from pathlib import Path
from typing import Any

from nver.encoders import http_file
from nver.encoders.checkpoint import sha256_of
from nver.encoders.http_file import DownloadError, Remote
from nver.encoders.hub import one_line
from nver.encoders.network import progress, say
from nver.errors import CheckpointError

BLOCK = 1 << 20

Range = tuple[int, int]
"""First byte, and the byte after the last."""


@contextmanager
def only_one(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`; the others wait. A killed one blocks nobody."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"Another process makes {target}: waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def part_of(target: Path, remote: Remote, ranges: Sequence[Range] = ()) -> Path:
    """Return where the part of a download lies: beside the target, named after its content."""
    key = hashlib.sha256(f"{remote.identity or remote.url} {list(ranges)}".encode()).hexdigest()
    return target.with_name(f".{target.name}.{key[:16]}.part")


def remove_other_parts(target: Path, *kept: Path) -> None:
    """Remove what is left of downloads of other contents; to be called by `only_one`."""
    for part in target.parent.glob(f".{target.name}.*.part"):
        if part not in kept:
            part.unlink(missing_ok=True)


def download(remote: Remote, part: Path) -> None:
    """Download a whole file into `part`, from where it stopped.

    Raises
    ------
    DownloadError
        If it cannot be had whole; what has come is kept.
    CheckpointError
        If its SHA-256 is wrong; then it is removed.
    """
    if not remote.resumable:
        part.unlink(missing_ok=True)
    _complete(remote, part, b"", None if remote.size is None else [(0, remote.size)])
    if remote.sha256 is not None:
        found = sha256_of(part)
        if found != remote.sha256:
            part.unlink()
            raise CheckpointError(
                f"{remote.url} must have SHA-256 {remote.sha256}, what came has {found}: it is "
                "removed. Run it again."
            )


def download_ranges(remote: Remote, ranges: Sequence[Range], part: Path, head: bytes = b"") -> None:
    """Download ranges of a file into `part`, one after the other behind `head`.

    Raises
    ------
    DownloadError
        If they cannot be had; what has come is kept.
    """
    if not remote.resumable:
        part.unlink(missing_ok=True)
    _complete(remote, part, head, ranges)


def merged(ranges: Sequence[Range]) -> list[Range]:
    """Return the same bytes in as few ranges as possible, in order.

    >>> merged([(10, 20), (0, 5), (5, 10), (30, 31)])
    [(0, 20), (30, 31)]
    """
    joined: list[Range] = []
    for first, stop in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((first, stop))
    return joined


def _complete(remote: Remote, part: Path, head: bytes, ranges: Sequence[Range] | None) -> None:
    """Bring `part` to its full length; ask again as long as that brings new bytes."""
    total = None if ranges is None else len(head) + sum(stop - first for first, stop in ranges)
    most, idle = _begin(part, head, total), 0
    with progress(remote.url.rpartition("/")[2], most, total) as bar:
        while total is None or part.stat().st_size < total:
            try:
                _append(remote, part, len(head), ranges, bar)
                if total is None:
                    return
                continue
            except DownloadError as error:
                if not error.passing:
                    raise
                failure = one_line(error)
            except (OSError, HTTPException) as error:
                failure = one_line(error)
            have = part.stat().st_size
            most, idle = (have, 0) if have > most else (most, idle + 1)
            if idle >= http_file.ATTEMPTS:
                raise DownloadError(
                    f"{remote.url} ended after {have} of {total} bytes, {http_file.ATTEMPTS} times "
                    f"({failure}). What has come is kept: run it again to go on."
                )
            time.sleep(http_file.PAUSE * 2 ** max(0, idle - 1))


def _begin(part: Path, head: bytes, total: int | None) -> int:
    """Make the part begin with `head`, and return its length."""
    with suppress(FileNotFoundError):
        have = part.stat().st_size
        with part.open("rb") as file:
            fits = total is not None and len(head) <= have <= total
            if fits and file.read(len(head)) == head:
                return have
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(head)
    return len(head)


def _append(
    remote: Remote, part: Path, head: int, ranges: Sequence[Range] | None, bar: Any
) -> None:
    """Add to the part what one request brings: the rest of the range that it has reached."""
    if ranges is None or not remote.resumable:
        _append_whole(remote, part, head, ranges, bar)
        return
    done = part.stat().st_size - head
    for first, stop in ranges:
        if done < stop - first:
            with part.open("ab", buffering=0) as file, remote.open(first + done, stop) as response:
                _copy(response, file, stop - first - done, bar)
            return
        done -= stop - first


def _append_whole(
    remote: Remote, part: Path, head: int, ranges: Sequence[Range] | None, bar: Any
) -> None:
    """Write everything anew: the server gives no ranges, or tells no two contents apart."""
    bar.reset()
    with part.open("r+b", buffering=0) as file:
        file.truncate(head)
        file.seek(head)
        if remote.ranges and ranges is not None:
            for first, stop in ranges:
                with remote.open(first, stop) as response:
                    _copy(response, file, stop - first, bar)
            return
        with remote.open() as response:
            _copy(response, file, remote.size, bar)


def _copy(response: HTTPResponse, file: FileIO, count: int | None, bar: Any) -> None:
    """Write `count` bytes of an answer, or all of them.

    Raises
    ------
    DownloadError
        If fewer came, or they cannot be written.
    """
    left = count
    while left is None or left > 0:
        block = response.read(BLOCK if left is None else min(BLOCK, left))
        if not block:
            break
        _write(file, block)
        bar.update(len(block))
        left = None if left is None else left - len(block)
    if left:
        raise DownloadError(f"{left} bytes are missing", None, True)


def _write(file: FileIO, block: bytes) -> None:
    """Write all of a block at once: the length of the file is what has come."""
    left = memoryview(block)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise DownloadError(
            f"{file.name} cannot be written ({one_line(error)}). What has come is kept."
        ) from error
