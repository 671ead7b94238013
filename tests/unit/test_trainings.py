"""Saved trainings: whole or absent, and found under nothing but their own key."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nver import trainings
from nver.trainings import Digest, SavedTrainings, engine

KEY, OTHER = "a" * 64, "b" * 64
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@pytest.fixture
def saved(tmp_path):
    return SavedTrainings(tmp_path / "trainings")


def test_what_was_saved_comes_back(saved):
    given_ = np.random.default_rng(0).random((7, 3)).astype(np.float32)
    saved.put(KEY, {"rule ": given_, "rule inductive": given_[:2]}, {"seconds": {"": 1.5}})
    found = SavedTrainings(saved.folder).get(KEY)
    np.testing.assert_array_equal(found.arrays["rule "], given_)
    np.testing.assert_array_equal(found.arrays["rule inductive"], given_[:2])
    assert found.facts == {"seconds": {"": 1.5}}
    assert saved.get(OTHER) is None
    assert [path.name for path in saved.folder.iterdir()] == [f"{KEY}.npz"]


def test_nothing_is_made_before_something_is_saved(saved):
    assert saved.get(KEY) is None
    assert not saved.folder.exists()


def test_a_damaged_file_counts_as_absent(saved):
    saved.put(KEY, {"rule": np.arange(100.0)}, {"notes": []})
    path = saved.folder / f"{KEY}.npz"
    whole = path.read_bytes()
    for damaged in (b"", whole[:40], whole[:-30], b"no archive", np.arange(3).tobytes()):
        path.write_bytes(damaged)
        assert saved.get(KEY) is None
    at = whole.index(np.arange(100.0)[50:52].tobytes())
    path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])  # one byte of the numbers
    assert saved.get(KEY) is None
    saved.put(KEY, {"rule": np.arange(100.0)}, {"notes": []})
    assert saved.get(KEY) is not None


def test_a_file_under_another_name_or_of_another_format_is_not_taken(saved, monkeypatch):
    saved.put(KEY, {}, {})
    (saved.folder / f"{KEY}.npz").rename(saved.folder / f"{OTHER}.npz")
    assert saved.get(OTHER) is None
    monkeypatch.setattr(trainings, "FORMAT", "nver training 0")
    saved.put(KEY, {}, {})
    monkeypatch.undo()
    assert saved.get(KEY) is None


def test_objects_are_neither_written_nor_read(saved):
    saved.put(KEY, {"rule": np.zeros(2)}, {})
    with (saved.folder / f"{KEY}.npz").open("wb") as file:
        np.savez(file, about=np.array([{"format": trainings.FORMAT, "key": KEY}], dtype=object))
    assert saved.get(KEY) is None


def test_leftovers_of_killed_runs_go_and_those_of_running_ones_stay(saved):
    saved.folder.mkdir(parents=True)
    old, fresh, foreign = (saved.folder / name for name in (".a.1.tmp", ".b.2.tmp", "notes.txt"))
    for path in (old, fresh, foreign):
        path.write_text("half")
        os.utime(path, (time.time() - 7200,) * 2)
    os.utime(fresh)
    saved.put(KEY, {}, {})
    assert {path.name for path in saved.folder.iterdir()} == {fresh.name, "notes.txt", f"{KEY}.npz"}


def test_a_failing_write_leaves_nothing(saved):
    with pytest.raises(TypeError):
        saved.put(KEY, {}, {"notes": object()})
    assert list(saved.folder.iterdir()) == []


@given(PLAIN, PLAIN)
def test_equal_values_and_no_others_have_equal_digests(one, other):
    def text(value):
        return Digest().add(value).key

    assert (text(one) == text(other)) == (repr(one) == repr(other) or _same(one, other))


def _same(one, other):
    import json

    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=8)), st.data()
)
def test_one_changed_number_changes_the_digest(X, data):
    before = Digest().add(X).key
    assert Digest().add(np.asfortranarray(X)).key == before
    assert Digest().add(X.copy()).key == before
    assert Digest().add(X.astype(np.float64)).key != before
    assert Digest().add(X.reshape(-1, 1)).key != before or X.shape[1] == 1
    changed = X.copy()
    at = tuple(data.draw(st.integers(0, side - 1)) for side in X.shape)
    changed[at] = np.nextafter(changed[at], np.float32(np.inf)) if changed[at] < 1 else 0.5
    if changed[at].tobytes() != X[at].tobytes():
        assert Digest().add(changed).key != before


def test_blocks_are_no_part_of_the_digest(monkeypatch):
    X = np.random.default_rng(0).random((100, 3))
    before = Digest().add(X, np.array(["laugh", "cry"]), np.array(["s1", None], dtype=object)).key
    monkeypatch.setattr(trainings, "BLOCK", 7)
    after = Digest().add(X, np.array(["laugh", "cry"]), np.array(["s1", None], dtype=object)).key
    assert before == after


def test_the_engine_is_the_source_that_computes(monkeypatch, tmp_path):
    package = tmp_path / "nver"
    (package / "fusion").mkdir(parents=True)
    (package / "report").mkdir()
    for name in ("trainings.py", "training.py", "fusion/mata.py", "report/html.py", "cli.py"):
        (package / name).write_text("x = 1\n")
    monkeypatch.setattr(trainings, "__file__", str(package / "trainings.py"))

    def now():
        engine.cache_clear()
        return engine()

    before = now()
    (package / "report" / "html.py").write_text("x = 2\n")
    (package / "cli.py").write_text("x = 2\n")
    assert now() == before
    for name in ("training.py", "fusion/mata.py"):
        (package / name).write_text("x = 2\n")
        assert now() != before
        before = now()
    (package / "kernels.so").write_bytes(b"\x7fELF")  # a part that nobody has thought of
    assert now() != before
    before = now()
    monkeypatch.setattr(trainings.provenance, "versions", lambda: {"torch": "0.1"})
    assert now() != before
    engine.cache_clear()


def test_what_changes_no_training_is_there():
    root = Path(trainings.__file__).parent
    missing = [name for name in trainings.ASIDE if not (root / name).exists()]
    assert set(missing) <= {"__pycache__", "serve"}
