"""The result table: one row per system, its three metrics with intervals, and where it stands.

Built from scores.json alone. Values are fractions in [0, 1]; they are printed in percent.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from nver.predictions import LINEAR

TRANSDUCTIVE = "-transductive"
"""How the names of systems end whose predictions look at the other clips of the test batch."""

CHOOSING = "best-"
"""How the names of systems begin that take one of several encoders."""

Key = tuple[str, str]
"""System and encoders as the columns of predictions.parquet write them."""

WIDTH = 100
NAME_WIDTH = 26
ENCODERS_WIDTH = 18


@dataclass(frozen=True)
class Estimate:
    """A score in [0, 1] with its interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    @classmethod
    def from_json(cls, scores: Mapping[str, float | None]) -> Estimate:
        """Read ``{"value": …, "low": …, "high": …}``; null is NaN."""
        value, low, high = (_number(scores[key]) for key in ("value", "low", "high"))
        return cls(value, low, high)

    def __str__(self) -> str:
        """Return value and interval in percent, 20 characters: `` 49.6 [45.2, 54.0]  ``."""
        ends = f"[{percent(self.low)}, {percent(self.high)}]"
        return f"{percent(self.value):>5} {ends:<14}"


@dataclass(frozen=True)
class SystemScore:
    """What one system reached on one set of encoders.

    Parameters
    ----------
    name : str
        As in `nver systems`.
    encoders : tuple of str
        What it listened through.
    uar, accuracy, macro_f1 : Estimate
        With their intervals.
    seconds : float
        Of searching its settings, training and predicting, all folds and seeds together; NaN where
        nobody measured it.
    level : float
        Nominal coverage of the intervals, in (0, 1).
    """

    name: str
    encoders: tuple[str, ...]
    uar: Estimate
    accuracy: Estimate
    macro_f1: Estimate
    seconds: float
    level: float = 0.95

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], level: float = 0.95) -> SystemScore:
        """Read one entry of the ``systems`` list of scores.json."""
        uar, accuracy, macro_f1 = (
            Estimate.from_json(entry[key]) for key in ("uar", "accuracy", "macro_f1")
        )
        encoders = tuple(str(encoder) for encoder in entry["encoders"])
        seconds = _number(entry["seconds"])
        return cls(str(entry["name"]), encoders, uar, accuracy, macro_f1, seconds, level)

    @property
    def key(self) -> Key:
        """System and encoders as the columns of predictions.parquet write them."""
        return self.name, "+".join(self.encoders)

    @property
    def title(self) -> str:
        """System and encoders for people: ``mata (spectral + prosodic)``."""
        return f"{self.name} ({' + '.join(self.encoders)})"

    @property
    def fusion(self) -> bool:
        """Whether it listens through more than one encoder, and does not just choose one."""
        return len(self.encoders) > 1 and not self.name.startswith(CHOOSING)

    @property
    def linear(self) -> bool:
        """Whether it is a linear baseline."""
        return self.name.rpartition("-")[2] in LINEAR

    @property
    def transductive(self) -> bool:
        """Whether its prediction for a clip depends on the other clips of the test batch."""
        return self.name.endswith(TRANSDUCTIVE)

    @property
    def neural(self) -> bool:
        """Whether it is neither a linear baseline nor a transductive second look."""
        return not self.linear and not self.transductive


def ranked(scores: Mapping[str, Any]) -> tuple[SystemScore, ...]:
    """Return the systems of scores.json by falling UAR; undefined ones last."""
    level = float((scores.get("interval") or {}).get("level", 0.95))
    systems = [SystemScore.from_json(entry, level) for entry in scores["systems"]]
    return tuple(sorted(systems, key=_falling))


def groups(systems: Sequence[SystemScore]) -> tuple[tuple[str, tuple[SystemScore, ...]], ...]:
    """Return the non-empty groups of the table with their headings, order kept."""
    parts = (
        ("One encoder alone", tuple(system for system in systems if not system.fusion)),
        ("Fusion", tuple(system for system in systems if system.fusion)),
    )
    return tuple((heading, members) for heading, members in parts if members)


def shared_encoders(systems: Sequence[SystemScore]) -> tuple[str, ...]:
    """Return the encoders of all fusions where they are the same ones, else ()."""
    heard = {system.encoders for system in systems if system.fusion}
    return next(iter(heard)) if len(heard) == 1 else ()


def best(systems: Sequence[SystemScore]) -> SystemScore | None:
    """Return the system of highest UAR among those that judge each clip alone, or None."""
    alone = [s for s in systems if not s.transductive and not math.isnan(s.uar.value)]
    return min(alone, key=_falling, default=None)


def linear_rival(system: SystemScore, systems: Sequence[SystemScore]) -> SystemScore | None:
    """Return the best linear system on the same encoders or fewer, or None.

    A network on one encoder is measured against the linear baseline on that encoder: a baseline
    that hears more would say nothing about the network.
    """
    heard = set(system.encoders)
    return best([s for s in systems if s.linear and set(s.encoders) <= heard])


def far_below(
    system: SystemScore, systems: Sequence[SystemScore], level: Set[Key] = frozenset()
) -> SystemScore | None:
    """Return the linear rival whose UAR lies above the whole interval of a system, or None.

    Linear systems are never far below in this sense, nor is one of `level`, the systems that the
    paired test cannot tell from the best one: an interval overlooks that the clips are the same.
    """
    if system.linear or system.key in level:
        return None
    rival = linear_rival(system, systems)
    return rival if rival and system.uar.high < rival.uar.value else None


def percent(value: float) -> str:
    """Return a fraction in percent with one decimal.

    >>> percent(0.4961), percent(float("nan"))
    ('49.6', '-')
    """
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """Return a duration for people.

    >>> duration(0.31), duration(42.4), duration(754.0), duration(7512.0)
    ('0.3 s', '42 s', '12 min 34 s', '2 h 5 min')
    """
    if math.isnan(seconds):
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def text_table(scores: Mapping[str, Any]) -> str:
    """Return the result table for a terminal, at most 100 columns wide.

    Parameters
    ----------
    scores : mapping
        The content of scores.json.

    Returns
    -------
    str
        One line per system: single encoders first, then fusions, each by falling UAR; then what the
        marks mean.
    """
    systems, level = ranked(scores), level_with_best(scores)
    blank = " " * (NAME_WIDTH + ENCODERS_WIDTH + 2)
    title = f"UAR % [{100 * systems[0].level:g} %]" if systems else "UAR %"
    lines = [f"{blank}{title:<20}{'accuracy %':>11}{'macro-F1 %':>11}{'time':>12}"]
    for title, members in groups(systems):
        alike = members[0].encoders == shared_encoders(systems)
        lines += ["", f"{title}: {' + '.join(members[0].encoders)}" if alike else title]
        for member in members:
            name = member.name + _marks(member, systems, level)
            lines += _row(name, member, encoders=not alike)
    return "\n".join([*lines, "", *_legend(scores, systems)])


def _row(name: str, system: SystemScore, *, encoders: bool) -> list[str]:
    """Return the line of a system; a second one where its encoders do not fit into theirs."""
    name = textwrap.shorten(name, NAME_WIDTH - 1, placeholder="...")
    heard = " + ".join(system.encoders) if encoders else ""
    fits = len(heard) < ENCODERS_WIDTH
    line = (
        f"  {name:{NAME_WIDTH}}{heard if fits else '':{ENCODERS_WIDTH}}{system.uar}"
        f"{percent(system.accuracy.value):>11}{percent(system.macro_f1.value):>11}"
        f"{duration(system.seconds):>12}"
    )
    return [line] if fits else [line, *textwrap.wrap(heard, WIDTH - 6, initial_indent=" " * 6)]


def _marks(system: SystemScore, systems: Sequence[SystemScore], level: Set[Key]) -> str:
    marks = (
        ("=", system.key in level),
        ("*", system.linear),
        ("~", system.transductive),
        ("!", far_below(system, systems, level)),
    )
    joined = "".join(mark for mark, holds in marks if holds)
    return f" {joined}" if joined else ""


def level_with_best(scores: Mapping[str, Any]) -> frozenset[Key]:
    """Return the keys of the systems that the paired test cannot tell from the best one."""
    pairs = (scores.get("comparisons") or {}).get("pairs") or ()
    return frozenset(
        (str(pair["name"]), "+".join(pair["encoders"]))
        for pair in pairs
        if not pair["distinguishable"]
    )


def _legend(scores: Mapping[str, Any], systems: Sequence[SystemScore]) -> list[str]:
    lines, level = (
        [f"Chance: UAR {percent(float(scores['chance_uar']))} %"],
        level_with_best(scores),
    )
    if level:
        top = best(systems)
        whom = f", {top.title}" if top else ""
        lines += textwrap.wrap(
            f"= the paired test cannot tell it from the best system{whom}", WIDTH
        )
    if any(system.linear for system in systems):
        lines.append("* linear baseline")
    if any(system.transductive for system in systems):
        lines.append("~ transductive: its prediction for a clip depends on the other test clips")
    if any(far_below(system, systems, level) for system in systems):
        lines.append(
            "! its whole interval lies below the best linear baseline on the same encoders"
        )
    if caution := (scores.get("interval") or {}).get("caution"):
        lines += textwrap.wrap(f"Intervals: {caution}", WIDTH)
    for failure in scores.get("failures") or ():
        lines += textwrap.wrap(str(failure["sentence"]), WIDTH)
    return lines


def _falling(system: SystemScore) -> tuple[bool, float, int, str]:
    """Sort key: highest UAR first; where equal, fewer encoders, then by name."""
    value = system.uar.value
    undefined = math.isnan(value)
    return undefined, 0.0 if undefined else -value, len(system.encoders), system.title


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
