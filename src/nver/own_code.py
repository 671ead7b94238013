"""Code of the user's own: a class in a file, ``FILE.py:CLASS``, and the modules beside the file.

The file is run as a script would be: what it imports at its top may lie beside it. Those modules
are its own; they are found by their import statements, in the file and in one another, and are no
longer importable afterwards: two files in two folders may have a ``layers.py`` each. What is
installed is never hidden by a file beside.

The hash of such code (`code_of`) is over the file and all of these modules: whoever changes one of
them must not meet what the earlier version computed.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from nver.errors import NverError
from nver.registry import unknown


def path_of(name: str) -> Path:
    """Return the file of ``FILE.py:CLASS``."""
    return Path(name.rpartition(":")[0]).expanduser().resolve()


def from_file(name: str, refused: type[NverError]) -> Callable[..., Any]:
    """Return what ``FILE.py:CLASS`` names; the same object while the code is the same.

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
        module = _run(path, code_of(name))
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


def code_of(name: str) -> str:
    """Return the SHA-256 of the file of ``FILE.py:CLASS`` and of the modules that it uses.

    It is that of the file alone where it uses none, and "" where there is no file.
    """
    path = path_of(name)
    if not path.is_file():
        return ""
    whole = hashlib.sha256(path.read_bytes())
    folder = path.parent
    for file in sorted(file for files in _beside(path).values() for file in files):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        whole.update(f"\n{file.relative_to(folder).as_posix()} {digest}".encode())
    return whole.hexdigest()


@lru_cache(maxsize=32)
def _run(path: Path, code: str) -> ModuleType:  # noqa: ARG001 - other code is another module
    name = f"nver_own_{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses of the file look themselves up there
    with _importable(path.parent, frozenset(_beside(path))):
        exec(compile(path.read_bytes(), path, "exec"), vars(module))  # noqa: S102 - the user's own
    return module


def _beside(path: Path) -> Mapping[str, tuple[Path, ...]]:
    """Return the modules beside a file that it imports, or that they import, with their files."""
    found: dict[str, tuple[Path, ...]] = {}
    waiting = [path]
    while waiting:
        for name in _imported(waiting.pop()) - set(found):
            if files := _files(path.parent, name):
                found[name] = files
                waiting += files
    return found


def _imported(file: Path) -> set[str]:
    """Return the first part of every name that a file imports anywhere."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # running it says what is wrong
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def _files(folder: Path, name: str) -> tuple[Path, ...]:
    """Return the files of a module or package of a folder; none where it comes from elsewhere."""
    single, package = folder / f"{name}.py", folder / name
    inside = (package / "__init__.py").is_file()
    if not (inside or single.is_file()) or name in sys.stdlib_module_names:
        return ()
    elsewhere = [place for place in sys.path if Path(place).resolve() != folder]
    spec = PathFinder.find_spec(name, elsewhere)
    if spec is not None and spec.origin is not None:
        return ()
    return tuple(sorted(package.rglob("*.py"))) if inside else (single,)


class _Fresh(SourceFileLoader):
    """Compiles the source itself: a compiled file counts as fresh for a second."""

    def get_code(self, fullname: str) -> Any:
        """Return the code of the module."""
        file = self.get_filename(fullname)
        return self.source_to_code(self.get_data(file), file)


class _Finder:
    """Finds modules of a folder by the first part of their names, for one thread."""

    def __init__(self, folder: Path, names: frozenset[str]) -> None:
        self._folder, self._names, self._thread = str(folder), names, threading.get_ident()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return where a module is; None where others have to look for it."""
        if name.partition(".")[0] not in self._names or threading.get_ident() != self._thread:
            return None
        found = PathFinder.find_spec(name, [self._folder] if path is None else path, target)
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = _Fresh(found.name, found.loader.path)
        return found


@contextmanager
def _importable(folder: Path, names: frozenset[str]) -> Iterator[None]:
    """Let this thread import modules of a folder; afterwards nobody can, or has them."""
    finder = _Finder(folder, names)
    before = frozenset(sys.modules)
    PathFinder.invalidate_caches()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for loaded in set(sys.modules) - before:
            if loaded.partition(".")[0] in names:
                del sys.modules[loaded]
