"""The first lines of the report: what was found, and how far to trust it, in plain words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nver.metrics import recalls
from nver.report.record import RunRecord
from nver.report.tables import SystemScore, best, far_below, linear_rival, percent

NON_COMMERCIAL = re.compile(r"\bNC\b|non[ -]?commercial|research[ -]only", re.IGNORECASE)
NAMED = 6
"""Most systems that one point lists."""


@dataclass(frozen=True)
class Statement:
    """One point of the summary.

    Parameters
    ----------
    topic : str
        What it is about, in one or two words.
    text : str
        One to three sentences.
    alarm : bool
        Whether a reader must know it before believing a figure.
    details : tuple of str
        A list below the text.
    """

    topic: str
    text: str
    alarm: bool = False
    details: tuple[str, ...] = ()


def summarise(record: RunRecord) -> tuple[Statement, ...]:
    """Return the points in the order in which they are read; alarms stay in their place."""
    points = (
        _corpus(record),
        _protocol(record),
        _leakage(record),
        _chance(record),
        _best(record),
        _intervals(record),
        _linear(record),
        _fusion(record),
        _transductive(record.systems),
        _failed_systems(record),
        _failures(record),
        _licence(record),
    )
    return tuple(point for point in points if point)


def synthetic(record: RunRecord) -> bool:
    """Return whether the clips were made by a program."""
    return bool(record.card.get("synthetic", False))


def licence_is_restricted(licence: str) -> bool:
    """Return whether a licence text forbids commercial use.

    >>> licence_is_restricted("CC BY-NC-SA 4.0"), licence_is_restricted("MIT")
    (True, False)
    """
    return bool(NON_COMMERCIAL.search(licence))


def _corpus(record: RunRecord) -> Statement:
    clips = record.clips()
    known = clips["speaker"].dropna().nunique()
    of = f" of {counted(known, 'speaker')}" if known else ", speakers unknown"
    name = record.card.get("title") or record.scores["corpus"]
    text = f"{name}: {counted(len(clips), 'clip')}{of}, {counted(len(record.labels), 'label')}."
    if warning := record.card.get("warning"):
        text += f" {warning}"
    return Statement("Corpus", text, alarm=bool(warning))


def _protocol(record: RunRecord) -> Statement:
    folds = counted(int(record.clips()["fold"].nunique()), "fold")
    protocol = str(record.scores["folds"])
    name = {
        "speaker": f"{folds}, divided by speaker",
        "loso": f"{folds}, one for each speaker",
        "random": f"{folds}, divided at random",
        "published": f"{folds}, as published with the corpus",
    }.get(protocol, f"{folds}, as the corpus's column '{protocol.removeprefix('column:')}' says")
    divided = record.divided_speakers()
    if divided == 0:
        return Statement("Protocol", f"{name}. No voice was in training before it was judged.")
    if divided is None:
        doubt = (
            "Some speakers are unknown, so the same voice may be in training and in test. "
            "If it is, the figures are too high for new voices."
        )
    else:
        doubt = (
            f"{counted(divided, 'speaker')} {'is' if divided == 1 else 'are'} in training and in "
            "test alike, so the figures are too high for new voices. Do not compare them with "
            "speaker-independent ones; for those, use --folds speaker."
        )
    return Statement("Protocol", f"{name}. {doubt}", alarm=True)


def _leakage(record: RunRecord) -> Statement:
    leakage = record.run["leakage"]
    found = " ".join(str(sentence) for sentence in leakage.get("sentences", ()))
    if leakage.get("clean"):
        verdict = leakage.get("verdict", "Clean: nothing was found on both sides of a fold.")
        return Statement("Leakage check", f"{verdict} {found}".rstrip())
    return Statement("Leakage check", found or "Not clean, or not made.", alarm=True)


def _chance(record: RunRecord) -> Statement:
    chance = percent(record.chance)
    return Statement(
        "Chance", f"Guessing reaches a UAR of {chance} % ({len(record.labels)} labels)."
    )


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


def _linear(record: RunRecord) -> Statement | None:
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
        text += (
            f" The best network, {top.title}, {with_interval(top)}, is {_difference(top, baseline)}"
        )
    below = [system for system in neural if far_below(system, systems)]
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


def _fusion(record: RunRecord) -> Statement | None:
    single = best([system for system in record.systems if not system.fusion])
    fused = best([system for system in record.systems if system.fusion])
    if single is None or fused is None:
        return None
    verdict = _difference(fused, single, "the best single encoder")
    text = (
        f"The best fusion, {fused.title}, is {verdict} The latter is {single.title}, "
        f"{with_interval(single)}."
    )
    return Statement("Fusion", text)


def _difference(one: SystemScore, other: SystemScore, it: str = "it") -> str:
    points = round(100 * (one.uar.value - other.uar.value), 1)
    where = f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {it}"
    if points == 0:
        where = f"level with {it}"
    if any(math.isnan(end) for system in (one, other) for end in (system.uar.low, system.uar.high)):
        return f"{where}; without intervals nobody can say whether that is more than luck."
    if one.uar.low > other.uar.high or other.uar.low > one.uar.high:
        return f"{where}; their intervals do not overlap."
    return f"{where}; their intervals overlap, so this is no proof of a difference."


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
    count = counted(len(record.failures), "file")
    return Statement(
        "Failed clips",
        f"{count} could not be used and {'is' if len(record.failures) == 1 else 'are'} "
        "in no figure; the list below says why.",
    )


def _licence(record: RunRecord) -> Statement | None:
    restricted = [
        str(card.get("name", "?"))
        for card in record.run["encoders"]
        if licence_is_restricted(str(card.get("licence", "")))
    ]
    if record.card.get("non_commercial") or licence_is_restricted(
        str(record.card.get("licence", ""))
    ):
        restricted.insert(0, "the corpus")
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


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "fold"), counted(1800, "clip")
    ('1 fold', '1,800 clips')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Return names as prose.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
