"""Which of two systems is better on the same clips, and whether that could be chance.

Two systems are compared on exactly the clips that both have answered, speaker by speaker: the
difference of their scores with its interval, a permutation test, an effect size, and how small a
difference could have been seen (`nver.significance`). In a table every system stands against the
best one, with a correction that allows for how the best one was chosen; or against one that was
named beforehand, with the same correction but for that. Both allow for lucky trainings.

When a difference counts as distinguishable, and how it is said, is in `nver.verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from nver.errors import EvaluationError
from nver.metrics import METRICS
from nver.pairing import Pair, paired
from nver.predictions import Predictions, SystemEntry, few_seeds
from nver.significance import (
    Interval,
    cohens_g,
    confidence_set,
    mcnemar,
    paired_difference,
    paired_differences,
    permutation_test,
    plural,
    standardised_difference,
    step_down,
)
from nver.verdict import Comparison


@dataclass(frozen=True)
class Effort:
    """How much is drawn: resamples of the interval, random swaps of the test, and their seed."""

    resamples: int = 2000
    swaps: int = 9999
    seed: int = 0


THOROUGH = Effort()
METHOD = (
    "permutation test that swaps the two systems' answers for whole {units}; for the corrected p "
    "in all pairs of systems at once, so that it allows for the choice of the best (a model "
    "confidence set), and with the variance of the seeds; interval of the pair alone by paired "
    "bootstrap over {units}, with the variance of the seeds; told apart where the corrected p is "
    "at most {alpha:g} and the interval leaves out zero"
)
STEP_DOWN = "step-down max-T"
CHOSEN = (
    "the reference was chosen because it scored best on these clips, so its lead over the others "
    "is more likely too large than too small, which the corrected p allows for"
)
CHOSEN_PAIR = (
    "the best of each run was chosen because it scored best on these clips, for which the "
    "corrected p of that pair allows, but not its difference and its interval"
)


def compare(
    first: Predictions,
    one: SystemEntry,
    second: Predictions,
    other: SystemEntry,
    *,
    metric: str = "uar",
    alpha: float = 0.05,
    effort: Effort = THOROUGH,
) -> Comparison:
    """Compare a system of one record with a system of the same or of another record.

    Parameters
    ----------
    first, second : Predictions
        The records; the same object for two systems of one run.
    one, other : SystemEntry
        The system of the first, and of the second.
    metric : str
        A key of `nver.metrics.METRICS`.
    alpha : float
        Error rate, in (0, 1); the interval has the level 1 - alpha.
    effort : Effort
        How much is drawn.

    Raises
    ------
    EvaluationError
        If the records are not of the same clips with the same labels.

    Notes
    -----
    Records with other folds can be compared, with a caution: then the systems differ in what they
    were trained on as well.
    """
    if metric not in METRICS:
        raise EvaluationError(f"Expected one of the metrics {', '.join(METRICS)}, got '{metric}'.")
    pair = paired(first, one, second, other)
    difference = paired_difference(
        *pair.confusions,
        METRICS[metric],
        n=effort.resamples,
        seed=effort.seed,
        level=1 - alpha,
        unit=pair.unit,
    )
    return _comparison(one, other, metric, pair, difference, effort)


def _comparison(
    one: SystemEntry,
    other: SystemEntry,
    metric: str,
    pair: Pair,
    difference: Interval,
    effort: Effort,
) -> Comparison:
    measure, alpha = METRICS[metric], round(1 - difference.level, 12)
    a, b = pair.confusions
    test = permutation_test(a, b, measure, n=effort.swaps, seed=effort.seed)
    single = mcnemar(*pair.right) if pair.right else None
    effect = standardised_difference(a, b, measure) if single is None else cohens_g(single)
    least = _least(difference.clusters, effort.swaps)
    cautions = [pair.caution, difference.caution, _coarse(difference, least, alpha)]
    cautions += [few_seeds(difference.seeds, (one, other))]
    scores = [float(measure(side.sum(axis=0)).mean()) for side in (a, b)]
    return Comparison(
        one,
        other,
        metric,
        (scores[0], scores[1]),
        difference,
        test,
        test.p,
        effect,
        f"d_z over {plural(pair.unit)}" if single is None else "Cohen's g",
        single,
        alpha,
        "; ".join(text for text in cautions if text),
        least,
    )


def best(predictions: Predictions) -> SystemEntry | None:
    """Return the system with the highest UAR of those that judge a clip by itself.

    The ``-transductive`` ones look at other test clips. None where no system has a UAR.
    """
    answers = predictions.answers
    scored = [
        (float(METRICS["uar"](answers.confusions(entry.key).sum(axis=0)).mean()), entry)
        for entry in predictions.entries
        if _alone(entry)
    ]
    defined = [(value, entry) for value, entry in scored if not math.isnan(value)]
    return max(defined, key=lambda pair: pair[0])[1] if defined else None


def against(
    predictions: Predictions,
    reference: SystemEntry,
    *,
    chosen: bool = False,
    alpha: float = 0.05,
    effort: Effort = THOROUGH,
) -> tuple[Comparison, ...]:
    """Compare a system with every other of its record, corrected over the table.

    Parameters
    ----------
    predictions : Predictions
        The record.
    reference : SystemEntry
        The first of every pair.
    chosen : bool
        Whether it is the reference because it scored `best`: then the correction allows for that
        as well as for the number of systems, and `CHOSEN` is a caution.
    alpha, effort
        As in `compare`.
    """
    others = [entry for entry in predictions.entries if entry != reference]
    couples = [paired(predictions, reference, predictions, entry) for entry in others]
    differences = paired_differences(
        predictions.confusions(reference),
        [couple.confusions[1] for couple in couples],
        METRICS["uar"],
        n=effort.resamples,
        seed=effort.seed,
        level=1 - alpha,
        unit=predictions.unit(),
    )
    pairs = [
        _comparison(reference, entry, "uar", couple, difference, effort)
        for entry, couple, difference in zip(others, couples, differences, strict=True)
    ]
    entries = [reference, *others]
    found = confidence_set(
        [predictions.confusions(entry) for entry in entries],
        METRICS["uar"],
        reference=0,
        rivals=np.array([chosen and _alone(entry) for entry in entries]),
        n=effort.swaps,
        seed=effort.seed,
    )
    return _corrected(pairs, found.p[1:], CHOSEN if chosen else "")


def between(
    first: Predictions,
    second: Predictions,
    couples: Sequence[tuple[SystemEntry, SystemEntry]],
    *,
    alpha: float = 0.05,
    effort: Effort = THOROUGH,
) -> tuple[Comparison, ...]:
    """Compare the best systems of two records, and others in pairs, corrected over the table.

    Parameters
    ----------
    first, second : Predictions
        The records.
    couples : sequence of two SystemEntry
        Of the first record and of the second. The first couple are the `best` of each, for whose
        choice its correction allows; the others were named beforehand, and are corrected for their
        number.
    alpha, effort
        As in `compare`.

    Raises
    ------
    EvaluationError
        As in `compare`, for every system of either record.

    Notes
    -----
    These are two questions, each with its own error rate: which record has the better best, and
    what became of each system. Of the bests, the one that scored higher could have been any system
    of its record, and the first question allows for all of them. The other scored at least as well
    as the truly best of its record, which only makes the lead smaller.
    """
    pairs = [compare(first, a, second, b, alpha=alpha, effort=effort) for a, b in couples]
    alone = [[entry for entry in each.entries if _alone(entry)] for each in (first, second)]
    chosen = max(map(len, alone)) > 1
    if len(pairs) == 1 and not chosen:
        return tuple(pairs)
    one, two = couples[0]
    rivals = [(entry, two) for entry in alone[0]]
    if pairs[0].difference.value < 0:
        rivals = [(one, entry) for entry in alone[1]]
    tables = _together(first, second)
    p = [
        step_down(
            tables,
            METRICS["uar"],
            [_places(first, second, couple) for couple in judged],
            beside=[_places(first, second, couple) for couple in others],
            n=effort.swaps,
            seed=effort.seed,
        )
        for judged, others in ((couples[:1], rivals), (couples[1:], rivals[:0]))
    ]
    of_the_best = _corrected(pairs[:1], p[0], CHOSEN_PAIR if chosen else "")
    return of_the_best + _corrected(pairs[1:], p[1])


def _together(first: Predictions, second: Predictions) -> list[np.ndarray]:
    """Return the counts of every system of two records, over the same clusters."""
    ours, theirs = first.entries, second.entries
    sides = zip(cycle(ours), cycle(theirs), strict=False)
    pairs = [
        paired(first, one, second, two) for one, two in islice(sides, max(len(ours), len(theirs)))
    ]
    tables = [pair.confusions[0] for pair in pairs[: len(ours)]]
    return tables + [pair.confusions[1] for pair in pairs[: len(theirs)]]


def _places(
    first: Predictions, second: Predictions, couple: tuple[SystemEntry, SystemEntry]
) -> tuple[int, int]:
    one, two = couple
    return first.entries.index(one), len(first.entries) + second.entries.index(two)


def _corrected(
    pairs: Sequence[Comparison], p: np.ndarray, caution: str = ""
) -> tuple[Comparison, ...]:
    return tuple(
        replace(
            pair,
            # Of other random swaps: without the maximum it could lie a little below p itself.
            p_corrected=float(np.maximum(each, pair.test.p)),
            correction=STEP_DOWN,
            caution="; ".join(filter(None, (pair.caution, caution))),
        )
        for pair, each in zip(pairs, p, strict=True)
    )


def _alone(entry: SystemEntry) -> bool:
    """Return whether a system judges a clip by itself, so that it may be called best."""
    return not entry.name.endswith("-transductive")


def comparisons(
    predictions: Predictions, *, alpha: float = 0.05, effort: Effort = THOROUGH
) -> dict[str, Any] | None:
    """Return the section ``comparisons`` of scores.json: every system against the best.

    None where no system has a score. Arguments as in `against`.
    """
    reference = best(predictions)
    if reference is None:
        return None
    pairs = against(predictions, reference, chosen=True, alpha=alpha, effort=effort)
    smallest = [pair.detectable for pair in pairs if not math.isnan(pair.detectable)]
    cautions = dict.fromkeys(text for pair in pairs for text in pair.caution.split("; ") if text)
    return {
        "metric": "uar",
        "method": METHOD.format(units=plural(predictions.unit()), alpha=alpha),
        "alpha": alpha,
        "correction": STEP_DOWN,
        "reference": {"name": reference.name, "encoders": list(reference.encoders)},
        # The pairs' errors differ, since similar systems err on the same clips: the middle one.
        "detectable": float(np.median(smallest)) if smallest else None,
        "pairs": [
            {"name": pair.second.name, "encoders": list(pair.second.encoders)} | pair.outcome()
            for pair in pairs
        ],
        "caution": "; ".join(cautions),
    }


def _least(clusters: int, swaps: int) -> float:
    """Return the smallest p that the permutation test can give."""
    return max(2.0 ** (1 - clusters), 1.0 / (swaps + 1))


def _coarse(interval: Interval, least: float, alpha: float) -> str:
    """Return a caution where no difference at all could be significant."""
    if least <= alpha:
        return ""
    return f"with {interval.clusters} {plural(interval.unit)} no p can be below {least:.3g}"
