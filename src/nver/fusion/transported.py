"""Transport without attention: the paper's ablation "fusion with OT"."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion.base import Fusion, FusionShape
from nver.fusion.coupling import Latents, Moved
from nver.fusion.tokens import copy_counts, distinct_tokens, read_once, token_copies
from nver.heads import Batch, Classifier


@final
class Transported(Fusion):
    """Logits = dense layers of MATA's tokens side by side; equal ones are read once."""

    couples = True

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, shape.branches())
        copies = token_copies(len(shape.views))
        self.counts = copy_counts(copies)
        width = len(copies) * shape.branch_width
        self.classifier = Classifier(width, shape.classes, shape.dropout, shape.hidden)
        read_once(self.classifier.hidden.dense, copies)

    def join(
        self, latents: Latents, moved: Moved, batch: Batch | None
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits of the concatenated tokens."""
        # Only latents have copies.
        counted = [x * count for x, count in zip(latents, self.counts, strict=False)]
        logits: Tensor = self.classifier(torch.cat(distinct_tokens(counted, moved), dim=-1), batch)
        return logits
