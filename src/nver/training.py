"""The one training loop: mini-batches by index, AdamW, deterministic given the seed.

A network is trained on tensors that are in memory; batches are rows picked by index, because for
heads of this size a data loader costs more than the step. What belongs to one training is held in
one `_Member`, so that several can be trained side by side.

The default recipe (docs/recipe.md says how it was found) regularises instead of stopping early:
dropout 0.5, noise on the inputs, label smoothing and a learning rate that falls to 0, on all
training clips. `TrainingSettings.paper` is the paper's recipe, which stops early.

Early stopping looks at a tenth of the training part: whole speakers if they are known, else a
stratified tenth. It never sees a test clip. Where no such tenth exists (one speaker, a class with
one clip) the network trains for all epochs, and `History.note` says so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nver.errors import SettingsError

SMALLEST_BATCH = 8
"""Clips below which a remainder is no batch of its own."""


@dataclass(frozen=True)
class TrainingSettings:
    """The recipe; the inputs are taken as standardised (mean 0, deviation 1 per column).

    Parameters
    ----------
    epochs : int
        Passes over the training clips, at most; more where `min_steps` asks for them.
    min_steps : int
        Optimiser steps, at least: on few clips an epoch is a step or two. 0 counts epochs only.
    batch_size : int
        Clips per step. A remainder below 8 clips joins the batch before it: the batch statistics
        and the transport of two clips are noise.
    learning_rate : float
        Of AdamW, at the start; it falls to 0 along a half cosine if `cosine`.
    weight_decay : float
        Decoupled and times the learning rate (AdamW): 1 at a rate of 1e-3 shrinks weights by a
        thousandth each step. 0 is Adam.
    input_noise : float
        Deviation of the Gaussian noise added to every input of a step; 0 adds none.
    label_smoothing : float
        Share of the target spread over all classes, in [0, 1).
    dropout : float
        Share of units dropped in every network's dropout layers, in [0, 1).
    patience : int
        Epochs without a better validation loss before training stops; 0 trains all epochs on all
        clips.
    validation : float
        Share of the training clips held out for early stopping, in (0, 0.5].
    cosine : bool
        Whether the learning rate falls.
    """

    epochs: int = 30
    min_steps: int = 250
    batch_size: int = 32
    learning_rate: float = 1e-3
    cosine: bool = True
    weight_decay: float = 1.0
    dropout: float = 0.5
    input_noise: float = 0.5
    label_smoothing: float = 0.1
    patience: int = 0
    validation: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings outside their range."""
        ranges = {
            "epochs": (self.epochs, 1, math.inf),
            "min_steps": (self.min_steps, 0, math.inf),
            "batch_size": (self.batch_size, 1, math.inf),
            "learning_rate": (self.learning_rate, 1e-12, math.inf),
            "weight_decay": (self.weight_decay, 0, math.inf),
            "label_smoothing": (self.label_smoothing, 0, 0.999),
            "dropout": (self.dropout, 0, 0.999),
            "input_noise": (self.input_noise, 0, math.inf),
            "patience": (self.patience, 0, math.inf),
            "validation": (self.validation, 1e-12, 0.5),
        }
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                raise SettingsError(f"{name} must lie in [{low:g}, {high:g}], got {value}.")

    def for_clips(self, clips: int) -> TrainingSettings:
        """Return the recipe with the number of epochs that this many training clips get."""
        steps = len(_batches(torch.arange(clips), self.batch_size))
        return replace(self, epochs=max(self.epochs, math.ceil(self.min_steps / steps)))

    @classmethod
    def convolutional(cls) -> TrainingSettings:
        """Return the default recipe for convolutional networks.

        They cost some twenty times a dense network's step, and their validation loss is flat after
        eight epochs: they train for a third of the epochs (docs/recipe.md).
        """
        return cls(epochs=10, min_steps=100)

    @classmethod
    def paper(cls) -> TrainingSettings:
        """Return the paper's recipe: Adam 1e-3, batch 32, 50 epochs, dropout, early stopping.

        Dropout 0.3 and patience 10 are those of the first author's re-implementation.
        """
        return cls(
            epochs=50,
            min_steps=0,
            cosine=False,
            weight_decay=0.0,
            dropout=0.3,
            input_noise=0.0,
            label_smoothing=0.0,
            patience=10,
        )


@dataclass(frozen=True)
class History:
    """What happened in a training.

    Parameters
    ----------
    training_loss, validation_loss : tuple of float
        Mean cross-entropy per epoch (nats, lower is better); no validation gives an empty tuple.
    best_epoch : int
        The epoch, counted from 0, whose weights were kept.
    note : str
        Why there was no early stopping; "" if there was.
    """

    training_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_epoch: int
    note: str = ""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed what torch draws inside (initial weights, dropout); the global generator is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251 - the one place that may
        yield


def validation_split(
    y: Int[Tensor, " clips"],
    groups: Int[Tensor, " clips"] | None,
    share: float,
    generator: torch.Generator,
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " held"]] | None:
    """Return the clips to train on and those to hold out, or None if there is no sound way.

    With groups (speakers), whole groups are held out until they make up the share; at most half of
    the clips, and every class keeps a clip to train on. Without, each class gives its share.
    """
    held = (
        _hold_out_classes(y, share, generator)
        if groups is None
        else _hold_out_groups(y, groups, share, generator)
    )
    kept = ~held
    classes = len(_distinct(y))
    if not bool(held.any()) or len(_distinct(y[kept])) < classes or int(held.sum()) * 2 > len(y):
        return None
    return kept.nonzero().squeeze(1), held.nonzero().squeeze(1)


def _distinct(values: Tensor) -> Tensor:
    found: Tensor = torch.unique(values)
    return found


def _batches(rows: Tensor, size: int) -> list[Tensor]:
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) < min(SMALLEST_BATCH, size):
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _hold_out_groups(y: Tensor, groups: Tensor, share: float, generator: torch.Generator) -> Tensor:
    names = _distinct(groups)
    held = torch.zeros(len(y), dtype=torch.bool)
    for index in torch.randperm(len(names), generator=generator):
        if int(held.sum()) >= share * len(y):
            break
        held |= groups == names[index]
    return held


def _hold_out_classes(y: Tensor, share: float, generator: torch.Generator) -> Tensor:
    held = torch.zeros(len(y), dtype=torch.bool)
    for label in _distinct(y):
        members = (y == label).nonzero().squeeze(1)
        count = round(share * len(members))
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return held


@dataclass
class _Member:
    """Everything that one training owns."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    training_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    best_state: dict[str, Tensor] | None = None

    def judge(self, loss: float) -> None:
        """Note an epoch's validation loss, and keep the weights if it is the best."""
        self.validation_loss.append(loss)
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, len(self.validation_loss) - 1
            self.best_state = copy.deepcopy(self.model.state_dict())

    def waited(self) -> int:
        """Return the epochs since the best one."""
        return len(self.validation_loss) - 1 - self.best_epoch


def train(
    model: nn.Module,
    X: Float[Tensor, "clips columns"],
    y: Int[Tensor, " clips"],
    settings: TrainingSettings,
    *,
    seed: int,
    groups: Int[Tensor, " clips"] | None = None,
) -> History:
    """Train `model` in place and leave it in evaluation mode with its best weights.

    Parameters
    ----------
    model : torch.nn.Module
        Maps X [clips, columns] to logits [clips, classes].
    y : int [clips]
        Class numbers.
    seed : int
        Of the held-out tenth, the order of clips and the dropout masks.
    groups : int [clips], optional
        Speaker numbers; the clips held out for early stopping are those of whole speakers.
    """
    generator = torch.Generator().manual_seed(seed)
    split = (
        validation_split(y, groups, settings.validation, generator) if settings.patience else None
    )
    note = ""
    if split is None:
        kept, held = torch.arange(len(y)), torch.arange(0)
        note = "not asked for" if not settings.patience else "no speaker or class can be held out"
    else:
        kept, held = split
    settings = settings.for_clips(len(kept))
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    member = _Member(model, optimiser, generator)
    with seeded(seed):
        for epoch in range(settings.epochs):
            _train_epoch(member, X[kept], y[kept], settings, epoch)
            if split is not None:
                member.judge(_loss(model, X[held], y[held], settings))
                if member.waited() >= settings.patience:
                    break
    if member.best_state is not None:
        model.load_state_dict(member.best_state)
    model.eval()
    return History(
        training_loss=tuple(member.training_loss),
        validation_loss=tuple(member.validation_loss),
        best_epoch=member.best_epoch if split is not None else settings.epochs - 1,
        note=note,
    )


def _train_epoch(
    member: _Member, X: Tensor, y: Tensor, settings: TrainingSettings, epoch: int
) -> None:
    """Take one optimiser step per batch, in a new order."""
    member.model.train()
    batches = _batches(torch.randperm(len(y), generator=member.generator), settings.batch_size)
    total = torch.zeros(())
    for step, rows in enumerate(batches):
        _set_learning_rate(member.optimiser, settings, epoch + step / len(batches))
        inputs = X[rows]
        if settings.input_noise:
            inputs = inputs + settings.input_noise * torch.randn_like(inputs)
        logits = member.model(inputs)
        loss = cross_entropy(logits, y[rows], label_smoothing=settings.label_smoothing)
        member.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        member.optimiser.step()
        total += loss.detach() * len(rows)
    member.training_loss.append(float(total) / len(y))


def _set_learning_rate(
    optimiser: torch.optim.Optimizer, settings: TrainingSettings, epoch: float
) -> None:
    """Let the learning rate fall along half a cosine; `epoch` counts what is done before."""
    if settings.cosine:
        rate = settings.learning_rate * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate


@torch.no_grad()
def _loss(model: nn.Module, X: Tensor, y: Tensor, settings: TrainingSettings) -> float:
    """Return the mean cross-entropy of held-out clips, in batches as in training."""
    model.eval()
    total = 0.0
    for rows in _batches(torch.arange(len(y)), settings.batch_size):
        total += float(cross_entropy(model(X[rows]), y[rows], reduction="sum"))
    return total / len(y)
