"""The embeddings of a corpus, its labels and its speakers in one table, aligned once, here.

Row i of every array is the same clip, for good: arrays are read-only, and everything behind this
point (folds, training, scores) speaks of rows. The columns of ``X`` are cut into views, one per
encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Shaped

from nver.corpora.base import Corpus
from nver.encoders.base import EncoderCard
from nver.errors import EvaluationError
from nver.registry import unknown
from nver.shapes import Embeddings
from nver.store import EmbeddingStore


@runtime_checkable
class Extracted(Protocol):
    """What `nver.extraction.extract` leaves behind, as far as it is needed here."""

    @property
    def digests(self) -> Mapping[str, str]:
        """File to content hash, for the clips that every encoder has encoded."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """File to facts, among them its ``thumbprint`` and ``seconds``."""

    @property
    def failures(self) -> Sequence[Any]:
        """The clips that could not be used, each with ``file`` and ``reason``."""


@dataclass(frozen=True, eq=False)
class EmbeddingDataset:
    """Embedded clips with their labels.

    Parameters
    ----------
    X : float32 [clips, dim]
        Embeddings of all encoders side by side; finite.
    views : mapping of str to slice
        Encoder to its columns of `X`, in order and without gaps.
    y : str [clips]
        The label of each clip.
    speakers : object [clips] or None
        Who is heard, None for an unknown one; None where nobody is known.
    files : tuple of str
        The clips' names within the corpus, each once.
    digests : tuple of str
        Content hash of each clip: equal for identical audio.
    labels : tuple of str
        The classes that occur, at least two, in the corpus's order.
    thumbprints : float32 [clips, bands] or None
        For the search of nearly identical audio.
    seconds : float64 [clips] or None
        Durations.
    columns : mapping of str to object [clips]
        The corpus's other facts; None where a clip lacks one.
    name : str
        Of the corpus.
    published_split : str
        The column of `columns` with the split published with the corpus; "" where there is none.
    layers : mapping of str to int
        Encoder to how many of its layers its view holds, one after the other and equally wide;
        encoders that give one are absent.

    Raises
    ------
    EvaluationError
        If lengths disagree, views do not tile the columns, layers do not tile a view, a value is
        not finite, or there are fewer than two classes.
    """

    X: Float32[np.ndarray, "clips dim"]
    views: Mapping[str, slice]
    y: Shaped[np.ndarray, "clips"]
    speakers: Shaped[np.ndarray, "clips"] | None
    files: tuple[str, ...]
    digests: tuple[str, ...]
    labels: tuple[str, ...]
    thumbprints: Float32[np.ndarray, "clips bands"] | None = None
    seconds: Float64[np.ndarray, "clips"] | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = ""
    published_split: str = ""
    layers: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that everything is aligned, and make it read-only."""
        for problem in self._problems():
            raise EvaluationError(problem)
        for name in ("X", "y", "speakers", "thumbprints", "seconds"):
            array = getattr(self, name)
            object.__setattr__(self, name, None if array is None else _frozen(array))
        columns = {name: _frozen(values) for name, values in self.columns.items()}
        object.__setattr__(self, "columns", columns)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.X)

    @classmethod
    def gather(
        cls,
        corpus: Corpus,
        cards: Sequence[EncoderCard],
        store: EmbeddingStore,
        extraction: Extracted,
    ) -> EmbeddingDataset:
        """Read the embeddings of a corpus from the store.

        Parameters
        ----------
        corpus : Corpus
            Its clips, in its order; those that failed are left out.
        cards : sequence of EncoderCard
            The encoders, in the order of the views; names are unique.
        store : EmbeddingStore
            Where `extraction` has put their embeddings.
        extraction : Extraction
            What `nver.extraction.extract` returned.

        Raises
        ------
        EvaluationError
            If no clip of some class is left, or fewer than two classes are.
        StoreError
            If the store lacks an embedding.
        """
        clips = [clip for clip in corpus.clips if clip.file in extraction.digests]
        y = np.array([clip.emotion for clip in clips], dtype=str)
        _refuse_lost_classes(corpus, set(y.tolist()), extraction)
        digests = tuple(extraction.digests[clip.file] for clip in clips)
        tables = [store.open(card).get(list(digests)) for card in cards]
        speakers = _objects([clip.speaker for clip in clips])
        names = dict.fromkeys(name for clip in clips for name in clip.facts)
        return cls(
            X=np.concatenate(tables, axis=1),
            views=dict(_tiles({card.name: card.dim for card in cards})),
            y=y,
            speakers=None if all(speaker is None for speaker in speakers) else speakers,
            files=tuple(clip.file for clip in clips),
            digests=digests,
            labels=tuple(label for label in corpus.labels if label in set(y.tolist())),
            thumbprints=np.stack([extraction.facts[clip.file].thumbprint for clip in clips]),
            seconds=np.array([extraction.facts[clip.file].seconds for clip in clips], dtype=float),
            columns={name: _objects([clip.facts.get(name) for clip in clips]) for name in names},
            name=corpus.name,
            published_split=corpus.card.published_split,
            layers={card.name: card.layers for card in cards if card.layers > 1},
        )

    def view(self, name: str) -> Embeddings:
        """Return the embeddings [clips, dim] of one encoder.

        Raises
        ------
        UnknownNameError
            If the dataset has no such view.
        """
        if name not in self.views:
            raise unknown("view", name, self.views)
        return self.X[:, self.views[name]]

    def columns_of(self, names: Sequence[str]) -> tuple[Embeddings, dict[str, slice]]:
        """Return X of some encoders only, in the given order, and the views of that X.

        All encoders in their own order share memory with ``X``; anything else is copied.

        Raises
        ------
        UnknownNameError
            If the dataset has no such view.
        """
        parts = [self.view(name) for name in names]
        views = dict(_tiles({name: part.shape[1] for name, part in zip(names, parts, strict=True)}))
        X = self.X if views == dict(self.views) else np.concatenate(parts, axis=1)
        return X, views

    def subset(self, rows: Int[np.ndarray, " n"] | Bool[np.ndarray, " clips"]) -> EmbeddingDataset:
        """Return the dataset of some clips: their indices, or a mask.

        Raises
        ------
        EvaluationError
            If fewer than two classes are left.
        """
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        kept = set(self.y[rows].tolist())
        return EmbeddingDataset(
            X=self.X[rows],
            views=self.views,
            y=self.y[rows],
            speakers=None if self.speakers is None else self.speakers[rows],
            files=tuple(self.files[row] for row in rows),
            digests=tuple(self.digests[row] for row in rows),
            labels=tuple(label for label in self.labels if label in kept),
            thumbprints=None if self.thumbprints is None else self.thumbprints[rows],
            seconds=None if self.seconds is None else self.seconds[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
            name=self.name,
            published_split=self.published_split,
            layers=self.layers,
        )

    def _problems(self) -> Iterator[str]:
        lengths = {"X": len(self.X), "y": len(self.y), "files": len(self.files)}
        lengths |= {"digests": len(self.digests)}
        lengths |= {name: len(values) for name, values in self.columns.items()}
        if self.speakers is not None:
            lengths["speakers"] = len(self.speakers)
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{name} {length}" for name, length in lengths.items())
            yield f"Expected one row per clip everywhere, got {said}."
        if len(set(self.files)) != len(self.files):
            yield "Expected every file once: two clips have the same name."
        if len(self.labels) < 2:
            yield (
                f"Expected clips of at least two classes, got {len(self.files)} clips of "
                f"{' and '.join(self.labels) or 'none'}."
            )
        if set(self.y.tolist()) != set(self.labels):
            odd = sorted(set(self.y.tolist()) ^ set(self.labels))
            yield f"Labels and clips disagree about the class '{odd[0]}'."
        tiles = dict(_tiles(_widths(self.views)))
        ends = [0, *(view.stop for view in tiles.values())]
        if tiles != dict(self.views) or ends[-1] != self.X.shape[1]:
            yield f"Views must tile the {self.X.shape[1]} columns of X, got {dict(self.views)}."
        for name, layers in self.layers.items():
            width = _widths(self.views).get(name, 0)
            if layers < 1 or not width or width % layers:
                yield (
                    f"The {width} columns of view '{name}' are not {layers} layers of one width. "
                    "Layers of unlike width are views of their own, to choose among by 'best-lda'."
                )
        bad = np.flatnonzero(~np.isfinite(self.X).all(axis=1))
        if bad.size:
            yield f"The embedding of '{self.files[bad[0]]}' holds NaN or infinity."


def _widths(views: Mapping[str, slice]) -> dict[str, int]:
    return {name: view.stop - view.start for name, view in views.items()}


def _tiles(widths: Mapping[str, int]) -> Iterator[tuple[str, slice]]:
    start = 0
    for name, width in widths.items():
        yield name, slice(start, start + width)
        start += width


def _frozen(array: np.ndarray) -> np.ndarray:
    """Return a read-only view; the caller's own array stays writable."""
    view = array.view()
    view.setflags(write=False)
    return view


def _objects(values: Sequence[object]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _refuse_lost_classes(corpus: Corpus, left: set[str], extraction: Extracted) -> None:
    """Raise where every clip of a class failed: chance and all scores would silently change."""
    lost = sorted({clip.emotion for clip in corpus.clips} - left)
    if not lost:
        return
    reasons = {failure.file: failure.reason for failure in extraction.failures}
    files = [clip.file for clip in corpus.clips if clip.emotion == lost[0]]
    why = f"the first, {files[0]}: {reasons.get(files[0], 'it has no embedding')}"
    raise EvaluationError(
        f"No clip of class '{lost[0]}' of '{corpus.name}' could be encoded ({len(files)} tried; "
        f"{why}). Mend these files, or take the class out of the corpus."
    )
