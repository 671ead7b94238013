"""The encoders: a table of names, and `load_encoder`."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nver.encoders.base import Encoder, EncoderCard
from nver.errors import SettingsError
from nver.registry import Registry

ENCODERS = Registry(
    kind="encoder",
    table={
        "spectral": "nver.encoders.spectral:SpectralEncoder",
        "prosodic": "nver.encoders.prosodic:ProsodicEncoder",
        "byol-s": "nver.encoders.byol_s:ByolSEncoder",
        "efficientat-mn04": "nver.encoders.efficientat:EfficientATEncoder",
        "speech": "nver.encoders.speech:SpeechEncoder",
        "imagebind": "nver.encoders.imagebind:ImageBindEncoder",
        "languagebind": "nver.encoders.languagebind:LanguageBindEncoder",
    },
    group="nver.encoders",
)


@dataclass(frozen=True)
class Listing:
    """What `nver encoders` says of an encoder that cannot be built here."""

    summary: str
    dim: str
    rate: int
    modality: str
    licence: str
    needs: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the listing as plain JSON values."""
        return asdict(self)


LISTINGS = {
    "spectral": Listing("", "", 16_000, "weight-free", ""),
    "prosodic": Listing("", "", 16_000, "weight-free", ""),
    "byol-s": Listing(
        "small network, self-supervised on speech",
        "512",
        16_000,
        "audio-only",
        "MIT",
        "a checkpoint",
    ),
    "efficientat-mn04": Listing(
        "small network trained to tag AudioSet", "384", 32_000, "audio-only", "MIT", "a checkpoint"
    ),
    "speech": Listing(
        "any wav2vec 2.0-family checkpoint, from the hub or a folder",
        "the model's",
        16_000,
        "audio-only",
        "the checkpoint's",
        "nver[speech] and a checkpoint",
    ),
    "imagebind": Listing(
        "trained to agree with images: the joint space, or the trunk (768)",
        "1024",
        16_000,
        "multimodal",
        "CC BY-NC-SA 4.0 (non-commercial)",
        "imagebind_huge.pth",
    ),
    "languagebind": Listing(
        "trained to agree with text: the joint space, or the trunk (1024)",
        "768",
        16_000,
        "multimodal",
        "code MIT, data CC BY-NC 4.0 (non-commercial)",
        "the folder of LanguageBind_Audio_FT or LanguageBind_Audio",
    ),
}


def load_encoder(name: str, checkpoint: str | Path | None = None, **options: Any) -> Encoder:
    """Return the encoder called `name`.

    Parameters
    ----------
    name : str
        A name of the table (`nver encoders` lists them).
    checkpoint : path or str, optional
        A local folder, or a hub id where the encoder loads from one. Without it the encoder looks
        in $NVER_WEIGHTS and NVER_HOME/weights.
    **options
        The encoder's own (layer, pooling, ...).

    Raises
    ------
    UnknownNameError, MissingExtraError, CheckpointError
    SettingsError
        If the encoder does not take the options.

    Examples
    --------
    >>> load_encoder("spectral").card.rate
    16000
    """
    build = ENCODERS.load(name)
    given = options if checkpoint is None else {"checkpoint": checkpoint, **options}
    try:
        inspect.signature(build).bind(**given)
    except TypeError as error:
        takes = ", ".join(inspect.signature(build).parameters) or "no options"
        raise SettingsError(f"Encoder '{name}' takes {takes}; {error}.") from error
    encoder = build(**given)
    if not isinstance(encoder, Encoder):
        raise TypeError(f"'{name}' must build an nver Encoder, it built {type(encoder).__name__}.")
    return encoder


__all__ = ["ENCODERS", "Encoder", "EncoderCard", "load_encoder"]
