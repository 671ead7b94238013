"""argparse that guesses what was meant, the numbers that options take, and the exit codes."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from nver.registry import nearest

DONE, ERROR, USAGE, SOME_CLIPS_FAILED, SOME_SYSTEMS_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130

EXIT_CODES = (
    f"Exit codes: {DONE} done; {ERROR} an error, nothing or not all was done; {USAGE} wrong usage; "
    f"{SOME_CLIPS_FAILED} done, but some clips failed; {SOME_SYSTEMS_FAILED} done, but a system "
    f"failed (and clips, maybe); {INTERRUPTED} interrupted."
)


class Paragraphs(argparse.HelpFormatter):
    """argparse's help, in which a line of a description begins a line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            super(Paragraphs, self)._fill_text(s, width, indent) for s in text.split("\n")
        )


class Parser(argparse.ArgumentParser):
    """argparse, with the nearest known name for a command or option that it does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Paragraphs} | options)

    def error(self, message: str) -> NoReturn:
        """Print the message, and what was probably meant; end with exit code 2."""
        parsers: list[argparse.ArgumentParser] = [self]
        known: list[str] = []
        for parser in parsers:
            for action in parser._actions:
                known += action.option_strings
                if isinstance(action, argparse._SubParsersAction):
                    known += action.choices
                    parsers += action.choices.values()
        words = message.replace(",", " ").replace("'", " ").split()
        for word in words:
            guess = nearest(word, known)
            if word not in known and guess and word in sys.argv:
                message += f". Did you mean '{guess}'?"
                break
        super().error(message)


def share(text: str) -> float:
    """Return a number between 0 and 1, the ends excluded."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got '{text}'")
    return value


def positive(text: str) -> int:
    """Return a whole number from 1."""
    return _whole(text, 1)


def two_or_more(text: str) -> int:
    """Return a whole number from 2."""
    return _whole(text, 2)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got '{text}'")
    return int(text)
