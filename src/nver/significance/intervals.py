"""Bootstrap intervals that resample speakers, not clips, and allow for other seeds.

Clips of one speaker resemble each other, so they are no independent draws: an interval that
resamples clips is about half as wide as it should be. Whole speakers are drawn instead, with all
their clips (Field and Welsh 2007, Bootstrapping clustered data, JRSS B 69).

The interval is the expanded percentile interval of Hesterberg (2015, What teachers should know
about the bootstrap, The American Statistician 69): the percentiles are moved outwards to what
Student's t asks for with so few speakers. With fewer than eight speakers the resamples end before
those percentiles (no resample is outside the best and the worst speaker), so Student's interval
``value -+ t * standard error`` is taken where it is wider. Ends stay within the range of the score.
Where all m speakers reached an end of the range, no resample knows of another score; then the other
end is Clopper and Pearson's (1934, Biometrika 26), ``(1 - level) / 2`` to the power ``1 / m`` away
from the far end of the range: scores whose mean is lower all reach the end too rarely.

With several seeds the score is the mean over seeds, and other seeds would have given another mean.
The variance that the seeds bring, beyond what comes of the few clips on which they are compared
(that part is in the speakers' resamples already), gives a Student interval of its own, and the two
are joined by squares: ``low = value - sqrt((value - low_speakers)^2 + (value - low_seeds)^2)``, the
MOVER rule (Zou and Donner 2008, Construction of confidence limits about effect measures,
Statistics in Medicine 27). One seed says nothing about others: then the interval is that of the
trained models at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from nver.errors import EvaluationError

Unit = Literal["speaker", "clip", "mixed"]

_ROUNDING = 1e-12

FEW = 8
"""With fewer clusters than this an interval rests on the assumption that clusters are normal."""


@dataclass(frozen=True)
class Interval:
    """A score and where it may lie with other speakers.

    Parameters
    ----------
    value : float
        The score of the clips at hand.
    low, high : float
        Ends of the interval; NaN where there is none.
    level : float
        Its nominal coverage, in (0, 1).
    clusters : int
        Number of independent units.
    unit : {"speaker", "clip", "mixed"}
        What the units are; "clip" where speakers are unknown (then the interval is too narrow if
        speakers repeat), "mixed" where some are: a clip of an unknown speaker is a unit of its own.
    reason : str
        Why there is no interval; "" where there is one.
    seeds : int
        Number of repetitions that it allows for; 1 where it is of the trained models alone.
    error : float
        Standard error of the value, over clusters and seeds; NaN where there is no interval.
    """

    value: float
    low: float
    high: float
    level: float
    clusters: int
    unit: Unit
    reason: str = ""
    seeds: int = 1
    error: float = math.nan

    @property
    def caution(self) -> str:
        """What a reader must know before trusting the interval; "" if nothing."""
        if self.reason:
            return self.reason
        cautions = []
        if self.clusters < FEW:
            cautions.append(
                f"it rests on {self.clusters} {plural(self.unit)}, too few for its width to be "
                "trusted"
            )
        if self.unit != "speaker":
            whose = "the clips" if self.unit == "clip" else "some clips"
            cautions.append(
                f"{whose} name no speaker and were taken as independent, which is too narrow if "
                "speakers repeat"
            )
        return "; ".join(cautions)

    def within(self, least: float, most: float) -> Interval:
        """Return the interval of a score that lies between `least` and `most`, either infinite.

        Where all clusters reached an end, the other one is Clopper and Pearson's.
        """
        if self.reason:
            return self
        low, high = max(least, self.low), min(most, self.high)
        if math.isfinite(span := most - least):
            away = span * ((1.0 - self.level) / 2.0) ** (1.0 / self.clusters)
            if self.value >= most - _ROUNDING:
                low = min(low, least + away)
            elif self.value <= least + _ROUNDING:
                high = max(high, most - away)
        return replace(self, low=low, high=high)

    def to_dict(self) -> dict[str, Any]:
        """Return value, low and high as plain JSON values; None, with a reason, where undefined."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        table: dict[str, Any] = {k: None if math.isnan(v) else v for k, v in ends.items()}
        return table | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True)
class Draws:
    """What a bootstrap found: the score of each seed, and the same of every resample."""

    values: Float64[np.ndarray, "seeds"]
    draws: Float64[np.ndarray, "draws seeds"]

    @property
    def value(self) -> float:
        """The mean over seeds."""
        return float(self.values.mean())

    def seed_variance(self) -> float:
        """Return the variance that the choice of seeds gives to their mean."""
        if len(self.values) < 2:
            return 0.0
        return seed_variance(self.values, np.cov(self.draws, rowvar=False))

    def minus(self, other: Draws) -> Draws:
        """Return the difference, seed by seed."""
        if len(self.values) != len(other.values):
            raise EvaluationError(
                f"Expected the same seeds on both sides, got {len(self.values)} and "
                f"{len(other.values)}."
            )
        return Draws(self.values - other.values, self.draws - other.draws)


def seed_variance(
    values: Float64[np.ndarray, "seeds"], covariance: Float64[np.ndarray, "seeds seeds"]
) -> float:
    """Return the variance that the choice of two or more seeds gives to the mean of their scores.

    The seeds' scores differ by chance of the clips as well. How they vary over other clips is in
    `covariance`: what they do not share of it is that part, and is taken off.
    """
    seeds = len(values)
    own = covariance.trace() / seeds
    shared = (covariance.sum() - covariance.trace()) / (seeds * (seeds - 1))
    return max(0.0, float(values.var(ddof=1) - (own - shared))) / seeds


def no_interval(value: float, clusters: int, unit: Unit) -> str:
    """Return why there is none; "" if there is one."""
    if clusters < 2:
        return f"one {_noun(unit)} says nothing about others"
    return "the score is undefined" if math.isnan(value) else ""


def interval_of(
    sides: tuple[Draws, ...],
    signs: tuple[float, ...],
    level: float,
    clusters: int,
    unit: Unit,
    reason: str,
    bounds: tuple[float, float],
) -> Interval:
    """Return the interval of the signed sum of the sides."""
    value = sum(sign * side.value for sign, side in zip(signs, sides, strict=True))
    seeds = max(len(side.values) for side in sides)
    if reason:
        return Interval(value, math.nan, math.nan, level, clusters, unit, reason, seeds)
    draws = sum(sign * side.draws.mean(axis=1) for sign, side in zip(signs, sides, strict=True))
    tail = (1.0 - level) / 2.0
    wide = _expanded(tail, clusters)
    # A resample without any clip of any class cannot occur: every cluster holds clips.
    # The (n + 1) p-th draw: between neighbours by (n - 1) p, few draws would cover less.
    low, high = np.quantile(draws, [wide, 1.0 - wide], method="weibull")
    spread = math.sqrt(float(np.var(draws)) * clusters / (clusters - 1))
    if clusters < FEW:
        half = -_student(tail, clusters) * spread
        low, high = min(low, value - half), max(high, value + half)
    variances = [side.seed_variance() for side in sides]
    squares = sum(
        # By the book two seeds have t = 12.7, which says nothing of use; they are taken as three.
        variance * _student(tail, max(3, len(side.values))) ** 2
        for variance, side in zip(variances, sides, strict=True)
        if variance > 0
    )
    if squares:
        low = value - math.hypot(max(0.0, value - low), math.sqrt(squares))
        high = value + math.hypot(max(0.0, high - value), math.sqrt(squares))
    error = math.hypot(spread, math.sqrt(sum(variances)))
    ends = float(low), float(high)
    return Interval(value, *ends, level, clusters, unit, "", seeds, error).within(*bounds)


def _student(tail: float, n: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, tail))


def _expanded(tail: float, clusters: int) -> float:
    """Return the percentile that gives Student's t width: Phi(sqrt(m / (m - 1)) t_{m-1}(tail))."""
    from scipy.special import ndtr

    return float(ndtr(math.sqrt(clusters / (clusters - 1)) * _student(tail, clusters)))


def _noun(unit: Unit) -> str:
    return "speaker or clip" if unit == "mixed" else unit


def plural(unit: Unit) -> str:
    """Return what the independent units are called."""
    return "speakers and clips" if unit == "mixed" else f"{unit}s"
