"""Two convolution blocks by Winograd's products, in tiles that stay in registers.

Two neighbouring positions of a convolution of width 3 take four products rather than six (Lavin &
Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4.1, F(2, 3)): of
inputs d0 to d3 and the kernel's taps g0 to g2 they are

    (d0 - d2) g0,  (d1 + d2) (g0 + g1 + g2) / 2,  (d2 - d1) (g0 - g1 + g2) / 2,  (d3 - d1) g2

The even position is the sum of the first three, the odd one the second less the third plus the
fourth.
Max-pooling by 2 takes the larger of this very pair, so that a tile of products becomes pooled
activations without leaving the registers. The way back is the same in reverse. In float32 the
outcome is that of the plain sums within rounding.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

from typing import no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from nver.heads import winograd_tiles as tiles
from nver.scaling.compiled import aligned, compiled, compiled_and_kept
from nver.scaling.tiles import FAST

LANES = 16
PAIRS = 64
"""Pairs of positions that are worked on at once: their inputs and products stay in the cache."""


def fits(dtype: torch.dtype, filters: int, filters_2: int) -> bool:
    """Return whether blocks with so many filters are whole tiles, on a machine that has room."""
    return FAST and dtype == torch.float32 and filters % 32 == 0 and filters_2 % 64 == 0


def transformed(weight: Float[Tensor, "members inner out"]) -> Float[Tensor, "members 4 third out"]:
    """Return the four kernels of the products, from taps [3, third, out] one below the other."""
    first, middle, last = weight.chunk(3, 1)
    ends = first + last
    return torch.stack([first, (ends + middle) / 2, (ends - middle) / 2, last], 1)


def gradient_of_taps(
    gradient: Float[Tensor, "members 4 third out"],
) -> Float[Tensor, "members inner out"]:
    """Return the gradient at the taps, from that at the four kernels."""
    first, plus, minus, last = gradient.unbind(1)
    ends = (plus + minus) / 2
    return torch.stack([first + ends, (plus - minus) / 2, last + ends], 1).flatten(1, 2)


@compiled_and_kept
@no_type_check
def forward(x, parameters, between, won, out, won_2):
    """Do both blocks of one member; arrays as `loops.read` and `loops.pool` have them.

    `parameters` are weight, bias, kernels [4 F, G], the transformed weights of the second block,
    and its bias.
    """
    weight, bias, kernels, bias_2 = parameters
    clips, pooled, filters_2 = out.shape
    filters = between.shape[2]
    room = aligned(4 * PAIRS, filters, x)
    for c in range(clips):
        given, inner, wins, made, wins_2 = x[c], between[c], won[c], out[c], won_2[c]
        for v in range(filters // LANES):
            tiles.read(given, weight, bias, inner, wins, v * LANES)
        for first in range(0, pooled, PAIRS):
            count = min(PAIRS, pooled - first)
            for v in range(filters // LANES):
                tiles.unfold(inner, first, count, room, v * LANES)
            for column in range(0, filters_2, 4 * LANES):
                for p in range(0, count, 3):
                    if count < 3:
                        for single in range(count):
                            at = (single, first + single, column)
                            tiles.pool_one(room, kernels, bias_2, made, wins_2, at)
                    else:
                        p = min(p, count - 3)  # some are done again, which is faster than alone
                        tiles.pool_some(room, kernels, bias_2, made, wins_2, (p, first + p, column))


@compiled_and_kept
@no_type_check
def backward(x, gradient, most, turned, kept, made):
    """Add to `made`, the gradients at (weight, bias, kernels, bias_2), what the clips say.

    turned is [4 G, F], the transformed weights of the second block, each transposed; `kept` are
    between, won and won_2 as `forward` left them; most: see `loops.mostly`.
    """
    between, won, won_2 = kept
    d_weight, d_bias, d_kernels, d_bias_2 = made
    clips, pooled, filters_2 = gradient.shape
    filters = between.shape[2]
    inputs, products = aligned(4 * PAIRS, filters, x), aligned(4 * PAIRS, filters_2, x)
    back = aligned(4 * (pooled + 2), filters, x)  # a pair of zeros at both ends
    back[:] = 0
    for c in range(clips):
        inner, given, wins_2 = between[c], gradient[c], won_2[c]
        for first in range(0, pooled, PAIRS):
            count = min(PAIRS, pooled - first)
            for v in range(filters_2 // LANES):
                at = (first, count, v * LANES)
                tiles.pool_back(given, wins_2, most, products, d_bias_2, at)
            for v in range(filters // LANES):
                tiles.unfold(inner, first, count, inputs, v * LANES)
            _kernel_gradients(inputs, products, count, d_kernels)
            _input_gradients(products, turned, count, back, first + 1)
        for v in range(filters // LANES):
            tiles.read_back(x[c], back, won[c], d_weight, d_bias, v * LANES)


@compiled
@no_type_check
def _kernel_gradients(inputs, products, count, d_kernels):
    filters, filters_2 = inputs.shape[1], products.shape[1]
    for part in range(4):
        for row in range(0, filters, 4):
            for column in range(0, filters_2, 4 * LANES):
                at = (part * PAIRS, part * filters, row, column)
                tiles.outer(inputs, products, count, d_kernels, at)


@compiled
@no_type_check
def _input_gradients(products, turned, count, back, first):
    filters_2, filters = products.shape[1], back.shape[1]
    for part in range(4):
        for column in range(0, filters, 2 * LANES):
            for p in range(0, count, 8):
                if count < 8:
                    for single in range(count):
                        at = (part * PAIRS + single, part * filters_2, part, first + single, column)
                        tiles.back_one(products, turned, back, at)
                else:
                    p = min(p, count - 8)  # some are done again, which is faster than alone
                    at = (part * PAIRS + p, part * filters_2, part, first + p, column)
                    tiles.back_some(products, turned, back, at)
