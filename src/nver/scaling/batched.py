"""Sinkhorn on whole batches with torch's matrix products: where numba is not, and on a GPU.

After one logarithmic step K = exp(S + u + v) is scaled as in `fused`. The products are written with
vectors as rows, y [1, m] times K^T [m, n]: on a CPU that form is several times faster than K times
a column. A problem whose scalings leave the safe range is solved again on logarithms, alone, and
counts as that; so the sequence is the logarithmic one at every eps.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nver.scaling import logarithmic
from nver.scaling.logarithmic import columns_from, marginal_error, over, plan_of, rows_from, scores
from nver.scaling.memory import check_room
from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution

READS_PLAN = True

ROUNDING = 4
"""Machine epsilons by which a loop's own error must be below the tolerance: sums are rounded."""
WIDEST = {torch.float32: 1e12, torch.float64: 1e100}
"""Scalings stay in [1 / widest, widest]; there K loses nothing to underflow."""
WAY_BACK = 3
"""Times what is kept that the way back takes beside it, at least."""
TINY = {torch.float32: 1e-37, torch.float64: 1e-300}
"""Stands for a sum of 0."""


class Scalings(NamedTuple):
    """What the iterations from y = 1 gave.

    Parameters
    ----------
    x, y : [iterations, problems, n], [iterations, problems, m]
        After each iteration; the first is all 1, that of the logarithmic step. Or after the last
        of each problem alone.
    done : int64 [problems]
        Iterations of each problem; later entries of x and y mean nothing.
    safe : bool [problems]
        Whether the scalings stayed in range.
    """

    x: Float[Tensor, "iterations problems n"]
    y: Float[Tensor, "iterations problems m"]
    done: Int[Tensor, " problems"]
    safe: Bool[Tensor, " problems"]


def iterate(kernel: Tensor, problem: Problem, keep: bool) -> Scalings:
    """Scale K [problems, n, m] until each problem's tolerance or limit; `keep` every iteration."""
    a, b, turned = problem.source, problem.target, kernel.transpose(1, 2).contiguous()
    tiny, limit = TINY[kernel.dtype], problem.iterations
    near = threshold(problem)
    x, y = [(a > 0).to(a.dtype)], [(b > 0).to(b.dtype)]
    done = torch.full_like(a[:, 0], limit, dtype=torch.int64)
    safe = torch.ones_like(done, dtype=torch.bool)
    for t in range(1, limit):
        sums = torch.bmm(y[-1].unsqueeze(1), turned).squeeze(1)
        if t % CHECK_EVERY == 0:
            running = done == limit
            if keep:
                held = t * (a.numel() + b.numel()) * a.itemsize
                check_room(held, WAY_BACK * held, t, a.device)
            safe &= in_range(x[-1], a) & in_range(y[-1], b) | ~running
            if not keep:
                x, y = _latest(x, running), _latest(y, running)
            if problem.tolerance > 0:
                error = (x[-1] * sums - a).abs().sum(-1)
                done = done.masked_fill(running & (error <= near), t)
            if not bool((safe & (done == limit)).any()):
                break
        x.append(a / sums.clamp_min(tiny))
        y.append(b / torch.bmm(x[-1].unsqueeze(1), kernel).squeeze(1).clamp_min(tiny))
    safe &= in_range(x[-1], a) & in_range(y[-1], b) | (done < limit)
    if not keep:
        x, y = _latest(x, done == limit), _latest(y, done == limit)
    return Scalings(torch.stack(x), torch.stack(y), done, safe)


def _latest(scalings: list[Tensor], running: Tensor) -> list[Tensor]:
    """Return the last of the scalings alone, for problems that stopped before them the first."""
    return [torch.where(running.unsqueeze(-1), scalings[-1], scalings[0])]


def go_back(
    kernel: Tensor, problem: Problem, scalings: Scalings, last: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return h, g as in `nver.scaling.backward`, one per iteration, and sums of w and z.

    `last` are the derivatives by the last u and v. h and g are 0 after a problem's end.
    """
    turned = kernel.transpose(1, 2).contiguous()
    x, y = scalings.x, scalings.y
    step = torch.arange(1, len(x) + 1, device=x.device).view(-1, 1, 1)
    ends = step == scalings.done.view(1, -1, 1)
    x_over, y_over = over(x, problem.source), over(y, problem.target)
    w, z = (part.unsqueeze(0) * ends for part in last)
    h, g = torch.empty_like(y), torch.empty_like(x)
    for t in range(len(x) - 1, -1, -1):
        torch.mul(z[t], y_over[t], out=h[t])
        w[t].addcmul_(x[t], torch.bmm(h[t].unsqueeze(1), turned).squeeze(1), value=-1)
        torch.mul(w[t], x_over[t], out=g[t])
        if t > 0:
            back = torch.bmm(g[t].unsqueeze(1), kernel).squeeze(1)
            z[t - 1].addcmul_(y[t - 1], back, value=-1)
    return h, g, w.sum(0), z.sum(0)


def threshold(problem: Problem) -> float:
    """Return the error at which a loop stops; at least half the tolerance."""
    rounding = ROUNDING * torch.finfo(problem.cost.dtype).eps
    return max(problem.tolerance - rounding, problem.tolerance / 2)


def in_range(scaling: Tensor, weights: Tensor) -> Tensor:
    """Return per problem whether the scalings of points with weight are neither huge nor tiny."""
    widest = WIDEST[scaling.dtype]
    fits = (scaling >= 1 / widest) & (scaling <= widest) | (weights == 0)
    return fits.all(-1)


class Hard(NamedTuple):
    """The problems that had to be solved on logarithms: their places, and what those need."""

    places: Int[Tensor, " hard"]
    problem: Problem
    solution: Solution


class _Tape(NamedTuple):
    """What the adjoint needs.

    Parameters
    ----------
    base : pair of float [problems, n], [problems, m]
        Potentials of K.
    first : as cost [problems, m]
        The y before the first iteration, relative to the base.
    scalings : Scalings
    hard : Hard or None
    """

    base: tuple[Tensor, Tensor]
    first: Tensor
    scalings: Scalings
    hard: Hard | None


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the scalings of every iteration."""
    s = scores(problem)
    log_a, log_b, before = logarithmic.start(problem, s)
    u = rows_from(s, log_a, before)
    v = columns_from(s, log_b, u)
    kernel = torch.exp(s + u.unsqueeze(-1) + v.unsqueeze(-2)).to(problem.cost.dtype)
    first = (before - v).exp().masked_fill(problem.target == 0, 0).to(problem.cost.dtype)
    found = iterate(kernel, problem, keep)
    safe = found.safe & in_range(first, problem.target)
    x, y = (_at(values, found.done) for values in (found.x, found.y))
    plan = x.unsqueeze(-1) * kernel * y.unsqueeze(-2)
    error = marginal_error(plan, problem)
    # NaN is never at most the tolerance: it is sent to the logarithms, which say NaN too.
    safe &= (error <= problem.tolerance) | (found.done == problem.iterations) & error.isfinite()
    row, column = ((u + x.log()) * problem.eps, (v + y.log()) * problem.eps)
    row, column = (part.to(plan.dtype) for part in (row, column))
    solution = Solution(plan, row, column, error, found.done)
    solution, hard = with_logarithms(problem, solution, (~safe).nonzero().squeeze(1), keep)
    return solution._replace(tape=_Tape((u, v), first, found, hard)) if keep else solution


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    tape: _Tape = solution.tape
    q = grad * solution.plan
    kernel = plan_of(scores(problem), *tape.base).to(q.dtype)
    h, g, da, db = go_back(kernel, problem, tape.scalings, (q.sum(-1), q.sum(-2)))
    ys = torch.cat([tape.first.unsqueeze(0), tape.scalings.y[:-1]])
    left = torch.cat([tape.scalings.x, g]).permute(1, 2, 0)
    right = torch.cat([h, ys]).transpose(0, 1)
    found = Gradient((q - kernel * torch.bmm(left, right)) / -problem.eps, da, db)
    return found if tape.hard is None else with_hard(found, tape.hard, grad)


def _at(values: Tensor, done: Tensor) -> Tensor:
    """Return each problem's values [problems, n] after its last iteration."""
    last = (done - 1).clamp_max(len(values) - 1).view(1, -1, 1).expand(1, -1, values.shape[-1])
    return values.gather(0, last).squeeze(0)


def with_logarithms(
    problem: Problem, solution: Solution, places: Int[Tensor, " hard"], keep: bool
) -> tuple[Solution, Hard | None]:
    """Return the solution with these problems solved on logarithms, and what those need."""
    if not len(places):
        return solution, None
    part = problem._replace(
        cost=problem.cost[places], source=problem.source[places], target=problem.target[places]
    )
    again = logarithmic.solve(part, keep)
    merged = (
        mine.index_copy(0, places, theirs)
        for mine, theirs in zip(solution[:5], again[:5], strict=True)
    )
    return Solution(*merged), Hard(places, part, again)


def with_hard(found: Gradient, hard: Hard, grad: Float[Tensor, "problems n m"]) -> Gradient:
    """Return the derivatives with those of the problems that were solved on logarithms."""
    theirs = logarithmic.pull_back(hard.problem, hard.solution, grad[hard.places])
    return Gradient(
        *(
            cast(Tensor, mine).index_copy(0, hard.places, cast(Tensor, part))
            for mine, part in zip(found, theirs, strict=True)
        )
    )
