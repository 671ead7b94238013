"""The plan of a grid: which runs there are, what they train, and about how long that takes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nver.config import EncoderChoice, Settings
from nver.corpora import CORPORA, Corpus
from nver.encoders import CATALOGUE
from nver.errors import SettingsError, SplitError
from nver.protocols import COLUMN, PUBLISHED, protocol_title
from nver.registry import unknown
from nver.reproduction.present import Missing, Wanted, corpora_here, encoders_here, root_of
from nver.splits import make_folds
from nver.systems import SYSTEMS

PAPERS = ("mata",)

GRID = ("lda", "fcn", "cnn", "concat-lda", "concat", "transport", "attention", "mata", "mata-cnn")
"""The systems of the grid: the paper's, and a linear one of each kind to judge them by."""

SECONDS = {
    "lda": 3e-7,
    "concat-lda": 7e-7,
    "fcn": 7e-7,
    "concat": 6e-7,
    "cnn": 2e-5,
    "mata-cnn": 1e-5,
}
"""Seconds of one core for a training, per training clip and column of X (others: `DENSE`).

Measured with the paper's recipe on 1,440 clips of 12 classes; it stops after 11 to 15 epochs there.
"""

DENSE = 1.4e-6
ENCODING = {"weight-free": 0.02, "small": 0.05, "large": 0.5}
"""Seconds of one core for a clip: measured on two-second clips; "large" is a rough guess."""

SHORT = 1.5
"""Minutes that are called one minute."""

SMALL = ("byol-s", "efficientat-mn04", "light-asd")


@dataclass(frozen=True)
class Part:
    """One run of the grid: a corpus under a protocol.

    Parameters
    ----------
    corpus : str
        The corpus's title.
    protocol : str
        As ``--folds`` takes it.
    folder : str
        Name of its run folder.
    settings : Settings
        What is run.
    trainings : int
        How many.
    minutes : float
        About how long the trainings take on this machine.
    """

    corpus: str
    protocol: str
    folder: str
    settings: Settings
    trainings: int
    minutes: float


@dataclass(frozen=True)
class Plan:
    """What will be run, what is missing, and about how long it takes.

    Parameters
    ----------
    parts : tuple of Part
    encoders : tuple of str
        As in the record.
    missing : tuple of Missing
    encoding : float
        Minutes that the encoders need at most, if no clip is encoded yet.
    """

    parts: tuple[Part, ...]
    encoders: tuple[str, ...]
    missing: tuple[Missing, ...]
    encoding: float

    @property
    def minutes(self) -> float:
        """About how long everything takes."""
        return self.encoding + sum(part.minutes for part in self.parts)

    def text(self) -> str:
        """Return the plan for a terminal."""
        lines = [f"Encoders: {', '.join(self.encoders)}"]
        lines += [
            f"{part.corpus}, {protocol_title(part.protocol)}: {part.trainings} trainings, "
            f"about {_minutes(part.minutes)}"
            for part in self.parts
        ]
        encoding = ""
        if self.encoding >= SHORT:
            encoding = f", of which up to {_minutes(self.encoding)} to encode what is not yet"
        lines.append(
            f"All together about {_minutes(self.minutes)} on {_cores()} cores{encoding}. A command "
            "that is stopped goes on where it was."
        )
        return "\n".join([*lines, *(f"Missing: {one.name}: {one.how}" for one in self.missing)])


def plan(wanted: Wanted) -> Plan:
    """Find what is here, and plan the grid on it.

    Raises
    ------
    UnknownNameError
        If nobody has published a grid of that name here.
    SettingsError
        If no corpus or no encoder is here; the message says how to get one.
    NverError
        If a corpus that was named cannot be read, or an encoder that was named cannot be built.
    """
    if wanted.paper not in PAPERS:
        raise unknown("paper", wanted.paper, PAPERS)
    corpora, missing = corpora_here(wanted)
    choices, names, lacking = encoders_here(wanted)
    missing += lacking
    if not corpora:
        raise SettingsError(
            "\n\n".join(
                [
                    "None of the paper's corpora is here. Get one, or pass --corpus MANIFEST.",
                    *(f"{one.name}: {one.how}." for one in missing),
                ]
            )
        )
    if not choices:
        raise SettingsError("No encoder is here: pass -e NAME; see `nver encoders`.")
    parts: list[Part] = []
    clips = 0
    widths = {name: _width(choice) for name, choice in zip(names, choices, strict=True)}
    for given, corpus in dict(corpora).items():
        clips += len(corpus.clips)
        parts += [
            _part(wanted, given, corpus, protocol, choices, widths)
            for protocol in wanted.folds or _protocols(corpus, wanted.k)
        ]
    seconds = sum(_encoding_seconds(choice) for choice in choices) * clips
    return Plan(_apart(parts), tuple(names), tuple(missing), seconds / 60 / _cores())


def _apart(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return the parts with folders of their own, and corpora of one title told apart by place."""
    places: dict[str, set[str]] = {}
    for part in parts:
        places.setdefault(part.corpus, set()).add(part.settings.corpus)
    found: dict[str, Part] = {}
    for part in parts:
        folder, number = part.folder, 2
        while folder in found:
            folder, number = f"{part.folder}-{number}", number + 1
        alone = len(places[part.corpus]) == 1
        title = part.corpus if alone else f"{part.corpus} ({part.settings.corpus})"
        found[folder] = replace(part, folder=folder, corpus=title)
    return tuple(found.values())


def _protocols(corpus: Corpus, k: int) -> tuple[str, ...]:
    """Return the paper's protocol, and the one that keeps speakers apart where there is one."""
    known = all(clip.speaker is not None for clip in corpus.clips)
    speakers = len(corpus.speakers)
    if not known or speakers < 2:
        return ("random",)
    return ("random", "speaker" if speakers >= k else "loso")


def _part(
    wanted: Wanted,
    given: str,
    corpus: Corpus,
    protocol: str,
    choices: Sequence[EncoderChoice],
    widths: dict[str, int],
) -> Part:
    named = given in CORPORA.targets()
    settings = Settings(
        corpus=given,
        encoders=tuple(choices),
        systems=tuple(name for name in GRID if len(choices) > 1 or SYSTEMS[name].kind == "single"),
        root=root_of(wanted, given) if named else None,
        label_column=None if named else wanted.label_column,
        folds=protocol,
        k=wanted.k,
        seeds=wanted.seeds,
        pairs=len(choices) > 2,
        allow_leak=wanted.allow_leak,
        jobs=wanted.jobs,
        device=wanted.device,
        recipe=wanted.recipe,
    )
    parts = _training_parts(corpus, protocol, wanted.k)
    trainings, seconds = 0, 0.0
    for name in settings.systems:
        for columns in _groups(name, list(widths.values())):
            times = 1 if "lda" in name else wanted.seeds
            trainings += times * len(parts)
            seconds += times * sum(parts) * columns * SECONDS.get(name, DENSE)
    cores = min(wanted.jobs or _cores(), _cores())
    folder = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{corpus.name}-{protocol.replace(COLUMN, '')}")
    title = corpus.card.title or corpus.name
    return Part(title, protocol, folder, settings, trainings, seconds / 60 / cores)


def _groups(system: str, widths: Sequence[int]) -> list[int]:
    """Return the columns of X for each set of encoders that a system gets."""
    if SYSTEMS[system].kind == "single":
        return list(widths)
    pairs = [a + b for i, a in enumerate(widths) for b in widths[i + 1 :]]
    return pairs if len(widths) < 3 else [*pairs, sum(widths)]


def _training_parts(corpus: Corpus, protocol: str, k: int) -> list[int]:
    """Return the training clips of each fold; none where the folds do not exist."""
    name = protocol.removeprefix(COLUMN)
    name = corpus.card.published_split if protocol == PUBLISHED else name
    facts = [clip.facts.get(name) for clip in corpus.clips]
    labels = np.array([clip.emotion for clip in corpus.clips])
    speakers = np.array([clip.speaker for clip in corpus.clips], dtype=object)
    column = np.array(facts, dtype=object)
    try:
        return [
            len(fold.train) for fold in make_folds(protocol, labels, speakers, k=k, column=column)
        ]
    except SplitError:  # said by the part itself, when its turn comes
        return []


def _width(choice: EncoderChoice) -> int:
    entry = CATALOGUE.get(choice.name)
    text = entry.dim if entry else ""
    return int(text) if text.isdecimal() else 1024


def _encoding_seconds(choice: EncoderChoice) -> float:
    entry = CATALOGUE.get(choice.name)
    if entry is not None and entry.modality == "weight-free":
        return ENCODING["weight-free"]
    return ENCODING["small" if choice.name in SMALL else "large"]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _minutes(minutes: float) -> str:
    if minutes < SHORT:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
