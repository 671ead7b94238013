"""How far probabilities may be believed: calibration, temperature scaling, risk against coverage.

A classifier is calibrated when, of the clips that it calls with confidence c, the share c is right
(Guo et al. 2017, On Calibration of Modern Neural Networks, ICML, arXiv 1706.04599). Everything here
takes probabilities ``[clips, classes]`` and the index of each clip's true class; there is neither a
record nor a fold here (`nver.confidence` has those).

Read the scores together. ECE measures calibration alone, and a system that always answers the class
shares has an ECE of 0; Brier score and log-loss reward being right as well, and are proper: no
other probabilities than the true ones have a better expectation. ECE from few clips is too large:
chance alone separates confidence from accuracy in every bin, by `Reliability.by_chance`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int

from nver.errors import EvaluationError

Probabilities: TypeAlias = Float[np.ndarray, "clips classes"]
Truth: TypeAlias = Int[np.ndarray, "truths"]  # their number is checked
PerBin: TypeAlias = Float64[np.ndarray, "bins"]

BINS = 15
"""As in Guo et al. 2017."""

FLOOR = float(np.finfo(np.float32).eps)
"""The least probability that `log_loss` counts, 1.2e-7, as scikit-learn does for float32: one that
was recorded as 0 would cost infinitely much."""

TEMPERATURES = (0.05, 20.0)
"""Where `fit_temperature` searches."""

_SUM = 1e-3  # how far float32 probabilities of a clip may miss 1 together


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy, in bins of confidence: the content of a reliability diagram.

    Parameters
    ----------
    low, high : float64 [bins]
        A bin holds the confidences in ``(low, high]``.
    confidence, accuracy : float64 [bins]
        Means over the clips of the bin, in [0, 1]; NaN for an empty one.
    n : float64 [bins]
        Clips in the bin.
    variance : float64 [bins]
        Mean over the clips of the bin of ``confidence (1 - confidence)``; NaN for an empty one.
    """

    low: PerBin
    high: PerBin
    confidence: PerBin
    accuracy: PerBin
    n: PerBin
    variance: PerBin

    @property
    def ece(self) -> float:
        """The expected calibration error ``sum_b n_b / n |accuracy_b - confidence_b|``.

        In [0, 1], lower is better (Guo et al. 2017, equation 3).
        """
        held = self.n > 0
        gaps = np.abs(self.accuracy[held] - self.confidence[held])
        return float(np.average(gaps, weights=self.n[held]))

    def by_chance(self, repeats: int = 1) -> float:
        """Return about what `ece` is expected to be if the system were perfectly calibrated.

        The mean of ``|accuracy_b - confidence_b|`` under independent clips, with the normal
        approximation: ``sqrt(2 / pi) sum_b sqrt(n_b v_b) / n``.

        Parameters
        ----------
        repeats : int
            How often each clip is among the rows (seeds); repetitions bring no new clips, and are
            taken to be right and wrong together.
        """
        held = self.n > 0
        spread = np.sqrt(repeats * self.n[held] * self.variance[held]).sum()
        return float(math.sqrt(2.0 / math.pi) * spread / self.n.sum())

    def to_list(self) -> list[dict[str, Any]]:
        """Return the bins as plain JSON values; what is undefined in an empty bin is None."""
        columns = (self.low, self.high, self.confidence, self.accuracy)
        rows = zip(*(column.tolist() for column in columns), self.n.tolist(), strict=True)
        return [
            {
                "low": low,
                "high": high,
                "confidence": None if n == 0 else confidence,
                "accuracy": None if n == 0 else accuracy,
                "n": int(n),
            }
            for low, high, confidence, accuracy, n in rows
        ]


def reliability(probabilities: Probabilities, truth: Truth, bins: int = BINS) -> Reliability:
    """Return accuracy against top confidence in bins of equal width.

    Parameters
    ----------
    probabilities : array [clips, classes]
        Each row sums to 1; the answer is its largest, the first of equals.
    truth : int [clips]
        The true class's column.
    bins : int
        From 1.

    Raises
    ------
    EvaluationError
        As for every function here: if there is no clip, the lengths differ, a class is none of the
        columns, or a row is no probabilities.

    Examples
    --------
    >>> sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    >>> round(reliability(sure, np.array([0, 1, 1, 1])).ece, 3)  # (|.5 - .9| + |1 - .8|) / 2
    0.3
    """
    values = checked(probabilities, truth)
    return _binned(values.max(axis=1), _answers(values) == truth, np.linspace(0, 1, bins + 1))


def adaptive_ece(probabilities: Probabilities, truth: Truth, bins: int = BINS) -> float:
    """Return the ECE in bins that hold equally many clips, equal confidences together.

    In [0, 1], lower is better (Nguyen and O'Connor 2015; Nixon et al. 2019, arXiv 1904.01685).
    Where confidences crowd at one end, bins of equal width are mostly empty; these are not.
    """
    values = checked(probabilities, truth)
    top = values.max(axis=1)
    edges = np.unique(np.quantile(top, np.linspace(0, 1, bins + 1)[1:]))
    return _binned(top, _answers(values) == truth, np.concatenate([[0.0], edges])).ece


def classwise_ece(probabilities: Probabilities, truth: Truth, bins: int = BINS) -> float:
    """Return the mean over classes of the ECE of each class's own probability.

    In [0, 1], lower is better (Kull et al. 2019, arXiv 1910.12656). It sees what the top confidence
    hides: a class that always gets too much or too little.
    """
    values = checked(probabilities, truth)
    edges = np.linspace(0, 1, bins + 1)
    each = [_binned(column, truth == index, edges).ece for index, column in enumerate(values.T)]
    return float(np.mean(each))


def brier(probabilities: Probabilities, truth: Truth) -> Float64[np.ndarray, "clips"]:
    """Return each clip's Brier score ``sum_c (p_c - [c is true])^2``; its mean is the score.

    In [0, 2], lower is better; always answering ``1 / classes`` gives ``1 - 1 / classes`` (Brier
    1950, Verification of forecasts expressed in terms of probability).

    Examples
    --------
    >>> brier(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1])).round(2).tolist()
    [0.08, 1.28]
    """
    values = checked(probabilities, truth)
    at_truth = values[np.arange(len(truth)), truth]
    return np.asarray((values**2).sum(axis=1) - 2.0 * at_truth + 1.0)


def log_loss(probabilities: Probabilities, truth: Truth) -> Float64[np.ndarray, "clips"]:
    """Return each clip's ``-log p_true`` in nats; its mean is the score.

    In [0, 15.9], lower is better: a probability below `FLOOR` counts as that. Always answering
    ``1 / classes`` gives ``log classes``.
    """
    values = checked(probabilities, truth)
    at_truth = values[np.arange(len(truth)), truth]
    return np.asarray(-np.log(np.clip(at_truth, FLOOR, 1.0)))


@dataclass(frozen=True)
class Temperature:
    """By what the logarithms of the probabilities are divided.

    Parameters
    ----------
    value : float
        Above 1 for a system that was too sure, below 1 for one that was not sure enough.
    n : int
        The clips that it was fitted on.
    at_limit : bool
        Whether it stands at an end of `TEMPERATURES`: the best one lies beyond.
    """

    value: float
    n: int
    at_limit: bool = False

    def __call__(self, probabilities: Probabilities) -> Float64[np.ndarray, "clips classes"]:
        """Return ``p_c^(1/T) / sum_k p_k^(1/T)``: the softmax of the logits divided by T.

        The order of a clip's classes does not change; what is 0 stays 0.
        """
        logits = _logits(np.asfortranarray(probabilities, dtype=np.float64)) / self.value
        powers = np.exp(logits)
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(probabilities: Probabilities, truth: Truth) -> Temperature:
    """Return the temperature of least log-loss (Guo et al. 2017, section 4.2).

    The log-loss is convex in ``1 / T``, so its slope has one zero at most, which is what is looked
    for. A clip whose true class has probability 0 (one that the training never saw) costs
    infinitely much at every temperature; such clips say nothing about it and are left out.

    Raises
    ------
    EvaluationError
        As `reliability`, and if no clip is left.

    Examples
    --------
    >>> too_sure = np.array([[0.9, 0.1]] * 4)
    >>> fitted = fit_temperature(too_sure, np.array([0, 0, 0, 1]))
    >>> fitted(too_sure)[0].round(3).tolist()
    [0.75, 0.25]
    """
    from scipy.optimize import brentq

    values = checked(probabilities, truth)
    possible = values[np.arange(len(truth)), truth] > 0
    n = int(possible.sum())
    if not n:
        raise EvaluationError(
            "Expected a clip whose true class has a probability above 0 to fit a temperature on, "
            f"got none among {len(truth)}."
        )
    # Impossible classes have weight 0 at every temperature; -inf times it would be NaN.
    # Float32 is what was recorded, and half the work.
    logits = np.maximum(_logits(np.asfortranarray(values[possible], dtype=np.float32)), -1e4)
    target = float(logits[np.arange(n), truth[possible]].mean(dtype=np.float64))

    weights = np.empty_like(logits)

    @functools.cache  # brentq asks for both ends again
    def slope(log_inverse: float) -> float:
        np.exp(np.multiply(logits, math.exp(log_inverse), out=weights), out=weights)
        totals = weights.sum(axis=1)
        means = np.multiply(weights, logits, out=weights).sum(axis=1) / totals
        return float(means.mean(dtype=np.float64)) - target

    low, high = (-math.log(end) for end in reversed(TEMPERATURES))
    if slope(low) >= 0:  # even the flattest probabilities are too sure
        return Temperature(TEMPERATURES[1], n, at_limit=True)
    if slope(high) <= 0:
        return Temperature(TEMPERATURES[0], n, at_limit=True)
    return Temperature(math.exp(-float(brentq(slope, low, high, xtol=1e-5))), n)


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """How the accuracy grows when the least sure answers are withheld.

    Parameters
    ----------
    errors : float64 [clips]
        The clips from the surest to the least sure: 1 where wrong, 0 where right; equally sure
        clips share their mean, so their order does not matter.
    """

    errors: Float64[np.ndarray, "clips"]

    @property
    def aurc(self) -> float:
        """The area under the risk-coverage curve: the mean risk over all coverages k / n.

        In [0, 1], lower is better; withholding at random gives the error rate (Geifman, Uziel and
        El-Yaniv 2019, arXiv 1805.08206).
        """
        return float(self._risks().mean())

    def accuracy(self, coverage: float) -> float:
        """Return the accuracy on the surest share of clips, at least one, for a share in (0, 1]."""
        return float(1.0 - self._risks()[self._kept(coverage) - 1])

    def to_list(self, points: int = 50) -> list[dict[str, float]]:
        """Return accuracy at up to `points` coverages, as plain JSON values."""
        n = len(self.errors)
        kept = sorted({self._kept(step / points) for step in range(1, points + 1)})
        risks = self._risks()
        return [{"coverage": k / n, "accuracy": float(1.0 - risks[k - 1])} for k in kept]

    def _kept(self, coverage: float) -> int:
        return max(1, round(coverage * len(self.errors)))

    def _risks(self) -> np.ndarray:
        return np.asarray(self.errors.cumsum() / np.arange(1, len(self.errors) + 1))


def risk_coverage(probabilities: Probabilities, truth: Truth) -> RiskCoverage:
    """Return errors in the order of the top probability.

    Examples
    --------
    >>> sure_first = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    >>> curve = risk_coverage(sure_first, np.array([0, 0, 0, 1]))
    >>> curve.accuracy(0.5), curve.accuracy(1.0), round(curve.aurc, 3)
    (1.0, 0.75, 0.104)
    """
    values = checked(probabilities, truth)
    wrong = (_answers(values) != truth).astype(np.float64)
    _, group = np.unique(-values.max(axis=1), return_inverse=True)
    sizes = np.bincount(group)
    return RiskCoverage(np.repeat(np.bincount(group, weights=wrong) / sizes, sizes))


def checked(probabilities: Probabilities, truth: Truth) -> Float64[np.ndarray, "clips classes"]:
    """Return the probabilities in float64, each row divided by its sum.

    Raises
    ------
    EvaluationError
        If there is no clip, the lengths differ, a class is none of the columns, or a row is no
        probabilities: negative, NaN, or with a sum further than 0.001 from 1.
    """
    # Columns lie one after the other: sums and maxima over a few classes are many times faster.
    values = np.asfortranarray(probabilities, dtype=np.float64)
    if len(values) == 0 or len(values) != len(truth):
        raise EvaluationError(
            "Expected the probabilities and the true class of at least one clip, got "
            f"{len(values)} rows of probabilities and {len(truth)} true classes."
        )
    if truth.min() < 0 or truth.max() >= values.shape[1]:
        raise EvaluationError(
            f"Expected true classes from 0 to {values.shape[1] - 1}, got {truth.min()} to "
            f"{truth.max()}."
        )
    sums = values.sum(axis=1)
    # Written so that NaN is odd too.
    odd = np.flatnonzero(~((np.abs(sums - 1.0) <= _SUM) & (values.min(axis=1) >= 0)))
    if odd.size:
        row = ", ".join(f"{value:.4g}" for value in values[odd[0]])
        raise EvaluationError(
            f"Expected probabilities that are not negative and sum to 1, got {row} "
            f"for clip {odd[0]}."
        )
    return np.asarray(values / sums[:, None])


def _answers(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.ascontiguousarray(values).argmax(axis=1))


def _logits(values: np.ndarray) -> np.ndarray:
    """Return log p, shifted so that the largest of each row is 0; -inf for a p of 0."""
    with np.errstate(divide="ignore"):
        logits = np.log(values)
    return np.asarray(logits - logits.max(axis=1, keepdims=True))


def _binned(confidence: np.ndarray, right: np.ndarray, edges: np.ndarray) -> Reliability:
    """Return the means of each bin ``(edge, next edge]``; a 0 belongs to the first one."""
    bins = len(edges) - 1
    place = np.searchsorted(edges[1:], confidence, side="left").clip(0, bins - 1)
    n = np.bincount(place, minlength=bins).astype(np.float64)

    def means(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(place, weights=values, minlength=bins)
        return np.asarray(np.divide(sums, n, out=np.full(bins, np.nan), where=n > 0))

    return Reliability(
        low=edges[:-1],
        high=edges[1:],
        confidence=means(confidence),
        accuracy=means(right),
        n=n,
        variance=means(confidence * (1.0 - confidence)),
    )
