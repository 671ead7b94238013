"""Which systems can be told from the best one: the paired comparisons of scores.json, by system."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nver.report.tables import Estimate, Key, SystemScore
from nver.verdict import decimals


@dataclass(frozen=True)
class Verdict:
    """How one system compares with the best one, on the same clips.

    Parameters
    ----------
    difference : Estimate
        UAR of the best minus UAR of this one, with its interval.
    p, p_corrected : float
        Of the paired test, alone and corrected over the table; NaN where there is none.
    effect : float
        Standardised difference; NaN where undefined.
    distinguishable : bool
        Whether the corrected test finds a difference.
    mcnemar : float
        p of McNemar's test where clips are independent; NaN elsewhere.
    """

    difference: Estimate
    p: float
    p_corrected: float
    effect: float
    distinguishable: bool
    mcnemar: float

    @classmethod
    def from_json(cls, pair: Mapping[str, Any]) -> Verdict:
        """Read one entry of ``comparisons["pairs"]``."""
        ends = {"value": pair.get("difference"), "low": pair.get("low"), "high": pair.get("high")}
        return cls(
            Estimate.from_json(ends),
            number(pair.get("p")),
            number(pair.get("p_corrected")),
            number(pair.get("effect")),
            bool(pair.get("distinguishable")),
            number((pair.get("mcnemar") or {}).get("p")),
        )


@dataclass(frozen=True)
class Comparisons:
    """All systems against the best one; falsy where a run has no comparisons."""

    reference: Key | None
    verdicts: Mapping[Key, Verdict]
    told: Mapping[str, Any]

    def __bool__(self) -> bool:
        return bool(self.verdicts)

    @property
    def caution(self) -> str:
        """What to know of all of them, as a sentence; "" if nothing."""
        return self.caution_beyond("")

    def caution_beyond(self, known: str) -> str:
        """Return the caution without the clauses that `known`, another caution, has already."""
        told = set(known.split("; "))
        clauses = [one for one in self.said("caution").rstrip(".").split("; ") if one not in told]
        text = "; ".join(clauses)
        return f"{text[0].upper()}{text[1:]}." if text else ""

    def said(self, name: str) -> str:
        """Return what the run says of its comparisons: method, correction, alpha, caution."""
        return str(self.told.get(name) or "")

    @property
    def alpha(self) -> float:
        """The error rate of the tests; 0.05 where the run does not say."""
        return float(self.told.get("alpha") or 0.05)

    @property
    def effect_name(self) -> str:
        """What the effect sizes are; one of single clips stands where McNemar's test does."""
        pairs = sorted(self.told.get("pairs") or (), key=lambda pair: not pair.get("mcnemar"))
        names = dict.fromkeys(str(pair.get("effect_name") or "") for pair in pairs)
        return " where McNemar's test is, else ".join(name for name in names if name)

    def of(self, system: SystemScore) -> Verdict | None:
        """Return the verdict on a system, or None."""
        return self.verdicts.get(system.key)

    def between(self, one: SystemScore, other: SystemScore) -> Verdict | None:
        """Return the verdict on two systems where one of them is the reference, or None."""
        if self.reference == one.key:
            return self.of(other)
        return self.of(one) if self.reference == other.key else None


def comparisons(scores: Mapping[str, Any]) -> Comparisons:
    """Read the ``comparisons`` of scores.json."""
    told = scores.get("comparisons") or {}
    reference = key(told["reference"]) if told.get("reference") else None
    pairs = {key(pair): Verdict.from_json(pair) for pair in told.get("pairs") or ()}
    return Comparisons(reference, pairs, told)


def key(entry: Mapping[str, Any]) -> Key:
    """Return system and encoders as the columns of predictions.parquet write them."""
    return str(entry["name"]), "+".join(str(encoder) for encoder in entry["encoders"])


def number(value: object) -> float:
    """Return a JSON number; NaN for null and for what is none."""
    return float(value) if isinstance(value, int | float) else math.nan


def p_text(p: float, alpha: float = 0.05) -> str:
    """Return a p-value for people, with as many decimals as show on which side of `alpha` it lies.

    >>> p_text(0.00001), p_text(0.0312), p_text(0.0502), p_text(1.0), p_text(float("nan"))
    ('< .001', '.031', '.0502', '1.000', '-')
    """
    if math.isnan(p):
        return "-"
    return "< .001" if p < 0.001 else f"{p:.{decimals(p, alpha, 3)}f}".removeprefix("0")
