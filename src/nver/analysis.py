"""From the record of a run to scores.json: everything that is derived from the predictions.

Only files of the run folder are read, so a score that is thought of next year works on last year's
runs, and the same folder gives the same bytes. Parts that a run did not record (no facts of the
clips, no inner predictions, nothing perturbed) are None.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pandas as pd

from nver.comparison import THOROUGH, Effort, comparisons
from nver.confidence import ERROR_RATE, calibration
from nver.disaggregation import disaggregated
from nver.errors import EvaluationError, UnfinishedRunError
from nver.predictions import Predictions
from nver.robustness import robustness
from nver.scores import scores

SCORES = "scores.json"
PREDICTIONS, RUN = "predictions.parquet", "run.json"
CLIPS, INNER, PERTURBED = "clips.parquet", "inner.parquet", "perturbed.parquet"


def analyse(
    folder: Path | str,
    *,
    alpha: float = 0.05,
    error_rate: float = ERROR_RATE,
    effort: Effort = THOROUGH,
) -> dict[str, Any]:
    """Return the content of scores.json.

    Parameters
    ----------
    folder : path
        A run folder with predictions.parquet and run.json; clips.parquet, inner.parquet and
        perturbed.parquet are used where they are.
    alpha : float
        Error rate of the comparisons, in (0, 1); intervals have the level 1 - alpha.
    error_rate : float
        Of prediction sets, in (0, 1).
    effort : Effort
        How much is drawn.

    Returns
    -------
    dict
        Of `nver.scores.scores`, and the sections ``comparisons`` (`nver.comparison`),
        ``disaggregated`` (`nver.disaggregation`), ``calibration`` (`nver.confidence`) and
        ``robustness`` (`nver.robustness`). Plain JSON values; an undefined one is None with its
        reason.

    Raises
    ------
    EvaluationError
        If the folder is no run, or a file of the record is none.
    """
    folder = Path(folder)
    corpus, protocol = _about(folder)
    predictions = Predictions.from_parquet(folder / PREDICTIONS)
    told = scores(
        predictions,
        corpus=corpus,
        folds=protocol,
        k=int(predictions.frame["fold"].nunique()),
        level=1 - alpha,
        resamples=effort.resamples,
        seed=effort.seed,
    )
    inner = folder / INNER
    return told | {
        "comparisons": comparisons(predictions, alpha=alpha, effort=effort),
        "disaggregated": disaggregated(
            predictions, _table(folder / CLIPS), seed=effort.seed, level=1 - alpha
        ),
        "calibration": calibration(
            predictions, inner if inner.is_file() else None, alpha=error_rate
        ),
        "robustness": robustness(
            predictions,
            _table(folder / PERTURBED),
            resamples=effort.resamples,
            seed=effort.seed,
            level=1 - alpha,
        ),
    }


def rescore(folder: Path | str, **options: Any) -> dict[str, Any]:
    """Analyse a run folder, and write what was found to its scores.json, whole or not at all.

    Arguments, result and errors as of `analyse`.
    """
    folder = Path(folder)
    told = analyse(folder, **options)
    text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    draft = folder / f".{SCORES}.{uuid.uuid4().hex}"
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / SCORES)
    finally:
        draft.unlink(missing_ok=True)
    return told


def _about(folder: Path) -> tuple[str, str]:
    """Return the corpus and the protocol that run.json names."""
    path = folder / RUN
    if not path.is_file():
        raise UnfinishedRunError(folder, [RUN])
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return str(run["corpus"]["name"]), str(run["settings"]["folds"])
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"'{path}' is not what nver writes ({type(error).__name__}: {error}). "
            "Run `nver evaluate` again, into an empty folder."
        ) from error


def _table(path: Path) -> pd.DataFrame | None:
    """Return a table of the record; None where the run has none."""
    import pyarrow as pa

    if not path.is_file():
        return None
    try:
        return pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise EvaluationError(
            f"'{path}' cannot be read ({type(error).__name__}). "
            "Run `nver evaluate` again, into an empty folder."
        ) from error
