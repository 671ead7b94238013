"""A grid to be killed: python interrupted_grid.py FOLDER LOG [MOST [tune]]; it logs every training.

After MOST trainings it waits for its end: however late the signal comes, it comes in the middle.
"""

from __future__ import annotations

import math
import os
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from nver.cross_validation import cross_validate
from nver.dataset import EmbeddingDataset
from nver.jobs import SystemRun
from nver.splits import make_folds
from nver.systems import Span

NAMES, SEEDS, FOLDS = ("one", "two"), (0, 1, 2), 5
TRAININGS = len(NAMES) * len(SEEDS) * FOLDS
UNTUNED = 1.5
SLOW, QUICK = 0.08, 0.01
"""Seconds of a training: when all are trainings, and when most are trials of a search."""


class Model:
    """Class means with a little noise of the seed; it says in the log that it is trained."""

    def __init__(self, table, name, seed, x):
        self.table, self.name, self.seed, self.x = table, name, seed, x

    def fit(self, X, y, groups=None):
        log = Path(self.table.log)
        time.sleep(self.table.pause)
        while log.is_file() and len(log.read_text().splitlines()) >= self.table.most:
            time.sleep(1)
        line = f"{self.name} {self.seed} {self.x:.9f} {zlib.crc32(X.tobytes())}\n"
        with log.open("a") as file:  # one write: two processes share the log
            file.write(line)
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == label].mean(axis=0) for label in self.classes_])

    def predict_proba(self, X):
        noise = np.random.default_rng(self.seed).random((len(X), len(self.classes_)))
        distance = ((X[:, None] - self.means_[None]) ** 2).sum(-1) + 5 * self.x * noise
        weights = np.exp(distance.min(axis=1, keepdims=True) - distance)
        return weights / weights.sum(axis=1, keepdims=True)


class Systems:
    """Two systems with one setting."""

    def __init__(self, log, pause, most=math.inf):
        self.log, self.pause, self.most = log, pause, most
        self.COUPLINGS = {"": None}
        self.SPANS = {"x": Span(0.0, 2.0)}

    def get_system(self, name):
        return SimpleNamespace(settings={}, rules=("",), reported_as=lambda rule: name)

    def space(self, name):
        return {"x": UNTUNED}

    def build(self, name, views, seed, chosen=None):
        return Model(self, name, seed, (chosen or self.space(name))["x"])


class Packs(Systems):
    """The same, several at once: the members of a pack finish one after the other."""

    def fit_many(self, models, parts):
        for place, (model, (X, y, groups)) in enumerate(zip(models, parts, strict=True)):
            model.fit(X, y, groups)
            yield place


def dataset():
    """Return 90 clips of 10 speakers."""
    rng = np.random.default_rng(0)
    y = np.tile(["cry", "laugh", "sigh"], 30)
    X = rng.standard_normal((90, 4)) + np.eye(4)[np.tile([0, 1, 2], 30)]
    names = tuple(f"{i:03d}" for i in range(90))
    speakers = np.repeat([f"s{i}" for i in range(10)], 9).astype(object)
    views = {"a": slice(0, 4)}
    labels = ("cry", "laugh", "sigh")
    return EmbeddingDataset(X.astype(np.float32), views, y, speakers, names, names, labels)


def run(folder, log, processes=1, trials=None, pause=0.0, most=math.inf):
    """Cross-validate both systems."""
    data = dataset()
    # Three processes make one grid here: none of them may see another source than the others.
    with patch("nver.finished.engine", return_value="whatever the source says"):
        return cross_validate(
            data,
            [SystemRun(name, ("a",)) for name in NAMES],
            make_folds("speaker", data.y, data.speakers, k=FOLDS),
            seeds=SEEDS,
            jobs=processes,
            systems=Packs(os.fspath(log), pause, most),
            saved=folder,
            tune=trials,
        )


if __name__ == "__main__":
    place, told = map(Path, sys.argv[1:3])
    enough = int(sys.argv[3]) if sys.argv[3:] else math.inf
    tuned = bool(sys.argv[4:])
    run(place, told, 2, 6 if tuned else None, QUICK if tuned else SLOW, enough)
