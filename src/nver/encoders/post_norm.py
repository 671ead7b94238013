"""Post-norm transformer blocks: the layer norms come after the sums, as in the first transformer.

After Vaswani et al., Attention is all you need, NeurIPS 2017, and the blocks of data2vec 2.0: the
sum of a token and its attention is normalised, then the sum of that and its two-layer network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nver.encoders.vit import Block, layer_norm


@dataclass(frozen=True, eq=False)
class PostNorm:
    """A stack of post-norm blocks.

    Parameters
    ----------
    blocks : sequence of Block
        From input to output.
    heads : int
        Of the attention; they share the width equally.
    eps : float
        Of the layer norms.
    """

    blocks: Sequence[Block]
    heads: int
    eps: float

    def through(
        self, tokens: Float[Tensor, "clips tokens width"], block: Block
    ) -> Float[Tensor, "clips tokens width"]:
        """Return what leaves a block."""
        key, value = functional.linear(tokens, *block.key_value).chunk(2, dim=-1)
        query, key, value = (
            x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for x in (functional.linear(tokens, *block.query), key, value)
        )
        heard = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + functional.linear(heard.transpose(1, 2).flatten(2), *block.output)
        tokens = layer_norm(tokens, block.norm1, self.eps)
        inner = functional.gelu(functional.linear(tokens, *block.fc1))
        return layer_norm(tokens + functional.linear(inner, *block.fc2), block.norm2, self.eps)
