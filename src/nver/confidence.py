"""The calibration of every system of a record: the section ``calibration`` of scores.json.

All numbers are of the test clips, all folds and seeds together: the reliability diagram and its
ECE have the same rows. What is fitted, a temperature for each fold, a threshold of prediction sets
for each fold and seed, is fitted on *inner* predictions: those of the clips of the fold's training
part, each made by a model that was trained on other speakers of the training part. Those models saw
fewer clips than the one that is judged, and test speakers are none of the inner ones, so the
promise of the sets is approximate; how often they hold the true class is therefore measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from nver.calibration import (
    Temperature,
    adaptive_ece,
    brier,
    checked,
    classwise_ece,
    fit_temperature,
    log_loss,
    reliability,
    risk_coverage,
)
from nver.conformal import least_calibration, method, prediction_sets
from nver.errors import EvaluationError, MissingExtraError
from nver.predictions import Predictions, SystemEntry
from nver.significance import Unit, cluster_bootstraps

ERROR_RATE = 0.1
"""Of prediction sets, where none was chosen."""

NO_INNER = (
    "There are no predictions of training clips by models that did not see them: nver evaluate "
    "--calibrate makes them, where the training part can be divided by speaker."
)
INNER_COLUMNS = ("label", "fold", "seed")
"""What is needed of inner predictions, beside system, encoders and probabilities."""

_CELLS = 8_000_000  # numbers held until intervals are drawn: 64 MB

CAUTION = (
    "the thresholds come from models trained on fewer clips and other speakers, so the promised "
    "rate is approximate"
)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Predictions of one system: every clip once per seed."""

    probabilities: Float64[np.ndarray, "rows classes"]
    truth: Int64[np.ndarray, "rows"]
    fold: Int64[np.ndarray, "rows"]  # places in `folds`
    folds: tuple[str, ...]
    seed: Int64[np.ndarray, "rows"]
    cluster: Int64[np.ndarray, "rows"]

    @classmethod
    def of(cls, frame: pd.DataFrame, labels: tuple[str, ...]) -> _Rows:
        """Return the rows of a frame; EvaluationError if they hold no probabilities or labels."""
        code, names = pd.factorize(frame["label"])
        places = pd.Index(labels).get_indexer(pd.Index(names))
        truth = np.append(places, -1)[code].astype(np.int64)  # the code of a missing label is -1
        if (truth < 0).any():
            odd = frame["label"].iloc[int(np.flatnonzero(truth < 0)[0])]
            raise EvaluationError(
                f"The predictions hold the label '{odd}', which is none of: {', '.join(labels)}."
            )
        columns = [f"p_{label}" for label in labels]
        fold, folds = pd.factorize(frame["fold"])
        return cls(
            probabilities=checked(frame[columns].to_numpy(dtype=np.float64), truth),
            truth=truth,
            fold=fold.astype(np.int64),
            folds=tuple(str(name) for name in folds),
            seed=frame["seed"].to_numpy(dtype=np.int64),
            cluster=_clusters(frame),
        )

    def repeats(self) -> int:
        """Return how many seeds there are."""
        return len(np.unique(self.seed))

    def sums(self, each: np.ndarray) -> Float64[np.ndarray, "clusters seeds 2 2"]:
        """Return of each speaker and seed, on the diagonal: the sum of `each`, and how many."""
        seeds, seed = np.unique(self.seed, return_inverse=True)
        shape = (int(self.cluster.max()) + 1, len(seeds))
        cell = np.ravel_multi_index((self.cluster, seed), shape)
        table = np.zeros((*shape, 2, 2))
        for place, weights in enumerate((each, None)):
            found = np.bincount(cell, weights=weights, minlength=int(np.prod(shape)))
            table[..., place, place] = found.reshape(shape)
        return table

    def by_fold(self) -> dict[str, np.ndarray]:
        """Return the places of each fold's rows."""
        return {name: np.flatnonzero(self.fold == code) for code, name in enumerate(self.folds)}

    def by_fold_and_seed(self) -> dict[tuple[str, int], np.ndarray]:
        """Return the places of the rows of each fold under each seed."""
        return {
            (name, int(seed)): np.flatnonzero((self.fold == code) & (self.seed == seed))
            for code, name in enumerate(self.folds)
            for seed in np.unique(self.seed[self.fold == code])
        }


def _clusters(frame: pd.DataFrame) -> Int64[np.ndarray, "rows"]:
    """Return a number for each speaker; a clip without one is a cluster of its own."""
    if "speaker" not in frame:
        return np.zeros(len(frame), dtype=np.int64)
    speaker, names = pd.factorize(frame["speaker"])
    unknown = speaker < 0
    if unknown.any():
        speaker[unknown] = len(names) + pd.factorize(frame["file"][unknown])[0]
    return speaker.astype(np.int64)


class _Intervals:
    """Means over predictions, whose intervals over speakers and seeds are drawn together.

    That is many times as fast as one by one where there are thousands of speakers.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._asked: list[tuple[dict[str, Any], np.ndarray, float]] = []

    def of(self, rows: _Rows, each: np.ndarray, most: float = math.inf) -> dict[str, Any]:
        """Return a dict that will hold the interval of the mean of `each` after `draw`.

        The mean lies between 0 and `most`, and so do the ends.
        """
        if self._asked and sum(sums.size for _, sums, _ in self._asked) > _CELLS:
            self.draw()
        self._asked.append(({}, rows.sums(each), most))
        return self._asked[-1][0]

    def draw(self) -> None:
        """Fill what was returned so far."""
        drawn = cluster_bootstraps([sums for _, sums, _ in self._asked], _mean, unit=self._unit)
        for (table, _, most), found in zip(self._asked, drawn, strict=True):
            table |= found.within(0.0, most).to_dict()
        self._asked = []


def _mean(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., 0, 0] / sums[..., 1, 1])


def calibration(
    predictions: Predictions,
    inner: pd.DataFrame | Path | None = None,
    *,
    alpha: float = ERROR_RATE,
) -> list[dict[str, Any]]:
    """Return how far each system's probabilities may be believed.

    Parameters
    ----------
    predictions : Predictions
        The record.
    inner : DataFrame, Path or None
        Inner predictions, in the record's columns (clip, file and speaker may be missing), their
        ``fold`` being the outer one; as a frame, or as a Parquet file that is read system by
        system.
    alpha : float
        The error rate of prediction sets, in (0, 1).

    Returns
    -------
    list of dict
        One per system, plain JSON values: ``name``, ``encoders``, ``raw`` (``ece`` in [0, 1],
        ``brier`` in [0, 2], ``log_loss`` in nats, the bins of the ``reliability`` diagram, ...),
        ``coverage`` (accuracy on the surest shares of clips), ``aurc``; ``scaled``, the content of
        ``raw`` after temperature scaling, and ``conformal``; each of the last two is None, with
        ``scaled_reason`` or ``conformal_reason``, where it cannot be had. A system whose
        probabilities are none has a ``reason`` instead of numbers.

    Raises
    ------
    SettingsError
        If `alpha` is not between 0 and 1.
    """
    least_calibration(alpha)
    columns = ["label", "fold", "seed", "speaker", "file"]
    columns += [f"p_{label}" for label in predictions.labels]
    places = predictions.frame.groupby(["system", "encoders"], sort=False).indices
    frame = predictions.frame[columns]
    task = _Task(predictions.labels, alpha, _Intervals(predictions.unit()))
    sections = [
        {"name": entry.name, "encoders": list(entry.encoders)}
        | _section(frame.iloc[places[(entry.name, entry.joined)]], inner, entry, task)
        for entry in predictions.entries
    ]
    task.intervals.draw()
    return sections


@dataclass(frozen=True)
class _Task:
    """What is the same for all systems."""

    labels: tuple[str, ...]
    alpha: float
    intervals: _Intervals


def _section(
    frame: pd.DataFrame, inner: pd.DataFrame | Path | None, entry: SystemEntry, task: _Task
) -> dict[str, Any]:
    try:
        tested = _Rows.of(frame, task.labels)
    except EvaluationError as error:
        nothing = dict.fromkeys(("raw", "aurc", "scaled", "conformal"))
        return nothing | {"coverage": [], "reason": str(error)}
    curve = risk_coverage(tested.probabilities, tested.truth)
    table = {
        "raw": _scores(tested, tested.probabilities, task),
        "coverage": curve.to_list(),
        "aurc": curve.aurc,
    }
    try:
        known = _Rows.of(_inner_frame(inner, entry, task.labels), task.labels)
    except EvaluationError as error:
        return table | _without("scaled", error) | _without("conformal", error)
    for name, part in (("scaled", _scaled), ("conformal", _conformal)):
        try:
            table[name] = part(tested, known, task)
        except (EvaluationError, MissingExtraError) as error:
            table |= _without(name, error)
    return table


def _without(name: str, error: Exception) -> dict[str, Any]:
    return {name: None, f"{name}_reason": str(error)}


def _inner_frame(
    inner: pd.DataFrame | Path | None, entry: SystemEntry, labels: tuple[str, ...]
) -> pd.DataFrame:
    if inner is None:
        raise EvaluationError(NO_INNER)
    frame = _read(inner, entry) if isinstance(inner, Path) else inner
    odd = {*INNER_COLUMNS, *(f"p_{label}" for label in labels)} - set(frame.columns)
    if odd:
        raise EvaluationError(f"The inner predictions lack the columns {', '.join(sorted(odd))}.")
    if not isinstance(inner, Path):
        frame = frame[(frame["system"] == entry.name) & (frame["encoders"] == entry.joined)]
    if frame.empty:
        raise EvaluationError(
            f"There are no inner predictions of the system '{entry.name}' on {entry.joined}."
        )
    return frame


def _read(path: Path, entry: SystemEntry) -> pd.DataFrame:
    """Return one system's rows of a file; the row groups of others are not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    mine = [("system", "==", entry.name), ("encoders", "==", entry.joined)]
    try:
        names = pq.read_schema(path).names
        wanted = [name for name in names if name in INNER_COLUMNS or name.startswith("p_")]
        # As dictionaries, which are small; but not the filter's columns: no row group is skipped
        # by those.
        texts = ["label", "fold"]
        table = pq.read_table(path, columns=wanted, filters=mine, read_dictionary=texts)
        return pd.DataFrame(table.to_pandas())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise EvaluationError(
            f"'{path}' holds no inner predictions ({type(error).__name__}). "
            "Run `nver evaluate` again, into an empty folder."
        ) from error


def _scores(rows: _Rows, probabilities: np.ndarray, task: _Task) -> dict[str, Any]:
    diagram = reliability(probabilities, rows.truth)
    losses = {
        "brier": brier(probabilities, rows.truth),
        "log_loss": log_loss(probabilities, rows.truth),
    }
    return {
        "ece": diagram.ece,
        "ece_by_chance": diagram.by_chance(rows.repeats()),
        "adaptive_ece": adaptive_ece(probabilities, rows.truth),
        "classwise_ece": classwise_ece(probabilities, rows.truth),
        **{name: float(each.mean()) for name, each in losses.items()},
        "intervals": {name: task.intervals.of(rows, each) for name, each in losses.items()},
        "reliability": diagram.to_list(),
    }


def _scaled(tested: _Rows, known: _Rows, task: _Task) -> dict[str, Any]:
    """Return the scores after temperature scaling, one temperature per fold for all its seeds."""
    probabilities = np.empty_like(tested.probabilities)
    inner = known.by_fold()
    temperatures: dict[str, Temperature] = {}
    for fold, places in tested.by_fold().items():
        mine = _matching(inner, fold, f"fold '{fold}'")
        fitted = fit_temperature(known.probabilities[mine], known.truth[mine])
        temperatures[fold] = fitted
        probabilities[places] = fitted(tested.probabilities[places])
    values = {fold: fitted.value for fold, fitted in temperatures.items()}
    return _scores(tested, probabilities, task) | {
        "temperature": float(np.mean(list(values.values()))),
        "temperatures": values,
        "left_out": sum(len(inner[fold]) - fitted.n for fold, fitted in temperatures.items()),
        "at_limit": [fold for fold, fitted in temperatures.items() if fitted.at_limit],
    }


def _conformal(tested: _Rows, known: _Rows, task: _Task) -> dict[str, Any]:
    """Return how large the sets are, and how often they hold the true class."""
    sets = np.zeros(tested.probabilities.shape, dtype=bool)
    inner = known.by_fold_and_seed()
    used = method()
    for (fold, seed), places in tested.by_fold_and_seed().items():
        mine = _matching(inner, (fold, seed), f"fold '{fold}', seed {seed}")
        sets[places] = prediction_sets(
            known.probabilities[mine],
            known.truth[mine],
            tested.probabilities[places],
            task.alpha,
        )
    covered = sets[np.arange(len(sets)), tested.truth]
    sizes = sets.sum(axis=1)
    single = sizes == 1
    by_class = {
        label: float(covered[tested.truth == index].mean()) if index in tested.truth else None
        for index, label in enumerate(task.labels)
    }
    return {
        "alpha": task.alpha,
        "coverage": float(covered.mean()),
        "interval": task.intervals.of(tested, covered.astype(np.float64), most=1.0),
        "coverage_by_class": by_class,
        "mean_size": float(sizes.mean()),
        "empty": float((sizes == 0).mean()),
        "singletons": float(single.mean()),
        "singleton_accuracy": float(covered[single].mean()) if single.any() else None,
        "size_counts": np.bincount(sizes, minlength=len(task.labels) + 1).tolist(),
        "method": used,
        "caution": CAUTION,
    }


def _matching(inner: Mapping[Any, np.ndarray], key: Any, where: str) -> np.ndarray:
    if key not in inner:
        raise EvaluationError(f"There are no inner predictions of {where}.")
    return inner[key]
