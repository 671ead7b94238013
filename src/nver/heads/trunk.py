"""Two convolution blocks over an embedding as one operation on a CPU.

A few clips pass through both blocks before the next few, forward and back, so that what lies
between the blocks stays in the cache. The first block has a single channel and is one loop; the
second is matrix products (`convolution`) and one loop for all else.
"""

from __future__ import annotations

from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from nver.heads import loops
from nver.heads.convolution import (
    CLIPS_AT_ONCE,
    KERNEL,
    accumulate_kernel,
    convolve,
    input_gradient,
    parts,
)


@final
class _TwoBlocks(torch.autograd.Function):
    """The blocks of x [members, clips, length], whose own gradient is not formed.

    Weights are [members, 3, F] and [members, 3 F, G], biases [members, F] and [members, G]; out
    comes [members, clips, pooled, G]. Between the blocks the positions of a clip are an even
    number: a pair of positions is a row of the second block's products (see `convolution`), and
    rows that reach past the clip are dropped.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias, weight_2, bias_2 = parameters
        members, clips, length = x.shape
        positions = (length - KERNEL + 1) // 2
        pooled, rows = (positions - KERNEL + 1) // 2, (positions + 1) // 2
        filters, filters_2 = weight.shape[2], weight_2.shape[2]
        between = x.new_empty(members, clips, rows, 2 * filters)
        out = x.new_empty(members, clips, pooled, filters_2)
        won = x.new_empty(members, clips, positions, filters, dtype=torch.int8)
        won_2 = torch.empty_like(out, dtype=torch.int8)
        x = x.contiguous()
        room = x.new_empty(2, min(clips, CLIPS_AT_ONCE), rows, filters_2)
        for member, here in parts(x):
            m = member.start
            inner, given = between[m, here], x[m, here]
            single = inner.view(len(inner), 2 * rows, filters)
            _call(loops.read, given, weight[m], bias[m], single, won[m, here])
            even, odd = room[:, : len(inner)]
            flat = even.view(1, -1, filters_2), odd.view(1, -1, filters_2)
            convolve(inner.view(1, -1, 2 * filters), weight_2[member], *flat)
            _call(loops.pool, even, odd, bias_2[m], out[m, here], won_2[m, here])
        ctx.save_for_backward(x, weight, weight_2, between, won, won_2)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, weight_2, between, won, won_2 = ctx.saved_tensors
        gradient = gradient.contiguous()
        members, clips, rows, width = between.shape
        filters, filters_2 = width // 2, weight_2.shape[2]
        d_weight, d_weight_2 = torch.zeros_like(weight), torch.zeros_like(weight_2)
        d_bias, d_bias_2 = x.new_zeros(members, filters), x.new_zeros(members, filters_2)
        at_once = min(clips, CLIPS_AT_ONCE)
        room = x.new_empty(2, at_once, rows, filters_2)
        d_between = x.new_empty(at_once, rows, width)
        for member, here in parts(x):
            m = member.start
            inner = between[m, here]
            even, odd = room[:, : len(inner)]
            _call(loops.pool_back, gradient[m, here], won_2[m, here], even, odd, d_bias_2[m])
            flat = even.view(1, -1, filters_2), odd.view(1, -1, filters_2)
            accumulate_kernel(inner.view(1, -1, width), *flat, d_weight_2[member])
            d_inner = d_between[: len(inner)]
            input_gradient(*flat, weight_2[member], d_inner.view(1, -1, width))
            single = d_inner.view(len(inner), 2 * rows, filters)
            _call(loops.read_back, x[m, here], single, won[m, here], d_weight[m], d_bias[m])
        return None, d_weight, d_bias, d_weight_2, d_bias_2


def two_blocks(
    x: Float[Tensor, "members clips length"],
    weight: Float[Tensor, "members 3 filters"],
    bias: Float[Tensor, "members filters"],
    weight_2: Float[Tensor, "members inner filters_2"],
    bias_2: Float[Tensor, "members filters_2"],
) -> Float[Tensor, "members clips pooled filters_2"]:
    """Return what two blocks (`ConvPool`) with these weights make of x; x itself gets no gradient.

    x is at least 10 long, on a CPU where `loops_work`.
    """
    given = (x, weight, bias, weight_2, bias_2)
    out: Tensor = _TwoBlocks.apply(*given)  # type: ignore[no-untyped-call]
    return out


def _call(loop: Any, *tensors: Tensor) -> None:
    loop(*(tensor.numpy() for tensor in tensors))


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        shapes = ((1, 3, 1), (1, 1), (1, 3, 1), (1, 1))
        made = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        with torch.enable_grad():
            out = two_blocks(torch.zeros(1, 1, 12, dtype=dtype), *made)
            out.sum().backward()  # type: ignore[no-untyped-call]

    return loops.run("Convolution", once)
