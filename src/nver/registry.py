"""Tables of named parts, and how a name finds its part.

A table maps a name to ``"module:attribute"``; entry points of the same group add the parts of other
packages. Nothing is imported before it is asked for, so listing the names costs nothing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from nver.errors import MissingExtraError, UnknownNameError


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, or None when none resembles it.

    >>> nearest("Prosodik", ["spectral", "prosodic"])
    'prosodic'
    """
    plain = {other.casefold().replace("_", "-"): other for other in known}
    match = difflib.get_close_matches(name.casefold().replace("_", "-"), plain, n=1, cutoff=0.5)
    return plain[match[0]] if match else None


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a `name` that no table holds: the nearest known one, then all."""
    known = sorted(known)
    guess = nearest(name, known)
    hint = f"Did you mean '{guess}'? " if guess else ""
    return UnknownNameError(f"Unknown {kind} '{name}'. {hint}Known: {', '.join(known)}.")


def require(module: str, extra: str, what: str = "This") -> ModuleType:
    """Import an optional `module`, for `what` needs it.

    Raises
    ------
    MissingExtraError
        If it is not installed; the message names the `extra` that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs the package '{module}', which is not installed. Install nver with its "
            f"extra '{extra}': pip install 'nver[{extra}]' (in a checkout: '.[{extra}]')."
        ) from error


@dataclass(frozen=True)
class Registry:
    """A visible table of named parts.

    Parameters
    ----------
    kind : str
        What the parts are, for messages ("encoder").
    table : mapping of str to str
        Name to ``"module:attribute"``.
    group : str
        Entry-point group under which other packages add theirs.
    """

    kind: str
    table: Mapping[str, str]
    group: str

    def targets(self) -> dict[str, str]:
        """Return every known name with its target; the own table wins over entry points."""
        found = {point.name: point.value for point in entry_points(group=self.group)}
        return found | dict(self.table)

    def names(self) -> tuple[str, ...]:
        """Return the known names: the table's order, then entry points by name."""
        return tuple(self.table) + tuple(sorted(set(self.targets()) - set(self.table)))

    def load(self, name: str) -> Any:
        """Import and return the part called `name`.

        Raises
        ------
        UnknownNameError
            If no table holds the name.
        """
        known = self.table
        if name not in known:  # 2 ms, as entry points are read from the disk
            known = self.targets()
        if name not in known:
            raise unknown(self.kind, name, known)
        module, _, attribute = known[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
