"""Predictions as whole numbers: which clip got which answer, from which system, under which seed.

The record has a row of text for each; tables of scores, groups and pairs count the same answers
many times over, so they are coded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int16, Int32, Int64

from nver.errors import EvaluationError
from nver.metrics import confusion
from nver.significance import Unit

Key = tuple[str, str]
"""A system's name and its encoders, joined by ``+``."""


@dataclass(frozen=True, eq=False)
class SystemAnswers:
    """The answers of one system.

    Parameters
    ----------
    seeds : int64 [seeds]
        Of its trainings.
    given : int16 [seeds, clips]
        The place of the answer among the labels; -1 where the clip was not asked.
    """

    seeds: Int64[np.ndarray, "seeds"]
    given: Int16[np.ndarray, "seeds clips"]


@dataclass(frozen=True, eq=False)
class Answers:
    """The clips of a record, and what every system answered.

    Parameters
    ----------
    labels : tuple of str
        The classes.
    clips : DataFrame
        One row per clip, in the order of the record: clip, file, speaker, label, fold.
    truth : int64 [clips]
        The place of the label among the labels.
    cluster : int64 [clips]
        Number of the independent unit: of the speaker, or the clip's own where that is unknown.
    systems : mapping of (name, encoders) to SystemAnswers
        In the order of the record.
    """

    labels: tuple[str, ...]
    clips: pd.DataFrame
    truth: Int64[np.ndarray, "clips"]
    cluster: Int64[np.ndarray, "clips"]
    systems: Mapping[Key, SystemAnswers]

    @property
    def unit(self) -> Unit:
        """What the independent units are: see `nver.significance.Interval`."""
        return unit_of(self.clips["speaker"])

    def confusions(
        self, key: Key, only: Bool[np.ndarray, "clips"] | None = None
    ) -> Int32[np.ndarray, "clusters seeds classes classes"]:
        """Return the confusion matrices of one system for each cluster and seed.

        Parameters
        ----------
        key : (name, encoders)
            The system.
        only : bool [clips], optional
            The clips to count. Clusters without any of them are left out.
        """
        answers = self.systems[key].given
        asked = (answers >= 0) if only is None else (answers >= 0) & only
        held, cluster = np.unique(self.cluster[asked.any(axis=0)], return_inverse=True)
        places = np.zeros(len(self.clips), dtype=np.int64)
        places[asked.any(axis=0)] = cluster
        shape = (len(held), len(answers), len(self.labels), len(self.labels))
        seed, clip = np.nonzero(asked)
        cells = np.ravel_multi_index(
            (places[clip], seed, self.truth[clip], answers[seed, clip]), shape
        )
        return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape).astype(np.int32)


def unit_of(speakers: pd.Series[Any]) -> Unit:
    """Return what the independent units of clips with these speakers are."""
    unknown = speakers.isna()
    if unknown.all():
        return "clip"
    return "mixed" if unknown.any() else "speaker"


def code(frame: pd.DataFrame, labels: Sequence[str]) -> Answers:
    """Return the answers that a record holds.

    Parameters
    ----------
    frame : DataFrame
        The columns of `nver.predictions.COLUMNS`.
    labels : sequence of str
        The classes.

    Raises
    ------
    EvaluationError
        If a label is none of `labels`, or a system answers a clip twice under one seed.
    """
    place, _ = pd.factorize(frame["file"])
    first = np.flatnonzero(~pd.Series(place).duplicated().to_numpy())
    clips = frame.iloc[first][["clip", "file", "speaker", "label", "fold"]].reset_index(drop=True)
    truth, predicted = (_coded(frame, name, labels) for name in ("label", "predicted"))
    systems: dict[Key, SystemAnswers] = {}
    parts = frame.groupby(["system", "encoders"], sort=False, observed=True).indices
    for key, rows in cast("dict[Key, np.ndarray]", parts).items():
        seeds, seed = np.unique(frame["seed"].to_numpy()[rows], return_inverse=True)
        given = np.full((len(seeds), len(clips)), -1, dtype=np.int16)
        given[seed, place[rows]] = predicted[rows]
        if (given >= 0).sum() != len(rows):
            raise EvaluationError(
                f"Expected one answer of '{key[0]}' on {key[1]} per clip and seed, got more."
            )
        systems[key] = SystemAnswers(seeds.astype(np.int64), given)
    return Answers(tuple(labels), clips, truth[first], _clusters(clips), systems)


def _coded(frame: pd.DataFrame, name: str, labels: Sequence[str]) -> np.ndarray:
    codes, names = pd.factorize(frame[name])
    places = {label: index for index, label in enumerate(labels)}
    found = np.array([places.get(value, -1) for value in names], dtype=np.int64)
    if (found < 0).any() or (codes < 0).any():
        # The error of `confusion` names the label.
        confusion(frame["label"].to_numpy(), frame["predicted"].to_numpy(), labels)
    return found[codes]


def _clusters(clips: pd.DataFrame) -> np.ndarray:
    unknown = clips["speaker"].isna()
    speakers = "s " + clips["speaker"].astype(object).astype(str)
    units = speakers.where(~unknown, "c " + clips["file"].astype(str))
    _, cluster = np.unique(units.to_numpy(dtype=object), return_inverse=True)
    return cluster.astype(np.int64)
