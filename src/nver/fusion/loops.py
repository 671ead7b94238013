"""Loops that attention among few tokens is made of, compiled for the CPU.

Arrays are C-contiguous; `products` and `mix` have clips innermost and vectorise over them.
`attention_core` and `residual` have the same as torch operations, for GPUs and for where numba is
missing.
"""

# ruff: noqa: ANN001, ANN201 - numba takes the types from the calls

from __future__ import annotations

import math
from typing import no_type_check

from nver.scaling.compiled import compiled_and_kept


@compiled_and_kept
@no_type_check
def products(a, part_a, b, part_b, out):
    """Set out[m, h, i, j] to the sum over d of a[m, part_a, h, d, i] * b[m, part_b, h, d, j].

    Shapes: a [members, parts, heads, depth, I, clips], b alike with J, out [members, heads, I, J,
    clips].
    """
    members, heads, rows, columns, clips = out.shape
    depth = a.shape[3]
    for m in range(members):
        for h in range(heads):
            for i in range(rows):
                for j in range(columns):
                    for c in range(clips):
                        out[m, h, i, j, c] = 0
                    for d in range(depth):
                        for c in range(clips):
                            out[m, h, i, j, c] += (
                                a[m, part_a, h, d, i, c] * b[m, part_b, h, d, j, c]
                            )


@compiled_and_kept
@no_type_check
def mix(weights, turned, b, part_b, out, part):
    """Set out[m, part, h, d, i] to the sum over j of weights[m, h, i, j] * b[m, part_b, h, d, j].

    With `turned`, weights[m, h, j, i] instead. Shapes as in `products`; out is like b with I.
    """
    members, _, heads, depth, rows, clips = out.shape
    columns = b.shape[4]
    for m in range(members):
        for h in range(heads):
            for d in range(depth):
                for i in range(rows):
                    for c in range(clips):
                        out[m, part, h, d, i, c] = 0
                    for j in range(columns):
                        if turned:
                            for c in range(clips):
                                out[m, part, h, d, i, c] += (
                                    weights[m, h, j, i, c] * b[m, part_b, h, d, j, c]
                                )
                        else:
                            for c in range(clips):
                                out[m, part, h, d, i, c] += (
                                    weights[m, h, i, j, c] * b[m, part_b, h, d, j, c]
                                )


@compiled_and_kept
@no_type_check
def add_and_norm(x, joined, kinds, weight, bias, eps, out, normed, scale):  # noqa: PLR0913 - arrays
    """Set out[m, c, t] to the LayerNorm of x[m, kinds[t], c] + joined[m, t, c].

    Shapes: x [members, distinct, clips, width]; joined, normed [members, tokens, clips, width];
    out [members, clips, tokens, width]; weight, bias [members, width]; scale [members, tokens,
    clips]. `normed` is what weight and bias are applied to.
    """
    members, tokens, clips, width = joined.shape
    for m in range(members):
        for t in range(tokens):
            for c in range(clips):
                total = 0 * eps
                kind = kinds[t]
                for w in range(width):
                    normed[m, t, c, w] = x[m, kind, c, w] + joined[m, t, c, w]
                for w in range(width):
                    total += normed[m, t, c, w]
                mean = total / width
                total = 0 * eps
                for w in range(width):
                    apart = normed[m, t, c, w] - mean
                    total += apart * apart
                scale[m, t, c] = 1 / math.sqrt(total / width + eps)
                factor = scale[m, t, c]
                for w in range(width):
                    normed[m, t, c, w] = (normed[m, t, c, w] - mean) * factor
                for w in range(width):
                    out[m, c, t, w] = normed[m, t, c, w] * weight[m, w] + bias[m, w]


@compiled_and_kept
@no_type_check
def add_and_norm_back(  # noqa: PLR0913 - arrays in and out
    gradient, kinds, weight, normed, scale, d_x, d_joined, d_weight, d_bias
):
    """Set d_joined, add to d_x, d_weight, d_bias; gradient [members, clips, tokens, width]."""
    members, tokens, clips, width = normed.shape
    for m in range(members):
        for t in range(tokens):
            for c in range(clips):
                shared, along = 0 * scale[m, t, c], 0 * scale[m, t, c]
                for w in range(width):
                    g = gradient[m, c, t, w] * weight[m, w]
                    shared += g
                    along += g * normed[m, t, c, w]
                factor = scale[m, t, c]
                shared *= factor / width
                along *= factor / width
                # One array written per loop: with more the compiler does not vectorise.
                for w in range(width):
                    g = gradient[m, c, t, w] * weight[m, w]
                    d_joined[m, t, c, w] = g * factor - shared - normed[m, t, c, w] * along
                kind = kinds[t]
                for w in range(width):
                    d_x[m, kind, c, w] += d_joined[m, t, c, w]
                for w in range(width):
                    d_weight[m, w] += gradient[m, c, t, w] * normed[m, t, c, w]
                for w in range(width):
                    d_bias[m, w] += gradient[m, c, t, w]
