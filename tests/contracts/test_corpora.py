"""What every corpus of the table must keep; a tree of files for each, in its own layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from nver.corpora import CORPORA, Corpus, CorpusReader, corpus_card, default_root, load_corpus
from nver.corpora.synthesis import BURSTS, synthesise
from nver.errors import CorpusError


@dataclass(frozen=True)
class Tree:
    """Files in a layout: subset -> file -> (label, speaker); and files that are no clips."""

    clips: Mapping[str, Mapping[str, tuple[str, str]]]
    stray: str
    others: tuple[str, ...] = ()

    def write(self, root: Path) -> None:
        files = {file for subset in self.clips.values() for file in subset}
        for file in [*files, *self.others]:
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"RIFF")


def tree(stray: str, *others: str, **subsets: Mapping[str, tuple[str, str]]) -> Tree:
    return Tree({name.replace("_", "-"): clips for name, clips in subsets.items()}, stray, others)


FULL = {
    "VIVAE/full_set/S01_achievement_low_01.wav": ("achievement", "S01"),
    "VIVAE/full_set/S11_pleasure_peak_107.wav": ("pleasure", "S11"),
}
CORE = {"VIVAE/core_set/S01_achievement_low_01.wav": ("achievement", "S01")}
NON_SPEECH = {
    "Audio/actor_101/03-02-06-01-42-101-02-01-00-16.wav": ("fear", "101"),
    "Audio/actor_7/03-02-13-02-01-07-02-03.wav": ("breath", "7"),
}
SPEECH = {"Audio/actor_36/03-01-04-01-08-36-03-03-01-77.wav": ("sad", "36")}
BABIES = {"Bonus/actor_50/03-02-03-01-35-50-02-01-00-13-16.wav": ("happy", "50")}

TREES: Mapping[str, Tree] = {
    "asvp-esd": tree(
        "Audio/actor_1/laugh.wav",
        non_speech=NON_SPEECH,
        speech=SPEECH,
        babies=BABIES,
        all=NON_SPEECH | SPEECH | BABIES,
    ),
    "jnv": tree(
        "JNV/F1/F1_anger_regular_01.wav",
        all={
            "JNV/F1/F1_angry_00_R.wav": ("angry", "F1"),
            "JNV/M2/M2_surprise_14_F.wav": ("surprise", "M2"),
        },
    ),
    "vivae": tree("VIVAE/full_set/S01_joy_low_01.wav", full=FULL, core=CORE),
    "crema-d": tree(
        "AudioWAV/1001_DFA_ANG_XX.mp3",
        "AudioMP3/1001_DFA_ANG_XX.mp3",
        all={
            "AudioWAV/1001_DFA_ANG_XX.wav": ("anger", "1001"),
            "AudioWAV/1091_IEO_SAD_HI.wav": ("sad", "1091"),
        },
    ),
    "emogator": tree(
        "data/mp3/000001-31-1.mp3",
        all={
            "data/mp3/000001-02-1.mp3": ("Amusement", "000001"),
            "data/mp3/000357-30-3.mp3": ("Triumph", "000357"),
        },
    ),
    "deeply-nvd": tree(
        "crying/0C1S_4_8_0_27_0_1_1.wav",
        all={
            "coughing/0C1S_4_8_0_27_0_1_1.wav": ("coughing", "0C1S"),
            "screaming/WVST_15_9_0_15_0_0_0.wav": ("screaming", "WVST"),
        },
    ),
}
NAMES = sorted(CORPORA.table)
RECORDED = sorted(TREES)


@pytest.fixture(params=RECORDED)
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Tree, Path]:
    chosen = TREES[request.param]
    chosen.write(tmp_path)
    return request.param, chosen, tmp_path


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("synthetic") / "tiny", speakers=2, takes=1)


@pytest.fixture(params=NAMES)
def read(request: pytest.FixtureRequest, tmp_path: Path, synthetic_root: Path) -> Corpus:
    if request.param == "synthetic":
        return load_corpus("synthetic", root=synthetic_root)
    TREES[request.param].write(tmp_path)
    return load_corpus(request.param, root=tmp_path)


def test_every_corpus_of_the_table_is_exercised() -> None:
    assert set(CORPORA.table) == {*TREES, "synthetic"}


def test_every_corpus_of_the_table_is_under_the_independence_contract() -> None:
    settings = Path(__file__).parents[2] / "pyproject.toml"
    for target in CORPORA.table.values():
        assert f'"{target.partition(":")[0]}"' in settings.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_complete(name: str) -> None:
    card = corpus_card(name)
    assert isinstance(CORPORA.load(name)(), CorpusReader)
    assert card.name == name
    for fact in (card.title, card.summary, card.licence, card.citation, card.url, card.layout):
        assert fact.strip()
    assert len(set(card.labels)) == len(card.labels) >= 6
    assert card.clips
    assert card.speakers
    assert len(set(card.subsets)) == len(card.subsets) >= 1
    assert json.loads(json.dumps(card.to_dict()))["name"] == name


@pytest.mark.parametrize("name", NAMES)
def test_the_default_root_is_under_nver_home(name: str, nver_home: Path) -> None:
    assert default_root(name).parent == nver_home / "corpora"


def test_every_subset_is_read_as_documented(recorded: tuple[str, Tree, Path]) -> None:
    name, chosen, root = recorded
    assert set(chosen.clips) == set(corpus_card(name).subsets)
    for subset, clips in chosen.clips.items():
        corpus = load_corpus(name, root=root, subset=subset)
        assert {clip.file: (clip.emotion, clip.speaker) for clip in corpus.clips} == clips
        assert corpus.refused == ()
        assert corpus.subset == subset
    default = load_corpus(name, root=root)
    assert default.subset == corpus_card(name).subsets[0]


def test_the_synthetic_corpus_has_every_burst_of_every_voice(synthetic_root: Path) -> None:
    corpus = load_corpus("synthetic", root=synthetic_root)
    expected = {
        f"{voice}/{voice}_{burst.vocalisation}_1.wav": (burst.emotion, voice)
        for voice in ("s01", "s02")
        for burst in BURSTS
    }
    assert {clip.file: (clip.emotion, clip.speaker) for clip in corpus.clips} == expected


def test_clips_are_files_under_the_root_with_unique_ids(read: Corpus) -> None:
    files = [clip.file for clip in read.clips]
    assert len(set(files)) == len(files) > 0
    for clip in read.clips:
        assert clip.path == read.root / clip.file
        assert clip.path.is_file()
        assert clip.path.is_absolute()
        assert "\\" not in clip.file


def test_labels_are_the_cards_in_its_order(read: Corpus) -> None:
    present = {clip.emotion for clip in read.clips}
    assert read.labels == tuple(label for label in read.card.labels if label in present)
    assert present <= set(read.card.labels)


def test_facts_are_plain_values(read: Corpus) -> None:
    for clip in read.clips:
        assert clip.speaker
        for name, fact in clip.facts.items():
            assert isinstance(name, str)
            assert fact is None or isinstance(fact, str | int | float)


def test_description_and_frame_agree_with_the_clips(read: Corpus) -> None:
    description = json.loads(json.dumps(read.describe()))
    frame = read.to_frame()
    assert description["clips"] == len(read.clips) == len(frame)
    assert sum(description["labels"].values()) == len(read.clips)
    assert description["speakers"] == len(read.speakers) == frame["speaker"].nunique()
    assert description["licence"] == read.card.licence
    assert list(frame["file"]) == [clip.file for clip in read.clips]
    assert list(frame["label"]) == [clip.emotion for clip in read.clips]


def test_reading_twice_gives_the_same(read: Corpus) -> None:
    again = load_corpus(read.name, root=read.root)
    assert again.clips == read.clips
    assert again.refused == read.refused


def test_a_stray_sound_is_refused_with_its_reason(recorded: tuple[str, Tree, Path]) -> None:
    name, chosen, root = recorded
    (root / chosen.stray).parent.mkdir(parents=True, exist_ok=True)
    (root / chosen.stray).write_bytes(b"RIFF")
    corpus = load_corpus(name, root=root)
    assert [refusal.file for refusal in corpus.refused] == [chosen.stray]
    assert corpus.refused[0].reason
    assert corpus.describe()["refused"] == 1


def test_what_is_no_sound_is_ignored(recorded: tuple[str, Tree, Path]) -> None:
    name, chosen, root = recorded
    before = load_corpus(name, root=root)
    folder = (root / chosen.stray).parent
    folder.mkdir(parents=True, exist_ok=True)
    for junk in ("._03-02-06-01-42-101-02-01-00-16.wav", ".DS_Store", "readme.txt"):
        (folder / junk).write_bytes(b"junk")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._x.wav").write_bytes(b"junk")
    after = load_corpus(name, root=root)
    assert (after.clips, after.refused) == (before.clips, before.refused)


@pytest.mark.parametrize("name", RECORDED)
def test_an_absent_corpus_says_where_to_get_it(name: str, nver_home: Path) -> None:
    card = corpus_card(name)
    with pytest.raises(CorpusError) as caught:
        load_corpus(name)
    for part in (str(nver_home / "corpora" / name), card.url, card.licence, "--root", card.layout):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", RECORDED)
def test_an_empty_folder_is_an_error_that_shows_the_layout(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no sound files lie there") as caught:
        load_corpus(name, root=tmp_path)
    assert corpus_card(name).layout in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_subset_lists_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=f"Corpus '{name}' has no subset 'nothing'") as caught:
        load_corpus(name, root=tmp_path, subset="nothing")
    assert ", ".join(corpus_card(name).subsets) in str(caught.value)
