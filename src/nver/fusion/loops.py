"""The loops of a batch's plans: costs between latents, then plans and maps, for the CPU.

Numba compiles them. The modules that call them have the same as torch operations, for GPUs and for
where numba is missing.
"""

# ruff: noqa: ANN001, ANN201 - numba takes the types from the calls

from __future__ import annotations

import math
from typing import no_type_check

from nver.scaling.compiled import carray, compiled, compiled_and_kept, pointer
from nver.scaling.forward import solve_some


@compiled
@no_type_check
def costs(x, y, out):
    """Set out[m, i, j] to ||x[m, i] - y[m, j]|| over the largest of member m, 0 if all are 0."""
    members, n, width = x.shape
    for m in range(members):
        most = x.dtype.type(0)
        for i in range(n):
            for j in range(y.shape[1]):
                total = x.dtype.type(0)
                for w in range(width):
                    apart = x[m, i, w] - y[m, j, w]
                    total += apart * apart
                out[m, i, j] = math.sqrt(total)
                most = max(most, out[m, i, j])
        scale = x.dtype.type(1 / most if most > 0 else 1)
        for i in range(n):
            for j in range(y.shape[1]):
                out[m, i, j] *= scale


@compiled_and_kept
@no_type_check
def maps(sizes, settings, one, given, starts):
    """Set n times the plans between x and y, by `costs` and equal weights.

    `sizes` are members, n, width and a tape's words; `settings` as in `solve_some`; `one` is 1 in
    the latents' type. `given` are the addresses of x, y [members, n, width], of what is set
    [members, n, n] and of room, in which cost, weights, row and column potentials, errors,
    iterations and tapes lie from `starts` on.
    """
    members, n, width, words = sizes
    cost = carray(pointer(given[3] + starts[0], one), (members, n, n))
    weights = carray(pointer(given[3] + starts[1], one), (members, n))
    x = carray(pointer(given[0], one), (members, n, width))
    y = carray(pointer(given[1], one), (members, n, width))
    out = carray(pointer(given[2], one), (members, n, n))
    costs(x, y, cost)
    weights[:] = 1 / n
    at = given[3]
    read = (at + starts[0], at + starts[1], at + starts[1], at + starts[5], at + starts[6])
    written = (given[2], at + starts[2], at + starts[3], at + starts[4])
    solve_some(0, 1, (members, n, n, 1, words, 0), settings, one, read + written)
    for m in range(members):
        for i in range(n):
            for j in range(n):
                out[m, i, j] *= n
