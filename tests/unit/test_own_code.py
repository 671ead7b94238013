"""Code of the user's own: what it may import, and what its hash follows."""

from __future__ import annotations

import hashlib
import sys

import pytest

from nver.errors import SettingsError
from nver.own_code import code_of, from_file

FILE = (
    "import layers\nfrom parts.inner import size\n\n\ndef own():\n    return layers.WIDTH, size()\n"
)


@pytest.fixture
def file(tmp_path):
    """Return a file with a module and a package beside it, each of which imports another one."""
    (tmp_path / "layers.py").write_text("from widths import WIDTH\n")
    (tmp_path / "widths.py").write_text("WIDTH = 1\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "inner.py").write_text("from . import deep\nsize = lambda: deep.SIZE\n")
    (tmp_path / "parts" / "deep.py").write_text("import parts.inner\nSIZE = 2\n")
    (tmp_path / "unused.py").write_text("1 / 0\n")
    path = tmp_path / "own.py"
    path.write_text(FILE)
    return path


def test_a_file_imports_what_lies_beside_it_and_nobody_else_can(file):
    path, finders, modules = list(sys.path), list(sys.meta_path), set(sys.modules)
    assert from_file(f"{file}:own", SettingsError)() == (1, 2)
    assert (sys.path, sys.meta_path) == (path, finders)
    assert set(sys.modules) - modules <= {"nver_own_own"}  # another test may have run one
    with pytest.raises(ModuleNotFoundError):
        import layers  # noqa: F401


def test_it_is_the_same_object_until_something_that_it_uses_changes(file):
    first = from_file(f"{file}:own", SettingsError)
    assert from_file(f"{file}:own", SettingsError) is first
    (file.parent / "unused.py").write_text("2 / 0\n")
    assert from_file(f"{file}:own", SettingsError) is first
    # Of the same length and within a second: a compiled file would count as fresh.
    (file.parent / "widths.py").write_text("WIDTH = 5\n")
    (file.parent / "parts" / "deep.py").write_text("import parts.inner\nSIZE = 6\n")
    assert from_file(f"{file}:own", SettingsError)() == (5, 6)
    assert first() == (1, 2)


def test_the_hash_follows_what_is_used_and_nothing_else(file):
    before = code_of(f"{file}:own")
    (file.parent / "unused.py").write_text("2 / 0\n")
    assert code_of(f"{file}:other") == before
    seen = {before}
    for name in ("widths.py", "layers.py", "parts/deep.py", "parts/__init__.py", "own.py"):
        changed = file.parent / name
        changed.write_text(changed.read_text() + "# another version\n")
        seen.add(code_of(f"{file}:own"))
    assert len(seen) == 6


def test_a_file_that_stands_alone_has_the_hash_of_its_text(file):
    alone = file.parent / "widths.py"
    assert code_of(f"{alone}:WIDTH") == hashlib.sha256(alone.read_bytes()).hexdigest()
    assert code_of(f"{file.parent / 'absent.py'}:own") == ""


def test_two_folders_may_have_a_module_of_the_same_name(file, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "layers.py").write_text("WIDTH = 7\n")
    (other / "own.py").write_text("import layers\n\n\ndef own():\n    return layers.WIDTH\n")
    assert from_file(f"{other / 'own.py'}:own", SettingsError)() == 7
    assert from_file(f"{file}:own", SettingsError)() == (1, 2)


def test_what_is_installed_is_not_hidden_by_a_file_beside(tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    own.write_text("import json, tqdm\n\n\ndef own():\n    return json.dumps, tqdm.tqdm\n")
    alone = code_of(f"{own}:own")
    for name in ("json", "tqdm"):
        (tmp_path / f"{name}.py").write_text("1 / 0\n")
    assert callable(from_file(f"{own}:own", SettingsError)()[1])
    assert code_of(f"{own}:own") == alone


@pytest.mark.parametrize("place", ["", "{folder}"])
def test_it_is_the_same_where_the_folder_is_searched_anyway(file, monkeypatch, place):
    before = code_of(f"{file}:own")
    monkeypatch.chdir(file.parent)
    monkeypatch.syspath_prepend(place.format(folder=file.parent))
    assert code_of(f"{file}:own") == before
    assert from_file("own.py:own", SettingsError)() == (1, 2)
    assert not {"layers", "widths", "parts"} & set(sys.modules)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere", "cannot be run: ModuleNotFoundError: No module named 'nowhere'"),
        ("import unused", "cannot be run: ZeroDivisionError"),
        ("import layers as", "cannot be run: SyntaxError"),
    ],
)
def test_what_cannot_be_imported_is_said_and_leaves_nothing(file, text, said):
    finders = list(sys.meta_path)
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        from_file(f"{file}:own", SettingsError)
    assert sys.meta_path == finders
    assert not {"layers", "unused"} & set(sys.modules)
