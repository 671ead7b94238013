"""Checkpoints on disk: where they are looked for, and what must be in them.

A checkpoint is a folder with ``model.safetensors`` (the tensors) and ``config.json`` (architecture
and front end). It is checked before anything runs: a truncated, foreign or incomplete one is
refused in one line that names the file and the tensors. Nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from nver.errors import CheckpointError
from nver.home import weights_folders

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

Tensors = dict[str, Shaped[np.ndarray, "..."]]


def find_folder(encoder: str, names: Sequence[str], given: str | Path | None, licence: str) -> Path:
    """Return the folder of a checkpoint.

    Parameters
    ----------
    encoder : str
        The encoder's name, for messages.
    names : sequence of str
        Sub-folder names to look for in `nver.home.weights_folders`, in order.
    given : path or None
        The folder that the user named; then nothing is searched.
    licence : str
        Of the weights, for the message.

    Raises
    ------
    CheckpointError
        If no folder holds a ``model.safetensors``; the message says where it was looked for.
    """
    if given is not None:
        folder = Path(given).expanduser()
        if not (folder / WEIGHTS_FILE).is_file():
            raise CheckpointError(
                f"Encoder '{encoder}' needs a folder with {WEIGHTS_FILE} and {CONFIG_FILE}; "
                f"{folder} {'holds no ' + WEIGHTS_FILE if folder.is_dir() else 'is no folder'}."
            )
        return folder
    places = weights_folders()
    for place in places:
        for name in names:
            if (place / name / WEIGHTS_FILE).is_file():
                return place / name
    raise CheckpointError(
        f"No checkpoint for encoder '{encoder}' (licence {licence}): looked for a folder "
        f"{' or '.join(names)} in {', '.join(map(str, places))}. "
        f"Pass its folder (-e {encoder}=FOLDER) or list the folder above it in $NVER_WEIGHTS."
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises
    ------
    CheckpointError
        If the file is missing or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: a checkpoint folder must hold it.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} must hold a JSON object, it is unreadable: {error}"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, it holds a {type(value).__name__}.")
    return value


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint folder.

    Parameters
    ----------
    folder : Path
        Where it lies.
    config : mapping
        What ``config.json`` holds.
    revision : str
        SHA-256 (hex) of ``model.safetensors``.
    """

    folder: Path
    config: Mapping[str, Any]
    revision: str

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the configuration and hash the weights.

        Raises
        ------
        CheckpointError
            If a file is missing or unreadable.
        """
        return cls(folder, read_json(folder / CONFIG_FILE), sha256_of(folder / WEIGHTS_FILE))

    @property
    def weights(self) -> Path:
        """The file with the tensors."""
        return self.folder / WEIGHTS_FILE

    def number(self, *path: str) -> float:
        """Return a number of the configuration, e.g. ``number("frontend", "n_fft")``.

        Raises
        ------
        CheckpointError
            If it is missing or no number.
        """
        value: Any = self.config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(
                f"{self.folder / CONFIG_FILE} must give a number for {'.'.join(path)}, "
                f"it gives {value!r}. Is this the right checkpoint?"
            )
        return float(value)

    def tensors(
        self, shapes: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()
    ) -> Tensors:
        """Return the float32 tensors called as in `shapes`.

        Parameters
        ----------
        shapes : mapping of str to tuple of int
            Every tensor that the network needs.
        ignored : iterable of str
            Beginnings or ends of the names of tensors that may be there and are not read.

        Raises
        ------
        CheckpointError
            If the file is truncated or no safetensors file, or a tensor is missing, unexpected or
            misshaped.
        """
        from safetensors import SafetensorError, safe_open

        ignored = tuple(ignored)
        try:
            with safe_open(self.weights, framework="pt") as file:
                found = {
                    name: tuple(file.get_slice(name).get_shape())
                    for name in file.keys()  # noqa: SIM118 - safe_open is no mapping
                    if not (name.startswith(ignored) or name.endswith(ignored))
                }
                compare_tensors(self.weights, shapes, found)
                # Cloned: a tensor of the mapped file would change with the file.
                return {name: file.get_tensor(name).float().clone().numpy() for name in shapes}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{self.weights} is truncated or no safetensors file ({error}). Fetch it again."
            ) from error


def compare_tensors(
    path: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a checkpoint whose tensors are not the expected ones.

    Raises
    ------
    CheckpointError
        As `foreign` says it.
    """
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    misshaped = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != shape
    ]
    if missing or extra or misshaped:
        raise foreign(path, len(expected), missing, extra, misshaped)


def foreign(
    path: Path,
    expected: int,
    missing: Sequence[str],
    extra: Sequence[str],
    misshaped: Sequence[str],
) -> CheckpointError:
    """Return the error for another network's tensors: the file, then which tensors, in one line."""
    kinds = (("missing", missing), ("unexpected", extra), ("misshaped", misshaped))
    faults = ", ".join(
        f"{len(names)} {kind} ({shortened(names)})" for kind, names in kinds if names
    )
    return CheckpointError(
        f"{path} is not the expected checkpoint: of {expected} tensors, {faults}."
    )


def shortened(names: Sequence[str], most: int = 3) -> str:
    """Return the first `most` names and how many more there are, in one line.

    >>> shortened(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
