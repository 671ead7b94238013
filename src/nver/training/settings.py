"""The training recipe: its numbers, and how they cut clips into epochs and batches.

The default recipe (docs/recipe.md says how it was found) regularises instead of stopping early:
dropout 0.5, noise on the inputs, label smoothing and a learning rate that falls to 0, on all
training clips. `TrainingSettings.paper` is the paper's recipe, which stops early.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

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
        steps = len(batches(torch.arange(clips), self.batch_size))
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


def batches(rows: Int[Tensor, " clips"], size: int) -> list[Int[Tensor, " batch"]]:
    """Return the rows in batches; a remainder below 8 clips joins the batch before it."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) < min(SMALLEST_BATCH, size):
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def largest_batch(size: int) -> int:
    """Return the most clips that a batch of `batches` can have."""
    return size + min(SMALLEST_BATCH, size) - 1
