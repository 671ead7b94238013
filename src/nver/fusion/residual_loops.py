"""The loops of a residual and its LayerNorm, for the CPU.

Numba compiles them; arrays are C-contiguous. `nver.fusion.residual` has the same as torch
operations. One array is written per loop: with more the compiler does not vectorise.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from nver.scaling.compiled import carray, compiled, compiled_and_kept, pointer


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


@compiled_and_kept
@no_type_check
def add_and_norm(sizes, one, tokens_at, places, eps):
    """Turn `normed` + added + token into a normalised row; out is that times weight plus bias.

    `sizes` are members, tokens, clips and width; `one` is 1 in the tokens' type. `tokens_at` are
    the addresses of the tokens [members, clips, width]; `places` those of normed [members, tokens,
    clips, width]; added, weight, bias [members, width]; counts [tokens], by which all is
    multiplied; out [members, clips, tokens * width]; scale [members, tokens, clips], one over the
    deviations.
    """
    members, tokens, clips, width = sizes
    normed = carray(pointer(places[0], one), (members, tokens, clips, width))
    added = carray(pointer(places[1], one), (members, width))
    weight = carray(pointer(places[2], one), (members, width))
    bias = carray(pointer(places[3], one), (members, width))
    counts = carray(pointer(places[4], one), tokens)
    out = carray(pointer(places[5], one), (members, clips, tokens * width))
    scale = carray(pointer(places[6], one), (members, tokens, clips))
    factor, more = np.empty(width, normed.dtype), np.empty(width, normed.dtype)
    for m in range(members):
        for k in range(tokens):
            _times_number(weight[m], counts[k], factor)
            _times_number(bias[m], counts[k], more)
            rows = carray(pointer(tokens_at[k], one), (members, clips, width))[m]
            for c in range(clips):
                row = normed[m, k, c]
                _sum_onto(rows[c], added[m], row)
                scale[m, k, c] = _normalise(row, eps)
                _scaled(row, factor, more, out[m, c, k * width : (k + 1) * width])


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


@compiled_and_kept
@no_type_check
def add_and_norm_back(sizes, one, places):
    """Set d_x, and what follows it; `sizes` and shapes as forward.

    `places` are addresses of the gradient at out, counts, weight, normed, scale, of d_x [members,
    tokens, clips, width], and of the gradients at weight, bias and `added` [3, members, width].
    """
    members, tokens, clips, width = sizes
    gradient = carray(pointer(places[0], one), (members, clips, tokens * width))
    counts = carray(pointer(places[1], one), tokens)
    weight = carray(pointer(places[2], one), (members, width))
    normed = carray(pointer(places[3], one), (members, tokens, clips, width))
    scale = carray(pointer(places[4], one), (members, tokens, clips))
    d_x = carray(pointer(places[5], one), (members, tokens, clips, width))
    sums = carray(pointer(places[6], one), (3, members, width))
    sums[:] = 0
    d_weight, d_bias, d_added = sums[0], sums[1], sums[2]
    factor = np.empty(width, normed.dtype)
    for m in range(members):
        for k in range(tokens):
            _times_number(weight[m], counts[k], factor)
            for c in range(clips):
                given, row = gradient[m, c, k * width : (k + 1) * width], normed[m, k, c]
                for w in range(width):
                    d_weight[m, w] += given[w] * row[w] * counts[k]
                for w in range(width):
                    d_bias[m, w] += given[w] * counts[k]
                _normalise_back(given, factor, row, scale[m, k, c], d_x[m, k, c])
                _add_to(d_x[m, k, c], d_added[m])
