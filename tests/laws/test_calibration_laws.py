"""Laws of calibration that hold for any probabilities."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nver.calibration import (
    Temperature,
    adaptive_ece,
    brier,
    classwise_ece,
    log_loss,
    reliability,
    risk_coverage,
)


@st.composite
def answers(draw):
    """Probabilities of a few clips, zeros and ties among them, and their true classes."""
    clips, classes = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    weights = draw(arrays(np.float64, (clips, classes), elements=st.integers(0, 4).map(float)))
    weights[:, 0] += weights.sum(axis=1) == 0
    truth = draw(arrays(np.int64, clips, elements=st.integers(0, classes - 1)))
    return weights / weights.sum(axis=1, keepdims=True), truth


temperatures = st.floats(0.05, 20)


@settings(max_examples=40)
@given(answers())
def test_temperature_one_changes_nothing(given_answers):
    probabilities, _ = given_answers
    np.testing.assert_allclose(Temperature(1.0, 1)(probabilities), probabilities, atol=1e-15)


@settings(max_examples=40)
@given(answers(), temperatures)
def test_a_temperature_changes_no_order(given_answers, value):
    probabilities, _ = given_answers
    scaled = Temperature(value, 1)(probabilities)
    np.testing.assert_array_equal(scaled.argmax(1), probabilities.argmax(1))
    assert np.all(np.diff(np.take_along_axis(scaled, probabilities.argsort(1), 1)) >= 0)
    np.testing.assert_allclose(scaled.sum(1), 1)
    np.testing.assert_array_equal(scaled[probabilities == 0], 0)


@settings(max_examples=40)
@given(answers(), temperatures, temperatures)
def test_temperatures_multiply(given_answers, one, other):
    probabilities, _ = given_answers
    twice = Temperature(other, 1)(Temperature(one, 1)(probabilities))
    kept = twice[twice > 1e-200]
    np.testing.assert_allclose(
        kept, Temperature(one * other, 1)(probabilities)[twice > 1e-200], rtol=1e-6, atol=1e-12
    )


@settings(max_examples=40)
@given(answers())
def test_every_score_keeps_its_range(given_answers):
    probabilities, truth = given_answers
    for score in (
        reliability(probabilities, truth).ece,
        adaptive_ece(probabilities, truth),
        classwise_ece(probabilities, truth),
        risk_coverage(probabilities, truth).aurc,
    ):
        assert 0 <= score <= 1
    assert 0 <= brier(probabilities, truth).min() <= brier(probabilities, truth).max() <= 2 + 1e-12
    assert log_loss(probabilities, truth).min() >= 0
    assert log_loss(probabilities, truth).max() < 16


@settings(max_examples=40)
@given(answers(), st.randoms(use_true_random=False))
def test_the_order_of_clips_changes_nothing(given_answers, random):
    probabilities, truth = given_answers
    order = list(range(len(truth)))
    random.shuffle(order)
    for score in (
        lambda p, y: reliability(p, y).ece,
        adaptive_ece,
        classwise_ece,
        lambda p, y: risk_coverage(p, y).aurc,
    ):
        np.testing.assert_allclose(
            score(probabilities[order], truth[order]), score(probabilities, truth), atol=1e-12
        )


@settings(max_examples=40)
@given(answers())
def test_ece_is_at_least_the_gap_of_the_means(given_answers):
    # One bin only sees the mean confidence and the accuracy; finer bins see more, never less.
    probabilities, truth = given_answers
    coarse, fine = (reliability(probabilities, truth, bins).ece for bins in (5, 15))
    whole = reliability(probabilities, truth, 1).ece
    assert whole <= coarse + 1e-12
    assert coarse <= fine + 1e-12


@settings(max_examples=40)
@given(answers())
def test_nothing_beats_the_truth(given_answers):
    # Proper scores: the probabilities that the clips were drawn from have the least expected score.
    true, _ = given_answers
    rng = np.random.default_rng(0)
    other = rng.dirichlet(np.ones(true.shape[1]), size=len(true))
    for score in (brier, log_loss):

        def expected(said, score=score):
            each = [
                score(said, np.full(len(said), label)) * true[:, label]
                for label in range(true.shape[1])
            ]
            return np.sum(each, axis=0)

        assert np.all(expected(true) <= expected(other) + 1e-5)
