"""Attention without transport: the ablation that the paper does not show."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion.base import BRANCH_WIDTH, Fusion, FusionShape
from nver.fusion.coupling import Latents, Moved
from nver.fusion.tokens import SelfAttention
from nver.heads import classifier


@final
class Attention(Fusion):
    """Logits = dense layers of the encoders' latents after they attended to each other."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, shape.branches())
        self.attention = SelfAttention(BRANCH_WIDTH)
        width = len(shape.views) * BRANCH_WIDTH
        self.classifier = classifier(width, shape.classes, shape.dropout)

    def join(self, latents: Latents, moved: Moved) -> Float[Tensor, "clips classes"]:  # noqa: ARG002
        """Return the logits of the N attended tokens."""
        attended = self.attention(torch.stack(tuple(latents), dim=1))
        logits: Tensor = self.classifier(attended.flatten(1))
        return logits
