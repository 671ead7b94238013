"""Sinkhorn on a GPU for problems too large for a program's registers: seven programs at any size.

The method is that of `batched`. Potentials and K are filled in by a program per strip of rows (or
columns); then one program per problem runs all iterations, reading K strip by strip from the GPU's
cache: a row's sum, its x_i and its share of every column's sum come from one reading, where a pair
of matrix products reads K twice. It needs nothing from other programs, so no iteration waits for a
launch. The adjoint is gone through in the same way, and its products are added up by a program per
strip. K lies where the plan, or the derivative, will be: nothing else of size n x m is held. A
problem whose scalings leave the safe range raises a flag, and is solved again on logarithms.

One program keeps one of the GPU's multiprocessors busy. By arithmetic, not yet by measurement: on
an H200 (132 of them, 4.8 TB/s) 132 problems of 1024 x 1024 in float32 are 0.55 GB, more than its 50
MB of cache, and 50 iterations read them once each, in 6 ms, where pairs of products take 12. A
single problem leaves all others idle: one takes 64 bytes a cycle from the cache at best, so at 1.8
GHz an iteration is 37 us and a solve 2 ms or more. The 490 launches of `batched` at 4 us, the least
that a launch from Python costs, take as long, and were measured at 9 ms; so there is no second way.
"""

# ruff: noqa: ANN001, ANN202 - Triton takes the types from the calls

from __future__ import annotations

from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from nver.scaling.batched import with_hard
from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution
from nver.scaling.programs import AVAILABLE as AVAILABLE
from nver.scaling.programs import (
    Scaled,
    Tape,
    ended,
    first_scaling,
    for_all_sizes,
    inside_of,
    limit_of,
    log_sum,
    logarithm,
    outside_of,
    padded,
    potential,
    program,
    ranges,
    settings_of,
    strays,
    strip,
    tell,
    unsolved,
)
from nver.scaling.strips_back import go_back, products

try:
    import triton.language as tl
except ImportError:
    tl = None

READS_PLAN = True
LARGEST = 1024
"""Points of a side: all columns of a strip are in a program at once."""
STRIP = 32768
"""Bytes of the part of K that a program has in its registers, beside the one that comes next."""
WIDE = 8
"""Bytes of an entry where logarithms are taken."""
PER_WARP = 2048
"""Bytes of a strip that 32 threads share."""


@for_all_sizes("lines", "across")
@no_type_check
def _potentials(  # noqa: PLR0913 - a launch takes numbers and pointers, no objects
    cost, weights, other, out, lines, across, settings,
    FIRST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Set u of a strip of rows beside v = 0 (FIRST), or v of a strip of columns beside u."""
    p = tl.program_id(0).to(tl.int64)
    i, j = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    if FIRST:
        given = tl.load(other + p * across + j, mask=j < across, other=0.0)
        start = tl.where(given > 0, 0.0, float("-inf")).to(tl.float64)
        place = i[:, None] * across + j[None, :]
    else:
        start = tl.load(other + p * across + j, mask=j < across, other=float("-inf"))
        place = i[:, None] + j[None, :] * lines
    inside = (i[:, None] < lines) & (j[None, :] < across)
    c = tl.load(cost + p * lines * across + place, mask=inside, other=0.0).to(tl.float64)
    s = tl.where(inside, -c * tl.load(settings), float("-inf"))
    own = tl.load(weights + p * lines + i, mask=i < lines, other=0.0)
    tl.store(out + p * lines + i, potential(own, log_sum(s + start[None, :], 1)), mask=i < lines)


@program
@no_type_check
def _fill(cost, u, v, kernel, n, m, settings, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # noqa: PLR0913
    """Set a strip of K = exp(u + v - C / eps)."""
    p = tl.program_id(0).to(tl.int64)
    i, j = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    place, inside = inside_of(i, j, n, m)
    c = tl.load(cost + p * n * m + place, mask=inside, other=0.0)
    u_p = tl.load(u + p * n + i, mask=i < n, other=float("-inf"))
    v_p = tl.load(v + p * m + j, mask=j < m, other=float("-inf"))
    t = u_p[:, None] + v_p[None, :] - c.to(tl.float64) * tl.load(settings)
    tl.store(kernel + p * n * m + place, tl.exp(t).to(c.dtype), mask=inside)


@program
@no_type_check
def _sweep(  # noqa: PLR0913
    kernel, a, x_old, x_new, y_t, p, n, m,
    LEAST: tl.constexpr, WIDEST: tl.constexpr, TINY: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Set x = a / K y; return K^T x, the error of the old x, and how many x are out of range."""
    shares = tl.zeros((ROWS, COLUMNS), dtype=y_t.dtype)
    errors = tl.zeros((ROWS,), dtype=y_t.dtype)
    outside = tl.zeros((ROWS,), dtype=tl.int32)
    start = 0
    coming = strip(kernel, p, start, n, m, ROWS, COLUMNS)
    while start < n:
        i, k = start + tl.arange(0, ROWS), coming
        start += ROWS
        coming = strip(kernel, p, start, n, m, ROWS, COLUMNS)
        a_p = tl.load(a + p * n + i, mask=i < n, other=0.0)
        before = tl.load(x_old + p * n + i, mask=i < n, other=0.0)
        sums = tl.sum(k * y_t[None, :], axis=1)
        after = a_p / tl.maximum(sums, TINY)
        tl.store(x_new + p * n + i, after, mask=i < n)
        errors += tl.abs(before * sums - a_p)
        outside += strays(after, a_p, LEAST, WIDEST)
        shares += k * after[:, None]
    return tl.sum(shares, axis=0), tl.sum(errors, axis=0), tl.sum(outside, axis=0)


@program
@no_type_check
def _end(  # noqa: PLR0913
    a, u, x_t, y_t, plan, row, p, n, m, scale, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Turn K into x K y, set f; return the sums of columns, the rows' error, rows with no pair."""
    j = tl.arange(0, COLUMNS)
    shares = tl.zeros((ROWS, COLUMNS), dtype=y_t.dtype)
    errors = tl.zeros((ROWS,), dtype=y_t.dtype)
    alone = 0
    start = 0
    while start < n:
        i = start + tl.arange(0, ROWS)
        place, inside = inside_of(i, j, n, m)
        a_p = tl.load(a + p * n + i, mask=i < n, other=0.0)
        u_p = tl.load(u + p * n + i, mask=i < n, other=float("-inf"))
        x_p = tl.load(x_t + p * n + i, mask=i < n, other=0.0)
        k = x_p[:, None] * tl.load(plan + p * n * m + place, mask=inside, other=0.0) * y_t[None, :]
        tl.store(plan + p * n * m + place, k, mask=inside)
        f = tl.where(a_p > 0, (u_p + logarithm(x_p)) / scale, float("-inf"))
        tl.store(row + p * n + i, f.to(k.dtype), mask=i < n)
        errors += tl.abs(tl.sum(k, axis=1) - a_p)
        alone += tl.sum(tl.where((a_p > 0) & (u_p == float("-inf")), 1, 0), axis=0)
        shares += k
        start += ROWS
    return tl.sum(shares, axis=0), tl.sum(errors, axis=0), alone


@for_all_sizes("problems", "iterations", "check")
@no_type_check
def _iterate(  # noqa: PLR0913
    a, b, plan, row, column, error, done, safe, unsafe, x, y, u, v, first,
    problems, n, m, settings, iterations, check, LEAST: tl.constexpr, WIDEST: tl.constexpr,
    TINY: tl.constexpr, LARGEST: tl.constexpr, KEEP: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Scale K, which lies in `plan`, to the plan; as `batched.iterate`. x has two slots or all."""
    p, j = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMNS)
    b_p = tl.load(b + p * m + j, mask=j < m, other=0.0)
    v_p = tl.load(v + p * m + j, mask=j < m, other=float("-inf"))
    first_p = first_scaling(b_p, v_p, LARGEST)
    outside = outside_of(first_p, b_p, LEAST, WIDEST)
    y_t = tl.where(b_p > 0, 1.0, 0.0).to(b_p.dtype)
    if KEEP:
        tl.store(first + p * m + j, first_p, mask=j < m)
        tl.store(y + p * m + j, y_t, mask=j < m)
    start = 0
    while start < n:
        i = start + tl.arange(0, ROWS)
        a_p = tl.load(a + p * n + i, mask=i < n, other=0.0)
        tl.store(x + p * n + i, tl.where(a_p > 0, 1.0, 0.0).to(b_p.dtype), mask=i < n)
        start += ROWS
    t, near, size = 1, tl.load(settings + 1), problems.to(tl.int64) * n
    running = tl.where(outside > 0, 0, 1)
    while (t < iterations) & (running == 1):
        tl.debug_barrier()  # other threads read the x that these have written
        old, new = ((t - 1), t) if KEEP else ((t - 1) % 2, t % 2)
        sums, off, strange = _sweep(
            plan, a, x + old * size, x + new * size, y_t, p, n, m,
            LEAST, WIDEST, TINY, ROWS, COLUMNS,
        )  # fmt: skip
        close = (near > 0) & (off <= near) & (t % check == 0)
        y_new = b_p / tl.maximum(sums, TINY)
        outside += tl.where(close, 0, strange + outside_of(y_new, b_p, LEAST, WIDEST))
        y_t = tl.where(close, y_t, y_new)
        if KEEP:
            tl.store(y + (t * problems + p) * m + j, y_t, mask=j < m)
        running = tl.where(close | (outside > 0), 0, 1)
        t += tl.where(close, 0, 1)
    tl.debug_barrier()
    last = t - 1
    if not KEEP:
        last = last % 2
    x_last, scale = x + last * size, tl.load(settings)
    sums, off, alone = _end(a, u, x_last, y_t, plan, row, p, n, m, scale, ROWS, COLUMNS)
    off += tl.sum(tl.abs(sums - b_p), axis=0)
    g = tl.where(b_p > 0, (v_p + logarithm(y_t)) / scale, float("-inf"))
    tl.store(column + p * m + j, g.to(b_p.dtype), mask=j < m)
    tell(error, done, safe, unsafe, p, off, t, iterations, outside + alone, settings)


def fits(cost: Float[Tensor, "problems n m"]) -> bool:
    """Return whether problems of this size can be solved here."""
    return max(cost.shape[1:]) <= LARGEST


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the scalings of every iteration."""
    return ended(problem, _scaled(problem, limit_of(problem, keep, _scaled), keep))


def _scaled(problem: Problem, limit: int, keep: bool) -> Scaled:
    """Return what so many iterations give, before any problem is solved on logarithms."""
    cost, a, b = (part.contiguous() for part in problem[:3])
    problems, n, m = cost.shape
    found, safe, unsafe = unsolved(cost, a, b)
    settings = settings_of(problem)
    u, v = (cost.new_empty(problems, size, dtype=torch.float64) for size in (n, m))
    x = cost.new_empty(limit if keep else 2, problems, n)
    y, first = (cost.new_empty(len(x), problems, m), torch.empty_like(b)) if keep else (b, b)
    for weights, other, out in ((a, b, u), (b, u, v)):
        (lines, across), from_zero = (weights.shape[1], other.shape[1]), out is u
        grid, blocks = _blocks(problems, lines, across, WIDE)
        _potentials[grid](
            cost, weights, other, out, lines, across, settings, FIRST=from_zero, **blocks
        )
    _fill_all(cost, u, v, found.plan, settings)
    _, blocks = _blocks(problems, n, m, cost.itemsize)
    _iterate[(problems,)](
        *(a, b, *found[:5], safe, unsafe, x, y, u, v, first),
        *(problems, n, m, settings, limit, CHECK_EVERY),
        **{**ranges(cost.dtype), "KEEP": keep, **blocks},
    )
    tape = Tape(x, y, u, v, first, safe, settings, None) if keep else None
    return Scaled(found, safe, unsafe, tape)


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    tape: Tape = solution.tape
    cost, a, b, given = (part.contiguous() for part in (*problem[:3], grad))
    problems, n, m = cost.shape
    found = Gradient(torch.empty_like(cost), torch.empty_like(a), torch.empty_like(b))
    _fill_all(cost, tape.u, tape.v, found.cost, tape.settings)
    g, h = torch.empty_like(tape.x), torch.empty_like(tape.y)
    ran = (tape.x, tape.y, tape.first, tape.safe, solution.iterations, g, h)
    grid, blocks = _blocks(problems, n, m, cost.itemsize)
    go_back[(problems,)](
        *(found.cost, a, b, solution.plan, given, *ran, *found[1:], problems, n, m), **blocks
    )
    products[grid](solution.plan, given, *ran, found.cost, problems, n, m, tape.settings, **blocks)
    return found if tape.hard is None else with_hard(found, tape.hard, grad)


def _fill_all(cost: Tensor, u: Tensor, v: Tensor, kernel: Tensor, settings: Tensor) -> None:
    """Set K of all problems."""
    problems, n, m = cost.shape
    grid, blocks = _blocks(problems, n, m, WIDE)
    _fill[grid](cost, u, v, kernel, n, m, settings, **blocks)


def _blocks(
    problems: int, lines: int, across: int, size: int
) -> tuple[tuple[int, int], dict[str, Any]]:
    """Return a grid of problems and strips, and the size and warps of a strip."""
    columns = padded(across)
    rows = min(padded(lines, 1), max(1, STRIP // size // columns))
    warps = max(1, rows * columns * size // PER_WARP)
    return (problems, -(-lines // rows)), {"ROWS": rows, "COLUMNS": columns, "num_warps": warps}
