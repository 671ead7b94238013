"""The result table as the page prints it, and beside it what others published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nver.report.charts import Whisker, along, ceiling
from nver.report.record import RunRecord
from nver.report.stress import MINUS, signed
from nver.report.tables import (
    SystemScore,
    best,
    duration,
    far_below,
    groups,
    level_with_best,
    percent,
    shared_encoders,
)
from nver.report.verdicts import Comparisons, number, p_text

TOLD = ("corpus", "system", "protocol", "source", "status")
"""What a published figure says of itself."""


@dataclass(frozen=True)
class Row:
    """One line of the result table, ready to print.

    Parameters
    ----------
    system : SystemScore
        Whose line it is.
    heard : str
        Its encoders where they differ from line to line.
    best, level : bool
        Whether it is the best one, and whether it cannot be told from the best one.
    below : str
        The linear system that it lies far below; "" for none.
    cells : tuple of (value, low, high, published)
        Metrics in percent; the last is what others published for this system on these encoders and
        this corpus, "" for nothing.
    seconds : str
        Time of training.
    plot : Whisker
        UAR on a track.
    """

    system: SystemScore
    heard: str
    best: bool
    level: bool
    below: str
    cells: tuple[tuple[str, str, str, str], ...]
    seconds: str
    plot: Whisker


@dataclass(frozen=True)
class Pair:
    """One system against the best one, ready to print; differences in points of UAR."""

    system: SystemScore
    difference: str
    interval: str
    effect: str
    p: str
    p_corrected: str
    mcnemar: str
    level: bool


def result_table(record: RunRecord, compared: Comparisons) -> list[tuple[str, list[Row]]]:
    """Return the lines of the table under their headings."""
    top, shared = best(record.systems), shared_encoders(record.systems)
    linear = best([system for system in record.systems if system.linear])
    end = axis(record)
    beside, level = _beside(record), level_with_best(record.scores)

    def row(system: SystemScore) -> Row:
        rival = far_below(system, record.systems, level)
        others = beside.get((system.name, frozenset(system.encoders)), ("", "", ""))
        estimates = (system.uar, system.accuracy, system.macro_f1)
        verdict = compared.of(system)
        return Row(
            system=system,
            heard="" if system.encoders == shared else " + ".join(system.encoders),
            best=system == top,
            level=verdict is not None and not verdict.distinguishable,
            below=rival.title if rival else "",
            cells=tuple(
                (percent(e.value), percent(e.low), percent(e.high), other)
                for e, other in zip(estimates, others, strict=True)
            ),
            seconds=duration(system.seconds),
            plot=Whisker(
                along(system.uar.value, end),
                along(system.uar.low, end),
                along(system.uar.high, end),
                along(record.chance, end),
                along(linear.uar.value, end) if linear else None,
            ),
        )

    return [
        (
            f"{heading}: {' + '.join(shared)}" if members[0].encoders == shared else heading,
            [row(system) for system in members],
        )
        for heading, members in groups(record.systems)
    ]


def _beside(record: RunRecord) -> dict[tuple[str, frozenset[str]], tuple[str, str, str]]:
    """Return published UAR (never stated), accuracy and macro-F1 by system and set of encoders."""
    return {
        (str(entry["name"]), frozenset(map(str, entry["encoders"]))): (
            "",
            percent(number(entry.get("accuracy"))),
            percent(number(entry.get("macro_f1"))),
        )
        for entry in _published(record)
        if entry.get("name") and entry.get("encoders")
    }


def axis(record: RunRecord) -> float:
    """Return where the tracks of the table end."""
    ends = [end for system in record.systems for end in (system.uar.value, system.uar.high)]
    return ceiling([*ends, record.chance])


def pairs(record: RunRecord, compared: Comparisons) -> list[Pair]:
    """Return every system against the best one, in the order of the table's UAR."""
    rows = []
    for system in record.systems:
        verdict = compared.of(system)
        if verdict is None:
            continue
        gap = verdict.difference
        rows.append(
            Pair(
                system,
                signed(-gap.value),
                f"{signed(-gap.high)} to {signed(-gap.low)}",
                _effect(-verdict.effect),
                p_text(verdict.p, compared.alpha),
                p_text(verdict.p_corrected, compared.alpha),
                "" if math.isnan(verdict.mcnemar) else p_text(verdict.mcnemar, compared.alpha),
                not verdict.distinguishable,
            )
        )
    return rows


def _published(record: RunRecord) -> list[Mapping[str, Any]]:
    return [*record.run["published"], *(record.scores.get("published") or ())]


def _effect(value: float) -> str:
    if math.isnan(value):
        return "-"
    text = f"{value:+.2f}".replace("-", MINUS)
    return text if text[1:] != "0.00" else "0.00"


def published(record: RunRecord) -> list[dict[str, str]]:
    """Return the published figures that the run was given, in percent, each with its source."""
    rows = []
    for entry in _published(record):
        row = {name: str(entry.get(name) or "") for name in TOLD}
        row |= {name: percent(number(entry.get(name))) for name in ("accuracy", "macro_f1")}
        if row not in rows:
            rows.append(row)
    return rows
