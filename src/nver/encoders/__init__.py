"""The encoders: a table of names, and `load_encoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nver.encoders.base import Encoder, EncoderCard
from nver.registry import Registry

ENCODERS = Registry(
    kind="encoder",
    table={
        "spectral": "nver.encoders.spectral:SpectralEncoder",
        "prosodic": "nver.encoders.prosodic:ProsodicEncoder",
        "byol-s": "nver.encoders.byol_s:ByolSEncoder",
        "efficientat-mn04": "nver.encoders.efficientat:EfficientATEncoder",
        "speech": "nver.encoders.speech:SpeechEncoder",
    },
    group="nver.encoders",
)


def load_encoder(name: str, checkpoint: str | Path | None = None, **options: Any) -> Encoder:
    """Return the encoder called `name`.

    Parameters
    ----------
    name : str
        A name of the table (`nver encoders` lists them).
    checkpoint : path or str, optional
        A local folder, or a hub id where the encoder loads from one. Without it the encoder looks in
        $NVER_WEIGHTS and NVER_HOME/weights.
    **options
        The encoder's own (layer, pooling, ...).

    Raises
    ------
    UnknownNameError, MissingExtraError, CheckpointError

    Examples
    --------
    >>> load_encoder("spectral").card.rate
    16000
    """
    build = ENCODERS.load(name)
    encoder = build(**options) if checkpoint is None else build(checkpoint=checkpoint, **options)
    if not isinstance(encoder, Encoder):
        raise TypeError(f"'{name}' must build an nver Encoder, it built {type(encoder).__name__}.")
    return encoder


__all__ = ["ENCODERS", "Encoder", "EncoderCard", "load_encoder"]
