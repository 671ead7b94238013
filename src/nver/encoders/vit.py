"""The pre-norm vision transformer over patches of a spectrogram, which several encoders share.

After Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021. A block adds to its input the
attention over its layer norm, then a two-layer network over the layer norm of that. Only the class
token is read in the end, so the last block computes nothing else: a twelfth of ImageBind's work.

Optionally one learned key and value per block take part in the attention (ImageBind).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Layer = tuple[Tensor, Tensor]  # weight and bias

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,  # the exact one, by the error function
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of one block.

    Parameters
    ----------
    norm1, norm2 : Layer
        Layer norms before the attention and before the two-layer network.
    query : Layer
        [width, width] and [width].
    key_value : Layer
        Keys over values: [2 width, width] and [2 width].
    output : Layer
        Of the attention.
    fc1, fc2 : Layer
        The two-layer network.
    extra : pair of Tensor, optional
        A learned key and value [1, 1, width] that every query may attend to.
    """

    norm1: Layer
    query: Layer
    key_value: Layer
    output: Layer
    norm2: Layer
    fc1: Layer
    fc2: Layer
    extra: Layer | None = None


@dataclass(frozen=True, eq=False)
class Transformer:
    """A stack of blocks.

    Parameters
    ----------
    blocks : sequence of Block
        From input to output.
    heads : int
        Of the attention; they share the width equally.
    eps : float
        Of the layer norms.
    activation : str
        A name of `ACTIVATIONS`.
    """

    blocks: Sequence[Block]
    heads: int
    eps: float
    activation: str = "gelu"

    def __call__(self, tokens: Float[Tensor, "clips tokens width"]) -> Float[Tensor, "clips width"]:
        """Return the class token, the first one, as it leaves the last block."""
        for block in self.blocks[:-1]:
            tokens = self.through(tokens, block)
        return self.through(tokens, self.blocks[-1], 1)[:, 0]

    def through(
        self, tokens: Float[Tensor, "clips tokens width"], block: Block, first: int | None = None
    ) -> Float[Tensor, "clips first width"]:
        """Return what leaves a block, for the `first` tokens or for all."""
        normed = layer_norm(tokens, block.norm1, self.eps)
        query = functional.linear(normed[:, :first], *block.query)
        key, value = functional.linear(normed, *block.key_value).chunk(2, dim=-1)
        if block.extra is not None:
            key, value = (
                torch.cat([found, learned.expand(len(found), -1, -1)], dim=1)
                for found, learned in zip((key, value), block.extra, strict=True)
            )
        query, key, value = (
            x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (query, key, value)
        )
        heard = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens[:, :first] + functional.linear(
            heard.transpose(1, 2).flatten(2), *block.output
        )
        inner = functional.linear(layer_norm(tokens, block.norm2, self.eps), *block.fc1)
        return tokens + functional.linear(ACTIVATIONS[self.activation](inner), *block.fc2)


def layer_norm(x: Float[Tensor, "*shape width"], norm: Layer, eps: float) -> Tensor:
    """Return `x` at mean 0 and variance 1 along its last axis, then scaled and moved."""
    return functional.layer_norm(x, x.shape[-1:], *norm, eps=eps)


def patches(
    images: Float[Tensor, "clips channels height width"],
    weight: Float[Tensor, "out channels size size"],
    stride: int,
) -> Float[Tensor, "clips patches out"]:
    """Return the linear map of square patches, row by row: a convolution, written as a product.

    A product of matrices is computed in full float32 on a GPU too, where convolutions are not.
    """
    size = weight.shape[-1]
    columns = functional.unfold(images, size, stride=stride)
    return functional.linear(columns.transpose(1, 2), weight.flatten(1))


def with_class_token(
    tokens: Float[Tensor, "clips patches width"],
    token: Float[Tensor, "width"],
    positions: Float[Tensor, "tokens width"],
) -> Float[Tensor, "clips tokens width"]:
    """Return the class token before the patches, each with its learned position added."""
    first = token.expand(len(tokens), 1, -1)
    return torch.cat([first, tokens], dim=1) + positions
