"""Whether there is memory for what the gradient of very many iterations needs.

The exact adjoint reads the scalings or potentials of every iteration that ran. Where those take
more than the machine has left, a sentence beats a process that the system kills.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nver.errors import SettingsError

MUCH = 2**31
"""Bytes up to which nobody asks."""
FACTS = Path("/proc/meminfo")


def check_room(held: int, more: int, iterations: int, device: torch.device) -> None:
    """Refuse to go on where the memory is nearly used up.

    Parameters
    ----------
    held : int
        Bytes that are kept for these iterations, or would have to be.
    more : int
        Bytes that are still to come.
    iterations : int
        That ran.
    device : torch.device
        A GPU says by itself that its memory is full.

    Raises
    ------
    SettingsError
        If `more` is more than is left.
    """
    if held <= MUCH or device.type != "cpu" or (left := _left()) is None or more <= left:
        return
    raise too_much(held, iterations)


def too_much(held: int, iterations: int) -> SettingsError:
    """Return what to say where so many bytes are kept, or would have to be."""
    return SettingsError(
        f"The gradient of a plan reads what every iteration leaves behind: {held / 2**30:.1f} GiB "
        f"after {iterations:,} iterations, and the memory does not suffice. Ask for fewer "
        "iterations, a larger eps or tolerance, fewer problems at once, or no gradient of the plan."
    )


def _left() -> int | None:
    """Return the bytes that programs can still get; None where the system does not tell."""
    try:
        lines = FACTS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration, ValueError):
        return None
