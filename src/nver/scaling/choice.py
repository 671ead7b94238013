"""Which solver solves, and its place in torch's automatic differentiation."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nver.errors import SettingsError
from nver.scaling.logarithmic import over
from nver.scaling.problem import Problem, Solution, Solver

LOG = logging.getLogger(__name__)
VARIABLE = "NVER_SINKHORN"
"""The environment variable that chooses instead."""
NAMES = ("fused", "batched", "logarithmic")
_FOUND: Any = getattr(os.environ, "_data", os.environ)
_NAME = os.environ.encodekey(VARIABLE) if hasattr(os.environ, "_data") else VARIABLE
"""Where the variable is if it is set: `os.environ` takes as long as a small solve to say no."""
ON_GPU = ("launched", "strips")
"""The solvers in GPU programs, the fastest first."""


def solve(problem: Problem) -> Solution:
    """Return the plans, differentiable by costs and weights where these ask for it.

    Raises
    ------
    SettingsError
        If NVER_SINKHORN names no solver, or one that is not available.
    """
    cost, a, b, _, _, _ = problem
    by_weights = a.requires_grad or b.requires_grad
    if not ((by_weights or cost.requires_grad) and torch.is_grad_enabled()):
        return choose(cost).solve(problem, keep=False)
    rest: list[Any] = []
    weights = (a, b) if by_weights else ()
    plan = _Plan.apply(problem, rest, cost, *weights)  # type: ignore[no-untyped-call]
    return Solution(plan, *rest)


def choose(cost: Float[Tensor, "problems n m"]) -> Solver:
    """Return the solver for costs like these: the one that NVER_SINKHORN names, or the fastest."""
    name = os.environ.get(VARIABLE, "") if _NAME in _FOUND else ""
    if not name and cost.is_cpu and (found := _fused(cost.dtype)):
        return found  # the usual case, first: a small solve takes no longer than this function did
    if name and name not in NAMES:
        raise SettingsError(f"{VARIABLE} must be one of {', '.join(NAMES)}, got '{name}'.")
    if name == "logarithmic":
        return cast(Solver, _module("logarithmic"))
    if name == "fused" and cost.is_cpu and (found := _fused(cost.dtype)):
        return found
    if name == "fused":
        raise SettingsError(
            f"{VARIABLE} is 'fused', which needs costs on a CPU and a numba that works: "
            "pip install 'nver[fast]'."
        )
    found = None if name or cost.device.type != "cuda" else _in_programs(cost)
    return found or cast(Solver, _module("batched"))


def _module(name: str) -> Any:
    return importlib.import_module(f"nver.scaling.{name}")


@cache
def _fused(dtype: torch.dtype) -> Solver | None:
    """Return the compiled solver if it solves a problem of one pair; say once why not."""
    try:
        solver: Any = _module("fused")
        if solver.AVAILABLE:
            one = torch.ones(1, 1, dtype=dtype)
            solver.solve(Problem(one.unsqueeze(0), one, one, 1.0, 1, 0.0), keep=False)
            return cast(Solver, solver)
        reason = "numba is not installed (pip install 'nver[fast]')"
    except Exception as error:  # noqa: BLE001 - numba breaks in many ways, and none may stop a solve
        reason = f"{type(error).__name__}: {error}"
    LOG.info("Sinkhorn runs on torch alone, several times slower on a CPU: %s", reason)
    return None


def _in_programs(cost: Float[Tensor, "problems n m"]) -> Solver | None:
    """Return the solver in GPU programs for costs of this size, where Triton is there."""
    if _programs_run():
        for solver in map(_module, ON_GPU):
            if solver.fits(cost):
                return cast(Solver, solver)
    return None


@cache
def _programs_run() -> bool:
    """Return whether Triton is there; say once if not."""
    if _module("programs").AVAILABLE:
        return True
    LOG.info("Sinkhorn runs without its GPU programs: Triton is not installed.")
    return False


@final
class _Plan(torch.autograd.Function):
    """The plan as a function of costs, and of weights if one is differentiated.

    What is not differentiated leaves through `rest`: an output costs as much as a small solve.
    """

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, rest: list[Any], cost: Tensor, *weights: Tensor
    ) -> Tensor:
        solver = choose(cost)
        plan, *others = solver.solve(problem, keep=True)
        rest += others
        # What is saved is refused if it was changed in place; each costs as much as a small array.
        if solver.READS_PLAN:
            ctx.save_for_backward(cost, plan, *weights)
        else:
            ctx.save_for_backward(cost, None, *weights)
        ctx.call = (solver, problem, rest)  # without the plan, whose graph holds this
        ctx.versions = _versions(problem, rest)
        return plan

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a second derivative may be asked for
            return _back_once(ctx, grad)
        return _back(ctx, grad)


def _versions(problem: Problem, rest: Sequence[Any]) -> tuple[int, int, int]:
    """Return how often that was changed which the adjoint reads where it lies."""
    return problem.source._version, problem.target._version, rest[3]._version


def _back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the derivatives by what `_Plan.forward` got, with the solver's adjoint."""
    _, plan, *weights = ctx.saved_tensors
    solver, problem, rest = ctx.call
    if _versions(problem, rest) != ctx.versions:
        raise RuntimeError(
            "The weights or the iterations of a plan were modified by an inplace operation before "
            "its gradient was taken; change a copy of them."
        )
    by_cost, *by_logs = solver.pull_back(problem, Solution(plan, *rest), grad)
    return None, None, by_cost, *map(over, by_logs, weights)


_back_once = once_differentiable(_back)
