"""A head on the embeddings of one encoder, linear or neural."""

from __future__ import annotations

import warnings
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from nver.estimators.base import EmbeddingClassifier, check_width, softmax
from nver.heads import HIDDEN, build_head
from nver.registry import unknown
from nver.shapes import Labels, Probabilities
from nver.training import TrainingSettings

LINEAR = ("lda", "logreg")
HEADS = (*LINEAR, "fcn", "cnn")


@final
class EmotionClassifier(EmbeddingClassifier):
    """A head on the embeddings of one encoder.

    Parameters
    ----------
    head : {"lda", "logreg", "fcn", "cnn"}
        Shrinkage linear discriminant analysis (Ledoit & Wolf), logistic regression with C = 0.01, a
        dense head, a convolutional head.
    settings : TrainingSettings, optional
        The recipe of the neural heads; None is the default recipe (docs/recipe.md).
    random_state : int, RandomState instance or None
        Of initial weights, order of clips, dropout and the speakers held out.
    width : float
        Of the dense layer of a neural head, times the paper's 128; above 0.
    device : str
        Where the networks are trained, "cpu" or "cuda". They predict on the CPU.

    Attributes
    ----------
    classes_ : [classes]
        The labels, sorted; the columns of `predict_proba`.
    history_ : nver.training.History
        What happened in training; neural heads only.

    Examples
    --------
    >>> X = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
    >>> EmotionClassifier("lda").fit(X, ["cry", "cry", "laugh", "laugh"]).predict([[1.0, 0.1]])
    array(['laugh'], dtype='<U5')
    """

    def __init__(
        self,
        head: str = "fcn",
        settings: TrainingSettings | None = None,
        random_state: Any = 0,
        width: float = 1.0,
        device: str = "cpu",
    ) -> None:
        self.head = head
        self.settings = settings
        self.random_state = random_state
        self.width = width
        self.device = device

    def _check(self) -> None:
        if self.head not in HEADS:
            raise unknown("head", self.head, HEADS)
        check_width(self.width)

    def _kind(self) -> str:
        return self.head

    def _fit_linear(self, X: np.ndarray, codes: np.ndarray) -> bool:
        if self.head not in LINEAR:
            return False
        with warnings.catch_warnings():
            # The covariance of a class with one clip is 0, which is what is meant.
            warnings.filterwarnings("ignore", "Only one sample available", UserWarning)
            self.pipeline_ = _linear(self.head).fit(X, codes)
        return True

    def _build(self, columns: int, dropout: float) -> nn.Module:
        hidden = max(1, round(self.width * HIDDEN))
        return build_head(self.head, columns, len(self.classes_), dropout, hidden)

    def predict_proba(self, X: ArrayLike) -> Probabilities:
        """Return the probability of each class, [clips, classes] in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        if self.head in LINEAR:
            probabilities: np.ndarray = self.pipeline_.predict_proba(X)
            return probabilities
        with torch.no_grad():
            return softmax(self.network_(torch.from_numpy(self.scaler_.transform(X))))

    def predict(self, X: ArrayLike) -> Labels:
        """Return the most probable label of each clip."""
        best = np.argmax(self.predict_proba(X), axis=1)
        labels: np.ndarray = self.classes_[best]
        return labels


def _linear(head: str) -> Pipeline:
    if head == "lda":
        last = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    else:
        last = LogisticRegression(C=0.01, max_iter=1000)
    return make_pipeline(StandardScaler(), last)
