"""When the network may be asked, and what is said before something large comes over it.

Nothing is downloaded silently: one line says what comes, how large it is, under which licence, from
where and to where. It is a warning of the logger, so that it is seen where logging is not set up.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from nver.errors import CheckpointError

_logger = logging.getLogger(__name__)


def offline() -> bool:
    """Return whether $HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def require_network(what: str) -> None:
    """Refuse to go on where $HF_HUB_OFFLINE forbids the network.

    Raises
    ------
    CheckpointError
        If it does; the message says for `what` it was needed.
    """
    if offline():
        raise CheckpointError(
            f"{what} would have to be downloaded, and HF_HUB_OFFLINE forbids the network. Unset "
            "it, or copy the file here and pass its path."
        )


def megabytes(count: int | None) -> str:
    """Return a number of bytes for people.

    >>> megabytes(344_942_596), megabytes(20_500), megabytes(None)
    ('345 MB', '0.02 MB', 'unknown size')
    """
    if count is None:
        return "unknown size"
    return f"{count / 1e6:.0f} MB" if count >= 10_000_000 else f"{count / 1e6:.2f} MB"


def announce(what: str, size: str, licence: str, source: str, target: object) -> None:
    """Say in one line what is about to be downloaded.

    Parameters
    ----------
    what : str
        What it is.
    size : str
        How large, as `megabytes` writes it.
    licence : str
        Of what is downloaded.
    source : str
        Where it comes from.
    target : path
        Where it goes to.
    """
    _logger.warning(
        "Downloading %s: %s, licence %s, from %s to %s", what, size, licence, source, target
    )


def say(line: str) -> None:
    """Say something else about a download, as `announce` does."""
    _logger.warning(line)


def progress(what: str, done: int, total: int | None) -> Any:
    """Return a bar of bytes on standard error: none where it is no terminal, none before 2 s."""
    from tqdm import tqdm

    return tqdm(
        desc=what,
        initial=done,
        total=total,
        unit="B",
        unit_scale=True,
        delay=2,
        disable=None,
        dynamic_ncols=True,
    )
