"""Two loops that attention among few tokens is made of, compiled for the CPU.

Arrays are C-contiguous with clips innermost: over them the loops vectorise. `attending` has the
same sums as torch operations, for GPUs and for where numba is missing.
"""

# ruff: noqa: ANN001, ANN201 - numba takes the types from the calls

from __future__ import annotations

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
