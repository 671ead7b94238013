"""How well each group of people and clips is recognised: by sex, age, intensity, speaker."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nver.report.charts import Whisker, ceiling, whisker
from nver.report.record import RunRecord
from nver.report.tables import SystemScore, percent
from nver.report.verdicts import key, number

MANY = 12
"""More groups than this are summed up, and only the lowest are listed."""

METRICS = {"uar": "UAR", "accuracy": "Accuracy", "recall": "Recall"}

ELSEWHERE = ("class",)
"""Divisions that have a section of their own."""


@dataclass(frozen=True)
class Group:
    """One group, ready to print; scores in percent."""

    value: str
    clips: int
    speakers: int
    score: str
    low: str
    high: str
    plot: Whisker


@dataclass(frozen=True)
class Division:
    """The groups of one column: its name, the metric, how they spread, and the groups."""

    by: str
    metric: str
    spread: str
    groups: tuple[Group, ...]

    @property
    def has_intervals(self) -> bool:
        """Whether any group has an interval: one speaker alone has none."""
        return any(group.low != "-" or group.high != "-" for group in self.groups)


@dataclass(frozen=True)
class Breakdown:
    """The groups of one system, and its worst ones in words."""

    system: SystemScore
    worst: tuple[str, ...]
    divisions: tuple[Division, ...]


def breakdowns(record: RunRecord, most: int) -> list[Breakdown]:
    """Return the groups of each system, best first, at most `most`."""
    entries = {key(entry): entry for entry in record.scores.get("disaggregated") or ()}
    found = [
        Breakdown(
            system,
            tuple(str(sentence) for sentence in entries[system.key].get("worst") or ()),
            tuple(
                _division(by, rows)
                for by, rows in entries[system.key]["by"].items()
                if len(rows) > 1 and by not in ELSEWHERE
            ),
        )
        for system in record.systems
        if system.key in entries
    ]
    return [one for one in found if one.divisions][:most]


def _division(by: str, rows: Sequence[Mapping[str, Any]]) -> Division:
    end = ceiling([number(row.get(name)) for row in rows for name in ("score", "high")])
    shown = rows
    spread = ""
    if len(rows) > MANY:
        shown = sorted(rows, key=lambda row: (number(row.get("score")), str(row["value"])))[:MANY]
        scores = [number(row.get("score")) for row in rows]
        scores = [score for score in scores if score == score]
        spread = _spread(scores, len(rows), by)
    named = {str(row.get("metric", "uar")) for row in rows}  # of one class alone: its recall
    metric = named.pop() if len(named) == 1 else "uar"
    return Division(
        by, METRICS.get(metric, metric), spread, tuple(_group(row, end) for row in shown)
    )


def _spread(scores: Sequence[float], groups: int, by: str) -> str:
    if len(scores) < 2:
        return f"{groups} groups; the {MANY} lowest are listed."
    first, middle, third = statistics.quantiles(scores, n=4, method="inclusive")
    return (
        f"{groups} groups by {by}: from {percent(min(scores))} to {percent(max(scores))} %, half "
        f"of them between {percent(first)} and {percent(third)} %, median {percent(middle)} %. "
        f"The {MANY} lowest:"
    )


def _group(row: Mapping[str, Any], end: float) -> Group:
    score, low, high = (number(row.get(name)) for name in ("score", "low", "high"))
    return Group(
        str(row["value"]),
        int(row.get("n_clips") or 0),
        int(row.get("n_speakers") or 0),
        percent(score),
        percent(low),
        percent(high),
        whisker(score, low, high, end=end),
    )
