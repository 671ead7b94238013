from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from nver import registry
from nver.errors import MissingExtraError, UnknownNameError
from nver.registry import Registry, require, unknown

TABLE = Registry("shape", {"path": "pathlib:Path", "json": "json:loads"}, group="nver.none")


def test_a_name_loads_its_target() -> None:
    from pathlib import Path

    assert TABLE.load("path") is Path
    assert TABLE.names() == ("path", "json")


def test_an_unknown_name_gets_the_nearest_and_all() -> None:
    with pytest.raises(UnknownNameError) as caught:
        TABLE.load("jsn")
    assert str(caught.value) == "Unknown shape 'jsn'. Did you mean 'json'? Known: json, path."


def test_a_name_like_no_other_gets_no_guess() -> None:
    assert str(unknown("shape", "qqqq", ["json"])) == "Unknown shape 'qqqq'. Known: json."


def test_other_packages_add_names_but_do_not_replace_ours(monkeypatch) -> None:
    points = EntryPoints(
        [
            EntryPoint("zip", "zipfile:ZipFile", "nver.none"),
            EntryPoint("path", "os:path", "nver.none"),
        ]
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    assert TABLE.names() == ("path", "json", "zip")
    assert TABLE.load("zip").__name__ == "ZipFile"
    assert TABLE.load("path").__name__ == "Path"


def test_a_missing_extra_says_how_to_get_it() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_package", "speech")
    assert "pip install 'nver[speech]'" in str(caught.value)


def test_every_public_name_loads() -> None:
    import nver

    for name in nver.__all__:
        assert getattr(nver, name) is not None
    assert set(nver.__all__) == set(dir(nver))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nver.nothing
