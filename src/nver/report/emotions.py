"""Each emotion: how often it is recognised, with its interval, and what it is taken for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nver.metrics import f1s, precisions, recalls
from nver.report.charts import Whisker, ceiling, whisker
from nver.report.colours import ink, shade
from nver.report.record import RunRecord
from nver.report.tables import Estimate, SystemScore, percent
from nver.report.verdicts import key, number


@dataclass(frozen=True)
class Emotion:
    """One label as one system hears it, ready to print; scores in percent."""

    label: str
    clips: int
    recall: str
    low: str
    high: str
    precision: str
    f1: str
    taken_for: str
    plot: Whisker


def emotions(record: RunRecord, system: SystemScore) -> list[Emotion]:
    """Return every label of a run as one system recognises it."""
    counts = record.confusions[system]
    intervals = recalls_of(record, system)
    end = ceiling([value for one in intervals for value in (one.value, one.high)])
    supports = record.supports()
    precision, f1 = precisions(counts), f1s(counts)
    return [
        Emotion(
            label=label,
            clips=supports[place],
            recall=percent(one.value),
            low=percent(one.low),
            high=percent(one.high),
            precision=percent(float(precision[place])),
            f1=percent(float(f1[place])),
            taken_for=_taken_for(counts[place], place, record.labels),
            plot=whisker(one.value, one.low, one.high, end=end, chance=record.chance),
        )
        for place, (label, one) in enumerate(zip(record.labels, intervals, strict=True))
    ]


def recalls_of(record: RunRecord, system: SystemScore) -> list[Estimate]:
    """Return the recall of each label, with the interval of the groups by class in scores.json.

    No interval where its ends are the same, as those of earlier versions are where none or all of
    the clips were recognised.
    """
    entries = record.scores.get("disaggregated") or ()
    own = [entry["by"].get("class") or () for entry in entries if key(entry) == system.key]
    ends = {str(row["value"]): (row.get("low"), row.get("high")) for rows in own for row in rows}
    found = []
    for label, value in zip(
        record.labels, recalls(record.confusions[system]).tolist(), strict=True
    ):
        low, high = (number(end) for end in ends.get(label, (None, None)))
        found.append(Estimate(value, *((math.nan, math.nan) if low == high else (low, high))))
    return found


def _taken_for(row: np.ndarray, place: int, labels: Sequence[str]) -> str:
    others = row.astype(float)
    others[place] = 0
    most = int(others.argmax())
    return f"{labels[most]} ({100 * others[most] / row.sum():.0f} %)" if others[most] else ""


def recall_table(
    record: RunRecord, systems: Sequence[SystemScore]
) -> list[tuple[SystemScore, list[tuple[str, str, str]]]]:
    """Return, for each system, the recall of each label as text, colour and colour of the text."""
    table = []
    for system in systems:
        values = recalls(record.confusions[system]).tolist()
        table.append((system, [heat(value) for value in values]))
    return table


def heat(value: float) -> tuple[str, str, str]:
    """Return a share as text in percent, its colour, and the colour of its text."""
    if math.isnan(value):
        return "-", "#ffffff", "#000"
    return f"{100 * value:.0f}", shade(value), ink(shade(value))
