"""The convolution block of the CNN head and of MATA's branches as one fused operation.

The block is a convolution of width 3, ReLU and max-pooling by 2. Positions lie in rows and channels
in columns, so that two neighbouring positions are one contiguous row and the whole block is four
matrix products on a few clips at a time, which stay in the cache. Pooling comes before the bias and
the ReLU, which gives the same result on half the values. On a CPU core this takes half the time of
`torch.nn.Conv1d`, `ReLU` and `MaxPool1d` (bench/conv.py); the results are the same. `trunk` has two
blocks as one operation that is faster still.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nver.heads.products import accumulate, multiply, sums

KERNEL = 3
CLIPS_AT_ONCE = 4
"""Clips per pass on a CPU: their block of activations stays in a core's cache."""


@final
class _ConvPool(torch.autograd.Function):
    """max(conv(x)[2s], conv(x)[2s + 1]) + bias, ReLU; one pass forward, one backward.

    With rows P_s = (x_2s, x_2s+1), E_s = x_2s, O_s = x_2s+1 and the kernel's rows W = (w0, w1, w2):
    conv[2s] = P_s (w0, w1) + E_{s+1} w2 and conv[2s + 1] = O_s w0 + P_{s+1} (w1, w2). The rows of
    several clips are multiplied together; the last row of each clip reaches into the next clip and
    is dropped.

    Shapes: x [members, clips, length, channels], weight [members, 3 channels, filters], bias
    [members, filters].
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, balanced: Tensor | None
    ) -> Tensor:
        members, clips, length, channels = x.shape
        pooled = (length - KERNEL + 1) // 2
        used = x[:, :, : 2 * (pooled + 1)]
        pairs = used.reshape(members, clips, pooled + 1, 2 * channels)
        filters = weight.shape[2]
        out = x.new_empty(members, clips, pooled, filters)
        even_wins = torch.empty_like(out, dtype=torch.bool)
        for m, here in parts(x):
            rows = pairs[m, here].flatten(1, 2)
            even, odd = rows.new_empty(2, *rows.shape[:2], filters)
            convolve(rows, weight[m], even, odd)
            shape = (len(rows), -1, pooled + 1, filters)
            even, odd = even.view(shape)[:, :, :pooled], odd.view(shape)[:, :, :pooled]
            torch.gt(even, odd, out=even_wins[m, here])
            part = out[m, here]
            torch.maximum(even, odd, out=part)
            part.add_(bias[m, None, None]).relu_()
        ctx.save_for_backward(pairs, weight, out, even_wins)
        ctx.length, ctx.balanced = length, balanced
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pairs, weight, out, even_wins = ctx.saved_tensors
        members, clips, per_clip, width = pairs.shape
        pooled, filters = per_clip - 1, weight.shape[2]
        d_weight, d_bias = torch.zeros_like(weight), weight.new_zeros(members, filters)
        most = None if ctx.balanced is None else _mostly(out > 0, ctx.balanced).to(out.dtype)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = pairs.new_zeros(members, clips, ctx.length, width // 2)
        for m, here in parts(pairs):
            passed = gradient[m, here] * (out[m, here] > 0)
            told = passed if most is None else passed - gradient[m, here] * most[m]
            d_bias[m] += sums(told.flatten(1, 2))
            # Zeros where a row reaches into the next clip.
            even, odd = passed.new_zeros(2, *passed.shape[:2], per_clip, filters)
            torch.mul(passed, even_wins[m, here], out=even[:, :, :pooled])
            torch.sub(passed, even[:, :, :pooled], out=odd[:, :, :pooled])
            flat = even.flatten(1, 2), odd.flatten(1, 2)
            accumulate_kernel(pairs[m, here].flatten(1, 2), *flat, d_weight[m])
            if d_x is not None:
                d_rows = even.new_empty(len(even), flat[0].shape[1], width)
                input_gradient(*flat, weight[m], d_rows)
                d_x[m, here, : 2 * per_clip] = d_rows.view(*passed.shape[:2], -1, width // 2)
        return d_x, d_weight, d_bias, None


def _mostly(passes: Tensor, balanced: Tensor) -> Tensor:
    """Return [members, 1, pooled, filters]: whether more than half of the balanced clips pass."""
    count = (passes & balanced[:, :, None, None]).sum(1, keepdim=True)
    return 2 * count > balanced.sum(1)[:, None, None, None]


def parts(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield members and clips that are done in one pass: a few on a CPU, all where no cache is."""
    members, clips = x.shape[:2]
    if x.device.type != "cpu":
        yield slice(0, members), slice(0, clips)
        return
    for m in range(members):
        for start in range(0, clips, CLIPS_AT_ONCE):
            yield slice(m, m + 1), slice(start, start + CLIPS_AT_ONCE)


def convolve(rows: Tensor, weight: Tensor, even: Tensor, odd: Tensor) -> None:
    """Write the convolution at even and odd positions of `rows` [members, R, 2C] but the last."""
    channels, last = rows.shape[2] // 2, rows.shape[1] - 1
    even, odd, head, tail = even[:, :last], odd[:, :last], rows[:, :last], rows[:, 1:]
    multiply(head, weight[:, : 2 * channels], even)
    accumulate(even, tail[:, :, :channels], weight[:, 2 * channels :])
    multiply(head[:, :, channels:], weight[:, :channels], odd)
    accumulate(odd, tail, weight[:, channels:])


def accumulate_kernel(rows: Tensor, even: Tensor, odd: Tensor, d_weight: Tensor) -> None:
    """Add to `d_weight` [members, 3C, K] what gradients at even and odd positions say."""
    channels, last = rows.shape[2] // 2, rows.shape[1] - 1
    head, tail, even, odd = rows[:, :last], rows[:, 1:], even[:, :last], odd[:, :last]
    accumulate(d_weight[:, : 2 * channels], head.mT, even)
    accumulate(d_weight[:, 2 * channels :], tail[:, :, :channels].mT, even)
    accumulate(d_weight[:, :channels], head[:, :, channels:].mT, odd)
    accumulate(d_weight[:, channels:], tail.mT, odd)


def input_gradient(even: Tensor, odd: Tensor, weight: Tensor, d_rows: Tensor) -> None:
    """Write the gradient at the rows [members, R, 2C], from those at even and odd positions."""
    channels, last = weight.shape[1] // KERNEL, even.shape[1] - 1
    multiply(even, weight[:, : 2 * channels].mT, d_rows)
    accumulate(d_rows[:, 1:, :channels], even[:, :last], weight[:, 2 * channels :].mT)
    accumulate(d_rows[:, :, channels:], odd, weight[:, :channels].mT)
    accumulate(d_rows[:, 1:], odd[:, :last], weight[:, channels:].mT)


@final
class ConvPool(nn.Module):
    """Convolution of width 3, ReLU, max-pooling by 2, positions before channels.

    Parameters
    ----------
    channels, filters : int
        Channels in and out.

    Attributes
    ----------
    weight : [*members, 3 channels, filters]
        Row ``k * channels + c`` is tap k of channel c; `torch.nn.Conv1d` keeps [filters, channels,
        3].
    bias : [*members, filters]
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(KERNEL * channels)  # as torch.nn.Conv1d draws its weights
        self.weight = nn.Parameter(torch.empty(KERNEL * channels, filters).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(filters).uniform_(-bound, bound))

    def forward(
        self,
        x: Float[Tensor, "*members clips length channels"],
        balanced: Bool[Tensor, "*members clips"] | None = None,
    ) -> Float[Tensor, "*members clips pooled filters"]:
        """Return the pooled activations; ``pooled = (length - 2) // 2``, length at least 4.

        The gradients of `balanced` clips at an activation sum to 0, because a standardisation along
        the clips follows. A bias is then told minus the gradients of clips that do not pass where
        most do. In exact numbers this is the sum over those that pass. Where all pass the sum would
        be nothing but rounding, of which Adam makes steps as large as any other's.
        """
        stacked = self.weight.dim() == 3
        given = (x, self.weight, self.bias, balanced)
        whole = given if stacked else [None if p is None else p.unsqueeze(0) for p in given]
        out: Tensor = _ConvPool.apply(*whole)  # type: ignore[no-untyped-call]
        return out if stacked else out.squeeze(0)
