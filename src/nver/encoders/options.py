"""Options of encoders as the command line gives them: numbers are numbers, the rest is text."""

from __future__ import annotations

from nver.errors import SettingsError

WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def truth(option: str, value: bool | int | str) -> bool:
    """Return a truth value: True, 1, "yes", "true" or their opposites.

    Raises
    ------
    SettingsError
        If it is none.

    Examples
    --------
    >>> truth("normalise", "no"), truth("normalise", 1)
    (False, True)
    """
    word = str(value).lower()
    if word not in WORDS:
        raise SettingsError(f"{option} must be yes or no, it is {value!r}.")
    return WORDS[word]


def whole_number(option: str, value: int | str, least: int) -> int:
    """Return a whole number.

    Raises
    ------
    SettingsError
        If it is none, or below `least`.

    Examples
    --------
    >>> whole_number("seed", 3, 0)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{option} must be a whole number from {least}, it is {value!r}.")
    return value
