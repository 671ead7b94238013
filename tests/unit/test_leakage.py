"""Planted leaks are found and named; clean folds are clean."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from nver.audio import NEAR_IDENTICAL
from nver.errors import LeakageError
from nver.leakage import LeakPair, SharedSpeaker, check_leakage
from nver.splits import make_folds


class Clips:
    """Twenty clips of four speakers and two classes, none like another."""

    def __init__(self):
        self.labels = np.tile(np.array(["fear", "joy"]), 10)
        self.speakers = np.repeat(np.array(["F1", "F2", "M1", "M2"], dtype=object), 5)
        self.digests = [f"{index:064x}" for index in range(20)]
        prints = np.random.default_rng(0).standard_normal((20, 256)).astype(np.float32)
        self.thumbprints = prints / np.linalg.norm(prints, axis=1, keepdims=True)
        self.seconds = None
        self.files = [f"{speaker}/{index}.wav" for index, speaker in enumerate(self.speakers)]

    def check(self, protocol="loso", **options):
        folds = make_folds(protocol, self.labels, self.speakers, **options)
        return check_leakage(
            folds,
            self.speakers,
            self.digests,
            self.thumbprints,
            self.files,
            self.labels,
            self.seconds,
        )


@pytest.fixture
def clips():
    return Clips()


def test_clean_folds_are_clean(clips):
    report = clips.check()
    assert report.clean
    assert report.sentences() == ()
    assert report.verdict() == "No speaker and no recording is on both sides of a fold."
    assert set(report.counts()) == {"F1", "F2", "M1", "M2"}
    report.raise_if_leaking("loso")


def test_identical_audio_is_named_and_refused(clips):
    clips.digests[17] = clips.digests[3]
    clips.labels[17] = clips.labels[3]
    report = clips.check()
    assert report.identical == (
        LeakPair("F1", "F1/3.wav", "M2/17.wav", 1.0),
        LeakPair("M2", "M2/17.wav", "F1/3.wav", 1.0),
    )
    assert report.counts()["F1"] == {"speakers": 0, "identical": 1, "near_identical": 0}
    assert report.contradictions == ()
    assert report.verdict() == (
        "On both sides of a fold: 2 test clips with identical audio in training."
    )
    message = (
        "Identical audio is on both sides of a fold, for 2 test clips: F1/3.wav (test) and "
        "M2/17.wav (training) in fold 'F1', the other way round in fold 'M2'. "
        "Remove the duplicates, or pass --allow-leak (allow_leak=True)."
    )
    with pytest.raises(LeakageError, match=f"^{re.escape(message)}$"):
        report.raise_if_leaking("loso")
    report.raise_if_leaking("loso", allow_leak=True)
    assert "Identical audio is on both sides" in report.sentences()[0]


def test_nearly_identical_audio_is_named_but_may_be_kept(clips):
    noise = np.random.default_rng(1).standard_normal(256).astype(np.float32) * 0.002
    copy = clips.thumbprints[3] + noise
    clips.thumbprints[17] = copy / np.linalg.norm(copy)
    report = clips.check()
    assert [(pair.test, pair.train) for pair in report.near_identical] == [
        ("F1/3.wav", "M2/17.wav"),
        ("M2/17.wav", "F1/3.wav"),
    ]
    assert all(NEAR_IDENTICAL <= pair.similarity < 1 for pair in report.near_identical)
    assert not report.clean
    report.raise_if_leaking("loso")
    assert report.sentences() == (
        (
            "Nearly identical audio (thumbprints' cosine >= 0.98) is on both sides of a fold, for "
            "2 test clips: F1/3.wav (test) and M2/17.wav (training) in fold 'F1', the other way "
            "round in fold 'M2'. Listen to them, and remove copies."
        ),
    )


def test_sounds_of_other_durations_are_no_copies(clips):
    clips.thumbprints[17] = clips.thumbprints[3]
    clips.seconds = np.ones(20)
    assert len(clips.check().near_identical) == 2
    clips.seconds[17] = 1.05  # padding of a codec
    assert len(clips.check().near_identical) == 2
    clips.seconds[17] = 1.2
    assert clips.check().clean


def test_identical_audio_is_not_counted_twice(clips):
    clips.digests[17] = clips.digests[3]
    clips.thumbprints[17] = clips.thumbprints[3]
    report = clips.check()
    assert len(report.identical) == 2
    assert report.near_identical == ()


def test_blocks_give_the_same_pairs(clips, monkeypatch):
    clips.thumbprints[17] = clips.thumbprints[3]
    whole = clips.check()
    monkeypatch.setattr("nver.leakage._CELLS", 20)
    assert clips.check().near_identical == whole.near_identical != ()


def test_speakers_shared_by_random_folds_are_a_warning(clips):
    report = clips.check("random", k=5)
    assert not report.clean
    report.raise_if_leaking("random")
    assert report.sentences() == (
        (
            "Both sides of a fold share 4 speakers: the scores say how well known people are "
            "recognised, and are too high for new ones."
        ),
    )
    assert report.verdict() == "On both sides of a fold: 4 speakers."


def test_speakers_shared_by_a_published_split_are_refused(clips):
    column = np.array(["1", "2"] * 2 + ["1"] * 16, dtype=object)
    report = clips.check("column:split", column=column)
    assert report.shared_speakers == (
        SharedSpeaker("1", "F1", test=3, train=2),
        SharedSpeaker("2", "F1", test=2, train=3),
    )
    message = (
        "The folds 'column:split' share 1 speaker: 'F1' has 3 test and 2 training clips in fold "
        "'1'. Use --folds speaker, or pass --allow-leak (allow_leak=True)."
    )
    with pytest.raises(LeakageError, match=re.escape(message)):
        report.raise_if_leaking("column:split")


def test_unknown_speakers_are_not_a_shared_speaker_and_are_said(clips):
    folds = make_folds("random", clips.labels, None, k=5)
    report = check_leakage(folds, None, clips.digests, clips.thumbprints, clips.files)
    assert report.clean
    assert report.verdict() == "No recording is on both sides of a fold; speakers are unknown."
    assert report.sentences() == (
        "No clip has a known speaker: the same person may be on both sides of a fold.",
    )
    some = clips.speakers.copy()
    some[2:] = None
    report = check_leakage(folds, some, clips.digests, clips.thumbprints, clips.files)
    assert "18 of 20 clips do not have a known speaker" in report.sentences()[-1]
    assert {shared.speaker for shared in report.shared_speakers} <= {"F1"}


def test_identical_audio_with_two_labels_is_said(clips):
    clips.digests[1] = clips.digests[0]
    report = clips.check()
    assert report.clean  # both are of one speaker, so on one side
    assert report.sentences() == (
        (
            "Identical audio carries different labels in 1 pair of files: F1/0.wav is 'fear', "
            "F1/1.wav is 'joy'."
        ),
    )


def test_missing_thumbprints_and_classes_are_said(clips):
    clips.labels[:2] = "rare"
    clips.thumbprints = None
    assert clips.check().sentences() == (
        "Nearly identical audio was not looked for: the clips have no thumbprints.",
        (
            "Fold 'F1' tests 2 clips of class 'rare' without a clip of it to learn from: no system "
            "can get them right."
        ),
    )


def test_the_report_is_json(clips):
    clips.digests[17] = clips.digests[3]
    table = clips.check("random", k=5).to_dict()
    assert json.loads(json.dumps(table)) == json.loads(json.dumps(table))
    assert table["clean"] is False
    assert len(table["sentences"]) >= 1
    assert {"folds", "shared_speakers", "identical", "near_identical", "counts"} <= set(table)


def test_silent_thumbprints_match_nothing(clips):
    clips.thumbprints[[3, 17]] = 0.0
    assert clips.check().clean
