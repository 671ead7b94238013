"""Two convolution blocks over an embedding as one operation on a CPU.

A few clips pass through both blocks before the next few, forward and back, so that what lies
between the blocks stays in the cache. The first block has a single channel and is one loop; the
second is one matrix product and one loop for all else. Where vectors are wide and filters many,
`winograd` does both, which is faster still.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nver.heads import loops, winograd
from nver.heads.convolution import CLIPS_AT_ONCE, KERNEL


@final
class _TwoBlocks(torch.autograd.Function):
    """The blocks of x [members, clips, length], whose own gradient is not formed.

    Weights are [members, 3, F] and [members, 3 F, G], biases [members, F] and [members, G]; out
    comes [members, clips, pooled, G]. The second convolution is one product with its inputs'
    windows of three positions, written out as rows (`loops.spread`): they are made again on the way
    back, because a copy within the cache is cheaper than memory.
    """

    @staticmethod
    def forward(ctx: Any, balanced: Tensor | None, x: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias, weight_2, bias_2 = (part.contiguous() for part in parameters)
        members, clips, length = x.shape
        filters, filters_2 = weight.shape[2], weight_2.shape[2]
        pooled = ((length - KERNEL + 1) // 2 - KERNEL + 1) // 2
        between = x.new_empty(members, clips, 2 * pooled + 2, filters)
        won = torch.empty_like(between, dtype=torch.int8)
        out = x.new_empty(members, clips, pooled, filters_2)
        won_2 = torch.empty_like(out, dtype=torch.int8)
        x = x.contiguous()
        x_, w_, b_, w_2_, b_2_ = _arrays(x, weight, bias, weight_2, bias_2)
        between_, won_, out_, won_2_ = _arrays(between, won, out, won_2)
        ctx.save_for_backward(x, weight_2, between, won, won_2)
        ctx.balanced = balanced
        if winograd.fits(x.dtype, filters, filters_2):
            for m in range(members):
                own = w_[m], b_[m], w_2_[m], b_2_[m]
                winograd.forward(x_[m], own, between_[m], won_[m], out_[m], won_2_[m])
            return out
        windows, product, windows_, product_ = _room(between, filters_2)
        for m, here, rows in _parts(between):
            loops.read(x_[m, here], w_[m], b_[m], between_[m, here], won_[m, here])
            loops.spread(between_[m, here], windows_)
            torch.mm(windows[:rows], weight_2[m], out=product[:rows])
            loops.pool(product_, b_2_[m], out_[m, here], won_2_[m, here])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of this is asked for, and there is none
            raise NotImplementedError("Convolution in compiled loops has no second derivative.")
        x, weight_2, between, won, won_2 = ctx.saved_tensors
        members, filters, filters_2 = len(x), between.shape[3], weight_2.shape[2]
        d_weight, d_bias = x.new_zeros(members, KERNEL, filters), x.new_zeros(members, filters)
        d_bias_2 = x.new_zeros(members, filters_2)
        most = _mostly(won_2, ctx.balanced)
        x_, given, between_, won_, won_2_ = _arrays(x, gradient.contiguous(), between, won, won_2)
        d_w, d_b, d_b_2 = _arrays(d_weight, d_bias, d_bias_2)
        if winograd.fits(x.dtype, filters, filters_2):
            d_weight_2 = torch.zeros_like(weight_2)
            w_2, d_w_2 = _arrays(weight_2, d_weight_2)
            for m in range(members):
                made = d_w[m], d_b[m], d_w_2[m], d_b_2[m]
                kept = between_[m], won_[m], won_2_[m]
                winograd.backward(x_[m], given[m], most[m], w_2[m], kept, made)
            return None, None, d_weight, d_bias, d_weight_2, d_bias_2
        # Of the second block, transposed: that product is faster.
        turned = torch.zeros_like(weight_2.mT)
        windows, product, windows_, product_ = _room(between, filters_2)
        for m, here, rows in _parts(between):
            loops.pool_back(given[m, here], won_2_[m, here], most[m], product_, d_b_2[m])
            windows_[:, -2:] = 0  # after the part before, NaN if its weights are
            loops.spread(between_[m, here], windows_)
            turned[m].addmm_(product[:rows].mT, windows[:rows])
            # In the same room, which fits the cache: now the gradient at the windows.
            torch.mm(product[:rows], weight_2[m].mT, out=windows[:rows])
            loops.read_back(x_[m, here], windows_, won_[m, here], d_w[m], d_b[m])
        return None, None, d_weight, d_bias, turned.mT.contiguous(), d_bias_2


def _arrays(*tensors: Tensor) -> list[Any]:
    """Return the tensors as numpy sees them: parts of those are quickly made."""
    return [tensor.numpy() for tensor in tensors]


def _mostly(won: Tensor, balanced: Tensor | None) -> Any:
    """Return `loops.mostly` of each member; nothing is balanced where None is given."""
    most = np.zeros((len(won), *won.shape[2:]), np.int8)
    if balanced is not None:
        for m, (winner, clips) in enumerate(zip(won.numpy(), balanced.numpy(), strict=True)):
            loops.mostly(winner, clips, most[m])
    return most


def _parts(between: Tensor) -> Iterator[tuple[int, slice, int]]:
    """Yield a member, clips that are done in one pass, and their positions."""
    members, clips, positions, _ = between.shape
    for m in range(members):
        for start in range(0, clips, CLIPS_AT_ONCE):
            stop = min(start + CLIPS_AT_ONCE, clips)
            yield m, slice(start, stop), (stop - start) * positions


def _room(between: Tensor, filters: int) -> tuple[Tensor, Tensor, Any, Any]:
    """Return room for a part's windows and products with them: as rows, and clip by clip.

    A clip's last two windows are 0: they would reach into the next clip.
    """
    at_once, positions = min(between.shape[1], CLIPS_AT_ONCE), between.shape[2]
    windows = between.new_empty(at_once, positions, KERNEL * between.shape[3])
    windows[:, -2:] = 0
    product = between.new_empty(at_once, positions, filters)
    return windows.flatten(0, 1), product.flatten(0, 1), windows.numpy(), product.numpy()


def two_blocks(
    x: Float[Tensor, "members clips length"],
    weight: Float[Tensor, "members 3 filters"],
    bias: Float[Tensor, "members filters"],
    weight_2: Float[Tensor, "members inner filters_2"],
    bias_2: Float[Tensor, "members filters_2"],
    *,
    balanced: Bool[Tensor, "members clips"] | None = None,
) -> Float[Tensor, "members clips pooled filters_2"]:
    """Return what two blocks (`ConvPool`) with these weights make of x; x itself gets no gradient.

    x is at least 10 long, on a CPU where `loops_work`; `balanced`: see `ConvPool.forward`.
    """
    given = (balanced, x, weight, bias, weight_2, bias_2)
    out: Tensor = _TwoBlocks.apply(*given)  # type: ignore[no-untyped-call]
    return out


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        for a, b in ((1, 1), (32, 64)):
            shapes = ((1, 3, a), (1, a), (1, 3 * a, b), (1, b))
            made = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in shapes]
            with torch.enable_grad():
                out = two_blocks(torch.zeros(1, 1, 12, dtype=dtype), *made)
                out.sum().backward()  # type: ignore[no-untyped-call]

    return loops.run("Convolution", once)
