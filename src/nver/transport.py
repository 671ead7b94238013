"""Entropic optimal transport between small point clouds: cost, Sinkhorn, the plan and its map.

Given a cost M [n, m] and weights a [n], b [m], the entropic plan (Cuturi, NeurIPS 2013) is

    P = argmin <P, M> + eps sum P (log P - 1)   subject to   P 1 = a,  P^T 1 = b,

and has the form P_ij = exp((f_i + g_j - M_ij) / eps). Sinkhorn's iteration finds the potentials f
and g; here it runs on batches of problems, and on logarithms (Peyre & Cuturi 2019, remark 4.23)
wherever a small eps would underflow; `nver.scaling` holds the solvers. A plan says how far it is
from its marginals: `TransportPlan.converged` is measured on the plan that is returned, not assumed.

Good for n, m up to about a thousand. Larger clouds want a method that never forms M.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nver.errors import SettingsError
from nver.scaling import solve
from nver.scaling.problem import Problem

HALF = (torch.float16, torch.bfloat16)
"""Types of costs that are solved in single precision."""


@dataclass(frozen=True, eq=False)
class TransportPlan:
    """A batch of entropic plans that knows whether it converged.

    Parameters
    ----------
    plan : float [..., n, m]
        The mass moved from row i to column j; each problem's masses sum to 1.
    source, target : float [..., n], [..., m]
        The weights a and b, each summing to 1; a weight of 0 masks its point.
    row_potential, column_potential : float [..., n], [..., m]
        f and g in units of the cost; minus infinity where the weight is 0.
    marginal_error : float [...]
        ||P 1 - a||_1 + ||P^T 1 - b||_1 of this very plan, in [0, 2] and lower is better; in single
        precision where the plan is in half.
    iterations : int [...]
        Pairs of updates that each problem got.
    eps : float
        The regularisation, in units of the cost.
    tolerance : float
        The marginal error that was asked for.
    """

    plan: Float[Tensor, "*batch n m"]
    source: Float[Tensor, "*batch n"]
    target: Float[Tensor, "*batch m"]
    row_potential: Float[Tensor, "*batch n"]
    column_potential: Float[Tensor, "*batch m"]
    marginal_error: Float[Tensor, "*batch"]
    iterations: Int[Tensor, "*batch"]
    eps: float
    tolerance: float

    @property
    def converged(self) -> Bool[Tensor, "*batch"]:
        """Whether ``marginal_error <= tolerance``; False for a plan with NaN."""
        return self.marginal_error <= self.tolerance

    def apply(self, x: Float[Tensor, "*batch m dim"]) -> Float[Tensor, "*batch n dim"]:
        """Return the barycentric map of `x`: row i is sum_j P_ij x_j / a_i.

        With equal weights this is n P x. Rows of weight 0 give zeros.
        """
        scale = torch.where(self.source > 0, 1 / self.source, torch.zeros_like(self.source))
        moved: Tensor = (self.plan @ x) * scale.unsqueeze(-1)
        return moved

    def extend(
        self, cost: Float[Tensor, "*batch points m"], x: Float[Tensor, "*batch m dim"]
    ) -> Float[Tensor, "*batch points dim"]:
        """Return the barycentric map of new rows that took no part in the plan.

        A point with costs M_j to the columns goes to sum_j softmax_j((g_j - M_j) / eps) x_j: the
        entropic map out of sample (Seguy et al. 2018; Pooladian & Niles-Weed 2021). It depends on
        no other new point. On the plan's own rows it equals `apply` once the plan has converged.
        The potential is not differentiated: gradients are those by `cost` and `x` alone.
        """
        weights = torch.softmax((self.column_potential.unsqueeze(-2) - cost) / self.eps, dim=-1)
        return weights @ x

    @property
    def transpose(self) -> TransportPlan:
        """The same plans read from columns to rows."""
        return TransportPlan(
            plan=self.plan.transpose(-1, -2),
            source=self.target,
            target=self.source,
            row_potential=self.column_potential,
            column_potential=self.row_potential,
            marginal_error=self.marginal_error,
            iterations=self.iterations,
            eps=self.eps,
            tolerance=self.tolerance,
        )


def pairwise_cost(
    x: Float[Tensor, "*batch n dim"], y: Float[Tensor, "*batch m dim"]
) -> Float[Tensor, "*batch n m"]:
    """Return the Euclidean distances M_ij = ||x_i - y_j||_2, at least 0.

    The differences are formed (no |x|^2 - 2xy + |y|^2): near points keep their digits in float32.
    The gradient is 0 where two points coincide.
    """
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def cost_scale(cost: Float[Tensor, "*batch n m"]) -> Float[Tensor, "*batch 1 1"]:
    """Return the largest cost of each problem: dividing by it makes eps free of the data's unit.

    It is 1 where all costs are 0, so that the quotient is 0. To leave masked points out, set their
    costs to 0 before.
    """
    largest = cost.amax(dim=(-2, -1), keepdim=True)
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def normalised_cost(
    x: Float[Tensor, "*batch n dim"], y: Float[Tensor, "*batch m dim"]
) -> Float[Tensor, "*batch n m"]:
    """Return MATA's cost ||x_i - y_j||_2 / max, in [0, 1] (arXiv 2409.14221, equation 1)."""
    cost = pairwise_cost(x, y)
    return cost / cost_scale(cost)


def sinkhorn(
    cost: Float[Tensor, "*batch n m"],
    *,
    eps: float = 0.05,
    source: Float[Tensor, "*batch n"] | None = None,
    target: Float[Tensor, "*batch m"] | None = None,
    iterations: int = 50,
    tolerance: float = 1e-6,
    plan_gradient: bool = False,
) -> TransportPlan:
    """Return the entropic plans of a batch of problems.

    Each problem stops by itself: its plan does not depend on the others in the batch.

    Parameters
    ----------
    cost : float [..., n, m]
        Finite. A cost of plus infinity forbids its pair and gets no mass; where that leaves a row
        or column of weight above 0 without a pair, and with minus infinity or NaN, the plan is NaN.
        Where no plan avoids the forbidden pairs, ``converged`` is False, as it is for NaN.
    eps : float
        Regularisation in units of the cost, above 0. Small eps needs many iterations.
    source, target : float [..., n], [..., m], optional
        Weights, at least 0 and not all 0; scaled to sum 1. None: all equal. Weight 0 masks a point
        exactly, whatever its costs.
    iterations : int
        Limit on the pairs of updates (rows, then columns), at least 1.
    tolerance : float
        On the marginal error, looked at after every tenth iteration; problems below it stop. 0 runs
        every iteration.
    plan_gradient : bool
        True lets gradients flow through the plan to costs and weights: the exact ones of the
        iterations that ran. They hold n + m numbers per iteration in memory, not n m, and cannot be
        differentiated again. The paper's re-implementation has none.

    Raises
    ------
    SettingsError
        If eps, iterations, tolerance or the weights are outside their range, or a CPU's memory does
        not suffice for the gradient of all iterations that ran.

    Examples
    --------
    >>> plan = sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), eps=0.1)
    >>> bool(plan.converged)
    True
    >>> plan.plan.round(decimals=3)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    if not (0 < eps < math.inf and iterations >= 1 and tolerance >= 0):
        raise _out_of_range(eps, iterations, tolerance)
    if not plan_gradient:
        cost, source, target = cost.detach(), _detached(source), _detached(target)
    wide = cost.float() if cost.dtype in HALF else cost
    *problems, n, m = cost.shape
    if not (n and m and cost.is_floating_point()):
        raise SettingsError(
            f"Expected costs of a floating type with at least one row and one column, "
            f"got {cost.dtype} {list(cost.shape)}."
        )
    a = _weights(source, (*problems, n), wide, "source")
    alike = source is target is None and n == m
    b = a if alike else _weights(target, (*problems, m), wide, "target")
    if source is not None or target is not None:
        wide = wide.masked_fill((a == 0).unsqueeze(-1) | (b == 0).unsqueeze(-2), 0)
    flat = (wide, a, b) if wide.ndim == 3 else _flat(wide, a, b)
    found = solve(Problem(*flat, eps, iterations, tolerance))
    plan, row, column, error, done, _ = found
    if wide.ndim != 3 or wide is not cost:
        plan, error, done = (
            part.view((*problems, *part.shape[1:])) for part in (plan, error, done)
        )
        row, column = row.view(a.shape), column.view(b.shape)
        plan, a, b, row, column = (part.to(cost.dtype) for part in (plan, a, b, row, column))
    return TransportPlan(plan, a, b, row, column, error, done, eps, tolerance)


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


def _flat(cost: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return them with one axis of problems."""
    n, m = cost.shape[-2:]
    return cost.reshape(-1, n, m), a.reshape(-1, n), b.reshape(-1, m)


def _weights(given: Tensor | None, shape: tuple[int, ...], like: Tensor, name: str) -> Tensor:
    """Return weights that sum to 1 along the last axis, or refuse those that cannot."""
    if given is None:
        return like.new_full(shape, 1 / shape[-1])
    total = given.sum(-1, keepdim=True)
    if bool((given < 0).any()) or not bool((total > 0).all()):
        raise SettingsError(
            f"The {name} weights must be at least 0 with a sum above 0 in every problem; "
            f"the lowest weight is {float(given.min()):g}, the lowest sum {float(total.min()):g}."
        )
    return (given / total).to(like.dtype).expand(shape)


def _out_of_range(eps: float, iterations: int, tolerance: float) -> SettingsError:
    """Return what is wrong with the first setting that is."""
    if not 0 < eps < math.inf:
        return SettingsError(f"eps must be a finite number above 0, got {eps}.")
    if not iterations >= 1:
        return SettingsError(f"iterations must be at least 1, got {iterations}.")
    return SettingsError(f"tolerance must be at least 0, got {tolerance}.")
