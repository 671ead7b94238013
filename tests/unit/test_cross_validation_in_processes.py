"""Cross-validation side by side: the same record, whatever becomes of a process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from types import MappingProxyType

import pytest

from nver.cross_validation import SystemRun, cross_validate
from nver.scores import scores
from nver.systems import Span
from unit import toy_systems
from unit.toy_systems import run, validate


@pytest.fixture
def by_value():
    """Send the toy systems to the processes, which cannot import them."""
    try:
        import cloudpickle
    except ImportError:  # joblib before 1.6 brings its own
        from joblib.externals import cloudpickle

    cloudpickle.register_pickle_by_value(toy_systems)
    yield
    cloudpickle.unregister_pickle_by_value(toy_systems)


def test_processes_give_the_same_record(data, folds, by_value):
    runs = run("lda", "seeded", "coupled", "nan", "warning")
    alone = validate(data, runs, folds, seeds=(0, 1))
    together = validate(data, runs, folds, seeds=(0, 1), jobs=2)
    assert alone.frame.equals(together.frame)
    assert alone.notes == together.notes
    assert [f.name for f in together.failures] == ["nan"]
    assert not multiprocessing.active_children()


def test_a_killed_process_takes_only_its_own_system_down(data, folds, by_value):
    seen = []
    predictions = validate(
        data, run("killed", "lda"), folds, jobs=2, progress=lambda *args: seen.append(args)
    )
    assert [entry.name for entry in predictions.entries] == ["lda"]
    assert predictions.failures[0].sentence() == (
        "System 'killed' on one+two failed in fold '2', seed 0: its process was killed, most often "
        "for want of memory"
    )
    assert seen[-1] == ("trainings", 6, 6)


def test_a_search_goes_on_after_its_process_was_killed(data, folds, by_value, tmp_path):
    pytest.importorskip("optuna")

    class Model(toy_systems.Centroids):  # in here, so that it too is sent by value
        x = 0.5

        def fit(self, X, y, groups=None):
            mine = str(os.getpid())
            (tmp_path / f"{mine} {self.x} {X.sum()} {time.time_ns()}").touch()
            once = tmp_path / "killed"
            if len([*tmp_path.glob(f"{mine} *")]) == 5 and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().fit(X, y, groups)

    class Table(toy_systems.Systems):
        SPANS = MappingProxyType({"x": Span(0.1, 1.0)})

        def space(self, name):
            return {"x": 0.5}

        def build(self, name, views, seed, chosen=None):
            model = Model(views, seed)
            model.x = (chosen or self.space(name))["x"]
            return model

    told = []
    tuned = {"tune": 4, "systems": Table(), "progress": lambda *args: told.append(args)}
    predictions = validate(data, run("lda"), folds[:2], jobs=2, **tuned)
    assert not predictions.failures
    assert (tmp_path / "killed").exists()
    assert told.count(("searches", 2, 2))
    begun = Counter(tuple(path.name.split()[1:3]) for path in tmp_path.glob("* *"))
    assert sum(times > 1 for times in begun.values()) <= 2  # those under way, one in each process


def test_the_real_table_runs_in_processes_and_in_this_one(data, folds):
    runs = [SystemRun("lda", ("one",)), SystemRun("concat-lda", ("one", "two"))]
    alone = cross_validate(data, runs, folds, jobs=1)
    together = cross_validate(data, runs, folds, jobs=2)
    assert alone.frame.equals(together.frame)
    table = scores(alone, corpus="toy", folds="speaker", k=3)
    assert all(system["uar"]["value"] > 0.7 for system in table["systems"])


INTERRUPTED = """
import os, pathlib, signal, sys, time
import numpy as np
from nver.cross_validation import SystemRun, cross_validate
from nver.dataset import EmbeddingDataset
from nver.splits import make_folds

class Slow:
    settings, rules = {}, ("",)
    COUPLINGS = {"": None}
    def __init__(self, flag): self.flag = flag
    def get_system(self, name): return self
    def build(self, name, views, seed): return self
    def fit(self, X, y, groups=None):
        pathlib.Path(self.flag, str(os.getpid())).touch()
        time.sleep(600)

signal.signal(signal.SIGINT, signal.default_int_handler)
y = np.tile(["a", "b"], 20)
names = tuple(f"{i}" for i in range(40))
X = np.zeros((40, 3), dtype=np.float32)
data = EmbeddingDataset(X, {"one": slice(0, 3)}, y, None, names, names, ("a", "b"))
folds, runs = make_folds("random", y, None), [SystemRun("slow", ("one",))]
try:
    cross_validate(data, runs, folds, jobs=2, systems=Slow(sys.argv[1]))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals to a process group")
def test_ctrl_c_stops_the_processes_at_once(tmp_path):
    script, started = tmp_path / "slow.py", tmp_path / "started"
    script.write_text(INTERRUPTED)
    started.mkdir()
    process = subprocess.Popen(
        [sys.executable, script, started],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        while len(list(started.iterdir())) < 2:  # until a training is under way in both
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said, _ = process.communicate(timeout=300)  # half of what a training takes
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert said == "interrupted\n"
    assert process.returncode == 0
