"""kill -9 in the middle of a run, and several writers at once."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nver.extraction import extract
from nver.store import EmbeddingStore

SCRIPT = Path(__file__).with_name("interrupted_run.py")
CLIPS = 160


@pytest.fixture(scope="module")
def script():
    """Return the module that the killed processes run."""
    spec = importlib.util.spec_from_file_location("interrupted_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a folder of clips whose lengths are all different: a length names a clip."""
    folder = tmp_path_factory.mktemp("tones")
    for number in range(CLIPS):
        time_ = np.arange(length(number)) / 8000
        soundfile.write(folder / f"{number:03d}.wav", 0.4 * np.sin(2500 * time_), 8000)
    return folder


def length(number: int) -> int:
    return 800 + 5 * number


def started(root: Path, place: Path, log: Path, *most: str) -> subprocess.Popen:
    log.touch()
    return subprocess.Popen([sys.executable, str(SCRIPT), str(root), str(place), str(log), *most])


def encoded(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()]


def stored(script, place: Path) -> dict[str, np.ndarray]:
    """Return every entry of the store, read by a table that knows nothing yet."""
    table = EmbeddingStore(place).open(script.Slow.card)
    keys = sorted(table.keys())
    return dict(zip(keys, table.get(keys), strict=True))


def test_a_killed_run_loses_nothing_and_repeats_nothing(script, root, tmp_path):
    place, kept = tmp_path / "store", {}
    for kill in range(2):
        log = tmp_path / f"log{kill}"
        process = started(root, place, log, "50")
        while process.poll() is None and len(encoded(log)) < 30:
            time.sleep(0.003)
        process.kill()  # SIGKILL: no handler runs
        assert process.wait() == -9, "the run ended before it was killed"
        entries = stored(script, place)
        for key, vector in kept.items():
            np.testing.assert_array_equal(entries[key], vector)
        lengths = {int(vector[2]) for vector in entries.values()}
        before = {int(vector[2]) for vector in kept.values()}
        fresh = encoded(log)
        assert len(entries) == len(lengths), "an entry stands twice"
        assert not before & set(fresh), "a stored clip was encoded again"
        assert lengths - before <= set(fresh), "an entry that nobody computed"
        assert len(set(fresh) - lengths) <= 4, "more was lost than the batch in flight"
        kept = entries
    assert 0 < len(kept) < CLIPS

    log = tmp_path / "last"
    assert started(root, place, log).wait(timeout=300) == 0
    before = {int(vector[2]) for vector in kept.values()}
    assert set(encoded(log)) == {length(number) for number in range(CLIPS)} - before
    assert len(encoded(log)) == CLIPS - len(before)
    whole = EmbeddingStore(tmp_path / "whole")
    result = extract(script.corpus(root), [script.Slow()], whole)
    keys = list(result.digests.values())
    found, expected = (
        store.open(script.Slow.card).get(keys) for store in (EmbeddingStore(place), whole)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_two_runs_at_once_fill_one_store(script, root, tmp_path):
    place, logs = tmp_path / "store", [tmp_path / "one", tmp_path / "two"]
    processes = [started(root, place, log) for log in logs]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    entries = stored(script, place)
    assert sorted(int(vector[2]) for vector in entries.values()) == sorted(
        length(number) for number in range(CLIPS)
    )
    log = tmp_path / "after"
    assert started(root, place, log).wait(timeout=300) == 0
    assert encoded(log) == []
