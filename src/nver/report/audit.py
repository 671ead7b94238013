"""The leakage audit in full, and the identity baseline: what is known without any sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nver.report.charts import Whisker, ceiling, whisker
from nver.report.record import RunRecord
from nver.report.tables import Estimate, percent

LISTED = 20
"""Most speakers, pairs or contradictions that are listed; run.json holds all of them."""


@dataclass(frozen=True)
class Listing:
    """A table of what was found: heading, column names, rows, and how many more there are."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int


@dataclass(frozen=True)
class Identity:
    """One set of codes and the UAR that it reaches without any sound, in percent."""

    columns: str
    uar: str
    low: str
    high: str
    plot: Whisker


@dataclass(frozen=True)
class Audit:
    """Everything the audit says, ready to print."""

    verdict: str
    folds: tuple[tuple[str, int, int, int], ...]
    threshold: str
    listings: tuple[Listing, ...]
    identity: tuple[Identity, ...]


def audit(record: RunRecord) -> Audit:
    """Return the audit of a run."""
    leakage = record.run["leakage"]
    threshold = leakage.get("threshold")
    return Audit(
        str(leakage.get("verdict", "")),
        tuple(_fold(name, counts) for name, counts in (leakage.get("counts") or {}).items()),
        f"{threshold:g}" if isinstance(threshold, int | float) else "",
        tuple(listing for listing in _listings(leakage) if listing.rows),
        _identity(record),
    )


def _fold(name: str, counts: Mapping[str, int]) -> tuple[str, int, int, int]:
    speakers, same, near = (
        int(counts.get(kind) or 0) for kind in ("speakers", "identical", "near_identical")
    )
    return str(name), speakers, same, near


def _listings(leakage: Mapping[str, Any]) -> list[Listing]:
    pairs = ("fold", "test", "train", "similarity")
    tables = (
        ("shared_speakers", "Speakers on both sides", ("fold", "speaker", "test", "train")),
        ("identical", "Identical audio on both sides", pairs),
        ("near_identical", "Nearly identical audio on both sides", pairs),
        (
            "contradictions",
            "Identical audio with different labels",
            ("first", "first_label", "second", "second_label"),
        ),
    )
    listings = []
    for kind, heading, columns in tables:
        found = leakage.get(kind) or ()
        rows = tuple(tuple(_cell(row.get(c)) for c in columns) for row in found[:LISTED])
        names = tuple(column.replace("_", " ") for column in columns)
        listings.append(Listing(heading, names, rows, max(len(found) - LISTED, 0)))
    return listings


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _identity(record: RunRecord) -> tuple[Identity, ...]:
    told = record.run["identity"]
    sets = [(", ".join(map(str, told.get("columns") or ())), told.get("uar"))]
    alone = told.get("per_column") or ()
    if len(alone) > 1:
        sets += [(str(one["column"]), one.get("uar")) for one in alone]
    known = [(name, Estimate.from_json(uar)) for name, uar in sets if isinstance(uar, Mapping)]
    end = ceiling([record.chance, *(v for _, uar in known for v in (uar.value, uar.high))])
    return tuple(
        Identity(
            name,
            percent(uar.value),
            percent(uar.low),
            percent(uar.high),
            whisker(uar.value, uar.low, uar.high, end=end, chance=record.chance),
        )
        for name, uar in known
    )
