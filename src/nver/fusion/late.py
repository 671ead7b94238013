"""Late fusion: one complete head per encoder, and the mean of their logits."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nver.fusion.base import Fusion, FusionShape
from nver.fusion.coupling import Latents, Moved
from nver.heads import Batch, build_head


@final
class Late(Fusion):
    """Logits = mean over encoders of the logits of their own heads, trained together."""

    def __init__(self, shape: FusionShape) -> None:
        facts = (shape.classes, shape.dropout, shape.hidden)
        heads = (build_head(shape.branch, dim, *facts) for dim in shape.dims)
        super().__init__(shape, nn.ModuleList(heads))

    def join(
        self,
        latents: Latents,
        moved: Moved,  # noqa: ARG002 - nothing is moved here
        batch: Batch | None,  # noqa: ARG002
    ) -> Float[Tensor, "*members clips classes"]:
        """Return the mean of the logits."""
        return torch.stack(tuple(latents)).mean(dim=0)
