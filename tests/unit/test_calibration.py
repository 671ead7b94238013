"""Calibration against scikit-learn, brute force and closed forms."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from nver.calibration import (
    BINS,
    FLOOR,
    TEMPERATURES,
    Temperature,
    adaptive_ece,
    brier,
    classwise_ece,
    fit_temperature,
    log_loss,
    reliability,
    risk_coverage,
)
from nver.errors import EvaluationError

sklearn_version = tuple(int(part) for part in sklearn.__version__.split(".")[:2])


def simulated(seed, clips=4000, classes=5, temperature=1.0):
    """Probabilities and truths drawn from them; sharpened afterwards by a temperature below 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(clips, classes))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (true.cumsum(1) > rng.random((clips, 1))).argmax(1)
    said = np.exp(logits / temperature)
    return said / said.sum(1, keepdims=True), truth


def brute_force_ece(probabilities, truth, bins):
    total = 0.0
    for index in range(bins):
        rows = [
            (max(row), int(np.argmax(row)) == true)
            for row, true in zip(probabilities.tolist(), truth.tolist(), strict=True)
            if index / bins < max(row) <= (index + 1) / bins
        ]
        if rows:
            confidence = sum(top for top, _ in rows) / len(rows)
            accuracy = sum(right for _, right in rows) / len(rows)
            total += len(rows) / len(truth) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 10, BINS])
def test_ece_is_that_of_a_loop_over_bins(bins):
    probabilities, truth = simulated(0, clips=500, temperature=0.5)
    expected = brute_force_ece(probabilities, truth, bins)
    assert reliability(probabilities, truth, bins).ece == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    half = np.array([[0.5, 0.5], [0.5, 0.5]])
    n = reliability(half, np.array([0, 1]), bins=2).n
    assert n.tolist() == [2, 0]


def test_reliability_is_that_of_scikit_learn():
    probabilities, truth = simulated(1, temperature=0.6)
    diagram = reliability(probabilities, truth)
    right = probabilities.argmax(1) == truth
    accuracy, confidence = calibration_curve(right, probabilities.max(1), n_bins=BINS)
    held = diagram.n > 0
    np.testing.assert_allclose(diagram.accuracy[held], accuracy)
    np.testing.assert_allclose(diagram.confidence[held], confidence)
    assert diagram.n.sum() == len(truth)


def test_an_empty_bin_has_no_numbers():
    rows = reliability(np.array([[0.9, 0.1]]), np.array([0]), bins=2).to_list()
    assert rows[0] == {"low": 0.0, "high": 0.5, "confidence": None, "accuracy": None, "n": 0}
    assert rows[1] == {"low": 0.5, "high": 1.0, "confidence": 0.9, "accuracy": 1.0, "n": 1}


def test_log_loss_is_that_of_scikit_learn_in_float32():
    probabilities, truth = simulated(2)
    probabilities = probabilities.astype(np.float32)
    expected = sklearn_log_loss(truth, probabilities / probabilities.sum(1, keepdims=True))
    assert log_loss(probabilities, truth).mean() == pytest.approx(expected, rel=1e-5)


def test_a_class_that_was_never_trained_costs_the_floor():
    absent = np.array([[1.0, 0.0]], dtype=np.float32)
    assert log_loss(absent, np.array([1])) == pytest.approx(-math.log(FLOOR))
    assert log_loss(absent, np.array([0])) == 0
    assert brier(absent, np.array([1])) == 2


def test_brier_is_that_of_scikit_learn():
    probabilities, truth = simulated(3)
    expected = brier_score_loss(truth, probabilities, scale_by_half=False, labels=range(5))
    assert brier(probabilities, truth).mean() == pytest.approx(expected, abs=1e-12)


def test_classwise_ece_sees_a_shift_that_the_top_hides():
    # Right by chance, and as sure: but class 2 gets the probability that belongs to class 1.
    probabilities = np.tile([0.5, 0.1, 0.4], (10, 1))
    truth = np.array([0] * 5 + [1] * 4 + [2])
    assert reliability(probabilities, truth).ece == pytest.approx(0)
    assert classwise_ece(probabilities, truth) == pytest.approx((0 + 0.3 + 0.3) / 3)


def test_adaptive_bins_hold_equally_many():
    probabilities, truth = simulated(4, clips=600, temperature=0.2)
    order = np.argsort(probabilities.max(1))
    right = (probabilities.argmax(1) == truth)[order]
    top = probabilities.max(1)[order]
    parts = zip(np.split(right, 10), np.split(top, 10), strict=True)
    expected = np.mean([abs(right.mean() - top.mean()) for right, top in parts])
    assert adaptive_ece(probabilities, truth, bins=10) == pytest.approx(expected, abs=2e-3)


def test_equal_confidences_are_never_divided():
    # All right answers come first: a division by order would see two bins, far off by .4 each.
    same = np.tile([0.6, 0.4], (10, 1))
    truth = np.array([0] * 6 + [1] * 4)
    assert adaptive_ece(same, truth, bins=5) == pytest.approx(0)


def test_calibrated_probabilities_have_the_ece_of_chance():
    measured = []
    for seed in range(20):
        diagram = reliability(*simulated(seed, clips=1000))
        measured.append(diagram.ece)
        expected = diagram.by_chance()
    assert np.mean(measured) == pytest.approx(expected, rel=0.12)
    diagram = reliability(*simulated(0, clips=1000, temperature=0.4))
    assert diagram.ece > 4 * diagram.by_chance()


def test_seeds_do_not_make_chance_smaller():
    probabilities, truth = simulated(5)
    once = reliability(probabilities, truth).by_chance()
    thrice = reliability(np.repeat(probabilities, 3, 0), np.repeat(truth, 3)).by_chance(3)
    assert thrice == pytest.approx(once)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_that_was_applied_is_found(temperature):
    probabilities, truth = simulated(6, clips=20_000, temperature=temperature)
    fitted = fit_temperature(probabilities, truth)
    assert fitted.value == pytest.approx(1 / temperature, rel=0.04)
    assert (fitted.n, fitted.at_limit) == (20_000, False)


def test_the_fitted_temperature_is_the_best_of_a_grid():
    probabilities, truth = simulated(7, temperature=0.7)
    probabilities = probabilities.astype(np.float32)
    fitted = fit_temperature(probabilities, truth)

    def loss(value):
        return log_loss(Temperature(value, 0)(probabilities), truth).mean()

    grid = np.geomspace(*TEMPERATURES, 400)
    best = grid[np.argmin([loss(value) for value in grid])]
    assert fitted.value == pytest.approx(best, rel=0.02)
    assert loss(fitted.value) <= min(loss(value) for value in grid)


def test_the_temperature_is_that_of_scikit_learn():
    if sklearn_version < (1, 8):
        pytest.skip("scikit-learn has temperature scaling from 1.8 on")

    class Known(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(5)

        def __sklearn_is_fitted__(self):
            return True

        def fit(self, X, y):
            return self

        def predict_proba(self, X):
            return X

        def predict(self, X):
            return X.argmax(1)

    known, truth = simulated(11, clips=800, temperature=0.6)
    tested, _ = simulated(12, clips=50, temperature=0.6)
    theirs = CalibratedClassifierCV(FrozenEstimator(Known()), method="temperature")
    expected = theirs.fit(known, truth).predict_proba(tested)
    np.testing.assert_allclose(fit_temperature(known, truth)(tested), expected, atol=1e-4)


def test_scaling_mends_overconfidence():
    probabilities, truth = simulated(8, temperature=0.3)
    scaled = fit_temperature(probabilities, truth)(probabilities)
    assert reliability(scaled, truth).ece < reliability(probabilities, truth).ece / 4
    assert log_loss(scaled, truth).mean() < log_loss(probabilities, truth).mean()


def test_clips_of_a_class_that_training_lacked_do_not_move_the_temperature():
    probabilities, truth = simulated(9, temperature=0.5)
    alone = fit_temperature(probabilities, truth)
    never = np.column_stack([probabilities, np.zeros(len(truth))])
    with_absent = fit_temperature(
        np.vstack([never, never[:200]]), np.concatenate([truth, np.full(200, 5)])
    )
    assert with_absent == alone
    assert with_absent(never)[:, 5].max() == 0


def test_never_wrong_and_never_right_stand_at_the_limits():
    sure = np.array([[0.9, 0.1]] * 5)
    right, wrong = (fit_temperature(sure, np.full(5, index)) for index in (0, 1))
    assert (right.value, right.at_limit) == (TEMPERATURES[0], True)
    assert (wrong.value, wrong.at_limit) == (TEMPERATURES[1], True)
    with pytest.raises(EvaluationError, match="Expected a clip whose true class has"):
        fit_temperature(np.array([[1.0, 0.0]]), np.array([1]))


def test_risk_coverage_is_that_of_a_loop():
    probabilities, truth = simulated(10, clips=300)
    order = np.argsort(-probabilities.max(1))
    wrong = (probabilities.argmax(1) != truth)[order]
    risks = [wrong[:kept].mean() for kept in range(1, 301)]
    curve = risk_coverage(probabilities, truth)
    assert curve.aurc == pytest.approx(np.mean(risks))
    points = curve.to_list(points=10)
    assert [point["coverage"] for point in points] == pytest.approx(np.arange(1, 11) / 10)
    assert points[4]["accuracy"] == pytest.approx(1 - risks[149])
    assert points[-1]["accuracy"] == pytest.approx(1 - wrong.mean())


def test_equally_sure_clips_have_no_order():
    same = np.array([[0.6, 0.4]] * 4)
    one, other = np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])
    assert risk_coverage(same, one).aurc == risk_coverage(same, other).aurc == 0.5
    assert risk_coverage(same, one).accuracy(0.25) == 0.5


def test_a_curve_of_few_clips_has_as_many_points():
    curve = risk_coverage(np.array([[0.6, 0.4], [0.9, 0.1]]), np.array([0, 0]))
    assert curve.to_list() == [
        {"coverage": 0.5, "accuracy": 1.0},
        {"coverage": 1.0, "accuracy": 1.0},
    ]


@pytest.mark.parametrize(
    ("probabilities", "truth", "message"),
    [
        (np.zeros((0, 2)), [], "got 0 rows of probabilities and 0 true classes."),
        (np.array([[0.5, 0.5]]), [0, 1], "got 1 rows of probabilities and 2 true classes."),
        (np.array([[0.5, 0.5]]), [2], "Expected true classes from 0 to 1, got 2 to 2."),
        (np.array([[0.5, 0.4]]), [0], "not negative and sum to 1, got 0.5, 0.4 for clip 0."),
        (np.array([[1.5, -0.5]]), [0], "not negative and sum to 1, got 1.5, -0.5 for clip 0."),
        (
            np.array([[0.5, 0.5], [np.nan, 1.0]]),
            [0, 0],
            "not negative and sum to 1, got nan, 1 for clip 1.",
        ),
    ],
)
def test_what_is_no_probability_is_an_error(probabilities, truth, message):
    for function in (reliability, adaptive_ece, classwise_ece, brier, log_loss, risk_coverage):
        with pytest.raises(EvaluationError, match=re.escape(message)):
            function(probabilities, np.array(truth, dtype=np.int64))
