"""How much each system loses when the test clips are perturbed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nver.report.record import RunRecord
from nver.report.tables import Estimate, SystemScore, percent
from nver.report.verdicts import key

MINUS = "\u2212"
"""As wide as a plus."""

DEEPEST = 0.25
"""A drop of UAR from which a cell has the full colour."""


@dataclass(frozen=True)
class Loss:
    """One system under one perturbation, in percent and points; `depth` in [0, 1] is its shade."""

    uar: str
    drop: str
    interval: str
    sure: bool
    depth: float


@dataclass(frozen=True)
class Stress:
    """The losses of all systems: titles of the perturbations, and a row for each system.

    `missing` has a sentence for each perturbation that some clips did not survive.
    """

    titles: tuple[str, ...]
    rows: tuple[tuple[SystemScore, str, tuple[Loss | None, ...]], ...]
    missing: tuple[str, ...] = ()


def stress(record: RunRecord) -> Stress | None:
    """Return the robustness table of a run, or None where nothing was perturbed."""
    entries = {key(entry): entry for entry in record.scores.get("robustness") or ()}
    titles: dict[str, str] = {}
    for entry in entries.values():
        for one in entry["perturbations"]:
            titles.setdefault(str(one["name"]), str(one.get("title") or one["name"]))
    missing = tuple(_missing(record, entries.values(), titles))
    if not titles and not missing:
        return None
    rows = []
    for system in record.systems:
        if system.key in entries:
            entry = entries[system.key]
            losses = {str(one["name"]): _loss(one) for one in entry["perturbations"]}
            clean = Estimate.from_json(entry["clean"])
            rows.append((system, percent(clean.value), tuple(losses.get(name) for name in titles)))
    return Stress(tuple(titles.values()), tuple(rows), missing)


def _missing(
    record: RunRecord, entries: Iterable[Mapping[str, Any]], titles: Mapping[str, str]
) -> Iterator[str]:
    """Yield what is known of fewer clips than were tested, or of none."""
    clips = len(record.clips())
    counts: dict[str, int] = {}
    for one in (one for entry in entries for one in entry["perturbations"]):
        counts.setdefault(str(one["name"]), int(one.get("n_clips") or clips))
    for name in record.run["extraction"].get("perturbed") or ():
        counts.setdefault(str(name), 0)
    for name, n in counts.items():
        called = titles.get(name, name)
        if n == 0:
            yield f"{called}: no clip could be perturbed and encoded; the failed clips say why."
        elif n < clips:
            yield f"{called}: {n:,} of {clips:,} clips; the change is that of these clips alone."


def _loss(entry: Mapping[str, Any]) -> Loss:
    uar, drop = Estimate.from_json(entry["uar"]), Estimate.from_json(entry["drop"])
    depth = 0.0 if math.isnan(drop.value) else min(max(drop.value / DEEPEST, 0.0), 1.0)
    return Loss(
        percent(uar.value),
        signed(-drop.value),
        f"{signed(-drop.high)} to {signed(-drop.low)}",
        drop.low > 0 or drop.high < 0,
        round(depth, 2),
    )


def signed(value: float) -> str:
    """Return a difference of fractions in points, with its sign.

    >>> signed(-0.083) == f"{MINUS}8.3", signed(0.004), signed(-0.0001), signed(float("nan"))
    (True, '+0.4', '0.0', '-')
    """
    text = percent(abs(value))
    if math.isnan(value) or text == "0.0":
        return text
    return f"{'+' if value > 0 else MINUS}{text}"
