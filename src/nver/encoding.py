"""From a corpus to a dataset: clips, and perturbed ones, are encoded and gathered."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nver.config import EncoderChoice, Settings
from nver.corpora import Corpus, load_corpus
from nver.encoders import Encoder
from nver.errors import EncoderError, SettingsError
from nver.extraction import Extraction, Failure, blame, extract
from nver.perturbation import choose
from nver.progress import Progress
from nver.shapes import Embeddings
from nver.store import EmbeddingStore

if TYPE_CHECKING:
    from nver.dataset import EmbeddingDataset


@dataclass(frozen=True)
class Encoding:
    """A corpus whose embeddings are in the store; those of perturbed clips by the name of each."""

    corpus: Corpus
    encoders: tuple[Encoder, ...]
    store: EmbeddingStore
    extraction: Extraction
    perturbed: Mapping[str, Extraction] = field(default_factory=dict)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every clip that cannot be used: refused by the corpus, or failed while encoding.

        A clip that failed under a perturbation only is used without that perturbation.
        """
        refused = (Failure(r.file, "corpus", r.reason) for r in self.corpus.refused)
        runs = (self.extraction, *self.perturbed.values())
        return (*refused, *(failure for run in runs for failure in run.failures))

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


def encode(settings: Settings, progress: Progress | None = None) -> Encoding:
    """Load the corpus and the encoders, and fill the store.

    Raises
    ------
    CorpusError, UnknownNameError, MissingExtraError, StoreError
    EncoderError
        If an encoder cannot be built, or every clip that could be read fails in the same one.
    """
    corpus = load_corpus(
        settings.corpus, settings.root, subset=settings.subset, label_column=settings.label_column
    )
    encoders = tuple(choice.load() for choice in settings.choices)
    for name in (encoder.card.name for encoder in encoders):
        if "+" in name:  # the record joins the encoders of a fusion with it
            raise SettingsError(f"An encoder's name holds no '+', got '{name}'. Use alias=OTHER.")
    store = EmbeddingStore()
    extraction = extract(corpus, encoders, store, batch_size=settings.batch_size, progress=progress)
    for choice, encoder in zip(settings.choices, encoders, strict=True):
        _refuse_useless(choice, encoder.card.name, extraction)
    return Encoding(corpus, encoders, store, extraction)


def _refuse_useless(choice: EncoderChoice, name: str, extraction: Extraction) -> None:
    """Raise where an encoder fails on every clip: then it is to be mended, and not the clips."""
    heard = [failure for failure in extraction.failures if failure.stage == "encode"]
    theirs = blame(name)
    if extraction.digests or not heard:
        return
    if all(failure.reason.startswith(theirs) for failure in heard):
        first = heard[0]
        raise EncoderError(
            f"Encoder '{choice}' fails on every clip: {len(heard)} tried; the first, {first.file}: "
            f"{first.reason.removeprefix(theirs).rstrip('.')}. Check it: "
            f"nver encoders --check {shlex.quote(str(choice))}"
        )


def gather(encoding: Encoding) -> EmbeddingDataset:
    """Read the embeddings of an encoded corpus into one dataset."""
    from nver.dataset import EmbeddingDataset

    cards = [encoder.card for encoder in encoding.encoders]
    return EmbeddingDataset.gather(encoding.corpus, cards, encoding.store, encoding.extraction)


def perturb(
    encoding: Encoding, files: Sequence[str], settings: Settings, progress: Progress | None = None
) -> Encoding:
    """Encode clips once more for each of ``settings.perturb``; only clips that are tested need it.

    Raises
    ------
    UnknownNameError, SettingsError, MissingExtraError, StoreError
    """
    from nver.perturbed import extract_perturbed

    found = extract_perturbed(
        encoding.corpus,
        encoding.encoders,
        encoding.store,
        choose(settings.perturb),
        files=files,
        batch_size=settings.batch_size,
        progress=progress,
    )
    return replace(encoding, perturbed=found)


def gather_perturbed(encoding: Encoding, dataset: EmbeddingDataset) -> dict[str, Embeddings]:
    """Return X of every perturbation, aligned with the dataset; NaN where a clip has none."""
    from nver import perturbed

    cards = [encoder.card for encoder in encoding.encoders]
    return {
        name: perturbed.gather_perturbed(dataset, cards, encoding.store, extraction)
        for name, extraction in encoding.perturbed.items()
    }


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
