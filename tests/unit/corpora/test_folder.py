"""A folder with one sub-folder per label."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nver.corpora import Refusal, load_corpus
from nver.corpora.folder import read_folder
from nver.errors import CorpusError
from nver.protocols import without_speaker


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_the_first_folder_is_the_label(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "mine", "sad/b.wav", "sad/deep/er/a.FLAC", "happy/c.mp3", "sad/notes.txt"
    )
    corpus = load_corpus(root)
    assert [(clip.file, clip.emotion, clip.speaker) for clip in corpus.clips] == [
        ("happy/c.mp3", "happy", None),
        ("sad/b.wav", "sad", None),
        ("sad/deep/er/a.FLAC", "sad", None),
    ]
    assert corpus.labels == ("happy", "sad")
    assert corpus.name == "mine"
    assert corpus.card.clips == 3
    assert corpus.card.licence == "not stated"
    assert corpus.notes == (without_speaker(3, 3),)
    assert corpus.describe()["clips_without_speaker"] == 3


def test_sounds_beside_the_label_folders_are_refused(tmp_path: Path) -> None:
    corpus = read_folder(touch(tmp_path, "sad/b.wav", "stray.wav", ".hidden.wav", ".git/x.wav"))
    assert corpus.refused == (Refusal("stray.wav", "lies in no label's sub-folder"),)


def test_the_same_name_under_two_labels_is_two_clips(tmp_path: Path) -> None:
    assert len(read_folder(touch(tmp_path, "sad/1.wav", "happy/1.wav")).clips) == 2


def test_a_pattern_finds_the_speakers(tmp_path: Path) -> None:
    touch(tmp_path, "sad/anna_01.wav", "sad/007_02.wav", "sad/odd.wav")
    corpus = read_folder(tmp_path, speaker_pattern=r"/(?P<speaker>\w+)_\d+\.wav$")
    assert corpus.speakers == ("007", "anna")
    assert corpus.card.speakers == 2
    assert corpus.notes == ()
    assert corpus.refused[0].reason.startswith("does not match the speaker pattern")
    with pytest.raises(CorpusError, match=r"needs a group \(\?P<speaker>\.\.\.\), got 'x'"):
        read_folder(tmp_path, speaker_pattern="x")


def test_the_licence_points_at_the_papers_beside_the_clips(tmp_path: Path) -> None:
    corpus = read_folder(touch(tmp_path, "sad/1.wav", "LICENSE", "README.md"))
    assert corpus.card.licence == "not stated; see LICENSE, README.md beside the clips"


def test_a_folder_without_clips_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no sound files lie there.*Expected: <label>/"):
        read_folder(touch(tmp_path, "sad/readme.txt"))
    with pytest.raises(CorpusError, match=r"1 sound files were refused, the first: a\.wav"):
        read_folder(touch(tmp_path, "a.wav"))
    with pytest.raises(CorpusError, match="There is no folder"):
        read_folder(tmp_path / "missing")


@pytest.mark.skipif(os.name != "posix", reason="names that are not UTF-8 are POSIX's")
def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "sad/good.wav")
    try:
        (tmp_path / "sad" / os.fsdecode(b"\xff.wav")).touch()
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    corpus = read_folder(tmp_path)
    assert corpus.refused == (Refusal("sad/\\udcff.wav", "its name is not valid UTF-8: rename it"),)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.wav")
    root = tmp_path / "root"
    root.mkdir()
    (root / "sad").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "loop").symlink_to(root, target_is_directory=True)
    assert [clip.file for clip in read_folder(root).clips] == ["sad/1.wav"]


def test_only_regular_files_are_sounds(tmp_path: Path) -> None:
    root = touch(tmp_path, "sad/a.wav")
    os.mkfifo(root / "sad" / "pipe.wav")  # to open it would wait for ever
    (root / "sad" / "gone.wav").symlink_to("nowhere.wav")
    (root / "sad" / "link.wav").symlink_to("a.wav")
    corpus = load_corpus(root)
    assert [clip.file for clip in corpus.clips] == ["sad/a.wav", "sad/link.wav"]
    assert corpus.refused == (
        Refusal("sad/gone.wav", "is a link to nothing"),
        Refusal("sad/pipe.wav", "is no regular file but a pipe, socket or device"),
    )
