"""The embedding store: one clip is encoded once in its life.

An entry's key is the digest of the decoded clip; its table is named after the encoder's
fingerprint. So a changed file, checkpoint, layer or preprocessing never meets an old entry, and the
same audio under two names is one entry.

Layout, under ``NVER_HOME/store``::

    byol-s-3f0c9a51d2b84e77/header.json    format, kind, fingerprint, the encoder's full card
    byol-s-3f0c9a51d2b84e77/<time>-<random>.safetensors    one part per append: keys and vectors
    facts/...                              the same for what decoding found out about each file

A part is written under a temporary name and then renamed, which is atomic. After kill -9 an entry
is whole or absent; any number of processes may write, without locks, because no two parts share a
name. If two of them wrote the same key, a reader takes the first part in the order of names.
Leftovers of killed writers are ignored, and removed once they are an hour old.

``bench/store.py`` compares formats. Of those that lose nothing under kill -9 this one appends
fastest and takes least space; SQLite reads faster, but must not be shared between hosts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nver.audio import ClipFacts, decoder
from nver.encoders.base import EncoderCard
from nver.errors import StoreError
from nver.home import home
from nver.shapes import Embeddings

FORMAT_VERSION = 1
"""Of the folders; a reader refuses another."""

FACTS_VERSION = 1
"""Raised when `nver.audio.measure` changes its numbers, so that old facts are not found."""

STALE_SECONDS = 3600.0
"""Age from which a temporary file counts as left behind by a killed writer."""

CACHED_PARTS = 8
"""Parts kept in memory: lookups in the order of writing read each part once."""

Columns = Mapping[str, np.ndarray]


class PartFolder:
    """A growing table of rows under 32-byte keys, kept as immutable part files.

    Parameters
    ----------
    folder : Path
        Created when missing.
    header : mapping
        What the table is, as JSON; ``kind`` and ``fingerprint`` must be those of a header found.
    columns : mapping of str to (dtype, width)
        Every row holds one vector of that type and width per column.

    Raises
    ------
    StoreError
        If the folder was written by something else or by another version, or cannot be created.
    """

    def __init__(
        self, folder: Path, header: Mapping[str, Any], columns: Mapping[str, tuple[str, int]]
    ) -> None:
        self.folder = folder
        self.columns = columns
        self._parts: set[str] = set()
        self._rows: dict[bytes, tuple[str, int]] = {}
        self._cache: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()
        _open_folder(folder, {"format": FORMAT_VERSION, **header})

    def refresh(self) -> Set[bytes]:
        """Return every key on disk now, those of other processes too: a view, not a copy."""
        try:
            names = {entry.name for entry in os.scandir(self.folder)}
        except OSError as error:
            raise StoreError(f"Cannot list {self.folder}: {error.strerror}.") from error
        fresh = {name for name in names - self._parts if name.endswith(".safetensors")}
        for name in sorted(fresh):
            keys = self._tensors(name, ["keys"])["keys"]
            for row, key in enumerate(keys):
                self._rows.setdefault(key.tobytes(), (name, row))
            self._parts.add(name)
        return self._rows.keys()

    def append(self, keys: Sequence[bytes], columns: Columns) -> None:
        """Write rows as one part, whole or not at all; rows whose key is known are left out."""
        first = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._rows}
        if not first:
            return
        fresh = sorted(first, key=first.__getitem__)
        rows = [first[key] for key in fresh]
        tensors = {
            name: np.ascontiguousarray(columns[name][rows], dtype=dtype)
            for name, (dtype, _) in self.columns.items()
        }
        tensors["keys"] = np.frombuffer(b"".join(fresh), dtype=np.uint8).reshape(len(fresh), 32)
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.safetensors"
        _write(self.folder / name, save(tensors, metadata={"crc32": _checksum(tensors)}))
        self._parts.add(name)
        self._rows.update((key, (name, row)) for row, key in enumerate(fresh))

    def read(self, keys: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Return the columns of rows, in the order of `keys`.

        Raises
        ------
        StoreError
            If a key is not there; if a part is damaged.
        """
        if any(key not in self._rows for key in keys):
            self.refresh()
        missing = [key for key in keys if key not in self._rows]
        if missing:
            raise StoreError(
                f"{len(missing)} of {len(keys)} clips have no entry in {self.folder}, the first is "
                f"{missing[0].hex()}. Run `nver embed` on the corpus first."
            )
        found = {
            name: np.empty((len(keys), width), dtype=dtype)
            for name, (dtype, width) in self.columns.items()
        }
        wanted: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            wanted.setdefault(self._rows[key][0], []).append(index)
        for part, indices in wanted.items():
            tensors = self._load(part)
            rows = [self._rows[keys[index]][1] for index in indices]
            for name in self.columns:
                found[name][indices] = tensors[name][rows]
        return found

    def _load(self, name: str) -> dict[str, np.ndarray]:
        """Return the checked columns of a part, from memory when it was used lately."""
        if name not in self._cache:
            self._cache[name] = self._tensors(name, [*self.columns, "keys"])
            if len(self._cache) > CACHED_PARTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(name)
        return self._cache[name]

    def _tensors(self, name: str, wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """Return tensors of a part after checking shapes, and the checksum when all are read."""
        path = self.folder / name
        try:
            with safe_open(path, framework="np") as file:
                tensors = {column: file.get_tensor(column) for column in wanted}
                checksum = (file.metadata() or {}).get("crc32")
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from error
        shapes = {
            column: (np.dtype(dtype), width) for column, (dtype, width) in self.columns.items()
        }
        for column, values in tensors.items():
            dtype, width = shapes.get(column, (np.dtype("uint8"), 32))
            if values.dtype != dtype or values.ndim != 2 or values.shape[1] != width:
                raise _damaged(path, f"{column} is {values.dtype} {list(values.shape)}")
        if len(wanted) > len(self.columns) and checksum != _checksum(tensors):
            raise _damaged(path, "the checksum does not match")
        return tensors


class EmbeddingTable:
    """The embeddings of one encoder, by the digest of the clip.

    Parameters
    ----------
    folder : Path
        Its folder in the store.
    card : EncoderCard
        The encoder; the table holds float32 vectors of its width.
    """

    def __init__(self, folder: Path, card: EncoderCard) -> None:
        self.card = card
        header = {
            "kind": "nver embeddings",
            "fingerprint": card.fingerprint,
            "card": card.to_dict(),
        }
        self._parts = PartFolder(folder, header, {"vectors": ("float32", card.dim)})

    def keys(self) -> set[str]:
        """Return the digests of all clips on disk now."""
        return {key.hex() for key in self._parts.refresh()}

    def append(self, keys: Sequence[str], vectors: Embeddings) -> None:
        """Write the vectors of clips, all or none; clips that have one are left as they are.

        Raises
        ------
        StoreError
            If shapes disagree or a vector is not finite; if the disk refuses.
        """
        if vectors.shape != (len(keys), self.card.dim):
            raise StoreError(
                f"{len(keys)} clips of '{self.card.name}' need vectors [{len(keys)}, "
                f"{self.card.dim}], these are {list(vectors.shape)}."
            )
        if not np.isfinite(vectors).all():
            raise StoreError(f"Vectors of '{self.card.name}' hold NaN or infinity: not stored.")
        self._parts.append([_raw(key) for key in keys], {"vectors": vectors})

    def get(self, keys: Sequence[str]) -> Embeddings:
        """Return the vectors of clips, [clips, dim], in the order of `keys`.

        Raises
        ------
        StoreError
            If a clip has none (the message counts them and names the first); if a part is damaged.
        """
        return self._parts.read([_raw(key) for key in keys])["vectors"]


class FactsTable:
    """What decoding found out about files, by their content: a second run decodes nothing.

    Parameters
    ----------
    folder : Path
        Its folder in the store.
    """

    def __init__(self, folder: Path) -> None:
        columns = {"digest": ("uint8", 32), "numbers": ("float64", 4), "print": ("float32", 256)}
        header = {"kind": "nver facts", "fingerprint": "", "numbers": "seconds rate channels peak"}
        self._parts = PartFolder(folder, header, columns)
        self._known = self._parts.refresh()  # a view: grows with the table

    @staticmethod
    def key(data: bytes) -> str:
        """Return the key of a file: SHA-256 of its bytes, the decoders and `FACTS_VERSION`."""
        content = hashlib.sha256(data).hexdigest()
        return hashlib.sha256(f"{FACTS_VERSION} {decoder()} {content}".encode()).hexdigest()

    def find(self, key: str) -> ClipFacts | None:
        """Return the facts under a key; None if there are none yet."""
        if _raw(key) not in self._known:
            return None
        row = self._parts.read([_raw(key)])
        seconds, rate, channels, peak = row["numbers"][0].tolist()
        return ClipFacts(
            digest=row["digest"][0].tobytes().hex(),
            seconds=seconds,
            rate=int(rate),
            channels=int(channels),
            peak=peak,
            thumbprint=row["print"][0],
        )

    def append(self, facts: Mapping[str, ClipFacts]) -> None:
        """Write facts by key, all or none."""
        if not facts:
            return
        rows = list(facts.values())
        digests = b"".join(_raw(row.digest) for row in rows)
        columns = {
            "digest": np.frombuffer(digests, dtype=np.uint8).reshape(len(rows), 32),
            "numbers": np.array([[r.seconds, r.rate, r.channels, r.peak] for r in rows]),
            "print": np.stack([row.thumbprint for row in rows]),
        }
        self._parts.append([_raw(key) for key in facts], columns)


@dataclass(frozen=True)
class EmbeddingStore:
    """All tables under one folder.

    Parameters
    ----------
    folder : Path or None
        None is ``NVER_HOME/store``. Created when the first table is opened.
    """

    folder: Path | None = None

    @property
    def path(self) -> Path:
        """The folder in use."""
        return self.folder if self.folder is not None else home() / "store"

    def open(self, card: EncoderCard) -> EmbeddingTable:
        """Return the table of an encoder, made when missing.

        Raises
        ------
        StoreError
            If the folder was written by something else.
        """
        name = re.sub(r"[^\w.-]+", "-", card.name, flags=re.ASCII).strip(".-")
        return EmbeddingTable(self.path / f"{name}-{card.fingerprint[:16]}", card)

    @cached_property
    def facts(self) -> FactsTable:
        """The table of facts about files, made when missing."""
        return FactsTable(self.path / "facts")


def _raw(key: str) -> bytes:
    """Return the 32 bytes of a digest."""
    try:
        raw = bytes.fromhex(key)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise StoreError(f"A key is a SHA-256 in 64 hex digits, not '{key}'.")
    return raw


def _checksum(tensors: Columns) -> str:
    """Return the CRC-32 of all tensors, in the order of their names."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].tobytes(), value)
    return f"{value:08x}"


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"The store's part {path} is damaged: {reason}. Delete this file and run again: only the "
        "clips in it are encoded anew."
    )


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the name must not outlive the content in a power cut
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"Cannot write to the store at {path.parent}: {error.strerror}. Make room or set "
            "NVER_HOME to another folder."
        ) from error


def _open_folder(folder: Path, header: Mapping[str, Any]) -> None:
    """Create a table's folder, or check that it is the one that `header` describes."""
    path = folder / "header.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = json.loads(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise StoreError(f"Cannot open the store's folder {folder}: {error}.") from error
    if found is None and any(folder.glob("*.safetensors")):
        raise StoreError(
            f"{folder} holds parts but no header.json: nver did not write it. Move it."
        )
    for fact in ("format", "kind", "fingerprint") if found is not None else ():
        if not isinstance(found, dict) or found.get(fact) != header[fact]:
            got = found.get(fact) if isinstance(found, dict) else found
            raise StoreError(
                f"{path} must have {fact} '{header[fact]}', it has '{got}': another program or "
                "version wrote it. Move the folder away or set NVER_HOME to another one."
            )
    if found != json.loads(json.dumps(header)):
        _write(path, json.dumps(header, indent=2, sort_keys=True).encode())
    _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left behind; another process may be doing the same."""
    for leftover in folder.glob(".tmp-*"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                leftover.unlink()
