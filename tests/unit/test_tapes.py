"""What a solver keeps for its gradient is as long as what ran, not as the limit."""

from __future__ import annotations

import pytest
import torch

from nver.errors import SettingsError
from nver.scaling import batched, fused, logarithmic, memory
from nver.scaling.problem import Problem

compiled = pytest.mark.skipif(not fused.AVAILABLE, reason="numba is not installed")


def _problem(iterations, eps, dtype=torch.float32, broken=False):
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(5, 20, 33, generator=generator, dtype=dtype)
    source = torch.rand(5, 20, generator=generator, dtype=dtype)
    source[0, 3] = 0
    target = torch.full((5, 33), 1 / 33, dtype=dtype)
    if broken:
        cost[2, 4] = torch.inf
    return Problem(cost, source / source.sum(1, keepdim=True), target, eps, iterations, 1e-5)


def _both(problem, solver=fused):
    solution = solver.solve(problem, keep=True)
    grad = torch.arange(problem.cost.numel(), dtype=problem.cost.dtype).view(problem.cost.shape)
    problem.source.requires_grad_()
    return solution, solver.pull_back(problem, solution, grad)


@compiled
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


@compiled
def test_a_huge_limit_takes_the_memory_of_what_ran():
    problem = _problem(10**9, 0.02)
    solution, _ = _both(problem)
    assert int(solution.iterations.max()) < 1000
    *_, tapes = solution.tape[2]
    assert tapes.nbytes < 5 * 1000 * 1000


def _unlike(iterations):
    """Return problems of which some take many more iterations than others."""
    problem = _problem(iterations, 0.05, torch.float64)
    scale = torch.tensor([0.1, 1.0, 0.3, 2.0, 0.2], dtype=torch.float64)
    return problem._replace(cost=problem.cost * scale.view(-1, 1, 1), tolerance=1e-8)


def test_on_logarithms_each_problem_keeps_what_it_ran():
    solution, found = _both(_unlike(500), logarithmic)
    ran = solution.iterations.tolist()
    assert len(set(ran)) > 2
    assert max(ran) < 500
    kept = sum((block.last - block.first) * len(block.u[0]) for block in solution.tape.blocks)
    assert kept <= 2 * sum(max(each, logarithmic.SHORTEST) for each in ran)
    for place in range(len(ran)):
        problem = _unlike(500)
        one = (part[place : place + 1].detach() for part in problem[:3])
        grad = torch.arange(problem.cost.numel(), dtype=torch.float64).view(problem.cost.shape)
        alone = Problem(*one, *problem[3:])
        solved = logarithmic.solve(alone, keep=True)
        theirs = logarithmic.pull_back(alone, solved, grad[place : place + 1])
        for mine, expected in zip(found, theirs, strict=True):
            torch.testing.assert_close(mine[place], expected[0], rtol=1e-12, atol=1e-12)


def test_without_a_gradient_only_the_last_iteration_is_kept():
    problem = _unlike(150)
    kept, bare = (batched.solve(problem, keep) for keep in (True, False))
    assert (kept.iterations == 150).any()
    assert (kept.iterations < 150).any()
    for mine, expected in zip(bare[:5], kept[:5], strict=True):
        assert torch.equal(mine, expected)
    kernel = torch.exp(problem.cost * -1.0)
    assert len(batched.iterate(kernel, problem, keep=False).x) == 1


@pytest.mark.parametrize(
    "solver", [pytest.param(fused, marks=compiled), batched, logarithmic], ids=lambda s: s.__name__
)
def test_a_tape_that_the_memory_cannot_hold_is_refused(monkeypatch, tmp_path, solver):
    facts = tmp_path / "meminfo"
    facts.write_text("MemTotal: 9000 kB\nMemAvailable: 20 kB\n")
    monkeypatch.setattr(memory, "FACTS", facts)
    problem = _problem(500, 0.02)._replace(tolerance=0.0)
    solver.solve(problem, keep=True)
    for module, name in ((memory, "MUCH"), (fused, "MOST_RESERVED")):
        monkeypatch.setattr(module, name, 0)
    solver.solve(problem, keep=False)
    with pytest.raises(SettingsError, match=r"GiB after .* iterations.* Ask for fewer"):
        solver.solve(problem, keep=True)


@pytest.mark.parametrize("tolerance", [0.0, 1e-5])
@pytest.mark.parametrize("solver", [logarithmic, batched], ids=["logarithmic", "batched"])
def test_a_problem_without_numbers_does_not_run_to_the_limit(solver, tolerance):
    problem = _problem(10**9, 0.5)._replace(tolerance=tolerance)
    problem = problem._replace(
        cost=problem.cost[:1].clone(), source=problem.source[:1], target=problem.target[:1]
    )
    problem.cost[0, 1, 2] = torch.nan
    solution = solver.solve(problem, keep=False)
    assert solution.plan.isnan().any()
    assert int(solution.iterations) < 100
