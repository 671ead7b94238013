"""What both classifiers share: scikit-learn's contract, labels as numbers, many at once."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, validate_data
from torch import Tensor, nn

from nver.errors import DivergedError, SettingsError
from nver.training import History, TrainingSettings, finishing, seeded

Groups = ArrayLike | Sequence[Any] | None
Clips = tuple[ArrayLike, ArrayLike, Groups]
"""X, y and the groups, as `fit` takes them."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """Inputs scaled to mean 0 and deviation 1 per column, in float32, and by what."""

    scaler: StandardScaler
    single: Tensor


@dataclass(frozen=True, eq=False)
class Training:
    """A network that is ready to be trained; `clips` is X as it was given."""

    network: nn.Module
    clips: ArrayLike
    single: Tensor
    codes: Tensor
    groups: Tensor | None
    settings: TrainingSettings
    seed: int


class EmbeddingClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the classifiers: checks, labels as numbers, scaling, training."""

    settings: TrainingSettings | None
    random_state: Any
    device: str
    network_: Any

    def fit(self, X: ArrayLike, y: ArrayLike, groups: Groups = None) -> Any:
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

        Raises
        ------
        DivergedError
            If the network's weights are NaN or infinite in the end.
        """
        return fit_many([self], [(X, y, groups)])[0]

    def _prepare(
        self, X: ArrayLike, y: ArrayLike, groups: Groups, known: dict[int, Scaled]
    ) -> Training | None:
        """Check the input, and make what is to be trained; None if nothing is left to train."""
        inputs, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        check_consistent_length(inputs, y, groups)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "A classifier needs clips of at least 2 classes, "
                f"got 1 class: '{self.classes_[0]}'."
            )
        self._check()
        if self._fit_linear(inputs, codes):
            return None
        if id(X) not in known:
            known[id(X)] = _scaled(inputs)
        scaled = known[id(X)]
        self.scaler_ = copy.deepcopy(scaled.scaler)
        settings = self.settings or _default_settings(self._kind())
        seed = _seed(self.random_state)
        with seeded(seed):
            self.network_ = self._build(inputs.shape[1], settings.dropout)
        return Training(
            self.network_,
            X,
            scaled.single,
            torch.from_numpy(codes),
            None if groups is None else torch.from_numpy(group_codes(groups)),
            settings,
            seed,
        )

    def _alike(self) -> Hashable:
        """Return what estimators must have in common to be trained at once."""
        given = self.get_params(deep=False)
        del given["random_state"]
        columns = getattr(self, "n_features_in_", 0)
        return type(self), columns, len(self.classes_), repr(sorted(given.items()))

    @abstractmethod
    def _check(self) -> None:
        """Refuse parameters that name nothing."""

    @abstractmethod
    def _kind(self) -> str:
        """Return the kind of layers: "cnn" has a recipe of its own."""

    @abstractmethod
    def _build(self, columns: int, dropout: float) -> nn.Module:
        """Return the untrained network."""

    def _fit_linear(self, X: np.ndarray, codes: np.ndarray) -> bool:  # noqa: ARG002
        """Fit at once what is no network, and return whether it was that."""
        return False

    def _keep(self, training: Training) -> None:
        """Keep what predictions need beside the network."""


def fit_many(
    estimators: Sequence[EmbeddingClassifier], data: Sequence[Clips], *, at_once: int | None = None
) -> list[EmbeddingClassifier]:
    """Fit every estimator on its own clips, those of equal settings and sizes at once.

    The arguments and errors are those of `fit_in_turn`.

    Returns
    -------
    list
        The estimators, fitted.
    """
    for _ in fit_in_turn(estimators, data, at_once=at_once):
        pass
    return list(estimators)


def fit_in_turn(
    estimators: Sequence[EmbeddingClassifier], data: Sequence[Clips], *, at_once: int | None = None
) -> Iterator[int]:
    """Fit estimators as `fit_many` does, and yield the place of each as it is fitted.

    Each ends as its own `fit` would leave it, up to rounding. One that is not yielded yet is not
    fitted.

    Parameters
    ----------
    estimators : sequence of EmotionClassifier or FusionClassifier
        Folds and seeds of a system, or of several.
    data : sequence of (X, y, groups)
        As `fit` takes them, one per estimator. Where estimators are given the same X object, it is
        scaled and held once.
    at_once : int, optional
        Networks trained at once; None is `nver.training.pack_size`.

    Yields
    ------
    int
        Place in `estimators`.

    Raises
    ------
    SettingsError
        If there are not as many estimators as data.
    DivergedError
        After all others are yielded, if the weights of some are NaN or infinite.
    """
    if len(estimators) != len(data):
        raise SettingsError(
            f"Expected as many estimators as data, got {len(estimators)} and {len(data)}."
        )
    known: dict[int, Scaled] = {}
    alike: dict[Hashable, dict[int, Training]] = {}
    for place, (estimator, clips) in enumerate(zip(estimators, data, strict=True)):
        training = estimator._prepare(*clips, known)
        if training is None:
            yield place
        else:
            alike.setdefault(estimator._alike(), {})[place] = training
    diverged = []
    for group in alike.values():
        places = list(group)
        device = estimators[places[0]].device
        for number, history in _train(list(group.values()), device, at_once):
            estimator, training = estimators[places[number]], group[places[number]]
            estimator.history_ = history
            if not all(bool(x.isfinite().all()) for x in training.network.state_dict().values()):
                diverged.append(training.settings.learning_rate)
                continue
            estimator._keep(training)
            yield places[number]
    if diverged:
        raise DivergedError(
            f"{_which(len(diverged), len(estimators))} diverged: the weights are NaN or infinite. "
            f"Lower the learning rate ({max(diverged):g}), or look for extreme values in X."
        )


def _which(some: int, among: int) -> str:
    return "The training" if among == 1 else f"{some} of {among} trainings"


def _train(
    trainings: Sequence[Training], device: str, at_once: int | None
) -> Iterator[tuple[int, History]]:
    """Train in float32, and yield each that has finished; the networks then predict in float64."""
    for number, history in finishing(
        [training.network for training in trainings],
        [(training.single, training.codes) for training in trainings],
        trainings[0].settings,
        seeds=[training.seed for training in trainings],
        groups=[training.groups for training in trainings],
        device=device,
        at_once=at_once,
    ):
        trainings[number].network.double()
        yield number, history


def _scaled(X: np.ndarray) -> Scaled:
    scaler = StandardScaler().fit(X)
    return Scaled(scaler, torch.from_numpy(scaler.transform(X).astype(np.float32)))


def group_codes(groups: ArrayLike | Sequence[Any]) -> np.ndarray:
    """Return a number per group; a clip without one gets a number of its own."""
    listed = enumerate(np.asarray(groups, dtype=object))
    names = [f"none {i}" if name is None else f"name {name}" for i, name in listed]
    return np.unique(names, return_inverse=True)[1]


def _seed(random_state: Any) -> int:
    """Return an integer as it is; draw one from a generator."""
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def check_width(width: float) -> None:
    """Refuse networks without units.

    Raises
    ------
    SettingsError
    """
    if not 0 < width < np.inf:
        raise SettingsError(f"width must be a finite number above 0, got {width}.")


def _default_settings(kind: str) -> TrainingSettings:
    """Return the default recipe for a head or branch."""
    return TrainingSettings.convolutional() if kind == "cnn" else TrainingSettings()


@torch.no_grad()
def softmax(logits: Tensor) -> np.ndarray:
    """Return the probabilities [clips, classes] of logits."""
    probabilities: np.ndarray = torch.softmax(logits, dim=1).numpy()
    return probabilities
