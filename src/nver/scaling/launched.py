"""Sinkhorn on a GPU: a batch solved in one launch, gone back through in one, a program per problem.

The method is that of `batched`, whose numbers these are to rounding. The costs, K and the sums that
the adjoint collects stay in a program's registers, so both sides of a problem have at most 128
points; the logarithmic step is float64, as everywhere. A problem whose scalings leave the safe
range raises a flag, and is solved again on logarithms.

Triton comes with torch's CUDA builds; its interpreter (TRITON_INTERPRET=1) runs the same programs
on a CPU, which is how they are tested where there is no GPU.
"""

# ruff: noqa: ANN001, ANN202 - Triton takes the types from the calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from nver.scaling.batched import TINY, WIDEST, Hard, threshold, with_hard, with_logarithms
from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution

READS_PLAN = True

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

AVAILABLE = triton is not None
PER_WARP, MANY = 1024, 4096
"""Entries of a problem that 32 threads share; half as many where a problem has more than MANY."""
F = TypeVar("F", bound=Callable[..., Any])


def _program(function: F) -> F:
    made: F = function if triton is None else triton.jit(function)
    return made


def _for_all_sizes(*numbers: str) -> Callable[[F], F]:
    """Return `_program` for a program that is compiled once whatever these numbers are."""
    if triton is None:
        return _program
    made: Callable[[F], F] = triton.jit(do_not_specialize=numbers)
    return made


@_program
@no_type_check
def _outside(scaling, weights, least, widest):
    """Return how many scalings of points with weight are outside of their range."""
    fits = ((scaling >= least) & (scaling <= widest)) | (weights == 0)
    return tl.sum(tl.where(fits, 0, 1), axis=0)


@_program
@no_type_check
def _scores(cost, p, n, m, scale, N: tl.constexpr, M: tl.constexpr):
    """Return -C / eps of a problem in float64, minus infinity around it."""
    i, j = tl.arange(0, N), tl.arange(0, M)
    inside = (i[:, None] < n) & (j[None, :] < m)
    c = tl.load(cost + p * n * m + i[:, None] * m + j[None, :], mask=inside, other=0.0)
    return tl.where(inside, -c.to(tl.float64) * scale, float("-inf"))


@_program
@no_type_check
def _log(x):
    """Return log x in float64, minus infinity where x is not above 0."""
    wide = x.to(tl.float64)
    return tl.where(wide > 0, tl.log(tl.where(wide > 0, wide, 1.0)), float("-inf"))


@_program
@no_type_check
def _log_sum(t, axis: tl.constexpr):
    """Return logsumexp; minus infinity where there is nothing to add, or what is no number."""
    most = tl.max(t, axis=axis)
    most = tl.where(tl.abs(most) < float("inf"), most, 0.0)
    return most + _log(tl.sum(tl.exp(t - tl.expand_dims(most, axis)), axis=axis))


@_program
@no_type_check
def _potential(weights, sums):
    """Return log weights - sums, minus infinity where either is."""
    there = sums > float("-inf")
    return tl.where(there, _log(weights) - tl.where(there, sums, 0.0), float("-inf"))


@_program
@no_type_check
def _log_step(cost, a_p, b_p, p, n, m, scale, N: tl.constexpr, M: tl.constexpr):  # noqa: PLR0913
    """Return u, v and K after one step on logarithms, the y before it, and rows without a pair."""
    s = _scores(cost, p, n, m, tl.load(scale), N, M)
    start = tl.where(b_p > 0, 0.0, float("-inf")).to(tl.float64)
    sums_u = _log_sum(s + start[None, :], 1)
    alone = (a_p > 0) & (sums_u == float("-inf"))
    u_p = _potential(a_p, sums_u)
    sums_v = _log_sum(s + u_p[:, None], 0)
    v_p = _potential(b_p, sums_v)
    k = tl.exp(s + u_p[:, None] + v_p[None, :]).to(a_p.dtype)
    first_p = tl.where(b_p > 0, tl.exp(tl.minimum(-tl.where(b_p > 0, v_p, 0.0), 80.0)), 0.0)
    first_p = first_p.to(a_p.dtype)
    return u_p, v_p, k, first_p, tl.sum(tl.where(alone, 1, 0), axis=0)


@_for_all_sizes("problems", "n", "m", "iterations", "check")
@no_type_check
def _solve(  # noqa: PLR0913 - a launch takes numbers and pointers, no objects
    cost, a, b, plan, row, column, error, done, safe, unsafe, x, y, u, v, first,
    problems, n, m, scale, iterations, check, near, tolerance, least, widest, tiny,
    KEEP: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Solve one problem; as `batched.solve`."""
    p = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, N), tl.arange(0, M)
    a_p = tl.load(a + p * n + i, mask=i < n, other=0.0)
    b_p = tl.load(b + p * m + j, mask=j < m, other=0.0)
    u_p, v_p, k, first_p, strange = _log_step(cost, a_p, b_p, p, n, m, scale, N, M)
    outside = strange + _outside(first_p, b_p, least, widest)
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
        x_new = a_p / tl.maximum(sums, tiny)
        y_new = b_p / tl.maximum(tl.sum(k * x_new[:, None], axis=0), tiny)
        x_t = tl.where(close, x_t, x_new)
        y_t = tl.where(close, y_t, y_new)
        outside += _outside(x_t, a_p, least, widest) + _outside(y_t, b_p, least, widest)
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
    f = tl.where(a_p > 0, (u_p + _log(x_t)) / tl.load(scale), float("-inf"))
    g = tl.where(b_p > 0, (v_p + _log(y_t)) / tl.load(scale), float("-inf"))
    tl.store(row + p * n + i, f.to(k.dtype), mask=i < n)
    tl.store(column + p * m + j, g.to(k.dtype), mask=j < m)
    tl.store(error + p, off)
    tl.store(done + p, t)
    ended = (off <= tolerance) | ((t == iterations) & (off < float("inf")))
    bad = tl.where(ended & (outside == 0), 0, 1)
    tl.store(safe + p, 1 - bad)
    tl.atomic_add(unsafe, bad)


@_for_all_sizes("problems", "n", "m")
@no_type_check
def _pull_back(  # noqa: PLR0913 - the same
    cost, a, b, plan, grad, x, y, u, v, first, safe, done, dcost, dlog_a, dlog_b,
    problems, n, m, scale, N: tl.constexpr, M: tl.constexpr,
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
    s = _scores(cost, p, n, m, tl.load(scale), N, M)
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
    tl.store(dcost + place, (k * products - q) * tl.load(scale).to(k.dtype), mask=inside)
    tl.store(dlog_a + p * n + i, w_all, mask=i < n)
    tl.store(dlog_b + p * m + j, z_all, mask=j < m)


class _Tape(NamedTuple):
    """What the adjoint needs: what `_solve` keeps, which problems are safe, and the hard ones."""

    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor
    first: Tensor
    safe: Tensor
    hard: Hard | None


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the scalings of every iteration. float32 only."""
    cost, a, b = (part.contiguous() for part in problem[:3])
    problems, n, m = cost.shape
    found = Solution(
        torch.empty_like(cost),
        torch.empty_like(a),
        torch.empty_like(b),
        cost.new_empty(problems),
        torch.empty(problems, dtype=torch.int64, device=cost.device),
    )
    safe = torch.empty(problems, dtype=torch.int32, device=cost.device)
    unsafe = torch.zeros(1, dtype=torch.int32, device=cost.device)
    kept = [cost] * 5
    if keep:
        steps = problem.iterations
        kept = [cost.new_empty(steps, problems, size) for size in (n, m)]
        kept += [cost.new_empty(problems, size, dtype=torch.float64) for size in (n, m)]
        kept += [torch.empty_like(b)]
    widest = WIDEST[cost.dtype]
    _solve[(problems,)](
        *(cost, a, b, *found[:5], safe, unsafe, *kept),
        *(problems, n, m, _scale(problem), problem.iterations, CHECK_EVERY),
        *(threshold(problem), problem.tolerance, 1 / widest, widest, TINY[cost.dtype]),
        **{"KEEP": keep, **_blocks(n, m)},
    )
    hard = None
    if int(unsafe):
        places = (safe == 0).nonzero().squeeze(1)
        found, hard = with_logarithms(problem, found, places, keep)
    x, y, u, v, first = kept
    return found._replace(tape=_Tape(x, y, u, v, first, safe, hard)) if keep else found


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    tape: _Tape = solution.tape
    cost, a, b = (part.contiguous() for part in problem[:3])
    problems, n, m = cost.shape
    found = Gradient(torch.empty_like(cost), torch.empty_like(a), torch.empty_like(b))
    _pull_back[(problems,)](
        *(cost, a, b, solution.plan, grad.contiguous(), *tape[:6], solution.iterations, *found),
        *(problems, n, m, _scale(problem)),
        **_blocks(n, m),
    )
    return found if tape.hard is None else with_hard(found, tape.hard, grad)


def _scale(problem: Problem) -> Tensor:
    """Return 1 / eps where a program reads it: a launch hands numbers over in float32."""
    return problem.cost.new_full((1,), 1 / problem.eps, dtype=torch.float64)


def _blocks(n: int, m: int) -> dict[str, Any]:
    """Return block sizes (powers of 2, at least 16) and warps for them."""
    rows, columns = (max(16, 1 << (size - 1).bit_length()) for size in (n, m))
    each = PER_WARP if rows * columns <= MANY else PER_WARP // 2
    return {"N": rows, "M": columns, "num_warps": max(1, rows * columns // each)}
