"""The grid end to end: folds x seeds x dense systems from embeddings to predictions.

Embeddings are random with class means, of the size of emogator12's (1,800 clips, 12 classes, five
speaker-independent folds) under two encoders of 768 and 1024 columns: what is measured does not
depend on what they say. Printed: wall time, CPU time of all processes (half of it is what two idle
cores would take), the largest memory of all processes together (proportional set size: shared pages
count once) and the load of the machine, since others slow it down.

    python bench/grid.py [--seeds 5] [--jobs 2] [--device cpu] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from nver.cross_validation import SystemRun, cross_validate
from nver.dataset import EmbeddingDataset
from nver.splits import make_folds

CLIPS, CLASSES, SPEAKERS, DIMS = 1800, 12, 60, {"a": 768, "b": 1024}
FUSIONS = ("concat", "late", "transport", "attention", "mata")


def dataset():
    rng = np.random.default_rng(0)
    codes = np.arange(CLIPS) % CLASSES
    columns = sum(DIMS.values())
    X = rng.standard_normal((CLIPS, columns), dtype=np.float32)
    X += 0.15 * rng.standard_normal((CLASSES, columns), dtype=np.float32)[codes]
    names = tuple(f"{i:04d}" for i in range(CLIPS))
    speakers = np.array([f"s{i // CLASSES % SPEAKERS}" for i in range(CLIPS)], dtype=object)
    labels = tuple(f"class {code:02d}" for code in range(CLASSES))
    edges = np.cumsum([0, *DIMS.values()]).tolist()
    views = {name: slice(edges[i], edges[i + 1]) for i, name in enumerate(DIMS)}
    return EmbeddingDataset(X, views, np.array(labels)[codes], speakers, names, names, labels)


class Memory(threading.Thread):
    """The largest memory of this process and its children, sampled."""

    def __init__(self):
        super().__init__(daemon=True)
        self.largest, self.done = 0, threading.Event()

    def run(self):  # noqa: D102 - of a thread
        while not self.done.wait(0.5):
            self.largest = max(self.largest, sum(map(_pss, _tree(os.getpid()))))


def _tree(root):
    children = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def _pss(process):
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    data = dataset()
    runs = [SystemRun("fcn", ("a",)), *(SystemRun(name, tuple(DIMS)) for name in FUSIONS)]
    memory = Memory()
    memory.start()
    started, load = time.perf_counter(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        predictions = cross_validate(
            data,
            runs,
            make_folds("speaker", data.y, data.speakers, k=5),
            seeds=range(arguments.seeds),
            jobs=arguments.jobs,
            device=arguments.device,
            saved=arguments.out or Path(scratch),
        )
    wall = time.perf_counter() - started
    memory.done.set()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    print(
        f"{len(runs)} systems x 5 folds x {arguments.seeds} seeds on {arguments.device}: "
        f"{wall:.0f} s wall, {cpu:.0f} s CPU, {memory.largest / 2**30:.2f} GiB, "
        f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    )
    for entry in predictions.entries:
        print(f"  {entry.name}: {entry.seconds:.1f} s")


if __name__ == "__main__":
    main()
