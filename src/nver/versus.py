"""What `nver compare` says: which systems of one run or of two differ on the same clips.

The tests are those of `nver.comparison`; here systems are picked by name and the results printed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nver.comparison import STEP_DOWN, against, best, between, compare
from nver.errors import SettingsError, UnfinishedRunError
from nver.metrics import METRICS
from nver.predictions import Predictions, SystemEntry
from nver.registry import unknown
from nver.verdict import Comparison, p_text

WIDTH = 100
NAME_WIDTH = 46

SAME_RECORD = "both runs hold the same predictions"


@dataclass(frozen=True)
class Versus:
    """Comparisons of one command, corrected together.

    Parameters
    ----------
    folders : tuple of Path
        The run, and the other one where two are compared.
    pairs : tuple of Comparison
        Each with its corrected p.
    """

    folders: tuple[Path, ...]
    pairs: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "runs": [str(folder) for folder in self.folders],
            "correction": next((pair.correction for pair in self.pairs if pair.correction), None),
            "pairs": [pair.to_dict() for pair in self.pairs],
        }

    def text(self) -> str:
        """Return the table for a terminal, at most 100 columns wide, with what it means."""
        if len(self.pairs) == 1:
            pair = self.pairs[0]
            return "\n".join([*_wrapped(pair.sentence()), *_cautions([pair.caution])])
        firsts = {pair.first for pair in self.pairs}
        metric = METRICS[self.pairs[0].metric].title
        lines = []
        if len(firsts) == 1:
            pair = self.pairs[0]
            lines += [f"{_called(pair.first)}, {metric} {_percent(pair.scores[0])} %, against:", ""]
        lines.append(
            f"  {'':<{NAME_WIDTH}}{metric + ' %':>6}{'difference [interval]':>25}"
            f"{'p':>8}{'p corr.':>10}"
        )
        named = len(firsts) > 1
        for pair in self.pairs if named else sorted(self.pairs, key=_falling):
            lines += _row(pair, named=named)
        lines += ["", *_wrapped(self._told())]
        return "\n".join([*lines, *_cautions([pair.caution for pair in self.pairs])])

    def _told(self) -> str:
        alike = sum(not pair.distinguishable for pair in self.pairs)
        smallest = [pair.detectable for pair in self.pairs if not math.isnan(pair.detectable)]
        said = (
            f"Difference in points, the first minus the second, with its {self._level()} % interval"
            f"; = marks the {alike} of {len(self.pairs)} that are not distinguishable after "
            f"{STEP_DOWN} correction."
        )
        if any(pair.at_odds for pair in self.pairs):
            said += (
                f" It takes both to tell two apart: a corrected p of at most "
                f"{self.pairs[0].alpha:g}, and an interval that leaves out zero."
            )
        if not smallest:
            return said
        return (
            f"{said} A single test on these clips would show a difference of about "
            f"{100 * float(np.median(smallest)):.1f} points in four of five cases."
        )

    def _level(self) -> int:
        return round(100 * self.pairs[0].difference.level)


def versus(folder: Path, other: Path | None = None, picked: Sequence[str] = ()) -> Versus:
    """Compare systems of one run, or of two.

    Parameters
    ----------
    folder, other : Path
        Run folders; without `other` both systems are of `folder`.
    picked : sequence of str
        None, one or two systems, each ``SYSTEM`` or ``SYSTEM@ENCODER+ENCODER``. Two are compared
        with each other, the second being of `other` if that is given. One is compared with every
        other system of its run, or with itself in `other`. Without any the best system takes its
        place; in two runs the best of each are compared, then every system that both have.

    Raises
    ------
    SettingsError
        If more than two are picked, a name fits several systems, or there is nothing to compare.
    UnknownNameError
        If a run has no such system.
    UnfinishedRunError
        If a folder holds no predictions.
    EvaluationError
        If the runs are not of the same clips.
    """
    if len(picked) > 2:
        raise SettingsError(f"Expected at most two systems (-s), got {len(picked)}.")
    first = _read(folder)
    if other is not None:
        return Versus((folder, other), _of_two(first, folder, _read(other), other, picked))
    if len(picked) == 2:
        one, two = (find(first, text, folder) for text in picked)
        if one == two:
            raise SettingsError(
                f"Expected two systems, got {one.called} twice. Pick another one with -s, or name "
                "a second run."
            )
        return Versus((folder,), (compare(first, one, first, two),))
    reference = find(first, picked[0], folder) if picked else _best(first, folder)
    pairs = against(first, reference, chosen=not picked)
    if not pairs:
        raise SettingsError(f"'{folder}' has one system: there is nothing to compare it with.")
    return Versus((folder,), pairs)


def _of_two(
    first: Predictions, folder: Path, second: Predictions, other: Path, picked: Sequence[str]
) -> tuple[Comparison, ...]:
    pairs: tuple[Comparison, ...]
    if picked:
        one, two = find(first, picked[0], folder), find(second, picked[-1], other)
        pairs = (compare(first, one, second, two),)
    else:
        pairs = between(first, second, _counterparts(first, second, folder, other))
    if not first.frame.equals(second.frame):
        return pairs
    return tuple(
        replace(pair, caution="; ".join(filter(None, (SAME_RECORD, pair.caution))))
        for pair in pairs
    )


def find(predictions: Predictions, text: str, folder: Path) -> SystemEntry:
    """Return the system that ``SYSTEM[@ENCODER+...]`` names; the encoders may stand in any order.

    `folder` is the run's, for messages.

    Raises
    ------
    UnknownNameError
        If there is none.
    SettingsError
        If there are several.
    """
    name, _, listed = text.partition("@")
    named = [entry for entry in predictions.entries if entry.name == name]
    if not named:
        raise unknown(f"system of '{folder}'", name, {entry.name for entry in predictions.entries})
    wanted = sorted(listed.split("+"))
    found = [entry for entry in named if not listed or sorted(entry.encoders) == wanted]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{entry.name}@{entry.joined}" for entry in named)
    problem = "fits several systems" if found else "is no system"
    raise SettingsError(f"'{text}' {problem} of '{folder}'. Choose one of: {known}.")


def _read(folder: Path) -> Predictions:
    if not folder.is_dir():
        raise SettingsError(f"'{folder}' is no run folder: there is no such folder.")
    if not (folder / "predictions.parquet").is_file() and (folder / "index.html").is_file():
        inner = sorted(path.parent.name for path in folder.glob("*/predictions.parquet"))
        raise SettingsError(f"'{folder}' holds several runs, name one: {', '.join(inner)}.")
    if not (folder / "predictions.parquet").is_file():
        raise UnfinishedRunError(folder, ["predictions.parquet"])
    return Predictions.from_parquet(folder / "predictions.parquet")


def _best(predictions: Predictions, folder: Path) -> SystemEntry:
    found = best(predictions)
    if found is None:
        raise SettingsError(f"No system of '{folder}' has a score to compare. Pick two with -s.")
    return found


def _counterparts(
    first: Predictions, second: Predictions, folder: Path, other: Path
) -> list[tuple[SystemEntry, SystemEntry]]:
    """Return the best of each, then every system that both runs have."""
    theirs = {(entry.name, entry.joined): entry for entry in second.entries}
    same = [
        (entry, theirs[entry.name, entry.joined])
        for entry in first.entries
        if (entry.name, entry.joined) in theirs
    ]
    return list(dict.fromkeys([(_best(first, folder), _best(second, other)), *same]))


def _row(pair: Comparison, *, named: bool) -> list[str]:
    mark = " " if pair.distinguishable else "="
    difference = pair.difference
    ends = ""
    if not math.isnan(difference.low):
        ends = f" [{_signed(difference.low)}, {_signed(difference.high)}]"
    told = f"{_signed(difference.value)}{ends}"
    p, corrected = (p_text(each, pair.alpha) for each in (pair.test.p, pair.p_corrected))
    figures = f"{_percent(pair.scores[1]):>6}{told:>25}{p:>8}{corrected:>10}"
    name = _called(pair.second)
    if named:
        other = "the same" if name == _called(pair.first) else name
        name = f"{_called(pair.first)} {_percent(pair.scores[0])}, against {other}"
    if len(name) < NAME_WIDTH:
        return [f"{mark} {name:<{NAME_WIDTH}}{figures}"]
    wrapped = textwrap.wrap(name, WIDTH - 4, subsequent_indent="    ")
    return [f"{mark} {wrapped[0]}", *wrapped[1:], f"  {'':<{NAME_WIDTH}}{figures}"]


def _falling(pair: Comparison) -> float:
    return math.inf if math.isnan(pair.scores[1]) else -pair.scores[1]


def _cautions(given: Sequence[str]) -> list[str]:
    said = dict.fromkeys(part for text in given for part in text.split("; ") if part)
    return [line for part in said for line in _wrapped(f"Note: {part}.")]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)


def _called(entry: SystemEntry) -> str:
    return f"{entry.name} ({' + '.join(entry.encoders)})"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    """Return a difference in points; what rounds to zero has no sign."""
    points = round(100 * value, 1)
    return f"{points:+.1f}" if points else "0.0"
