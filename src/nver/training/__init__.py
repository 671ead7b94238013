"""Training: many networks of one shape at once, deterministic given each one's seed.

`settings` is the recipe, `held_out` what early stopping looks at, `randomness` where random numbers
come from, `loop` the one training loop.

Early stopping looks at a tenth of the training part: whole speakers if they are known, else a
stratified tenth. It never sees a test clip. Where no such tenth exists (one speaker, a class with
one clip) the network trains for all epochs, and `History.note` says so.
"""

from __future__ import annotations

from nver.training.held_out import validation_split
from nver.training.history import History
from nver.training.loop import finishing, learning_rate, pack_size, train, train_members
from nver.training.randomness import seeded
from nver.training.settings import TrainingSettings, batches

__all__ = [
    "History",
    "TrainingSettings",
    "batches",
    "finishing",
    "learning_rate",
    "pack_size",
    "seeded",
    "train",
    "train_members",
    "validation_split",
]
