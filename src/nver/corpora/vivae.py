"""VIVAE: Variably Intense Vocalizations of Affect and Emotion (6 emotions, 4 intensities).

Layout: ``full_set/`` (1,085 files) and ``core_set/`` (480 of them again, under the same names: 6
emotions x 4 intensities x 10 speakers x 2 items, chosen for authenticity). Names are
``S01_achievement_low_01.wav``; the item has one to three digits.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, CorpusCard, CorpusReader, Refusal
from nver.corpora.tree import Parsed, gather

EMOTIONS = ("achievement", "anger", "fear", "pain", "pleasure", "surprise")
INTENSITIES = ("low", "moderate", "strong", "peak")

_NAME = re.compile(
    f"(?P<speaker>S[0-9]{{2}})_(?P<emotion>{'|'.join(EMOTIONS)})"
    f"_(?P<intensity>{'|'.join(INTENSITIES)})_(?P<item>[0-9]+)\\.wav"
)

_CARD = CorpusCard(
    name="vivae",
    title="VIVAE",
    summary="Non-speech vocalisations of six affective states at four intensities, 11 speakers.",
    licence="CC BY-NC-SA 4.0 in one source, CC BY-NC 4.0 in another",
    citation=(
        "N. Holz, P. Larrouy-Maestri and D. Poeppel: The Variably Intense Vocalizations of Affect "
        "and Emotion (VIVAE) corpus prompts new perspective on nonspeech perception. Emotion "
        "22(1), 213-225, 2022. doi:10.1037/emo0001048"
    ),
    url="https://zenodo.org/record/4066235",
    clips=1085,
    speakers=11,
    labels=EMOTIONS,
    rate=None,
    non_commercial=True,
    warning="The sources disagree about the licence; both forbid commercial use.",
    subsets=("full", "core"),
    layout="full_set/S01_achievement_low_01.wav and core_set/ with the same names",
)


class Vivae(CorpusReader):
    """Reads VIVAE: subset ``full`` or ``core``."""

    @property
    def card(self) -> CorpusCard:
        """The facts; the counts are those of the full set."""
        return _CARD

    def read(self, root: Path, subset: str | None = None) -> Corpus:
        """Return the clips of `subset`; see `CorpusReader.read`."""
        chosen = _CARD.choose(subset)
        return gather(_CARD, root, chosen, partial(parse, core=chosen == "core"))


def parse(root: Path, file: PurePosixPath, core: bool = False) -> Parsed:
    """Return what a file is by its name; whatever lies outside ``core_set`` counts as full set."""
    # the root itself may be core_set
    in_core = "core_set" in file.parts[:-1] or root.name == "core_set"
    if in_core != core:
        return None
    match = _NAME.fullmatch(file.name)
    if match is None:
        return Refusal(str(file), "its name is not SNN_<emotion>_<intensity>_<item>.wav")
    facts = {"intensity": match["intensity"], "item": match["item"]}
    return Clip(root / file, str(file), match["emotion"], match["speaker"], facts)
