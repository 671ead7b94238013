"""Embeddings for the benchmarks of the model column: from a corpus, or from a file of arrays."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold


@dataclass(frozen=True)
class Embedded:
    """Clips as the model column sees them; `folds` holds (train, test) rows, speaker-disjoint."""

    X: np.ndarray
    views: dict[str, slice]
    y: np.ndarray
    speakers: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]

    def columns(self, names: list[str]) -> tuple[np.ndarray, dict[str, slice]]:
        """Return the X of some encoders, and their views in it."""
        parts = [self.X[:, self.views[name]] for name in names]
        ends = np.cumsum([0, *(part.shape[1] for part in parts)]).tolist()
        views = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(names)}
        return np.hstack(parts), views


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that asks where the embeddings come from."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("source", help="corpus name, folder or manifest; or an .npz with one array")
    made.add_argument("-e", "--encoder", action="append", required=True, help="twice or more")
    made.add_argument("--column", default="fold", help="column or array that holds the folds")
    made.add_argument(
        "--inner",
        type=int,
        default=0,
        metavar="N",
        help="keep the clips of the first N folds and cut them anew: validation without test clips",
    )
    made.add_argument("--seeds", type=int, default=1)
    return made


def load(options: argparse.Namespace) -> Embedded:
    """Return what the options ask for."""
    if options.source.endswith(".npz"):
        arrays = np.load(Path(options.source))
        blocks = {name: arrays[name] for name in options.encoder}
        y, speakers, fold = arrays["y"], arrays["speaker"], arrays[options.column]
    else:
        import nver

        dataset = nver.embed(options.source, options.encoder)
        blocks = {name: dataset.X[:, view] for name, view in dataset.views.items()}
        y, speakers = dataset.y, dataset.speakers
        fold = dataset.columns[options.column]
    ends = np.cumsum([0, *(block.shape[1] for block in blocks.values())]).tolist()
    views = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(blocks)}
    X = np.hstack(list(blocks.values())).astype(np.float64)
    y, speakers, fold = np.asarray(y), np.asarray(speakers).astype(str), np.asarray(fold)
    names = np.unique(fold)
    if options.inner:
        kept = np.isin(fold, names[: options.inner])
        X, y, speakers = X[kept], y[kept], speakers[kept]
        cut = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        return Embedded(X, views, y, speakers, list(cut.split(X, y, speakers)))
    folds = [(np.flatnonzero(fold != name), np.flatnonzero(fold == name)) for name in names]
    return Embedded(X, views, y, speakers, folds)


def uar(truth: np.ndarray, probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Return the unweighted average recall of the most probable classes."""
    predicted = classes[probabilities.argmax(axis=1)]
    return float(np.mean([(predicted[truth == label] == label).mean() for label in classes]))
