"""Scores of a classifier, each defined once, from labels or from confusion matrices.

A confusion matrix has the truth in its rows and the prediction in its columns. Every score takes
matrices ``[..., classes, classes]`` and works on all of them at once: the bootstrap of
`nver.significance` needs thousands. Counts of the folds are added before a score is computed
(predictions are pooled), so a score does not depend on how the clips were divided.

Two definitions differ between libraries, so they are stated here. UAR is the mean recall over the
classes that occur in the truth, as in scikit-learn's balanced accuracy; a class that is predicted
but never true has no recall, and is not counted as 0. Macro-F1 is the mean of the classes' F1 (not
the F1 of the mean precision and recall) over the classes that occur in the truth or among the
predictions.

An undefined score is NaN and says why. A label outside the given ones is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64, Int64, Num

from nver.errors import EvaluationError
from nver.registry import nearest

Counts: TypeAlias = Num[np.ndarray, "*batch classes classes"]
Confusion: TypeAlias = Int64[np.ndarray, "classes classes"]
Values: TypeAlias = Float64[np.ndarray, "*batch"]
OneEach: TypeAlias = Float64[np.ndarray, "classes"]
PerClassValues: TypeAlias = Float64[np.ndarray, "*batch classes"]

NO_CLIPS = "no clips were scored"


@dataclass(frozen=True)
class Score:
    """A number, or NaN and the reason why there is none.

    Parameters
    ----------
    value : float
        NaN where the score is undefined.
    reason : str
        Why it is undefined; "" where it is defined.
    """

    value: float
    reason: str = ""

    def __float__(self) -> float:
        return self.value


class Margins(NamedTuple):
    """All that the scores of `METRICS` ask of confusion matrices: ``[..., classes]`` each.

    A third of the numbers at four classes, a quarter at twelve: resampling is that much faster.
    """

    hits: np.ndarray
    true: np.ndarray
    guessed: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A score with its facts. Call it on confusion matrices, or ask for the `score` of predictions.

    Parameters
    ----------
    name, title : str
        Its key, and how tables print it.
    low, high : float
        Its range.
    greater_is_better : bool
        Its direction.
    function : callable
        From `Margins` ``[..., classes]`` to values ``[...]``.
    linear : bool
        Whether, the truth being given, it is a weighted sum of the hits.
    """

    name: str
    title: str
    low: float
    high: float
    greater_is_better: bool
    function: Callable[[Margins], np.ndarray]
    linear: bool

    def __call__(self, counts: Counts) -> Values:
        """Return the value of each confusion matrix."""
        return self.function(margins(counts))

    def score(self, truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Score:
        """Return the score of predictions; arguments and errors as in `confusion`."""
        value = float(self(confusion(truth, predicted, labels)))
        return Score(value, NO_CLIPS if math.isnan(value) else "")


@dataclass(frozen=True, eq=False)
class PerClass:
    """Precision, recall, F1 and support of each class; NaN where undefined.

    Parameters
    ----------
    labels : tuple of str
        The classes, in the order of the arrays.
    precision, recall, f1 : float64 [classes]
        In [0, 1]; higher is better.
    support : float64 [classes]
        Clips of the class in the truth.
    reasons : mapping of str to str
        For a class with a NaN: why.
    """

    labels: tuple[str, ...]
    precision: OneEach
    recall: OneEach
    f1: OneEach
    support: OneEach
    reasons: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return label -> scores as plain JSON values; an undefined one is None with its reason."""
        table: dict[str, dict[str, Any]] = {}
        for index, label in enumerate(self.labels):
            scores = (self.precision[index], self.recall[index], self.f1[index])
            values = [None if math.isnan(value) else float(value) for value in scores]
            row: dict[str, Any] = dict(zip(("precision", "recall", "f1"), values, strict=True))
            row["support"] = float(self.support[index])
            if label in self.reasons:
                row["reason"] = self.reasons[label]
            table[label] = row
        return table


def confusion(truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Confusion:
    """Return how often each class (row) was taken for each class (column).

    Parameters
    ----------
    truth, predicted : array of str [clips]
        The labels of the clips.
    labels : sequence of str
        All classes, at least one; their order is the order of rows and columns.

    Returns
    -------
    int64 [classes, classes]
        Its sum is the number of clips.

    Raises
    ------
    EvaluationError
        If the lengths differ, `labels` repeats a class, or a label is none of `labels`.

    Examples
    --------
    >>> truth, predicted = np.array(["joy", "joy", "fear"]), np.array(["joy", "fear", "fear"])
    >>> confusion(truth, predicted, ["fear", "joy"]).tolist()
    [[1, 0], [1, 1]]
    """
    if len(truth) != len(predicted):
        raise EvaluationError(
            f"Expected one prediction per clip, got {len(predicted)} predictions "
            f"for {len(truth)} clips."
        )
    places = {label: index for index, label in enumerate(labels)}
    if len(places) != len(labels):
        raise EvaluationError(f"Expected every label once, got {', '.join(labels)}.")
    classes = len(places)
    cells = _codes(truth, places, "truth") * classes + _codes(predicted, places, "predictions")
    return (
        np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)
    )


def _codes(values: np.ndarray, places: Mapping[str, int], where: str) -> np.ndarray:
    unique, inverse = np.unique(np.asarray(values, dtype=object).astype(str), return_inverse=True)
    strangers = [value for value in unique.tolist() if value not in places]
    if strangers:
        guess = nearest(strangers[0], places)
        hint = f" Did you mean '{guess}'?" if guess else ""
        raise EvaluationError(
            f"The {where} hold the label '{strangers[0]}', which is none of: "
            f"{', '.join(places)}.{hint}"
        )
    return np.array([places[value] for value in unique.tolist()], dtype=np.int64)[inverse]


def accuracy(counts: Counts) -> Values:
    """Return the share of clips that were right: ``sum_i C_ii / sum_ij C_ij``.

    In [0, 1], higher is better; NaN where there are no clips. The most frequent class alone reaches
    its share, so on unequal classes read UAR instead.
    """
    return _accuracy(margins(counts))


def uar(counts: Counts) -> Values:
    """Return the unweighted average recall: ``mean_i C_ii / sum_j C_ij`` over classes that occur.

    Also called balanced accuracy. In [0, 1], higher is better; guessing gives 1 / classes whatever
    the class sizes. A class without clips in the truth is left out; NaN where there are no clips.
    After Schuller, Steidl and Batliner (2009), The INTERSPEECH 2009 Emotion Challenge.
    """
    return _uar(margins(counts))


def macro_f1(counts: Counts) -> Values:
    """Return the mean of the classes' F1 over classes that occur in the truth or the predictions.

    In [0, 1], higher is better; NaN where there are no clips. The mean of F1s, not the F1 of the
    means: the two differ (Opitz and Burst 2019, arXiv 1911.03347).
    """
    return _macro_f1(margins(counts))


def margins(counts: Counts) -> Margins:
    """Return the hits, the true and the predicted numbers of each class, in float64."""
    totals = _float(counts)
    return Margins(np.diagonal(totals, axis1=-2, axis2=-1), _sum(totals, -1), _sum(totals, -2))


def recalls(counts: Counts) -> PerClassValues:
    """Return each class's recall ``C_ii / sum_j C_ij``; NaN for a class without clips."""
    return _recalls(margins(counts))


def precisions(counts: Counts) -> PerClassValues:
    """Return each class's precision ``C_ii / sum_j C_ji``; NaN for a class never predicted."""
    found = margins(counts)
    return _ratio(found.hits, found.guessed)


def f1s(counts: Counts) -> PerClassValues:
    """Return each class's F1 ``2 C_ii / (sum_j C_ij + sum_j C_ji)``; NaN where neither occurs.

    The harmonic mean of precision and recall where both are defined. A class that occurs but was
    never predicted has F1 0, as has one that was predicted but never occurs.
    """
    return _f1s(margins(counts))


def per_class(counts: Num[np.ndarray, "classes classes"], labels: Sequence[str]) -> PerClass:
    """Return precision, recall, F1 and support of each class of one confusion matrix.

    Raises
    ------
    EvaluationError
        If there are not as many labels as rows.
    """
    if len(labels) != len(counts):
        raise EvaluationError(
            f"Expected one label per row of the confusion matrix, got {len(labels)} labels "
            f"for {len(counts)} rows."
        )
    support, predicted = _float(counts).sum(1), _float(counts).sum(0)
    reasons = {
        label: reason
        for label, true, guessed in zip(labels, support, predicted, strict=True)
        if (reason := _why(float(true), float(guessed)))
    }
    return PerClass(
        tuple(labels), precisions(counts), recalls(counts), f1s(counts), support, reasons
    )


def _why(support: float, predicted: float) -> str:
    if support > 0:
        return "" if predicted > 0 else "the class was never predicted"
    if predicted > 0:
        return "the class does not occur"
    return "the class neither occurs nor was predicted"


def _accuracy(found: Margins) -> np.ndarray:
    return _ratio(_sum(found.hits, -1), _sum(found.true, -1))


def _uar(found: Margins) -> np.ndarray:
    return _mean_of_defined(_recalls(found))


def _macro_f1(found: Margins) -> np.ndarray:
    return _mean_of_defined(_f1s(found))


def _recalls(found: Margins) -> np.ndarray:
    return _ratio(found.hits, found.true)


def _f1s(found: Margins) -> np.ndarray:
    return _ratio(2.0 * found.hits, found.true + found.guessed)


def _float(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts, dtype=np.float64)


def _sum(values: np.ndarray, axis: int | tuple[int, int]) -> np.ndarray:
    # The sum over the last axis of a vector is a scalar; every value here is an array.
    return np.asarray(values.sum(axis))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    result = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return _ratio(_sum(np.where(defined, values, 0.0), -1), _sum(_float(defined), -1))


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy", "Accuracy", 0.0, 1.0, True, _accuracy, linear=True),
    "macro_f1": Metric("macro_f1", "Macro-F1", 0.0, 1.0, True, _macro_f1, linear=False),
    "uar": Metric("uar", "UAR", 0.0, 1.0, True, _uar, linear=True),
}
"""The scores of every table, in its order."""
