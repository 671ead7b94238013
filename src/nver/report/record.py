"""What a run folder says, read and checked: the report is built from this and from nothing else.

``predictions.parquet`` is the record; ``scores.json``, ``run.json`` and ``failures.csv`` come with
it. Optional are ``projection.parquet`` (where each clip lies on the map of each encoder),
``clips.parquet`` (where its file lies), ``curves.parquet`` (losses, epoch by epoch) and
``plans.parquet`` (example transport plans).
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nver.errors import NverError, UnfinishedRunError
from nver.metrics import Confusion, confusion
from nver.report.tables import SystemScore, ranked

PREDICTIONS, SCORES, RUN, FAILURES = (
    "predictions.parquet",
    "scores.json",
    "run.json",
    "failures.csv",
)
PROJECTION, CLIPS, CURVES, PLANS = (
    "projection.parquet",
    "clips.parquet",
    "curves.parquet",
    "plans.parquet",
)
NEEDED = (PREDICTIONS, SCORES, RUN, FAILURES)

PREDICTION_COLUMNS = ("file", "speaker", "label", "system", "encoders", "seed", "fold", "predicted")
PROJECTION_COLUMNS = ("encoder", "file", "x", "y", "label")
CLIP_COLUMNS = ("file", "path")
CURVE_COLUMNS = (
    "system",
    "encoders",
    "seed",
    "fold",
    "epoch",
    "training_loss",
    "validation_loss",
)
PLAN_COLUMNS = (
    "system",
    "encoders",
    "source",
    "target",
    "source_file",
    "target_file",
    "source_label",
    "target_label",
    "mass",
)
FAILURE_COLUMNS = ("file", "stage", "reason")


@dataclass(frozen=True)
class Layout:
    """What a JSON file must hold, what it may hold, and what the rows of its lists must hold."""

    needed: Mapping[str, type]
    extra: Mapping[str, type]
    rows: Mapping[str, tuple[str, ...]]


SCORES_LAYOUT = Layout(
    {"corpus": str, "folds": str, "labels": list, "chance_uar": float, "systems": list},
    {
        "failures": list,
        "notes": list,
        "comparisons": dict,
        "disaggregated": list,
        "calibration": list,
        "robustness": list,
    },
    {
        "failures": ("sentence",),
        "disaggregated": ("name", "encoders", "by"),
        "calibration": ("name", "encoders"),
        "robustness": ("name", "encoders", "clean", "perturbations"),
    },
)
RUN_LAYOUT = Layout(
    {"settings": dict, "corpus": dict, "encoders": list, "leakage": dict},
    {
        "extraction": dict,
        "hardware": dict,
        "libraries": dict,
        "warnings": list,
        "systems": list,
        "tuning": list,
        "identity": dict,
        "published": list,
    },
    {
        "encoders": ("name", "licence"),
        "systems": ("name", "summary"),
        "tuning": ("name", "encoders", "fold", "chosen"),
    },
)


@dataclass(frozen=True)
class Failure:
    """A clip that could not be used: at which stage, and why."""

    file: str
    stage: str
    reason: str

    @property
    def perturbed(self) -> bool:
        """Whether it failed under a perturbation alone, and is in all other figures."""
        return self.stage.startswith("perturb ")


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The content of a run folder.

    Parameters
    ----------
    folder : Path
        Where it was read from.
    scores, run : mapping
        The content of scores.json and run.json.
    systems : tuple of SystemScore
        By falling UAR.
    predictions : DataFrame
        `PREDICTION_COLUMNS` of predictions.parquet.
    failures : tuple of Failure
        The rows of failures.csv.
    projection : DataFrame or None
        `PROJECTION_COLUMNS` of projection.parquet; None where the run has no maps.
    places, curves, plans : DataFrame or None
        `CLIP_COLUMNS`, `CURVE_COLUMNS` and `PLAN_COLUMNS` of clips.parquet, curves.parquet and
        plans.parquet; None where the run has none.
    digests : mapping of str to str
        File name -> SHA-256 (hex) of what was read.
    """

    folder: Path
    scores: Mapping[str, Any]
    run: Mapping[str, Any]
    systems: tuple[SystemScore, ...]
    predictions: pd.DataFrame
    failures: tuple[Failure, ...]
    projection: pd.DataFrame | None
    places: pd.DataFrame | None
    curves: pd.DataFrame | None
    plans: pd.DataFrame | None
    digests: Mapping[str, str]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the run's order."""
        return tuple(self.scores["labels"])

    @property
    def interval(self) -> Mapping[str, Any]:
        """How the intervals were made: level, unit, clusters, caution; empty where nobody says."""
        return self.scores.get("interval") or {}

    @property
    def failed_systems(self) -> tuple[str, ...]:
        """A sentence for each system that has no score because its training failed."""
        return tuple(str(failure["sentence"]) for failure in self.scores["failures"])

    @property
    def chance(self) -> float:
        """UAR of guessing."""
        return float(self.scores["chance_uar"])

    @property
    def card(self) -> Mapping[str, Any]:
        """The corpus's card and counts."""
        corpus: Mapping[str, Any] = self.run["corpus"]
        return corpus

    @property
    def seeds(self) -> int:
        """How often each clip was predicted by each system, at most."""
        return int(self.predictions["seed"].nunique())

    @functools.cached_property
    def parts(self) -> Mapping[tuple[str, str], pd.DataFrame]:
        """The predictions of each system, by its key; divided once, since they can be millions."""
        parts = self.predictions.groupby(["system", "encoders"], sort=False, observed=True)
        return {(str(name), str(encoders)): rows for (name, encoders), rows in parts}

    @functools.cached_property
    def confusions(self) -> Mapping[SystemScore, Confusion]:
        """The counts [true, predicted] of each system, added over seeds."""
        return {system: self._confusion(self.parts[system.key]) for system in self.systems}

    def _confusion(self, rows: pd.DataFrame) -> Confusion:
        truth, predicted = (
            rows[column].to_numpy(dtype=object) for column in ("label", "predicted")
        )
        return confusion(truth, predicted, self.labels)

    def clips(self) -> pd.DataFrame:
        """Return one row per clip: label, speaker (missing where unknown) and fold."""
        return self.parts[self.systems[0].key].drop_duplicates("file")

    @property
    def tested(self) -> str:
        """What a clip of the figures is called: not every clip must have been tested."""
        known = 0 if self.places is None else self.places["file"].nunique()
        return "tested clip" if known > len(self.clips()) else "clip"

    def supports(self) -> list[int]:
        """Return the number of clips of each label."""
        counts = self.clips()["label"].value_counts()
        return [int(counts.get(label, 0)) for label in self.labels]

    def divided_speakers(self) -> int | None:
        """Return how many speakers are in training and in test; None where some are unknown.

        Those who stand in more than one test fold, for such a speaker is in the training part of
        the others, and those whom the leakage check found: not every clip must have been tested.
        0 means that no voice was heard in training before it was judged.
        """
        rows = self.parts[self.systems[0].key]
        if rows["speaker"].isna().any():
            return None
        places = rows.groupby(["seed", "speaker"], observed=True)["fold"].nunique()
        divided = set(places[places > 1].reset_index()["speaker"])
        shared = self.run["leakage"].get("shared_speakers") or ()
        return len(divided | {str(one["speaker"]) for one in shared})


def read_record(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises
    ------
    NverError
        If it is no folder, lacks a file, or holds a file that is not what nver writes.
    """
    if not folder.is_dir():
        raise NverError(
            f"Expected a run folder, but '{folder}' is none. "
            "Make one: nver evaluate CORPUS -e ENCODER --out RUN"
        )
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise UnfinishedRunError(folder, missing)
    scores = _json(folder / SCORES, SCORES_LAYOUT)
    systems = _systems(folder / SCORES, scores)
    predictions = _table(folder / PREDICTIONS, PREDICTION_COLUMNS)
    _check_systems(folder, systems, predictions)
    projection = _optional(folder / PROJECTION, PROJECTION_COLUMNS)
    if projection is not None:
        _check_labels(folder / PROJECTION, projection["label"], scores["labels"])
    for column in ("label", "predicted"):
        _check_labels(folder / PREDICTIONS, predictions[column], scores["labels"])
    return RunRecord(
        folder=folder,
        scores=scores,
        run=_json(folder / RUN, RUN_LAYOUT),
        systems=systems,
        predictions=predictions,
        failures=_failures(folder / FAILURES),
        projection=projection,
        places=_optional(folder / CLIPS, CLIP_COLUMNS),
        curves=_optional(folder / CURVES, CURVE_COLUMNS),
        plans=_optional(folder / PLANS, PLAN_COLUMNS),
        digests={name: _sha256(folder / name) for name in NEEDED},
    )


def foreign(path: Path, problem: str) -> NverError:
    """Return the error for a file that nver did not write, or not like this."""
    return NverError(
        f"'{path}' is not what nver writes: {problem}. "
        "Run `nver evaluate` again, into an empty folder."
    )


def _json(path: Path, layout: Layout) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise foreign(path, f"it cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise foreign(path, "expected a JSON object")
    for key, kind in layout.needed.items():
        if not isinstance(content.get(key), (kind, int) if kind is float else kind):
            raise foreign(path, f"expected '{key}' ({kind.__name__})")
    content |= {key: kind() for key, kind in layout.extra.items() if content.get(key) is None}
    for key, kind in layout.extra.items():
        if not isinstance(content[key], kind):
            raise foreign(path, f"expected '{key}' to be a {kind.__name__}")
    for key, fields in layout.rows.items():
        for row in content[key]:
            if not isinstance(row, dict) or any(field not in row for field in fields):
                raise foreign(path, f"expected {' and '.join(fields)} in every entry of '{key}'")
    return content


def _systems(path: Path, scores: Mapping[str, Any]) -> tuple[SystemScore, ...]:
    try:
        systems = ranked(scores)
    except (KeyError, TypeError, ValueError) as error:
        raise foreign(path, f"an entry of 'systems' lacks or mistypes {error}") from error
    if not systems:
        raise foreign(path, "'systems' is empty")
    return systems


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        present = pq.read_schema(path).names
        absent = [column for column in columns if column not in present]
        if not absent:
            table: pd.DataFrame = pq.read_table(path, columns=list(columns)).to_pandas()
            return table
    except (pa.ArrowException, OSError) as error:
        raise foreign(path, f"it cannot be read as Parquet ({error})") from error
    raise foreign(path, f"it lacks the columns {', '.join(absent)}")


def _optional(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    return _table(path, columns) if path.is_file() else None


def _failures(path: Path) -> tuple[Failure, ...]:
    with path.open(encoding="utf-8", errors="backslashreplace", newline="") as file:
        reader = csv.DictReader(file)
        absent = [name for name in FAILURE_COLUMNS if name not in (reader.fieldnames or ())]
        if absent:
            raise foreign(path, f"it lacks the columns {', '.join(absent)}")
        rows = [tuple(row[name] or "" for name in FAILURE_COLUMNS) for row in reader]
    return tuple(Failure(*row) for row in rows)


def _check_systems(folder: Path, systems: Sequence[SystemScore], predictions: pd.DataFrame) -> None:
    pairs = predictions[["system", "encoders"]].drop_duplicates().itertuples(index=False, name=None)
    predicted, scored = set(pairs), {system.key for system in systems}
    if predicted != scored:
        name, encoders = min(predicted ^ scored)
        raise NverError(
            f"{PREDICTIONS} and {SCORES} of '{folder}' are from different runs: only one has "
            f"system '{name}' on '{encoders}'. Run `nver evaluate` again, into an empty folder."
        )


def _check_labels(path: Path, used: pd.Series[Any], labels: Sequence[str]) -> None:
    strangers = sorted(str(label) for label in set(used.unique()) - set(labels))
    if strangers:
        raise NverError(
            f"'{path}' and {SCORES} are from different runs: the label '{strangers[0]}' is not "
            "among the scored ones. Run `nver evaluate` again, into an empty folder."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
