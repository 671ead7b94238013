"""What is found of two systems on the same clips, in numbers and in words.

`nver.comparison` finds it. A difference counts as distinguishable if its corrected p is at most
alpha and its interval, which also allows for other seeds, leaves out zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nver.metrics import METRICS
from nver.predictions import SystemEntry
from nver.significance import Interval, McNemar, PermutationTest, detectable_difference

POWER = 0.8


@dataclass(frozen=True)
class Comparison:
    """One system against another on the same clips.

    Parameters
    ----------
    first, second : SystemEntry
        The systems.
    metric : str
        A key of `nver.metrics.METRICS`.
    scores : tuple of float
        Of the two, on the shared clips.
    difference : Interval
        First minus second.
    test : PermutationTest
        Of no difference.
    p_corrected : float
        The test's p, corrected over its table; p itself for a single test.
    effect : float
        Standardised difference, NaN where undefined.
    effect_name : str
        Which one.
    mcnemar : McNemar or None
        None where clips are not independent, or a system has several seeds.
    alpha : float
        Error rate of the test, in (0, 1).
    caution : str
        What to know before trusting it; "" if nothing.
    least_p : float
        The smallest p that so few clusters and swaps allow, however many the tests.
    correction : str
        How `p_corrected` was corrected; "" where it is p itself.
    """

    first: SystemEntry
    second: SystemEntry
    metric: str
    scores: tuple[float, float]
    difference: Interval
    test: PermutationTest
    p_corrected: float
    effect: float
    effect_name: str
    mcnemar: McNemar | None
    alpha: float
    caution: str
    least_p: float = 0.0
    correction: str = ""

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is more than chance, over speakers and over seeds."""
        return bool(self.p_corrected <= self.alpha) and not self._holds_zero

    @property
    def at_odds(self) -> str:
        """Why p or the interval alone is not enough here; "" if both say the same."""
        if math.isnan(self.difference.low):
            return ""
        if self._holds_zero and self.p_corrected <= self.alpha:
            knows = ", which also knows of the seeds," if self.difference.seeds > 1 else ""
            return f"the interval{knows} holds zero"
        shown = not self._holds_zero and self.least_p <= self.alpha
        if shown and self.p_corrected > self.alpha:
            return f"the interval leaves out zero, but p is above {self.alpha:g}"
        return ""

    @property
    def _holds_zero(self) -> bool:
        return not (self.difference.low > 0 or self.difference.high < 0)

    @property
    def detectable(self) -> float:
        """The smallest difference that these clips show with 80 % power, before correction.

        NaN where unknown, and where no difference at all could be significant.
        """
        interval = self.difference
        if self.least_p > self.alpha or interval.error == 0:  # answers that are all the same
            return math.nan
        # The interval of few seeds is wider than the test: it decides.
        half = (interval.high - interval.low) / 2 if interval.seeds > 1 else 0.0
        return detectable_difference(
            interval.error, interval.clusters, alpha=self.alpha, power=POWER, half_width=half
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is undefined is None."""
        sides = {
            side: {"name": entry.name, "encoders": list(entry.encoders), "score": _plain(score)}
            for side, entry, score in zip(
                ("first", "second"), (self.first, self.second), self.scores, strict=True
            )
        }
        return {
            **sides,
            "metric": self.metric,
            **self.outcome(),
            "correction": self.correction or None,
            "exact": self.test.exact,
            "alpha": self.alpha,
            "unit": self.difference.unit,
            "clusters": self.difference.clusters,
            "caution": self.caution,
            "sentence": self.sentence(),
        }

    def outcome(self) -> dict[str, Any]:
        """Return the numbers alone, as a row of scores.json has them."""
        test = self.mcnemar
        return {
            "difference": _plain(self.difference.value),
            "low": _plain(self.difference.low),
            "high": _plain(self.difference.high),
            "p": _plain(self.test.p),
            "p_corrected": _plain(self.p_corrected),
            "effect": _plain(self.effect),
            "effect_name": self.effect_name,
            "distinguishable": self.distinguishable,
            "detectable": _plain(self.detectable),
            "mcnemar": None if test is None else {"b": test.b, "c": test.c, "p": test.p},
        }

    def sentence(self) -> str:
        """Return the result in plain words."""
        title, difference = METRICS[self.metric].title, self.difference
        one, other = self.first.called, self.second.called
        if one == other:
            one, other = f"{one} of the first run", f"{other} of the second"
        if math.isnan(difference.low):
            return f"{one} and {other} cannot be compared: {difference.reason}."
        points = abs(difference.value) * 100
        sign = math.copysign(100.0, difference.value)
        low, high = sorted((sign * difference.low, sign * difference.high))
        relation = "above" if difference.value >= 0 else "below"
        told = f"{one} is {points:.1f} points of {title} {relation} {other}"
        if round(points, 1) == 0:
            told = f"{one} and {other} have the same {title}"
        level = round(difference.level * 100)
        ends = f"{level} % interval {_points(low)} to {_points(high)}"
        name = "corrected p" if self.correction else "p"
        said = f"{told} ({ends}, {name} {_compared(p_text(self.p_corrected, self.alpha))})"
        if self.distinguishable:
            return f"{said}: the two are distinguishable."
        why = f" ({self.at_odds})" if self.at_odds else ""
        said += f": the two are not distinguishable{why}."
        if self.least_p > self.alpha:
            return f"{said} No difference, however large, could be shown here."
        if math.isnan(self.detectable):
            return said
        return (
            f"{said} These clips would show a difference of {self.detectable * 100:.1f} points in "
            "four of five cases."
        )


def _points(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # + 0.0 makes -0.0 plain


def p_text(p: float, alpha: float) -> str:
    """Return a p-value, with as many decimals as show on which side of `alpha` it lies.

    >>> [p_text(p, 0.05) for p in (0.00003, 0.0034, 0.0481, 0.0502, 0.049996, 0.05, 0.31)]
    ['< 0.0001', '0.0034', '0.048', '0.0502', '0.049996', '0.05', '0.31']
    """
    if math.isnan(p):
        return "-"
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.{decimals(p, alpha, 4 if p < 0.01 else 2)}f}"


def decimals(p: float, alpha: float, least: int) -> int:
    """Return how many decimals of a p-value show on which side of `alpha` it lies."""
    while least < 17 and _side(round(p, least), alpha) != _side(p, alpha):
        least += 1
    return least


def _side(p: float, alpha: float) -> int:
    return (p > alpha) - (p < alpha)


def _compared(text: str) -> str:
    return text if text.startswith("<") else f"= {text}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
