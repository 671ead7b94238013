"""Folds: what each protocol promises, and what it says when it cannot keep it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from nver.errors import SplitError, UnknownNameError
from nver.splits import Fold, make_folds, missing_classes


def corpus(speakers=10, classes=3, clips=4):
    """Return labels and speakers of a balanced corpus."""
    labels = np.tile(np.repeat([f"class {c}" for c in range(classes)], clips), speakers)
    names = np.repeat([f"{s:03d}" for s in range(speakers)], classes * clips).astype(object)
    return labels, names


def test_speaker_folds_share_no_speaker_and_are_stratified():
    labels, speakers = corpus()
    folds = make_folds("speaker", labels, speakers, k=5)
    assert [fold.name for fold in folds] == ["0", "1", "2", "3", "4"]
    for fold in folds:
        assert not set(speakers[fold.train]) & set(speakers[fold.test])
        np.testing.assert_array_equal(np.unique(labels[fold.test], return_counts=True)[1], 8)


def test_random_folds_are_stratified_over_clips():
    labels, speakers = corpus()
    folds = make_folds("random", labels, None, k=4)
    for fold in folds:
        np.testing.assert_array_equal(np.unique(labels[fold.test], return_counts=True)[1], 10)
    shared = set(speakers[folds[0].train]) & set(speakers[folds[0].test])
    assert len(shared) > 5


def test_loso_leaves_each_speaker_out_once():
    labels, speakers = corpus(speakers=4)
    folds = make_folds("loso", labels, speakers)
    assert [fold.name for fold in folds] == ["000", "001", "002", "003"]
    assert all(set(speakers[fold.test]) == {fold.name} for fold in folds)


def test_a_column_makes_one_fold_per_value_in_natural_order():
    labels, _ = corpus()
    column = np.array([f"{index % 12}" for index in range(len(labels))], dtype=object)
    folds = make_folds("column:part", labels, None, column=column)
    assert [fold.name for fold in folds] == [str(value) for value in range(12)]
    assert set(column[folds[11].test]) == {"11"}


def test_whole_numbers_read_as_floats_are_the_same_value():
    labels, _ = corpus(speakers=2)
    column = np.array([0.0, 1, "1", 0] * 6, dtype=object)
    assert [f.name for f in make_folds("column:fold", labels, None, column=column)] == ["0", "1"]


@pytest.mark.parametrize("protocol", ["speaker", "random"])
def test_the_seed_decides(protocol):
    labels, speakers = corpus(speakers=30)

    def tests(seed):
        folds = make_folds(protocol, labels, speakers, k=5, seed=seed)
        return [fold.test.tolist() for fold in folds]

    assert tests(0) == tests(0)
    assert tests(0) != tests(1)


def test_the_order_of_speakers_ids_as_numbers_or_text_does_not_matter():
    labels, speakers = corpus()
    numbers = np.array([int(speaker) for speaker in speakers], dtype=object)
    folds = make_folds("speaker", labels, numbers, k=5)
    for one, other in zip(folds, make_folds("speaker", labels, speakers, k=5), strict=True):
        np.testing.assert_array_equal(one.test, other.test)


LABELS, SPEAKERS = corpus(speakers=4)
SHORT = LABELS.copy()
SHORT[:2], SHORT[2:4] = "rare", "scarce"
UNKNOWN = SPEAKERS.copy()
UNKNOWN[[3, 7]] = None
RARE = LABELS.copy()
RARE[:3] = "rare"
PAIRED = RARE.copy()
PAIRED[SPEAKERS[-1] == SPEAKERS] = "rare"


@pytest.mark.parametrize(
    ("protocol", "labels", "speakers", "options", "message"),
    [
        (
            "speaker",
            LABELS,
            SPEAKERS,
            {},
            (
                "5 speaker-independent folds need at least 5 speakers; this corpus has 4 "
                "(000, 001, 002, 003). Use --folds loso (one fold per speaker), or -k 4."
            ),
        ),
        (
            "speaker",
            LABELS,
            None,
            {},
            (
                "--folds speaker needs the speaker of every clip, and this corpus names none. "
                "Add a speaker column to the manifest, or use --folds random."
            ),
        ),
        (
            "loso",
            LABELS,
            UNKNOWN,
            {},
            (
                "--folds loso needs the speaker of every clip, but 2 of 48 clips have none. "
                "Complete the speaker column, or use --folds random."
            ),
        ),
        (
            "loso",
            LABELS,
            np.full(48, "F1", dtype=object),
            {},
            (
                "--folds loso needs at least two speakers, and all 48 clips are of 'F1'. "
                "Use --folds random: the scores then hold for this speaker only."
            ),
        ),
        ("speaker", LABELS, SPEAKERS, {"k": 1}, "Expected at least 2 folds, got -k 1."),
        (
            "speaker",
            RARE,
            SPEAKERS,
            {"k": 4},
            (
                "4 speaker-independent folds need every class from at least 4 speakers; class "
                "'rare' comes from 1. Class 'rare' has one speaker only, and no "
                "speaker-independent folds can judge it, --folds loso neither: leave its rows out."
            ),
        ),
        (
            "speaker",
            SHORT,
            SPEAKERS,
            {},
            (
                "5 speaker-independent folds need at least 5 speakers; this corpus has 4 "
                "(000, 001, 002, 003). Classes 'rare', 'scarce' have one speaker each, and no "
                "speaker-independent folds can judge them, --folds loso neither: leave their rows "
                "out."
            ),
        ),
        (
            "speaker",
            PAIRED,
            SPEAKERS,
            {"k": 4},
            (
                "4 speaker-independent folds need every class from at least 4 speakers; class "
                "'rare' comes from 2. Use -k 2, use --folds loso, or leave the class out."
            ),
        ),
        (
            "speaker",
            PAIRED,
            SPEAKERS,
            {},
            (
                "5 speaker-independent folds need at least 5 speakers; this corpus has 4 "
                "(000, 001, 002, 003). Use --folds loso (one fold per speaker), or -k 2."
            ),
        ),
        (
            "random",
            RARE,
            SPEAKERS,
            {},
            (
                "5 stratified folds need at least 5 clips of every class; class 'rare' has 3. "
                "Use -k 3, or leave the class out."
            ),
        ),
        (
            "random",
            np.full(48, "joy"),
            SPEAKERS,
            {},
            "Expected clips of at least two classes, got 48 clips of 1.",
        ),
        (
            "column:fold",
            LABELS,
            SPEAKERS,
            {},
            "--folds column:fold: the corpus has no column 'fold'.",
        ),
        (
            "column:fold",
            LABELS,
            SPEAKERS,
            {"column": np.array(["1", "", None, float("nan")] * 12, dtype=object)},
            (
                "--folds column:fold needs a value for every clip, but 36 of 48 clips have none. "
                "Complete the column, or remove these clips."
            ),
        ),
        (
            "column:fold",
            LABELS,
            SPEAKERS,
            {"column": np.full(48, "train", dtype=object)},
            "--folds column:fold needs at least two values, and every clip has 'train'.",
        ),
        (
            "column:file",
            LABELS,
            SPEAKERS,
            {"column": np.arange(48).astype(object)},
            "Column 'file' has 48 values for 48 clips: it is no fold column.",
        ),
    ],
)
def test_folds_that_do_not_exist_are_an_error(protocol, labels, speakers, options, message):
    with pytest.raises(SplitError, match=f"^{re.escape(message)}$"):
        make_folds(protocol, labels, speakers, **options)


@pytest.mark.parametrize("protocol", ["speakers", "column:", "columns:fold"])
def test_an_unknown_protocol_names_the_nearest(protocol):
    with pytest.raises(UnknownNameError, match=f"Unknown fold protocol '{protocol}'. Did you mean"):
        make_folds(protocol, LABELS, SPEAKERS)


def test_a_fold_refuses_the_same_clip_on_both_sides():
    with pytest.raises(
        SplitError, match=re.escape("Fold 'x' trains and tests on the same clip (index 2).")
    ):
        Fold("x", np.array([0, 1, 2]), np.array([2, 3]))
    with pytest.raises(SplitError, match="Fold 'x' has no test clips"):
        Fold("x", np.array([0, 1, 2]), np.array([], dtype=np.int64))
    with pytest.raises(SplitError, match="Fold 'x' has no training clips"):
        Fold("x", np.array([], dtype=np.int64), np.array([1]))


def test_a_class_that_cannot_be_learned_is_reported():
    folds = make_folds("loso", RARE, SPEAKERS)
    assert missing_classes(folds, RARE) == (
        (
            "Fold '000' tests 3 clips of class 'rare' without a clip of it to learn from: no "
            "system can get them right."
        ),
    )
    assert missing_classes(folds, LABELS) == ()
    (told,) = missing_classes([Fold("0", np.array([0, 1]), np.array([2]))], np.array([*"aab"]))
    assert "tests 1 clip of class 'b'" in told
    assert told.endswith("no system can get it right.")


def test_identical_audio_stays_on_one_side_of_random_folds():
    labels = np.repeat(["joy", "fear", "pain"], 40)
    # The last eight clips of each class are copies of its first eight.
    digests = tuple(f"{label} {index % 40 % 32}" for index, label in enumerate(labels))
    folds = make_folds("random", labels, None, k=4, digests=digests)
    for fold in folds:
        sides = [{digests[row] for row in side} for side in (fold.train, fold.test)]
        assert not sides[0] & sides[1]
        assert all(
            9 <= count <= 11 for count in np.unique(labels[fold.test], return_counts=True)[1]
        )
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(120))


def test_contents_change_nothing_where_they_differ_or_are_too_few_to_group():
    labels = np.repeat(["joy", "fear"], 8)
    plain = make_folds("random", labels, None, k=4)
    for digests in ([str(row) for row in range(16)], ["same"] * 16):
        folds = make_folds("random", labels, None, k=4, digests=digests)
        assert all(np.array_equal(a.test, b.test) for a, b in zip(plain, folds, strict=True))


@pytest.mark.parametrize("protocol", ["column:split", "published"])
def test_the_parts_of_one_division_are_one_fold(protocol):
    labels = np.tile(["joy", "fear"], 6)
    column = np.array(["Train", "dev", "test"] * 4, dtype=object)
    (fold,) = make_folds(protocol, labels, None, column=column)
    assert fold.name == "test"
    np.testing.assert_array_equal(fold.test, np.arange(2, 12, 3))
    np.testing.assert_array_equal(fold.train, np.setdiff1d(np.arange(12), fold.test))


@pytest.mark.parametrize(
    ("parts", "side"), [(("dev", "train"), "test"), (("test", "testing"), "training")]
)
def test_a_division_without_one_side_is_refused(parts, side):
    labels = np.tile(["joy", "fear"], 6)
    column = np.array(parts * 6, dtype=object)
    with pytest.raises(SplitError) as caught:
        make_folds("column:split", labels, None, column=column)
    assert str(caught.value) == (
        f"--folds column:split: {', '.join(parts)} are parts of one division, and none of them "
        f"is the {side} part. Name it so, or number the folds in the column (0, 1, 2, ...)."
    )
