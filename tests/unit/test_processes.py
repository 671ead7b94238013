"""Results of several processes, taken one by one while their tasks go on."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Client

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
