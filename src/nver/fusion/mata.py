"""MATA: transport, then attention over transported and original latents (arXiv 2409.14221)."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from nver.fusion.attending import SelfAttention
from nver.fusion.base import Fusion, FusionShape
from nver.fusion.coupling import Latents, Mapped, Moved
from nver.fusion.tokens import distinct_tokens, read_once, token_copies, token_images
from nver.heads import Batch, Classifier


@final
class Mata(Fusion):
    """Logits = dense layers of the attended tokens [x_{j->i}, x_i, x_j] of every ordered pair.

    Equal tokens stay equal, so that all is computed once for each distinct one: N^2 of them for N
    encoders instead of 3 N (N - 1), four instead of six for two.
    """

    couples = True

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, shape.branches())
        copies = token_copies(len(shape.views))
        self.attention = SelfAttention(shape.branch_width, copies)
        self.classifier = Classifier(
            len(copies) * shape.branch_width, shape.classes, shape.dropout, shape.hidden
        )
        read_once(self.classifier.hidden.dense, copies)

    def join(
        self, latents: Latents, moved: Moved, batch: Batch | None
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits of the attended tokens."""
        if isinstance(moved, Mapped):
            images = token_images(len(latents), moved.maps)
            attended = self.attention(latents, batch, images)
        else:
            attended = self.attention(distinct_tokens(latents, moved), batch)
        logits: Tensor = self.classifier(attended, batch)
        return logits
