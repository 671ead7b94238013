"""The embeddings of perturbed clips: into the store, and out of it beside the clean ones.

A dataset stays what it is. A perturbed clip has the row of the clip that it was made from, so folds
and labels hold for it; models are trained on clean clips only, and predict the perturbed test clips
beside the clean ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nver.corpora.base import Corpus
from nver.dataset import EmbeddingDataset
from nver.encoders.base import Encoder, EncoderCard
from nver.extraction import Extraction, Progress, extract
from nver.perturbation import Perturbation
from nver.shapes import Embeddings
from nver.store import EmbeddingStore


def extract_perturbed(
    corpus: Corpus,
    encoders: Sequence[Encoder],
    store: EmbeddingStore,
    perturbations: Iterable[Perturbation],
    *,
    files: Collection[str],
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, Extraction]:
    """Fill the store with the embeddings of perturbed clips. Resumes, as `extract` does.

    Parameters
    ----------
    corpus : Corpus
        Where the clips are.
    encoders, store, batch_size
        As in `nver.extraction.extract`.
    perturbations : iterable of Perturbation
        What happens to the clips; every clip goes through each of them alone.
    files : collection of str
        The clips that are perturbed: those that are tested, and that could be encoded clean.
    progress : callable or None
        Called as ``progress("perturbed embeddings", done, all of them)``.

    Returns
    -------
    dict of str to Extraction
        By the perturbation's name.

    Raises
    ------
    StoreError, MissingExtraError, CheckpointError
        As `nver.extraction.extract`.
    """
    chosen, wanted = tuple(perturbations), set(files)
    tested = replace(corpus, clips=tuple(clip for clip in corpus.clips if clip.file in wanted))
    return {
        each.name: extract(
            tested,
            encoders,
            store,
            batch_size=batch_size,
            progress=_part_of(progress, index, len(chosen)),
            perturbation=each,
        )
        for index, each in enumerate(chosen)
    }


def _part_of(progress: Progress | None, index: int, parts: int) -> Progress | None:
    """Return a progress that counts one of several equal parts."""
    if progress is None:
        return None
    return lambda what, done, total: progress(
        f"perturbed {what}", index * total + done, parts * total
    )


def gather_perturbed(
    dataset: EmbeddingDataset,
    cards: Sequence[EncoderCard],
    store: EmbeddingStore,
    extraction: Extraction,
) -> Embeddings:
    """Read the embeddings of one perturbation, aligned with a dataset.

    Parameters
    ----------
    dataset : EmbeddingDataset
        The clean clips.
    cards : sequence of EncoderCard
        The encoders, in the order of the dataset's views.
    store : EmbeddingStore
        Where they are.
    extraction : Extraction
        Of this perturbation, as `extract_perturbed` returned it.

    Returns
    -------
    float32 [clips, dim]
        Row i is the perturbed clip i, columns as in ``dataset.X``; NaN where there is none: it was
        not asked for, or could not be perturbed or encoded.

    Raises
    ------
    StoreError
        If the store lacks an embedding.
    """
    keys: Mapping[str, str] = extraction.digests
    present = np.array([file in keys for file in dataset.files])
    X = np.full_like(dataset.X, np.nan)
    wanted = [keys[file] for file in dataset.files if file in keys]
    for card in cards if wanted else ():
        X[present, dataset.views[card.name]] = store.open(card).get(wanted)
    return X
