"""The page: one HTML file that loads nothing, readable on a phone and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nver.report.audit import audit
from nver.report.basis import basis
from nver.report.breakdown import breakdowns
from nver.report.charts import TRACK
from nver.report.citations import bibtex, cited, licence_is_restricted, licences
from nver.report.clip_list import ClipList, Sharing, clip_list
from nver.report.coupling import plan_svg, plans
from nver.report.emotions import emotions, recall_table
from nver.report.learning import learning_curves
from nver.report.origin import provenance, tuning, without_folders
from nver.report.record import Failure, RunRecord
from nver.report.render import render
from nver.report.results import axis, pairs, published, result_table
from nver.report.run_figures import EncoderMap, Figure
from nver.report.stress import stress
from nver.report.summary import about_intervals, extremes, summarise, synthetic
from nver.report.tables import (
    TRANSDUCTIVE,
    SystemScore,
    best,
    percent,
    shared_encoders,
)
from nver.report.trust import COVERAGES, by_chance, trusts
from nver.report.verdicts import comparisons

MANY = 30
"""More systems than this, and the long tables are folded: the page stays one that is read."""

CONFUSION_BYTES = 1_500_000
"""Of all matrices in the page: with everything else it stays below 5 MB."""

LISTED_FAILURES = 200

DETAILED = 12
"""Most systems that a section with a choice of systems offers, best first."""

PLANS = 8
"""Most transport plans in the page."""


def page(
    record: RunRecord,
    confusions: Mapping[SystemScore, Figure],
    maps: Sequence[EncoderMap],
    sharing: Sharing,
) -> str:
    """Return the whole page.

    Parameters
    ----------
    record : RunRecord
        What the run folder says.
    confusions : mapping of SystemScore to Figure
        The confusion matrix of every system, best first.
    maps : sequence of EncoderMap
        The map of every encoder.
    sharing : Sharing
        What the page tells and holds of the clips.
    """
    left, right = defaults(record.systems)
    shown = within(CONFUSION_BYTES, confusions, first=(left, right))
    detailed = detailed_systems(record.systems)
    examples = plans(record)[:PLANS]
    clips = clip_list(record, shown, examples, sharing)
    believed = trusts(record)
    values = {
        "record": record,
        "many": len(record.systems) > MANY,
        "title": f"{record.scores['corpus']}: non-verbal emotion recognition",
        "version": str(record.run.get("nver", "")),
        "started": str(record.run.get("started", ""))[:10],
        "synthetic": synthetic(record),
        "basis": basis(record),
        "points": summarise(record),
        "notes": _notes(record, paths=sharing.paths),
        "shared": shared_encoders(record.systems),
        "track": TRACK,
        "emotions": [(system, emotions(record, system)) for system in detailed],
        "recalls": recall_table(record, list(confusions)),
        "supports": record.supports(),
        "extremes": extremes(record),
        "confusions": shown,
        "left_out": [figure.file for system, figure in confusions.items() if system not in shown],
        "left": left,
        "right": right,
        "maps": maps,
        "plans": [(plan, plan_svg(plan)) for plan in examples],
        "curves": learning_curves(record, DETAILED),
        "trusts": believed,
        "trust_chance": by_chance(believed),
        "detailed": DETAILED,
        "coverages": [f"{100 * share:g}" for share in COVERAGES],
        "stress": stress(record),
        "breakdowns": breakdowns(record, DETAILED),
        "audit": audit(record),
        "tuning": tuning(record),
        "failures": _failures(record, paths=sharing.paths),
        "clips": clips,
        "sound": _sound(clips, sharing),
        **_results(record),
        **_sources(record, sharing),
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


def detailed_systems(systems: Sequence[SystemScore]) -> list[SystemScore]:
    """Return the systems that a choice offers: the best one first, then by falling UAR."""
    top = best(systems)
    return sorted(systems, key=lambda system: system != top)[:DETAILED]


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


def _results(record: RunRecord) -> dict[str, Any]:
    compared = comparisons(record.scores)
    return {
        "level": f"{100 * record.systems[0].level:g} %",
        "interval": about_intervals(record),
        "has_linear": any(system.linear for system in record.systems),
        "axis": percent(axis(record)).removesuffix(".0"),
        "groups": result_table(record, compared),
        "metrics": ("UAR", "Accuracy", "Macro-F1"),
        "compared": compared,
        "detectable": percent(float(compared.told.get("detectable") or "nan")),
        "pairs": pairs(record, compared),
        "published": published(record),
        "glossary": _glossary(record),
    }


def _sources(record: RunRecord, sharing: Sharing) -> dict[str, Any]:
    card = record.card
    url = str(card.get("url", ""))
    return {
        "corpus": {
            "title": str(card.get("title") or record.scores["corpus"]),
            "citation": cited(card),
            "url": url,
            "linked": url.startswith(("https://", "http://")),  # never javascript: and its kin
        },
        "licences": licences(record),
        "encoders": [_encoder(card) for card in record.run["encoders"]],
        "bibtex": bibtex(record),
        "provenance": provenance(record, paths=sharing.paths),
    }


def _failures(record: RunRecord, *, paths: bool) -> list[Failure]:
    """Return the first failed clips; without `paths`, their reasons name no folder."""
    shown = record.failures[:LISTED_FAILURES]
    if paths:
        return list(shown)
    return [replace(one, reason=without_folders(one.reason)) for one in shown]


def _notes(record: RunRecord, *, paths: bool) -> list[str]:
    """Return what the run and its systems said, each once, without what the points say already."""
    said = {record.card.get("warning"), *record.run["leakage"].get("sentences", ())}
    said.add(record.run["identity"].get("sentence"))
    notes = list(dict.fromkeys(map(str, [*record.run["warnings"], *record.scores["notes"]])))
    notes = [note for note in notes if note not in said | set(record.failed_systems)]
    return notes if paths else [without_folders(note) for note in notes]


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
        "citation": cited(card),
    }


def _sound(clips: ClipList, sharing: Sharing) -> str:
    """Return what the page holds of the clips and where it plays them from, in words."""
    parts = []
    if sharing.megabytes is not None:
        parts.append(
            f"{clips.embedded:,} of {len(clips.files):,} clips are embedded in this page "
            f"({clips.bytes / 1e6:.1f} MB)."
        )
    if clips.linked:
        parts.append(
            "Clips are played from where they lie beside this run; the page names their places "
            "relative to its own. Before you share it, nver report RUN --no-paths leaves them out, "
            "nver report RUN --embed-audio puts clips into the page."
        )
    elif not parts:
        parts.append("This page does not say where the clips lie, so none can be played.")
    return " ".join(parts)
