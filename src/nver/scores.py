"""The scores of every system, with their intervals, from the record alone.

Scores are computed from the predictions, never stored beside them, so a score that is thought of
next year works on last year's runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nver.metrics import METRICS, per_class
from nver.predictions import Predictions, SystemEntry, few_seeds
from nver.significance import Interval, cluster_bootstraps


def scores(
    predictions: Predictions,
    *,
    corpus: str,
    folds: str,
    k: int,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the content of scores.json: every system's scores with their intervals.

    With several seeds a score is the mean over seeds; the interval is of that mean, over speakers,
    who bring the predictions of all seeds with them. Per-class scores come from the counts of all
    seeds together.

    Parameters
    ----------
    predictions : Predictions
        The record.
    corpus, folds : str
        Name of the corpus and of the protocol.
    k : int
        Number of folds.
    level, resamples, seed
        Of `nver.significance.cluster_bootstraps`.

    Returns
    -------
    dict
        Plain JSON values; an undefined score is None with its ``reason``. Scores are in [0, 1].
    """
    frame = predictions.frame
    clips = frame.drop_duplicates("file")
    counts = [predictions.confusions(entry) for entry in predictions.entries]
    drawn = {
        name: cluster_bootstraps(
            counts, metric, n=resamples, seed=seed, level=level, unit=predictions.unit()
        )
        for name, metric in METRICS.items()
    }
    systems = [
        _system_scores(entry, counts[place], predictions.labels)
        | {name: intervals[place].to_dict() for name, intervals in drawn.items()}
        for place, entry in enumerate(predictions.entries)
    ]
    interval = max(drawn["uar"], key=lambda one: one.seeds, default=None)
    return {
        "corpus": corpus,
        "folds": folds,
        "k": k,
        "n_clips": len(clips),
        "n_speakers": int(clips["speaker"].nunique()),
        "labels": list(predictions.labels),
        "chance_uar": 1.0 / max(1, clips["label"].nunique()),  # recalls of classes that occur
        "interval": None
        if interval is None
        else _about(interval, resamples, few_seeds(interval.seeds, predictions.entries)),
        "systems": systems,
        "failures": [failure.to_dict() for failure in predictions.failures],
        "notes": [note.sentence() for note in predictions.notes],
    }


def _system_scores(
    entry: SystemEntry, counts: np.ndarray, labels: tuple[str, ...]
) -> dict[str, Any]:
    seeds = counts.shape[1]
    # Divided by the seeds, the support of a class is its number of clips; the shares do not change.
    pooled = per_class(counts.sum(axis=(0, 1)) / seeds, labels)
    return {
        "name": entry.name,
        "encoders": list(entry.encoders),
        **dict.fromkeys(METRICS),
        "per_class": pooled.to_dict(),
        "seconds": round(entry.seconds, 3),
        "search_seconds": round(entry.search_seconds, 3),
        "n_seeds": seeds,
    }


def _about(interval: Interval, resamples: int, few: str) -> dict[str, Any]:
    return {
        "level": interval.level,
        "method": "expanded percentile bootstrap, with the variance of the seeds",
        "resamples": resamples,
        "unit": interval.unit,
        "clusters": interval.clusters,
        "seeds": interval.seeds,
        "caution": "; ".join(text for text in (interval.caution, few) if text),
    }
