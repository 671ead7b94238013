"""The tables of a run, made of what its trainings returned, and of what the corpus says.

Beside the predictions there are: ``clips``, what is known of each clip; ``curves``, how the loss of
each network fell; ``plans``, which clips an example batch of each transporting system coupled;
``inner``, predictions of the clips of each training part by models that did not see them, for
calibration; ``perturbed``, what the same models make of perturbed test clips.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nver.dataset import EmbeddingDataset
from nver.jobs import ExamplePlans, Job, Outcome, SystemRun
from nver.predictions import Predictions, SystemEntry, SystemNote, SystemTuning
from nver.schedule import Ledger
from nver.tuning import Choice, Search

CLIP_COLUMNS = ("clip", "file", "path", "label", "speaker", "seconds")
"""Columns of ``clips`` before the corpus's other facts; a fact of such a name is ``fact_NAME``."""

CURVE_COLUMNS = {
    "system": "str",
    "encoders": "str",
    "seed": "int64",
    "fold": "str",
    "epoch": "int64",
    "training_loss": "float64",
    "validation_loss": "float64",
}
PLAN_COLUMNS = {
    "system": "str",
    "encoders": "str",
    "fold": "str",
    "seed": "int64",
    "source": "str",
    "target": "str",
    "source_file": "str",
    "target_file": "str",
    "source_label": "str",
    "target_label": "str",
    "mass": "float32",
}


def clips(dataset: EmbeddingDataset, paths: Mapping[str, Path]) -> pd.DataFrame:
    """Return what is known of each clip, one row per clip in the dataset's order.

    Parameters
    ----------
    dataset : EmbeddingDataset
    paths : mapping of str to Path
        File to where it lies; they are made absolute.

    Returns
    -------
    DataFrame
        `CLIP_COLUMNS`, then the corpus's facts as float64 (numbers, NaN where missing) or text
        (None where missing).
    """
    speakers = dataset.speakers
    known = range(len(dataset))
    table: dict[str, Any] = {
        "clip": list(dataset.digests),
        "file": list(dataset.files),
        "path": [str(paths[file].absolute()) for file in dataset.files],
        "label": dataset.y.tolist(),
        "speaker": [None if speakers is None else _text(speakers[row]) for row in known],
        "seconds": np.full(len(dataset), np.nan) if dataset.seconds is None else dataset.seconds,
    }
    for name, values in dataset.columns.items():
        table[f"fact_{name}" if name in CLIP_COLUMNS else name] = _fact(values.tolist())
    return pd.DataFrame(table)


def _fact(values: Sequence[Any]) -> Any:
    """Return a column of numbers where all values are numbers, else of text."""
    if all(value is None or isinstance(value, (int, float)) for value in values):
        return np.array([np.nan if value is None else value for value in values], dtype=float)
    return [_text(value) for value in values]


def record(
    dataset: EmbeddingDataset,
    runs: Sequence[SystemRun],
    ledger: Ledger[Job, Outcome],
    searches: Ledger[Search, Choice] | None,
    systems: Any,
) -> Predictions:
    """Return the record, ordered by run, rule, seed, fold and clip.

    Its ``tables`` are "curves" and "plans"; where they were asked for, "inner" with the predictions
    of the training part of each fold, and "perturbed" with those of perturbed clips.
    """
    made: dict[str, list[pd.DataFrame]] = {"clean": [], "inner": [], "perturbed": []}
    entries: list[SystemEntry] = []
    notes: list[SystemNote] = []
    tunings: list[SystemTuning] = []
    done = [run for run in runs if run not in ledger.failed]
    for run in done:
        spec, finished = systems.get_system(run.name), _outer(ledger.of(run))
        found = [] if searches is None else [choice for _, choice in searches.of(run)]
        searched = math.fsum(choice.elapsed for choice in found)
        tunings += [choice.tuning for choice in found]
        said = Counter(text for _, outcome in finished for text in outcome.notes)
        notes += [SystemNote(run.name, run.encoders, text, n) for text, n in said.items()]
        for rule in spec.rules:
            seconds = searched + math.fsum(outcome.seconds[rule] for _, outcome in finished)
            entry = SystemEntry(spec.reported_as(rule), run.encoders, seconds, searched)
            entries.append(entry)
            for job, outcome in ledger.of(run):
                part = "clean" if job.outer is None else "inner"
                made[part].append(_rows(dataset, entry, job, outcome.probabilities[rule]))
                if rule == spec.rules[0]:
                    made["perturbed"] += _perturbed(dataset, entry, job, outcome)
    trained = _outer(pair for run in done for pair in ledger.of(run))
    asked = {name: made[name] for name in ("inner", "perturbed") if made[name]}
    return Predictions(
        frame=pd.concat(made["clean"], ignore_index=True),
        labels=dataset.labels,
        entries=tuple(entries),
        failures=tuple(ledger.failed[run] for run in runs if run in ledger.failed),
        notes=tuple(notes),
        tunings=tuple(tunings),
        tables={
            "curves": _joined(_curves(trained), CURVE_COLUMNS),
            "plans": _joined(_plans(dataset, trained), PLAN_COLUMNS),
            **{name: pd.concat(parts, ignore_index=True) for name, parts in asked.items()},
        },
    )


def _outer(pairs: Iterable[tuple[Job, Outcome]]) -> list[tuple[Job, Outcome]]:
    """Return those of the grid itself, without those of inner folds."""
    return [pair for pair in pairs if pair[0].outer is None]


def _rows(
    dataset: EmbeddingDataset, entry: SystemEntry, job: Job, probabilities: np.ndarray
) -> pd.DataFrame:
    test = np.sort(job.fold.test).tolist()
    return _predicted(dataset, entry, job, test, probabilities)


def _perturbed(
    dataset: EmbeddingDataset, entry: SystemEntry, job: Job, outcome: Outcome
) -> Iterator[pd.DataFrame]:
    """Yield the rows of each perturbation; those of clips that failed under it are missing."""
    test = np.sort(job.fold.test)
    for name, probabilities in outcome.perturbed.items():
        there = np.isfinite(probabilities).all(axis=1)
        if there.any():
            rows = test[there].tolist()
            part = _predicted(dataset, entry, job, rows, probabilities[there])
            yield part.assign(perturbation=name)


def _predicted(
    dataset: EmbeddingDataset,
    entry: SystemEntry,
    job: Job,
    test: Sequence[int],
    probabilities: np.ndarray,
) -> pd.DataFrame:
    speakers = dataset.speakers
    best = probabilities.argmax(axis=1).tolist()
    columns: dict[str, Any] = {
        "clip": [dataset.digests[row] for row in test],
        "file": [dataset.files[row] for row in test],
        "speaker": [None if speakers is None else _text(speakers[row]) for row in test],
        "label": [str(dataset.y[row]) for row in test],
        "system": entry.name,
        "encoders": entry.joined,
        "seed": job.seed,
        "fold": job.outer or job.fold.name,
        "predicted": [dataset.labels[place] for place in best],
    }
    columns |= {f"p_{label}": probabilities[:, i] for i, label in enumerate(dataset.labels)}
    return pd.DataFrame(columns)


def _place(job: Job) -> dict[str, Any]:
    run = job.run
    encoders = "+".join(run.encoders)
    return {"system": run.name, "encoders": encoders, "seed": job.seed, "fold": job.fold.name}


def _curves(trained: Sequence[tuple[Job, Outcome]]) -> Iterator[pd.DataFrame]:
    for job, outcome in trained:
        if outcome.curve is None:
            continue
        losses = np.array(outcome.curve.training)
        held = np.full(len(losses), np.nan)
        held[: len(outcome.curve.validation)] = outcome.curve.validation
        epochs = np.arange(len(losses))
        columns = {"epoch": epochs, "training_loss": losses, "validation_loss": held}
        yield pd.DataFrame(_place(job) | columns)


def _plans(
    dataset: EmbeddingDataset, trained: Sequence[tuple[Job, Outcome]]
) -> Iterator[pd.DataFrame]:
    for job, outcome in trained:
        if outcome.examples is not None:
            yield from _example(dataset, job, outcome.examples)


def _example(dataset: EmbeddingDataset, job: Job, examples: ExamplePlans) -> Iterator[pd.DataFrame]:
    rows = examples.rows
    files = np.array(dataset.files, dtype=object)[rows]
    labels = dataset.y[rows].astype(object)
    for (source, target), plan in examples.plans.items():
        columns = {
            "source": source,
            "target": target,
            "source_file": np.repeat(files, len(rows)),
            "target_file": np.tile(files, len(rows)),
            "source_label": np.repeat(labels, len(rows)),
            "target_label": np.tile(labels, len(rows)),
            "mass": plan.ravel(),
        }
        yield pd.DataFrame(_place(job) | columns)


def _joined(parts: Iterator[pd.DataFrame], kinds: Mapping[str, str]) -> pd.DataFrame:
    """Return one table with these columns, of these types even where it is empty."""
    found = list(parts)
    if not found:
        columns = {
            name: pd.Series(dtype=object if kind == "str" else kind) for name, kind in kinds.items()
        }
        return pd.DataFrame(columns)
    return pd.concat(found, ignore_index=True)[list(kinds)]


def _text(value: object) -> str | None:
    return None if value is None else str(value)
