"""Two convolution blocks over an embedding as one operation on a CPU.

A few clips pass through both blocks before the next few, forward and back, so that what lies
between the blocks stays in the cache. The first block has a single channel and is one loop; the second is
one matrix product and one loop for all else.
"""

from __future__ import annotations

from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from nver.heads import loops
from nver.heads.convolution import CLIPS_AT_ONCE, KERNEL, parts


@final
class _TwoBlocks(torch.autograd.Function):
    """The blocks of x [members, clips, length], whose own gradient is not formed.

    Weights are [members, 3, F] and [members, 3 F, G], biases [members, F] and [members, G]; out
    comes [members, clips, pooled, G]. The second convolution is one product with its inputs'
    windows of three positions, written out as rows (`_windows`): they are made again on the way
    back, because a copy within the cache is cheaper than memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias, weight_2, bias_2 = parameters
        members, clips, length = x.shape
        filters, filters_2 = weight.shape[2], weight_2.shape[2]
        pooled = ((length - KERNEL + 1) // 2 - KERNEL + 1) // 2
        between = x.new_empty(members, clips, 2 * pooled + 2, filters)
        won = torch.empty_like(between, dtype=torch.int8)
        out = x.new_empty(members, clips, pooled, filters_2)
        won_2 = torch.empty_like(out, dtype=torch.int8)
        x = x.contiguous()
        windows, product = _room(between, filters_2)
        for member, here in parts(x):
            m, n = member.start, len(between[0, here])
            _call(loops.read, x[m, here], weight[m], bias[m], between[m, here], won[m, here])
            _windows(between[m, here], windows)
            torch.mm(windows[:n].flatten(0, 1), weight_2[m], out=product[:n].flatten(0, 1))
            _call(loops.pool, product[:n], bias_2[m], out[m, here], won_2[m, here])
        ctx.save_for_backward(x, weight_2, between, won, won_2)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_2, between, won, won_2 = ctx.saved_tensors
        gradient = gradient.contiguous()
        members, filters, filters_2 = len(x), between.shape[3], weight_2.shape[2]
        d_weight, d_bias = x.new_zeros(members, KERNEL, filters), x.new_zeros(members, filters)
        # Of the second block, transposed: that product is faster.
        turned, d_bias_2 = torch.zeros_like(weight_2.mT), x.new_zeros(members, filters_2)
        windows, product = _room(between, filters_2)
        # Before a part's first position there is no window: two rows of zeros.
        padded = x.new_zeros(2 + windows.shape[0] * windows.shape[1], windows.shape[2])
        for member, here in parts(x):
            m, n = member.start, len(between[0, here])
            _call(loops.pool_back, gradient[m, here], won_2[m, here], product[:n], d_bias_2[m])
            _windows(between[m, here], windows)
            flat = product[:n].flatten(0, 1)
            turned[m].addmm_(flat.mT, windows[:n].flatten(0, 1))
            torch.mm(flat, weight_2[m].mT, out=padded[2 : 2 + len(flat)])
            _call(loops.read_back, x[m, here], padded, won[m, here], d_weight[m], d_bias[m])
        return None, d_weight, d_bias, turned.mT.contiguous(), d_bias_2


def _room(between: Tensor, filters: int) -> tuple[Tensor, Tensor]:
    """Return where a part's windows and products with them go; the last two of a clip are 0."""
    at_once, positions = min(between.shape[1], CLIPS_AT_ONCE), between.shape[2]
    windows = between.new_empty(at_once, positions, KERNEL * between.shape[3])
    windows[:, -2:] = 0
    return windows, between.new_empty(at_once, positions, filters)


def _windows(inner: Tensor, windows: Tensor) -> None:
    """Write every position of inner [clips, positions, F] and the next two as a row."""
    clips, positions, filters = inner.shape
    rows = inner.flatten(1).unfold(1, KERNEL * filters, filters)
    windows[:clips, : positions - 2].copy_(rows)


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
