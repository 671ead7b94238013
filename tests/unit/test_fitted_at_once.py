"""Estimators that are fitted at once end as each alone, and each is there as soon as it is done."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from nver.errors import DivergedError
from nver.estimators import EmotionClassifier, FusionClassifier, fit_in_turn, fit_many
from nver.training import TrainingSettings

SHORT = TrainingSettings(epochs=5, min_steps=0)


def _clips(per_class, seed=0):
    rng = np.random.default_rng(seed)
    y = np.tile(np.array(["anger", "fear", "joy"]), per_class)
    X = np.tile(np.eye(3, 22) * 2, (per_class, 1)) + rng.standard_normal((3 * per_class, 22))
    return X, y, np.arange(len(y)) // 3


def test_estimators_fitted_at_once_are_what_each_fit_makes():
    """Two systems, folds of unequal size, seeds, a linear one, other classes: all in one call."""
    X, y, groups = _clips(12)
    views = {"a": slice(0, 10), "b": slice(10, 22)}

    def make():
        mata = [
            FusionClassifier("mata", "fcn", views, settings=SHORT, random_state=s)
            for s in (0, 1, 2)
        ]
        other = FusionClassifier("mata", "fcn", views, eps=0.2, settings=SHORT)
        fcn = [EmotionClassifier("fcn", SHORT, s) for s in (0, 1)]
        return [*mata, other, *fcn, EmotionClassifier("lda")]

    some = y != "joy"
    data = [
        (X, y, groups),
        (X[:30], y[:30], groups[:30]),
        (X, y, groups),
        (X, y, groups),
        (X[some], y[some], None),
        (X, y, None),
        (X, y, None),
    ]
    many = make()
    assert fit_many(many, data) == many
    for fitted, alone, (own, labels, speakers) in zip(many, make(), data, strict=True):
        alone.fit(own, labels, groups=speakers)
        assert fitted.classes_.tolist() == alone.classes_.tolist()
        np.testing.assert_allclose(fitted.predict_proba(X), alone.predict_proba(X), atol=1e-4)
        if isinstance(fitted, FusionClassifier):
            np.testing.assert_array_equal(fitted.references_, alone.references_)
    assert np.abs(many[0].predict_proba(X) - many[2].predict_proba(X)).max() > 1e-3
    assert np.abs(many[0].predict_proba(X) - many[3].predict_proba(X)).max() > 1e-3


def test_a_training_that_diverges_is_an_error_and_no_other_estimators():
    X, y, groups = _clips(4)
    views = {"a": slice(0, 10), "b": slice(10, 22)}
    wild = replace(SHORT, learning_rate=1e30)
    alone = "The training diverged: the weights are NaN or infinite. Lower the learning rate (1e+30"
    for model in (
        EmotionClassifier("fcn", wild),
        FusionClassifier("mata", "fcn", views, settings=wild),
    ):
        with pytest.raises(DivergedError, match=re.escape(alone)):
            model.fit(X, y, groups)
    good, bad = (FusionClassifier("concat", "fcn", views, settings=s) for s in (SHORT, wild))
    turns = fit_in_turn([bad, good], [(X, y, None)] * 2)
    assert next(turns) == 1
    assert np.isfinite(good.predict_proba(X)).all()
    with pytest.raises(DivergedError, match="1 of 2 trainings diverged"):
        next(turns)
