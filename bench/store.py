"""Which file format keeps the embeddings: time, size, and what survives kill -9.

    python bench/store.py [--clips 50000] [--dim 768] [--batch 32] [--rounds 15] [--folder DIR]

Compares nver's own store (immutable safetensors parts) with SQLite, Parquet parts, LMDB and Lance;
formats whose package is not installed are left out. Prints markdown tables. Times are in seconds of
one process; every reading starts from a newly opened store whose files are in the page cache.
"""

# ruff: noqa: D102 - five formats with the same three methods: append, keys, get
from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np

from nver.encoders.base import EncoderCard
from nver.store import EmbeddingStore


def vectors_of(keys: Sequence[str], dim: int) -> np.ndarray:
    """Return vectors that follow from their keys, so that a reader can check them."""
    seeds = np.array([int(key[:8], 16) for key in keys], dtype=np.float64)
    return np.sin(seeds[:, None] * 1e-3 + np.arange(dim)).astype(np.float32)


def keys_of(start: int, count: int) -> list[str]:
    return [
        f"{number * 2654435761 % 2**32:08x}{number:056x}" for number in range(start, start + count)
    ]


class NverParts:
    """The store of nver."""

    title, needs = "nver: safetensors parts", "safetensors"

    def __init__(self, folder: Path, dim: int) -> None:
        text = dict.fromkeys(("name", "summary", "pooling", "licence", "citation", "revision"), "x")
        card = EncoderCard(dim=dim, rate=16000, modality="weight-free", **text)
        self.table = EmbeddingStore(folder).open(card)

    def append(self, keys: list[str], vectors: np.ndarray) -> None:
        self.table.append(keys, vectors)

    def keys(self) -> set[str]:
        return self.table.keys()

    def get(self, keys: list[str]) -> np.ndarray:
        return self.table.get(keys)


class Parquet:
    """One file per append, renamed into place."""

    title, needs = "Parquet parts", "pyarrow"

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.dim = folder, dim

    def append(self, keys: list[str], vectors: np.ndarray) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.dim)
        name = f"{time.time_ns()}-{os.getpid()}"
        with (self.folder / f"{name}.tmp").open("wb") as file:
            pq.write_table(pa.table({"key": keys, "vector": column}), file, compression="none")
            file.flush()
            os.fsync(file.fileno())
        (self.folder / f"{name}.tmp").replace(self.folder / f"{name}.parquet")

    def table(self, columns: list[str]):
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = sorted(self.folder.glob("*.parquet"))
        return pa.concat_tables([pq.read_table(part, columns=columns) for part in parts])

    def keys(self) -> set[str]:
        return set(self.table(["key"])["key"].to_pylist()) if any(self.folder.iterdir()) else set()

    def get(self, keys: list[str]) -> np.ndarray:
        table = self.table(["key", "vector"])
        rows = {key: row for row, key in enumerate(table["key"].to_pylist())}
        taken = table["vector"].take([rows[key] for key in keys]).combine_chunks()
        return taken.flatten().to_numpy().reshape(-1, self.dim)


class Sqlite:
    """One row per clip in a database of the standard library."""

    title, needs = "SQLite (WAL)", "sqlite3"

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.base = sqlite3.connect(folder / "store.db", timeout=60)
        self.base.execute("PRAGMA journal_mode=WAL")
        self.base.execute("CREATE TABLE IF NOT EXISTS t (key TEXT PRIMARY KEY, vector BLOB)")
        self.dim = dim

    def append(self, keys: list[str], vectors: np.ndarray) -> None:
        rows = [(key, vector.tobytes()) for key, vector in zip(keys, vectors, strict=True)]
        with self.base:
            self.base.executemany("INSERT OR IGNORE INTO t VALUES (?, ?)", rows)

    def keys(self) -> set[str]:
        return {row[0] for row in self.base.execute("SELECT key FROM t")}

    def get(self, keys: list[str]) -> np.ndarray:
        query = "SELECT vector FROM t WHERE key = ?"
        blobs = [self.base.execute(query, (key,)).fetchone()[0] for key in keys]
        return np.frombuffer(b"".join(blobs), dtype=np.float32).reshape(-1, self.dim)


class Lmdb:
    """One value per clip in a memory-mapped B-tree."""

    title, needs = "LMDB", "lmdb"

    def __init__(self, folder: Path, dim: int) -> None:
        import lmdb

        folder.mkdir(parents=True, exist_ok=True)
        self.base, self.dim = lmdb.open(str(folder), map_size=2**34), dim

    def append(self, keys: list[str], vectors: np.ndarray) -> None:
        with self.base.begin(write=True) as transaction:
            for key, vector in zip(keys, vectors, strict=True):
                transaction.put(bytes.fromhex(key), vector.tobytes(), overwrite=False)

    def keys(self) -> set[str]:
        with self.base.begin() as transaction:
            return {key.hex() for key in transaction.cursor().iternext(values=False)}

    def get(self, keys: list[str]) -> np.ndarray:
        with self.base.begin() as transaction:
            blobs = [transaction.get(bytes.fromhex(key)) for key in keys]
        return np.frombuffer(b"".join(blobs), dtype=np.float32).reshape(-1, self.dim)


class Lance:
    """A versioned columnar table."""

    title, needs = "Lance", "lance"

    def __init__(self, folder: Path, dim: int) -> None:
        self.path, self.dim = str(folder / "table.lance"), dim

    def append(self, keys: list[str], vectors: np.ndarray) -> None:
        import lance
        import pyarrow as pa

        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.dim)
        mode = "append" if Path(self.path).exists() else "create"
        lance.write_dataset(pa.table({"key": keys, "vector": column}), self.path, mode=mode)

    def keys(self) -> set[str]:
        import lance

        if not Path(self.path).exists():
            return set()
        return set(lance.dataset(self.path).to_table(columns=["key"])["key"].to_pylist())

    def get(self, keys: list[str]) -> np.ndarray:
        import lance

        data = lance.dataset(self.path)
        known = data.to_table(columns=["key"])["key"].to_pylist()
        rows = {key: row for row, key in enumerate(known)}
        taken = data.take([rows[key] for key in keys], columns=["vector"])["vector"]
        return taken.combine_chunks().flatten().to_numpy().reshape(-1, self.dim)


FORMATS = {format_.__name__: format_ for format_ in (NverParts, Sqlite, Parquet, Lmdb, Lance)}


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def times(name: str, folder: Path, options: argparse.Namespace) -> str:
    """Return a row: append, keys, random, whole, size, files."""
    clips, dim = options.clips, options.dim
    keys = keys_of(0, clips)
    vectors = vectors_of(keys, dim)

    def append() -> None:
        store = FORMATS[name](folder, dim)
        for first in range(0, clips, options.batch):
            store.append(
                keys[first : first + options.batch], vectors[first : first + options.batch]
            )

    cells = [seconds(append)[0]]
    spent, found = seconds(lambda: FORMATS[name](folder, dim).keys())
    assert found == set(keys)
    cells.append(spent)
    chosen = np.random.default_rng(0).choice(clips, min(10_000, clips), replace=False)
    for rows in (chosen, np.arange(clips)):
        wanted = [keys[row] for row in rows]
        spent, got = seconds(lambda wanted=wanted: FORMATS[name](folder, dim).get(wanted))
        np.testing.assert_array_equal(got, vectors[rows])
        cells.append(spent)
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    size = f"{sum(files) / vectors.nbytes:.2f} | {len(files)}"
    return f"| {FORMATS[name].title} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {size} |"


def child(name: str, folder: Path, start: int, count: int) -> None:
    """Append batches of 32 and acknowledge each on standard output."""
    store = FORMATS[name](folder, 256)
    for first in range(start, start + count * 32, 32):
        keys = keys_of(first, 32)
        store.append(keys, vectors_of(keys, 256))
        print(first, flush=True)


def spawn(name: str, folder: Path, start: int, count: int) -> subprocess.Popen:
    arguments = ["--child", name, str(folder), str(start), str(count)]
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - this very script


def broken(name: str, folder: Path, acknowledged: set[int]) -> int:
    """Return how many acknowledged batches are not there, or not as they were written."""
    store = FORMATS[name](folder, 256)
    present = store.keys()
    batches = {first: keys_of(first, 32) for first in acknowledged}
    whole = [keys for keys in batches.values() if set(keys) <= present]
    wanted = [key for keys in whole for key in keys]
    equal = (store.get(wanted) == vectors_of(wanted, 256)).all(axis=1).reshape(-1, 32).all(axis=1)
    return len(batches) - np.count_nonzero(equal)


def crashes(name: str, folder: Path, rounds: int) -> str:
    """Return a row: acknowledged batches and what kill -9 made of them."""
    generator, acknowledged, bad = random.Random(0), set[int](), 0  # noqa: S311 - no secret
    for number in range(rounds):
        process = spawn(name, folder, number * 1_000_000, 10_000)
        lines = [process.stdout.readline()]  # the first acknowledgement: the writer has started
        time.sleep(generator.uniform(0.02, 0.4))
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        acknowledged |= {int(line) for line in lines if line.endswith(b"\n")}
        bad += broken(name, folder, acknowledged) > 0
    return f"{len(acknowledged)} | {bad} of {rounds}"


def writers(name: str, folder: Path) -> str:
    """Return what two writers at once left: batches of the 200 they acknowledged, and the time."""
    FORMATS[name](folder, 256).append(keys_of(9_000_000, 1), vectors_of(keys_of(9_000_000, 1), 256))
    start = time.perf_counter()
    processes = [spawn(name, folder, first, 100) for first in (0, 1_000_000)]
    outputs = [process.communicate()[0] for process in processes]
    spent = time.perf_counter() - start
    acknowledged = {int(line) for output in outputs for line in output.split()}
    kept = len(acknowledged) - broken(name, folder, acknowledged)
    return f"{kept} of {len(acknowledged)} | {spent:.1f}"


def fresh(parent: Path | None) -> Generator[Path, None, None]:
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield folder / "store"
        finally:
            shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser()
    for option, value in (("clips", 50_000), ("dim", 768), ("batch", 32), ("rounds", 15)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    names = [name for name in FORMATS if importlib.util.find_spec(FORMATS[name].needs)]
    folders = fresh(options.folder)
    print(f"{options.clips} x {options.dim} float32, appended {options.batch} at a time\n")
    print("| format | append | all keys | 10k random | whole matrix | disk / raw | files |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        print(times(name, next(folders), options), flush=True)
    print("\n| format | acknowledged | kill -9: rounds with losses | two writers: kept | seconds |")
    print("|---|---|---|---|---|")
    for name in names:
        crash = crashes(name, next(folders), options.rounds)
        both = writers(name, next(folders))
        print(f"| {FORMATS[name].title} | {crash} | {both} |", flush=True)
    folders.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
