"""VIVAE, EmoGator, Deeply NVD and CREMA-D: what the names say, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

import pytest

from nver.corpora import Clip, Refusal, crema_d, deeply_nvd, emogator, load_corpus, vivae
from nver.corpora.tree import Parsed
from nver.errors import CorpusError

ROOT = Path("/corpus")


def reason(parsed: Parsed) -> str:
    assert isinstance(parsed, Refusal)
    return parsed.reason


def test_vivae_keeps_the_intensity_and_items_of_any_length() -> None:
    for item in ("02", "011", "7", "107"):
        parsed = vivae.parse(ROOT, PurePosixPath(f"full_set/S05_anger_moderate_{item}.wav"))
        assert isinstance(parsed, Clip)
        assert (parsed.emotion, parsed.speaker) == ("anger", "S05")
        assert parsed.facts == {"intensity": "moderate", "item": item}


@pytest.mark.parametrize(
    "name",
    [
        "S05_joy_low_01.wav",
        "S05_anger_extreme_01.wav",
        "S5_anger_low_01.wav",
        "s05_anger_low_01.wav",
        "S05_anger_low_01.flac",
        "S05_anger_low_01 (1).wav",
    ],
)
def test_vivae_refuses_other_names(name: str) -> None:
    expected = "its name is not SNN_<emotion>_<intensity>_<item>.wav"
    assert reason(vivae.parse(ROOT, PurePosixPath(name))) == expected


def test_vivae_core_may_be_the_root_itself(tmp_path: Path) -> None:
    core = tmp_path / "core_set"
    core.mkdir()
    (core / "S01_fear_low_01.wav").touch()
    assert len(load_corpus("vivae", root=core, subset="core").clips) == 1
    with pytest.raises(CorpusError, match=r"subset 'full'.*none of the sound files there belongs"):
        load_corpus("vivae", root=core)


def test_emogator_categories_count_from_one() -> None:
    first, last = (
        emogator.parse(ROOT, PurePosixPath(f"data/mp3/000046-{code}-2.mp3"))
        for code in ("01", "30")
    )
    assert isinstance(first, Clip)
    assert isinstance(last, Clip)
    assert (first.emotion, last.emotion) == ("Adoration", "Triumph")
    assert first.speaker == "000046"
    assert first.facts == {"instance": "2"}
    assert len(set(emogator.CATEGORIES)) == 30


def test_emogator_refuses_what_is_not_documented() -> None:
    for code in ("00", "31"):
        parsed = emogator.parse(ROOT, PurePosixPath(f"000046-{code}-2.mp3"))
        assert reason(parsed) == f"category '{code}' is not one of 01 to 30"
    assert reason(emogator.parse(ROOT, PurePosixPath("46-01-2.mp3"))).startswith("its name is not")


@pytest.mark.corpus
def test_emogator_agrees_with_the_labels_of_a_real_selection(shared_data: Path) -> None:
    root = shared_data / "emogator12"
    corpus = load_corpus("emogator", root=root)
    with (root / "metadata.csv").open(newline="") as stream:
        expected = {row["file"]: (row["label"], row["speaker"]) for row in csv.DictReader(stream)}
    assert {clip.file: (clip.emotion, clip.speaker) for clip in corpus.clips} == expected
    assert corpus.refused == ()


@pytest.mark.corpus
def test_deeply_agrees_with_the_labels_of_the_real_clips(shared_data: Path) -> None:
    root = shared_data / "deeply_nvd"
    corpus = load_corpus("deeply-nvd", root=root)
    with (root / "metadata.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = {row["file"]: (row["label"], row["speaker"], row["sex"], row["age"]) for row in rows}
    assert corpus.refused == ()
    assert {
        clip.file: (clip.emotion, clip.speaker, clip.facts["sex"], str(clip.facts["age"]))
        for clip in corpus.clips
    } == expected


def test_deeply_reads_all_eight_fields() -> None:
    parsed = deeply_nvd.parse(ROOT, PurePosixPath("dataset/coughing/0C1S_4_8_1_27_1_1_1.wav"))
    assert isinstance(parsed, Clip)
    assert (parsed.emotion, parsed.speaker) == ("coughing", "0C1S")
    assert parsed.facts == {
        "trial": "8",
        "sex": "male",
        "age": 27,
        "location": "outdoor",
        "quality": "low",
        "noise": "noisy",
    }


def test_deeply_refuses_a_name_that_its_folder_contradicts() -> None:
    parsed = deeply_nvd.parse(ROOT, PurePosixPath("crying/0C1S_4_8_1_27_1_1_1.wav"))
    assert reason(parsed) == "its name says coughing, its folder says crying"
    parsed = deeply_nvd.parse(ROOT, PurePosixPath("crying/0C1S_16_8_1_27_1_1_1.wav"))
    assert reason(parsed) == "class code '16' is not one of 0 to 15"
    parsed = deeply_nvd.parse(ROOT, PurePosixPath("crying/0C1S_11_8_1_27_1_1.wav"))
    assert reason(parsed) == "its name is not {speaker}_{class}_..._{noise}.wav (8 fields)"


@pytest.mark.parametrize(
    ("code", "intensity"),
    [("LO", "low"), ("MD", "medium"), ("HI", "high"), ("XX", "unspecified"), ("X", "unspecified")],
)
def test_crema_d_intensities_the_known_short_one_too(code: str, intensity: str) -> None:
    parsed = crema_d.parse(ROOT, PurePosixPath(f"AudioWAV/1040_ITH_SAD_{code}.wav"))
    assert isinstance(parsed, Clip)
    assert (parsed.emotion, parsed.speaker) == ("sad", "1040")
    assert parsed.facts == {"intensity": intensity, "sentence": "ITH"}


def test_crema_d_refuses_the_file_that_holds_every_emotion() -> None:
    parsed = crema_d.parse(ROOT, PurePosixPath("AudioWAV/1064_IEO_DIS_MD.wav"))
    assert reason(parsed) == "holds every emotion of its sentence (known defect)"
    parsed = crema_d.parse(ROOT, PurePosixPath("AudioWAV/1001_IEO_CON_MD.wav"))
    assert reason(parsed).startswith("its name is not <actor>_<sentence>")


def test_crema_d_leaves_the_mp3_copies_alone() -> None:
    assert crema_d.parse(ROOT, PurePosixPath("AudioMP3/1001_DFA_ANG_XX.mp3")) is None


@pytest.mark.parametrize("root", ["", "AudioWAV"])
def test_crema_d_demographics_are_found_at_the_root_or_above(tmp_path: Path, root: str) -> None:
    (tmp_path / "AudioWAV").mkdir()
    for actor in ("1001", "1002"):
        (tmp_path / "AudioWAV" / f"{actor}_DFA_ANG_XX.wav").touch()
    (tmp_path / "VideoDemographics.csv").write_text(
        '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'
    )
    known, unknown = load_corpus("crema-d", root=tmp_path / root).clips
    assert (known.facts["sex"], known.facts["age"]) == ("male", 51)
    assert "sex" not in unknown.facts


def test_a_git_lfs_pointer_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "1001_DFA_ANG_XX.wav").touch()
    (tmp_path / "1002_DFA_ANG_XX.wav").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:c6f9\nsize 72862\n"
    )
    corpus = load_corpus("crema-d", root=tmp_path)
    assert [refusal.reason for refusal in corpus.refused] == [
        "is a Git LFS pointer, not sound: run `git lfs pull` there"
    ]
