"""Deeply Nonverbal Vocalization Dataset, the open sample (16 types of vocalisation).

Layout: ``<class>/{speaker}_{class code}_{trial}_{sex}_{age}_{location}_{quality}_{noise}.wav``. The
labels are vocalisation types such as coughing, not emotions. A file whose folder is the name of
another class than its code says is refused. Sex 0 is female (the README; a public parser has it the
wrong way round).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, CorpusCard, CorpusReader, Refusal
from nver.corpora.tree import Parsed, gather

CLASSES = (
    "teeth-chattering",
    "teeth-grinding",
    "tongue-clicking",
    "nose-blowing",
    "coughing",
    "yawning",
    "throat-clearing",
    "sighing",
    "lip-popping",
    "lip-smacking",
    "panting",
    "crying",
    "laughing",
    "sneezing",
    "moaning",
    "screaming",
)
"""In the order of their codes: 0 is the first."""

_NAME = re.compile(
    "(?P<speaker>[0-9A-Z]+)_(?P<code>[0-9]{1,2})_(?P<trial>[0-9]+)_(?P<sex>[01])_(?P<age>[0-9]+)"
    r"_(?P<location>[01])_(?P<quality>[01])_(?P<noise>[01])\.wav"
)

_CARD = CorpusCard(
    name="deeply-nvd",
    title="Deeply Nonverbal Vocalization Dataset (open sample)",
    summary="Sixteen types of nonverbal vocalisation, recorded on phones in South Korea.",
    licence="CC BY-NC-ND 4.0",
    citation=(
        "Deeply Inc.: Deeply Nonverbal Vocalization Dataset. OpenSLR, SLR99. "
        "https://github.com/deeplyinc/Nonverbal-Vocalization-Dataset"
    ),
    url="https://github.com/deeplyinc/Nonverbal-Vocalization-Dataset",
    clips=727,
    speakers=410,
    labels=CLASSES,
    rate=16000,
    non_commercial=True,
    warning=(
        "Labels are types of vocalisation, not emotions. The licence forbids commercial use and "
        "passing on changed copies (trimmed, resampled, augmented)."
    ),
    layout="<class>/{speaker}_{class}_{trial}_{sex}_{age}_{location}_{quality}_{noise}.wav",
)


class DeeplyNvd(CorpusReader):
    """Reads the open sample of the Deeply Nonverbal Vocalization Dataset."""

    @property
    def card(self) -> CorpusCard:
        """The facts."""
        return _CARD

    def read(self, root: Path, subset: str | None = None) -> Corpus:
        """Return the clips; see `CorpusReader.read`."""
        return gather(_CARD, root, _CARD.choose(subset), parse)


def parse(root: Path, file: PurePosixPath) -> Parsed:
    """Return what a file is by its name, checked against its folder."""
    match = _NAME.fullmatch(file.name)
    if match is None:
        return Refusal(str(file), "its name is not {speaker}_{class}_..._{noise}.wav (8 fields)")
    code = int(match["code"])
    if code >= len(CLASSES):
        return Refusal(str(file), f"class code '{match['code']}' is not one of 0 to 15")
    folder = file.parent.name
    if folder in CLASSES and folder != CLASSES[code]:
        return Refusal(str(file), f"its name says {CLASSES[code]}, its folder says {folder}")
    facts = {
        "trial": match["trial"],
        "sex": ("female", "male")[int(match["sex"])],
        "age": int(match["age"]),
        "location": ("indoor", "outdoor")[int(match["location"])],
        "quality": ("high", "low")[int(match["quality"])],
        "noise": ("noiseless", "noisy")[int(match["noise"])],
    }
    return Clip(root / file, str(file), CLASSES[code], match["speaker"], facts)
