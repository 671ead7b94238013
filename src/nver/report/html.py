"""The page: one HTML file that loads nothing, readable on a phone and on paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nver.metrics import recalls
from nver.report.colours import ink, shade
from nver.report.record import RunRecord
from nver.report.render import render
from nver.report.run_figures import Figure
from nver.report.summary import (
    about_intervals,
    counted,
    extremes,
    licence_is_restricted,
    summarise,
    synthetic,
)
from nver.report.tables import (
    TRANSDUCTIVE,
    SystemScore,
    best,
    duration,
    far_below,
    groups,
    percent,
    shared_encoders,
)

CONFUSION_BYTES = 3_000_000
"""Of all matrices in the page: with everything else it stays below 5 MB."""

LISTED_FAILURES = 200
PLOT_WIDTH = 170

PAPER = (
    "O. C. Phukan, M. M. Akhtar, Girish, S. R. Behera, S. Kalita, A. B. Buduru, R. Sharma, "
    "S. R. M. Prasanna: Strong Alone, Stronger Together: Synergizing Modality-Binding Foundation "
    "Models with Optimal Transport for Non-Verbal Emotion Recognition. "
    "ICASSP 2025. arXiv 2409.14221"
)


@dataclass(frozen=True)
class Row:
    """One line of the result table, ready to print."""

    system: SystemScore
    heard: str
    best: bool
    below: str
    cells: tuple[tuple[str, str, str], ...]
    seconds: str
    plot: Whisker


@dataclass(frozen=True)
class Whisker:
    """Where a UAR, its interval and its references lie on a plot, in px."""

    value: float | None
    low: float | None
    high: float | None
    chance: float
    linear: float | None


def page(
    record: RunRecord, confusions: Mapping[SystemScore, Figure], maps: Sequence[Figure]
) -> str:
    """Return the whole page.

    Parameters
    ----------
    record : RunRecord
        What the run folder says.
    confusions : mapping of SystemScore to Figure
        The confusion matrix of every system, best first.
    maps : sequence of Figure
        The map of every encoder.
    """
    left, right = defaults(record.systems)
    shown = within(CONFUSION_BYTES, confusions, first=(left, right))
    values = {
        "record": record,
        "title": f"{record.scores['corpus']}: non-verbal emotion recognition",
        "synthetic": synthetic(record),
        "points": summarise(record),
        "notes": _notes(record),
        "level": f"{100 * record.systems[0].level:g} %",
        "version": str(record.run.get("nver", "")),
        "started": str(record.run.get("started", ""))[:10],
        "interval": about_intervals(record),
        "has_linear": any(system.linear for system in record.systems),
        "width": PLOT_WIDTH,
        "supports": record.supports(),
        "axis": percent(_axis(record)).removesuffix(".0"),
        "groups": _table(record),
        "shared": shared_encoders(record.systems),
        "metrics": ("UAR", "Accuracy", "Macro-F1"),
        "recalls": _recalls(record, confusions),
        "extremes": extremes(record),
        "confusions": shown,
        "left_out": [figure.file for system, figure in confusions.items() if system not in shown],
        "left": left,
        "right": right,
        "maps": maps,
        "glossary": _glossary(record),
        "encoders": [_encoder(card) for card in record.run["encoders"]],
        "corpus": _facts(record),
        "paper": PAPER if any("mata" in system.name for system in record.systems) else "",
        "failures": record.failures[:LISTED_FAILURES],
        "provenance": _provenance(record),
    }
    return str(render("report.html", **values))


def defaults(systems: Sequence[SystemScore]) -> tuple[SystemScore, SystemScore]:
    """Return the two systems whose matrices stand side by side: best linear, best network.

    Where one kind is missing, the best of the others takes its place.
    """
    linear = best([system for system in systems if system.linear]) or systems[0]
    rest = [system for system in systems if system != linear]
    network = best([system for system in rest if system.neural]) or best(rest) or linear
    return linear, network


def within(
    limit: int, figures: Mapping[SystemScore, Figure], first: Sequence[SystemScore]
) -> dict[SystemScore, Figure]:
    """Return the figures that fit into `limit` characters: `first`, then in their order."""
    order = sorted(figures, key=lambda system: system not in first)
    room, fitting = limit, set(first)
    for system in order:
        room -= len(figures[system].svg)
        if room >= 0:
            fitting.add(system)
    return {system: figure for system, figure in figures.items() if system in fitting}


def _table(record: RunRecord) -> list[tuple[str, list[Row]]]:
    top, shared = best(record.systems), shared_encoders(record.systems)
    linear = best([system for system in record.systems if system.linear])
    scale = PLOT_WIDTH / _axis(record)

    def place(value: float) -> float | None:
        return None if math.isnan(value) else round(value * scale, 1)

    def row(system: SystemScore) -> Row:
        rival = far_below(system, record.systems)
        estimates = (system.uar, system.accuracy, system.macro_f1)
        return Row(
            system=system,
            heard="" if system.encoders == shared else " + ".join(system.encoders),
            best=system == top,
            below=rival.title if rival else "",
            cells=tuple((percent(e.value), percent(e.low), percent(e.high)) for e in estimates),
            seconds=duration(system.seconds),
            plot=Whisker(
                place(system.uar.value),
                place(system.uar.low),
                place(system.uar.high),
                round(record.chance * scale, 1),
                place(linear.uar.value) if linear else None,
            ),
        )

    return [
        (
            f"{heading}: {' + '.join(shared)}" if members[0].encoders == shared else heading,
            [row(system) for system in members],
        )
        for heading, members in groups(record.systems)
    ]


def _notes(record: RunRecord) -> list[str]:
    """Return what the run and its systems said, each once, without what the points say already."""
    said = {record.card.get("warning"), *record.run["leakage"].get("sentences", ())}
    notes = dict.fromkeys(map(str, [*record.run["warnings"], *record.scores["notes"]]))
    return [note for note in notes if note not in said | set(record.failed_systems)]


def _axis(record: RunRecord) -> float:
    """Return where the plots end: the next ten percent above everything that is drawn."""
    ends = [end for s in record.systems for end in (s.uar.value, s.uar.high) if not math.isnan(end)]
    return math.ceil(10 * max([*ends, record.chance, 0.1])) / 10


def _recalls(
    record: RunRecord, confusions: Mapping[SystemScore, Figure]
) -> list[tuple[SystemScore, list[tuple[str, str, str]]]]:
    """Return, for each system, the recall of each class as text, colour and colour of the text."""
    table = []
    for system in confusions:
        values = recalls(record.confusions[system]).tolist()
        cells = [
            ("-", "#ffffff", "#000")
            if math.isnan(value)
            else (f"{100 * value:.0f}", shade(value), ink(shade(value)))
            for value in values
        ]
        table.append((system, cells))
    return table


def _glossary(record: RunRecord) -> list[tuple[str, str]]:
    """Return name and meaning of the systems in the table, as the run recorded them."""
    present = {system.name.removesuffix(TRANSDUCTIVE) for system in record.systems}
    return [
        (str(entry["name"]), str(entry["summary"]))
        for entry in record.run["systems"]
        if entry["name"] in present
    ]


def _encoder(card: Mapping[str, Any]) -> dict[str, Any]:
    licence = str(card.get("licence", "not recorded"))
    size = int(card.get("parameters") or 0)
    weights = f"{size / 1e6:.1f} M parameters" if size else "no weights"
    return {
        "name": str(card.get("name", "?")),
        "summary": str(card.get("summary", "")),
        "facts": (
            f"{card.get('dim', '?')} dimensions, {card.get('rate', '?')} Hz, "
            f"{card.get('modality', '?')}, {weights}, {card.get('pooling', '?')}"
        ),
        "revision": str(card.get("revision", "not recorded")),
        "licence": licence,
        "restricted": licence_is_restricted(licence),
        "citation": str(card.get("citation", "")),
    }


def _facts(record: RunRecord) -> dict[str, Any]:
    card = record.card
    url = str(card.get("url", ""))
    licence = str(card.get("licence", "not recorded"))
    return {
        "title": str(card.get("title") or record.scores["corpus"]),
        "licence": licence,
        "restricted": bool(card.get("non_commercial")) or licence_is_restricted(licence),
        "citation": str(card.get("citation", "")),
        "url": url,
        "linked": url.startswith(("https://", "http://")),  # never javascript: and its kin
    }


def _provenance(record: RunRecord) -> list[tuple[str, str]]:
    run = record.run
    settings = {key: value for key, value in run["settings"].items() if value not in (None, (), [])}
    extraction = run["extraction"]
    rows = [
        ("Command", str(run.get("command", ""))),
        ("Started", str(run.get("started", ""))),
        ("Duration", duration(float(run["seconds"])) if "seconds" in run else ""),
        ("Embeddings", _pairs({k: v for k, v in extraction.items() if isinstance(v, int | float)})),
        ("Hardware", _pairs(run["hardware"])),
        ("Versions", _pairs(run["libraries"])),
        ("Settings", _pairs(settings)),
        ("Seeds", counted(record.seeds, "training") + " of each network"),
        *((f"SHA-256 of {name}", digest) for name, digest in record.digests.items()),
    ]
    return [(term, text) for term, text in rows if text]


def _pairs(values: Mapping[str, Any]) -> str:
    known = {key.replace("_", " "): value for key, value in values.items() if value is not None}
    return ", ".join(f"{key} {_plain(value)}" for key, value in known.items())


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return f"({_pairs({str(key): entry for key, entry in value.items()})})"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(entry) for entry in value)
    return str(value)
