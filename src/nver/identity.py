"""The identity baseline: how much of a label speaker, session and source give away without sound.

Under the folds of a run a naive Bayes classifier (scikit-learn's MultinomialNB on one-hot codes)
predicts the label from the codes of a corpus alone: who is heard, in which session, cut from which
source. A code that was not in the training part says nothing, and the prior decides. Where this
baseline is above chance, part of every other score is who and where, not how it sounds: of ASVP-ESD
the actor's number alone names 43 % of the labels under random folds (24 % are of the largest
class), and folds that keep actors apart take that away.

UAR is that of a classifier with equal priors, accuracy that of one with the training part's.

Not every column is a code. Left out, each with its reason, are columns that name single clips, that
are the division itself, that are measured on the sound, and those that say the label by
construction: a second name of the label, a coarser or a finer one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from nver.errors import EvaluationError
from nver.metrics import METRICS
from nver.significance import Interval, Unit, cluster_bootstrap
from nver.splits import Fold

SMOOTHING = 0.1
"""Added to every count: small, so that one clip of a speaker is heard, and none is no verdict."""

GIVEN_AWAY = 0.9
"""From this share of clips with the commonest label of their value, a column says the label."""

CLEARLY = 1.25
"""How many times chance a UAR is, beside its interval being above chance, to be an alarm: one of
many columns is above chance by luck."""

SINGLE = 2.0
"""Clips per value below which a column names single clips; for people and places, exactly one."""

WHO_AND_WHERE = (
    "speaker",
    "actor",
    "subject",
    "participant",
    "session",
    "source",
    "folder",
    "recorder",
    "device",
    "microphone",
    "site",
    "location",
    "day",
    "date",
)
"""A column with such a name is a code of person or place, however well it predicts the label."""

DIVISIONS = ("fold", "folds", "split", "partition", "part", "set", "subset")


@dataclass(frozen=True)
class Codes:
    """Which columns of a corpus are codes, and which are not.

    Parameters
    ----------
    columns : mapping of str to int [clips]
        Column to the number of each clip's value; a missing value is a value of its own.
    left_out : mapping of str to str
        Column to why it is no code.
    """

    columns: Mapping[str, Int[np.ndarray, " clips"]]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class IdentityBaseline:
    """What codes alone reach under the folds of a run.

    Parameters
    ----------
    uar, accuracy : Interval or None
        Of all codes together, with the interval over speakers; None where there are no codes.
    chance_uar, chance_accuracy : float
        One over the classes; the share of the largest class.
    per_column : mapping of str to Interval
        UAR of each column alone.
    left_out : mapping of str to str
        Column to why it was not used.
    """

    uar: Interval | None
    accuracy: Interval | None
    chance_uar: float
    chance_accuracy: float
    per_column: Mapping[str, Interval]
    left_out: Mapping[str, str]

    @property
    def alarm(self) -> bool:
        """Whether the codes, together or one of them, are clearly above chance (`CLEARLY`)."""
        scores = [score for score in (self.uar, *self.per_column.values()) if score is not None]
        return any(_above(score, self.chance_uar) for score in scores)

    def sentence(self) -> str:
        """Return what it says of the other scores, in one to three sentences."""
        if self.uar is None or self.accuracy is None:
            return "The corpus has no speaker, session or source codes: no identity baseline."
        return f"{self._found(self.uar, self.accuracy)} {self._verdict(self.uar)}{self._named()}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; scores in [0, 1]."""
        return {
            "columns": list(self.per_column),
            "uar": None if self.uar is None else self.uar.to_dict(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
            "chance_uar": self.chance_uar,
            "chance_accuracy": self.chance_accuracy,
            "sentence": self.sentence(),
            "alarm": self.alarm,
            "reason": "" if self.uar is not None else self.sentence(),
            "per_column": [
                {"column": name, "uar": score.to_dict()} for name, score in self.per_column.items()
            ],
            "left_out": [
                {"column": name, "reason": reason} for name, reason in self.left_out.items()
            ],
        }

    def _found(self, uar: Interval, accuracy: Interval) -> str:
        names = _listed(list(self.per_column))
        ends = "" if math.isnan(uar.low) else f" [{_percent(uar.low)}, {_percent(uar.high)}]"
        return (
            f"From {names} alone, with no sound, UAR {_percent(uar.value)} %{ends} (chance "
            f"{_percent(self.chance_uar)} %) and accuracy {_percent(accuracy.value)} % (the "
            f"largest class alone: {_percent(self.chance_accuracy)} %) under these folds."
        )

    def _verdict(self, uar: Interval) -> str:
        if _above(uar, self.chance_uar):
            return "So much of every score may be who and where, not how it sounds."
        best = max(self.per_column, key=lambda name: self.per_column[name].value)
        score = self.per_column[best]
        if _above(score, self.chance_uar):
            return (
                f"Together they are not above chance, but '{best}' alone reaches "
                f"{_percent(score.value)} %: part of every score may be that."
            )
        if uar.high < self.chance_uar:
            return (
                "They do not give the label away; it is below chance because the labels are "
                "balanced, so what a test part has more of, its training part has less of."
            )
        return "They do not give the label away."

    def _named(self) -> str:
        telling = [name for name, reason in self.left_out.items() if "label" in reason]
        if not telling:
            return ""
        quoted = _listed([f"'{name}'" for name in telling])
        return f" Not used, since the value all but says the label: {quoted}."


def identity_baseline(
    folds: Sequence[Fold],
    labels: np.ndarray,
    speakers: np.ndarray | None,
    columns: Mapping[str, np.ndarray],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> IdentityBaseline:
    """Return what the codes of a corpus say of its labels under these folds.

    Parameters
    ----------
    folds : sequence of Fold
        Those of the run.
    labels : array of str [clips]
        Class of each clip.
    speakers : array [clips] or None
        Speaker of each clip, None where unknown; a code, and the cluster of the intervals.
    columns : mapping of str to array [clips]
        The corpus's other facts.
    level, seed
        Of `nver.significance.cluster_bootstrap`.

    Raises
    ------
    EvaluationError
        If a column has another length than the labels.
    """
    named = {} if speakers is None else {"speaker": speakers}
    codes = find_codes(labels, {**named, **columns})
    names, truth = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    tested = np.concatenate([fold.test for fold in folds])
    clusters, unit = _clusters(speakers, len(labels))

    def interval(columns: Sequence[np.ndarray], metric: str) -> Interval:
        predicted = _predict(columns, truth, folds, equal_priors=metric == "uar")
        counts = _confusions(truth, predicted, clusters, tested, len(names))
        return cluster_bootstrap(counts, METRICS[metric], level=level, seed=seed, unit=unit)

    every = list(codes.columns.values())
    present = np.unique(truth[tested], return_counts=True)[1]
    return IdentityBaseline(
        uar=interval(every, "uar") if every else None,
        accuracy=interval(every, "accuracy") if every else None,
        chance_uar=1.0 / len(present),
        chance_accuracy=float(present.max() / present.sum()),
        per_column={name: interval([code], "uar") for name, code in codes.columns.items()},
        left_out=codes.left_out,
    )


def find_codes(labels: np.ndarray, columns: Mapping[str, np.ndarray]) -> Codes:
    """Return which columns are codes of person, place or recording, and why the others are not.

    Raises
    ------
    EvaluationError
        If a column has another length than the labels.
    """
    truth = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
    kept: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for name, values in columns.items():
        if len(values) != len(truth):
            raise EvaluationError(
                f"Expected a value of '{name}' for each of {len(truth)} clips, got {len(values)}."
            )
        texts = np.array([_text(value) for value in values], dtype=str)
        reason = _objection(name, texts, truth)
        if reason:
            left_out[name] = reason
        else:
            kept[name] = np.unique(texts, return_inverse=True)[1]
    return Codes(kept, left_out)


def _objection(name: str, texts: np.ndarray, truth: np.ndarray) -> str:
    """Return why a column is no code; "" if it is one."""
    known = texts != ""
    values, codes = np.unique(texts[known], return_inverse=True)
    if len(values) + (not known.all()) < 2:
        return "it has one value"
    if name.lower() in DIVISIONS:
        return "it is a division of the clips"
    who = any(part in name.lower() for part in WHO_AND_WHERE)
    if len(values) * (1.0 if who else SINGLE) > known.sum() - who:
        return "it names single clips"
    if any(_measured(value) for value in values):
        return "it is measured, no code"
    table = np.zeros((len(values), truth.max() + 1), dtype=np.int64)
    np.add.at(table, (codes, truth[known]), 1)
    heard = table[:, table.any(axis=0)]
    if len(values) > 1 and heard.shape[1] > 1 and ((heard > 0).sum(axis=0) == 1).all():
        return "each label has one value of it: another name of the label, or a coarser one"
    if who:
        return ""
    several = table[table.sum(axis=1) > 1]
    share = several.max(axis=1).sum() / max(1, several.sum())
    if share >= GIVEN_AWAY:
        return f"{share:.0%} of the clips have the commonest label of their value"
    return ""


def _predict(
    columns: Sequence[np.ndarray], truth: np.ndarray, folds: Sequence[Fold], *, equal_priors: bool
) -> np.ndarray:
    """Return the class that the codes say of each clip; -1 for a clip that no fold tests."""
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.preprocessing import OneHotEncoder

    table = np.stack(columns, axis=1)
    predicted = np.full(len(truth), -1)
    for fold in folds:
        codes = OneHotEncoder(handle_unknown="ignore").fit(table[fold.train])
        model = MultinomialNB(alpha=SMOOTHING, fit_prior=not equal_priors)
        model.fit(codes.transform(table[fold.train]), truth[fold.train])
        predicted[fold.test] = model.predict(codes.transform(table[fold.test]))
    return predicted


def _clusters(speakers: np.ndarray | None, clips: int) -> tuple[np.ndarray, Unit]:
    """Return the cluster of each clip: its speaker, or itself where nobody knows."""
    if speakers is None:
        return np.arange(clips), "clip"
    names = [f"c {i}" if who is None else f"s {who}" for i, who in enumerate(speakers)]
    unit: Unit = "mixed" if any(who is None for who in speakers) else "speaker"
    return np.unique(names, return_inverse=True)[1], unit


def _confusions(
    truth: np.ndarray,
    predicted: np.ndarray,
    clusters: np.ndarray,
    tested: np.ndarray,
    classes: int,
) -> np.ndarray:
    """Return the counts [clusters, classes, classes] of the tested clips."""
    used, cluster = np.unique(clusters[tested], return_inverse=True)
    counts = np.zeros((len(used), classes, classes), dtype=np.int64)
    np.add.at(counts, (cluster, truth[tested], predicted[tested]), 1)
    return counts


def _above(score: Interval, chance: float) -> bool:
    low = score.value if math.isnan(score.low) else score.low
    return low > chance + 1e-9 and score.value >= CLEARLY * chance


def _measured(value: str) -> bool:
    try:
        return not float(value).is_integer()
    except (ValueError, OverflowError):
        return False


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
