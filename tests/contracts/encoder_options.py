"""How the conformance tests build each encoder of the table: on tiny random checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.contracts.checkpoints import (
    write_byol_s,
    write_efficientat,
    write_imagebind,
    write_languagebind,
    write_speech,
)
from tests.contracts.checkpoints_ast import write_ast, write_clap, write_pe_audio
from tests.contracts.checkpoints_small import write_light_asd, write_xvector
from tests.contracts.checkpoints_ssl import write_beats, write_dasheng, write_eat
from tests.contracts.checkpoints_w2v_bert import write_w2v_bert
from tests.contracts.checkpoints_whisper import write_whisper


def built(write: Callable[..., Path], *args: Any) -> Callable[[Path], dict[str, Any]]:
    """Return the options that name a checkpoint which `write` writes into a folder."""
    return lambda tmp_path: {"checkpoint": write(tmp_path / write.__name__, *args)}


# Name of the encoder: folder to write into -> options of `load_encoder`.
ENCODER_OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "spectral": lambda tmp_path: {},
    "prosodic": lambda tmp_path: {},
    "imagebind": built(write_imagebind),
    "languagebind": built(write_languagebind),
    "wavlm": built(write_speech, "wavlm-group"),
    "unispeech-sat": built(write_speech, "unispeech-sat-layer"),
    "wav2vec2": built(write_speech, "wav2vec2-group"),
    "xls-r": built(write_speech, "wav2vec2-layer"),
    "mms": built(write_speech, "wav2vec2-layer"),
    "hubert": built(write_speech, "hubert-group"),
    "data2vec-audio": built(write_speech, "data2vec-audio"),
    "voc2vec": built(write_speech, "hubert-group"),
    "w2v-bert": built(write_w2v_bert),
    "whisper": built(write_whisper),
    "ast": built(write_ast),
    "clap": built(write_clap),
    "pe-audio": built(write_pe_audio),
    "dasheng": built(write_dasheng),
    "eat": built(write_eat),
    "beats": built(write_beats),
    "xvector": built(write_xvector),
    "light-asd": built(write_light_asd),
    "byol-s": built(write_byol_s),
    "efficientat-mn04": built(write_efficientat),
    "speech": built(write_speech, "unispeech-group"),
}
