"""Folds: which clips a model learns from and which it is judged on, and whether the two leak.

The protocols are those of `nver.protocols`, each with its warning:

- ``speaker``: k folds that share no speaker, each with about the corpus's share of every class
  (scikit-learn's StratifiedGroupKFold); the default wherever speakers are known;
- ``loso``: leave one speaker out, one fold per speaker; for corpora of few speakers;
- ``published``: the corpus's own split, where its card or manifest names one;
- ``column:NAME``: one fold per value of that column;
- ``random``: stratified over clips, as most of the field reports. The same people stand on both
  sides, so it measures how well known people are recognised.

`check_leakage` compares the two sides of every fold before anything is trained: speakers, identical
audio (by content), and nearly identical audio (by thumbprint), which survives re-encoding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from nver.errors import SplitError
from nver.protocols import COLUMN, PROTOCOLS, PUBLISHED, protocol_of
from nver.registry import unknown

_TRAINED = frozenset({"train", "training", "dev", "devel", "valid", "validation", "val"})
_TESTED = frozenset({"test", "testing"})


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of the clips.

    Parameters
    ----------
    name : str
        Its number, the speaker left out, or the column's value.
    train, test : int [n]
        Sorted indices of clips; no clip is in both, neither is empty.

    Raises
    ------
    SplitError
        If a side is empty or a clip is on both.
    """

    name: str
    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]

    def __post_init__(self) -> None:
        """Refuse a fold that would judge a model on what it learned from."""
        if not self.train.size or not self.test.size:
            side = "test" if self.train.size else "training"
            raise SplitError(f"Fold '{self.name}' has no {side} clips.")
        both = np.intersect1d(self.train, self.test)
        if both.size:
            raise SplitError(
                f"Fold '{self.name}' trains and tests on the same clip (index {both[0]})."
            )


def make_folds(
    protocol: str,
    labels: np.ndarray,
    speakers: np.ndarray | None,
    *,
    k: int = 5,
    seed: int = 0,
    column: np.ndarray | None = None,
    digests: Sequence[str] | None = None,
) -> tuple[Fold, ...]:
    """Return the folds of a protocol; every clip is tested exactly once.

    A column or published split that names the parts of one division (train, dev, test) makes one
    fold: tested is the test part alone, and everything else is training.

    Parameters
    ----------
    protocol : str
        A name of `nver.protocols.PROTOCOLS`.
    labels : array of str [clips]
        Class of each clip, at least two classes.
    speakers : array [clips] or None
        Speaker of each clip, None where unknown; None where nobody is known.
    k : int
        Number of folds for "speaker" and "random", from 2.
    seed : int
        Of the shuffling in "speaker" and "random"; the same seed gives the same folds.
    column : array [clips] or None
        The values of the column for "column:NAME", or of the published split for "published".
    digests : sequence of str [clips], optional
        Content of each clip's audio. Under "random" clips of the same content stay on one side,
        wherever every class has at least k different contents.

    Raises
    ------
    UnknownNameError
        If there is no such protocol.
    SplitError
        If these folds do not exist for these clips; the message says what to do.
    """
    if len(np.unique(labels)) < 2:
        raise SplitError(
            f"Expected clips of at least two classes, got {len(labels)} clips of "
            f"{len(np.unique(labels))}."
        )
    if protocol_of(protocol) is None:
        raise unknown("fold protocol", protocol, PROTOCOLS)
    if protocol.startswith(COLUMN) or protocol == PUBLISHED:
        return _column_folds(protocol, column)
    if protocol == "loso":
        return _folds_of(_loso_parts(_known(speakers, protocol)))
    if k < 2:
        raise SplitError(f"Expected at least 2 folds, got -k {k}.")
    if protocol == "random":
        return _folds_of(_random_parts(labels, k, seed, digests))
    return _folds_of(_speaker_parts(labels, _known(speakers, protocol), k, seed))


def missing_classes(folds: Sequence[Fold], labels: np.ndarray) -> tuple[str, ...]:
    """Return a sentence for each fold and class that is tested without having been trained on.

    Such clips can never be right, whatever the system.
    """
    names, codes = np.unique(labels, return_inverse=True)
    sentences: list[str] = []
    for fold in folds:
        learned, tested = (
            np.bincount(codes[side], minlength=len(names)) for side in (fold.train, fold.test)
        )
        sentences.extend(
            f"Fold '{fold.name}' tests {tested[code]} {'clip' if tested[code] == 1 else 'clips'} "
            f"of class '{names[code]}' without a clip of it to learn from: no system can get "
            f"{'it' if tested[code] == 1 else 'them'} right."
            for code in np.flatnonzero((tested > 0) & (learned == 0))
        )
    return tuple(sentences)


def _folds_of(parts: Iterator[tuple[str, np.ndarray]]) -> tuple[Fold, ...]:
    named = list(parts)
    everything = np.concatenate([test for _, test in named])
    return tuple(Fold(name, np.setdiff1d(everything, test), np.sort(test)) for name, test in named)


def _known(speakers: np.ndarray | None, protocol: str) -> np.ndarray:
    """Return the speakers as text, all of them known and at least two."""
    if speakers is None:
        raise SplitError(
            f"--folds {protocol} needs the speaker of every clip, and this corpus names none. "
            "Add a speaker column to the manifest, or use --folds random."
        )
    lost = sum(_empty(speaker) for speaker in speakers)
    if lost:
        raise SplitError(
            f"--folds {protocol} needs the speaker of every clip, but {lost} of {len(speakers)} "
            "clips have none. Complete the speaker column, or use --folds random."
        )
    text = np.array([str(speaker) for speaker in speakers], dtype=object)
    if len(set(text)) < 2:
        raise SplitError(
            f"--folds {protocol} needs at least two speakers, and all {len(text)} clips are of "
            f"'{text[0]}'. Use --folds random: the scores then hold for this speaker only."
        )
    return text


def _loso_parts(speakers: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for speaker in sorted(set(speakers)):
        yield speaker, np.flatnonzero(speakers == speaker)


def _random_parts(
    labels: np.ndarray, k: int, seed: int, digests: Sequence[str] | None
) -> Iterator[tuple[str, np.ndarray]]:
    from sklearn.model_selection import StratifiedKFold

    label, clips = min(Counter(labels.tolist()).items(), key=lambda item: item[1])
    if clips < k:
        raise SplitError(
            f"{k} stratified folds need at least {k} clips of every class; class '{label}' has "
            f"{clips}. {_instead(clips, 'leave the class out')}"
        )
    if digests is not None:
        names, contents = np.unique(np.asarray(digests, dtype=str), return_inverse=True)
        fewest = min(len(set(contents[labels == label])) for label in np.unique(labels))
        if len(names) < len(labels) and fewest >= k:
            yield from _grouped_parts(labels, contents, k, seed)
            return
    splitter = StratifiedKFold(k, shuffle=True, random_state=seed)
    for index, (_, test) in enumerate(splitter.split(labels, labels)):
        yield str(index), test


def _speaker_parts(
    labels: np.ndarray, speakers: np.ndarray, k: int, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    names, groups = np.unique(speakers.astype(str), return_inverse=True)
    spread = {label: len(set(groups[labels == label])) for label in np.unique(labels).tolist()}
    label, count = min(spread.items(), key=lambda item: item[1])
    if len(names) < k:
        instead = f"Use --folds loso (one fold per speaker), or -k {count}."
        raise SplitError(
            f"{k} speaker-independent folds need at least {k} speakers; this corpus has "
            f"{len(names)} ({_first(names.tolist())}). {_of_one_speaker(spread) or instead}"
        )
    if count < k:
        instead = _instead(count, "use --folds loso", "leave the class out")
        raise SplitError(
            f"{k} speaker-independent folds need every class from at least {k} speakers; class "
            f"'{label}' comes from {count}. {_of_one_speaker(spread) or instead}"
        )
    yield from _grouped_parts(labels, groups, k, seed)


def _of_one_speaker(spread: Mapping[str, int]) -> str:
    """Return which classes no speaker-independent folds can judge, and what to do; "" for none."""
    short = [f"'{label}'" for label, speakers in spread.items() if speakers < 2]
    if not short:
        return ""
    those, it, its = f"Classes {_first(short)} have one speaker each", "them", "their"
    if len(short) == 1:
        those, it, its = f"Class {short[0]} has one speaker only", "it", "its"
    return (
        f"{those}, and no speaker-independent folds can judge {it}, --folds loso neither: leave "
        f"{its} rows out."
    )


def _grouped_parts(
    labels: np.ndarray, groups: np.ndarray, k: int, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Keep each group (numbered from 0) on one side; every class comes from at least k groups."""
    from sklearn.model_selection import StratifiedGroupKFold

    # The groups are shuffled here, by renumbering: `shuffle=True` of scikit-learn before 1.8 lost
    # the stratification (its issue 32478). Its folds may be empty where classes come from fewer
    # groups than folds (issue 34828), which the callers have excluded.
    renumbered = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups]
    splitter = StratifiedGroupKFold(k, shuffle=False)
    for index, (_, test) in enumerate(splitter.split(labels, labels, renumbered)):
        yield str(index), test


def _column_folds(protocol: str, column: np.ndarray | None) -> tuple[Fold, ...]:
    if column is None and protocol == PUBLISHED:
        raise SplitError(
            "--folds published: no split was published with this corpus, or none that its reader "
            "knows. Use --folds speaker, or loso where speakers are few."
        )
    if column is None:
        raise SplitError(
            f"--folds {protocol}: the corpus has no column '{protocol.removeprefix(COLUMN)}'."
        )
    lost = sum(_empty(value) for value in column)
    if lost:
        raise SplitError(
            f"--folds {protocol} needs a value for every clip, but {lost} of {len(column)} "
            "clips have none. Complete the column, or remove these clips."
        )
    text = np.array([_text(value) for value in column], dtype=object)
    values = sorted(set(text), key=_natural)
    parts = np.array([value.strip().lower() for value in text])
    if len(values) > 1 and set(parts) <= _TRAINED | _TESTED:
        return _one_division(protocol, values, np.isin(parts, list(_TESTED)))
    if len(values) < 2:
        raise SplitError(
            f"--folds {protocol} needs at least two values, and every clip has '{values[0]}'."
        )
    if len(values) > max(10, len(text) // 2):
        raise SplitError(
            f"Column '{protocol.removeprefix(COLUMN)}' has {len(values)} values for {len(text)} "
            "clips: it is no fold column."
        )
    return _folds_of((value, np.flatnonzero(text == value)) for value in values)


def _one_division(protocol: str, values: Sequence[str], tested: np.ndarray) -> tuple[Fold, ...]:
    """Return the fold of a division into parts: the test part against all others."""
    if not tested.any() or tested.all():
        side = "training" if tested.all() else "test"
        raise SplitError(
            f"--folds {protocol}: {', '.join(values)} are parts of one division, and none of them "
            f"is the {side} part. Name it so, or number the folds in the column (0, 1, 2, ...)."
        )
    return (Fold("test", np.flatnonzero(~tested), np.flatnonzero(tested)),)


def _empty(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _text(value: object) -> str:
    # A column with gaps elsewhere, or read by pandas, holds 3 as 3.0.
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def _natural(value: str) -> tuple[bool, int, str]:
    number = value.isdecimal()
    return not number, int(value) if number else 0, value


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown}, ..."


def _instead(most: int, *others: str) -> str:
    choices = [f"use -k {most}", *others] if most >= 2 else list(others)
    sentence = ", ".join(choices[:-1]) + (", or " if len(choices) > 1 else "") + choices[-1]
    return f"{sentence[0].upper()}{sentence[1:]}."
