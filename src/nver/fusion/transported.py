"""Transport without attention: the paper's ablation "fusion with OT"."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from nver.fusion.base import Fusion, FusionShape
from nver.fusion.coupling import Latents, Moved
from nver.fusion.tokens import side_by_side, token_count, tokens
from nver.heads import Batch, Classifier


@final
class Transported(Fusion):
    """Logits = dense layers of all tokens side by side."""

    couples = True

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, shape.branches())
        width = token_count(len(shape.views)) * shape.branch_width
        self.classifier = Classifier(width, shape.classes, shape.dropout, shape.hidden)

    def join(
        self, latents: Latents, moved: Moved, batch: Batch | None
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits of the concatenated tokens."""
        logits: Tensor = self.classifier(side_by_side(tokens(latents, moved)), batch)
        return logits
