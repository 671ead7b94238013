"""Networks that train for a few steps: for tests that ask nothing of what is learned."""

from __future__ import annotations

import pytest

from nver.training import TrainingSettings

BRIEF = TrainingSettings(epochs=1, min_steps=10)


def train_briefly(patch: pytest.MonkeyPatch) -> None:
    """Let nver's own recipe stop after ten steps or one epoch, whichever are more."""
    for place in ("nver.estimators.base._default_settings", "nver.systems._recipe"):
        patch.setattr(place, lambda _: BRIEF)
