"""What a solver gets and what it gives."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

CHECK_EVERY = 10
"""Iterations between two looks at the marginal error."""


class Problem(NamedTuple):
    """A batch of problems of one size.

    Parameters
    ----------
    cost : float32 or float64 [problems, n, m]
        Plus infinity forbids a pair.
    source, target : as cost [problems, n], [problems, m]
        Weights a and b that sum to 1; 0 masks a point.
    eps : float
        Regularisation in units of the cost.
    iterations : int
        Limit on the pairs of updates.
    tolerance : float
        Marginal error at which a problem stops; 0 runs every iteration.
    """

    cost: Float[Tensor, "problems n m"]
    source: Float[Tensor, "problems n"]
    target: Float[Tensor, "problems m"]
    eps: float
    iterations: int
    tolerance: float


class Solution(NamedTuple):
    """The plans, and what a solver remembers for the adjoint.

    Parameters
    ----------
    plan : as cost [problems, n, m]
    row, column : as cost [problems, n], [problems, m]
        Potentials f and g in units of the cost; minus infinity for weight 0.
    error : as cost [problems]
        ||P 1 - a||_1 + ||P^T 1 - b||_1.
    iterations : int64 [problems]
    tape : Any
        The solver's own; None if the gradient was not asked for.
    """

    plan: Float[Tensor, "problems n m"]
    row: Float[Tensor, "problems n"]
    column: Float[Tensor, "problems m"]
    error: Float[Tensor, " problems"]
    iterations: Int[Tensor, " problems"]
    tape: Any = None


class Gradient(NamedTuple):
    """Derivatives by the costs and by the logarithms of the weights.

    Those by weights may be None where the costs require a gradient and no weight does.
    """

    cost: Float[Tensor, "problems n m"]
    log_source: Float[Tensor, "problems n"] | None
    log_target: Float[Tensor, "problems m"] | None


@runtime_checkable
class Solver(Protocol):
    """Runs Sinkhorn's iterations from g = 0, rows first, and goes back through them.

    `pull_back` gets a solution without its plan from a solver that does not read it.
    """

    READS_PLAN: bool

    def solve(self, problem: Problem, keep: bool) -> Solution:
        """Return the plans; with `keep`, remember what `pull_back` needs."""

    def pull_back(
        self, problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
    ) -> Gradient:
        """Return the derivatives of <grad, plan>, those of the iterations that ran."""
