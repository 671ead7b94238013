"""JNV: Japanese nonverbal vocalisations, 420 clips of 4 speakers in 6 emotions, with human scores.

Layout: ``<speaker>/F1_angry_00_R.wav``, below ``JNV/`` or ``jnv_corpus_ver2/JNV/`` as well:
speaker, emotion, id, session (R: the phrase was given; F: free). The sister corpus JVNV is speech
and uses other emotion words; its files are refused.

The tables beside the speakers are read where they are there. The corpus's readme names them and
does not describe their columns, so they are read leniently:

- ``file_forced_choice_accuracy.csv``, ``file_rating_scale.csv``, ``file_authenticity.csv``: the
  first column whose cells name clips (with or without folder and ``.wav``) identifies the row; each
  other column becomes a fact, ``forced_choice_<column>``, ``rating_<column>``,
  ``authenticity_<column>``, a number where it can be read as one. A table with several rows for a
  clip is left out, with a note.
- ``phrases.txt``: lines that say emotion, id and phrase (``angry 00 ...``), or id and phrase below
  a line that says the emotion; the fact ``phrase`` of the R clips. Other lines are counted in a
  note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, CorpusCard, CorpusReader, Fact, Refusal
from nver.corpora.table import Table, read_table
from nver.corpora.tree import Parsed, gather
from nver.errors import CorpusError

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise")
SCORES = {
    "file_forced_choice_accuracy.csv": "forced_choice",
    "file_rating_scale.csv": "rating",
    "file_authenticity.csv": "authenticity",
}

_STEM = f"(?P<speaker>[FM][0-9])_(?P<emotion>{'|'.join(EMOTIONS)})_(?P<id>[0-9]+)_(?P<session>[RF])"
_NAME = re.compile(_STEM + r"\.wav")
_CLIP = re.compile(rf"(?:.*/)?(?P<clip>{_STEM})(?:\.wav)?")
_JVNV = re.compile(r"[FM][0-9]_[a-z]+_(regular|free)_[0-9]+\.wav")
_PHRASE = re.compile(
    f"(?:(?P<emotion>{'|'.join(EMOTIONS)})\\W*_?)?(?P<id>[0-9]+)(?:_R)?[\\s,:|]+(?P<phrase>\\S.*)"
)

_CARD = CorpusCard(
    name="jnv",
    title="JNV",
    summary="Japanese nonverbal vocalisations with diverse phrases, 4 speakers, 6 emotions.",
    licence="CC BY-SA 4.0",
    citation=(
        "D. Xin, S. Takamichi and H. Saruwatari: JNV corpus: A corpus of Japanese nonverbal "
        "vocalizations with diverse phrases and emotions. Speech Communication 156, 103004, 2024"
    ),
    url="https://ss-takashi.sakura.ne.jp/corpus/jnv/jnv_corpus_ver3.zip",
    clips=420,
    speakers=4,
    labels=EMOTIONS,
    rate=48000,
    non_commercial=False,
    warning="Four speakers: speaker-independent folds are four at most. Some files are stereo.",
    layout="<speaker>/F1_angry_00_R.wav, with phrases.txt and file_*.csv beside the speakers",
)

Scores = Mapping[str, Mapping[str, Fact]]
Phrases = Mapping[tuple[str, int], str]


class Jnv(CorpusReader):
    """Reads JNV, with phrases and human scores where they are there."""

    @property
    def card(self) -> CorpusCard:
        """The facts."""
        return _CARD

    def read(self, root: Path, subset: str | None = None) -> Corpus:
        """Return the clips; see `CorpusReader.read`."""
        chosen = _CARD.choose(subset)
        scores, notes = read_scores(root)
        phrases, more = read_phrases(root)
        judge = partial(parse, scores=scores, phrases=phrases)
        return gather(_CARD, root, chosen, judge, notes=[*notes, *more])


def parse(
    root: Path, file: PurePosixPath, scores: Scores | None = None, phrases: Phrases | None = None
) -> Parsed:
    """Return what a file is by its name, with what the tables say of it."""
    if _JVNV.fullmatch(file.name):
        return Refusal(str(file), "is of JVNV (speech), another corpus")
    match = _NAME.fullmatch(file.name)
    if match is None:
        return Refusal(str(file), "its name is not <speaker>_<emotion>_<id>_<R or F>.wav")
    regular = match["session"] == "R"
    facts: dict[str, Fact] = {
        "sex": "female" if match["speaker"][0] == "F" else "male",
        "id": match["id"],
        "session": "regular" if regular else "phrase-free",
    }
    if regular:
        facts["phrase"] = (phrases or {}).get((match["emotion"], int(match["id"])))
    facts |= (scores or {}).get(file.stem, {})
    return Clip(root / file, str(file), match["emotion"], match["speaker"], facts)


def read_scores(root: Path) -> tuple[Scores, list[str]]:
    """Return clip -> scores from the three tables, and notes on what could not be used."""
    scores: dict[str, dict[str, Fact]] = {}
    notes = []
    for name, prefix in SCORES.items():
        path = _find(root, name)
        if path is None:
            continue
        try:
            for clip, facts in _keyed(read_table(path), prefix).items():
                scores.setdefault(clip, {}).update(facts)
        except CorpusError as error:
            notes.append(f"{name} was left out: {error}")
    return scores, notes


def read_phrases(root: Path) -> tuple[Phrases, list[str]]:
    """Return (emotion, id) -> phrase from phrases.txt, and a note on lines not understood."""
    path = _find(root, "phrases.txt")
    if path is None:
        return {}, []
    phrases: dict[tuple[str, int], str] = {}
    emotion, lost = None, 0
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        text = line.strip()
        match = _PHRASE.fullmatch(text)
        heading = text.strip("#[]:*- ").lower()
        if heading in EMOTIONS:
            emotion = heading
        elif match and (match["emotion"] or emotion):
            phrases[match["emotion"] or str(emotion), int(match["id"])] = match["phrase"].strip()
        elif text:
            lost += 1
    notes = [f"phrases.txt: {lost} lines were not understood and are left out."] if lost else []
    return phrases, notes


def _find(root: Path, name: str) -> Path | None:
    if not root.is_dir():
        return None
    return min(root.rglob(name), default=None, key=lambda path: (len(path.parts), str(path)))


def _keyed(table: Table, prefix: str) -> dict[str, dict[str, Fact]]:
    key = next(
        (name for name in table.columns if any(_clip(row[name]) for _, row in table.rows)), None
    )
    if key is None:
        raise CorpusError("no column names clips such as F1_angry_00_R.")
    found: dict[str, dict[str, Fact]] = {}
    for _, row in table.rows:
        clip = _clip(row[key])
        if clip in found:
            raise CorpusError(f"it has several rows for {clip}.")
        if clip is not None:
            others = (name for name in table.columns if name != key)
            found[clip] = {f"{prefix}_{name}".rstrip("_"): _number(row[name]) for name in others}
    return found


def _clip(cell: str | None) -> str | None:
    match = _CLIP.fullmatch(cell or "")
    return match["clip"] if match else None


def _number(cell: str | None) -> Fact:
    try:
        value = float(cell or "")
    except ValueError:
        return cell
    return value if math.isfinite(value) else cell
