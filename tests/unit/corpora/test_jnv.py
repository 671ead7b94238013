"""JNV: names, human scores and phrases."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from nver.corpora import Clip, Refusal, load_corpus
from nver.corpora.jnv import parse, read_phrases, read_scores

ROOT = Path("/corpus")


def test_a_name_gives_label_speaker_and_session() -> None:
    parsed = parse(ROOT, PurePosixPath("JNV/F1/F1_angry_00_R.wav"))
    assert isinstance(parsed, Clip)
    assert (parsed.emotion, parsed.speaker) == ("angry", "F1")
    assert parsed.facts == {"sex": "female", "id": "00", "session": "regular", "phrase": None}
    free = parse(ROOT, PurePosixPath("JNV/M2/M2_sad_14_F.wav"))
    assert isinstance(free, Clip)
    assert free.facts == {"sex": "male", "id": "14", "session": "phrase-free"}


@pytest.mark.parametrize("name", ["F1_anger_regular_01.wav", "M2_happy_free_03.wav"])
def test_the_sister_corpus_is_refused(name: str) -> None:
    parsed = parse(ROOT, PurePosixPath("F1") / name)
    assert parsed == Refusal(f"F1/{name}", "is of JVNV (speech), another corpus")


@pytest.mark.parametrize("name", ["F1_anger_00_R.wav", "F1_angry_00_X.wav", "X1_angry_00_R.wav"])
def test_other_names_are_refused(name: str) -> None:
    parsed = parse(ROOT, PurePosixPath(name))
    assert isinstance(parsed, Refusal)
    assert parsed.reason == "its name is not <speaker>_<emotion>_<id>_<R or F>.wav"


def test_scores_and_phrases_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "jnv_corpus_ver2" / "JNV"
    (root / "F1").mkdir(parents=True)
    for name in ("F1_angry_00_R", "F1_sad_03_F"):
        (root / "F1" / f"{name}.wav").touch()
    (root / "file_forced_choice_accuracy.csv").write_text(
        "file,accuracy\nF1_angry_00_R,0.9\nF1_sad_03_F,0.25\n"
    )
    (root / "file_rating_scale.csv").write_text(
        ",name,angry,sad\n0,F1/F1_angry_00_R.wav,4.5,1\n1,F1/F1_sad_03_F.wav,1,\n"
    )
    (root / "file_authenticity.csv").write_text("wav\tscore\n")
    (root / "phrases.txt").write_text("angry\n00 ああ\n01 おい\n", encoding="utf-8")
    corpus = load_corpus("jnv", root=tmp_path)
    angry, sad = corpus.clips
    assert angry.facts["forced_choice_accuracy"] == 0.9
    assert (angry.facts["rating_angry"], angry.facts["rating_sad"]) == (4.5, 1.0)
    assert angry.facts["phrase"] == "ああ"
    assert sad.facts["rating_sad"] is None
    assert "phrase" not in sad.facts
    assert corpus.notes == (
        "file_authenticity.csv was left out: no column names clips such as F1_angry_00_R.",
    )


def test_a_table_with_several_rows_for_a_clip_is_left_out_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "file_rating_scale.csv").write_text(
        "file,score\nF1_angry_00_R.wav,1\nF1_angry_00_R.wav,2\n"
    )
    scores, notes = read_scores(tmp_path)
    assert scores == {}
    assert notes == ["file_rating_scale.csv was left out: it has several rows for F1_angry_00_R."]


@pytest.mark.parametrize(
    "text",
    [
        "angry 00 ああ\nsad 03 うう\n",
        "angry_00_R: ああ\nsad_03_R: うう\n",
        "# angry\n00, ああ\n[sad]\n03, うう\n",
        "\ufeffangry:\n0 ああ\n\nsad:\n3 うう\n",
    ],
)
def test_phrases_are_read_in_the_forms_one_may_expect(tmp_path: Path, text: str) -> None:
    (tmp_path / "phrases.txt").write_text(text, encoding="utf-8")
    phrases, notes = read_phrases(tmp_path)
    assert phrases == {("angry", 0): "ああ", ("sad", 3): "うう"}
    assert notes == []


def test_lines_that_are_not_understood_are_counted(tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_text("00 ああ\nangry\nああ\n01 おい\n", encoding="utf-8")
    phrases, notes = read_phrases(tmp_path)
    assert phrases == {("angry", 1): "おい"}
    assert notes == ["phrases.txt: 2 lines were not understood and are left out."]


def test_the_same_clip_twice_is_one_clip(tmp_path: Path) -> None:
    for version in ("ver2", "ver3"):
        (tmp_path / version / "F1").mkdir(parents=True)
        (tmp_path / version / "F1" / "F1_angry_00_R.wav").touch()
    corpus = load_corpus("jnv", root=tmp_path)
    assert [clip.file for clip in corpus.clips] == ["ver2/F1/F1_angry_00_R.wav"]
    assert corpus.refused == (
        Refusal("ver3/F1/F1_angry_00_R.wav", "has the same name as ver2/F1/F1_angry_00_R.wav"),
    )
