"""Which solver solves, and its place in torch's automatic differentiation."""

from __future__ import annotations

import importlib
import logging
import os
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
LARGEST_LAUNCHED = 128
"""Rows or columns of a problem that fits into one GPU program's registers."""


def solve(problem: Problem, gradient: bool) -> Solution:
    """Return the plans; with `gradient`, they are differentiable by costs and weights.

    Raises
    ------
    SettingsError
        If NVER_SINKHORN names no solver, or one that is not available.
    """
    solver = choose(problem.cost)
    inputs = (problem.cost, problem.source, problem.target)
    if not (gradient and torch.is_grad_enabled() and any(part.requires_grad for part in inputs)):
        with torch.no_grad():
            return solver.solve(problem, keep=False)
    settings = (problem.eps, problem.iterations, problem.tolerance)
    plan, row, column, error, done = _Plan.apply(*inputs, settings, solver)  # type: ignore[no-untyped-call]
    return Solution(plan, row, column, error, done)


def choose(cost: Float[Tensor, "problems n m"]) -> Solver:
    """Return the solver for costs like these: the one that NVER_SINKHORN names, or the fastest."""
    name = os.environ.get(VARIABLE, "")
    if name and name not in NAMES:
        raise SettingsError(f"{VARIABLE} must be one of {', '.join(NAMES)}, got '{name}'.")
    if name == "logarithmic":
        return cast(Solver, _module("logarithmic"))
    if cost.device.type == "cpu" and name != "batched":
        fused = _fused(cost.dtype)
        if fused is not None:
            return fused
    if name == "fused":
        raise SettingsError(
            f"{VARIABLE} is 'fused', which needs costs on a CPU and a numba that works: "
            "pip install 'nver[fast]'."
        )
    small = max(cost.shape[-2:]) <= LARGEST_LAUNCHED and cost.dtype == torch.float32
    return _launched() if cost.device.type == "cuda" and small else _batched()


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


@cache
def _batched() -> Solver:
    return cast(Solver, _module("batched").Batched())


@cache
def _launched() -> Solver:
    """Return the batched solver with each loop as one GPU program, where Triton is there."""
    launched = _module("launched")
    if not launched.AVAILABLE:
        LOG.info("Sinkhorn runs without its GPU programs: Triton is not installed.")
        return _batched()
    return cast(Solver, _module("batched").Batched(launched.Launches()))


@final
class _Plan(torch.autograd.Function):
    """The plan as a function of costs and weights, with the solver's adjoint."""

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, source: Tensor, target: Tensor, settings: Any, solver: Any
    ) -> tuple[Tensor, ...]:
        solution = solver.solve(Problem(cost, source, target, *settings), keep=True)
        found = (solution.row, solution.column, solution.error, solution.iterations)
        ctx.save_for_backward(cost, source, target, solution.plan)
        ctx.mark_non_differentiable(*found)
        ctx.rest, ctx.tape, ctx.settings, ctx.solver = found, solution.tape, settings, solver
        return (solution.plan, *found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        cost, source, target, plan = ctx.saved_tensors
        problem = Problem(cost, source, target, *ctx.settings)
        row, column, error, done = ctx.rest
        solution = Solution(plan, row, column, error, done, ctx.tape)
        found = ctx.solver.pull_back(problem, solution, grad)
        by_source = over(found.log_source, source) if ctx.needs_input_grad[1] else None
        by_target = over(found.log_target, target) if ctx.needs_input_grad[2] else None
        return found.cost, by_source, by_target, None, None
