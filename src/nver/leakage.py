"""What stands on both sides of a fold, and must not: people, recordings, copies of recordings.

Three comparisons, before anything is trained: the speakers' names; the hash of the decoded samples
(identical audio); and the thumbprints of `nver.audio`, which survive re-encoding, resampling and
gain (nearly identical audio). A shared speaker or identical audio is certain, and refuses the run.
Likeness of thumbprints is strong evidence, not proof: in a corpus of tens of thousands of short
sounds a few different ones look alike, so such pairs are reported for a person to listen to.

Under the "random" protocol shared speakers are what was asked for: reported, not refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from nver.audio import NEAR_IDENTICAL
from nver.errors import LeakageError
from nver.protocols import without_speaker
from nver.splits import Fold, missing_classes

SAME_SECONDS = 0.1
"""Copies differ in duration by no more than this: codecs add padding, and little else."""

_CELLS = 8_000_000  # similarities held at once: 32 MB
_SHOWN = 3


@dataclass(frozen=True)
class SharedSpeaker:
    """A speaker who is heard on both sides of a fold: in how many test and training clips."""

    fold: str
    speaker: str
    test: int
    train: int


@dataclass(frozen=True)
class LeakPair:
    """A test clip and the training clip most like it; similarity 1 for identical audio."""

    fold: str
    test: str
    train: str
    similarity: float


@dataclass(frozen=True)
class Contradiction:
    """Two files of identical audio that carry different labels."""

    first: str
    first_label: str
    second: str
    second_label: str


@dataclass(frozen=True)
class LeakageReport:
    """What `check_leakage` found.

    Parameters
    ----------
    folds : tuple of str
        Names of the folds that were compared.
    clips : int
        Number of clips.
    shared_speakers : tuple of SharedSpeaker
        Every speaker on both sides of a fold.
    identical, near_identical : tuple of LeakPair
        One for each fold and test clip with such a partner in the training part: its first
        identical one, or its most similar one from `threshold`.
    contradictions : tuple of Contradiction
        Identical audio with different labels, anywhere.
    missing : tuple of str
        A sentence for each class that a fold tests and does not train on.
    unknown_speakers : int
        Clips without a speaker: people shared among them cannot be seen.
    threshold : float or None
        Cosine of thumbprints from which audio counts as nearly identical; None if not compared.
    """

    folds: tuple[str, ...]
    clips: int
    shared_speakers: tuple[SharedSpeaker, ...] = ()
    identical: tuple[LeakPair, ...] = ()
    near_identical: tuple[LeakPair, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    missing: tuple[str, ...] = ()
    unknown_speakers: int = 0
    threshold: float | None = None

    @property
    def clean(self) -> bool:
        """Whether no speaker and no recording was found on both sides of a fold."""
        return not (self.shared_speakers or self.identical or self.near_identical)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return fold -> number of shared speakers, and of test clips with a leaked recording."""
        table = {fold: {"speakers": 0, "identical": 0, "near_identical": 0} for fold in self.folds}
        for shared in self.shared_speakers:
            table[shared.fold]["speakers"] += 1
        for pair in self.identical:
            table[pair.fold]["identical"] += 1
        for pair in self.near_identical:
            table[pair.fold]["near_identical"] += 1
        return table

    def verdict(self) -> str:
        """Return the outcome in one sentence."""
        if not self.clean:
            parts = [self._speakers()] if self.shared_speakers else []
            for pairs, what in (
                (self.identical, "identical audio"),
                (self.near_identical, "nearly identical audio"),
            ):
                if pairs:
                    parts.append(f"{_count(pairs, 'test clip')} with {what} in training")
            return f"On both sides of a fold: {', '.join(parts)}."
        if self.unknown_speakers == self.clips:
            return "No recording is on both sides of a fold; speakers are unknown."
        return "No speaker and no recording is on both sides of a fold."

    def sentences(self) -> tuple[str, ...]:
        """Return a sentence for each thing that a reader of the scores must know."""
        return (*self._about_speakers(), *self._about_audio(), *self.missing)

    def raise_if_leaking(self, protocol: str, *, allow_leak: bool = False) -> None:
        """Refuse folds that leak.

        Parameters
        ----------
        protocol : str
            As in `make_folds`; "random" expects shared speakers.
        allow_leak : bool
            Go on nevertheless.

        Raises
        ------
        LeakageError
            If a speaker (except under "random") or identical audio is on both sides of a fold.
        """
        if allow_leak:
            return
        if self.identical:
            raise LeakageError(
                "Identical audio is on both sides of a fold, for "
                f"{_pairs(self.identical)}. Remove the duplicates, or pass --allow-leak "
                "(allow_leak=True)."
            )
        if self.shared_speakers and protocol != "random":
            first = self.shared_speakers[0]
            raise LeakageError(
                f"The folds '{protocol}' share {self._speakers()}: '{first.speaker}' has "
                f"{first.test} test and {first.train} training clips in fold '{first.fold}'. "
                "Use --folds speaker, or pass --allow-leak (allow_leak=True)."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self) | {
            "clean": self.clean,
            "verdict": self.verdict(),
            "sentences": list(self.sentences()),
            "counts": self.counts(),
        }

    def _speakers(self) -> str:
        return _count({shared.speaker for shared in self.shared_speakers}, "speaker")

    def _about_speakers(self) -> Iterator[str]:
        if self.shared_speakers:
            yield (
                f"Both sides of a fold share {self._speakers()}: the scores say how well "
                "known people are recognised, and are too high for new ones."
            )
        if self.unknown_speakers:
            yield without_speaker(self.unknown_speakers, self.clips)

    def _about_audio(self) -> Iterator[str]:
        if self.identical:
            yield (f"Identical audio is on both sides of a fold, for {_pairs(self.identical)}.")
        if self.near_identical:
            yield (
                f"Nearly identical audio (thumbprints' cosine >= {self.threshold}) is on both "
                f"sides of a fold, for "
                f"{_pairs(self.near_identical)}. Listen to them, and remove copies."
            )
        if self.threshold is None:
            yield "Nearly identical audio was not looked for: the clips have no thumbprints."
        if self.contradictions:
            one = self.contradictions[0]
            yield (
                "Identical audio carries different labels in "
                f"{_count(self.contradictions, 'pair')} of files: {one.first} is "
                f"'{one.first_label}', {one.second} is '{one.second_label}'."
            )


def check_leakage(
    folds: Sequence[Fold],
    speakers: np.ndarray | None,
    digests: Sequence[str],
    thumbprints: Float32[np.ndarray, "clips bands"] | None,
    files: Sequence[str],
    labels: np.ndarray | None = None,
    seconds: np.ndarray | None = None,
    *,
    threshold: float = NEAR_IDENTICAL,
) -> LeakageReport:
    """Compare the two sides of every fold.

    Memory stays bounded: similarities are computed in blocks. Time grows with the square of the
    number of clips: about ten seconds on two cores for 30,000.

    Parameters
    ----------
    folds : sequence of Fold
        As `make_folds` returns them.
    speakers : array [clips] or None
        Speaker of each clip, None where unknown.
    digests : sequence of str [clips]
        Content hash of each clip's decoded samples.
    thumbprints : float32 [clips, bands] or None
        Of unit norm, as `nver.audio.thumbprint` gives them; None: not compared.
    files : sequence of str [clips]
        Names for the report.
    labels : array of str [clips] or None
        Class of each clip; with them, contradictions and classes missing in training are found.
    seconds : float [clips] or None
        Durations; with them, clips whose durations differ by more than `SAME_SECONDS` are not
        nearly identical, whatever their thumbprints: a thumbprint does not know the duration.
    threshold : float
        Cosine from which two thumbprints count as the same recording.
    """
    codes = np.unique(np.asarray(digests, dtype=str), return_inverse=True)[1]
    near: tuple[LeakPair, ...] = ()
    if thumbprints is not None:
        durations = np.zeros(len(files)) if seconds is None else seconds
        prints = _Prints(thumbprints, codes, durations, threshold)
        near = tuple(_near_identical(folds, prints, files))
    known = () if speakers is None else [speaker for speaker in speakers if speaker is not None]
    return LeakageReport(
        folds=tuple(fold.name for fold in folds),
        clips=len(files),
        shared_speakers=tuple(_shared_speakers(folds, speakers)),
        identical=tuple(_identical(folds, codes, files)),
        near_identical=near,
        contradictions=() if labels is None else tuple(_contradictions(codes, labels, files)),
        missing=() if labels is None else missing_classes(folds, labels),
        unknown_speakers=len(files) - len(known),
        threshold=None if thumbprints is None else threshold,
    )


def _shared_speakers(folds: Sequence[Fold], speakers: np.ndarray | None) -> Iterator[SharedSpeaker]:
    if speakers is None:
        return
    known = np.array([speaker is not None for speaker in speakers], dtype=bool)
    names, codes = np.unique(np.array([str(s) for s in speakers]), return_inverse=True)
    for fold in folds:
        train, test = (
            np.bincount(codes[side][known[side]], minlength=len(names))
            for side in (fold.train, fold.test)
        )
        for code in np.flatnonzero((train > 0) & (test > 0)):
            yield SharedSpeaker(fold.name, str(names[code]), int(test[code]), int(train[code]))


def _identical(
    folds: Sequence[Fold], codes: np.ndarray, files: Sequence[str]
) -> Iterator[LeakPair]:
    for fold in folds:
        first = np.full(codes.max() + 1, -1)
        first[codes[fold.train[::-1]]] = fold.train[::-1]
        partner = first[codes[fold.test]]
        for test, train in zip(fold.test[partner >= 0], partner[partner >= 0], strict=True):
            yield LeakPair(fold.name, files[test], files[train], 1.0)


@dataclass(frozen=True, eq=False)
class _Prints:
    """What near-identity is judged by."""

    vectors: np.ndarray
    digests: np.ndarray
    seconds: np.ndarray
    threshold: float

    def nearest(self, rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each row, the likest of `others` and its cosine; -1 for no candidate."""
        cosines = self.vectors[rows] @ self.vectors[others].T
        # Identical audio has its own list.
        cosines[self.digests[rows][:, None] == self.digests[others]] = -1.0
        cosines[np.abs(self.seconds[rows][:, None] - self.seconds[others]) > SAME_SECONDS] = -1.0
        best = cosines.argmax(axis=1)
        return others[best], cosines[np.arange(len(rows)), best]


def _near_identical(
    folds: Sequence[Fold], prints: _Prints, files: Sequence[str]
) -> Iterator[LeakPair]:
    for fold in folds:
        step = max(1, _CELLS // len(fold.train))
        for start in range(0, len(fold.test), step):
            rows = fold.test[start : start + step]
            partners, cosines = prints.nearest(rows, fold.train)
            for row in np.flatnonzero(cosines >= prints.threshold):
                pair = files[rows[row]], files[partners[row]]
                yield LeakPair(fold.name, *pair, round(float(cosines[row]), 4))


def _contradictions(
    codes: np.ndarray, labels: np.ndarray, files: Sequence[str]
) -> Iterator[Contradiction]:
    first: dict[int, int] = {}
    for index, code in enumerate(codes.tolist()):
        earlier = first.setdefault(code, index)
        if labels[earlier] != labels[index]:
            yield Contradiction(
                files[earlier], str(labels[earlier]), files[index], str(labels[index])
            )


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _pairs(pairs: Sequence[LeakPair]) -> str:
    """Return the first pairs of files, each once, though either is tested against the other."""
    same: dict[frozenset[str], list[LeakPair]] = {}
    for pair in pairs:
        same.setdefault(frozenset((pair.test, pair.train)), []).append(pair)
    shown = [_both_ways(*ways) for ways in list(same.values())[:_SHOWN]]
    more = ["..."] if len(same) > _SHOWN else []
    return f"{_count(pairs, 'test clip')}: {'; '.join([*shown, *more])}"


def _both_ways(pair: LeakPair, *others: LeakPair) -> str:
    told = f"{pair.test} (test) and {pair.train} (training) in fold '{pair.fold}'"
    reverse = "".join(f", the other way round in fold '{other.fold}'" for other in others)
    return f"{told}{reverse}"
