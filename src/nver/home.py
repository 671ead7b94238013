"""NVER_HOME: the one folder where nver keeps embeddings, maps of them, weights, made corpora."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return $NVER_HOME, or the platform's cache folder for nver. It may not exist yet."""
    chosen = os.environ.get("NVER_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("nver", appauthor=False)


def weights_folders() -> tuple[Path, ...]:
    """Return where checkpoints are looked for: $NVER_WEIGHTS (a path list), NVER_HOME/weights."""
    listed = os.environ.get("NVER_WEIGHTS", "")
    named = [Path(part).expanduser().absolute() for part in listed.split(os.pathsep) if part]
    return (*named, home() / "weights")
