"""The encoder, or the layer of an encoder, that is best inside the training part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import recall_score
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils.validation import check_is_fitted, validate_data

from nver.errors import SettingsError
from nver.estimators.base import Groups, group_codes
from nver.estimators.fused import column_views
from nver.estimators.single import EmotionClassifier
from nver.shapes import Labels, Probabilities
from nver.training import TrainingSettings

INNER_FOLDS = 3


@final
class ViewChoice(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """One of several views, chosen by what is known at training, and a head on it.

    Every view is judged by the UAR of shrinkage LDA on three inner folds of the training part, by
    speaker where `fit` is told them. The best gets the head. To take the view that scores best on
    the test part is to choose by the test part; this is the honest way, and the single encoder that
    a fusion has to beat.

    Parameters
    ----------
    head : str
        As of `EmotionClassifier`.
    views : mapping of str to slice, optional
        Encoder to its columns of X; None cuts the columns in two halves.
    settings : TrainingSettings, optional
        The recipe of a neural head, as of `EmotionClassifier`.
    random_state : int
        Of the head.
    device : str
        As of `EmotionClassifier`.

    Attributes
    ----------
    view_ : str
        What was chosen.
    uar_ : dict of str to float
        Of every view on the inner folds, in [0, 1]; the chosen one's is optimistic.
    model_ : EmotionClassifier
        The head on it.
    """

    def __init__(
        self,
        head: str = "lda",
        views: Mapping[str, slice] | None = None,
        settings: TrainingSettings | None = None,
        random_state: Any = 0,
        device: str = "cpu",
    ) -> None:
        self.head = head
        self.views = views
        self.settings = settings
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike, groups: Groups = None) -> ViewChoice:
        """Choose a view and train the head on it; arguments as of `EmotionClassifier.fit`."""
        inputs, labels = validate_data(self, X, y, dtype=np.float64)
        names = ("first", "second") if self.views is None else tuple(self.views)
        parts = dict(zip(names, column_views(self.views, inputs.shape[1]), strict=True))
        folds = _folds(len(labels), groups)
        self.uar_ = {name: _uar(inputs[:, part], labels, folds) for name, part in parts.items()}
        self.view_ = max(self.uar_, key=lambda name: self.uar_[name])  # of equals the first
        self.columns_ = parts[self.view_]
        self.model_ = EmotionClassifier(
            self.head, self.settings, random_state=self.random_state, device=self.device
        ).fit(inputs[:, self.columns_], labels, groups)
        self.classes_ = self.model_.classes_
        return self

    @property
    def history_(self) -> Any:
        """What happened in the training of a neural head; absent from linear ones."""
        return self.model_.history_

    @property
    def said_(self) -> tuple[str, ...]:
        """What was chosen, in words."""
        return (f"'{self.view_}' was chosen inside the training part",)

    def predict_proba(self, X: ArrayLike) -> Probabilities:
        """Return the probability of each class, [clips, classes] in the order of `classes_`."""
        probabilities: np.ndarray = self.model_.predict_proba(self._chosen(X))
        return probabilities

    def predict(self, X: ArrayLike) -> Labels:
        """Return the most probable label of each clip."""
        labels: np.ndarray = self.model_.predict(self._chosen(X))
        return labels

    def _chosen(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        inputs: np.ndarray = validate_data(self, X, dtype=np.float64, reset=False)
        return inputs[:, self.columns_]


def _folds(clips: int, groups: Groups) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return train and test rows: by speaker if there are two, else by clip."""
    codes = None if groups is None else group_codes(groups)
    speakers = 0 if codes is None else int(codes.max()) + 1
    if speakers > 1:
        return list(GroupKFold(min(INNER_FOLDS, speakers)).split(codes, groups=codes))
    if clips < 2:
        raise SettingsError(f"A view is chosen among at least 2 clips, got {clips}.")
    splitter = KFold(min(INNER_FOLDS, clips), shuffle=True, random_state=0)
    return list(splitter.split(np.zeros(clips)))


def _uar(X: np.ndarray, y: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the UAR of LDA over all inner folds; clips that nothing could be learned for miss."""
    classes, codes = np.unique(y, return_inverse=True)
    predicted = np.full(len(y), len(classes))
    for train, test in folds:
        if 1 < len(np.unique(codes[train])) < len(train):  # LDA needs a second clip of some class
            predicted[test] = EmotionClassifier("lda").fit(X[train], codes[train]).predict(X[test])
    labels = np.arange(len(classes))
    return float(recall_score(codes, predicted, labels=labels, average="macro", zero_division=0))
