"""Encoders that are in no table: a class in a file of the user's, and any known network of the hub.

``FILE.py:CLASS`` names a class (or a function that builds an encoder) in a Python file, which is
run. ``hf:ORG/NAME`` and ``hf:FOLDER`` name a checkpoint whose ``config.json`` says of which network
it is.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nver.encoders.checkpoint import CONFIG_FILE, read_json
from nver.encoders.hub import HUB_ID, refusal
from nver.encoders.network import offline
from nver.errors import CheckpointError, EncoderError
from nver.home import weights_folders
from nver.registry import nearest, require, unknown

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


def from_file(name: str) -> Callable[..., Any]:
    """Return what ``FILE.py:CLASS`` names.

    Raises
    ------
    EncoderError
        If there is no such file, it cannot be run, or it is neither a class nor a function.
    UnknownNameError
        If the file has nothing of that name.
    """
    file, _, attribute = name.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise EncoderError(f"'{name}' must be FILE.py:CLASS, and there is no file {path}.")
    module_name = f"nver_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise EncoderError(f"{path} cannot be read as a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses of the file look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise EncoderError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        names = [known for known in vars(module) if not known.startswith("_")]
        raise unknown(f"class of {path.name}", attribute, names)
    found: Callable[..., Any] = getattr(module, attribute)
    if not callable(found):
        raise EncoderError(
            f"'{name}' must name a class or function, '{attribute}' is a {type(found).__name__}."
        )
    return found


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
    found = str(read_json(config).get("model_type"))
    if found not in TYPES:
        guess = nearest(found, TYPES)
        hint = f" The nearest one is '{guess}'." if guess else ""
        raise EncoderError(
            f"'hf:' reads model_type {', '.join(TYPES)}; {config} says '{found}'.{hint} "
            "Other encoders are named by their own name, see `nver encoders`."
        )
    return TYPES[found]


def config_file(checkpoint: str | Path) -> Path:
    """Return the ``config.json`` of a local folder or of a model of the hub."""
    name = str(checkpoint)
    for folder in (Path(name).expanduser(), *(place / name for place in weights_folders())):
        if folder.is_dir():
            return folder / CONFIG_FILE
    repository, _, revision = name.partition("@")
    if not HUB_ID.fullmatch(repository):
        raise CheckpointError(
            f"'hf:' takes a hub id (hf:ORG/NAME) or a folder; '{name}' is neither."
        )
    require("huggingface_hub", "speech")
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            repository, CONFIG_FILE, revision=revision or None, local_files_only=offline()
        )
    except Exception as error:
        raise CheckpointError(
            f"The configuration of '{repository}' could not be had: {refusal(repository, error)}"
        ) from error
    return Path(path)
