"""One point of the report's first lines, and the words that all of them use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """One point of the summary.

    Parameters
    ----------
    topic : str
        What it is about, in one or two words.
    text : str
        One to three sentences.
    alarm : bool
        Whether a reader must know it before believing a figure.
    details : tuple of str
        A list below the text.
    """

    topic: str
    text: str
    alarm: bool = False
    details: tuple[str, ...] = ()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "fold"), counted(1800, "clip")
    ('1 fold', '1,800 clips')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Return names as prose.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
