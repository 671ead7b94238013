"""Self-attention among a clip's few tokens, shared by the fusions that have it.

MATA repeats tokens: of its six, x_a and x_b come twice. Equal tokens see the same and stay equal,
so all is computed once; a key that stands c times counts c times in the softmax. Dropout keeps it
so (see `SelfAttention`). What comes out is each distinct token times its number of copies, which is
what a dense layer over all of them reads (see `nver.fusion.tokens.read_once`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion.attention_core import attend
from nver.fusion.attention_inputs import HEADS, Drop, Known
from nver.heads import Batch, LayerNorm, Linear, Random
from nver.heads.layers import LEVELS

DROPOUT = 0.1
"""Share of attention weights dropped in training. Among two or six tokens the 0.5 of the dense
layers drops too much: it costs a point of UAR (docs/recipe.md)."""


class Image(NamedTuple):
    """A token that is a linear image of another.

    Parameters
    ----------
    source : int
        The number of the other, which is no image itself.
    map : [*members, clips, clips]
        T, where the image is T x[source].
    """

    source: int
    map: Tensor


@final
class SelfAttention(Random):
    """Multi-head self-attention over tokens, residual, LayerNorm (Vaswani et al. 2017).

    A weight is dropped with probability 0.1. Of the c copies of a key, each with the same weight, a
    binomial number of c survives: this number is drawn, not each copy's fate. The copies of a query
    share what survives, so that they stay equal in training too.

    Parameters
    ----------
    width : int
        Of a token; a multiple of the 8 heads.
    copies : sequence of int
        Which of the distinct tokens each token is, from 0 on.
    """

    counts: Tensor
    levels: Tensor
    shares: Tensor

    def __init__(self, width: int, copies: Sequence[int]) -> None:
        counts = [copies.count(kind) for kind in range(max(copies) + 1)]
        super().__init__(HEADS * len(counts) ** 2)
        self.inner = Linear(width, 3 * width)
        self.outer = Linear(width, width)
        self.norm = LayerNorm(width)
        shared = {
            "counts": torch.tensor(counts, dtype=torch.get_default_dtype()),
            "levels": _levels(counts),
            "shares": torch.tensor([1 / (count * (1 - DROPOUT)) for count in counts]),
        }
        for name, values in shared.items():
            self.register_buffer(name, values, persistent=False)

    def forward(
        self,
        x: Sequence[Float[Tensor, "*members clips width"]],
        batch: Batch | None = None,
        images: Sequence[Image] = (),
    ) -> Float[Tensor, "*members clips columns"]:
        """Return LayerNorm(x + attention(x)) of the distinct tokens, each times its count.

        A clip's tokens lie side by side: those of x, then the images. Images may be given in x as
        well; telling them apart saves time and changes nothing beyond rounding.
        """
        inner, outer, norm = self.inner, self.outer, self.norm
        layers = [inner.weight, inner.bias, outer.weight, outer.bias, norm.weight, norm.bias]
        maps = [image.map for image in images]
        sources = [image.source for image in images]
        known = Known(self.counts.to(x[0].dtype), self.drop(batch), sources)
        if x[0].dim() == 3:
            return attend(x, layers, known, maps)
        whole = ([part.unsqueeze(0) for part in some] for some in (x, layers, maps))
        x, layers, maps = whole
        return attend(x, layers, known, maps).squeeze(0)

    def drop(self, batch: Batch | None) -> Drop | None:
        """Return what decides which weights survive; None if all do."""
        if batch is None or batch.bits is None:
            return None
        return Drop(batch.bits(self), self.levels, self.shares)


def _levels(counts: Sequence[int]) -> Tensor:
    """Return int16 levels [most copies, keys]: P(bits > level r) = P(more than r survive)."""
    levels = torch.full((max(counts), len(counts)), LEVELS // 2 - 1, dtype=torch.int16)
    for key, count in enumerate(counts):
        at_most = 0.0
        for survive in range(count):
            chance = (1 - DROPOUT) ** survive * DROPOUT ** (count - survive)
            at_most += math.comb(count, survive) * chance
            # Rarer than one in LEVELS (many copies, none survives) is taken as one in LEVELS.
            levels[survive, key] = max(1, round(at_most * LEVELS)) - LEVELS // 2 - 1
    return levels
