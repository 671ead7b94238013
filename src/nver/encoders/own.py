"""Encoders that are in no table: a class in a file of the user's, and any known network of the hub.

``FILE.py:CLASS`` names a class (or a function that builds an encoder) in a Python file, which is
run. ``hf:ORG/NAME`` and ``hf:FOLDER`` name a checkpoint whose ``config.json`` says of which network
it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from nver.audio import Waveform
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.checkpoint import CONFIG_FILE, read_json
from nver.encoders.hub import HUB_ID, reach, refusal
from nver.encoders.network import require_network
from nver.errors import CheckpointError, EncoderError
from nver.home import weights_folders
from nver.own_code import code_of, from_file
from nver.registry import nearest, require
from nver.shapes import Embeddings, Mono

TYPES = {
    "wav2vec2": "speech",
    "hubert": "speech",
    "wavlm": "speech",
    "unispeech": "speech",
    "unispeech-sat": "speech",
    "data2vec-audio": "speech",
    "wav2vec2-bert": "w2v-bert",
    "whisper": "whisper",
    "audio-spectrogram-transformer": "ast",
    "clap": "clap",
    "clap_audio_model": "clap",
    "pe_audio": "pe-audio",
    "pe_audio_encoder": "pe-audio",
    "pe_audio_video": "pe-audio",
    "LanguageBindAudio": "languagebind",
}
"""``model_type`` of a configuration to the encoder that reads it."""


class FromFile(Encoder):
    """An encoder of a file, whose fingerprint follows the file's code.

    Whoever changes it and runs it again must not meet the embeddings of the old one.

    Parameters
    ----------
    inner : Encoder
        What the file's class built.
    digest : str
        Of `nver.own_code.code_of`.
    """

    def __init__(self, inner: Encoder, digest: str) -> None:
        self._inner, self._digest = inner, digest

    @property
    def card(self) -> EncoderCard:
        """The facts of the encoder, and the file's digest."""
        card = self._inner.card
        return replace(card, facts={**card.facts, "file": self._digest})

    def features(self, samples: Mono) -> np.ndarray:
        """Return what the encoder makes of the samples."""
        return self._inner.features(samples)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the encoder's embeddings."""
        return self._inner.embed(inputs)

    def resample(self, waveform: Waveform) -> Waveform:
        """Return the clip as the encoder resamples it."""
        return self._inner.resample(waveform)

    def frontend(self, waveform: Waveform) -> np.ndarray:
        """Return the encoder's input for a clip."""
        return self._inner.frontend(waveform)


def builder_in(name: str) -> Callable[..., Any]:
    """Return what builds the encoder that ``FILE.py:CLASS`` names, with the class's options.

    Raises
    ------
    EncoderError
        As `nver.own_code.from_file`, or if the class lacks a member.
    UnknownNameError
        If the file has nothing of that name.
    """
    build = from_file(name, EncoderError)
    lacking = sorted(getattr(build, "__abstractmethods__", ()))
    if lacking:
        raise EncoderError(
            f"Encoder '{name}' lacks {' and '.join(lacking)}: a class needs card, features and "
            "embed."
        )
    digest = code_of(name)

    @wraps(build)
    def built(*args: Any, **options: Any) -> Any:
        found = build(*args, **options)
        return FromFile(found, digest) if isinstance(found, Encoder) else found

    built.__signature__ = signature_of(build)  # type: ignore[attr-defined]
    return built


def signature_of(build: Callable[..., Any]) -> inspect.Signature:
    """Return the options of a class or function; none where it tells nothing."""
    try:
        return inspect.signature(build)
    except ValueError:
        return inspect.Signature()


def name_of_type(checkpoint: str | Path) -> str:
    """Return the encoder that reads a checkpoint, by the ``model_type`` of its configuration.

    Parameters
    ----------
    checkpoint : path or str
        A folder, its name below `nver.home.weights_folders`, or a hub id, ``ID@REVISION``.

    Raises
    ------
    EncoderError
        If no encoder reads such a network.
    CheckpointError
        If there is no such checkpoint.
    MissingExtraError
        If it is a hub id and `huggingface_hub` is not installed.
    """
    config = config_file(checkpoint)
    found = str(read_json(config).get("model_type", ""))
    if found not in TYPES:
        guess = nearest(found, TYPES)
        hint = f" The nearest one is '{guess}'." if guess else ""
        said = f"says '{found}'" if found else "says none"
        raise EncoderError(
            f"'hf:' reads model_type {', '.join(TYPES)}; {config} {said}.{hint} Other encoders are "
            "named by their own name, see `nver encoders`."
        )
    return TYPES[found]


def config_file(checkpoint: str | Path) -> Path:
    """Return the ``config.json`` of a local folder or of a model of the hub."""
    name = str(checkpoint)
    if not name:
        raise CheckpointError("'hf:' takes a hub id (hf:ORG/NAME) or a folder, it got nothing.")
    for folder in (Path(name).expanduser(), *(place / name for place in weights_folders())):
        if folder.is_dir():
            return folder / CONFIG_FILE
    repository, _, revision = name.partition("@")
    if not HUB_ID.fullmatch(repository):
        raise CheckpointError(
            f"'hf:' takes a hub id (hf:ORG/NAME) or a folder; '{name}' is neither."
        )
    require("huggingface_hub", "speech")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, CONFIG_FILE, revision=revision or None)
    if isinstance(cached, str):
        return Path(cached)
    require_network(f"The configuration of '{repository}'")
    try:
        reach(repository, CONFIG_FILE, revision or None)  # the client alone would try for long
        path = hf_hub_download(repository, CONFIG_FILE, revision=revision or None)
    except Exception as error:
        raise CheckpointError(
            f"The configuration of '{repository}' could not be had: {refusal(repository, error)}"
        ) from error
    return Path(path)
