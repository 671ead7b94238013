"""Prediction sets that hold the true class at a chosen rate: split conformal prediction.

The set of a clip holds every class whose probability reaches a threshold; the threshold is a
quantile of ``1 - p_true`` over calibration clips that the model did not see (least ambiguous sets:
Sadinle, Lei and Wasserman 2019, JASA 114, arXiv 1609.00451). Where calibration and test clips are
exchangeable, the sets hold the true class of ``1 - error rate`` of the clips on average, whatever
the model (Vovk, Gammerman and Shafer 2005). A set may be empty: then no class is likely enough.

The library is MAPIE, which the extra 'stats' brings. It scores by ``1 - p``, and takes scores that
differ by 1e-8 for equal: thresholds of 1e-12, as over-confident systems have, would let every class
in. It is therefore given the rank of a probability among the calibration clips' ``p_true``, which
keeps their order and with it the sets.
"""

from __future__ import annotations

import math
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from nver.calibration import Probabilities, Truth, checked
from nver.errors import EvaluationError, SettingsError
from nver.registry import require

METHOD = "split conformal, least ambiguous sets"


def method() -> str:
    """Return the method and the library with its version.

    Raises
    ------
    MissingExtraError
        If the library is not installed.
    """
    require("mapie", extra="stats")
    return f"{METHOD} (MAPIE {version('mapie')})"


def least_calibration(alpha: float) -> int:
    """Return how many calibration clips MAPIE asks for: more than ``1 / alpha``.

    And more than ``1 / (1 - alpha)``. With fewer, only the set of all classes keeps the promise.

    Raises
    ------
    SettingsError
        If `alpha` is not between 0 and 1.

    Examples
    --------
    >>> least_calibration(0.1), least_calibration(0.05)
    (11, 21)
    """
    if not 0.0 < alpha < 1.0:
        raise SettingsError(f"Expected an error rate between 0 and 1, got {alpha:g}.")
    return math.floor(max(1.0 / alpha, 1.0 / (1.0 - alpha))) + 1


def prediction_sets(
    calibration: Probabilities,
    truth: Truth,
    test: Float[np.ndarray, "tested classes"],
    alpha: float = 0.1,
) -> Bool[np.ndarray, "tested classes"]:
    """Return which classes are in the set of each test clip.

    Parameters
    ----------
    calibration : array [clips, classes]
        Probabilities of clips that their model did not see, each row with sum 1.
    truth : int [clips]
        The true class's column of each.
    test : array [tested, classes]
        Probabilities of the clips that get a set.
    alpha : float
        The error rate, in (0, 1): the share of test clips whose set may miss the true class.

    Raises
    ------
    EvaluationError
        If there are fewer calibration clips than `least_calibration`, or `nver.calibration.checked`
        refuses them.
    SettingsError
        If `alpha` is not between 0 and 1.
    MissingExtraError
        If MAPIE is not installed.
    """
    needed = least_calibration(alpha)
    if len(truth) < needed:
        raise EvaluationError(
            f"Expected at least {needed} calibration clips for an error rate of {alpha:g}, got "
            f"{len(truth)}. Take a higher error rate."
        )
    known = checked(calibration, truth)
    asked = checked(test, np.zeros(len(test), dtype=np.int64))
    library = require("mapie.classification", extra="stats")
    classifier = library.SplitConformalClassifier(
        _known(2), confidence_level=1.0 - alpha, conformity_score="lac"
    )
    reached = np.sort(known[np.arange(len(known)), truth])
    with warnings.catch_warnings():
        # That no clip is "out" changes nothing: the threshold is one for both.
        warnings.filterwarnings("ignore", "WARNING: your conformalization dataset", UserWarning)
        classifier.conformalize(_ranks(reached, reached), np.zeros(len(truth), dtype=np.int64))
    _, sets = classifier.predict_set(_ranks(asked.ravel(), reached))
    return np.asarray(sets[:, 0, 0], dtype=bool).reshape(asked.shape)


def _ranks(
    values: Float[np.ndarray, "values"], reached: Float[np.ndarray, "clips"]
) -> Float[np.ndarray, "values 2"]:
    """Return the share of the sorted `reached` that each value is no less than, and the rest.

    A value is at least one of the `reached` exactly where its share is at least that one's.
    """
    share = np.searchsorted(reached, values, side="right") / len(reached)
    return np.stack([share, 1.0 - share], axis=1)


def _known(classes: int) -> Any:
    """Return a fitted classifier whose features are the probabilities themselves."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Known(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        classes_ = np.arange(classes)

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return X

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.asarray(X.argmax(axis=1))

    return Known()
