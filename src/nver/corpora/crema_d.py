"""CREMA-D: acted speech, 12 sentences in six emotions by 91 actors. Speech, not vocal bursts.

Layout: ``AudioWAV/1001_DFA_ANG_XX.wav``: actor, sentence, emotion, intensity (LO, MD, HI, XX for
unspecified; early copies have one ``X``). ``AudioMP3`` holds the same clips again and is left out.
``VideoDemographics.csv`` beside them, where it is there, gives the actors' sex and age.

``1064_IEO_DIS_MD`` is refused: a one-minute file with every emotion of its sentence. Public readers
leave it out, some naming the corpus's README as their source. ``1076_MTI_SAD_XX`` is left out there
too, as near-silent; that is for the audio check to find.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, CorpusCard, CorpusReader, Fact, Refusal
from nver.corpora.table import read_table
from nver.corpora.tree import Parsed, gather

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}

_NAME = re.compile(
    f"(?P<actor>1[0-9]{{3}})_(?P<sentence>[A-Z]{{3}})_(?P<emotion>{'|'.join(EMOTIONS)})"
    f"_(?P<intensity>{'|'.join(INTENSITIES)})\\.wav"
)

_CARD = CorpusCard(
    name="crema-d",
    title="CREMA-D",
    summary="Acted emotional speech: 12 sentences, six emotions, 91 actors. Speech, not bursts.",
    licence="ODbL 1.0 (database), DbCL 1.0 (contents)",
    citation=(
        "H. Cao, D. G. Cooper, M. K. Keutmann, R. C. Gur, A. Nenkova and R. Verma: CREMA-D: "
        "Crowd-sourced Emotional Multimodal Actors Dataset. IEEE Transactions on Affective "
        "Computing 5(4), 377-390, 2014. doi:10.1109/TAFFC.2014.2336244"
    ),
    url="https://github.com/CheyneyComputerScience/CREMA-D",
    clips=7442,
    speakers=91,
    labels=tuple(EMOTIONS.values()),
    rate=16000,
    non_commercial=False,
    warning="Speech, not non-verbal bursts. Labels are what the actors were asked to express.",
    layout="AudioWAV/1001_DFA_ANG_XX.wav, with VideoDemographics.csv beside AudioWAV",
)

Demographics = Mapping[str, Mapping[str, Fact]]


class CremaD(CorpusReader):
    """Reads CREMA-D."""

    @property
    def card(self) -> CorpusCard:
        """The facts."""
        return _CARD

    def read(self, root: Path, subset: str | None = None) -> Corpus:
        """Return the clips; see `CorpusReader.read`."""
        chosen = _CARD.choose(subset)
        return gather(_CARD, root, chosen, partial(parse, demographics=demographics(root)))


def demographics(root: Path) -> Demographics:
    """Return actor -> sex and age from VideoDemographics.csv at or just above `root`, or {}.

    Raises
    ------
    CorpusError
        If the table is there and cannot be read.
    """
    for folder in (root, root.parent):
        path = folder / "VideoDemographics.csv"
        if path.is_file():
            rows = (row for _, row in read_table(path).rows)
            return {str(row.get("ActorID")): _person(row) for row in rows}
    return {}


def parse(root: Path, file: PurePosixPath, demographics: Demographics | None = None) -> Parsed:
    """Return what a file is by its name; None for the MP3 copies."""
    if "AudioMP3" in file.parts[:-1]:
        return None
    match = _NAME.fullmatch(file.name)
    if match is None:
        return Refusal(str(file), "its name is not <actor>_<sentence>_<emotion>_<intensity>.wav")
    if file.stem == "1064_IEO_DIS_MD":
        return Refusal(str(file), "holds every emotion of its sentence (known defect)")
    facts = {"intensity": INTENSITIES[match["intensity"]], "sentence": match["sentence"]}
    facts |= (demographics or {}).get(match["actor"], {})
    return Clip(root / file, str(file), EMOTIONS[match["emotion"]], match["actor"], facts)


def _person(row: Mapping[str, str | None]) -> Mapping[str, Fact]:
    sex, age = row.get("Sex"), row.get("Age")
    return {
        "sex": sex.lower() if sex else None,
        "age": int(age) if age and age.isascii() and age.isdigit() else age,
    }
