"""ASVP-ESD, the sound database of the Audio, Speech and Vision Processing Lab (13 emotions).

Layout of the update (13,964 files): ``Audio/actor_N/*.wav`` and, for the babies,
``Bonus/actor_N/*.wav``. A file name is a row of codes between hyphens::

    03-02-06-01-42-101-02-01-00-16-02.wav
    modality-channel-emotion-intensity-statement-actor-age-source-language-subtype-take...

The real names are dirty: 8 to 12 fields, intensities such as 021, ages such as 0401, sub-type codes
where the language should be, one emotion 17, a folder called ``actor_``. So:

- the first six fields are read by position; a name with fewer than eight (no real one has), or with
  a modality, channel, emotion or actor that is not documented, or with an intensity or statement
  that is no number, is refused with the reason: a field merged or lost would shift the others;
- a name whose actor is not its folder's, while the folder's stands in another field, is refused for
  the same reason;
- the actor (the speaker) is taken from the name, as a number without leading zeros. 16 files lie in
  another actor's folder, and are kept where nothing else speaks against the name; the folder is
  kept as a fact. Actor 50 of ``Bonus`` counts as actor 50 of ``Audio``: whoever they are, folds
  then keep them together;
- everything from the seventh field on is best effort: a documented code is translated, any other is
  kept as it stands. The language stays a code, since public readers translate it differently.

Actors are numbers in the file names; nobody has verified that each number is one person. The clips
come from films, television and web sites.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, CorpusCard, CorpusReader, Fact, Refusal
from nver.corpora.tree import Parsed, gather

EMOTIONS = {
    "01": "boredom",
    "02": "neutral",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
    "09": "excited",
    "10": "pleasure",
    "11": "pain",
    "12": "disappointment",
    "13": "breath",
}
CHANNELS = {"01": "speech", "02": "non-speech"}
INTENSITIES = {"01": "normal", "02": "high"}
AGES = {"01": "above 65", "02": "20 to 64", "03": "under 20", "04": "baby"}
SOURCES = {"01": "web site", "02": "YouTube", "03": "film"}

_CARD = CorpusCard(
    name="asvp-esd",
    title="ASVP-ESD (update)",
    summary="Speech and non-speech emotional sounds cut from films, television and web sites.",
    licence="unclear: CC BY 4.0 on one public copy, 'custom academic/research use' on another",
    citation=(
        "D. T. T. Landry, Q. He and W. Xie: Audio, Speech and Vision Processing Lab Emotional "
        "Sound database (ASVP-ESD). Zenodo, record 7132783. The authors also ask to cite: "
        "ASVP-ESD: A dataset and its benchmark for emotion recognition using both speech and "
        "non-speech utterances."
    ),
    url="https://zenodo.org/record/7132783",
    clips=7545,
    speakers=129,
    labels=tuple(EMOTIONS.values()),
    rate=16000,
    non_commercial=True,
    warning=(
        "The sources disagree about the licence and the clips come from films and television: do "
        "not pass them on. Actor numbers are not verified to be persons."
    ),
    subsets=("non-speech", "speech", "babies", "all"),
    layout="Audio/actor_N/03-02-06-01-42-101-02-01-00-16.wav, and Bonus/actor_N/ for the babies",
)


class AsvpEsd(CorpusReader):
    """Reads ASVP-ESD.

    Subsets: ``non-speech`` and ``speech`` (by vocal channel, without ``Bonus``), ``babies`` (all of
    ``Bonus``, speech of 60 clips included), ``all``.
    """

    @property
    def card(self) -> CorpusCard:
        """The facts; the counts are those of ``non-speech``, its actors those of ``Audio``."""
        return _CARD

    def read(self, root: Path, subset: str | None = None) -> Corpus:
        """Return the clips of `subset`; see `CorpusReader.read`."""
        chosen = _CARD.choose(subset)
        return gather(_CARD, root, chosen, partial(parse, subset=chosen), unique_names=False)


def parse(root: Path, file: PurePosixPath, subset: str = "all") -> Parsed:
    """Return what a file is by its name; None where it belongs to another subset."""
    bonus = "Bonus" in file.parts[:-1]
    if bonus and subset not in {"babies", "all"}:
        return None
    if subset == "babies" and not bonus:
        return None
    fields = file.stem.split("-")
    reason = _objection(file, fields)
    channel = CHANNELS.get(fields[1]) if len(fields) > 1 else None
    if channel is not None and subset in CHANNELS.values() and channel != subset:
        return None
    if reason is not None:
        return Refusal(str(file), reason)
    actor = int(fields[5])
    return Clip(root / file, str(file), EMOTIONS[fields[2]], str(actor), _facts(file, fields))


def _objection(file: PurePosixPath, fields: Sequence[str]) -> str | None:
    if file.suffix != ".wav":
        return f"expected a .wav file, got '{file.suffix}'"
    if len(fields) < 8:
        return f"its name has {len(fields)} fields between hyphens, at least 8 are needed"
    if fields[0] != "03":
        return f"modality '{fields[0]}' is not 03 (audio only)"
    if fields[1] not in CHANNELS:
        return f"vocal channel '{fields[1]}' is neither 01 (speech) nor 02 (non-speech)"
    if fields[2] not in EMOTIONS:
        return f"emotion '{fields[2]}' is not one of 01 to 13"
    for name, field in zip(("intensity", "statement"), fields[3:5], strict=True):
        if re.fullmatch("[0-9]+", field) is None:
            return f"{name} '{field}' is no number"
    if re.fullmatch("[0-9]{1,4}", fields[5]) is None:
        return f"actor '{fields[5]}' is no number"
    return _shifted(file.parent.name, fields)


def _shifted(folder: str, fields: Sequence[str]) -> str | None:
    """Return why the sixth field may not be the actor: the folder's number stands elsewhere."""
    match = re.fullmatch("actor_0*([0-9]{1,4})", folder)
    if match is None or int(match[1]) == int(fields[5]):
        return None
    # the first three are codes that are checked, and stand before any actor
    for place in (3, 4, *range(6, len(fields))):
        if re.fullmatch(f"0*{match[1]}", fields[place]) is not None:
            return (
                f"its actor '{fields[5]}' is not that of {folder}, which stands in field "
                f"{place + 1}: a field may be lost or added"
            )
    return None


def _facts(file: PurePosixPath, fields: Sequence[str]) -> Mapping[str, Fact]:
    rest = [*fields[6:], *[""] * 4]
    more = fields[9:]
    return {
        "channel": CHANNELS[fields[1]],
        "intensity": INTENSITIES.get(fields[3], fields[3]),
        "statement": fields[4],
        "sex": "female" if int(fields[5]) % 2 else "male",
        "age": AGES.get(rest[0], rest[0]) or None,
        "source": SOURCES.get(rest[1], rest[1]) or None,
        "language": rest[2] or None,
        "subtype": rest[3] or None,
        "take": "-".join(fields[10:]) or None,
        "noisy": int("77" in more),
        "mixed_voices": int("66" in more),
        "folder": file.parent.name,
    }
