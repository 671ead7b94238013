"""The encoders: a table of names, and `load_encoder`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.catalogue import CATALOGUE, checkpoint_of
from nver.encoders.own import builder_in, name_of_type
from nver.errors import MissingExtraError, SettingsError
from nver.registry import Registry

ENCODERS = Registry(
    kind="encoder",
    table={
        "spectral": "nver.encoders.spectral:SpectralEncoder",
        "prosodic": "nver.encoders.prosodic:ProsodicEncoder",
        "imagebind": "nver.encoders.imagebind:ImageBindEncoder",
        "languagebind": "nver.encoders.languagebind:LanguageBindEncoder",
        "wavlm": "nver.encoders.speech:wavlm",
        "unispeech-sat": "nver.encoders.speech:unispeech_sat",
        "wav2vec2": "nver.encoders.speech:wav2vec2",
        "xls-r": "nver.encoders.speech:xls_r",
        "mms": "nver.encoders.speech:mms",
        "hubert": "nver.encoders.speech:hubert",
        "data2vec-audio": "nver.encoders.speech:data2vec_audio",
        "voc2vec": "nver.encoders.speech:voc2vec",
        "w2v-bert": "nver.encoders.w2v_bert:W2vBertEncoder",
        "whisper": "nver.encoders.whisper:WhisperEncoder",
        "ast": "nver.encoders.ast:ASTEncoder",
        "clap": "nver.encoders.clap:ClapEncoder",
        "pe-audio": "nver.encoders.pe_audio:PEAudioEncoder",
        "dasheng": "nver.encoders.dasheng:DashengEncoder",
        "eat": "nver.encoders.eat:EATEncoder",
        "beats": "nver.encoders.beats:BEATsEncoder",
        "xvector": "nver.encoders.xvector:XVectorEncoder",
        "light-asd": "nver.encoders.light_asd:LightASDEncoder",
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
        A name of the table (`nver encoders` lists them); ``hf:ORG/NAME`` (or ``hf:FOLDER``), any
        checkpoint whose ``config.json`` names a network that the table reads; or
        ``FILE.py:CLASS``, an encoder of your own.
    checkpoint : path or str, optional
        A local folder or file, a hub id, or a short name of what is published for the encoder.
        Without it the encoder looks in $NVER_WEIGHTS and NVER_HOME/weights, then for what is
        published.
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
    if name.startswith("hf:"):
        if checkpoint is not None:
            raise SettingsError(
                f"'{name}' names its checkpoint, it takes no '{checkpoint}' beside."
            )
        checkpoint = name.removeprefix("hf:")
        name = name_of_type(checkpoint)
    build = builder_in(name) if ".py:" in name else _from_table(name)
    try:
        return _built(name, build, checkpoint_of(name, checkpoint), options)
    except MissingExtraError as error:
        raise MissingExtraError(f"Encoder '{name}': {error}") from error


def _built(name: str, build: Any, checkpoint: Any, options: Mapping[str, Any]) -> Encoder:
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


def _from_table(name: str) -> Any:
    if name.endswith(".py"):
        raise SettingsError(
            f"An encoder of your own is named FILE.py:CLASS, '{name}' has no class."
        )
    return ENCODERS.load(name)


__all__ = ["CATALOGUE", "ENCODERS", "Encoder", "EncoderCard", "load_encoder"]
