"""Sinkhorn beside POT, GeomLoss and OTT-JAX: the plan, and the gradient through the plan.

50 iterations, float32, equal weights, eps 0.1 of the largest cost, clouds of 8 classes in 120
dimensions. All methods are timed in turn, so that other work on the machine hits them alike; the
numbers are medians in microseconds per problem. The loss is <W, P>: what is
differentiated is the plan. The gradient's error is its largest difference from that of float64,
by nver's reference on logarithms, over the largest entry. A method that is 10 % off or more is not
in the race for the gradient: its time is in brackets.

    python -m bench.sinkhorn [--threads N] [--sizes N ...] [--batches N ...] [--rounds N]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor

from nver.scaling import choice, logarithmic
from nver.scaling.problem import Problem
from nver.transport import normalised_cost, sinkhorn

EPS, ITERATIONS = 0.1, 50
LOOPED = 4
"""Problems that a loop over problems is timed on; the rest would take as long each."""
REPEATS = 5
BUDGET = 3.0
"""Seconds for which one method is timed at one size; at least two calls."""
LARGEST = 6_000_000
"""Cost entries of a batch; larger batches are left out."""
Solve = Callable[[Tensor], Tensor]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Method:
    """A way from costs [problems, n, n] to plans.

    Parameters
    ----------
    name : str
    forward : callable
        Plans, without a gradient.
    backward : callable
        Plans and the gradient of <W, plans>, from costs and W.
    looped : bool
        Whether it takes one problem at a time, so that a few tell the time of all.
    """

    name: str
    forward: Callable[[Tensor], object]
    backward: Callable[[Tensor, Tensor], np.ndarray]
    looped: bool = False


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

    def backward(cost: Tensor, w: Tensor) -> np.ndarray:
        cost = cost.clone().requires_grad_()
        (solve(cost) * w).sum().backward()
        return cost.grad.numpy()

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
            weights = torch.full((n,), 1 / n)
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
        through_torch("POT batch, last step", batch("sinkhorn", "last_step")),
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
        backward = jax.jit(jax.grad(lambda cost, w: (jax.vmap(plan)(cost) * w).sum()))
        return Method(
            name,
            lambda cost: forward(cost.numpy()).block_until_ready(),
            lambda cost, w: np.asarray(backward(cost.numpy(), w.numpy()).block_until_ready()),
        )

    return [method("OTT-JAX", log=False), method("OTT-JAX, log", log=True)]


def methods() -> list[Method]:
    """Return every method whose package is installed, POT's loop first."""
    found: list[Method] = []
    for package, made in (("ot", pot), ("geomloss", geomloss), ("ott", ott)):
        if importlib.util.find_spec(package) is not None:
            found += made()
    if importlib.util.find_spec("numba") is not None:
        found.append(own("nver, fused", ""))
    return [*found, own("nver, torch alone", "batched")]


def expected(cost: Tensor, w: Tensor) -> np.ndarray:
    """Return the gradient in float64, by the reference."""
    problems, n, _ = cost.shape
    weights = torch.full((problems, n), 1 / n, dtype=torch.float64)
    problem = Problem(cost.double(), weights, weights, EPS, ITERATIONS, 0.0)
    return logarithmic.pull_back(problem, logarithmic.solve(problem, True), w.double()).cost.numpy()


def seconds(calls: list[Callable[[], object]], rounds: int, clock: Clock) -> list[float]:
    """Return the median seconds of each call.

    They take turns; in its turn a call is made once, so that the cache is its own, and then timed.
    """
    spent: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, spent, strict=True):
            if len(times) >= 2 and sum(times) > BUDGET:
                continue
            call()
            for _ in range(REPEATS):
                begun = clock()
                call()
                times.append(clock() - begun)
                if times[-1] > BUDGET / 30:
                    break
    return [median(times) for times in spent]


def measure(
    n: int, problems: int, found: list[Method], rounds: int, clock: Clock
) -> list[tuple[str, ...]]:
    """Return a row per method: forward, ratio, forward and backward, ratio, gradient's error."""
    cost, w = clouds(problems, n)
    part = [min(LOOPED, problems) if method.looped else problems for method in found]
    truth = expected(cost[:LOOPED], w[:LOOPED])
    errors = [
        float(np.abs(m.backward(cost[:k], w[:k])[:LOOPED] - truth[:k]).max() / np.abs(truth).max())
        for m, k in zip(found, part, strict=True)
    ]
    for method, k in zip(found, part, strict=True):
        method.forward(cost[:k])
    pairs = list(zip(found, part, strict=True))
    forward = seconds([partial(m.forward, cost[:k]) for m, k in pairs], rounds, clock)
    both = seconds([partial(m.backward, cost[:k], w[:k]) for m, k in pairs], rounds, clock)
    forward = [1e6 * spent / k for spent, k in zip(forward, part, strict=True)]
    both = [1e6 * spent / k for spent, k in zip(both, part, strict=True)]
    rows = []
    for method, there, back, error in zip(found, forward, both, errors, strict=True):
        spent = f"{back:.0f}" if error < 0.1 else f"({back:.0f})"
        ratios = (f"{forward[0] / there:.1f}", f"{both[0] / back:.1f}")
        rows.append((method.name, f"{there:.0f}", ratios[0], spent, ratios[1], f"{error:.0e}"))
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 120, 256, 1024])
    options.add_argument("--batches", type=int, nargs="+", default=[1, 5, 32, 256])
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--cpu-time", action="store_true", help="on a machine with other work")
    given = options.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    torch.set_num_threads(given.threads)
    found = methods()
    kind = "CPU" if given.cpu_time else "wall"
    print(f"{given.threads} threads, torch {torch.__version__}; us of {kind} time per problem.\n")
    print("| n | problems | method | plan | x | plan and gradient | x | gradient's error |")
    print("|---|---|---|---|---|---|---|---|")
    for n in given.sizes:
        for problems in given.batches:
            if problems > 1 and problems * n * n > LARGEST:
                continue
            for row in measure(n, problems, found, given.rounds, clock):
                print(f"| {n} | {problems} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
