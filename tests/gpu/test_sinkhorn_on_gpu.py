"""Sinkhorn's GPU programs, compiled for the device that is there, against float64 on the CPU."""

from __future__ import annotations

import pytest
import torch

from nver.scaling import batched, choice, launched, logarithmic, strips
from nver.scaling.problem import Problem
from nver.transport import normalised_cost, sinkhorn

pytestmark = pytest.mark.gpu

F32, F64 = torch.float32, torch.float64
SIZES = [(1, 1), (1, 6), (5, 4), (16, 16), (32, 32), (33, 17), (64, 128), (128, 128)]
LARGE = [(129, 128), (256, 256), (1024, 64), (1024, 1024)]


def _problem(n, m, eps, iterations, tolerance, kind):
    """Return four problems: easy, usual, with masks, with forbidden pairs."""
    generator = torch.Generator().manual_seed(1000 * n + m)
    cost = torch.rand(4, n, m, generator=generator, dtype=F64)
    cost[0] *= 0.05
    a, b = (0.2 + torch.rand(4, k, generator=generator, dtype=F64) for k in (n, m))
    if min(n, m) > 2:
        a[2, -1], b[2, 0] = 0, 0
        cost[3, 0, 1] = torch.inf
    a, b = (x / x.sum(-1, keepdim=True) for x in (a, b))
    return Problem(cost.to(kind), a.to(kind), b.to(kind), eps, iterations, tolerance)


def _compare(problem, plan_tolerance, gradient_tolerance):
    """Compare plans, potentials, errors and derivatives with the float64 reference's."""
    wide, there = (
        problem._replace(**{name: move(getattr(problem, name)) for name in Problem._fields[:3]})
        for move in (torch.Tensor.double, torch.Tensor.cuda)
    )
    grad = torch.randn(problem.cost.shape, generator=torch.Generator().manual_seed(9), dtype=F64)
    expected = logarithmic.solve(wide, keep=True)
    solver = choice.choose(there.cost)
    found = solver.solve(there, keep=True)
    for name in ("plan", "row", "column", "error"):
        mine, theirs = getattr(found, name).cpu().double(), getattr(expected, name)
        torch.testing.assert_close(mine, theirs, atol=plan_tolerance, rtol=plan_tolerance)
    if problem.tolerance == 0:
        assert found.iterations.tolist() == expected.iterations.tolist()
    pulled = solver.pull_back(there, found, grad.to(problem.cost.dtype).cuda())
    for mine, theirs in zip(pulled, logarithmic.pull_back(wide, expected, grad), strict=True):
        scale = max(float(theirs.abs().max()), 1.0)
        gap = float((mine.cpu().double() - theirs).abs().max())
        assert gap <= gradient_tolerance * scale
    return found


def test_triton_is_there():
    """Else the tests below would not compile what they are about."""
    assert launched.AVAILABLE
    assert choice.choose(torch.zeros(1, 32, 32, device="cuda")) is launched
    assert choice.choose(torch.zeros(1, 256, 256, device="cuda")) is strips


@pytest.mark.parametrize(("eps", "iterations"), [(0.5, 3), (0.05, 50), (0.01, 100)])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_the_compiled_programs_are_the_reference(n, m, eps, iterations):
    found = _compare(_problem(n, m, eps, iterations, 0.0, F32), 1e-5, 1e-5)
    if eps == 0.5:
        assert found.tape.hard is None  # the programs solved them, not the logarithms


@pytest.mark.parametrize(("n", "m"), LARGE)
def test_larger_problems_are_the_reference(n, m):
    _compare(_problem(n, m, 0.05, 50, 0.0, F32), 1e-5, 1e-5)


@pytest.mark.parametrize(("n", "m"), [(32, 32), (33, 17), (64, 128), (256, 40), (300, 301)])
def test_float64_keeps_its_digits(n, m):
    _compare(_problem(n, m, 0.05, 50, 0.0, F64), 1e-9, 1e-7)


@pytest.mark.parametrize("n", [32, 100, 200])
def test_problems_stop_by_themselves_and_say_so(n):
    """Within the tolerance of each other: the stops are looked at after every tenth iteration."""
    found = _compare(_problem(n, n, 0.02, 1000, 1e-5, F32), 3e-5, 1e-2)
    assert len(set(found.iterations.tolist())) > 1
    assert bool((found.error <= 1e-5).all())


@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize("eps", [1e-2, 1e-3, 1e-4])
def test_small_eps_gives_no_nan_and_an_honest_flag(matched, eps):
    generator = torch.Generator().manual_seed(4)
    centres = torch.randn(3, 4, generator=generator)
    rows = torch.randint(3, (5, 32), generator=generator)
    columns = rows if matched else (rows + (torch.arange(32) < 20).long()) % 3
    x, y = (centres[k] + 0.01 * torch.randn(5, 32, 4, generator=generator) for k in (rows, columns))
    cost = normalised_cost(x, y).cuda().requires_grad_()
    plan = sinkhorn(cost, eps=eps, iterations=100, tolerance=1e-4, plan_gradient=True)
    (plan.plan * torch.randn(5, 32, 32, generator=generator).cuda()).sum().backward()
    assert bool(torch.isfinite(plan.plan).all())
    assert bool(torch.isfinite(cost.grad).all())
    held = plan.plan.detach().double()
    error = (held.sum(-1) - 1 / 32).abs().sum(-1) + (held.sum(-2) - 1 / 32).abs().sum(-1)
    torch.testing.assert_close(plan.marginal_error.double(), error, atol=2e-6, rtol=0)
    assert plan.converged.tolist() == (plan.marginal_error <= 1e-4).tolist()


@pytest.mark.parametrize(("n", "m"), [(33, 17), (300, 17)])
def test_through_the_front_door_a_gpu_gives_the_numbers_of_the_cpu(n, m):
    cost = torch.rand(4, n, m, generator=torch.Generator().manual_seed(3)).requires_grad_()
    plans = [sinkhorn(c, plan_gradient=True).plan for c in (cost, cost.cuda())]
    torch.testing.assert_close(plans[1].cpu(), plans[0], atol=1e-5, rtol=1e-4)
    grads = [torch.autograd.grad(plan.square().sum(), cost)[0] for plan in plans]
    torch.testing.assert_close(grads[1], grads[0], atol=1e-5, rtol=1e-4)


def test_nothing_is_asked_for_that_the_batch_does_not_need():
    """A thousand problems at once give what each gives alone."""
    cost = torch.rand(1000, 32, 32, generator=torch.Generator().manual_seed(5)).cuda()
    together = sinkhorn(cost).plan
    for index in (0, 500, 999):
        alone = sinkhorn(cost[index : index + 1]).plan[0]
        torch.testing.assert_close(together[index], alone, atol=1e-7, rtol=1e-5)


def test_matrix_products_give_what_the_programs_give():
    problem = _problem(48, 40, 0.05, 50, 0.0, F32)
    there = problem._replace(
        **{name: getattr(problem, name).cuda() for name in Problem._fields[:3]}
    )
    plans = [solver.solve(there, False).plan for solver in (batched, launched)]
    torch.testing.assert_close(*plans, atol=1e-6, rtol=1e-4)
