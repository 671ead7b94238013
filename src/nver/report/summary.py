"""The summary of the report: what was found, and how far to trust it, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nver.metrics import recalls
from nver.report.citations import licences
from nver.report.record import RunRecord
from nver.report.statement import Statement, counted, listed
from nver.report.tables import SystemScore, best, far_below, level_with_best, linear_rival, percent
from nver.report.verdicts import Comparisons, comparisons, key, number, p_text

NAMED = 5
"""Most systems that one point lists."""


def summarise(record: RunRecord) -> tuple[Statement, ...]:
    """Return the points in the order in which they are read; alarms stay in their place."""
    compared = comparisons(record.scores)
    points = (
        _best(record),
        _intervals(record),
        _told_apart(record, compared),
        _linear(record, compared),
        _fusion(record, compared),
        _confidence(record),
        _perturbed(record),
        _people(record),
        _transductive(record.systems),
        _failed_systems(record),
        _failures(record),
        _licence(record),
    )
    return tuple(point for point in points if point)


def synthetic(record: RunRecord) -> bool:
    """Return whether the clips were made by a program."""
    return bool(record.card.get("synthetic", False))


def _best(record: RunRecord) -> Statement:
    top = best(record.systems)
    if top is None:
        return Statement("Best system", "None: no system has a defined UAR.", alarm=True)
    text = f"{top.title}: {with_interval(top)}."
    rivals = sum(not system.transductive for system in record.systems)
    if rivals > 1:
        text += (
            f" It came out best of {rivals} on these very clips: expect somewhat less on new ones."
        )
    if not top.uar.low > record.chance:
        return Statement(
            "Best system", f"{text} It is not clearly better than guessing.", alarm=True
        )
    return Statement("Best system", text)


def _intervals(record: RunRecord) -> Statement | None:
    caution = record.interval.get("caution")
    if not caution:
        return None
    return Statement("Intervals", f"What to know of every interval: {caution}.", alarm=True)


def _told_apart(record: RunRecord, compared: Comparisons) -> Statement | None:
    told = compared.told
    detectable = number(told.get("detectable"))
    level = [system for system in record.systems if _cannot_be_told(system, compared)]
    if not compared:
        return None
    rivals = len(compared.verdicts)
    if not level:
        text = f"The best system can be told from each of {counted(rivals, 'other system')}."
    else:
        text = f"{len(level)} of {counted(rivals, 'other system')} cannot be told from the best: "
        names = [system.title for system in level[:NAMED]]
        more = len(level) - NAMED
        text += listed([*names, f"{more} more"] if more > 0 else names) + "."
    if not math.isnan(detectable):
        text += (
            f" A difference in UAR under {percent(detectable)} points would mostly go unnoticed "
            "on this corpus."
        )
    caution = compared.caution_beyond(str(record.interval.get("caution") or ""))
    return Statement("Differences", f"{text} {caution}".rstrip(), alarm=bool(compared.caution))


def _cannot_be_told(system: SystemScore, compared: Comparisons) -> bool:
    verdict = compared.of(system)
    return verdict is not None and not verdict.distinguishable


def _linear(record: RunRecord, compared: Comparisons) -> Statement | None:
    systems = record.systems
    neural = [system for system in systems if system.neural]
    baseline = best([system for system in systems if system.linear])
    if not neural:
        return None
    if baseline is None:
        text = (
            "No linear baseline was run, so nobody can say whether the networks are worth their "
            "trouble. Add -s lda -s concat-lda."
        )
        return Statement("Networks and linear baseline", text, alarm=True)
    top = best(neural)
    text = f"The best linear baseline, {baseline.title}, reaches {with_interval(baseline)}."
    if top is not None:
        verdict = _difference(top, baseline, compared)
        text += f" The best network, {top.title}, {with_interval(top)}, is {verdict}"
    level = level_with_best(record.scores)
    below = [system for system in neural if far_below(system, systems, level)]
    if not below:
        return Statement("Networks and linear baseline", text)
    text += (
        " Far below the linear baseline on the same encoders, the whole interval under its value, "
        f"{'lies' if len(below) == 1 else 'lie'} {len(below)} of {counted(len(neural), 'network')}:"
    )
    return Statement("Networks and linear baseline", text, True, _against(below, systems))


def _against(below: Sequence[SystemScore], systems: Sequence[SystemScore]) -> tuple[str, ...]:
    """Return a line for each system that lies far below, with the baseline above it."""
    lines = [
        f"{system.title}: {percent(system.uar.value)} % against {percent(rival.uar.value)} % of "
        f"{rival.title if rival.encoders != system.encoders else rival.name}"
        for system in below
        if (rival := linear_rival(system, systems))
    ]
    more = len(lines) - NAMED
    return (*lines[:NAMED], f"and {more} more, marked in the table") if more > 1 else tuple(lines)


def _fusion(record: RunRecord, compared: Comparisons) -> Statement | None:
    single = best([system for system in record.systems if not system.fusion])
    fused = best([system for system in record.systems if system.fusion])
    if single is None or fused is None:
        return None
    verdict = _difference(fused, single, compared, "the best single encoder")
    text = (
        f"The best fusion, {fused.title}, is {verdict} The latter is {single.title}, "
        f"{with_interval(single)}."
    )
    return Statement("Fusion", text)


def _difference(one: SystemScore, other: SystemScore, compared: Comparisons, it: str = "it") -> str:
    points = round(100 * (one.uar.value - other.uar.value), 1)
    where = f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {it}"
    if points == 0:
        where = f"level with {it}"
    if verdict := compared.between(one, other):
        p = p_text(verdict.p_corrected, compared.alpha)
        if verdict.distinguishable:
            return f"{where}; the paired test finds a difference (corrected p {p})."
        if verdict.p_corrected <= compared.alpha:
            return (
                f"{where}; the paired test finds a difference (corrected p {p}), but its interval, "
                "which allows for other trainings, holds zero: they cannot be told apart."
            )
        return f"{where}; the paired test cannot tell them apart (corrected p {p})."
    if any(math.isnan(end) for system in (one, other) for end in (system.uar.low, system.uar.high)):
        return f"{where}; without intervals nobody can say whether that is more than luck."
    if one.uar.low > other.uar.high or other.uar.low > one.uar.high:
        return f"{where}; their intervals do not overlap."
    return f"{where}; their intervals overlap, so this is no proof of a difference."


def _of_best(record: RunRecord, section: str) -> tuple[SystemScore, Mapping[str, Any]] | None:
    """Return the best system and its entry in a section of scores.json, or None."""
    top = best(record.systems)
    if top is None:
        return None
    entries = record.scores.get(section) or ()
    entry = next((entry for entry in entries if key(entry) == top.key), None)
    return None if entry is None else (top, entry)


def _confidence(record: RunRecord) -> Statement | None:
    if (found := _of_best(record, "calibration")) is None:
        return None
    top, entry = found
    ece = number((entry.get("raw") or {}).get("ece"))
    if math.isnan(ece):
        return None
    text = f"The probabilities of {top.name} are off by {percent(ece)} points on average (ECE"
    if not math.isnan(chance := number(entry["raw"].get("ece_by_chance"))):
        text += f"; perfect calibration would show about {percent(chance)} by chance"
    text += ")"
    if scaled := entry.get("scaled"):
        text += f"; after temperature scaling by {percent(number(scaled.get('ece')))}"
    return Statement("Confidence", f"{text}.")


def _perturbed(record: RunRecord) -> Statement | None:
    if (found := _of_best(record, "robustness")) is None:
        return None
    top, entry = found
    drops = [(number(one["drop"].get("value")), one) for one in entry["perturbations"]]
    drops = [(drop, one) for drop, one in drops if not math.isnan(drop)]
    if not drops:
        return None
    drop, worst = max(drops, key=lambda pair: pair[0])
    if drop <= 0:
        return Statement("Robustness", f"No perturbation lowers the UAR of {top.name}.")
    name = worst.get("title") or worst["name"]
    text = (
        f"{top.name} loses most under '{name}': {percent(drop)} points of UAR, to "
        f"{percent(number(worst['uar'].get('value')))} %."
    )
    return Statement("Robustness", text)


def _people(record: RunRecord) -> Statement | None:
    if (found := _of_best(record, "disaggregated")) is None:
        return None
    sentences = [str(sentence) for sentence in found[1].get("worst") or ()]
    if not sentences:
        return None
    if len(sentences) > NAMED:
        sentences[NAMED:] = [f"and {len(sentences) - NAMED} more, in the section on groups"]
    return Statement("Worst groups", f"Of {found[0].title}:", details=tuple(sentences))


def _transductive(systems: Sequence[SystemScore]) -> Statement | None:
    if not any(system.transductive for system in systems):
        return None
    text = (
        "Systems marked so couple the clips of a test batch, as the published method does: their "
        "prediction for one clip depends on the others. They show what that rule yields and are "
        "not named as best."
    )
    return Statement("Transductive", text)


def _failed_systems(record: RunRecord) -> Statement | None:
    failed = record.failed_systems
    if not failed:
        return None
    text = f"{counted(len(failed), 'system')} could not be evaluated and have no score:"
    return Statement("Failed systems", text, True, failed)


def _failures(record: RunRecord) -> Statement:
    if not record.failures:
        return Statement("Failed clips", "None.")
    lost = {one.file for one in record.failures if not one.perturbed}
    text = ""
    if lost:
        text = (
            f"{counted(len(lost), 'file')} could not be used and "
            f"{'is' if len(lost) == 1 else 'are'} in no figure; the list below says why."
        )
    if stressed := {one.file for one in record.failures if one.perturbed}:
        text += (
            f" {counted(len(stressed), 'clip')} could not be perturbed in every way, and "
            f"{'is' if len(stressed) == 1 else 'are'} left out there alone."
        )
    return Statement("Failed clips", text.strip())


def _licence(record: RunRecord) -> Statement | None:
    restricted = [
        "the corpus" if licence.part.startswith("Corpus") else licence.part.partition(": ")[2]
        for licence in licences(record)
        if licence.restricted
    ]
    if not restricted:
        return None
    text = (
        f"Not for commercial use: {listed(restricted)}. Read the licence before you sell what was "
        "trained with it."
    )
    return Statement("Licence", text)


def with_interval(system: SystemScore) -> str:
    """Return the UAR in words: ``UAR 49.6 % (95 % interval 45.2 to 54.0)``."""
    uar = system.uar
    if math.isnan(uar.low) or math.isnan(uar.high):
        return f"UAR {percent(uar.value)} % (no interval)"
    level = f"{100 * system.level:g} %"
    return (
        f"UAR {percent(uar.value)} % ({level} interval {percent(uar.low)} to {percent(uar.high)})"
    )


def extremes(record: RunRecord) -> str:
    """Return which labels the best system recognises best and worst; "" without a best system."""
    top = best(record.systems)
    if top is None:
        return ""
    values = recalls(record.confusions[top])
    most, least = int(np.nanargmax(values)), int(np.nanargmin(values))
    named = [f"({100 * values[place]:.0f} %)" for place in (most, least)]
    return (
        f"The best system, {top.title}, recognises {record.labels[most]} best {named[0]} and "
        f"{record.labels[least]} worst {named[1]}."
    )


def about_intervals(record: RunRecord) -> str:
    """Return what the intervals of the tables are, as the end of a sentence."""
    units = {
        "speaker": "speakers",
        "clip": "clips",
        "mixed": "speakers and clips of unknown speakers",
    }
    clusters, unit = record.interval.get("clusters"), record.interval.get("unit")
    over = f" over {clusters} {units.get(unit, unit)}" if clusters and unit else ""
    return f"{100 * record.systems[0].level:g} % intervals from a bootstrap{over}"
