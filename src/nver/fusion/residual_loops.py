"""The loops of a residual and its LayerNorm over one member's tokens, for the CPU.

Numba compiles them. `nver.fusion.residual` has the same as torch operations. One array is written
per loop: with more the compiler does not vectorise.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from nver.scaling.compiled import compiled


@compiled
@no_type_check
def _normalise(row, eps):
    """Bring a row to mean 0 and deviation 1; return its scale."""
    total = row.dtype.type(0)
    for w in range(row.size):
        total += row[w]
    mean = row.dtype.type(total / row.size)
    total = row.dtype.type(0)
    for w in range(row.size):
        apart = row[w] - mean
        total += apart * apart
    factor = row.dtype.type(1 / math.sqrt(total / row.size + eps))
    if not factor > 0:  # the squares overflowed: no number, rather than a row of zeros
        factor = row.dtype.type(np.nan)
    for w in range(row.size):
        row[w] = (row[w] - mean) * factor
    return factor


@compiled
@no_type_check
def _times_number(values, number, out):
    """Set out to values * number."""
    for w in range(values.size):
        out[w] = values[w] * number


@compiled
@no_type_check
def _add_to(values, out):
    """Add values to out."""
    for w in range(values.size):
        out[w] += values[w]


@compiled
@no_type_check
def _sum_onto(a, b, c):
    """Add a + b to c."""
    for w in range(c.size):
        c[w] += a[w] + b[w]


@compiled
@no_type_check
def _scaled(row, factor, more, out):
    """Set out to row * factor + more."""
    for w in range(row.size):
        out[w] = row[w] * factor[w] + more[w]


@compiled
@no_type_check
def add_and_norm(x, normed, layer, counts, eps, out, scale):
    """Turn `normed` + added + x into normalised rows; out is these times weight plus bias.

    `layer` are added, weight and bias [width]. The shapes: x, normed [tokens, room, width]; counts
    [tokens], by which all is multiplied; out [clips, tokens * width]; scale [tokens, room], one
    over the deviations.
    """
    added, weight, bias = layer
    factor, more = np.empty_like(weight), np.empty_like(weight)
    width = weight.size
    for k in range(counts.size):
        _times_number(weight, counts[k], factor)
        _times_number(bias, counts[k], more)
        for c in range(out.shape[0]):
            row = normed[k, c]
            _sum_onto(x[k, c], added, row)
            scale[k, c] = _normalise(row, eps)
            _scaled(row, factor, more, out[c, k * width : (k + 1) * width])


@compiled
@no_type_check
def _normalise_back(gradient, weight, normed, scale, out):
    """Set out to the gradient at a row, from that at the normalised row times weight."""
    shared, along = gradient.dtype.type(0), gradient.dtype.type(0)
    for w in range(gradient.size):
        g = gradient[w] * weight[w]
        shared += g
        along += g * normed[w]
    shared = gradient.dtype.type(shared * scale / gradient.size)
    along = gradient.dtype.type(along * scale / gradient.size)
    for w in range(gradient.size):
        out[w] = gradient[w] * weight[w] * scale - shared - normed[w] * along


@compiled
@no_type_check
def add_and_norm_back(gradient, counts, seen, d_x, sums):
    """Set d_x [tokens, room, width], and the gradients at weight, bias and added [3, width].

    `gradient` is that at out; `seen` are weight, normed and scale of `add_and_norm`.
    """
    weight, normed, scale = seen
    sums[:] = 0
    d_weight, d_bias, d_added = sums[0], sums[1], sums[2]
    factor, width = np.empty_like(weight), weight.size
    for k in range(counts.size):
        _times_number(weight, counts[k], factor)
        for c in range(gradient.shape[0]):
            given, row = gradient[c, k * width : (k + 1) * width], normed[k, c]
            for w in range(width):
                d_weight[w] += given[w] * row[w] * counts[k]
            for w in range(width):
                d_bias[w] += given[w] * counts[k]
            _normalise_back(given, factor, row, scale[k, c], d_x[k, c])
            _add_to(d_x[k, c], d_added)
