"""The fold protocols by name: what each is called in a report, and what a reader must know of it.

Named here, made in `nver.splits`; the command line, the report and the documentation say the same
sentences because they read this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COLUMN = "column:"
PUBLISHED = "published"


@dataclass(frozen=True)
class Protocol:
    """How clips are divided into training and test.

    Parameters
    ----------
    name : str
        What ``--folds`` takes.
    title : str
        For people, in two or three words.
    summary : str
        One clause: how the folds are made.
    warning : str
        One or two sentences: what the scores do not say.
    independent : bool
        Whether the protocol itself keeps a speaker on one side of each fold.
    """

    name: str
    title: str
    summary: str
    warning: str
    independent: bool = False


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "speaker",
            "speaker-independent",
            "k stratified folds that share no speaker",
            "The scores hold for new speakers of the same corpus: same microphones, same "
            "instructions, same language. They say nothing about another corpus.",
            independent=True,
        ),
        Protocol(
            "loso",
            "leave one speaker out",
            "one fold for each speaker",
            "Every speaker is a fold: with few speakers the scores rest on few voices, and one "
            "unusual voice moves them.",
            independent=True,
        ),
        Protocol(
            "random",
            "random over clips",
            "k stratified folds over clips, whoever is heard (as the paper)",
            "The same people are heard in training and in test. The scores say how well known "
            "people are recognised, are too high for new ones, and must not be compared with "
            "speaker-independent scores.",
        ),
        Protocol(
            PUBLISHED,
            "the corpus's own split",
            "the folds, or the one division into training and test, published with the corpus",
            "The split is comparable with others' results on it, and only as good as its makers "
            "made it: read the leakage check before the scores.",
        ),
        Protocol(
            f"{COLUMN}NAME",
            "a column's folds",
            "one fold for each value of a column of the manifest",
            "The column decides: whether its folds share speakers or recordings, only the leakage "
            "check says.",
        ),
    )
}
"""Name (``column:NAME`` for any column) to facts, the most honest first."""


def protocol_of(name: str) -> Protocol | None:
    """Return the facts of what ``--folds`` was given; None for a name that is no protocol.

    >>> protocol_of("column:session").title, protocol_of("loso").independent
    ("a column's folds", True)
    """
    if name.startswith(COLUMN) and len(name) > len(COLUMN):
        return PROTOCOLS[f"{COLUMN}NAME"]
    return None if name == f"{COLUMN}NAME" else PROTOCOLS.get(name)


def protocol_title(name: str) -> str:
    """Return a protocol for people; a column is named.

    >>> protocol_title("random"), protocol_title("column:fold")
    ('random over clips', "folds of the column 'fold'")
    """
    if name.startswith(COLUMN):
        return f"folds of the column '{name.removeprefix(COLUMN)}'"
    found = protocol_of(name)
    return found.title if found else name


def without_speaker(unknown: int, clips: int) -> str:
    """Return what it means that some of the clips, or all, name no speaker.

    Corpora and the leakage check say it in the same words, so that a run tells it once.

    >>> without_speaker(3, 10)
    '3 of 10 clips do not have a known speaker: the same person may be on both sides of a fold.'
    """
    whose = f"{unknown} of {clips} clips do not have" if unknown < clips else "No clip has"
    return f"{whose} a known speaker: the same person may be on both sides of a fold."
