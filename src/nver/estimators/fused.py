"""The embeddings of several encoders, fused."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from nver.errors import SettingsError
from nver.estimators.base import EmbeddingClassifier, Training, check_width, softmax
from nver.estimators.foreign import check_fusion
from nver.fusion import (
    FUSIONS,
    BatchCoupling,
    Companions,
    Coupling,
    EntropicMap,
    FusionShape,
    build_fusion,
    fusion_class,
)
from nver.fusion.base import Fusion
from nver.fusion.coupling import TransportSettings
from nver.registry import unknown
from nver.shapes import Labels, Probabilities
from nver.training import TrainingSettings
from nver.transport import normalised_cost

COUPLINGS = ("companions", "map", "batch")
MAP_REFERENCES = 256
"""Training clips between which `coupling="map"` solves its plan, at most."""


@final
class FusionClassifier(EmbeddingClassifier):
    """The embeddings of several encoders, fused.

    Parameters
    ----------
    fusion : {"concat", "late", "transport", "attention", "mata"}
        How; other packages may add theirs (entry points "nver.fusions"), and ``FILE.py:CLASS`` is
        one of your own.
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
    width : float
        Of branches and dense layers, times the paper's 120 and 128; above 0.
    plan_gradient : bool
        Whether training follows the plan's own gradient too.
    settings : TrainingSettings, optional
        The recipe; None is the default recipe (docs/recipe.md).
    random_state : int, RandomState instance or None
        Of initial weights, order of clips, dropout, the speakers held out and the companions.
    device : str
        Where the networks are trained, "cpu" or "cuda". They predict on the CPU.

    Attributes
    ----------
    classes_ : [classes]
        The labels, sorted; the columns of `predict_proba`.
    history_ : nver.training.History
        What happened in training.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's parameters are arguments
        self,
        fusion: str = "mata",
        branch: str = "fcn",
        views: Mapping[str, slice] | None = None,
        coupling: str = "companions",
        eps: float = 0.05,
        plan_gradient: bool = False,
        width: float = 1.0,
        settings: TrainingSettings | None = None,
        random_state: Any = 0,
        device: str = "cpu",
    ) -> None:
        self.fusion = fusion
        self.branch = branch
        self.views = views
        self.coupling = coupling
        self.eps = eps
        self.plan_gradient = plan_gradient
        self.width = width
        self.settings = settings
        self.random_state = random_state
        self.device = device

    def _check(self) -> None:
        _check_coupling(self.coupling)
        check_width(self.width)

    def _kind(self) -> str:
        return self.branch

    def _build(self, columns: int, dropout: float) -> nn.Module:
        shape = FusionShape(
            views=column_views(self.views, columns),
            classes=len(self.classes_),
            branch=self.branch,
            dropout=dropout,
            transport=TransportSettings(eps=self.eps, plan_gradient=self.plan_gradient),
            width=self.width,
        )
        if self.fusion not in FUSIONS.table:
            check_fusion(fusion_class(self.fusion), len(shape.views), self.branch)
        return build_fusion(self.fusion, shape)

    def _keep(self, training: Training) -> None:
        self.batch_size_ = training.settings.batch_size
        if self.network_.couples:
            order = np.random.default_rng(training.seed).permutation(len(training.single))
            kept = order[: max(MAP_REFERENCES, self.batch_size_ - 1)]
            clips = np.asarray(training.clips)[kept]
            self.references_ = self.scaler_.transform(clips.astype(np.float64))

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
            return softmax(self.network_(inputs))
        if chosen == "batch":
            rule = BatchCoupling(self.network_.shape.transport)
            size = self.batch_size_
            parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
            return np.concatenate([softmax(self.network_(part, coupling=rule)) for part in parts])
        return softmax(self.network_(inputs, coupling=self._inductive(chosen)))

    def predict(self, X: ArrayLike, coupling: str | None = None) -> Labels:
        """Return the most probable label of each clip; `coupling` as in `predict_proba`."""
        best = np.argmax(self.predict_proba(X, coupling), axis=1)
        labels: np.ndarray = self.classes_[best]
        return labels

    @torch.no_grad()
    def plans(self, X: ArrayLike) -> dict[tuple[str, str], np.ndarray]:
        """Return how the clips of one batch are coupled with each other, as in the paper.

        Parameters
        ----------
        X : float [clips, columns]
            One batch.

        Returns
        -------
        mapping of (str, str) to float64 [clips, clips]
            Source and target encoder to the plan between them; the mass of row i and column j is
            what moves from clip i seen by the source to clip j seen by the target. Each plan sums
            to 1, its rows and columns to 1 / clips. Pairs come in the order of the views, each
            once: the plan of the opposite direction is the transpose. Empty where the fusion has
            no transport.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        network: Fusion = self.network_
        if not network.couples:
            return {}
        latents = network.latents(torch.from_numpy(self.scaler_.transform(X)))
        names = ("first", "second") if self.views is None else tuple(self.views)
        settings = network.shape.transport
        return {
            (names[i], names[j]): settings.solve(
                normalised_cost(latents[i], latents[j])
            ).plan.numpy()
            for i, j in combinations(range(len(names)), 2)
        }

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
