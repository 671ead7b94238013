"""Chosen tensors of a safetensors file behind HTTP: only their bytes are downloaded.

A safetensors file begins with the length of its header (8 bytes), then the header (JSON: type,
shape and place of each tensor), then the tensors' bytes. The header is read and checked first, so
a foreign file is refused before any tensor is downloaded. What is downloaded is a safetensors file
again, of the chosen tensors alone, in the order of the source.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nver.encoders.download import Range, merged
from nver.encoders.http_file import Remote
from nver.errors import CheckpointError

LONGEST_HEADER = 100_000_000  # bytes, as in the format's own library
BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}


@dataclass(frozen=True)
class Place:
    """Type, shape and bytes of one tensor; `first` and `stop` count from the file's begin."""

    dtype: str
    shape: tuple[int, ...]
    first: int
    stop: int


def read_places(remote: Remote) -> dict[str, Place]:
    """Return where each tensor of the file lies.

    Raises
    ------
    CheckpointError
        If it is no safetensors file, truncated, or has a header that contradicts itself.
    """
    size = remote.size or 0
    length = int.from_bytes(remote.read(0, 8), "little") if size > 8 else 0
    if not 2 <= length <= min(LONGEST_HEADER, size - 8):
        raise _strange(remote, f"a header of {length} bytes in {size}")
    try:
        header = json.loads(remote.read(8, 8 + length))
        header.pop("__metadata__", None)
        places = {name: _place(facts, 8 + length) for name, facts in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _strange(remote, f"a header that cannot be read: {error!r:.80}") from error
    end = 8 + length
    for name, place in sorted(places.items(), key=lambda item: (item[1].first, item[1].stop)):
        if place.first != end or place.stop < place.first:
            raise _strange(remote, f"{name} at byte {place.first} instead of {end}")
        end = place.stop
    if end != size:
        raise _strange(remote, f"{size} bytes instead of {end}")
    return places


def _place(facts: Any, start: int) -> Place:
    first, stop = (int(offset) for offset in facts["data_offsets"])
    place = Place(str(facts["dtype"]), tuple(map(int, facts["shape"])), start + first, start + stop)
    if min((first, *place.shape)) < 0:
        raise ValueError(f"a negative number in {facts}")
    if place.dtype in BYTES and stop - first != math.prod(place.shape) * BYTES[place.dtype]:
        raise ValueError(f"other sizes than {facts} says")
    return place


def _strange(remote: Remote, found: str) -> CheckpointError:
    return CheckpointError(
        f"{remote.url} is truncated or no safetensors file ({found}). Pass another address."
    )


def selection(places: dict[str, Place], names: Iterable[str]) -> tuple[bytes, list[Range]]:
    """Return the header of a file of the named tensors alone, and the ranges of their bytes."""
    header, end = {}, 0
    chosen = sorted((places[name].first, places[name].stop, name) for name in names)
    for first, stop, name in chosen:
        place = places[name]
        offsets = [end, end + stop - first]
        header[name] = {"dtype": place.dtype, "shape": place.shape, "data_offsets": offsets}
        end += stop - first
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    ranges = merged([(first, stop) for first, stop, _ in chosen if stop > first])
    return len(text).to_bytes(8, "little") + text, ranges
