"""What of a paper's grid is on this machine, and where to get what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nver.config import EncoderChoice
from nver.corpora import CORPORA, Corpus, default_root, load_corpus
from nver.encoders import CATALOGUE
from nver.encoders.catalogue import folder_here
from nver.errors import CorpusError, NverError, SettingsError
from nver.listings import encoder as listed
from nver.published import mata


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
    k, seeds, jobs, device, allow_leak, label_column
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
    device: str = "cpu"
    allow_leak: bool = False
    label_column: str | None = None


@dataclass(frozen=True)
class Missing:
    """What the grid lacks here, and how to get it."""

    name: str
    how: str


def corpora_here(wanted: Wanted) -> tuple[list[tuple[str, Corpus]], list[Missing]]:
    """Return the corpora that are here, each as it is asked for, and those that are not."""
    if wanted.corpora:
        named = [(name, _load(wanted, name)) for name in wanted.corpora]
        return named, []
    found: list[tuple[str, Corpus]] = []
    missing: list[Missing] = []
    for name in mata().corpora:
        try:
            found.append((name, load_corpus(name, root_of(wanted, name))))
        except CorpusError:
            card = CORPORA.load(name)().card
            where = root_of(wanted, name) or default_root(name)
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
        return load_corpus(name, root_of(wanted, name))
    return load_corpus(name, label_column=wanted.label_column)


def root_of(wanted: Wanted, name: str) -> Path | None:
    """Return where a named corpus lies: a sub-folder of ``--root`` that has its name."""
    if wanted.root is None:
        return None
    folder = CORPORA.load(name)().card.folder or name
    return wanted.root / folder


def encoders_here(wanted: Wanted) -> tuple[list[EncoderChoice], list[str], list[Missing]]:
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
