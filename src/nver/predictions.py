"""The record of an evaluation: every prediction of every system.

One row per clip, system, seed and fold, with the probability of every class. Scores are computed
from the rows, never stored beside them, so a score that is thought of next year works on last
year's runs.
"""

from __future__ import annotations

import functools
import json
import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int32

from nver.answers import Answers, Key, code, unit_of
from nver.errors import EvaluationError
from nver.significance import Unit

COLUMNS = ("clip", "file", "speaker", "label", "system", "encoders", "seed", "fold", "predicted")
"""Columns before the probabilities; ``clip`` is the content hash, ``file`` the clip's name."""

ONE_SEED = (
    "every system was trained with one seed, so nothing is known of how much a score moves from "
    "training to training"
)
TWO_SEEDS = (
    "two trainings tell little of how much a score moves, so intervals are wide: three or five "
    "narrow them"
)
LINEAR = ("lda", "logreg")
"""The linear systems: these, and those that end in them (``concat-lda``)."""

FORMAT = "nver predictions 1"
_METADATA = b"nver"


@dataclass(frozen=True)
class SystemEntry:
    """A system that was evaluated to the end.

    Parameters
    ----------
    name : str
        As in `nver systems`; ``-transductive`` is appended for the second evaluation rule.
    encoders : tuple of str
        The views it saw.
    seconds : float
        What its scores have cost, in seconds of one core: the search for its settings, training and
        prediction over all folds and seeds. Search and training are counted in full for each
        evaluation rule of one trained model.
    search_seconds : float
        How many of them are the search's; 0 where nothing was tuned.
    """

    name: str
    encoders: tuple[str, ...]
    seconds: float
    search_seconds: float = 0.0

    @property
    def joined(self) -> str:
        """The encoders as the record writes them: ``a+b``."""
        return "+".join(self.encoders)

    @property
    def called(self) -> str:
        """Name and encoders in a sentence: ``mata (a+b)``."""
        return f"{self.name} ({self.joined})"

    @property
    def linear(self) -> bool:
        """Whether it is a linear system: one seed is then as good as many."""
        return self.name.rpartition("-")[2] in LINEAR

    @property
    def key(self) -> Key:
        """Name and joined encoders, which are a system's own."""
        return self.name, self.joined


def few_seeds(seeds: int, systems: Iterable[SystemEntry]) -> str:
    """Return the caution that one or two trainings of these systems call for; "" for more."""
    if all(system.linear for system in systems):
        return ""
    return {1: ONE_SEED, 2: TWO_SEEDS}.get(seeds, "")


@dataclass(frozen=True)
class SystemFailure:
    """A system that could not be evaluated: where it failed first, and why. It has no score.

    Parameters
    ----------
    name, encoders
        As in `SystemEntry`.
    fold, seed
        Where; None where the failure belongs to no single training.
    reason : str
        Kind and text of the error.
    traceback : str
        For the developer; "" where there is none.
    """

    name: str
    encoders: tuple[str, ...]
    fold: str | None
    seed: int | None
    reason: str
    traceback: str = ""

    def sentence(self) -> str:
        """Return what failed, where and why, in one line."""
        where = "" if self.fold is None else f" in fold '{self.fold}', seed {self.seed}"
        return f"System '{self.name}' on {'+'.join(self.encoders)} failed{where}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the traceback as plain JSON values."""
        table = asdict(self) | {"encoders": list(self.encoders), "sentence": self.sentence()}
        del table["traceback"]
        return table


@dataclass(frozen=True)
class SystemNote:
    """Something that a system said while it was trained (a warning), and in how many trainings."""

    name: str
    encoders: tuple[str, ...]
    text: str
    times: int

    def sentence(self) -> str:
        """Return the note in one line."""
        often = "" if self.times == 1 else f" ({self.times} times)"
        return f"System '{self.name}' on {'+'.join(self.encoders)}{often}: {self.text}"


@dataclass(frozen=True)
class SystemTuning:
    """The settings that a system was given in one fold, found inside its training part.

    Parameters
    ----------
    name, encoders
        As in `SystemEntry`.
    fold : str
        In which all seeds share them.
    chosen : mapping of str to float
        The settings with the best mean UAR over the inner folds; empty where there are none.
    uar, default_uar : float
        That UAR, of the chosen and of the untuned settings; NaN without inner folds. Both are
        optimistic: the settings were chosen by them.
    trials, pruned : int
        How many settings were tried, and how many of them were given up early.
    inner : str
        How the training part was divided.
    layers : mapping of str to int
        Encoder to the layer that was chosen with them, from 0; an encoder that gives one layer is
        absent.
    """

    name: str
    encoders: tuple[str, ...]
    fold: str
    chosen: Mapping[str, float]
    uar: float
    default_uar: float
    trials: int
    pruned: int
    inner: str
    layers: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; an undefined UAR is None."""
        table = asdict(self) | {"encoders": list(self.encoders), "chosen": dict(self.chosen)}
        table["layers"] = dict(self.layers)
        for name in ("uar", "default_uar"):
            table[name] = None if math.isnan(table[name]) else table[name]
        return table

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> SystemTuning:
        """Return what `to_dict` wrote."""
        undefined = {name: math.nan for name in ("uar", "default_uar") if table[name] is None}
        return cls(**{**_tupled(table), **undefined})


@dataclass(frozen=True, eq=False)
class Predictions:
    """Out-of-fold predictions of several systems on the same clips.

    Parameters
    ----------
    frame : DataFrame
        `COLUMNS`, then ``p_<label>`` in float32 for each of `labels`; speaker is missing where
        unknown.
    labels : tuple of str
        The classes, in order.
    entries : tuple of SystemEntry
        The systems in the frame, in the order in which they were asked for.
    failures : tuple of SystemFailure
        The systems that are absent from it.
    notes : tuple of SystemNote
        Warnings of the training.
    tunings : tuple of SystemTuning
        What was chosen in which fold; empty where nothing was tuned.
    tables : mapping of str to DataFrame
        What was recorded beside the predictions (`nver.record`); files of their own.
    """

    frame: pd.DataFrame
    labels: tuple[str, ...]
    entries: tuple[SystemEntry, ...]
    failures: tuple[SystemFailure, ...] = ()
    notes: tuple[SystemNote, ...] = ()
    tunings: tuple[SystemTuning, ...] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a frame that is no record of these systems.

        Raises
        ------
        EvaluationError
            If a column is missing, or the systems of the frame are not those of `entries`.
        """
        missing = [name for name in self._columns() if name not in self.frame.columns]
        if missing:
            raise EvaluationError(f"Predictions lack the columns {', '.join(missing)}.")
        pairs = self.frame[["system", "encoders"]].drop_duplicates()
        held = set(pairs.itertuples(index=False, name=None))
        odd = held ^ {(entry.name, entry.joined) for entry in self.entries}
        if odd:
            name, encoders = min(odd)
            raise EvaluationError(
                f"Predictions and their list of systems disagree about '{name}' on {encoders}."
            )

    def of(self, entry: SystemEntry) -> pd.DataFrame:
        """Return the rows of one system."""
        frame = self.frame
        return frame[(frame["system"] == entry.name) & (frame["encoders"] == entry.joined)]

    @functools.cached_property
    def answers(self) -> Answers:
        """The same as whole numbers, coded once."""
        return code(self.frame, self.labels)

    def unit(self) -> Unit:
        """Return what the independent units of the corpus are: see `nver.significance.Interval`."""
        return unit_of(self.frame["speaker"])

    def confusions(self, entry: SystemEntry) -> Int32[np.ndarray, "clusters seeds classes classes"]:
        """Return the confusion matrices of one system for each speaker and seed.

        A clip without a speaker is a cluster of its own.
        """
        return self.answers.confusions(entry.key)

    def to_parquet(self, path: Path | str) -> None:
        """Write the record; the file is whole or not there."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        about = {
            "format": FORMAT,
            "labels": list(self.labels),
            "entries": [asdict(entry) for entry in self.entries],
            "failures": [asdict(failure) for failure in self.failures],
            "notes": [asdict(note) for note in self.notes],
            "tunings": [tuning.to_dict() for tuning in self.tunings],
        }
        kinds = dict.fromkeys(COLUMNS, pa.string()) | {"seed": pa.int64()}
        schema = pa.schema([(name, kinds.get(name, pa.float32())) for name in self._columns()])
        table = pa.Table.from_pandas(self.frame[schema.names], schema=schema, preserve_index=False)
        metadata = {**(table.schema.metadata or {}), _METADATA: json.dumps(about).encode()}
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            pq.write_table(table.replace_schema_metadata(metadata), draft, compression="zstd")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def from_parquet(cls, path: Path | str) -> Predictions:
        """Read a record.

        Raises
        ------
        EvaluationError
            If the file is missing, or was not written by `to_parquet`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not Path(path).is_file():
            raise EvaluationError(f"Expected predictions at {path}, found no file there.")
        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[_METADATA])
            known = about["format"] == FORMAT
        except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
            raise EvaluationError(
                f"{path} holds no predictions of nver ({type(error).__name__}). "
                "Expected the predictions.parquet of a run."
            ) from error
        if not known:
            raise EvaluationError(
                f"{path} is written as '{about['format']}'; this version reads '{FORMAT}'. "
                "Read it with the version of nver that wrote it."
            )
        return cls(
            frame=table.to_pandas(),
            labels=tuple(about["labels"]),
            entries=tuple(SystemEntry(**_tupled(entry)) for entry in about["entries"]),
            failures=tuple(SystemFailure(**_tupled(one)) for one in about["failures"]),
            notes=tuple(SystemNote(**_tupled(note)) for note in about["notes"]),
            tunings=tuple(SystemTuning.from_dict(one) for one in about.get("tunings", ())),
        )

    def _columns(self) -> tuple[str, ...]:
        return (*COLUMNS, *(f"p_{label}" for label in self.labels))


def _tupled(table: Mapping[str, Any]) -> dict[str, Any]:
    return {**table, "encoders": tuple(table["encoders"])}
