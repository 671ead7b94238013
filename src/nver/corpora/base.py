"""What a corpus is: labelled clips, the speakers, and a card that says where they come from.

A reader turns a folder in a published layout into a `Corpus`. Nothing is decoded: only names and
small tables are read. Three rules hold for every reader:

- a file that looks like sound is a clip, or is refused with a reason, or belongs to a subset that
  was not asked for; it is never dropped in silence;
- a name that does not say its label beyond doubt is refused, so that no clip is mislabelled;
- identities (speaker, session, fold) are text, so that leading zeros survive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nver.errors import CorpusError
from nver.registry import nearest

if TYPE_CHECKING:
    import pandas

Fact = str | float | int | None


@dataclass(frozen=True)
class Clip:
    """One labelled sound file.

    Parameters
    ----------
    path : Path
        Where it lies.
    file : str
        Its path relative to the corpus root, with ``/``: the clip's id within the corpus.
    emotion : str
        Its label.
    speaker : str or None
        Who is heard; None where nobody knows.
    facts : mapping of str to str, float, int or None
        Whatever else the corpus says: intensity, sex, age, human scores, a manifest's columns.
    """

    path: Path
    file: str
    emotion: str
    speaker: str | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A file, or a manifest's row, that is no clip of the corpus, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class CorpusCard:
    """The facts of a corpus, as published.

    Parameters
    ----------
    name : str
        The key in the table.
    title, summary : str
        The corpus's own name; one sentence on what is heard.
    licence : str
        Of the recordings, with its version; where sources disagree, all of them.
    citation : str
        The reference to cite.
    url : str
        Where to get it.
    clips, speakers : int or None
        Published counts of the default subset; None where nobody published them.
    labels : tuple of str
        In the corpus's own order.
    rate : int or None
        Sampling rate in Hz; None where files differ or nobody says.
    synthetic : bool
        True where no person was recorded.
    non_commercial : bool or None
        True where the licence, or one of the licences claimed for it, excludes commercial use; None
        where nobody knows.
    warning : str
        What a reader of the scores must know; "" if nothing.
    subsets : tuple of str
        Parts that may be asked for; the first is the default.
    layout : str
        The paths that are expected under the root.
    folder : str
        Its folder under NVER_HOME/corpora; "" for the corpus's name.
    published_split : str
        The fact that holds the fold of each clip in the split that was published with the corpus;
        "" where its makers published none, or none that is known.
    """

    name: str
    title: str
    summary: str
    licence: str
    citation: str
    url: str
    clips: int | None
    speakers: int | None
    labels: tuple[str, ...]
    rate: int | None
    synthetic: bool = False
    non_commercial: bool | None = None
    warning: str = ""
    subsets: tuple[str, ...] = ("all",)
    layout: str = ""
    folder: str = ""
    published_split: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain JSON values."""
        return asdict(self) | {"labels": list(self.labels), "subsets": list(self.subsets)}

    def choose(self, subset: str | None) -> str:
        """Return `subset`, or the default one for None.

        Raises
        ------
        CorpusError
            If the corpus has no such subset.
        """
        if subset is None:
            return self.subsets[0]
        if subset not in self.subsets:
            guess = nearest(subset, self.subsets)
            hint = f"Did you mean '{guess}'? " if guess else ""
            raise CorpusError(
                f"Corpus '{self.name}' has no subset '{subset}'. {hint}"
                f"Known: {', '.join(self.subsets)}."
            )
        return subset


@dataclass(frozen=True)
class Corpus:
    """Labelled clips under one root.

    Parameters
    ----------
    card : CorpusCard
        Where they come from.
    root : Path
        The folder that every clip's ``file`` is relative to.
    clips : tuple of Clip
        In a fixed order: by folder and name, or as the manifest lists them.
    labels : tuple of str
        The labels that occur, in the card's order.
    refused : tuple of Refusal
        Sound files or rows that are no clips, with reasons.
    subset : str
        Which part of the corpus this is.
    notes : tuple of str
        What the reader decided and a person should know.
    """

    card: CorpusCard
    root: Path
    clips: tuple[Clip, ...] = field(repr=False)
    labels: tuple[str, ...]
    refused: tuple[Refusal, ...] = field(default=(), repr=False)
    subset: str = "all"
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The corpus's name."""
        return self.card.name

    @property
    def speakers(self) -> tuple[str, ...]:
        """The known speakers, sorted as text."""
        return tuple(sorted({clip.speaker for clip in self.clips if clip.speaker is not None}))

    def describe(self) -> dict[str, Any]:
        """Return counts and provenance as plain JSON values.

        Keys: name, title, subset, root, clips, labels (label -> clips), speakers,
        clips_without_speaker, refused, refusals (reason -> files), notes, licence, non_commercial,
        synthetic, warning, citation, url.
        """
        counts = Counter(clip.emotion for clip in self.clips)
        card = self.card
        return {
            "name": card.name,
            "title": card.title,
            "subset": self.subset,
            "root": str(self.root),
            "clips": len(self.clips),
            "labels": {label: counts[label] for label in self.labels},
            "speakers": len(self.speakers),
            "clips_without_speaker": sum(clip.speaker is None for clip in self.clips),
            "refused": len(self.refused),
            "refusals": dict(Counter(refusal.reason for refusal in self.refused)),
            "notes": list(self.notes),
            "licence": card.licence,
            "non_commercial": card.non_commercial,
            "synthetic": card.synthetic,
            "warning": card.warning,
            "citation": card.citation,
            "url": card.url,
        }

    def to_frame(self) -> pandas.DataFrame:
        """Return one row per clip: file, label, speaker, then every fact that any clip has.

        A fact called like one of the three is in a column ``fact_file`` and so on.
        """
        import pandas as pd

        rows = []
        for clip in self.clips:
            row: dict[str, Fact] = {"file": clip.file, "label": clip.emotion}
            row["speaker"] = clip.speaker
            for name, fact in clip.facts.items():
                row[f"fact_{name}" if name in {"file", "label", "speaker"} else name] = fact
            rows.append(row)
        return pd.DataFrame(rows)


class CorpusReader(ABC):
    """Reads one published layout; a table entry is a subclass without constructor arguments."""

    @property
    @abstractmethod
    def card(self) -> CorpusCard:
        """The facts of the corpus."""

    @abstractmethod
    def read(self, root: Path, subset: str | None = None) -> Corpus:
        """Return the corpus that lies under `root`.

        Raises
        ------
        CorpusError
            If the subset is unknown, or no clip of it lies under `root`.
        """
