"""The straight line: encode, gather, split, cross-validate, report.

A run folder is the result. It holds the record (predictions.parquet), what is derived from it
(scores.json, projection.parquet, figures, report.html), where it comes from (run.json), and what
could not be used (failures.csv).
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nver import provenance
from nver.config import Settings
from nver.corpora import Corpus, load_corpus
from nver.encoders import Encoder
from nver.errors import NverError, SettingsError
from nver.extraction import Extraction, Failure, extract
from nver.store import EmbeddingStore

if TYPE_CHECKING:
    import pandas

    from nver.cross_validation import Predictions, SystemRun
    from nver.dataset import EmbeddingDataset
    from nver.splits import Fold, LeakageReport

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Encoding:
    """A corpus whose embeddings are in the store."""

    corpus: Corpus
    encoders: tuple[Encoder, ...]
    store: EmbeddingStore
    extraction: Extraction

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every clip that cannot be used: refused by the corpus, or failed while encoding."""
        refused = tuple(Failure(r.file, "corpus", r.reason) for r in self.corpus.refused)
        return refused + self.extraction.failures

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return {
            "corpus": self.corpus.name,
            "clips": len(self.corpus.clips),
            "encoders": [encoder.card.to_dict() for encoder in self.encoders],
            "encoded": self.extraction.encoded,
            "reused": self.extraction.reused,
            "seconds": round(self.extraction.seconds, 3),
            "failures": [asdict(failure) for failure in self.failures],
        }

    def sentence(self) -> str:
        """Return what was done, in one line."""
        done = self.extraction
        return (
            f"{self.corpus.name}: {len(self.corpus.clips)} clips; {done.encoded} embeddings made, "
            f"{done.reused} found in the store, in {done.seconds:.1f} s."
        )


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its scores and what to tell the user."""

    folder: Path
    report: Path
    scores: dict[str, Any]
    warnings: tuple[str, ...]
    failed: int


def encode(settings: Settings, progress: Progress | None = None) -> Encoding:
    """Load the corpus and the encoders, and fill the store.

    Raises
    ------
    CorpusError, EncoderError, UnknownNameError, MissingExtraError, StoreError
    """
    corpus = load_corpus(
        settings.corpus, settings.root, subset=settings.subset, label_column=settings.label_column
    )
    encoders = tuple(choice.load() for choice in settings.choices)
    store = EmbeddingStore()
    extraction = extract(corpus, encoders, store, batch_size=settings.batch_size, progress=progress)
    return Encoding(corpus, encoders, store, extraction)


def gather(encoding: Encoding) -> EmbeddingDataset:
    """Read the embeddings of an encoded corpus into one dataset."""
    from nver.dataset import EmbeddingDataset

    cards = [encoder.card for encoder in encoding.encoders]
    return EmbeddingDataset.gather(encoding.corpus, cards, encoding.store, encoding.extraction)


def embed(
    corpus: str | Path, encoders: Sequence[str], progress: Progress | None = None, **settings: Any
) -> EmbeddingDataset:
    """Encode a corpus and return its embeddings.

    Parameters
    ----------
    corpus : str or path
        A name from the table, a folder, or a manifest.
    encoders : sequence of str
        As on the command line: ``NAME[=CHECKPOINT][,KEY=VALUE...]``.
    **settings
        Other fields of `Settings` (root, subset, label_column, batch_size).

    Returns
    -------
    EmbeddingDataset
        Without the clips that failed.
    """
    return gather(encode(Settings(str(corpus), tuple(encoders), **settings), progress))


@dataclass(frozen=True)
class Split:
    """The folds of a run, and what the leakage check found."""

    protocol: str
    folds: tuple[Fold, ...]
    leakage: LeakageReport
    warnings: tuple[str, ...]


def split(dataset: EmbeddingDataset, settings: Settings) -> Split:
    """Make the folds and check them for leaks, before anything is trained.

    Raises
    ------
    SplitError
        If the folds do not exist for this corpus.
    LeakageError
        If audio, or in a speaker-independent protocol a speaker, stands on both sides of a fold.
    """
    from nver.splits import check_leakage, make_folds

    raise NotImplementedError


def plan(settings: Settings, encoders: Sequence[str]) -> tuple[SystemRun, ...]:
    """Return what is compared: single systems on each encoder, fusions on all of them.

    With ``settings.pairs`` the fusions run on every pair as well.

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
    if settings.pairs:
        groups = [*combinations(encoders, 2), *groups] if len(encoders) > 2 else groups
    runs = [
        SystemRun(spec.name, group)
        for spec in specs
        for group in (groups if spec.kind == "fusion" else [(name,) for name in encoders])
    ]
    if not runs:
        raise SettingsError(
            f"A fusion ({', '.join(spec.name for spec in specs)}) needs at least two encoders, "
            f"got {', '.join(encoders)}. Add another -e ENCODER."
        )
    return tuple(runs)


def evaluate(settings: Settings, out: str | Path, progress: Progress | None = None) -> Run:
    """Run the whole main job and leave its result in a folder.

    Parameters
    ----------
    settings : Settings
        What to do.
    out : path
        The run folder; made if missing. An earlier run in it is kept under ``earlier/``.
    progress : callable or None
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Run

    Raises
    ------
    CorpusError, EncoderError, SplitError, LeakageError, SettingsError, UnknownNameError
        In one sentence each, before anything is trained.
    """
    from nver.cross_validation import cross_validate
    from nver.report import write_report

    started, clock = datetime.now(timezone.utc), time.monotonic()
    folder = _run_folder(Path(out))
    runs = plan(settings, [choice.name for choice in settings.choices])
    encoding = encode(settings, progress)
    dataset = gather(encoding)
    division = split(dataset, settings)
