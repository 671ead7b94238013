"""A tiny ImageBind with much else in its file, and what is left in the folder of its tower."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tests.contracts.checkpoints import IMAGEBIND_CONFIG, imagebind_tensors

from nver.encoders import imagebind
from nver.encoders.remote import kept_file

OTHERS = {"modality_trunks.vision.big": np.zeros(100_000, dtype=np.float32)}
TENSORS = imagebind_tensors() | OTHERS
AUDIO = {name: value for name, value in TENSORS.items() if imagebind.is_audio(name)}
BYTES = sum(value.nbytes for value in AUDIO.values())
CONFIG = json.dumps(IMAGEBIND_CONFIG).encode()


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*"))


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.part"))


def left() -> tuple[list[str], list[Path]]:
    """Return what lies where towers of ImageBind are kept: files, and parts of downloads."""
    folder = kept_file("imagebind", "").parent
    return visible(folder), parts(folder)
