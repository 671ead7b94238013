"""WavLM's attention with a gated relative position bias, through torch's fused attention.

After Chen et al., WavLM, 2022, section 3.1 (arXiv:2110.13900). The score of query i and key j gets
the bias of their distance times a gate that the query's own state opens:
``g = a (b c - 1) + 2``, with a and b sigmoids of two sums over four values of a linear map of the
state, and c a trained number per head. transformers computes the same through a slower function,
which makes the weights of every head and averages them only to drop them.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class GatedAttention(nn.Module):
    """What transformers' ``WavLMAttention`` computes, without the attention weights.

    Parameters
    ----------
    attention : Module
        The original; its maps and embedding are used, so they may be packed afterwards.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads = int(attention.num_heads)
        self.query, self.key, self.value = attention.q_proj, attention.k_proj, attention.v_proj
        self.output = attention.out_proj
        self.gate, self.gate_constant = attention.gru_rel_pos_linear, attention.gru_rel_pos_const
        # Only the first layer has an embedding; the others are given its bias. In a list, so that
        # the original is no part of this module.
        self.original = [attention]

    def forward(
        self,
        hidden_states: Float[Tensor, "clips frames width"],
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        **_: object,
    ) -> tuple[Tensor, None, Tensor]:
        """Return the attended states, no weights, and the bias [1, heads, frames, frames]."""
        clips, frames, width = hidden_states.shape
        if position_bias is None:
            position_bias = self.original[0].compute_bias(frames, frames)[None]
        by_head = hidden_states.view(clips, frames, self.heads, -1).transpose(1, 2)
        opened = self.gate(by_head).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        gate = opened[..., :1] * (opened[..., 1:] * self.gate_constant - 1.0) + 2.0
        bias = gate * position_bias
        if attention_mask is not None:
            bias = bias.masked_fill(~valid(attention_mask), -torch.inf)
        query, key, value = (
            project(hidden_states).view(clips, frames, self.heads, -1).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        found = self.output(heard.transpose(1, 2).reshape(clips, frames, width))
        return found, None, position_bias


def valid(mask: Tensor) -> Bool[Tensor, "clips 1 1 frames"]:
    """Return which keys are frames of their clip, from a mask that is 1 there."""
    return mask[:, None, None, :] == 1
