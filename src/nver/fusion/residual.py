"""A residual and its LayerNorm (Ba et al. 2016) over tokens that repeat: one loop on a CPU."""

from __future__ import annotations

from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nver.fusion import loops
from nver.heads.loops import run

EPS = 1e-5


def add_and_norm(
    x: Float[Tensor, "members distinct clips width"],
    joined: Float[Tensor, "members rows width"],
    kinds: Int[Tensor, " tokens"],
    weight: Float[Tensor, "members width"],
    bias: Float[Tensor, "members width"],
) -> Float[Tensor, "members tokens clips width"]:
    """Return LayerNorm(x + joined) of token number kinds[t]; `rows` are distinct times clips."""
    joined = joined.view(x.shape)
    if x.device.type == "cpu" and loops_work(x.dtype):
        out: Tensor = _AddAndNorm.apply(x, joined, kinds, weight, bias)  # type: ignore[no-untyped-call]
        return out
    normed = torch.nn.functional.layer_norm(x + joined, x.shape[-1:], eps=EPS)
    out = torch.addcmul(bias[:, None, None], normed, weight[:, None, None])
    return out.index_select(1, kinds)


@final
class _AddAndNorm(torch.autograd.Function):
    """What comes out lies clip by clip, as the dense layer after it reads it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, joined: Tensor, kinds: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        members, distinct, clips, width = x.shape
        out = x.new_empty(members, clips, len(kinds), width)
        normed, scale = torch.empty_like(joined), x.new_empty(members, distinct, clips)
        given = (x.contiguous(), joined, kinds, weight.contiguous(), bias.contiguous())
        eps = x.new_tensor(EPS).numpy()[()]
        made = (out.numpy(), normed.numpy(), scale.numpy())
        loops.add_and_norm(*(part.numpy() for part in given), eps, *made)
        ctx.save_for_backward(kinds, weight, normed, scale)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kinds, weight, normed, scale = ctx.saved_tensors
        d_x = torch.empty_like(normed)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        given = (gradient.transpose(1, 2).contiguous(), kinds, weight.contiguous(), normed, scale)
        made = (d_x, d_weight, d_bias)
        loops.add_and_norm_back(*(part.numpy() for part in (*given, *made)))
        return d_x, d_x, None, d_weight, d_bias


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        one = torch.ones(1, 1, 1, 1, dtype=dtype, requires_grad=True)
        flat, kinds = torch.ones(1, 1, dtype=dtype), torch.zeros(1, dtype=torch.int64)
        with torch.enable_grad():
            out = _AddAndNorm.apply(one, one.detach(), kinds, flat, flat)  # type: ignore[no-untyped-call]
            out.sum().backward()

    return run("LayerNorm", once)
