"""Which of two systems is better on the same clips, and whether that could be chance.

Two systems are compared on exactly the clips that both have answered, speaker by speaker: the
difference of their scores with its interval, a permutation test, an effect size, and how small a
difference could have been seen (`nver.significance`). In a table every system stands against the
best one, with a correction that allows for how the best one was chosen; against one that was named
beforehand Holm's correction for their number is enough.

When a difference counts as distinguishable, and how it is said, is in `nver.verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nver.errors import EvaluationError
from nver.metrics import METRICS
from nver.pairing import Pair, paired
from nver.predictions import ONE_SEED, Predictions, SystemEntry
from nver.significance import (
    Interval,
    cohens_g,
    confidence_set,
    holm,
    mcnemar,
    paired_difference,
    paired_differences,
    permutation_test,
    plural,
    standardised_difference,
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
HOLM = "Holm"
STEP_DOWN = "step-down max-T"
CHOSEN = (
    "the reference was chosen because it scored best on these clips, so its lead over the others "
    "is more likely too large than too small, which the corrected p allows for"
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
    cautions += [ONE_SEED] if difference.seeds == 1 and not (one.linear and other.linear) else []
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


def corrected(pairs: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Return comparisons that were named beforehand with Holm's correction for their number."""
    p = holm(np.array([pair.test.p for pair in pairs], dtype=np.float64))
    tests = int((~np.isnan(p)).sum())
    return tuple(_within(pair, float(one), tests) for pair, one in zip(pairs, p, strict=True))


def _within(pair: Comparison, p_corrected: float, tests: int) -> Comparison:
    least, caution = min(1.0, max(1, tests) * pair.least_p), pair.caution
    if pair.least_p <= pair.alpha < least:
        few = (
            f"with {pair.difference.clusters} {plural(pair.difference.unit)} and {tests} tests no "
            f"corrected p can be below {least:.2g}"
        )
        caution = "; ".join(filter(None, (caution, few)))
    return replace(pair, p_corrected=p_corrected, least_p=least, caution=caution)


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
        Whether it is the reference because it scored `best`: then the correction allows for that,
        and `CHOSEN` is a caution. Else it is Holm's.
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
    return _against_the_best(predictions, pairs, effort) if chosen and pairs else corrected(pairs)


def _against_the_best(
    predictions: Predictions, pairs: Sequence[Comparison], effort: Effort
) -> tuple[Comparison, ...]:
    entries = [pairs[0].first, *(pair.second for pair in pairs)]
    found = confidence_set(
        [predictions.confusions(entry) for entry in entries],
        METRICS["uar"],
        reference=0,
        rivals=np.array([_alone(entry) for entry in entries]),
        n=effort.swaps,
        seed=effort.seed,
    )
    return tuple(
        replace(
            pair,
            p_corrected=float(p),
            caution="; ".join(filter(None, (pair.caution, CHOSEN))),
        )
        for pair, p in zip(pairs, found.p[1:], strict=True)
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
