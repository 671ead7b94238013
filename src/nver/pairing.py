"""Two systems, of one record or of two, on the same clips in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nver.answers import Answers, Key, SystemAnswers
from nver.errors import EvaluationError
from nver.predictions import Predictions, SystemEntry
from nver.significance import Unit

_KNOWN: tuple[Unit, ...] = ("clip", "mixed", "speaker")  # of none, of some, of all clips


@dataclass(frozen=True, eq=False)
class Pair:
    """What two systems answered on the same clips.

    Parameters
    ----------
    confusions : two arrays [clusters, seeds, classes, classes]
        Counts of the first and of the second, for the same clusters.
    unit : {"speaker", "clip", "mixed"}
        What a cluster is.
    right : two arrays bool [clips], or None
        Whether each clip was right; None where clips are not independent, or a system has several
        seeds.
    caution : str
        What makes the two hard to compare; "" if nothing.
    """

    confusions: tuple[np.ndarray, np.ndarray]
    unit: Unit
    right: tuple[np.ndarray, np.ndarray] | None
    caution: str


def paired(first: Predictions, one: SystemEntry, second: Predictions, other: SystemEntry) -> Pair:
    """Return a system of the first record and one of the second, on the same clips.

    Clips are the same if their audio (its hash) and their name are. Where the second record knows
    more of the speakers, they are taken from there.

    Raises
    ------
    EvaluationError
        If the records are of other clips or other labels, a record lacks the system, or a clip
        lacks an answer.
    """
    for record, entry in ((first, one), (second, other)):
        if entry.key not in record.answers.systems:
            raise EvaluationError(f"The record holds no system '{entry.name}' on {entry.joined}.")
    keys, answers, caution = (one.key, other.key), first.answers, ""
    if second is not first:
        order = _matched(answers.clips, second.answers.clips)
        _check_labels(answers, second.answers, order)
        folds = (answers.clips["fold"], second.answers.clips["fold"].iloc[order])
        if _partition(folds[0]) != _partition(folds[1]):
            caution = "the two runs have other folds, so their training parts differ as well"
        # Two runs may hold a system of the same name; no system has an empty name.
        keys = (one.key, ("", other.joined))
        answers = _joined(answers, second.answers, (one.key, other.key), keys, order)
    _check_asked(answers, keys)
    clips = len(answers.clips)
    given = [answers.systems[key].given for key in keys]
    right = None
    if len(np.unique(answers.cluster)) == clips and all(len(side) == 1 for side in given):
        right = (given[0][0] == answers.truth, given[1][0] == answers.truth)
    counts = (answers.confusions(keys[0]), answers.confusions(keys[1]))
    return Pair(counts, answers.unit, right, caution)


def _joined(
    answers: Answers,
    theirs: Answers,
    taken: tuple[Key, Key],
    keys: tuple[Key, Key],
    order: np.ndarray,
) -> Answers:
    """Return the clips of the first with one system of each, under new names."""
    # Sums of the same numbers in another order differ: not by which record is named first.
    labels = answers.labels
    if labels != theirs.labels:
        labels = tuple(sorted(labels))
    systems = {
        keys[0]: _relabelled(answers, taken[0], labels, np.arange(len(order))),
        keys[1]: _relabelled(theirs, taken[1], labels, order),
    }
    truth = _places(answers, labels)[answers.truth]
    answers = replace(answers, labels=labels, truth=truth)
    if _KNOWN.index(answers.unit) >= _KNOWN.index(theirs.unit):
        return replace(answers, systems=systems)
    clips = answers.clips.assign(speaker=theirs.clips["speaker"].to_numpy()[order])
    return replace(answers, systems=systems, clips=clips, cluster=theirs.cluster[order])


def _relabelled(
    answers: Answers, key: Key, labels: Sequence[str], order: np.ndarray
) -> SystemAnswers:
    """Return the answers of a system for the clips in this order and the labels in theirs."""
    given = answers.systems[key].given[:, order]
    places = _places(answers, labels).astype(np.int16)
    given = np.where(given >= 0, places[given], np.int16(-1)).astype(np.int16)
    return replace(answers.systems[key], given=given)


def _places(answers: Answers, labels: Sequence[str]) -> np.ndarray:
    return np.array([labels.index(label) for label in answers.labels], dtype=np.int64)


def _matched(clips: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """Return where each of the clips stands among the others."""
    keys, strangers = (
        pd.MultiIndex.from_frame(table[["clip", "file"]]) for table in (clips, others)
    )
    order = strangers.get_indexer(keys)
    shared = int((order >= 0).sum())
    if shared < len(clips) or shared < len(others):
        raise EvaluationError(
            f"Expected two runs of the same clips, but {shared:,} clips are in both, "
            f"{len(clips) - shared:,} only in the first and {len(others) - shared:,} only in the "
            "second. Evaluate both systems on the same corpus."
        )
    return order


def _check_labels(answers: Answers, theirs: Answers, order: np.ndarray) -> None:
    ours = answers.clips["label"].to_numpy(dtype=object)
    other = theirs.clips["label"].to_numpy(dtype=object)[order]
    differ = int((ours != other).sum())
    if differ or set(answers.labels) != set(theirs.labels):
        raise EvaluationError(
            f"Expected two runs with the same labels, but {differ:,} of {len(ours):,} clips are "
            f"labelled otherwise; the classes are {', '.join(answers.labels)} and "
            f"{', '.join(theirs.labels)}."
        )


def _check_asked(answers: Answers, keys: Sequence[Key]) -> None:
    missing = [int((answers.systems[key].given < 0).any(axis=0).sum()) for key in keys]
    if any(missing):
        raise EvaluationError(
            f"Expected both systems to have answered all {len(answers.clips):,} clips under every "
            f"seed, but {missing[0]:,} lack an answer of the first and {missing[1]:,} of the "
            "second. Run `nver evaluate` again."
        )


def _partition(folds: pd.Series[Any]) -> list[int]:
    """Return the folds numbered in order of appearance, so that their names do not matter."""
    codes, _ = pd.factorize(folds)
    return [int(code) for code in codes]
