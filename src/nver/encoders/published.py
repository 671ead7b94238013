"""Published checkpoints of audio transformers: found, and read in whichever layout they have.

One network is published in several wrappings: safetensors on the hub, one file or shards, with a
prefix before every name; or a PyTorch file that holds a flat state dict or, beside it, the numbers
of the architecture (``{"model": ..., "config": ...}`` or ``"cfg"``). An encoder says what its own
tensors are called; everything else in a file (heads, decoders, optimisers) is never kept.

Read with ``weights_only``: nothing in a file is executed, and a file that holds other Python
objects is refused. The revision follows the tensors alone, so that a network has one fingerprint
whatever file it comes from.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nver.encoders.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_json
from nver.encoders.hub import HUB_ID, find_model, one_line, parts_of
from nver.encoders.torch_file import listed, own
from nver.encoders.tower import Tower, find_file, from_safetensors
from nver.errors import CheckpointError
from nver.home import weights_folders

EXTRA = "speech"
"""The extra that brings the hub's client."""

INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
SETTINGS = ("config", "cfg")
"""Where a PyTorch file holds the numbers of the architecture, beside "model"."""

OwnName = Callable[[str], "str | None"]


def find_files(
    encoder: str, folders: Sequence[str], given: str | Path | None, licence: str
) -> tuple[Path, ...]:
    """Return the files with a checkpoint's tensors: one, or several shards.

    Parameters
    ----------
    encoder : str
        The encoder's name, for messages.
    folders : sequence of str
        Sub-folder names to look for in `nver.home.weights_folders`, in order.
    given : path or str or None
        What the user named: a file, a folder, the name of one below those folders, or a hub id.
    licence : str
        Of the weights, for the message.

    Raises
    ------
    CheckpointError
        If there is none.
    MissingExtraError
        If it is a hub id and `huggingface_hub` is not installed.
    """
    if given is not None:
        places = (Path(given).expanduser(), *(place / given for place in weights_folders()))
        there = next((path for path in places if path.exists()), None)
        if there is None and HUB_ID.fullmatch(str(given).partition("@")[0]):
            return find_model(encoder, given, EXTRA, licence=licence).weights
        if there is not None and (there / INDEX_FILE).is_file():
            return tuple(there / part for part in parts_of(there / INDEX_FILE))
    return (find_file(encoder, folders, given, licence),)


def read_published(paths: Sequence[Path], own_name: OwnName) -> Tower:
    """Return an encoder's tensors in float32, by the encoder's own names.

    Parameters
    ----------
    paths : sequence of Path
        One file, or the shards of one checkpoint.
    own_name : callable
        The encoder's name of a tensor, or None where the tensor is not the encoder's.

    Returns
    -------
    Tower
        Its configuration is what a PyTorch file holds beside the tensors, then ``config.json``.

    Raises
    ------
    CheckpointError
        If a file is truncated or holds no tensors by name, or two tensors have one name.
    """
    beside = paths[0].parent / CONFIG_FILE
    config: dict[str, Any] = read_json(beside) if beside.is_file() else {}
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if path.suffix == ".safetensors":
            found, _ = from_safetensors(path, lambda name: own_name(name) is not None)
        else:
            found, inside = from_wrapped(path, lambda name: own_name(name) is not None)
            config |= inside
        for name, tensor in found.items():
            called = str(own_name(name))
            if called in tensors:
                raise CheckpointError(
                    f"{path} must hold each tensor once, {called} is there twice ({name})."
                )
            tensors[called] = tensor
    return Tower(paths[0], tensors, config, None)


def from_wrapped(
    path: Path, wanted: Callable[[str], bool]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the wanted tensors of a PyTorch file in float32, and the settings beside them.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds anything but tensors by name and plain values.
    """
    zipped = zipfile.is_zipfile(path)
    try:
        damaged = zipfile.ZipFile(path).testzip() if zipped and listed(path) else None
        # Only what is picked below is read from a mapped file; older files cannot be mapped.
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a foreign file fails in any way; weights_only keeps it harmless
        raise CheckpointError(
            f"{path} is truncated, no PyTorch checkpoint, or holds Python objects besides tensors, "
            f"which are never read ({one_line(error)}). Fetch it again or convert it."
        ) from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged (checksum of {damaged}). Fetch it again.")
    outer = held if isinstance(held, Mapping) else {}
    state = outer.get("model", outer)
    if not isinstance(state, Mapping) or not state or not all(isinstance(n, str) for n in state):
        raise CheckpointError(
            f"{path} must hold tensors by name, or such under 'model'; "
            f"it holds a {type(held).__name__}."
        )
    settings: dict[str, Any] = {}
    for place in SETTINGS:
        if isinstance(outer.get(place), Mapping):
            settings |= outer[place]
    picked = {name: value for name, value in state.items() if wanted(name)}
    strange = [name for name, value in picked.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(f"{path} must hold tensors, {strange[0]} is none.")
    return {name: own(value) for name, value in picked.items()}, settings


def short_name(given: str | Path | None, path: Path) -> str:
    """Return what a checkpoint is called on a card: the last part of what the user named.

    >>> short_name("mispeech/dasheng-base@main", Path("/cache/1f0a/model.safetensors"))
    'dasheng-base'
    >>> short_name("/models/beats.pt", Path("/models/beats.pt"))
    'beats'
    >>> short_name(None, Path("/weights/eat/model.safetensors"))
    'eat'
    """
    named = Path(str(given).partition("@")[0]).name if given is not None else ""
    return named.removesuffix(path.suffix) or path.resolve().parent.name


def flag(tower: Tower, name: str, otherwise: bool | None = None) -> bool:
    """Return what the configuration says for a switch, or `otherwise` where it is silent.

    Raises
    ------
    CheckpointError
        If it says no truth value, or nothing and there is no `otherwise`.
    """
    value = tower.config.get(name, otherwise)
    if not isinstance(value, bool):
        raise CheckpointError(
            f"{tower.path} needs a configuration (in it, or {CONFIG_FILE} beside it) that says "
            f"true or false for {name}; it says {value!r}."
        )
    return value


def head_count(tower: Tower, width: int, told: float | None) -> int:
    """Return the number of attention heads.

    Parameters
    ----------
    tower : Tower
        For the message.
    width : int
        Of the network.
    told : float or None
        What the configuration or the published size says.

    Raises
    ------
    CheckpointError
        If nothing says it, or the width is no multiple of it.
    """
    heads = int(told or 0)
    if heads < 1 or width % heads:
        raise CheckpointError(
            f"The number of attention heads of {tower.path} must divide its width {width}, it is "
            f"{heads or 'unknown'}: give num_heads in {CONFIG_FILE} beside it."
        )
    return heads
