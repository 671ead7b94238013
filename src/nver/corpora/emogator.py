"""EmoGator: vocal bursts in 30 categories by 357 contributors, three instances each.

Names are ``NNNNNN-EE-I.mp3``: contributor 000001 to 000357, category 01 to 30, instance 1 to 3. The
label is what the contributor meant to express; nobody else rated the clips.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, CorpusCard, CorpusReader, Refusal
from nver.corpora.tree import Parsed, gather

CATEGORIES = (
    "Adoration",
    "Amusement",
    "Anger",
    "Awe",
    "Confusion",
    "Contempt",
    "Contentment",
    "Desire",
    "Disappointment",
    "Disgust",
    "Distress",
    "Ecstasy",
    "Elation",
    "Embarrassment",
    "Fear",
    "Guilt",
    "Interest",
    "Neutral",
    "Pain",
    "Pride",
    "Realization",
    "Relief",
    "Romantic Love",
    "Sadness",
    "Serenity",
    "Shame",
    "Surprise (Negative)",
    "Surprise (Positive)",
    "Sympathy",
    "Triumph",
)
"""In the corpus's order: code 01 is the first."""

_NAME = re.compile(r"(?P<speaker>[0-9]{6})-(?P<category>[0-9]{2})-(?P<instance>[0-9])\.mp3")

_CARD = CorpusCard(
    name="emogator",
    title="EmoGator",
    summary="Crowd-sourced non-speech vocal bursts in 30 categories, labelled by who made them.",
    licence="Apache-2.0",
    citation=(
        "F. W. Buhl: EmoGator: A New Open Source Vocal Burst Dataset with Baseline Machine "
        "Learning Classification Methodologies. arXiv:2301.00508, 2023"
    ),
    url="https://github.com/fredbuhl/EmoGator",
    clips=32130,
    speakers=357,
    labels=CATEGORIES,
    rate=48000,
    non_commercial=False,
    warning=(
        "Labels are what the contributors meant, not what listeners heard. A few contributors sent "
        "near-silent or cut-off clips; 90 clips are at 44.1 kHz, 1,706 are stereo."
    ),
    layout="NNNNNN-EE-I.mp3 in any folder (data/mp3 in the repository)",
)


class EmoGator(CorpusReader):
    """Reads EmoGator, all 30 categories."""

    @property
    def card(self) -> CorpusCard:
        """The facts."""
        return _CARD

    def read(self, root: Path, subset: str | None = None) -> Corpus:
        """Return the clips; see `CorpusReader.read`."""
        return gather(_CARD, root, _CARD.choose(subset), parse)


def parse(root: Path, file: PurePosixPath) -> Parsed:
    """Return what a file is by its name."""
    match = _NAME.fullmatch(file.name)
    if match is None:
        return Refusal(str(file), "its name is not NNNNNN-EE-I.mp3")
    code = int(match["category"])
    if not 1 <= code <= len(CATEGORIES):
        return Refusal(str(file), f"category '{match['category']}' is not one of 01 to 30")
    facts = {"instance": match["instance"]}
    return Clip(root / file, str(file), CATEGORIES[code - 1], match["speaker"], facts)
