"""kill -9 in the middle of a grid of trainings: the same command does what is missing, no more."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).with_name("interrupted_grid.py")
IN_FLIGHT = 2
"""Trainings at most that are done and not saved: each process waits until its last one is."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes by SIGKILL")


@pytest.fixture(scope="module")
def script():
    """Return the module that the killed processes run."""
    spec = importlib.util.spec_from_file_location("interrupted_grid", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(folder, log, *more):
    log.touch()
    argv = [sys.executable, str(SCRIPT), str(folder), str(log), *more]
    return subprocess.Popen(argv)


def kill_after(count, process, done):
    """Kill the process and its workers once `done()` has reached `count`."""
    try:
        while process.poll() is None and done() < count:
            time.sleep(0.003)
    finally:
        _kill(process)
    assert process.wait() == -9, "the run ended before it was killed"


def _kill(process):
    """SIGKILL: no handler runs. Only joblib's tracker lives on, which removes shared memory."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        for one in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "resource_tracker" not in " ".join(one.cmdline()):
                    one.kill()


def files(folder):
    return {path.name for path in folder.glob("*.npz")}


def lines(log):
    return log.read_text().splitlines()


def test_a_killed_grid_loses_nothing_and_repeats_nothing(script, tmp_path):
    folder, logs, kept = tmp_path / "trainings", [], set()
    for count in (4, 15):
        logs.append(tmp_path / f"log{count}")
        process = start(folder, logs[-1], str(count + IN_FLIGHT))
        kill_after(count, process, lambda: len(files(folder)))
        fresh, kept = files(folder) - kept, files(folder)
        assert 0 <= len(lines(logs[-1])) - len(fresh) <= IN_FLIGHT
    before = len(kept)
    assert 15 <= before < script.TRAININGS

    last = tmp_path / "last"
    assert start(folder, last).wait(timeout=300) == 0
    assert len(lines(last)) == len(set(lines(last))) == script.TRAININGS - before
    assert len(files(folder)) == script.TRAININGS
    assert kept < files(folder)
    everything = {line for log in (*logs, last) for line in lines(log)}
    assert len(everything) == script.TRAININGS

    resumed = script.run(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()  # a finished run trains nothing
    whole = script.run(None, tmp_path / "whole")
    assert resumed.frame.equals(whole.frame)
    # Of all trainings; what a killed pack had spent on members that had not finished is lost.
    assert resumed.entries[0].seconds > script.TRAININGS / 3 * script.SLOW


def test_a_killed_search_goes_on_and_chooses_the_same(script, tmp_path):
    pytest.importorskip("optuna")
    folder, last = tmp_path / "trainings", tmp_path / "last"
    process = start(folder, tmp_path / "log", "8", "tune")
    kill_after(8, process, lambda: len(lines(tmp_path / "log")))
    done, kept = lines(tmp_path / "log"), files(folder)
    resumed = script.run(folder, last, trials=6)
    searches = len(script.NAMES) * script.FOLDS
    assert len(files(folder)) == 2 * searches + script.TRAININGS  # what was tried, and chosen
    assert kept < files(folder)
    whole = script.run(None, tmp_path / "whole", trials=6)
    assert resumed.tunings == whole.tunings
    assert len(whole.tunings) == searches
    assert resumed.frame.equals(whole.frame)
    # A search trains nine times at least, so none has ended: those under way go on from their last
    # training.
    assert 1 <= len(kept) <= 2
    again = len(done) + len(lines(last)) - len(lines(tmp_path / "whole"))
    assert 0 <= again <= IN_FLIGHT
