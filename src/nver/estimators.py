"""Classifiers with scikit-learn's contract: one embedding, or several fused.

`EmotionClassifier` puts a head on one matrix of embeddings. `FusionClassifier` sees one matrix too
and cuts its columns into views, one per encoder. Both scale their input inside `fit`, take the
speakers as `groups` (only to hold whole speakers out for early stopping), and predict in float64:
the probabilities of a clip do not depend on the clips beside it, except under ``coupling="batch"``,
which is there to show what that costs.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from torch import Tensor, nn

from nver.errors import SettingsError
from nver.fusion import BatchCoupling, Companions, Coupling, EntropicMap, FusionShape, build_fusion
from nver.fusion.base import Fusion
from nver.fusion.coupling import TransportSettings
from nver.heads import build_head
from nver.registry import unknown
from nver.shapes import Labels, Probabilities
from nver.training import TrainingSettings, seeded, train

HEADS = ("lda", "logreg", "fcn", "cnn")
COUPLINGS = ("companions", "map", "batch")
MAP_REFERENCES = 256
"""Training clips between which `coupling="map"` solves its plan, at most."""


class _EmbeddingClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """What both classifiers share: checks, labels as numbers, probabilities to labels."""

    def fit(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | Sequence[Any] | None = None
    ) -> Any:
        """Train on embeddings.

        Parameters
        ----------
        X : float [clips, columns]
            Finite; NaN is refused.
        y : [clips]
            Labels, strings or integers, of at least two classes.
        groups : [clips], optional
            Speakers. Whole speakers are held out for early stopping; None entries are clips whose
            speaker is unknown, each taken for a speaker of its own.

        Returns
        -------
        self
        """
        inputs, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        check_consistent_length(inputs, y, groups)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "A classifier needs clips of at least 2 classes, "
                f"got 1 class: '{self.classes_[0]}'."
            )
        self._fit(inputs, codes, None if groups is None else _group_codes(groups))
        return self

    @abstractmethod
    def _fit(self, X: np.ndarray, codes: np.ndarray, groups: np.ndarray | None) -> None:
        """Fit on checked input."""


def _group_codes(groups: ArrayLike | Sequence[Any]) -> np.ndarray:
    """Return a number per group; a clip without one gets a number of its own."""
    listed = enumerate(np.asarray(groups, dtype=object))
    names = [f"none {i}" if name is None else f"name {name}" for i, name in listed]
    return np.unique(names, return_inverse=True)[1]


def _seed(random_state: Any) -> int:
    """Return an integer as it is; draw one from a generator."""
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _train_network(
    network: nn.Module,
    inputs: np.ndarray,
    codes: np.ndarray,
    groups: np.ndarray | None,
    settings: TrainingSettings,
    seed: int,
) -> Any:
    """Train in float32; the network then predicts in float64."""
    history = train(
        network,
        torch.from_numpy(inputs.astype(np.float32)),
        torch.from_numpy(codes),
        settings,
        seed=seed,
        groups=None if groups is None else torch.from_numpy(groups),
    )
    network.double()
    return history


def _default_settings(kind: str) -> TrainingSettings:
    """Return the default recipe for a head or branch."""
    return TrainingSettings.convolutional() if kind == "cnn" else TrainingSettings()


@torch.no_grad()
def _softmax(logits: Tensor) -> np.ndarray:
    probabilities: np.ndarray = torch.softmax(logits, dim=1).numpy()
    return probabilities


@final
class EmotionClassifier(_EmbeddingClassifier):
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
    ) -> None:
        self.head = head
        self.settings = settings
        self.random_state = random_state

    def _fit(self, X: np.ndarray, codes: np.ndarray, groups: np.ndarray | None) -> None:
        if self.head not in HEADS:
            raise unknown("head", self.head, HEADS)
        if self.head in ("lda", "logreg"):
            with warnings.catch_warnings():
                # The covariance of a class with one clip is 0, which is what is meant.
                warnings.filterwarnings("ignore", "Only one sample available", UserWarning)
                self.pipeline_ = _linear(self.head).fit(X, codes)
            return
        settings = self.settings or _default_settings(self.head)
        seed = _seed(self.random_state)
        self.scaler_ = StandardScaler().fit(X)
        with seeded(seed):
            self.network_ = build_head(self.head, X.shape[1], len(self.classes_), settings.dropout)
        inputs = self.scaler_.transform(X)
        self.history_ = _train_network(self.network_, inputs, codes, groups, settings, seed)

    def predict_proba(self, X: ArrayLike) -> Probabilities:
        """Return the probability of each class, [clips, classes] in the order of `classes_`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        if self.head in ("lda", "logreg"):
            probabilities: np.ndarray = self.pipeline_.predict_proba(X)
            return probabilities
        with torch.no_grad():
            return _softmax(self.network_(torch.from_numpy(self.scaler_.transform(X))))

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


@final
class FusionClassifier(_EmbeddingClassifier):
    """The embeddings of several encoders, fused.

    Parameters
    ----------
    fusion : {"concat", "late", "transport", "attention", "mata"}
        How; other packages may add theirs (entry points "nver.fusions").
    branch : {"fcn", "cnn"}
        What each embedding passes first: a dense layer, or convolutions as in the paper.
    views : mapping of str to slice, optional
        Encoder to its columns of X. None cuts the columns in two halves.
    coupling : {"companions", "map", "batch"}
        How a clip is transported at prediction: among fixed training clips, by a fixed map, or
        among the clips of its batch of 32, as in the paper (transductive: the prediction for a clip
        depends on the others and on their order). Only for fusions with transport.
    eps : float
        Regularisation of the plans, relative to the largest cost.
    plan_gradient : bool
        Whether training follows the plan's own gradient too.
    settings : TrainingSettings, optional
        The recipe; None is the default recipe (docs/recipe.md).
    random_state : int, RandomState instance or None
        Of initial weights, order of clips, dropout, the speakers held out and the companions.

    Attributes
    ----------
    classes_ : [classes]
        The labels, sorted; the columns of `predict_proba`.
    history_ : nver.training.History
        What happened in training.
    """

    def __init__(
        self,
        fusion: str = "mata",
        branch: str = "fcn",
        views: Mapping[str, slice] | None = None,
        coupling: str = "companions",
        eps: float = 0.05,
        plan_gradient: bool = False,
        settings: TrainingSettings | None = None,
        random_state: Any = 0,
    ) -> None:
        self.fusion = fusion
        self.branch = branch
        self.views = views
        self.coupling = coupling
        self.eps = eps
        self.plan_gradient = plan_gradient
        self.settings = settings
        self.random_state = random_state

    def _fit(self, X: np.ndarray, codes: np.ndarray, groups: np.ndarray | None) -> None:
        _check_coupling(self.coupling)
        settings = self.settings or _default_settings(self.branch)
        seed = _seed(self.random_state)
        shape = FusionShape(
            views=column_views(self.views, X.shape[1]),
            classes=len(self.classes_),
            branch=self.branch,
            dropout=settings.dropout,
            transport=TransportSettings(eps=self.eps, plan_gradient=self.plan_gradient),
        )
        with seeded(seed):
            self.network_ = build_fusion(self.fusion, shape)
        self.scaler_ = StandardScaler().fit(X)
        inputs = self.scaler_.transform(X)
        self.history_ = _train_network(self.network_, inputs, codes, groups, settings, seed)
        self.batch_size_ = settings.batch_size
        if self.network_.couples:
            order = np.random.default_rng(seed).permutation(len(inputs))
            self.references_ = inputs[order[: max(MAP_REFERENCES, self.batch_size_ - 1)]]

    @torch.no_grad()
    def predict_proba(self, X: ArrayLike, coupling: str | None = None) -> Probabilities:
        """Return the probability of each class, [clips, classes] in the order of `classes_`.

        Parameters
        ----------
        X : float [clips, columns]
        coupling : {"companions", "map", "batch"}, optional
            None: as the constructor says.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        inputs = torch.from_numpy(self.scaler_.transform(X))
        chosen = self.coupling if coupling is None else coupling
        _check_coupling(chosen)
        if not self.network_.couples:
            return _softmax(self.network_(inputs))
        if chosen == "batch":
            rule = BatchCoupling(self.network_.shape.transport)
            size = self.batch_size_
            parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
            return np.concatenate([_softmax(self.network_(part, rule)) for part in parts])
        return _softmax(self.network_(inputs, self._inductive(chosen)))

    def predict(self, X: ArrayLike, coupling: str | None = None) -> Labels:
        """Return the most probable label of each clip; `coupling` as in `predict_proba`."""
        best = np.argmax(self.predict_proba(X, coupling), axis=1)
        labels: np.ndarray = self.classes_[best]
        return labels

    def _inductive(self, coupling: str) -> Coupling:
        """Return the coupling with the training clips that the model keeps."""
        network: Fusion = self.network_
        held = torch.from_numpy(self.references_)
        settings = network.shape.transport
        if coupling == "map":
            return EntropicMap(network.latents(held[:MAP_REFERENCES]), settings)
        return Companions(network.latents(held[: self.batch_size_ - 1]), settings)


def _check_coupling(coupling: str) -> None:
    if coupling not in COUPLINGS:
        raise unknown("coupling", coupling, COUPLINGS)


def column_views(views: Mapping[str, slice] | None, columns: int) -> tuple[slice, ...]:
    """Return each view's columns with start and stop.

    Without `views` the columns are cut in two halves; a single column is then both.

    Raises
    ------
    SettingsError
        If a view is empty, reaches past the columns or has a step. Views may overlap, and columns
        that are in no view are not used.
    """
    if views is None:
        half = columns // 2
        return (slice(0, max(half, 1)), slice(half, columns))
    found = []
    for name, view in views.items():
        start, stop, step = view.indices(columns)
        if step != 1 or stop <= start or (view.stop is not None and view.stop > columns):
            raise SettingsError(
                f"View '{name}' must be a non-empty range of the {columns} columns of X, "
                f"got {view}."
            )
        found.append(slice(start, stop))
    return tuple(found)
