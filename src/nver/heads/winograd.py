"""Two convolution blocks by Winograd's products, in tiles that stay in registers.

Two neighbouring positions of a convolution of width 3 take four products rather than six (Lavin &
Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4.1, F(2, 3)): of
inputs d0 to d3 and the kernel's taps g0 to g2 they are

    (d0 - d2) g0,  (d1 + d2) (g0 + g1 + g2) / 2,  (d2 - d1) (g0 - g1 + g2) / 2,  (d3 - d1) g2

The even position is the sum of the first three, the odd one the second less the third plus the
fourth. Max-pooling by 2 takes the larger of this very pair, so that a tile of products becomes
pooled activations without leaving the registers. The way back to the inputs is the same in reverse.
In float32 the outcome is that of the plain sums within rounding; see `_tap_gradients` for where
that is not enough.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

from typing import no_type_check

import torch

from nver.heads import winograd_tiles as tiles
from nver.scaling.compiled import aligned, compiled, compiled_and_kept
from nver.scaling.tiles import FAST

LANES = 16
EVEN, ODD = 0, 3
"""Of the gradients at four products these two are those at the positions."""
PAIRS = 64
"""Pairs of positions that are worked on at once: their inputs and products stay in the cache."""


def fits(dtype: torch.dtype, filters: int, filters_2: int) -> bool:
    """Return whether blocks with so many filters are whole tiles, on a machine that has room."""
    return FAST and dtype == torch.float32 and filters % 32 == 0 and filters_2 % 64 == 0


@compiled
@no_type_check
def _transform(taps, kernels):
    """Set the four kernels [4 F, G] of the products, one below the other like taps [3 F, G]."""
    inner = len(taps) // 3
    for k in range(inner):
        for u in range(taps.shape[1]):
            first, middle, last = taps[k, u], taps[inner + k, u], taps[2 * inner + k, u]
            ends = first + last
            kernels[k, u] = first
            kernels[inner + k, u] = (ends + middle) / 2
            kernels[2 * inner + k, u] = (ends - middle) / 2
            kernels[3 * inner + k, u] = last


@compiled
@no_type_check
def _turn(kernels, turned):
    """Set each of the four to the transpose of its kernel: [4 F, G] to [4 G, F]."""
    filters_2, filters = kernels.shape[1], turned.shape[1]
    for part in range(4):
        for k in range(filters):
            for u in range(filters_2):
                turned[part * filters_2 + u, k] = kernels[part * filters + k, u]


@compiled_and_kept
@no_type_check
def forward(x, parameters, between, won, out, won_2):
    """Do both blocks of one member; arrays as `loops.read` and `loops.pool` have them.

    `parameters` are weight and bias of the first block, then those of the second.
    """
    weight, bias, weight_2, bias_2 = parameters
    clips, pooled, filters_2 = out.shape
    filters = between.shape[2]
    kernels, room = aligned(4 * filters, filters_2, x), aligned(4 * PAIRS, filters, x)
    _transform(weight_2, kernels)
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
def backward(x, gradient, most, weight_2, kept, made):
    """Add to `made`, the gradients at weights and biases of both blocks, what the clips say.

    `kept` are between, won and won_2 as `forward` left them; most: see `loops.mostly`.
    """
    between, won, won_2 = kept
    d_weight, d_bias, d_weight_2, d_bias_2 = made
    clips, pooled, filters_2 = gradient.shape
    filters = between.shape[2]
    products = aligned(4 * PAIRS, filters_2, x)
    kernels, turned = aligned(4 * filters, filters_2, x), aligned(4 * filters_2, filters, x)
    _transform(weight_2, kernels)
    _turn(kernels, turned)
    back = aligned(4 * (pooled + 2), filters, x)  # a pair of zeros at both ends
    back[:] = 0
    for c in range(clips):
        inner, given, wins_2 = between[c], gradient[c], won_2[c]
        for first in range(0, pooled, PAIRS):
            count = min(PAIRS, pooled - first)
            for v in range(filters_2 // LANES):
                at = (first, count, v * LANES)
                tiles.pool_back(given, wins_2, most, products, d_bias_2, at)
            _tap_gradients(inner, first, products, count, d_weight_2)
            _input_gradients(products, turned, count, back, first + 1)
        for v in range(filters // LANES):
            tiles.read_back(x[c], back, won[c], d_weight, d_bias, v * LANES)


@compiled
@no_type_check
def _tap_gradients(inner, first, products, count, d_weight):
    """Add to d_weight [3 F, G] what pairs from `first` on say.

    These are plain sums. By Winograd's products an entry that is next to nothing would be a
    difference of large ones, and Adam makes steps of their rounding as large as any other's.
    """
    filters, filters_2 = inner.shape[1], products.shape[1]
    for which, part in ((0, EVEN), (1, ODD)):
        for tap in range(3):
            for row in range(0, filters, 4):
                for column in range(0, filters_2, 4 * LANES):
                    at = (2 * first + which + tap, part * PAIRS, tap * filters, row, column)
                    tiles.outer(inner, products, count, d_weight, at)


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
