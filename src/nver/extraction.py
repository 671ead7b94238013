"""From clips to stored embeddings: each file is read once, each clip encoded once in its life.

A run goes through the corpus in windows of clips. While the encoders work on one window, a thread
reads and decodes the next. In a window the clips are sorted by length, so that a batch holds clips
of similar length; encoders are exact under any batching, so this changes no number.

Every batch is stored as soon as it is encoded, and what decoding found out about the files before
that. So a run that is interrupted (Ctrl-C, kill -9, power) continues where it stopped: it loses the
batch in flight and the inputs read ahead, never a stored clip. A second run reads the files, to see
that they are the same, and decodes and encodes nothing.

A clip that cannot be read, decoded or encoded, or is silent, becomes a `Failure` and the run goes
on. Failures are not stored: the next run tries again.

Perturbed clips go the same way, under keys of their own (`nver.perturbation.Perturbation.key`): a
store never takes one for the clip itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from nver.audio import ClipFacts, Waveform, check_audible, decode, measure, read
from nver.corpora.base import Clip, Corpus
from nver.encoders.base import Encoder, checked
from nver.errors import (
    AudioError,
    CheckpointError,
    MissingExtraError,
    NverError,
    SettingsError,
)
from nver.perturbation import Perturbation
from nver.shapes import Embedding
from nver.store import EmbeddingStore, EmbeddingTable, FactsTable

WINDOW_CLIPS = 128
"""Most clips read ahead and sorted together."""

WINDOW_VALUES = 2**24
"""Most input values read ahead (64 MiB of float32): long recordings must not fill the memory."""

BATCH_VALUES = 2**22
"""Most values of a batch with its padding: 32 clips of 8 s at 16 kHz; a longer clip goes alone."""

FATAL = (CheckpointError, MissingExtraError)
"""An encoder that cannot work at all stops the run: it is no fault of the clip."""

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how much is done, and the total."""


@dataclass(frozen=True)
class Failure:
    """A clip that has no embeddings, and why.

    Parameters
    ----------
    file : str
        The clip's id.
    stage : {"read", "decode", "silent", "encode"} or str
        What failed; of perturbed clips "perturb " and the perturbation's name.
    reason : str
        One sentence.
    """

    file: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Extraction:
    """What a run over a corpus found.

    Parameters
    ----------
    digests : dict of str to str
        File to digest, for the clips that have an embedding from every encoder, in corpus order.
        Of perturbed clips: to the key under which the store has their embeddings.
    facts : dict of str to ClipFacts
        For the same files: duration, rate, channels, peak, thumbprint; those of the clip before it
        was perturbed.
    failures : tuple of Failure
        The other clips, in corpus order.
    encoded : int
        Embeddings computed by this run.
    reused : int
        Embeddings that were in the store, or shared with an identical clip of this run.
    seconds : float
        Duration of the run.
    """

    digests: dict[str, str]
    facts: dict[str, ClipFacts]
    failures: tuple[Failure, ...]
    encoded: int
    reused: int
    seconds: float


def extract(
    corpus: Corpus,
    encoders: Sequence[Encoder],
    store: EmbeddingStore,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
    perturbation: Perturbation | None = None,
) -> Extraction:
    """Fill the store with the embeddings of a corpus.

    Parameters
    ----------
    corpus : Corpus
        The clips.
    encoders : sequence of Encoder
        Their names differ.
    store : EmbeddingStore
        Where embeddings and facts are looked up and kept.
    batch_size : int
        Most clips per batch, from 1.
    progress : callable or None
        Called as ``progress("embeddings", done, clips x encoders)`` after every batch.
    perturbation : Perturbation or None
        What happens to the clips before they are encoded; None takes them as they are.

    Raises
    ------
    SettingsError
        If two encoders have the same name, or `batch_size` is below 1.
    StoreError
        If the store cannot be read or written.
    MissingExtraError, CheckpointError
        If an encoder cannot work at all, whatever the clip.
    """
    if batch_size < 1:
        raise SettingsError(f"batch_size must be 1 or more, not {batch_size}.")
    names = [encoder.card.name for encoder in encoders]
    if len(set(names)) < len(names):
        raise SettingsError(
            f"Encoders must have different names, these are {', '.join(names)}. "
            "Where an encoder takes an alias, give it one: -e NAME=CHECKPOINT,alias=OTHER."
        )
    started = time.monotonic()
    tables = {name: store.open(encoder.card) for name, encoder in zip(names, encoders, strict=True)}
    stored = {name: table.keys() for name, table in tables.items()}
    reader = _Reader(encoders, stored, store.facts, perturbation)
    writer = _Writer(encoders, tables, batch_size)
    outcomes: dict[str, ClipFacts | Failure] = {}
    done, total = 0, len(corpus.clips) * len(names)
    with closing(_ahead(reader, corpus.clips)) as windows:
        for window in windows:
            outcomes |= window.outcomes
            for settled in (window.settled(len(names)), *writer.encode(window)):
                done += settled
                if progress is not None:
                    progress("embeddings", done, total)
    stage = "encode" if perturbation is None else _stage(perturbation)
    return _summary(outcomes, writer, time.monotonic() - started, stage)


@dataclass(frozen=True)
class _Window:
    """Clips read together: what became of each, and the inputs still to be encoded, per encoder."""

    outcomes: dict[str, ClipFacts | Failure] = field(default_factory=dict)
    inputs: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)  # digest: why an encoder refused the clip

    def settled(self, encoders: int) -> int:
        """Return how many embeddings need no encoding: stored, shared or failed."""
        return len(self.outcomes) * encoders - sum(map(len, self.inputs.values()))

    def full(self) -> bool:
        """Return whether the window holds as much as it may."""
        values = sum(array.size for inputs in self.inputs.values() for array in inputs.values())
        return len(self.outcomes) >= WINDOW_CLIPS or values >= WINDOW_VALUES


class _Reader:
    """Reads files, decodes those that need it, and prepares the encoders' inputs."""

    def __init__(
        self,
        encoders: Sequence[Encoder],
        stored: dict[str, set[str]],
        known: FactsTable,
        perturbation: Perturbation | None = None,
    ) -> None:
        self.encoders = encoders
        self.stored = stored
        self.known = known
        self.perturbation = perturbation
        self.stop = threading.Event()

    def windows(self, clips: Iterable[Clip]) -> Iterator[_Window]:
        """Yield the clips in windows; the facts of their files are stored by then."""
        window, fresh = _Window(), dict[str, ClipFacts]()
        for clip in clips:
            if self.stop.is_set():
                return
            self._take(clip, window, fresh)
            if window.full():
                self.known.append(fresh)
                yield window
                window, fresh = _Window(), {}
        self.known.append(fresh)
        yield window

    def _take(self, clip: Clip, window: _Window, fresh: dict[str, ClipFacts]) -> None:
        """Add a clip to the window: its facts or failure, and the inputs that encoders lack."""
        stage, waveform = "read", None
        try:
            data = read(clip.path)
            key = FactsTable.key(data)
            facts = self.known.find(key)
            stage = "decode"
            if facts is None:
                waveform = decode(data, clip.file)
                stage = "silent"
                check_audible(waveform, clip.file)
                facts = fresh[key] = measure(waveform)
            if self.perturbation is not None:
                facts = replace(facts, digest=self.perturbation.key(facts.digest))
            lacking = [e for e in self.encoders if facts.digest not in self.stored[e.card.name]]
            if lacking:
                waveform = waveform or decode(data, clip.file)
                if self.perturbation is not None:
                    stage = _stage(self.perturbation)
                    waveform = _perturbed(waveform, self.perturbation, clip.file)
                self._prepare(lacking, facts.digest, waveform, window)
            window.outcomes[clip.file] = facts
        except AudioError as error:
            window.outcomes[clip.file] = Failure(clip.file, stage, str(error))

    def _prepare(
        self, encoders: Sequence[Encoder], digest: str, waveform: Waveform, window: _Window
    ) -> None:
        """Add the inputs of a clip for the encoders that lack it; identical clips add none."""
        for encoder in encoders:
            name = encoder.card.name
            self.stored[name].add(digest)
            try:
                window.inputs.setdefault(name, {})[digest] = encoder.frontend(waveform)
            except FATAL:
                raise
            except Exception as error:  # noqa: BLE001 - an encoder may be anybody's code
                window.broken[digest] = _reason(encoder, error)


class _Writer:
    """Encodes windows batch by batch and stores every batch at once."""

    def __init__(
        self, encoders: Sequence[Encoder], tables: Mapping[str, EmbeddingTable], batch_size: int
    ) -> None:
        self.encoders = encoders
        self.tables = tables
        self.batch_size = batch_size
        self.broken: dict[str, str] = {}
        self.computed: Counter[str] = Counter()

    def encode(self, window: _Window) -> Iterator[int]:
        """Encode and store a window; after each batch yield how many clips it held."""
        self.broken |= window.broken
        for encoder in self.encoders:
            name = encoder.card.name
            for batch in _batches(window.inputs.pop(name, {}), self.batch_size):
                vectors = self._embed(encoder, batch)
                if vectors:
                    self.tables[name].append(list(vectors), np.stack(list(vectors.values())))
                self.computed.update(vectors.keys())
                yield len(batch)

    def _embed(self, encoder: Encoder, batch: Mapping[str, np.ndarray]) -> dict[str, Embedding]:
        """Return the vectors of a batch by digest, without the clips that the encoder refuses."""
        try:
            vectors = checked(encoder.embed(list(batch.values())), len(batch), encoder.card)
        except FATAL:
            raise
        except Exception as error:  # noqa: BLE001 - an encoder may be anybody's code
            if len(batch) == 1:
                self.broken |= dict.fromkeys(batch, _reason(encoder, error))
                return {}
            # One clip must not fail its neighbours, and a full memory may do with less.
            alone = [self._embed(encoder, {digest: batch[digest]}) for digest in batch]
            return {digest: vector for one in alone for digest, vector in one.items()}
        return dict(zip(batch, vectors, strict=True))


def _stage(perturbation: Perturbation) -> str:
    return f"perturb {perturbation.name}"


def _perturbed(waveform: Waveform, perturbation: Perturbation, file: str) -> Waveform:
    """Return the perturbed clip; refuse one of which nothing is left."""
    name = f"{file} after '{perturbation.name}'"
    try:
        found = perturbation.apply(waveform)
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from error
    check_audible(found, name)
    return found


def _ahead(reader: _Reader, clips: Iterable[Clip]) -> Generator[_Window, None, None]:
    """Yield the windows of a corpus while a thread prepares the one after."""
    windows = reader.windows(clips)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="nver-reader") as pool:
        try:
            following = pool.submit(next, windows, None)
            while (window := following.result()) is not None:
                following = pool.submit(next, windows, None)
                yield window
        finally:
            reader.stop.set()


def _batches(inputs: Mapping[str, np.ndarray], most: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield clips of similar length together, shortest first."""
    batch: dict[str, np.ndarray] = {}
    for digest in sorted(inputs, key=lambda digest: inputs[digest].size):
        padded = (len(batch) + 1) * inputs[digest].size
        if batch and (len(batch) == most or padded > BATCH_VALUES):
            yield batch
            batch = {}
        batch[digest] = inputs[digest]
    if batch:
        yield batch


def _reason(encoder: Encoder, error: Exception) -> str:
    """Return why an encoder refused a clip: nver's own sentences as they are."""
    kind = "" if isinstance(error, NverError) else f"{type(error).__name__}: "
    return f"{blame(encoder.card.name)}{kind}{error}"


def blame(encoder: str) -> str:
    """Return how the reason of a clip that this encoder refused begins."""
    return f"encoder '{encoder}': "


def _summary(
    outcomes: Mapping[str, ClipFacts | Failure], writer: _Writer, seconds: float, stage: str
) -> Extraction:
    """Return the run's result: a clip that one encoder refused has failed, for all of them."""
    facts: dict[str, ClipFacts] = {}
    failures: list[Failure] = []
    for file, outcome in outcomes.items():
        if isinstance(outcome, Failure):
            failures.append(outcome)
        elif outcome.digest in writer.broken:
            failures.append(Failure(file, stage, writer.broken[outcome.digest]))
        else:
            facts[file] = outcome
    digests = {file: known.digest for file, known in facts.items()}
    fresh = sum(writer.computed[digest] for digest in set(digests.values()))
    return Extraction(
        digests=digests,
        facts=facts,
        failures=tuple(failures),
        encoded=writer.computed.total(),
        reused=len(digests) * len(writer.encoders) - fresh,
        seconds=seconds,
    )
