"""Sinkhorn on logarithms, in plain torch: the reference, and the refuge at small eps.

u = log a - logsumexp_j(S + v) and v = log b - logsumexp_i(S + u) with S = -C / eps (Peyre & Cuturi
2019, remark 4.23), float64 where the device has it: nothing underflows, and an iteration takes
2 n m exponentials. The adjoint goes back through the stored (u_t, v_t); its formulas are those of
`nver.scaling.backward` with K = exp(S + u_t + v_t).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution

READS_PLAN = False


class History(NamedTuple):
    """Potentials u_t, v_t after t = 0, 1, ... iterations; a problem that stopped keeps its last."""

    u: list[Tensor]
    v: list[Tensor]


def scores(problem: Problem) -> Float[Tensor, "problems n m"]:
    """Return S = -C / eps in the precision that potentials need."""
    wide = torch.float32 if problem.cost.device.type == "mps" else torch.float64
    return problem.cost.to(wide) / -problem.eps


def rows_from(s: Tensor, log_a: Tensor, v: Tensor) -> Tensor:
    """Return u = log a - logsumexp_j(S + v), minus infinity for weight 0."""
    return log_a - torch.logsumexp(s + v.unsqueeze(-2), dim=-1)


def columns_from(s: Tensor, log_b: Tensor, u: Tensor) -> Tensor:
    """Return v = log b - logsumexp_i(S + u), minus infinity for weight 0."""
    return log_b - torch.logsumexp(s + u.unsqueeze(-1), dim=-2)


def start(problem: Problem, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log a, log b and v = 0 without the masked columns."""
    log_a, log_b = problem.source.to(s.dtype).log(), problem.target.to(s.dtype).log()
    return log_a, log_b, log_b.masked_fill(problem.target > 0, 0)


def plan_of(s: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return exp(S + u + v); a problem with NaN anywhere is NaN everywhere."""
    plan = torch.exp(s + u.unsqueeze(-1) + v.unsqueeze(-2))
    broken = ~torch.isfinite(plan).all(-1, keepdim=True).all(-2, keepdim=True)
    return plan.masked_fill(broken, torch.nan)


def marginal_error(plan: Tensor, problem: Problem) -> Tensor:
    """Return ||P 1 - a||_1 + ||P^T 1 - b||_1."""
    rows, columns = plan.sum(-1) - problem.source, plan.sum(-2) - problem.target
    return rows.abs().sum(-1) + columns.abs().sum(-1)


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the potentials of every iteration."""
    s = scores(problem)
    log_a, log_b, v = start(problem, s)
    u = torch.zeros_like(log_a)
    a = log_a.exp()
    count = torch.zeros(len(s), dtype=torch.int64, device=s.device)
    active = torch.ones_like(count, dtype=torch.bool)
    history = History([u], [v])
    for step in range(problem.iterations):
        new_u = rows_from(s, log_a, v)
        if problem.tolerance > 0 and step and step % CHECK_EVERY == 0:
            # The columns fit exactly after their update, and u - new_u is the log of the rows'
            # mass relative to their weight.
            mass = a * (u - new_u).masked_fill(a == 0, 0).exp()
            active = active & ~((mass - a).abs().sum(-1) <= problem.tolerance)
            if not bool(active.any()):
                break
        still = active.unsqueeze(-1)
        u = torch.where(still, new_u, u)
        v = torch.where(still, columns_from(s, log_b, u), v)
        count = count + active
        if keep:
            history.u.append(u)
            history.v.append(v)
    plan = plan_of(s, u, v)
    found = (plan, u * problem.eps, v * problem.eps, marginal_error(plan, problem))
    plan, row, column, error = (part.to(problem.cost.dtype) for part in found)
    return Solution(plan, row, column, error, count, history if keep else None)


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    s = scores(problem)
    history: History = solution.tape
    count = solution.iterations.unsqueeze(-1)
    a, b = problem.source.to(s.dtype), problem.target.to(s.dtype)
    plan = plan_of(s, history.u[-1], history.v[-1])
    ds = grad.to(s.dtype) * plan
    last, z = ds.sum(-1), ds.sum(-2)
    da, db = torch.zeros_like(last), torch.zeros_like(z)
    for t in range(len(history.u) - 1, 0, -1):
        ran = t <= count
        u, v, before = history.u[t], history.v[t], history.v[t - 1]
        z_t = z.masked_fill(~ran, 0)
        part = torch.exp(s + u.unsqueeze(-1) + v.unsqueeze(-2)) * over(z_t, b).unsqueeze(-2)
        ds = ds - part
        w = last.masked_fill(count != t, 0) - part.sum(-1)
        part = torch.exp(s + u.unsqueeze(-1) + before.unsqueeze(-2)) * over(w, a).unsqueeze(-1)
        ds = ds - part
        da, db = da + w, db + z_t
        z = torch.where(ran, -part.sum(-2), z)
    kind = problem.cost.dtype
    return Gradient((ds / -problem.eps).to(kind), da.to(kind), db.to(kind))


def over(x: Tensor, weights: Tensor) -> Tensor:
    """Return x / weights, 0 for weight 0."""
    return (x / weights).masked_fill(weights == 0, 0)
