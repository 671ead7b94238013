"""How much worse the same models do on perturbed test clips: the drop, clip for clip.

Models are trained on clean clips. Each test clip is predicted as it is and under each perturbation
by the same trained model, so the two scores are of the same clips, models and seeds, and their
difference is paired: speakers are drawn together for both, and the variance of the seeds is that of
the difference. A clip that failed under a perturbation is left out on both sides.

The intervals are not corrected for the number of perturbations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nver.answers import Answers, Key, code
from nver.errors import EvaluationError, NverError
from nver.metrics import METRICS
from nver.perturbation import perturbation
from nver.predictions import COLUMNS, Predictions, SystemEntry
from nver.significance import Interval, cluster_bootstrap, paired_difference

PERTURBATION = "perturbation"
"""The column of perturbed.parquet beside those of the predictions."""

_UAR = METRICS["uar"]


def robustness(
    predictions: Predictions,
    perturbed: pd.DataFrame | None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> list[dict[str, Any]] | None:
    """Return the section ``robustness`` of scores.json.

    Parameters
    ----------
    predictions : Predictions
        Of the clips as they are.
    perturbed : DataFrame or None
        The columns of `nver.predictions.COLUMNS` and `PERTURBATION`: what the same models said of
        perturbed clips. None, or no rows, where nothing was perturbed.
    resamples, seed, level
        Of `nver.significance.cluster_bootstrap`.

    Returns
    -------
    list of dict, or None
        None where nothing was perturbed. Otherwise one entry per system that was tested on
        perturbed clips, in the order of the predictions: ``name``, ``encoders``, ``clean`` (UAR of
        all clips), ``perturbations`` and ``sentence``. Each perturbation, in the order in which it
        was asked for, has ``name``, ``title``, ``n_clips``, ``uar`` and ``drop``. The drop is the
        clean UAR of these clips minus the perturbed one, in [-1, 1]; positive is worse. Undefined
        values are None with their ``reason``.

    Raises
    ------
    EvaluationError
        If a column is missing, or a perturbed clip has no clean prediction by the same model.

    Notes
    -----
    UAR is the mean over classes of the recall (Schuller et al. 2009, Interspeech); intervals as in
    `nver.significance.intervals`.
    """
    if perturbed is None or perturbed.empty:
        return None
    missing = [name for name in (*COLUMNS, PERTURBATION) if name not in perturbed.columns]
    if missing:
        raise EvaluationError(f"Perturbed predictions lack the columns {', '.join(missing)}.")
    drawn = {"n": resamples, "seed": seed, "level": level, "unit": predictions.answers.unit}
    parts = {
        str(name): code(rows, predictions.labels)
        for name, rows in perturbed.groupby(PERTURBATION, sort=False)
    }
    return [
        _system(predictions, entry, parts, drawn)
        for entry in predictions.entries
        if any(entry.key in answers.systems for answers in parts.values())
    ]


def _system(
    predictions: Predictions,
    entry: SystemEntry,
    parts: Mapping[str, Answers],
    drawn: Mapping[str, Any],
) -> dict[str, Any]:
    rows, drops = [], dict[str, tuple[Interval, Interval]]()
    for name, answers in parts.items():
        if entry.key not in answers.systems:
            continue
        before, after = _paired(predictions.answers, answers, entry.key)
        uar = cluster_bootstrap(after, _UAR, **drawn)
        drop = paired_difference(before, after, _UAR, same_seeds=True, **drawn)
        title = _title(name)
        drops[title] = uar, drop
        about = {"name": name, "title": title, "n_clips": _asked(answers, entry.key)}
        rows.append({**about, "uar": uar.to_dict(), "drop": drop.to_dict()})
    whole = cluster_bootstrap(predictions.confusions(entry), _UAR, **drawn)
    return {
        "name": entry.name,
        "encoders": list(entry.encoders),
        "clean": whole.to_dict(),
        "perturbations": rows,
        "sentence": _sentence(drops),
    }


def _asked(answers: Answers, key: Key) -> int:
    return int((answers.systems[key].given >= 0).any(axis=0).sum())


def _paired(clean: Answers, perturbed: Answers, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Return one system's counts of the same clips, as they are and perturbed."""
    asked = (perturbed.systems[key].given >= 0).any(axis=0)
    only = clean.clips["file"].isin(perturbed.clips["file"].to_numpy()[asked]).to_numpy()
    known = key in clean.systems and np.array_equal(
        clean.systems[key].seeds, perturbed.systems[key].seeds
    )
    if not known or only.sum() != asked.sum():
        raise EvaluationError(
            f"Expected the predictions of perturbed clips by '{key[0]}' on {key[1]} to be of the "
            "clips and seeds of its other predictions, they are not. Run `nver evaluate` again."
        )
    return clean.confusions(key, only), perturbed.confusions(key)


def _title(name: str) -> str:
    """Return what a table calls a perturbation; its name if this version no longer knows it."""
    try:
        return perturbation(name).title
    except NverError:
        return name


def _sentence(drops: Mapping[str, tuple[Interval, Interval]]) -> str:
    """Name the largest drop, and say whether its interval leaves out zero."""
    known = {title: pair for title, pair in drops.items() if not math.isnan(pair[1].value)}
    if not known:
        return ""
    title, (uar, drop) = max(known.items(), key=lambda item: item[1][1].value)
    if drop.value <= 0:
        return "No perturbation lowers the UAR."
    found = (
        f"Largest drop: {title}, UAR {100 * uar.value:.1f} %, {100 * drop.value:.1f} points less "
        "than clean"
    )
    if math.isnan(drop.low):
        return f"{found}."
    ends = f"{100 * drop.level:g} % interval {100 * drop.low:.1f} to {100 * drop.high:.1f}"
    doubt = "" if drop.low > 0 else ", so it may be chance"
    return f"{found} ({ends}{doubt})."
