"""What a training leaves behind."""

from __future__ import annotations

from dataclasses import dataclass


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
