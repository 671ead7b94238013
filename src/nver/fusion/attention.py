"""Attention without transport: the ablation that the paper does not show."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from nver.fusion.attending import SelfAttention
from nver.fusion.base import Fusion, FusionShape
from nver.fusion.coupling import Latents, Moved
from nver.heads import Batch, Classifier


@final
class Attention(Fusion):
    """Logits = dense layers of the encoders' latents after they attended to each other."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, shape.branches())
        self.attention = SelfAttention(shape.branch_width, range(len(shape.views)))
        width = len(shape.views) * shape.branch_width
        self.classifier = Classifier(width, shape.classes, shape.dropout, shape.hidden)

    def join(
        self,
        latents: Latents,
        moved: Moved,  # noqa: ARG002 - nothing is moved here
        batch: Batch | None,
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits of the N attended tokens."""
        attended = self.attention(latents, batch)
        logits: Tensor = self.classifier(attended, batch)
        return logits
