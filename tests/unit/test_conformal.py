"""Prediction sets: the threshold by hand, coverage by simulation, and without the library."""

from __future__ import annotations

import importlib
import math
import re
import sys

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binom

from nver.conformal import _known, least_calibration, method, prediction_sets
from nver.errors import EvaluationError, MissingExtraError, SettingsError


def simulated(rng, clips, classes=4, sharper=1.0):
    logits = rng.normal(scale=1.5, size=(clips, classes))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (true.cumsum(1) > rng.random((clips, 1))).argmax(1)
    said = np.exp(logits * sharper)
    return said / said.sum(1, keepdims=True), truth


@pytest.fixture
def known():
    pytest.importorskip("mapie")


@pytest.mark.parametrize("alpha", [0.3, 0.1, 0.05])
def test_the_threshold_is_the_rank_of_the_paper(known, alpha):
    rng = np.random.default_rng(0)
    calibration, truth = simulated(rng, 57)
    test, _ = simulated(rng, 40)
    scores = np.sort(1 - calibration[np.arange(57), truth])
    threshold = scores[math.ceil(58 * (1 - alpha)) - 1]
    expected = 1 - test <= threshold + 1e-12
    np.testing.assert_array_equal(prediction_sets(calibration, truth, test, alpha), expected)


@pytest.mark.parametrize("sure", [1, 5, 20, 40])
def test_systems_that_are_too_sure_get_sets_by_their_thresholds(known, sure):
    # A threshold of 1e-20 says something, though 1 - 1e-20 is 1.
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1000, 6))
    truth = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    said = softmax(sure * logits, axis=1)
    sets = prediction_sets(said[:500], truth[:500], said[500:], alpha=0.1)
    threshold = np.sort(said[np.arange(500), truth[:500]])[math.floor(501 * 0.1) - 1]
    np.testing.assert_array_equal(sets, said[500:] >= threshold)
    assert 0.86 < sets[np.arange(500), truth[500:]].mean() < 0.94
    assert sets.sum(1).mean() < 5
    if sure <= 5:  # MAPIE itself, where nothing rounds
        library = importlib.import_module("mapie.classification")
        plain = library.SplitConformalClassifier(
            _known(6), confidence_level=0.9, conformity_score="lac"
        )
        _, expected = plain.conformalize(said[:500], truth[:500]).predict_set(said[500:])
        np.testing.assert_array_equal(sets, expected[:, :, 0])


def test_a_class_without_calibration_clips_is_still_judged(known):
    calibration = np.tile([0.7, 0.2, 0.1], (20, 1))
    sets = prediction_sets(calibration, np.zeros(20, dtype=int), np.array([[0.1, 0.1, 0.8]]))
    assert sets.tolist() == [[False, False, True]]


def test_float32_that_sums_to_nearly_one_is_taken(known):
    calibration = np.tile(np.array([0.7001, 0.2, 0.1], dtype=np.float32), (20, 1))
    assert prediction_sets(calibration, np.zeros(20, dtype=int), calibration).shape == (20, 3)


@pytest.mark.parametrize("sharper", [1.0, 3.0])
def test_exchangeable_clips_are_covered_as_often_as_promised(known, sharper):
    # Whatever the probabilities are worth. Each draw has its own threshold, so the covered clips of
    # one draw are beta-binomial; one test clip per draw makes the count binomial.
    rng = np.random.default_rng(1)
    draws = 200
    covered = 0
    for _ in range(draws):
        said, truth = simulated(rng, 50, sharper=sharper)
        sets = prediction_sets(said[:-1], truth[:-1], said[-1:], alpha=0.1)
        covered += int(sets[0, truth[-1]])
    # 49 scores: ceil(50 * .9) / 50 = .9 exactly
    low, high = binom.interval(0.999, draws, 0.9)
    assert low <= covered <= high


def test_too_few_calibration_clips_are_an_error(known):
    few = np.tile([0.7, 0.3], (10, 1))
    with pytest.raises(
        EvaluationError,
        match=re.escape(
            "Expected at least 11 calibration clips for an error rate of 0.1, got 10. "
            "Take a higher error rate."
        ),
    ):
        prediction_sets(few, np.zeros(10, dtype=int), few, alpha=0.1)


@pytest.mark.parametrize("alpha", [0.5, 0.3, 0.1, 0.05, 0.01, 0.9])
def test_as_many_as_are_asked_for_are_enough(known, alpha):
    enough = np.tile([0.7, 0.3], (least_calibration(alpha), 1))
    sets = prediction_sets(enough, np.zeros(len(enough), dtype=int), enough, alpha)
    assert sets[:, 0].all()


@pytest.mark.parametrize("alpha", [0.0, 1.0, 10.0])
def test_an_error_rate_is_a_share(alpha):
    with pytest.raises(SettingsError, match="Expected an error rate between 0 and 1, got"):
        least_calibration(alpha)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mapie", None)
    monkeypatch.setitem(sys.modules, "mapie.classification", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'nver[stats]'")):
        method()
    same = np.tile([0.7, 0.3], (20, 1))
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'nver[stats]'")):
        prediction_sets(same, np.zeros(20, dtype=int), same)
