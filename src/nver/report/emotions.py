"""Each emotion: how often it is recognised, with its interval, and what it is taken for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nver.metrics import f1s, precisions, recalls, uar
from nver.report.charts import Whisker, ceiling, whisker
from nver.report.colours import ink, shade
from nver.report.record import RunRecord
from nver.report.tables import Estimate, SystemScore, percent
from nver.significance import cluster_bootstrap

RESAMPLES = 1000


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
    rows = record.parts[system.key]
    intervals = [recall_interval(rows, label) for label in record.labels]
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


def recall_interval(rows: pd.DataFrame, label: str) -> Estimate:
    """Return the recall of a label with its bootstrap interval over speakers.

    A clip whose speaker is unknown stands for itself. NaN where no clip has the label; no interval
    where none or all of its clips were recognised, since every resample gives the same then.
    """
    own = rows[rows["label"] == label]
    if own.empty:
        return Estimate(math.nan, math.nan, math.nan)
    who = own["speaker"].astype(object)
    clusters, _ = pd.factorize(who.where(who.notna(), "file " + own["file"].astype(str)))
    seeds, _ = pd.factorize(own["seed"])
    counts = np.zeros((clusters.max() + 1, seeds.max() + 1, 2, 2), dtype=np.int64)
    missed = (own["predicted"] != label).to_numpy(dtype=np.int64)
    np.add.at(counts, (clusters, seeds, np.zeros_like(missed), missed), 1)
    found = cluster_bootstrap(counts, uar, n=RESAMPLES)
    if found.value in (0.0, 1.0):
        return Estimate(found.value, math.nan, math.nan)
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))


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
