"""The record as whole numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nver.answers import code
from nver.errors import EvaluationError

ROWS = [  # file, speaker, label, system, seed, predicted
    ("a", "1", "joy", "lda", 0, "joy"),
    ("b", "1", "fear", "lda", 0, "joy"),
    ("c", None, "joy", "lda", 0, "joy"),
    ("c", None, "joy", "mata", 0, "fear"),
    ("b", "1", "fear", "mata", 0, "fear"),
    ("a", "1", "joy", "mata", 0, "fear"),
    ("a", "1", "joy", "mata", 7, "joy"),
]


def frame(rows=ROWS):
    names = ["file", "speaker", "label", "system", "seed", "predicted"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(clip=table["file"], encoders="a+b", fold="0")


def test_each_clip_has_one_place_and_each_system_its_answers():
    answers = code(frame(), ("fear", "joy"))
    assert answers.clips["file"].tolist() == ["a", "b", "c"]
    assert answers.truth.tolist() == [1, 0, 1]
    assert answers.unit == "mixed"
    assert answers.cluster[0] == answers.cluster[1] != answers.cluster[2]
    mata = answers.systems["mata", "a+b"]
    assert mata.seeds.tolist() == [0, 7]
    assert mata.given.tolist() == [[0, 0, 0], [1, -1, -1]]


def test_counts_are_of_the_clips_that_were_asked_for():
    answers = code(frame(), ("fear", "joy"))
    lda = answers.confusions(("lda", "a+b"))
    assert lda.shape == (2, 1, 2, 2)
    assert lda.sum(axis=(0, 1)).tolist() == [[0, 1], [0, 2]]
    alone = answers.confusions(("lda", "a+b"), np.array([False, False, True]))
    assert alone.tolist() == [[[[0, 0], [0, 1]]]]
    mata = answers.confusions(("mata", "a+b"))
    assert mata.sum(axis=(0, 2, 3)).tolist() == [3, 1]


def test_two_answers_to_one_clip_and_unknown_labels_are_errors():
    with pytest.raises(EvaluationError, match="Expected one answer of 'lda' on a"):
        code(frame([*ROWS, ROWS[0]]), ("fear", "joy"))
    with pytest.raises(EvaluationError, match="the label 'fear', which is none of: joy"):
        code(frame(), ("joy",))
