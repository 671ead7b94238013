"""Scores against scikit-learn, by hand, and where they are undefined."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from nver.errors import EvaluationError
from nver.metrics import (
    METRICS,
    accuracy,
    confusion,
    macro_f1,
    per_class,
    recalls,
    uar,
)

LABELS = ("anger", "fear", "joy", "sadness")


def random_predictions(seed, clips=200, labels=LABELS):
    rng = np.random.default_rng(seed)
    truth = rng.choice(labels, clips, p=[0.5, 0.3, 0.15, 0.05])
    return truth, np.where(rng.random(clips) < 0.5, truth, rng.choice(labels, clips))


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learn(seed):
    truth, predicted = random_predictions(seed)
    counts = confusion(truth, predicted, LABELS)
    expected = sklearn_metrics.confusion_matrix(truth, predicted, labels=LABELS)
    np.testing.assert_array_equal(counts, expected)
    assert accuracy(counts) == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    assert uar(counts) == pytest.approx(sklearn_metrics.balanced_accuracy_score(truth, predicted))
    f1 = sklearn_metrics.f1_score(truth, predicted, average="macro")
    assert macro_f1(counts) == pytest.approx(f1)


def test_per_class_equals_scikit_learn():
    truth, predicted = random_predictions(7)
    table = per_class(confusion(truth, predicted, LABELS), LABELS)
    expected = sklearn_metrics.precision_recall_fscore_support(truth, predicted, labels=LABELS)
    for ours, theirs in zip(
        (table.precision, table.recall, table.f1, table.support), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs)
    assert table.reasons == {}


def test_a_class_that_is_predicted_but_never_true_counts_as_scikit_learn_counts_it():
    truth = np.array(["anger", "anger", "fear"])
    predicted = np.array(["anger", "joy", "joy"])
    counts = confusion(truth, predicted, LABELS)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = sklearn_metrics.balanced_accuracy_score(truth, predicted)
    assert uar(counts) == pytest.approx(expected) == 0.25
    assert macro_f1(counts) == pytest.approx(
        sklearn_metrics.f1_score(truth, predicted, average="macro")
    )


def test_undefined_scores_are_nan_and_say_why():
    nothing = np.array([], dtype=str)
    for metric in METRICS.values():
        score = metric.score(nothing, nothing, LABELS)
        assert math.isnan(score.value)
        assert score.reason == "no clips were scored"
    table = per_class(
        confusion(np.array(["anger", "fear"]), np.array(["anger", "joy"]), LABELS), LABELS
    )
    assert dict(table.reasons) == {
        "fear": "the class was never predicted",
        "joy": "the class does not occur",
        "sadness": "the class neither occurs nor was predicted",
    }
    assert np.isnan(table.precision[1])
    assert table.f1[1] == 0.0
    assert table.f1[2] == 0.0
    assert np.isnan(table.f1[3])


def test_json_holds_none_for_an_undefined_score():
    table = per_class(np.array([[2, 0], [0, 0]]), ("a", "b")).to_dict()
    assert table == {
        "a": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2.0},
        "b": {
            "precision": None,
            "recall": None,
            "f1": None,
            "support": 0.0,
            "reason": "the class neither occurs nor was predicted",
        },
    }


def test_an_unknown_label_is_an_error():
    message = (
        "The predictions hold the label 'joyy', which is none of: anger, fear, joy, sadness. "
        "Did you mean 'joy'?"
    )
    with pytest.raises(EvaluationError, match=re.escape(message)):
        confusion(np.array(["joy"]), np.array(["joyy"]), LABELS)
    with pytest.raises(EvaluationError, match="The truth hold the label 'xyz'"):
        confusion(np.array(["xyz"]), np.array(["joy"]), LABELS)


def test_an_unlabelled_clip_is_an_error():
    with pytest.raises(EvaluationError, match="'None', which is none of"):
        confusion(np.array([None], dtype=object), np.array(["joy"]), LABELS)


def test_repeated_labels_are_an_error():
    with pytest.raises(EvaluationError, match="Expected every label once, got joy, joy"):
        confusion(np.array(["joy"]), np.array(["joy"]), ["joy", "joy"])


def test_unequal_lengths_are_an_error():
    message = "Expected one prediction per clip, got 1 predictions for 2 clips."
    with pytest.raises(EvaluationError, match=re.escape(message)):
        confusion(np.array(["joy", "joy"]), np.array(["joy"]), LABELS)


def test_per_class_needs_one_label_per_row():
    with pytest.raises(EvaluationError, match="got 1 labels for 2 rows"):
        per_class(np.eye(2), ["a"])


counts_of_three = st.lists(st.integers(0, 20), min_size=9, max_size=9).map(
    lambda cells: np.array(cells).reshape(3, 3)
)


@settings(max_examples=50)
@given(counts_of_three, st.permutations([0, 1, 2]), st.integers(1, 5))
def test_scores_keep_their_range_under_renaming_and_scaling(counts, order, factor):
    for metric in METRICS.values():
        value = float(metric(counts))
        renamed = float(metric(counts[np.ix_(order, order)]))
        scaled = float(metric(counts * factor))
        np.testing.assert_allclose([renamed, scaled], [value, value], rtol=1e-12)
        assert math.isnan(value) == (counts.sum() == 0)
        assert math.isnan(value) or metric.low <= value <= metric.high


@settings(max_examples=20)
@given(st.lists(counts_of_three, min_size=1, max_size=4))
def test_leading_axes_are_scored_one_by_one(stack):
    for metric in METRICS.values():
        together = metric(np.stack(stack)[:, None])
        alone = [[float(metric(counts))] for counts in stack]
        np.testing.assert_array_equal(together, alone)


def test_perfect_and_chance():
    perfect = np.diag([5, 50, 500])
    assert uar(perfect) == accuracy(perfect) == macro_f1(perfect) == 1.0
    majority = np.array([[900, 0], [100, 0]])
    assert uar(majority) == 0.5
    assert accuracy(majority) == 0.9
    np.testing.assert_array_equal(recalls(majority), [1.0, 0.0])
