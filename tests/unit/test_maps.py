from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from contracts.interrupted_grid import dataset
from nver import maps as room
from nver.maps import maps
from nver.report import projection


@pytest.fixture
def drawn(monkeypatch):
    """Return a list of the embeddings that were mapped, by a map that takes no time."""
    seen = []

    def project(X, labels):
        seen.append(X)
        return projection.Projection(np.arange(0, len(X), 2), X[::2, :2].copy())

    monkeypatch.setattr(projection, "project", project)
    return seen


@pytest.fixture
def data():
    return replace(dataset(), views={"a": slice(0, 2), "b": slice(2, 4)})


def test_every_encoder_has_its_map(data, drawn):
    seen = []
    table = maps(data, progress=lambda *args: seen.append(args))
    assert list(table.columns) == ["file", "encoder", "x", "y", "label", "speaker"]
    for name, rows in table.groupby("encoder"):
        np.testing.assert_array_equal(rows[["x", "y"]], data.view(name)[::2])
        assert rows["file"].tolist() == list(data.files[::2])
        assert rows["label"].tolist() == data.y[::2].tolist()
        assert rows["speaker"].tolist() == data.speakers[::2].tolist()
    assert seen == [("t-SNE maps", done, 2) for done in (0, 1, 2)]


def test_a_map_is_made_once(data, drawn, tmp_path):
    first = maps(data, tmp_path)
    again = maps(data, tmp_path)
    assert len(drawn) == 2
    pd.testing.assert_frame_equal(first, again)
    X = data.X.copy()
    X[0, 3] += 1
    maps(replace(data, X=X), tmp_path)  # of encoder b only
    assert len(drawn) == 3
    y = data.y.copy()
    y[0] = "laugh"
    maps(replace(data, y=y), tmp_path)
    assert len(drawn) == 5


def test_without_a_folder_nothing_is_kept(data, drawn, tmp_path):
    for _ in range(2):
        maps(data)
    assert len(drawn) == 4


def test_side_by_side_they_are_the_same(data, monkeypatch):
    alone = maps(data, jobs=1)
    monkeypatch.setattr(room, "WORTH_PROCESSES", 10)
    pd.testing.assert_frame_equal(maps(data, jobs=2), alone)
