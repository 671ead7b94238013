"""What a run found beside its scores, for a terminal: calibration, perturbed clips, tuning.

One paragraph for each of ``--calibrate``, ``--perturb`` and ``--tune`` that was asked for, of the
best system that has an answer. The page has the other systems.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nver.report.statement import counted
from nver.report.tables import WIDTH, SystemScore, best, duration, percent, ranked
from nver.report.trust import VOID, all_hold_all
from nver.report.verdicts import key, number

Entries = Sequence[Mapping[str, Any]]


def findings(scores: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return the paragraphs, at most 100 columns wide; "" where none of the three was asked for.

    Parameters
    ----------
    scores, run : mapping
        The content of scores.json and of run.json.
    """
    settings, systems = run["settings"], ranked(scores)
    told = []
    if settings.get("calibrate"):
        told.append(_calibrated(systems, scores.get("calibration") or ()))
    if settings.get("perturb"):
        told.append(_perturbed(systems, scores.get("robustness") or ()))
    if settings.get("tune") is not None:
        told.append(_tuned(systems, scores, run.get("tuning") or ()))
    return "\n".join(line for text in told for line in textwrap.wrap(text, WIDTH))


def _calibrated(systems: Sequence[SystemScore], entries: Entries) -> str:
    top, found = _of_best(systems, [entry for entry in entries if entry.get("raw")])
    if top is None:
        return "Calibration: no system has probabilities that could be judged."
    (entry,) = found
    said = (
        f"Calibration of {top.title}: its probabilities are off by "
        f"{percent(number(entry['raw'].get('ece')))} points on average (ECE"
    )
    if not math.isnan(chance := number(entry["raw"].get("ece_by_chance"))):
        said += f"; perfect calibration would show about {percent(chance)} by chance"
    said += ")"
    if scaled := entry.get("scaled"):
        said += f", after temperature scaling by {percent(number(scaled.get('ece')))}"
    said += "."
    if sets := entry.get("conformal"):
        ends = [number((sets.get("interval") or {}).get(end)) for end in ("low", "high")]
        between = "" if any(map(math.isnan, ends)) else f" [{', '.join(map(percent, ends))}]"
        said += (
            f" Prediction sets that were asked to hold the true label for "
            f"{100 * (1 - number(sets.get('alpha'))):g} % of the clips hold it for "
            f"{percent(number(sets.get('coverage')))} %{between}, with "
            f"{number(sets.get('mean_size')):.1f} labels on average."
        )
        if all_hold_all(sets):
            said += f" {VOID}"
    reasons = (entry.get("scaled_reason"), entry.get("conformal_reason"))
    return " ".join([said, *dict.fromkeys(str(reason) for reason in reasons if reason)])


def _perturbed(systems: Sequence[SystemScore], entries: Entries) -> str:
    top, found = _of_best(systems, [entry for entry in entries if entry.get("sentence")])
    if top is None:
        return "Perturbed clips: no system has a score on them."
    return f"Perturbed clips, {top.title}. {found[0]['sentence']}"


def _tuned(systems: Sequence[SystemScore], scores: Mapping[str, Any], entries: Entries) -> str:
    top, found = _of_best(systems, entries)
    if top is None:
        return "Tuning: none of these systems has settings to choose."
    searched = [entry for entry in found if entry["chosen"] or entry.get("layers")]
    changed = [entry for entry in searched if not _kept(entry)]
    said = (
        f"Tuning, {top.title}: settings were chosen in {len(changed)} of "
        f"{counted(len(found), 'fold')}"
    )
    if not searched:
        return f"{said}; the training parts cannot be divided. It was trained as it is."
    if changed:
        spans = ", ".join(_spans([entry["chosen"] for entry in changed]))
        said += f" ({spans})" if spans else ""
    if kept := len(searched) - len(changed):
        said += f"; in {kept} none of those tried was better than the untuned ones"
    said += (
        f". Inside the training parts the UAR is {_mean(searched, 'uar')} %, that of the untuned "
        f"settings {_mean(searched, 'default_uar')} %: both are optimistic, for the settings were "
        "chosen by it."
    )
    said += "".join(_layers([entry.get("layers") or {} for entry in searched]))
    entry = next(one for one in scores["systems"] if key(one) == top.key)
    if (spent := number(entry.get("search_seconds"))) > 0:
        said += f" Of its {duration(top.seconds)} the search took {duration(spent)}."
    return said


def _kept(entry: Mapping[str, Any]) -> bool:
    """Return whether a fold kept the untuned settings: they are tried first, and win a tie."""
    return number(entry.get("uar")) == number(entry.get("default_uar"))


def _layers(layers: Sequence[Mapping[str, int]]) -> Iterator[str]:
    """Yield a sentence for each encoder of which one layer was chosen."""
    for encoder in layers[0]:
        counts = sorted(Counter(one[encoder] for one in layers).items())
        often = ", ".join(f"{layer} in {counted(times, 'fold')}" for layer, times in counts)
        yield f" Layer of {encoder}: {often}."


def _spans(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    return [_span(name, [number(one.get(name)) for one in settings]) for name in settings[0]]


def _of_best(
    systems: Sequence[SystemScore], entries: Entries
) -> tuple[SystemScore | None, list[Mapping[str, Any]]]:
    """Return the best of the systems that have entries, and its entries."""
    having = {key(entry) for entry in entries}
    top = best([system for system in systems if system.key in having])
    return top, [entry for entry in entries if top is not None and key(entry) == top.key]


def _span(name: str, values: Sequence[float]) -> str:
    """Return a setting with its values over the folds.

    >>> _span("learning_rate", [0.00101, 0.000312]), _span("width", [1.0])
    ('learning rate 0.00031 to 0.001', 'width 1')
    """
    ends = dict.fromkeys(f"{value:.2g}" for value in (min(values), max(values)))
    return f"{name.replace('_', ' ')} {' to '.join(ends)}"


def _mean(entries: Entries, name: str) -> str:
    return percent(sum(number(entry.get(name)) for entry in entries) / len(entries))
