"""Tensors in a file that `torch.save` wrote: read as tensors only, or refused in one line.

With ``weights_only`` nothing in a file is ever executed; a file that holds other Python objects is
refused. Newer files are zip files: they list a checksum of every tensor, and only the tensors that
are used are read of them.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nver.encoders.checkpoint import sha256_of
from nver.encoders.hub import one_line
from nver.errors import CheckpointError

Tensors = dict[str, Tensor]
Wanted = Callable[[str], bool]


def from_torch(path: Path, wanted: Wanted) -> Tensors:
    """Return the wanted tensors of a state dict that `torch.save` wrote, in float32.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds anything but a state dict.
    """
    try:
        damaged = zipfile.ZipFile(path).testzip() if listed(path) else None
    except Exception as error:  # a foreign file fails in any way
        raise not_torch(path, error) from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged (checksum of {damaged}). Fetch it again.")
    return {name: own(value) for name, value in mapped(path, wanted).items()}


def mapped(path: Path, wanted: Wanted) -> Tensors:
    """Return the wanted tensors of a state dict, which change with the file; see `own`.

    Raises
    ------
    CheckpointError
        If the file is truncated, or holds anything but a state dict.
    """
    try:
        # Only what is used later is read from a mapped file; older files cannot be mapped.
        mmap = zipfile.is_zipfile(path)
        with warnings.catch_warnings():  # of a foreign file torch says more than is of use
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a foreign file fails in any way; weights_only keeps it harmless
        raise not_torch(path, error) from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(
            f"{path} must hold a state dict (tensors by name), it holds a {type(state).__name__}."
        )
    tensors = {name: value for name, value in state.items() if wanted(name)}
    strange = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(f"{path} must hold tensors, {strange[0]} is none.")
    return tensors


def not_torch(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that `torch.load` cannot read."""
    with path.open("rb") as file:
        head = file.read(24)
    if head.startswith(b"version https://git-lfs"):
        return CheckpointError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull`.")
    if type(error).__name__ == "UnpicklingError" and head[:1] in (b"\x80", b"P"):
        return CheckpointError(
            f"{path} is damaged, or holds Python objects besides tensors, which are never read. "
            "Convert it to safetensors where it was made."
        )
    if head[:1] not in (b"\x80", b"P"):
        return CheckpointError(
            f"{path} is no PyTorch checkpoint: it begins with {head!r}. Fetch it again."
        )
    return CheckpointError(
        f"{path} is truncated or no PyTorch checkpoint ({one_line(error)}). Fetch it again."
    )


def own(tensor: Tensor) -> Tensor:
    """Return a float32 copy: a tensor that is read from a mapped file changes with the file."""
    return tensor.to(torch.float32, copy=True).contiguous()


def content_key(path: Path) -> str:
    """Return a digest of a file's content, without reading all of it where it lists checksums."""
    lines = listed(path)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else sha256_of(path)


def listed(path: Path) -> list[str]:
    """Return name, size and checksum of each record of a zip file; nothing where some lack one."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError):
        return []
    # The first folder repeats the file's own name. torch.save can leave the checksums at 0.
    if any(record.CRC == 0 and record.file_size for record in records):
        return []
    return [f"{r.filename.partition('/')[2]} {r.file_size} {r.CRC:08x}" for r in records]
