"""Sinkhorn on logarithms, in plain torch: the reference, and the refuge at small eps.

u = log a - logsumexp_j(S + v) and v = log b - logsumexp_i(S + u) with S = -C / eps (Peyre & Cuturi
2019, remark 4.23), float64 where the device has it: nothing underflows, and an iteration takes
2 n m exponentials. The adjoint goes back through the stored (u_t, v_t); its formulas are those of
`nver.scaling.backward` with K = exp(S + u_t + v_t).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nver.scaling.memory import check_room
from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution

READS_PLAN = False
SHORTEST = 50
"""Iterations of the first block."""
LARGEST = 2**28
"""Bytes of a block, and those that are left to others."""


class Block(NamedTuple):
    """Potentials of some iterations in a row.

    Those of the first few are lists. Then one room is for many: small tensors would lie between
    large ones that come and go, and on a CPU keep their place from being used again.

    Parameters
    ----------
    first : int
        Its iterations are those after `first`.
    last : int
        And up to this one.
    running : bool [problems] or None
        The problems that it holds; None for all.
    u, v : as potentials [iterations, running, n], [iterations, running, m]
    """

    first: int
    last: int
    running: Tensor | None
    u: Tensor | list[Tensor]
    v: Tensor | list[Tensor]

    def write(self, step: int, *potentials: Tensor) -> None:
        """Keep the potentials of the iteration after `step`."""
        for room, values in zip((self.u, self.v), potentials, strict=True):
            if isinstance(room, list):
                room.append(values)
            else:
                room[step - self.first] = values if self.running is None else values[self.running]


class History(NamedTuple):
    """The potentials of every iteration that ran.

    Parameters
    ----------
    ran : int
        How many iterations.
    v : Tensor
        Before the first.
    blocks : list of Block
    ends : pair of Tensor
        u and v after the last iteration of each problem.
    """

    ran: int
    v: Tensor
    blocks: list[Block]
    ends: tuple[Tensor, Tensor]

    def backwards(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield t, u_t, v_t and v_t-1, the last iteration first; who has stopped keeps its last."""
        steps = itertools.chain(self._backwards(), ((0, self.v, self.v),))
        for (t, u, v), (_, _, before) in itertools.pairwise(steps):
            yield t, u, v, before

    def _backwards(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        for first, last, running, *rooms in reversed(self.blocks):
            for t in range(min(self.ran, last), first, -1):
                u, v = (room[t - first - 1] for room in rooms)
                if running is not None:
                    mask = running.unsqueeze(-1)
                    u, v = (
                        self.ends[0].masked_scatter(mask, u),
                        self.ends[1].masked_scatter(mask, v),
                    )
                yield t, u, v


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
    before, blocks = v, [Block(0, SHORTEST, None, [], [])]
    for step in range(problem.iterations):
        new_u = rows_from(s, log_a, v)
        if step and step % CHECK_EVERY == 0:
            ended = new_u.isnan().any(-1)  # no iteration makes numbers of these again
            if problem.tolerance > 0:
                # The columns fit exactly after their update, and u - new_u is the log of the rows'
                # mass relative to their weight.
                mass = a * (u - new_u).masked_fill(a == 0, 0).exp()
                ended |= (mass - a).abs().sum(-1) <= problem.tolerance
            active = active & ~ended
            if not bool(active.any()):
                break
        still = active.unsqueeze(-1)
        u = torch.where(still, new_u, u)
        v = torch.where(still, columns_from(s, log_b, u), v)
        count = count + active
        if keep:
            if step == blocks[-1].last:
                blocks.append(_next(blocks, active, u, v, problem.iterations))
            blocks[-1].write(step, u, v)
    plan = plan_of(s, u, v)
    found = (plan, u * problem.eps, v * problem.eps, marginal_error(plan, problem))
    plan, row, column, error = (part.to(problem.cost.dtype) for part in found)
    tape = History(int(count.max()), before, blocks, (u, v)) if keep else None
    return Solution(plan, row, column, error, count, tape)


def _next(blocks: list[Block], active: Tensor, u: Tensor, v: Tensor, limit: int) -> Block:
    """Return room for as many iterations as there were, within limits, of those still active.

    Raises
    ------
    SettingsError
        If the memory does not suffice.
    """
    first = blocks[-1].last
    running = int(active.sum())
    each = running * (u.shape[1] + v.shape[1]) * u.itemsize
    length = min(first, max(1, LARGEST // each), limit - first)
    sizes = ((block, block.u[0].numel() + block.v[0].numel()) for block in blocks)
    held = sum((block.last - block.first) * size for block, size in sizes) * u.itemsize
    check_room(held, length * each + LARGEST, first, u.device)
    rooms = (part.new_empty(length, running, part.shape[1]) for part in (u, v))
    return Block(first, first + length, active if running < len(active) else None, *rooms)


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    s = scores(problem)
    history: History = solution.tape
    count = solution.iterations.unsqueeze(-1)
    a, b = problem.source.to(s.dtype), problem.target.to(s.dtype)
    plan = plan_of(s, *history.ends)
    ds = grad.to(s.dtype) * plan
    last, z = ds.sum(-1), ds.sum(-2)
    da, db = torch.zeros_like(last), torch.zeros_like(z)
    for t, u, v, before in history.backwards():
        ran = t <= count
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
