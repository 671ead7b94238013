"""How well each group is recognised: each class, speaker, sex, age, intensity, and the like.

A mean over all clips hides whom a system fails. A group's score is the UAR over the classes that
occur in it, so that a group is not judged by how many clips of an easy class it happens to hold;
where one class occurs this is that class's recall, and says so. Groups that lack classes are of
other classes than the rest: read their score with ``n_classes``.

With many groups some are low by chance. The sentences therefore name the lowest group with its
interval, pass over groups of next to no clips or speakers, say so where it rests on few clusters,
and count how many groups were looked at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nver.answers import Answers, Key
from nver.metrics import METRICS
from nver.predictions import Predictions, SystemEntry
from nver.significance import FEW, Interval, cluster_bootstraps, plural

MOST = 12
"""A fact with more values than this is no division into groups; numbers are divided into bands."""

MEASURED = ("seconds",)
"""Numbers that are always divided into bands, as all are that are not whole."""

BANDS = 4

ENOUGH_CLIPS, ENOUGH_CLUSTERS = 10, 3
"""A group of fewer clips or speakers stands in the table, and is not named lowest or highest."""

OWN = ("clip", "file", "path", "label", "speaker")
"""Columns of clips.parquet that are no facts."""

DIVISIONS = ("fold", "folds", "split", "partition", "part", "set", "subset")
"""Facts with such a name are of the evaluation, not of the clips."""

AGE = re.compile(r"(?i)(^|[^a-z])age([^a-z]|$)")

Grouping = Mapping[str, "np.ndarray"]
"""Value -> which clips have it, bool [clips]."""


@dataclass(frozen=True)
class Group:
    """One group's score.

    Parameters
    ----------
    value : str
        What its clips have in common.
    n_clips, n_speakers, n_classes : int
        How much it is; speakers that are unknown are not counted.
    metric : {"uar", "recall"}
        "recall" where one class occurs.
    score : Interval
        In [0, 1], higher is better; over the clusters of the group.
    """

    value: str
    n_clips: int
    n_speakers: int
    n_classes: int
    metric: str
    score: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; an undefined one is None with its reason."""
        table = self.score.to_dict()
        return {
            "value": self.value,
            "n_clips": self.n_clips,
            "n_speakers": self.n_speakers,
            "n_classes": self.n_classes,
            "metric": self.metric,
            "score": table.pop("value"),
            **table,
        }


def disaggregated(
    predictions: Predictions,
    clips: pd.DataFrame | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Return the section ``disaggregated`` of scores.json.

    Parameters
    ----------
    predictions : Predictions
        The record.
    clips : DataFrame or None
        Facts of the clips, a row each: ``file`` and any columns. Those with 2 to `MOST` values
        divide the clips into groups; measured numbers (`MEASURED`, and those that are not whole)
        and ages with more values are divided into up to `BANDS` bands of about as many clips.
        None: classes and speakers alone.
    resamples, seed, level
        Of `nver.significance.cluster_bootstraps`.

    Returns
    -------
    list of dict
        One per system: ``name``, ``encoders``, ``by`` (fact -> groups, as `Group.to_dict` writes
        them, classes and speakers among the facts), ``worst`` (a sentence for each fact whose
        groups differ, of those with enough clips and speakers) and ``caution``.
    """
    answers = predictions.answers
    entries = predictions.entries
    draw = _Draw(answers, [entry.key for entry in entries], resamples, seed, level)
    by = {
        fact: [draw.groups(value, only) for value, only in grouping.items()]
        for fact, grouping in _groupings(answers, clips).items()
    }
    caution = _caution(sum(len(groups) for groups in by.values()))
    return [
        _section(entry, {fact: [one[place] for one in groups] for fact, groups in by.items()})
        | {"caution": caution}
        for place, entry in enumerate(entries)
    ]


def _section(entry: SystemEntry, by: Mapping[str, Sequence[Group]]) -> dict[str, Any]:
    worst = (_worst(fact, groups) for fact, groups in by.items())
    return {
        "name": entry.name,
        "encoders": list(entry.encoders),
        "by": {fact: [group.to_dict() for group in groups] for fact, groups in by.items()},
        "worst": [sentence for sentence in worst if sentence],
    }


@dataclass(frozen=True, eq=False)
class _Draw:
    """How groups are scored, all systems at once."""

    answers: Answers
    systems: Sequence[Key]
    resamples: int
    seed: int
    level: float

    def groups(self, value: str, only: np.ndarray) -> list[Group]:
        """Return one group's score by each system."""
        answers = self.answers
        clips, classes = int(only.sum()), len(np.unique(answers.truth[only]))
        speakers = int(answers.clips["speaker"][only].nunique())
        metric = "uar" if classes > 1 else "recall"
        scores = cluster_bootstraps(
            [answers.confusions(key, only) for key in self.systems],
            METRICS["uar"],
            n=self.resamples,
            seed=self.seed,
            level=self.level,
            unit=answers.unit,
        )
        return [Group(value, clips, speakers, classes, metric, score) for score in scores]


def _groupings(answers: Answers, clips: pd.DataFrame | None) -> dict[str, Grouping]:
    """Return fact -> value -> clips; facts that say nothing new about a label are left out."""
    labels, speakers = answers.clips["label"], answers.clips["speaker"]
    groupings = {"class": _by_value(labels, answers.labels)}
    if clips is not None:
        rows = clips.drop_duplicates("file").set_index("file").reindex(answers.clips["file"])
        for name in rows.columns:
            if name in OWN or str(name).lower() in DIVISIONS:
                continue
            banded = _bands(str(name), rows[name])
            if banded is None or _names_labels(banded, labels):
                continue
            grouping = _by_value(banded)
            if not any(_same(grouping, known) for known in groupings.values()):
                groupings[str(name)] = grouping
    if speakers.nunique() > 1:
        groupings["speaker"] = _by_value(speakers)
    return groupings


def _by_value(values: pd.Series[Any], order: Sequence[str] | None = None) -> Grouping:
    """Return which clips have each value, in the order of a categorical or of the alphabet."""
    if order is None:
        categorical = isinstance(values.dtype, pd.CategoricalDtype)
        order = list(values.cat.categories) if categorical else sorted(values.dropna().unique())
    held = values.to_numpy(dtype=object)
    parts = {str(value): np.asarray(held == value, dtype=bool) for value in order}
    return {value: only for value, only in parts.items() if only.any()}


def _bands(name: str, values: pd.Series[Any]) -> pd.Series[Any] | None:
    """Return a fact as 2 to `MOST` groups; None where it makes none."""
    few = values.dropna().nunique()
    if few < 2:
        return None
    numbers = pd.to_numeric(values, errors="coerce").astype(float).reset_index(drop=True)
    if not (numbers.isna().to_numpy() == values.isna().to_numpy()).all():
        texts = values.reset_index(drop=True).map(str, na_action="ignore").astype(object)
        return texts if few <= MOST else None
    known = np.unique(numbers.dropna())
    whole = bool((known == np.rint(known)).all())
    if not whole or name in MEASURED:
        return _quartiles(numbers)
    if len(known) > MOST:
        # Many whole numbers are codes or counters, unless they are ages.
        return _quartiles(numbers) if AGE.search(name) else None
    order = [f"{value:g}" for value in known]
    texts = numbers.map(lambda value: f"{value:g}", na_action="ignore").astype(object)
    return texts.astype(pd.CategoricalDtype(order))


def _quartiles(numbers: pd.Series[float]) -> pd.Series[Any] | None:
    """Return up to `BANDS` bands of about as many clips, named after their least and greatest.

    None where there are not two bands, or where their names would be alike.
    """
    ends = np.unique(np.nanquantile(numbers, np.linspace(0, 1, BANDS + 1)))
    places = np.searchsorted(ends[1:-1], numbers, side="left")
    known = numbers.notna().to_numpy()
    parts = [numbers[known & (places == place)] for place in range(len(ends) - 1)]
    if not all(map(len, parts)):
        return None
    spans = [dict.fromkeys(f"{end:.3g}" for end in (part.min(), part.max())) for part in parts]
    names = [" to ".join(span) for span in spans]
    if len(set(names)) < max(2, len(names)):
        return None
    named = np.array(names, dtype=object)[places]
    named[~known] = None
    return pd.Series(pd.Categorical(named, names))


def _same(one: Grouping, other: Grouping) -> bool:
    """Return whether two facts divide the clips alike."""
    parts = (sorted(only.tobytes() for only in grouping.values()) for grouping in (one, other))
    return next(parts) == next(parts)


def _names_labels(values: pd.Series[Any], labels: pd.Series[Any]) -> bool:
    """Return whether each value occurs with one label only: then the classes say it already."""
    known = values.notna().to_numpy()
    pairs = pd.DataFrame({"value": values[known].astype(str), "label": labels[known]})
    return bool((pairs.groupby("value")["label"].nunique() <= 1).all())


def _worst(fact: str, groups: Sequence[Group]) -> str:
    """Return the lowest group in words; "" where there are not two that can be compared."""
    scored = [group for group in groups if _enough(fact, group)]
    if len(scored) < 2:
        return ""
    low = min(scored, key=lambda group: group.score.value)
    high = max(scored, key=lambda group: group.score.value)
    if low.score.value == high.score.value:
        return ""
    metric = "recall" if low.metric == "recall" else "UAR"
    within = ""
    if not math.isnan(low.score.low):
        within = f" ({100 * low.score.low:.1f} to {100 * low.score.high:.1f})"
    whose = f" of {_counted(low.n_speakers, 'speaker')}" if low.n_speakers > 1 else ""
    few = ""
    if fact not in ("speaker", "class") and low.score.clusters < FEW:
        few = f"; so few {plural(low.score.unit)} say little"
    return (
        f"Lowest by {fact}: {low.value}, {metric} {100 * low.score.value:.1f} %{within}, "
        f"{_counted(low.n_clips, 'clip')}{whose}{few}; highest: {high.value}, "
        f"{100 * high.score.value:.1f} %."
    )


def _enough(fact: str, group: Group) -> bool:
    """Return whether a group may be named; a speaker is one speaker, and judged by the clips."""
    clusters = fact == "speaker" or group.score.clusters >= ENOUGH_CLUSTERS
    return clusters and group.n_clips >= ENOUGH_CLIPS and not math.isnan(group.score.value)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _caution(groups: int) -> str:
    return (
        f"{groups} groups were looked at, and intervals are not corrected for that: of so many, "
        "some are low by chance, small ones first"
    )
