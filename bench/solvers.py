"""The ways from costs to plans and their gradients that `bench.sinkhorn` measures.

What POT, GeomLoss and OTT-JAX offer, each called as its own pages show.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nver.scaling import choice
from nver.transport import normalised_cost, sinkhorn

EPS, ITERATIONS = 0.1, 50
LAST_STEP = "POT batch, last step"
Solve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """A way from costs [problems, n, n] to plans.

    Parameters
    ----------
    name : str
    forward : callable
        Plans, without a gradient.
    backward : callable
        The gradient of <W, plans>, from costs and W.
    looped : bool
        Whether it takes one problem at a time, so that a few tell the time of all.
    given : callable
        The library's own array of a tensor.
    """

    name: str
    forward: Callable[[Any], object]
    backward: Callable[[Any, Any], Any]
    looped: bool = False
    given: Callable[[Tensor], Any] = torch.clone


def clouds(problems: int, n: int) -> tuple[Tensor, Tensor]:
    """Return costs [problems, n, n] and W of the same shape."""
    generator = torch.Generator().manual_seed(problems * 10_000 + n)
    centres = torch.randn(8, 120, generator=generator)
    x, y = (
        centres[torch.randint(8, (problems, n), generator=generator)]
        + torch.randn(problems, n, 120, generator=generator)
        for _ in range(2)
    )
    return normalised_cost(x, y), torch.randn(problems, n, n, generator=generator)


def through_torch(name: str, solve: Solve, looped: bool = False) -> Method:
    """Return the method of a solver in torch."""

    def backward(cost: Tensor, w: Tensor) -> Tensor:
        cost = cost.detach().requires_grad_()
        return torch.autograd.grad(solve(cost), cost, w)[0]

    def forward(cost: Tensor) -> Tensor:
        with torch.no_grad():
            return solve(cost)

    return Method(name, forward, backward, looped)


def own(name: str, solver: str) -> Method:
    """Return nver with the solver of this name."""

    def solve(cost: Tensor) -> Tensor:
        if solver:
            os.environ[choice.VARIABLE] = solver
        gradient = cost.requires_grad
        return sinkhorn(
            cost, eps=EPS, iterations=ITERATIONS, tolerance=0.0, plan_gradient=gradient
        ).plan

    def forward(cost: Tensor) -> Tensor:
        plan = solve(cost)
        os.environ.pop(choice.VARIABLE, None)
        return plan

    return through_torch(name, forward if solver else solve)


def pot() -> list[Method]:
    """Return POT's loops and its batch solver."""
    import ot
    import ot.batch

    def loop(method: str) -> Solve:
        def solve(cost: Tensor) -> Tensor:
            n = cost.shape[-1]
            weights = cost.new_full((n,), 1 / n)
            options = {"numItermax": ITERATIONS, "stopThr": 0.0, "warn": False}
            return torch.stack(
                [ot.sinkhorn(weights, weights, c, EPS, method=method, **options) for c in cost]
            )

        return solve

    def batch(method: str, grad: str) -> Solve:
        def solve(cost: Tensor) -> Tensor:
            given = grad if cost.requires_grad else "detach"
            return ot.batch.solve_batch(
                cost, reg=EPS, max_iter=ITERATIONS, tol=0.0, method=method, grad=given
            ).plan

        return solve

    return [
        through_torch("POT loop", loop("sinkhorn"), looped=True),
        through_torch("POT loop, log", loop("sinkhorn_log"), looped=True),
        through_torch("POT batch", batch("sinkhorn", "autodiff")),
        through_torch("POT batch, log", batch("log_sinkhorn", "autodiff")),
        through_torch(LAST_STEP, batch("sinkhorn", "last_step")),
    ]


def geomloss() -> list[Method]:
    """Return GeomLoss's batch solver."""
    from geomloss import ot

    def solve(cost: Tensor) -> Tensor:
        return ot.solve_batch(cost, reg=EPS, max_iter=ITERATIONS).plan

    return [through_torch("GeomLoss", solve)]


def ott() -> list[Method]:
    """Return OTT-JAX, compiled and mapped over problems, with its implicit gradient."""
    import jax
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn as ott_sinkhorn

    def method(name: str, log: bool) -> Method:
        solver = ott_sinkhorn.Sinkhorn(
            lse_mode=log, threshold=0.0, min_iterations=ITERATIONS, max_iterations=ITERATIONS
        )

        def plan(cost: jax.Array) -> jax.Array:
            problem = linear_problem.LinearProblem(geometry.Geometry(cost, epsilon=EPS))
            return solver(problem).matrix

        forward = jax.jit(jax.vmap(plan))
        backward = jax.jit(lambda cost, w: jax.vjp(jax.vmap(plan), cost)[1](w)[0])
        return Method(
            name,
            lambda cost: forward(cost).block_until_ready(),
            lambda cost, w: backward(cost, w).block_until_ready(),
            given=lambda array: jax.numpy.asarray(array.numpy()),
        )

    return [method("OTT-JAX", log=False), method("OTT-JAX, log", log=True)]


def methods(device: str = "cpu") -> tuple[list[Method], list[str]]:
    """Return every method that works here, POT's loop first, and why others do not."""
    found: list[Method] = []
    missing = []
    for package, made in (("ot", pot), ("geomloss", geomloss), ("ott", ott)):
        if importlib.util.find_spec(package) is None:
            missing.append(f"{package} is not installed")
        elif device == "cpu" or package != "ott":
            found += made()
    if device != "cpu" or importlib.util.find_spec("numba") is not None:
        found.append(own("nver", ""))
    found.append(own("nver, torch alone", "batched"))
    cost, w = (part.to(device) for part in clouds(1, 32))
    for method in list(found):
        try:
            method.forward(method.given(cost))
            method.backward(method.given(cost), method.given(w))
        except Exception as error:  # noqa: BLE001 - another library's, on a device or version of ours
            found.remove(method)
            missing.append(f"{method.name} fails: {type(error).__name__}: {str(error)[:120]}")
    return found, missing
