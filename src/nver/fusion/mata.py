"""MATA: transport, then attention over transported and original latents (arXiv 2409.14221)."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from nver.fusion.base import BRANCH_WIDTH, Fusion, FusionShape
from nver.fusion.coupling import Latents, Moved
from nver.fusion.tokens import SelfAttention, token_count, tokens
from nver.heads import classifier


@final
class Mata(Fusion):
    """Logits = dense layers of the attended tokens [x_{j->i}, x_i, x_j] of every ordered pair."""

    couples = True

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, shape.branches())
        self.attention = SelfAttention(BRANCH_WIDTH)
        width = token_count(len(shape.views)) * BRANCH_WIDTH
        self.classifier = classifier(width, shape.classes, shape.dropout)

    def join(self, latents: Latents, moved: Moved) -> Float[Tensor, "clips classes"]:
        """Return the logits of the attended tokens."""
        logits: Tensor = self.classifier(self.attention(tokens(latents, moved)).flatten(1))
        return logits
