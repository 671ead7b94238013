"""Sinkhorn on a GPU: a batch solved in one launch, gone back through in one, a program per problem.

The method is that of `batched`, whose numbers these are to rounding. The costs, K and the sums that
the adjoint collects stay in a program's registers, so K, padded to powers of 2, has at most 64 KiB:
128 x 128 points in float32, 64 x 128 in float64. The logarithmic step is float64, as everywhere. A
problem whose scalings leave the safe range raises a flag, and is solved again on logarithms.
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
    limit_of,
    log_sum,
    logarithm,
    outside_of,
    padded,
    potential,
    program,
    ranges,
    settings_of,
    tell,
    unsolved,
)

try:
    import triton.language as tl
except ImportError:
    tl = None

READS_PLAN = True
LARGEST = 65536
"""Bytes of a padded K that fit into a program's registers, beside the other matrices."""
PER_WARP, MANY = 4096, 16384
"""Bytes of K that 32 threads share; half as many where K has more than MANY."""


@program
@no_type_check
def _scores(cost, p, n, m, scale, N: tl.constexpr, M: tl.constexpr):
    """Return -C / eps of a problem in float64, minus infinity around it."""
    i, j = tl.arange(0, N), tl.arange(0, M)
    inside = (i[:, None] < n) & (j[None, :] < m)
    c = tl.load(cost + p * n * m + i[:, None] * m + j[None, :], mask=inside, other=0.0)
    return tl.where(inside, -c.to(tl.float64) * scale, float("-inf"))


@program
@no_type_check
def _log_step(cost, a_p, b_p, p, n, m, scale, N: tl.constexpr, M: tl.constexpr):  # noqa: PLR0913
    """Return u, v and K after one step on logarithms, and how many rows have no pair."""
    s = _scores(cost, p, n, m, scale, N, M)
    start = tl.where(b_p > 0, 0.0, float("-inf")).to(tl.float64)
    sums_u = log_sum(s + start[None, :], 1)
    alone = (a_p > 0) & (sums_u == float("-inf"))
    u_p = potential(a_p, sums_u)
    sums_v = log_sum(s + u_p[:, None], 0)
    v_p = potential(b_p, sums_v)
    k = tl.exp(s + u_p[:, None] + v_p[None, :]).to(a_p.dtype)
    return u_p, v_p, k, tl.sum(tl.where(alone, 1, 0), axis=0)


@for_all_sizes("problems", "n", "m", "iterations", "check")
@no_type_check
def _solve(  # noqa: PLR0913 - a launch takes numbers and pointers, no objects
    cost, a, b, plan, row, column, error, done, safe, unsafe, x, y, u, v, first,
    problems, n, m, settings, iterations, check, LEAST: tl.constexpr, WIDEST: tl.constexpr,
    TINY: tl.constexpr, LARGEST: tl.constexpr, KEEP: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Solve one problem; as `batched.solve`."""
    p = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, N), tl.arange(0, M)
    a_p = tl.load(a + p * n + i, mask=i < n, other=0.0)
    b_p = tl.load(b + p * m + j, mask=j < m, other=0.0)
    scale, near = tl.load(settings), tl.load(settings + 1)
    u_p, v_p, k, strange = _log_step(cost, a_p, b_p, p, n, m, scale, N, M)
    first_p = first_scaling(b_p, v_p, LARGEST)
    outside = strange + outside_of(first_p, b_p, LEAST, WIDEST)
    x_t = tl.where(a_p > 0, 1.0, 0.0).to(k.dtype)
    y_t = tl.where(b_p > 0, 1.0, 0.0).to(k.dtype)
    if KEEP:
        tl.store(u + p * n + i, u_p, mask=i < n)
        tl.store(v + p * m + j, v_p, mask=j < m)
        tl.store(first + p * m + j, first_p, mask=j < m)
        tl.store(x + p * n + i, x_t, mask=i < n)
        tl.store(y + p * m + j, y_t, mask=j < m)
    t = 1
    running = tl.where(outside > 0, 0, 1)
    while (t < iterations) & (running == 1):
        sums = tl.sum(k * y_t[None, :], axis=1)
        off = tl.sum(tl.abs(x_t * sums - a_p), axis=0)
        close = (near > 0) & (off <= near) & (t % check == 0)
        x_new = a_p / tl.maximum(sums, TINY)
        y_new = b_p / tl.maximum(tl.sum(k * x_new[:, None], axis=0), TINY)
        x_t = tl.where(close, x_t, x_new)
        y_t = tl.where(close, y_t, y_new)
        outside += outside_of(x_t, a_p, LEAST, WIDEST) + outside_of(y_t, b_p, LEAST, WIDEST)
        if KEEP:
            tl.store(x + (t * problems + p) * n + i, x_t, mask=i < n)
            tl.store(y + (t * problems + p) * m + j, y_t, mask=j < m)
        running = tl.where(close | (outside > 0), 0, 1)
        t += tl.where(close, 0, 1)
    k = x_t[:, None] * k * y_t[None, :]
    off = tl.sum(tl.abs(tl.sum(k, axis=1) - a_p), axis=0)
    off += tl.sum(tl.abs(tl.sum(k, axis=0) - b_p), axis=0)
    inside = (i[:, None] < n) & (j[None, :] < m)
    tl.store(plan + p * n * m + i[:, None] * m + j[None, :], k, mask=inside)
    f = tl.where(a_p > 0, (u_p + logarithm(x_t)) / scale, float("-inf"))
    g = tl.where(b_p > 0, (v_p + logarithm(y_t)) / scale, float("-inf"))
    tl.store(row + p * n + i, f.to(k.dtype), mask=i < n)
    tl.store(column + p * m + j, g.to(k.dtype), mask=j < m)
    tell(error, done, safe, unsafe, p, off, t, iterations, outside, settings)


@for_all_sizes("problems", "n", "m")
@no_type_check
def _pull_back(  # noqa: PLR0913 - the same
    cost, a, b, plan, grad, x, y, u, v, first, safe, done, dcost, dlog_a, dlog_b,
    problems, n, m, settings, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Go back through one problem; as `batched.pull_back`, the products added up on the way."""
    p = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, N), tl.arange(0, M)
    inside = (i[:, None] < n) & (j[None, :] < m)
    place = p * n * m + i[:, None] * m + j[None, :]
    a_p = tl.load(a + p * n + i, mask=i < n, other=0.0)
    b_p = tl.load(b + p * m + j, mask=j < m, other=0.0)
    u_p = tl.load(u + p * n + i, mask=i < n, other=float("-inf"))
    v_p = tl.load(v + p * m + j, mask=j < m, other=float("-inf"))
    scale = tl.load(settings)
    s = _scores(cost, p, n, m, scale, N, M)
    k = tl.exp(s + u_p[:, None] + v_p[None, :]).to(a_p.dtype)
    q = tl.load(plan + place, mask=inside, other=0.0)
    q *= tl.load(grad + place, mask=inside, other=0.0)
    w, z = tl.sum(q, axis=1), tl.sum(q, axis=0)
    a_over = tl.where(a_p > 0, 1.0 / tl.where(a_p > 0, a_p, 1.0), 0.0)
    b_over = tl.where(b_p > 0, 1.0 / tl.where(b_p > 0, b_p, 1.0), 0.0)
    w_all, z_all, products = w * 0.0, z * 0.0, q * 0.0
    # Those solved on logarithms are not gone through here.
    t = tl.where(tl.load(safe + p) == 1, tl.load(done + p), 0) - 1
    while t >= 0:
        at = t * problems + p
        x_t = tl.load(x + at * n + i, mask=i < n, other=0.0)
        y_t = tl.load(y + at * m + j, mask=j < m, other=0.0)
        earlier = tl.load(y + tl.maximum(at - problems, p) * m + j, mask=j < m, other=0.0)
        initial = tl.load(first + p * m + j, mask=j < m, other=0.0)
        before = tl.where(t > 0, earlier, initial)
        h = z * y_t * b_over
        w -= x_t * tl.sum(k * h[None, :], axis=1)
        g = w * x_t * a_over
        products += x_t[:, None] * h[None, :] + g[:, None] * before[None, :]
        w_all += w
        z_all += z
        z = -before * tl.sum(k * g[:, None], axis=0)
        w = w * 0.0
        t -= 1
    tl.store(dcost + place, (k * products - q) * scale.to(k.dtype), mask=inside)
    tl.store(dlog_a + p * n + i, w_all, mask=i < n)
    tl.store(dlog_b + p * m + j, z_all, mask=j < m)


def fits(cost: Float[Tensor, "problems n m"]) -> bool:
    """Return whether problems of this size are small enough."""
    n, m = cost.shape[1:]
    return padded(n) * padded(m) * cost.itemsize <= LARGEST


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the scalings of every iteration."""
    return ended(problem, _scaled(problem, limit_of(problem, keep, _scaled), keep))


def _scaled(problem: Problem, limit: int, keep: bool) -> Scaled:
    """Return what so many iterations give, before any problem is solved on logarithms."""
    cost, a, b = (part.contiguous() for part in problem[:3])
    problems, n, m = cost.shape
    found, safe, unsafe = unsolved(cost, a, b)
    settings, kept, tape = settings_of(problem), (cost,) * 5, None
    if keep:
        x, y = (cost.new_empty(limit, problems, size) for size in (n, m))
        u, v = (cost.new_empty(problems, size, dtype=torch.float64) for size in (n, m))
        kept = (x, y, u, v, torch.empty_like(b))
        tape = Tape(*kept, safe, settings, None)
    _solve[(problems,)](
        *(cost, a, b, *found[:5], safe, unsafe, *kept),
        *(problems, n, m, settings, limit, CHECK_EVERY),
        **{**ranges(cost.dtype), "KEEP": keep, **_blocks(n, m, cost.itemsize)},
    )
    return Scaled(found, safe, unsafe, tape)


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    tape: Tape = solution.tape
    cost, a, b = (part.contiguous() for part in problem[:3])
    problems, n, m = cost.shape
    found = Gradient(torch.empty_like(cost), torch.empty_like(a), torch.empty_like(b))
    _pull_back[(problems,)](
        *(cost, a, b, solution.plan, grad.contiguous(), *tape[:6], solution.iterations, *found),
        *(problems, n, m, tape.settings),
        **_blocks(n, m, cost.itemsize),
    )
    return found if tape.hard is None else with_hard(found, tape.hard, grad)


def _blocks(n: int, m: int, itemsize: int) -> dict[str, Any]:
    """Return block sizes (powers of 2, at least 16) and warps for them."""
    rows, columns = padded(n), padded(m)
    size = rows * columns * itemsize
    each = PER_WARP if size <= MANY else PER_WARP // 2
    return {"N": rows, "M": columns, "num_warps": max(1, size // each)}
