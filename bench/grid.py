"""The grid end to end: folds x seeds x dense systems, from embeddings to predictions.

Labels, speakers and folds are those of emogator12 (1,800 clips, 12 classes, 75 speakers, five
speaker-disjoint folds) where the corpus lies beside the checkout, else made up in the same numbers.
The embeddings of two encoders, 768 and 1,024 columns, are random with class means: what is measured
is what happens after encoding. Memory is that of all processes together (proportional set size:
shared pages count once), sampled every two seconds; CPU time is that of all processes, and the
share of it in wall time times cores says how busy the cores were with this.

    python -m bench.grid [--seeds 5] [--jobs 2] [--device cpu] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from bench.page import Options, table

from nver.cross_validation import SystemRun, cross_validate
from nver.dataset import EmbeddingDataset
from nver.splits import make_folds

CLIPS, CLASSES, SPEAKERS, DIMS = 1800, 12, 75, {"a": 768, "b": 1024}
FUSIONS = ("concat", "late", "transport", "attention", "mata")
SHARED = Path(os.environ.get("NVER_SHARED", Path(__file__).resolve().parents[2] / "shared"))
MANIFEST = SHARED / "data" / "emogator12" / "metadata.csv"


def corpus() -> tuple[str, np.ndarray, np.ndarray]:
    """Return what the clips are, their labels and their speakers."""
    if MANIFEST.is_file():
        facts = pd.read_csv(MANIFEST, dtype=str)
        return "emogator12", facts["label"].to_numpy(str), facts["speaker"].to_numpy(object)
    codes = np.arange(CLIPS) % CLASSES
    speakers = np.array([f"s{i // CLASSES % SPEAKERS}" for i in range(CLIPS)], dtype=object)
    return "made-up clips", np.array([f"class {code:02d}" for code in codes]), speakers


def dataset(name: str, y: np.ndarray, speakers: np.ndarray) -> EmbeddingDataset:
    rng = np.random.default_rng(0)
    labels, codes = np.unique(y, return_inverse=True)
    columns = sum(DIMS.values())
    X = rng.standard_normal((len(y), columns), dtype=np.float32)
    X += 0.15 * rng.standard_normal((len(labels), columns), dtype=np.float32)[codes]
    names = tuple(f"{i:04d}" for i in range(len(y)))
    edges = np.cumsum([0, *DIMS.values()]).tolist()
    views = {encoder: slice(edges[i], edges[i + 1]) for i, encoder in enumerate(DIMS)}
    return EmbeddingDataset(X, views, y, speakers, names, names, tuple(labels), name=name)


class Memory(threading.Thread):
    """The largest memory of this process and its children, sampled."""

    def __init__(self):
        super().__init__(daemon=True)
        self.largest, self.done = 0, threading.Event()

    def run(self):  # noqa: D102 - of a thread
        while not self.done.wait(2.0):
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


@dataclass(frozen=True)
class Grid:
    """What a grid took."""

    corpus: str
    systems: int
    seeds: int
    trainings: int
    wall: float
    cpu: float
    memory: int
    seconds: dict[str, float]

    @property
    def busy(self) -> float:
        """The share of the cores' time."""
        return self.cpu / self.wall / len(os.sched_getaffinity(0))


def run(seeds: int, jobs: int | None, device: str, out: Path | None = None) -> Grid:
    """Cross-validate six systems."""
    name, y, speakers = corpus()
    data = dataset(name, y, speakers)
    runs = [SystemRun("fcn", ("a",)), *(SystemRun(name, tuple(DIMS)) for name in FUSIONS)]
    folds = make_folds("speaker", data.y, data.speakers, k=5)
    memory = Memory()
    memory.start()
    before, started = _cpu(), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        predictions = cross_validate(
            data,
            runs,
            folds,
            seeds=range(seeds),
            jobs=jobs,
            device=device,
            saved=out or Path(scratch),
        )
    # A system that failed has cost next to nothing.
    assert not predictions.failures, [failure.sentence() for failure in predictions.failures]
    wall = time.perf_counter() - started
    memory.done.set()
    seconds = {entry.name: entry.seconds for entry in predictions.entries}
    trainings = len(runs) * len(folds) * seeds
    cpu = _cpu() - before
    return Grid(name, len(runs), seeds, trainings, wall, cpu, memory.largest, seconds)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def told(found: Grid) -> str:
    """Return the grid as Markdown."""
    head = ["grid", "trainings", "wall", "CPU", "cores busy with it", "largest memory"]
    cells = [
        f"{found.systems} systems, 5 folds, {found.seeds} seeds on {found.corpus}",
        str(found.trainings),
        f"{found.wall:.0f} s",
        f"{found.cpu:.0f} s",
        f"{found.busy:.0%}",
        f"{found.memory / 2**30:.2f} GiB",
    ]
    systems = [[name, f"{seconds:.1f} s"] for name, seconds in found.seconds.items()]
    return f"{table(head, [cells])}\n\n{table(['system', 'seconds of its trainings'], systems)}"


def section(options: Options) -> str:
    """Return the page's section."""
    about = " ".join((__doc__ or "").split("\n\n")[1].split())
    # In a process of its own: this one may hold the libraries of other sections, 2.6 GiB of them.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(run, 1 if options.quick else 5, None, options.device).result()
    return f"{about}\n\n{told(found)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    print(told(run(given.seeds, given.jobs, given.device, given.out)))


if __name__ == "__main__":
    main()
