"""What has been trained is kept in the run folder, so that the same command goes on from there.

One file per training, named after a hash of everything that decides its numbers (`Digest`): the
embeddings themselves, labels, speakers, rows of the fold, system, settings, seed, the source of the
package and the versions of the libraries that compute. Whatever changes, the name changes with it,
and the old file is not found. Nothing is ever looked up by a number or a date.

A file is written under another name and then renamed, so after kill -9 it is whole or absent, and
two runs in one folder do no harm. A damaged file counts as absent. Deleting the folder costs time,
nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nver import provenance

FORMAT = "nver training 2"
ABOUT = "about"
STALE_SECONDS = 3600.0
"""Age from which a temporary file counts as left behind by a killed run."""

BLOCK = 4096
"""Rows that are hashed at once: X may be larger than the memory that is left."""

ASIDE = frozenset(
    {"__pycache__", "encoders", "corpora", "published", "report", "reproduction", "serve"}
    | {"significance", "analysis.py", "answers.py", "comparison.py", "pairing.py", "versus.py"}
    | {"calibration.py", "confidence.py", "conformal.py", "disaggregation.py", "identity.py"}
    | {
        "cli.py",
        "arguments.py",
        "parsing.py",
        "listings.py",
        "config.py",
        "experiment.py",
        "maps.py",
    }
    | {"progress.py", "record.py", "effects.py", "encoding.py", "perturbation.py", "perturbed.py"}
    | {"robustness.py", "scores.py", "verdict.py"}
)
"""Parts of the package that change no training: what they give is hashed itself, or comes later."""

COMPUTING = ("numpy", "scipy", "scikit-learn", "torch", "numba")


@dataclass(frozen=True, eq=False)
class Saved:
    """The content of a file: arrays, and facts as plain JSON values."""

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


class SavedTrainings:
    """A folder of finished trainings.

    Parameters
    ----------
    folder : Path
        Made when the first training is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._swept = False

    def get(self, key: str) -> Saved | None:
        """Return what was saved under a key; None where nothing is, or it cannot be read."""
        try:
            # np.load leaves a damaged file open that it has opened itself.
            with self._path(key).open("rb") as file, np.load(file, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
            facts = json.loads(arrays.pop(ABOUT).tobytes())
            known = facts.pop("format") == FORMAT and facts.pop("key") == key
        except Exception:  # noqa: BLE001 - whatever is wrong with a file, it can be trained again
            return None
        return Saved(arrays, facts) if known else None

    def put(self, key: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Save a training, whole or not at all.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        about = json.dumps({**facts, "format": FORMAT, "key": key}).encode()
        draft = self.folder / f".{key[:16]}.{secrets.token_hex(4)}.tmp"
        try:
            with draft.open("wb") as file:
                content: dict[str, Any] = {**arrays, ABOUT: np.frombuffer(about, dtype=np.uint8)}
                np.savez(file, **content)
            os.replace(draft, self._path(key))  # noqa: PTH105 - replaces atomically everywhere
        finally:
            draft.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def _sweep(self) -> None:
        """Remove, once, what killed runs have left half written."""
        if self._swept:
            return
        self._swept = True
        for draft in self.folder.glob(".*.tmp"):
            with suppress(OSError):
                if time.time() - draft.stat().st_mtime > STALE_SECONDS:
                    draft.unlink()


class Digest:
    """A hash over values of known kinds, in order; every value is framed by its kind and size.

    >>> Digest().add("a", 1).key == Digest().add("a", 1).key
    True
    >>> Digest().add("a", "b").key == Digest().add("ab").key
    False
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *values: Any) -> Digest:
        """Add arrays (numbers or objects that are text or None) and plain JSON values."""
        for value in values:
            if isinstance(value, np.ndarray) and value.dtype != object:
                self._add_array(value)
            else:
                plain = value.tolist() if isinstance(value, np.ndarray) else value
                self._frame("json", json.dumps(plain, sort_keys=True).encode())
        return self

    @property
    def key(self) -> str:
        """The hash as 64 hexadecimal digits."""
        return self._hash.hexdigest()

    def _add_array(self, array: np.ndarray) -> None:
        self._frame(f"{array.dtype.str} {array.shape}", b"")
        for start in range(0, len(array), BLOCK):
            self._hash.update(np.ascontiguousarray(array[start : start + BLOCK]).data)

    def _frame(self, kind: str, content: bytes) -> None:
        self._hash.update(f"{kind} {len(content)}\n".encode())
        self._hash.update(content)


@functools.cache
def engine() -> str:
    """Return the hash of what computes: the package's source and the libraries' versions.

    The version of the package alone is not enough: in a checkout the code changes and the version
    does not.
    """
    root = Path(__file__).parent
    digest = Digest()
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and not ASIDE.intersection(parts):
            digest.add("/".join(parts), hashlib.sha256(path.read_bytes()).hexdigest())
    versions = provenance.versions()
    return digest.add({name: versions.get(name) for name in ("nver", *COMPUTING)}).key
