"""Results of several processes, taken one by one while their tasks go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from nver.processes import _Inbox, stream


def counting(task, folder, kill):
    """Yield 0, 1 and 2, each but the first when the one before has been taken."""
    for number in range(3):
        if number:
            assert (folder / f"{task}{number - 1}").exists()
        if number == 2 and task == kill:
            os._exit(9)
        yield f"{task}{number}"


@pytest.mark.parametrize("processes", [1, 2])
def test_each_result_is_taken_before_its_task_goes_on(tmp_path, processes):
    taken = []

    def arrived(result):
        taken.append(result)
        time.sleep(0.01)
        (tmp_path / result).touch()

    stream(counting, "ab", processes, tmp_path, None, arrived)
    assert sorted(taken) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    if processes > 1:
        taken.clear()
        with pytest.raises(BrokenProcessPool):
            stream(counting, "a", processes, tmp_path, "a", arrived)
        assert taken == ["a0", "a1"]  # what was there before the process was killed


def test_a_long_name_of_the_folder_for_temporary_files_is_no_obstacle(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(long))
    taken = []
    with _Inbox(taken.append) as inbox, Client(inbox.address, authkey=inbox.key) as wire:
        wire.send("here")
        assert wire.recv()
    assert taken == ["here"]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_where_results_are_taken_ends_the_work(tmp_path, processes):
    def arrived(result):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        stream(counting, "abc", processes, tmp_path, None, arrived)


def endless(task, folder, _):
    """Yield without end, and write down which process does."""
    (folder / str(os.getpid())).touch()
    while True:
        yield task


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_no_process_outlives_the_one_that_was_killed(tmp_path):
    code = (
        "import pathlib, sys; from nver.processes import stream\n"
        "from test_processes import endless\n"
        "stream(endless, 'ab', 2, pathlib.Path(sys.argv[1]), None, lambda result: None)"
    )
    environment = _finding_this_file()
    started = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    while len(workers := list(tmp_path.iterdir())) < 2:
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGKILL)
    started.wait()
    ends = time.monotonic() + 30
    while any(_runs(worker.name) for worker in workers):
        assert time.monotonic() < ends
        time.sleep(0.05)


KEPT = []


def first(task, array, _):
    """Yield a number of an array that is mapped into the process, and hold it."""
    KEPT.append(array)
    yield float(array[task])


def test_what_was_mapped_into_processes_is_not_reported_as_left_behind():
    """It was at the exit of the program, by a process of joblib's that counts."""
    code = (
        "import numpy; from nver.processes import stream\n"
        "from test_processes import first\n"
        "stream(first, range(4), 2, numpy.zeros(300_000), None, print)"
    )
    environment = _finding_this_file()
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["0.0"] * 4
    assert not ended.stderr


def _finding_this_file():
    search = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": search}


def _runs(number):
    try:
        state = Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # who has ended may wait for a parent that asks
