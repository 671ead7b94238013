"""A small dataset, and systems made for the purpose: each does one thing that a system may do."""

from __future__ import annotations

import os
import signal
import warnings
from types import SimpleNamespace

import numpy as np

from nver.cross_validation import SystemRun, cross_validate
from nver.dataset import EmbeddingDataset
from nver.errors import UnknownNameError

LABELS = ("sad", "happy", "angry")  # not sorted: the order is the corpus's own


def toy(clips_per_class=4, speakers=6, seed=0):
    """Return a dataset in which class and encoder shift the mean of each column."""
    rng = np.random.default_rng(seed)
    y = np.tile(np.repeat(LABELS, clips_per_class), speakers)
    names = np.repeat([f"s{i}" for i in range(speakers)], len(LABELS) * clips_per_class)
    places = np.array([LABELS.index(label) for label in y])
    X = rng.standard_normal((len(y), 5)) + 2.0 * np.eye(5)[places]
    return EmbeddingDataset(
        X=X.astype(np.float32),
        views={"one": slice(0, 3), "two": slice(3, 5)},
        y=y,
        speakers=names.astype(object),
        files=tuple(f"{i:03d}.wav" for i in range(len(y))),
        digests=tuple(f"{i:064x}" for i in range(len(y))),
        labels=LABELS,
        name="toy",
    )


class Centroids:
    """Nearest class mean: deterministic, fast, and it keeps what it was given."""

    def __init__(self, views, seed):
        self.views, self.seed = views, seed

    def fit(self, X, y, groups=None):
        self.fitted_rows, self.groups = X, groups
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == label].mean(axis=0) for label in self.classes_])
        return self

    def predict_proba(self, X):
        distance = ((X[:, None] - self.means_[None]) ** 2).sum(-1)
        weights = np.exp(-distance + distance.min(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)


class Seeded(Centroids):
    """The same with a chance element."""

    def predict_proba(self, X):
        noise = np.random.default_rng(self.seed).random((len(X), len(self.classes_)))
        return noise / noise.sum(axis=1, keepdims=True)


class Coupled(Centroids):
    """A system whose second rule looks at the neighbours of a clip."""

    def predict_proba(self, X, coupling=None):
        if coupling == "batch":
            X = np.repeat(X.reshape(-1, 2, X.shape[1]).mean(axis=1), 2, axis=0)
        return super().predict_proba(X)


class Failing(Centroids):
    def fit(self, X, y, groups=None):
        if "s3" not in groups:
            raise ValueError("the cost\n  is not finite")
        return super().fit(X, y, groups)


class NotANumber(Centroids):
    def predict_proba(self, X):
        return super().predict_proba(X) * np.nan


class Warning(Centroids):  # noqa: A001 - what it does
    def fit(self, X, y, groups=None):
        warnings.warn("did not converge", UserWarning, stacklevel=1)
        return super().fit(X, y, groups)


class Killed(Centroids):
    def fit(self, X, y, groups=None):
        os.kill(os.getpid(), signal.SIGKILL)


MODELS = {
    "lda": Centroids,
    "seeded": Seeded,
    "coupled": Coupled,
    "failing": Failing,
    "nan": NotANumber,
    "warning": Warning,
    "killed": Killed,
}


class Systems:
    """A table of systems like `nver.systems`."""

    def __init__(self, **more):
        self.COUPLINGS = {"": None, "inductive": None, "transductive": "batch"}
        self.models = MODELS | more
        self.built = []

    def get_system(self, name):
        if name not in self.models:
            raise UnknownNameError(f"Unknown system '{name}'.")
        rules = ("inductive", "transductive") if name == "coupled" else ("",)
        return SimpleNamespace(
            settings={"head": name},
            rules=rules,
            reported_as=lambda rule: name + "-transductive" * (rule == "transductive"),
        )

    def build(self, name, views, seed):
        model = self.models[name](views, seed)
        self.built.append(model)
        return model


def run(*names, encoders=("one", "two")):
    return [SystemRun(name, encoders) for name in names]


def validate(data, runs, folds, **options):
    options.setdefault("jobs", 1)
    options.setdefault("systems", Systems())
    return cross_validate(data, runs, folds, **options)
