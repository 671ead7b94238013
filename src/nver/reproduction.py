"""`nver reproduce mata`: the grid of the paper's table, on what is here, beside what was published.

Each corpus is judged twice: in the paper's protocol (random folds) and in one that keeps speakers
apart (leave one speaker out where speakers are few), with the paper's recipe in both, so that they
differ in the folds alone. Every encoder alone, every pair of encoders, and all of them together.
Whatever is missing is said with where to get it. Each corpus and protocol is a run folder as
`nver evaluate` leaves it: a command that was stopped goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nver.config import EncoderChoice, Settings
from nver.corpora import CORPORA, Corpus, default_root, load_corpus
from nver.encoders import CATALOGUE
from nver.encoders.catalogue import folder_here
from nver.errors import CorpusError, NverError, SettingsError, SplitError
from nver.experiment import evaluate
from nver.listings import encoder as listed
from nver.progress import Progress
from nver.protocols import COLUMN, PUBLISHED, protocol_title
from nver.published import mata
from nver.registry import unknown
from nver.splits import make_folds
from nver.systems import SYSTEMS

if TYPE_CHECKING:
    from nver.report.joint import Chapter

PAPERS = ("mata",)

GRID = ("lda", "fcn", "cnn", "concat-lda", "concat", "transport", "attention", "mata", "mata-cnn")
"""The systems of the grid: the paper's, and a linear one of each kind to judge them by."""

SECONDS = {
    "lda": 4e-7,
    "concat-lda": 4e-7,
    "fcn": 7e-7,
    "concat": 6e-7,
    "cnn": 1.7e-5,
    "mata-cnn": 1.1e-5,
}
"""Seconds of one core for a training, per training clip and column of X (others: `DENSE`)."""

DENSE = 2.5e-6
ENCODING = {"weight-free": 0.02, "small": 0.05, "large": 0.5}
"""Seconds of one core for a clip: measured on two-second clips; "large" is a rough guess."""

SMALL = ("byol-s", "efficientat-mn04", "light-asd")


@dataclass(frozen=True)
class Wanted:
    """What is to be reproduced, as the command line asks for it.

    Parameters
    ----------
    paper : str
        Of `PAPERS`.
    corpora : tuple of str
        Names, folders or manifests in the place of the paper's corpora.
    root : Path or None
        Folder with a sub-folder per named corpus; None is NVER_HOME/corpora.
    folds : tuple of str
        Protocols; empty: random, and the one that keeps the corpus's speakers apart.
    encoders : tuple of str
        As ``-e`` takes them; empty: all that run here.
    weights : Path or None
        Where else checkpoints lie; None: a folder ``weights`` beside that of a manifest's corpus.
    recipe : {"paper", "nver"}
        How networks are trained.
    k, seeds, jobs, allow_leak, label_column
        As in `nver.config.Settings`.
    """

    paper: str = "mata"
    corpora: tuple[str, ...] = ()
    root: Path | None = None
    folds: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    weights: Path | None = None
    recipe: str = "paper"
    k: int = 5
    seeds: int = 1
    jobs: int | None = None
    allow_leak: bool = False
    label_column: str | None = None


@dataclass(frozen=True)
class Missing:
    """What the grid lacks here, and how to get it."""

    name: str
    how: str


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
        lines.append(
            f"All together about {_minutes(self.minutes)} on {_cores()} cores, of which up to "
            f"{_minutes(self.encoding)} to encode what is not encoded yet. A command that is "
            "stopped goes on where it was."
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
    corpora, missing = _corpora(wanted)
    choices, names, lacking = _encoders(wanted)
    missing += lacking
    if not corpora:
        raise SettingsError(
            "None of the paper's corpora is here. Get one, or pass --corpus MANIFEST. "
            + " ".join(f"{one.name}: {one.how}." for one in missing)
        )
    if not choices:
        raise SettingsError("No encoder is here: pass -e NAME; see `nver encoders`.")
    parts: list[Part] = []
    clips = 0
    widths = {name: _width(choice) for name, choice in zip(names, choices, strict=True)}
    for given, corpus in corpora:
        clips += len(corpus.clips)
        parts += [
            _part(wanted, given, corpus, protocol, choices, widths)
            for protocol in wanted.folds or _protocols(corpus, wanted.k)
        ]
    seconds = sum(_encoding_seconds(choice) for choice in choices) * clips
    return Plan(tuple(parts), tuple(names), tuple(missing), seconds / 60 / _cores())


def reproduce(
    planned: Plan,
    out: Path,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Chapters:
    """Run the grid and write ``index.html`` and ``index.md`` over its runs.

    A part that cannot be run, for a leak or for folds that do not exist, is told in the index with
    its reason; the others go on. The index is written anew after each part.

    Parameters
    ----------
    planned : Plan
    out : Path
        Holds a run folder per part, and the index.
    progress : callable or None
        As in `nver.experiment.evaluate`.
    tell : callable
        Called with a sentence for each part.
    """
    from nver.report.joint import Chapter, write_index

    if out.is_file():
        raise SettingsError(f"Expected a folder for the results, '{out}' is a file.")
    chapters: list[Chapter] = []
    failed = 0
    missing = [(one.name, one.how) for one in planned.missing]
    index = out / "index.html"
    for number, part in enumerate(planned.parts, 1):
        tell(
            f"[{number}/{len(planned.parts)}] {part.corpus}, {protocol_title(part.protocol)}: "
            f"{part.trainings} trainings"
        )
        reason = ""
        try:
            failed += evaluate(part.settings, out / part.folder, progress).failed
        except NverError as error:
            reason = str(error)
            tell(f"  not done: {reason}")
        chapters.append(Chapter(part.corpus, part.protocol, part.folder, reason))
        index = write_index(out, chapters, missing)
    return Chapters(index, tuple(chapters), failed)


@dataclass(frozen=True)
class Chapters:
    """What `reproduce` has done: the index, its parts, and how many clips failed."""

    index: Path
    parts: tuple[Chapter, ...]
    failed: int

    @property
    def undone(self) -> tuple[str, ...]:
        """A reason for each part that could not be run."""
        return tuple(part.reason for part in self.parts if part.reason)


def _corpora(wanted: Wanted) -> tuple[list[tuple[str, Corpus]], list[Missing]]:
    """Return the corpora that are here, each as it is asked for, and those that are not."""
    if wanted.corpora:
        named = [(name, _load(wanted, name)) for name in wanted.corpora]
        return named, []
    found: list[tuple[str, Corpus]] = []
    missing: list[Missing] = []
    for name in mata().corpora:
        try:
            found.append((name, load_corpus(name, _root(wanted, name))))
        except CorpusError:
            card = CORPORA.load(name)().card
            where = _root(wanted, name) or default_root(name)
            missing.append(
                Missing(
                    card.title,
                    f"{card.clips} clips, {mata().sizes.get(name, 'size unknown')}, licence "
                    f"{card.licence}; get it at {card.url} and unpack it into {where}",
                )
            )
    return found, missing


def _load(wanted: Wanted, name: str) -> Corpus:
    if name in CORPORA.targets():
        return load_corpus(name, _root(wanted, name))
    return load_corpus(name, label_column=wanted.label_column)


def _root(wanted: Wanted, name: str) -> Path | None:
    """Return where a named corpus lies: a sub-folder of ``--root`` that has its name."""
    if wanted.root is None:
        return None
    folder = CORPORA.load(name)().card.folder or name
    return wanted.root / folder


def _encoders(wanted: Wanted) -> tuple[list[EncoderChoice], list[str], list[Missing]]:
    """Return the encoders that can be built here, their names, and the paper's that cannot."""
    if wanted.encoders:
        choices = [EncoderChoice.parse(text) for text in wanted.encoders]
        return choices, [choice.load().card.name for choice in choices], []
    places = _weights(wanted)
    choices, names, missing = [], [], []
    for name in CATALOGUE:
        choice, reason = _here(name, places)
        if choice is not None:
            try:
                names.append(choice.load().card.name)
                choices.append(choice)
                continue
            except NverError as error:
                reason = str(error)
        if name in mata().encoders:
            entry = CATALOGUE[name]
            missing.append(Missing(name, f"{reason}; licence {entry.licence}"))
    return choices, names, missing


def _here(name: str, places: Sequence[Path]) -> tuple[EncoderChoice | None, str]:
    """Return an encoder with its checkpoint here, or why there is none."""
    row = listed(name)[0]
    if row["available"]:
        return EncoderChoice(name), ""
    folder = folder_here(name, places)
    if folder is not None:
        return EncoderChoice(name, str(folder)), ""
    return None, str(row["reason"])


def _weights(wanted: Wanted) -> list[Path]:
    """Return where checkpoints are looked for beside the usual places."""
    if wanted.weights is not None:
        if not wanted.weights.is_dir():
            raise SettingsError(f"--weights: there is no folder '{wanted.weights}'.")
        return [wanted.weights]
    beside = []
    for name in wanted.corpora:
        path = Path(name).expanduser().absolute()
        if path.exists():
            beside += [folder / "weights" for folder in path.parents[:3]]
    return [folder for folder in dict.fromkeys(beside) if folder.is_dir()]


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
        root=_root(wanted, given) if named else None,
        label_column=None if named else wanted.label_column,
        folds=protocol,
        k=wanted.k,
        seeds=wanted.seeds,
        pairs=len(choices) > 2,
        allow_leak=wanted.allow_leak,
        jobs=wanted.jobs,
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
    if minutes < 1:
        return "a minute"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
