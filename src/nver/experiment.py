"""The straight line: encode, gather, split, cross-validate, report.

A run folder is the result. It holds the record (predictions.parquet, and beside it clips.parquet,
curves.parquet, plans.parquet), what is derived from it (scores.json, projection.parquet, figures,
report.html), where it comes from (run.json), what could not be used (failures.csv), and the
finished trainings, so that a run that was stopped goes on.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nver import provenance, recipes
from nver.config import Settings
from nver.encoding import Encoding, encode, gather, gather_perturbed, perturb
from nver.errors import SettingsError
from nver.extraction import Failure
from nver.home import home
from nver.perturbation import choose
from nver.progress import Progress
from nver.protocols import COLUMN, PUBLISHED
from nver.published import published_on
from nver.registry import unknown

if TYPE_CHECKING:
    import pandas as pd

    from nver.cross_validation import SystemRun
    from nver.dataset import EmbeddingDataset
    from nver.identity import IdentityBaseline
    from nver.leakage import LeakageReport
    from nver.predictions import Predictions
    from nver.splits import Fold

TRAININGS = "trainings"
"""Folder in the run folder; deleting it costs time, nothing else."""

MAPS = "maps"
"""Folder in NVER_HOME: a map depends on embeddings and labels alone, and serves every run."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, what scores.json and run.json say, and what to tell the user."""

    folder: Path
    report: Path
    scores: dict[str, Any]
    origin: dict[str, Any]
    warnings: tuple[str, ...]
    failed: int
    """Clips."""

    @property
    def systems_failed(self) -> tuple[str, ...]:
        """A sentence for each system that failed: what, where and why."""
        return tuple(failure["sentence"] for failure in self.scores["failures"])


@dataclass(frozen=True)
class Split:
    """The folds of a run, what the leakage check found, and what codes without sound reach."""

    protocol: str
    folds: tuple[Fold, ...]
    leakage: LeakageReport
    identity: IdentityBaseline


def split(dataset: EmbeddingDataset, settings: Settings) -> Split:
    """Make the folds and check them for leaks, before anything is trained.

    Raises
    ------
    SplitError
        If the folds do not exist for this corpus.
    LeakageError
        If audio, or in a speaker-independent protocol a speaker, stands on both sides of a fold.
    """
    from nver.identity import identity_baseline
    from nver.leakage import check_leakage
    from nver.splits import make_folds

    protocol = settings.folds or ("random" if dataset.speakers is None else "speaker")
    column = _fold_column(dataset, protocol)
    folds = make_folds(
        protocol,
        dataset.y,
        dataset.speakers,
        k=settings.k,
        column=column,
        digests=dataset.digests,
    )
    leakage = check_leakage(
        folds,
        dataset.speakers,
        dataset.digests,
        dataset.thumbprints,
        dataset.files,
        dataset.y,
        dataset.seconds,
    )
    leakage.raise_if_leaking(protocol, allow_leak=settings.allow_leak)
    identity = identity_baseline(folds, dataset.y, dataset.speakers, dataset.columns)
    return Split(protocol, folds, leakage, identity)


def _fold_column(dataset: EmbeddingDataset, protocol: str) -> np.ndarray | None:
    """Return the column that a protocol makes its folds of; None where there is none."""
    if protocol == PUBLISHED:
        return dataset.columns.get(dataset.published_split)
    if not protocol.startswith(COLUMN):
        return None
    name = protocol.removeprefix(COLUMN)
    if name not in dataset.columns:
        raise unknown("column", name, dataset.columns)
    return dataset.columns[name]


def plan(settings: Settings, encoders: Sequence[str]) -> tuple[SystemRun, ...]:
    """Return what is compared: single systems on each encoder, fusions on all of them.

    With ``settings.pairs`` the fusions run on every pair as well.

    Parameters
    ----------
    settings : Settings
        Its ``systems`` and ``pairs`` are used.
    encoders : sequence of str
        Names of the dataset's views.

    Raises
    ------
    UnknownNameError
        If a system is in no table.
    SettingsError
        If nothing is left to run: only fusions are asked for and there is one encoder.
    """
    from nver.cross_validation import SystemRun
    from nver.systems import SYSTEMS, get_system

    specs = [get_system(name) for name in settings.systems or SYSTEMS]
    groups = [tuple(encoders)] if len(encoders) > 1 else []
    if settings.pairs and len(encoders) > 2:
        groups = [*combinations(encoders, 2), *groups]
    runs = [
        SystemRun(spec.name, group)
        for spec in specs
        for group in (groups if spec.kind == "fusion" else [(name,) for name in encoders])
    ]
    if not runs:
        raise SettingsError(
            f"{', '.join(spec.name for spec in specs)} fuses at least two encoders, got "
            f"{', '.join(encoders)} alone. Add another -e ENCODER."
        )
    return tuple(runs)


def evaluate(settings: Settings, out: str | Path, progress: Progress | None = None) -> Run:
    """Run the whole main job and leave its result in a folder.

    Parameters
    ----------
    settings : Settings
        What to do.
    out : path
        The run folder; made if missing. The files of an earlier run in it are replaced. Finished
        trainings are kept in its folder ``trainings``, and not done again.
    progress : callable or None
        Called as ``progress(what, done, total)``.

    Raises
    ------
    NverError
        Of the corpus, an encoder, the folds, a leak or a setting: in one sentence each, before
        anything is trained.
    """
    from nver.analysis import rescore
    from nver.cross_validation import calibration_folds, check_device, cross_validate
    from nver.maps import maps
    from nver.record import clips
    from nver.report import write_report
    from nver.tuning import check_tuning

    started, clock = datetime.now(timezone.utc), time.monotonic()
    folder = _run_folder(Path(out))
    plan(settings, [choice.name for choice in settings.choices])
    check_device(settings.device)
    if settings.tune is not None:
        check_tuning(settings.tune)
    choose(settings.perturb)
    encoding = encode(settings, progress)
    dataset = gather(encoding)
    division = split(dataset, settings)
    asked = division.folds if settings.calibrate else ()
    inner, uncalibrated = calibration_folds(dataset, asked)
    tested = np.unique(np.concatenate([fold.test for fold in division.folds]))
    encoding = perturb(encoding, [dataset.files[row] for row in tested], settings, progress)
    predictions = cross_validate(
        dataset,
        plan(settings, tuple(dataset.views)),
        division.folds,
        seeds=range(settings.seeds),
        jobs=settings.jobs,
        device=settings.device,
        progress=progress,
        systems=recipes.table(settings.recipe),
        saved=folder / TRAININGS,
        tune=settings.tune,
        inner=inner,
        perturbed=gather_perturbed(encoding, dataset),
    )
    charts = maps(dataset, home() / MAPS, settings.jobs, progress)
    warnings = _warnings(encoding, division, predictions) + uncalibrated
    origin = _origin(settings, encoding, division) | {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 1),
        "warnings": list(warnings),
        "tuning": [tuning.to_dict() for tuning in predictions.tunings],
    }
    paths = {clip.file: clip.path for clip in encoding.corpus.clips}
    tables = {"projection": charts, "clips": clips(dataset, paths), **predictions.tables}
    # Everything is computed: only now may the files of an earlier run be replaced.
    _write_record(folder, encoding, predictions, tables, origin)
    told = rescore(folder)
    return Run(folder, write_report(folder), told, origin, warnings, len(encoding.failures))


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write the clips that could not be used as CSV: file, stage, reason."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "stage", "reason"))
        writer.writerows((failure.file, failure.stage, failure.reason) for failure in failures)


def _write_record(
    folder: Path,
    encoding: Encoding,
    predictions: Predictions,
    tables: dict[str, Any],
    origin: dict[str, Any],
) -> None:
    """Write what the scores and the page are derived from."""
    folder.mkdir(parents=True, exist_ok=True)
    write_failures(folder / "failures.csv", encoding.failures)
    predictions.to_parquet(folder / "predictions.parquet")
    _write_tables(folder, tables)
    _write_json(folder / "run.json", origin)


def _run_folder(folder: Path) -> Path:
    """Return the folder; refuse one that holds something else than a run."""
    if folder.is_file():
        raise SettingsError(f"Expected a folder for the results, '{folder}' is a file.")
    own = {"failures.csv", "run.json", "predictions.parquet", TRAININGS}
    entries = folder.iterdir() if folder.is_dir() else ()
    present = {entry.name for entry in entries if not entry.name.startswith(".")}
    if present and not present & own:
        raise SettingsError(
            f"'{folder}' holds files that are no run ({min(present)}). Choose an empty or a new "
            "folder with --out."
        )
    return folder


def _origin(settings: Settings, encoding: Encoding, division: Split) -> dict[str, Any]:
    """Return where a run's numbers come from, as plain JSON values."""
    from nver.systems import SYSTEMS, get_system

    corpus = encoding.corpus
    specs = [get_system(name) for name in dict.fromkeys((*SYSTEMS, *settings.systems))]
    done = encoding.extraction
    listing = "".join(f"{file} {digest}\n" for file, digest in done.digests.items())
    return {
        "nver": provenance.versions()["nver"],
        "libraries": provenance.versions(),
        "command": provenance.command(),
        "hardware": provenance.hardware(),
        "settings": settings.to_dict() | {"folds": division.protocol},
        "corpus": corpus.card.to_dict() | corpus.describe(),
        "corpus_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "encoders": [
            encoder.card.to_dict() | {"fingerprint": encoder.card.fingerprint}
            for encoder in encoding.encoders
        ],
        "systems": [
            {"name": spec.name, "kind": spec.kind, "summary": spec.summary}
            | ({"code": spec.code} if spec.code else {})
            for spec in specs
        ],
        "leakage": division.leakage.to_dict(),
        "identity": division.identity.to_dict(),
        # Figures on one subset say nothing about another.
        "published": published_on(corpus.name) if corpus.subset == corpus.card.subsets[0] else [],
        "extraction": {
            "encoded": done.encoded,
            "reused": done.reused,
            "seconds": round(done.seconds, 1),
            "failures": len(encoding.failures),
            "perturbed": {
                name: {"encoded": run.encoded, "reused": run.reused}
                for name, run in encoding.perturbed.items()
            },
        },
    }


def _warnings(encoding: Encoding, division: Split, predictions: Predictions) -> tuple[str, ...]:
    """Return what a reader of the scores must know, a sentence each."""
    found = [encoding.corpus.card.warning, *encoding.corpus.notes, *division.leakage.sentences()]
    if division.identity.alarm:
        found.append(division.identity.sentence())
    found += [failure.sentence() for failure in predictions.failures]
    found += [note.sentence() for note in predictions.notes]
    return tuple(dict.fromkeys(sentence for sentence in found if sentence))


def _write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the tables of this run, and remove those that an earlier one had and this has not."""
    for name, table in tables.items():
        with _whole(folder / f"{name}.parquet") as part:
            table.to_parquet(part, index=False)
    for name in {"inner", "perturbed"} - set(tables):
        (folder / f"{name}.parquet").unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _whole(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` when it is written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield part
        os.replace(part, path)  # noqa: PTH105 - replaces atomically on every system
    finally:
        part.unlink(missing_ok=True)
