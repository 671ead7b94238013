"""Concatenation, the baseline of every fusion paper: branches side by side, then dense layers."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion.base import Fusion, FusionShape
from nver.fusion.coupling import Latents, Moved
from nver.heads import Batch, Classifier


@final
class Concat(Fusion):
    """Logits = dense layers of [x_1, ..., x_N]."""

    def __init__(self, shape: FusionShape) -> None:
        super().__init__(shape, shape.branches())
        width = len(shape.views) * shape.branch_width
        self.classifier = Classifier(width, shape.classes, shape.dropout, shape.hidden)

    def join(
        self,
        latents: Latents,
        moved: Moved,  # noqa: ARG002 - nothing is moved here
        batch: Batch | None,
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the logits of the concatenated latents."""
        logits: Tensor = self.classifier(torch.cat(tuple(latents), dim=-1), batch)
        return logits
