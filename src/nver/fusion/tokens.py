"""MATA's tokens and the self-attention over them, shared by the fusions that are its parts."""

from __future__ import annotations

from itertools import permutations
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nver.fusion.coupling import Latents, Moved

HEADS = 8
DROPOUT = 0.1
"""Share of attention weights dropped in training. Among two or six tokens the 0.5 of the dense
layers drops too much: it costs a point of UAR (docs/recipe.md)."""


def token_count(encoders: int) -> int:
    """Return how many tokens MATA has: three for every ordered pair of encoders."""
    return 3 * encoders * (encoders - 1)


def tokens(latents: Latents, moved: Moved) -> Float[Tensor, "clips tokens width"]:
    """Return [x_{j->i}, x_i, x_j] for each ordered pair; two encoders give the paper's six."""
    pairs = permutations(range(len(latents)), 2)
    parts = [part for i, j in pairs for part in (moved[i, j], latents[i], latents[j])]
    return torch.stack(parts, dim=1)


@final
class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens, residual, LayerNorm.

    Parameters
    ----------
    width : int
        Of a token; a multiple of the 8 heads.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 3 * width)
        self.outer = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "clips tokens width"]
    ) -> Float[Tensor, "clips tokens width"]:
        """Return LayerNorm(x + attention(x))."""
        clips, count, width = x.shape
        query, key, value = (
            self.inner(x).view(clips, count, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        )
        seen = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=DROPOUT if self.training else 0.0
        )
        joined = self.outer(seen.transpose(1, 2).reshape(clips, count, width))
        normed: Tensor = self.norm(x + joined)
        return normed
