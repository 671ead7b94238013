"""How far a system's own probabilities can be trusted, and what it gives up when it may abstain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from nver.report.charts import SHARE, Axis, Line, line_chart
from nver.report.record import RunRecord
from nver.report.tables import SystemScore, percent
from nver.report.verdicts import key, number

COVERAGES = (0.8, 0.5, 0.2)
VOID = "They hold every label, so these sets say nothing."
REASONS = {"scaled_reason": "temperature scaling", "conformal_reason": "prediction sets"}


@dataclass(frozen=True, eq=False)
class Trust:
    """The calibration of one system, ready to print.

    Parameters
    ----------
    system : SystemScore
        Whose it is.
    raw, scaled : tuple of str
        ECE in percent, Brier score, log-loss; `scaled` is empty without temperature scaling.
    chance : float
        The ECE, in [0, 1], that a perfectly calibrated system would show on as many clips; NaN
        where that is not known.
    temperature : str
        Mean over folds, a bound where a fold's is at the limit of its range; "" without.
    accuracies : tuple of str
        In percent, of the 80, 50 and 20 % of clips that the system is surest of.
    sets : str
        What the conformal sets say, as a sentence; "" without.
    missing : str
        Why there is no temperature or no sets; "" where both are there.
    sizes : list of (size, clips, share of the longest bar)
        How many clips got a set of each size.
    reliability, coverage : Markup
        Charts.
    """

    system: SystemScore
    raw: tuple[str, str, str]
    scaled: tuple[str, ...]
    chance: float
    temperature: str
    accuracies: tuple[str, ...]
    sets: str
    missing: str
    set_size: str
    sizes: list[tuple[int, int, float]]
    reliability: Markup
    coverage: Markup


def trusts(record: RunRecord) -> list[Trust]:
    """Return the calibration of every system that has one, best first."""
    entries = {key(entry): entry for entry in record.scores.get("calibration") or ()}
    found = [(system, entries.get(system.key, {})) for system in record.systems]
    return [_trust(system, entry) for system, entry in found if entry.get("raw")]


def by_chance(found: Sequence[Trust]) -> str:
    """Return what of the ECE is chance, as a sentence; "" where that is not known."""
    known = [trust.chance for trust in found if not math.isnan(trust.chance)]
    if not known:
        return ""
    low, high = percent(min(known)), percent(max(known))
    points = low if low == high else f"{low} to {high}"
    return f"Of the ECE, about {points} points are chance: perfect calibration would show as much."


def _trust(system: SystemScore, entry: Mapping[str, Any]) -> Trust:
    scaled = entry.get("scaled")
    conformal = entry.get("conformal")
    curve = [(number(p["coverage"]), number(p["accuracy"])) for p in entry.get("coverage") or ()]
    curve = [point for point in curve if not any(map(math.isnan, point))]
    return Trust(
        system,
        _numbers(entry["raw"]),
        _numbers(scaled) if scaled else (),
        number(entry["raw"].get("ece_by_chance")),
        _temperature(scaled) if scaled else "",
        tuple(percent(accuracy_at(curve, share)) for share in COVERAGES) if curve else (),
        _sets(conformal) if conformal else "",
        _missing(entry),
        f"{number(conformal.get('mean_size')):.1f}" if conformal else "",
        _sizes(conformal.get("size_counts") or ()) if conformal else [],
        _reliability(system, entry["raw"], scaled),
        _coverage(system, curve),
    )


def _temperature(scaled: Mapping[str, Any]) -> str:
    """Return the mean temperature, as a bound where that of a fold is at the limit of its range."""
    value = number(scaled.get("temperature"))
    bound = "" if not scaled.get("at_limit") else "\u2265 " if value > 1 else "\u2264 "
    return f"{bound}{value:.2f}"


def _missing(entry: Mapping[str, Any]) -> str:
    """Return what is not here, and why; what lacks for the same reason is named together."""
    lacking: dict[str, list[str]] = {}
    for name, what in REASONS.items():
        if reason := entry.get(name):
            lacking.setdefault(str(reason), []).append(what)
    return " ".join(f"No {' and no '.join(what)}. {why}" for why, what in lacking.items())


def _numbers(scored: Mapping[str, Any]) -> tuple[str, str, str]:
    brier, loss = (number(scored.get(name)) for name in ("brier", "log_loss"))
    plain = ["-" if math.isnan(value) else f"{value:.3f}" for value in (brier, loss)]
    return percent(number(scored.get("ece"))), plain[0], plain[1]


def accuracy_at(curve: Sequence[tuple[float, float]], share: float) -> float:
    """Return the accuracy at the coverage nearest to a share; NaN without a curve."""
    return min(curve, key=lambda point: abs(point[0] - share))[1] if curve else math.nan


def _sets(conformal: Mapping[str, Any]) -> str:
    asked = 100 * (1 - number(conformal.get("alpha")))
    reached, ends = conformal.get("coverage"), conformal.get("interval") or {}
    low, high = number(ends.get("low")), number(ends.get("high"))
    interval = "" if math.isnan(low) else f" (interval {percent(low)} to {percent(high)})"
    void = f" {VOID}" if all_hold_all(conformal) else ""
    return (
        f"Asked to hold the true label for {asked:g} % of the clips, the sets hold it for "
        f"{percent(number(reached))} %{interval}. They name "
        f"{number(conformal.get('mean_size')):.1f} labels on average; "
        f"{percent(number(conformal.get('singletons')))} % of them name one label alone, "
        f"{percent(number(conformal.get('empty')))} % none.{void}"
    )


def all_hold_all(conformal: Mapping[str, Any]) -> bool:
    """Return whether every set holds every label, which keeps any promise."""
    *smaller, full = conformal.get("size_counts") or (0,)
    return full > 0 and not any(smaller)


def _sizes(counts: Sequence[int]) -> list[tuple[int, int, float]]:
    most = max([*counts, 1])
    return [(size, int(count), round(100 * count / most, 1)) for size, count in enumerate(counts)]


def _reliability(
    system: SystemScore, raw: Mapping[str, Any], scaled: Mapping[str, Any] | None
) -> Markup:
    lines = [Line("ideal", "ideal", [(0.0, 0.0), (1.0, 1.0)])]
    for scored, name, look in ((raw, "as trained", "first"), (scaled, "scaled", "second")):
        if scored:
            lines.append(_bins(scored.get("reliability") or (), name, look))
    alt = f"Reliability of {system.title}: accuracy against confidence."
    x, y = Axis("confidence (%)", 0, 1, SHARE), Axis("accuracy (%)", 0, 1, SHARE)
    return line_chart(lines, x, y, alt, width=300, height=280)


def _bins(bins: Sequence[Mapping[str, Any]], name: str, look: str) -> Line:
    held = [
        (number(b["confidence"]), number(b["accuracy"]), number(b["n"])) for b in bins if b.get("n")
    ]
    held = [one for one in held if not any(map(math.isnan, one))]
    most = max([n for _, _, n in held], default=1.0)
    dots = [round(2 + 4 * math.sqrt(n / most), 1) for _, _, n in held]
    return Line(name, look, [(x, y) for x, y, _ in held], dots=dots)


def _coverage(system: SystemScore, curve: Sequence[tuple[float, float]]) -> Markup:
    alt = f"Accuracy of {system.title} on the clips that it is surest of, by their share."
    x, y = Axis("clips that are answered (%)", 0, 1, SHARE), Axis("accuracy (%)", 0, 1, SHARE)
    return line_chart([Line("", "first", sorted(curve))], x, y, alt, width=300, height=280)
