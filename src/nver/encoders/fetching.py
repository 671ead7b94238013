"""Weights by the name of their encoder: fetched, or only looked for.

Two kinds are known: audio towers, which have published sources of their own, and models of the hub,
which are named by their id. `available_locally` asks no network and reads no weights.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from pathlib import Path

from nver.encoders import ENCODERS
from nver.encoders.catalogue import CATALOGUE, checkpoint_of, licence_of
from nver.encoders.hub import find_model, local_or_cached
from nver.encoders.remote import Fetched, TowerKind, fetch_tower, local_tower
from nver.errors import CheckpointError
from nver.registry import unknown

EXTRA = "speech"  # brings the hub's client

TOWERS = {
    "imagebind": "nver.encoders.imagebind:TOWER",
    "languagebind": "nver.encoders.languagebind:TOWER",
    "xvector": "nver.encoders.xvector:TOWER",
}
"""Encoders whose audio tower is fetched alone."""


def tower_kind(encoder: str) -> TowerKind:
    """Return how the tower of an encoder of `TOWERS` is fetched."""
    module, _, attribute = TOWERS[encoder].partition(":")
    kind: TowerKind = getattr(importlib.import_module(module), attribute)
    return kind


def fetch(encoder: str, checkpoint: str | Path | None = None) -> Fetched:
    """Download the weights of an encoder if they are not here.

    Parameters
    ----------
    encoder : str
        Its name, or ``hf:ORG/NAME``.
    checkpoint : path or str or None
        As of the encoder; None for what is published.

    Raises
    ------
    UnknownNameError
        If there is no such encoder.
    CheckpointError
        If it cannot be had, or the encoder needs a checkpoint and none is given.
    MissingExtraError
        If it is a hub model and `huggingface_hub` is not installed.
    """
    if encoder.startswith("hf:"):
        checkpoint = encoder.removeprefix("hf:")
    elif encoder not in ENCODERS.targets() and ".py:" not in encoder:
        raise unknown("encoder", encoder, ENCODERS.names())
    checkpoint = checkpoint_of(encoder, checkpoint)
    if encoder in TOWERS:
        return fetch_tower(tower_kind(encoder), checkpoint)
    if checkpoint is None:
        needs = CATALOGUE[encoder].needs if encoder in CATALOGUE else ""
        raise CheckpointError(
            f"Encoder '{encoder}' has nothing to fetch: it needs {needs or 'no checkpoint'}."
        )
    licence = licence_of(encoder, str(checkpoint))
    already = available_locally(encoder, checkpoint) is not None
    model = find_model(encoder, checkpoint, EXTRA, licence=licence)
    return Fetched(model.folder, model.bytes, licence, already)


def available_locally(encoder: str, checkpoint: str | Path | None = None) -> Path | None:
    """Return where the weights of an encoder lie on this machine, or None.

    Parameters
    ----------
    encoder : str
        Its name.
    checkpoint : path or str or None
        As of the encoder; None for a tower that is here, or for the first published model.

    Returns
    -------
    Path or None
        The file of a tower, the folder of a model. Nothing is read: it may be another network's.
    """
    checkpoint = checkpoint_of(encoder, checkpoint)
    with suppress(CheckpointError):  # a folder with several files, or none
        if encoder in TOWERS:
            return local_tower(tower_kind(encoder), checkpoint)
        if checkpoint is not None:
            return local_or_cached(checkpoint)
    return None
