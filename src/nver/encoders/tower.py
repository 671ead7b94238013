"""The audio tower of a multimodal checkpoint: found, read, checked, and kept.

Published checkpoints hold every modality: of ImageBind's 4.8 GB, 345 MB hear. Only the tensors of
the audio tower are read. From a PyTorch file (``.pth``, ``.bin``) they are read as tensors only,
with ``weights_only``: nothing in it is ever executed. They are then kept as safetensors in
``NVER_HOME/towers/ENCODER/``; from then on only the list of checksums of the large file is read. A
name without a checkpoint never means what was kept there: a file that was tried once must not
become the encoder. Of a large file only what is kept is needed: move that into
``NVER_HOME/weights/ENCODER/`` and the file may be deleted. What comes over the network is kept in
that folder at once, see `nver.encoders.remote`.

- What is kept is named after the content of the source: a digest of the sizes and checksums that a
  PyTorch file lists of its tensors, or SHA-256 of the whole file where it has no such list.
- The revision is the SHA-256 of the audio tower's tensors: the same weights have one fingerprint
  whatever the file they come from.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nver.encoders.checkpoint import CONFIG_FILE, compare_tensors, read_json
from nver.encoders.hub import one_line
from nver.encoders.torch_file import Tensors, Wanted, content_key, from_torch, own
from nver.errors import CheckpointError
from nver.home import home, weights_folders

KNOWN_FILES = (
    "model.safetensors",
    "imagebind_huge.pth",
    "pytorch_model.bin",
    "embedding_model.ckpt",
)
KINDS = (".safetensors", ".pth", ".bin", ".pt", ".ckpt")
# Metadata of what is kept: the source's config.json, and the revision of the tensors.
CONFIG_KEY, REVISION_KEY = "nver.config", "nver.revision"


@dataclass(frozen=True, eq=False)
class Tower:
    """The tensors of an audio tower.

    Parameters
    ----------
    path : Path
        The file that the user or the search named.
    tensors : dict of str to Tensor
        float32, by their names in the file.
    config : mapping
        What ``config.json`` beside the file holds; empty without one.
    copy : Path or None
        Where the tensors are to be kept; None where they are, or came from safetensors.
    """

    path: Path
    tensors: Tensors
    config: Mapping[str, Any]
    copy: Path | None

    def number(self, *places: Sequence[str]) -> float | None:
        """Return the configuration's number at the first of the places that has one, or None.

        Raises
        ------
        CheckpointError
            If what stands there is no number.
        """
        for place in places:
            value: Any = self.config
            for key in place:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise CheckpointError(
                    f"{self.path.parent / CONFIG_FILE} must give a number for {'.'.join(place)}, "
                    f"it gives {value!r}. Is this the right checkpoint?"
                )
            return float(value)
        return None

    def size(self, name: str, axis: int, otherwise: int) -> int:
        """Return a tensor's length along an axis; `otherwise` where there is no such tensor."""
        shape = self.tensors[name].shape if name in self.tensors else ()
        return shape[axis] if len(shape) > axis else otherwise

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse the tower if a tensor is missing, unexpected or misshaped.

        Raises
        ------
        CheckpointError
            With the names of such tensors, in one line.
        """
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        compare_tensors(self.path, expected, found)

    @cached_property
    def revision(self) -> str:
        """SHA-256 (hex) of the tensors: their names, shapes and values."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name].contiguous()
            digest.update(f"{name} {list(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().data)
        return digest.hexdigest()

    @property
    def values(self) -> int:
        """How many numbers the tensors hold."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def keep(self) -> None:
        """Keep the tensors in NVER_HOME, whole or not at all, unless they are there."""
        if self.copy is not None:
            with suppress(OSError):  # full or read-only: the source is read again next time
                self.write(self.copy, self.path.name, {})

    def write(self, target: Path, source: str, facts: Mapping[str, str]) -> None:
        """Write the tensors as safetensors, whole or not at all.

        Parameters
        ----------
        target : Path
            The file.
        source : str
            Where they come from, for its metadata.
        facts : mapping of str to str
            More of its metadata.

        Raises
        ------
        OSError
            If the disk is full or the folder cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        temporary = target.with_name(f".tmp-{secrets.token_hex(8)}")
        said = {
            CONFIG_KEY: json.dumps(dict(self.config)),
            REVISION_KEY: self.revision,
            "nver.source": source,
            **facts,
        }
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(self.tensors, temporary, metadata=said)
            shutil.copymode(self.path, temporary)  # readable to whom the source is
            os.replace(temporary, target)  # noqa: PTH105 - as atomic as its name says
        except SafetensorError as error:
            raise OSError(one_line(error)) from error
        finally:
            temporary.unlink(missing_ok=True)


def find_file(encoder: str, names: Sequence[str], given: str | Path | None, licence: str) -> Path:
    """Return the file with a checkpoint's tensors.

    Parameters
    ----------
    encoder, names, given
        As in `local_file`.
    licence : str
        Of the weights, for the message.

    Raises
    ------
    CheckpointError
        If there is none, or a folder holds several and none has a published name.
    """
    found = local_file(encoder, names, given)
    if found is not None:
        return found
    if given is not None:
        raise CheckpointError(
            f"Encoder '{encoder}' needs a checkpoint: a file ({', '.join(KINDS)}) or a folder with "
            f"one; {given} is neither."
        )
    raise CheckpointError(
        f"No checkpoint for encoder '{encoder}' (licence {licence}): looked for a folder "
        f"{' or '.join(names)} in {', '.join(map(str, weights_folders()))}. "
        f"Pass its file or folder (-e {encoder}=PATH) or list the folder above it in $NVER_WEIGHTS."
    )


def local_file(
    encoder: str, names: Sequence[str], given: str | Path | None, published: Sequence[str] = ()
) -> Path | None:
    """Return the local file with a checkpoint's tensors, or None; no weights are read.

    Parameters
    ----------
    encoder : str
        The encoder's name, for messages.
    names : sequence of str
        Sub-folder names to look for in `nver.home.weights_folders`, in order.
    given : path or None
        A file or a folder that the user named, or its name below one of those folders.
    published : sequence of str
        Names of files that are taken where a folder holds several.

    Raises
    ------
    CheckpointError
        If a folder holds none, or several and none has a published name.
    """
    places = weights_folders()
    if given is not None:
        for path in (Path(given).expanduser(), *(place / given for place in places)):
            if path.is_file():
                return path
            if path.is_dir():
                return file_in(encoder, path, published)
        return None
    for place in places:
        for name in names:
            if any(path.suffix in KINDS for path in (place / name).glob("[!.]*")):
                return file_in(encoder, place / name, published)
    return None


def file_in(encoder: str, folder: Path, published: Sequence[str] = ()) -> Path:
    """Return the checkpoint in a folder: one of the published names, or the only one of its kind.

    Raises
    ------
    CheckpointError
        If there is none, or several.
    """
    for name in (*KNOWN_FILES, *published):
        if (folder / name).is_file():
            return folder / name
    for kind in KINDS:
        found = sorted(path for path in folder.glob(f"[!.]*{kind}") if path.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"Encoder '{encoder}' needs one checkpoint; {folder} holds "
                f"{', '.join(path.name for path in found)}. Pass the file instead of the folder."
            )
    raise CheckpointError(
        f"Encoder '{encoder}' needs a checkpoint ({', '.join(KNOWN_FILES)}); {folder} holds none."
    )


def read_tower(encoder: str, path: Path, wanted: Wanted) -> Tower:
    """Return the audio tower in a file, from what was kept of it where that is there.

    Parameters
    ----------
    encoder : str
        The encoder's name: where its tower is kept.
    path : Path
        A safetensors file, or one that `torch.save` wrote.
    wanted : callable
        Whether a tensor of that name belongs to the tower.

    Raises
    ------
    CheckpointError
        If the file is truncated, or neither of the two.
    """
    beside = path.parent / CONFIG_FILE
    config = read_json(beside) if beside.is_file() else {}
    if path.suffix == ".safetensors":
        tensors, facts = from_safetensors(path, wanted)
        kept = facts.get(CONFIG_KEY)
        tower = Tower(path, tensors, config if kept is None else json.loads(kept), None)
        if facts.get(REVISION_KEY, tower.revision) != tower.revision:
            raise CheckpointError(f"{path} has changed since it was kept here. Delete it.")
        return tower
    copy = home() / "towers" / encoder / f"{content_key(path)[:16]}.safetensors"
    with suppress(CheckpointError, FileNotFoundError):  # a damaged copy is made anew
        tensors, facts = from_safetensors(copy, wanted)
        is_kept = facts.get(CONFIG_KEY) == json.dumps(config)
        tower = Tower(path, tensors, config, None if is_kept else copy)
        if facts.get(REVISION_KEY) == tower.revision:
            return tower
        copy.unlink()
    return Tower(path, from_torch(path, wanted), config, copy)


def from_safetensors(path: Path, wanted: Wanted) -> tuple[Tensors, dict[str, str]]:
    """Return the wanted tensors in float32, and what the file says of itself.

    Raises
    ------
    CheckpointError
        If the file is truncated or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if wanted(name)]  # noqa: SIM118 - no mapping
            tensors = {name: own(file.get_tensor(name)) for name in names}
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({one_line(error)}). Fetch it again."
        ) from error
