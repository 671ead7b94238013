"""A residual and its LayerNorm (Ba et al. 2016) over counted tokens: one loop on a CPU."""

from __future__ import annotations

from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion import loops
from nver.heads.loops import run

EPS = 1e-5


def add_and_norm(
    x: Float[Tensor, "members distinct clips width"],
    joined: Float[Tensor, "members rows width"],
    counts: Float[Tensor, " distinct"],
    weight: Float[Tensor, "members width"],
    bias: Float[Tensor, "members width"],
) -> Float[Tensor, "members distinct clips width"]:
    """Return LayerNorm(x + joined) times the token's count; `rows` are distinct times clips."""
    joined, counts = joined.view(x.shape), counts.to(x.dtype)
    if x.device.type == "cpu" and loops_work(x.dtype):
        out: Tensor = _AddAndNorm.apply(x, joined, counts, weight, bias)  # type: ignore[no-untyped-call]
        return out
    normed = torch.nn.functional.layer_norm(x + joined, x.shape[-1:], eps=EPS)
    out = torch.addcmul(bias[:, None, None], normed, weight[:, None, None])
    return out * counts[:, None, None]


@final
class _AddAndNorm(torch.autograd.Function):
    """What comes out lies clip by clip, as the dense layer after it reads it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, joined: Tensor, counts: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        members, distinct, clips, width = x.shape
        out = x.new_empty(members, clips, distinct, width)
        normed, scale = torch.empty_like(joined), x.new_empty(members, distinct, clips)
        given = (x.contiguous(), joined, counts, weight.contiguous(), bias.contiguous())
        eps = x.new_tensor(EPS).numpy()[()]
        made = (out.numpy(), normed.numpy(), scale.numpy())
        loops.add_and_norm(*(part.numpy() for part in given), eps, *made)
        ctx.save_for_backward(counts, weight, normed, scale)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        counts, weight, normed, scale = ctx.saved_tensors
        d_x = torch.empty_like(normed)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        given = (gradient.transpose(1, 2).contiguous(), counts, weight.contiguous(), normed, scale)
        made = (d_x, d_weight, d_bias)
        loops.add_and_norm_back(*(part.numpy() for part in (*given, *made)))
        return d_x, d_x, None, d_weight, d_bias


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        one = torch.ones(1, 1, 1, 1, dtype=dtype, requires_grad=True)
        flat = torch.ones(1, 1, dtype=dtype)
        with torch.enable_grad():
            out = _AddAndNorm.apply(one, one.detach(), flat[0], flat, flat)  # type: ignore[no-untyped-call]
            out.sum().backward()

    return run("LayerNorm", once)
