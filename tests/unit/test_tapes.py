"""What the compiled solver keeps for its gradient is as long as what ran, not as the limit."""

from __future__ import annotations

import pytest
import torch

from nver.scaling import fused
from nver.scaling.problem import Problem

pytestmark = pytest.mark.skipif(not fused.AVAILABLE, reason="numba is not installed")


def _problem(iterations, eps, dtype=torch.float32, broken=False):
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(5, 20, 33, generator=generator, dtype=dtype)
    source = torch.rand(5, 20, generator=generator, dtype=dtype)
    source[0, 3] = 0
    target = torch.full((5, 33), 1 / 33, dtype=dtype)
    if broken:
        cost[2, 4] = torch.inf
    return Problem(cost, source / source.sum(1, keepdim=True), target, eps, iterations, 1e-5)


def _both(problem):
    solution = fused.solve(problem, keep=True)
    grad = torch.arange(problem.cost.numel(), dtype=problem.cost.dtype).view(problem.cost.shape)
    problem.source.requires_grad_()
    return solution, fused.pull_back(problem, solution, grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("eps", "broken"), [(0.5, False), (0.02, True), (0.003, False)])
def test_short_tapes_give_the_same_bits(monkeypatch, dtype, eps, broken):
    found = []
    for most in (2**40, 0):
        monkeypatch.setattr(fused, "MOST_RESERVED", most)
        found.append(_both(_problem(600, eps, dtype, broken)))
    (whole, by_whole), (short, by_short) = found
    for mine, theirs in zip((*short[:5], *by_short), (*whole[:5], *by_whole), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
    assert bool(short.plan[2].isnan().all()) == broken


def test_a_huge_limit_takes_the_memory_of_what_ran():
    problem = _problem(10**9, 0.02)
    solution, _ = _both(problem)
    assert int(solution.iterations.max()) < 1000
    *_, tapes = solution.tape[2]
    assert tapes.nbytes < 5 * 1000 * 1000
