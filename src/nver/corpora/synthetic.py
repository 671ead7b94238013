"""The synthetic corpus: eight vocal bursts by twelve synthetic voices, made on this machine.

No person was recorded: scores on it say whether a pipeline works, and nothing about people. It is
made on first use, in some seconds, and then read like any other: WAV files and a ``metadata.csv``.
"""

from __future__ import annotations

import json
from pathlib import Path

from nver.corpora.base import Clip, Corpus, CorpusCard, CorpusReader, Fact
from nver.corpora.table import Row, read_table
from nver.errors import CorpusError

EMOTIONS = ("amusement", "anger", "fear", "pain", "pleasure", "relief", "sadness", "surprise")

_CARD = CorpusCard(
    name="synthetic",
    title="nver synthetic bursts",
    summary="Laughs, cries, screams, sighs, growls, gasps, moans and groans by a synthesiser.",
    licence="Apache-2.0 (made by nver)",
    citation="none: it is made by nver, no study stands behind it",
    url="made on this machine at first use",
    clips=384,
    speakers=12,
    labels=EMOTIONS,
    rate=16000,
    non_commercial=False,
    synthetic=True,
    warning="Made by a synthesiser; scores on it say nothing about people.",
    layout="metadata.csv, synthesis.json and <speaker>/<speaker>_<vocalisation>_<take>.wav",
    folder="synthetic-v2",
)


class Synthetic(CorpusReader):
    """Makes the synthetic corpus where it is not there yet, and reads it."""

    @property
    def card(self) -> CorpusCard:
        """The facts."""
        return _CARD

    def read(self, root: Path, subset: str | None = None) -> Corpus:
        """Return the clips under `root`, made first if it is missing or empty.

        Raises
        ------
        CorpusError
            If the subset is unknown, or `root` holds something else, another version, or a damaged
            copy.
        """
        from nver.corpora.synthesis import MARK, VERSION, synthesise

        chosen = _CARD.choose(subset)
        recipe = json.loads((synthesise(root) / MARK).read_text(encoding="utf-8"))
        clips = tuple(_clip(root, row) for _, row in read_table(root / "metadata.csv").rows)
        whole = len(clips) == recipe["clips"] and all(clip.path.is_file() for clip in clips)
        if recipe["version"] != VERSION or not whole:
            raise CorpusError(
                f"The synthetic corpus at {root} is incomplete or of another version (expected "
                f"{VERSION}). Delete that folder: it is made anew when it is next asked for."
            )
        present = {clip.emotion for clip in clips}
        labels = tuple(label for label in EMOTIONS if label in present)
        return Corpus(_CARD, root, clips, labels, (), chosen, (_CARD.warning,))


def _clip(root: Path, row: Row) -> Clip:
    facts: dict[str, Fact] = {name: row[name] for name in ("sex", "vocalisation", "take")}
    facts |= {name: float(str(row[name])) for name in ("strength", "seconds")}
    file = str(row["file"])
    return Clip(root / file, file, str(row["label"]), row["speaker"], facts)
