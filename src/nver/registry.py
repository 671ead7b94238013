"""Tables of named parts, and how a name finds its part.

A table maps a name to ``"module:attribute"``; entry points of the same group add the parts of other
packages. Nothing is imported before it is asked for, so listing the names costs nothing. A part of
the user's own is a class in a file, ``FILE.py:CLASS``, which is run.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from nver.errors import MissingExtraError, NverError, UnknownNameError


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


def path_of(name: str) -> Path:
    """Return the file of ``FILE.py:CLASS``."""
    return Path(name.rpartition(":")[0]).expanduser().resolve()


def from_file(name: str, refused: type[NverError]) -> Callable[..., Any]:
    """Return what ``FILE.py:CLASS`` names; the same object while the file's text is the same.

    Raises
    ------
    refused
        If there is no such file, it cannot be run, or it is neither a class nor a function.
    UnknownNameError
        If the file has nothing of that name.
    """
    path, attribute = path_of(name), name.rpartition(":")[2]
    if not path.is_file():
        raise refused(f"'{name}' must be FILE.py:CLASS, and there is no file {path}.")
    try:
        module = _run(path, path.read_bytes())
    except Exception as error:
        raise refused(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        made = [
            known
            for known, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__
        ]
        raise unknown(f"class of {path.name}", attribute, made)
    found: Callable[..., Any] = getattr(module, attribute)
    if not callable(found):
        raise refused(
            f"'{name}' must name a class or function, '{attribute}' is a {type(found).__name__}."
        )
    return found


@lru_cache(maxsize=32)
def _run(path: Path, text: bytes) -> ModuleType:
    name = f"nver_own_{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses of the file look themselves up there
    exec(compile(text, path, "exec"), vars(module))  # noqa: S102 - the user's own file
    return module
