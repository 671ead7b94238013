"""The transformer of BEATs: deep norm, and relative positions behind a gate.

After Chen et al., BEATs: audio pre-training with acoustic tokenizers, ICML 2023, and
microsoft/unilm (``beats/backbone.py``). To the patches a grouped convolution over them is added
(its weight stored as direction and length); with L layers a residual is multiplied by (2 L)^(1/4)
(Wang et al., DeepNet, 2022); and the attention adds, to query i and key j of head h,

    gate_i  bias[h, bucket(j - i)],   gate = a (b c_h - 1) + 2,

where a and b are sigmoids of sums of four linear maps of the query, and the buckets are one apart
nearby and logarithmic further away (Raffel et al., T5, 2020; the gate after WavLM).

The reference divides the queries by 32 and multiplies their products by it, less their maximum: for
half precision; the softmax is the same. Its table of biases is the first layer's in all layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from nver.encoders.device import full_precision
from nver.encoders.timm_block import pair
from nver.encoders.vit import layer_norm

EPS = 1e-5
POSITIONS = "encoder.pos_conv.0"
BIAS = "encoder.layers.0.self_attn.relative_attention_bias.weight"
GATES = 8  # of a query: two gates, each the sum of four

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """The numbers of the architecture that no tensor says.

    Parameters
    ----------
    layers, heads : int
        Number of layers; of attention heads, which share the width equally.
    deep : bool
        Whether residuals are multiplied by (2 layers)^(1/4).
    norm_first : bool
        Whether the norms come before the attention and the two-layer network.
    max_distance : int
        In tokens; all beyond share a bucket.
    """

    layers: int
    heads: int
    deep: bool
    norm_first: bool
    max_distance: int

    @property
    def scale(self) -> float:
        """What a residual is multiplied by."""
        return float((2 * self.layers) ** 0.25) if self.deep else 1.0


def layer_shapes(number: int, width: int, hidden: int, heads: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of one layer's tensors, without the table of biases."""
    shapes: dict[str, tuple[int, ...]] = {
        "fc1.weight": (hidden, width),
        "fc1.bias": (hidden,),
        "fc2.weight": (width, hidden),
        "fc2.bias": (width,),
        "self_attn.grep_linear.weight": (GATES, width // max(1, heads)),
        "self_attn.grep_linear.bias": (GATES,),
        "self_attn.grep_a": (1, heads, 1, 1),
    }
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= {f"self_attn.{part}.weight": (width, width), f"self_attn.{part}.bias": (width,)}
    for norm in ("self_attn_layer_norm", "final_layer_norm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {f"encoder.layers.{number}.{name}": shape for name, shape in shapes.items()}


def position_kernel(weights: Weights) -> Float[Tensor, "width group taps"]:
    """Return the convolution's weight from its direction and, for each tap, its length."""
    direction, length = weights[f"{POSITIONS}.weight_v"], weights[f"{POSITIONS}.weight_g"]
    kernel: Tensor = torch._weight_norm(direction, length, 2)
    return kernel


@lru_cache(maxsize=32)
def buckets(tokens: int, count: int, max_distance: int) -> Int[Tensor, "distances"]:
    """Return the bucket of each distance j - i, from ``1 - tokens`` to ``tokens - 1``.

    Half of the buckets are for keys after the query. Of each half, the first half holds one
    distance each; the others grow by a constant factor up to `max_distance`. In float32 like the
    reference's, so that distances on an edge fall into the same bucket.

    >>> buckets(4, 8, 16).tolist()
    [2, 2, 1, 0, 5, 6, 6]
    """
    distance = torch.arange(1 - tokens, tokens)
    half = count // 2
    exact = half // 2
    away = distance.abs()
    grown = (away.float() / exact).log() / math.log(max_distance / exact) * (half - exact)
    far = (exact + grown.clamp(min=0).long()).clamp(max=half - 1)
    return torch.where(away < exact, away, far) + (distance > 0) * half


def position_bias(
    table: Float[Tensor, "buckets heads"], tokens: int, max_distance: int
) -> Float[Tensor, "heads tokens tokens"]:
    """Return the bias of each query and key, before the gate."""
    by_distance = table[buckets(tokens, len(table), max_distance).to(table.device)]
    index = torch.arange(tokens, device=table.device)
    return by_distance[index[None] - index[:, None] + tokens - 1].permute(2, 0, 1)


@dataclass(frozen=True, eq=False)
class Network:
    """The transformer with its weights.

    Parameters
    ----------
    weights : mapping of str to Tensor
        By the names of the checkpoint.
    kernel : Tensor
        Of the convolution over the patches, see `position_kernel`.
    recipe : Recipe
        The numbers of the architecture.
    """

    weights: Weights
    kernel: Tensor
    recipe: Recipe

    def enter(
        self, tokens: Float[Tensor, "clips tokens width"]
    ) -> Float[Tensor, "clips tokens width"]:
        """Return what enters the first layer."""
        taps, width = self.kernel.shape[-1], self.kernel.shape[0]
        with full_precision(tokens.device):
            found = functional.conv1d(
                tokens.transpose(1, 2),
                self.kernel,
                self.weights[f"{POSITIONS}.bias"],
                padding=taps // 2,
                groups=width // self.kernel.shape[1],
            )
        # An even kernel gives one output too many.
        tokens = tokens + functional.gelu(found[..., : tokens.shape[1]]).transpose(1, 2)
        return tokens if self.recipe.norm_first else self._norm(tokens, "encoder.layer_norm")

    def leave(
        self, tokens: Float[Tensor, "clips tokens width"]
    ) -> Float[Tensor, "clips tokens width"]:
        """Return the output: normalised where no layer ends with a norm."""
        return self._norm(tokens, "encoder.layer_norm") if self.recipe.norm_first else tokens

    def layer(
        self,
        tokens: Float[Tensor, "clips tokens width"],
        number: int,
        bias: Float[Tensor, "heads tokens tokens"],
    ) -> Float[Tensor, "clips tokens width"]:
        """Return what leaves a layer."""
        prefix, scale = f"encoder.layers.{number}.", self.recipe.scale
        first, second = f"{prefix}self_attn_layer_norm", f"{prefix}final_layer_norm"
        if self.recipe.norm_first:
            tokens = tokens + self._attention(self._norm(tokens, first), prefix, bias)
            return tokens + self._inner(self._norm(tokens, second), prefix)
        tokens = self._norm(tokens * scale + self._attention(tokens, prefix, bias), first)
        return self._norm(tokens * scale + self._inner(tokens, prefix), second)

    def bias(self, tokens: int) -> Float[Tensor, "heads tokens tokens"]:
        """Return the position bias that all layers share."""
        return position_bias(self.weights[BIAS], tokens, self.recipe.max_distance)

    def _norm(self, tokens: Tensor, name: str) -> Tensor:
        return layer_norm(tokens, pair(self.weights, name), EPS)

    def _inner(self, tokens: Tensor, prefix: str) -> Tensor:
        inner = functional.linear(tokens, *pair(self.weights, f"{prefix}fc1"))
        return functional.linear(functional.gelu(inner), *pair(self.weights, f"{prefix}fc2"))

    def _attention(
        self,
        tokens: Float[Tensor, "clips tokens width"],
        prefix: str,
        bias: Float[Tensor, "heads tokens tokens"],
    ) -> Float[Tensor, "clips tokens width"]:
        name = f"{prefix}self_attn."
        query, key, value = (
            functional.linear(tokens, *pair(self.weights, f"{name}{part}_proj"))
            .view(*tokens.shape[:2], self.recipe.heads, -1)
            .transpose(1, 2)
            for part in ("q", "k", "v")
        )
        maps = functional.linear(query, *pair(self.weights, f"{name}grep_linear"))
        gates = maps.view(*maps.shape[:-1], 2, GATES // 2).sum(-1).sigmoid()
        gate = gates[..., :1] * (gates[..., 1:] * self.weights[f"{name}grep_a"] - 1.0) + 2.0
        heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=gate * bias)
        joined = heard.transpose(1, 2).flatten(2)
        return functional.linear(joined, *pair(self.weights, f"{name}out_proj"))
