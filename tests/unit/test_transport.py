"""The transport room: closed forms, gradients, settings, honesty."""

from __future__ import annotations

import math

import pytest
import torch

from nver.errors import SettingsError
from nver.transport import cost_scale, normalised_cost, pairwise_cost, sinkhorn

F64 = torch.float64
_WEIGHTS = (
    "The {} weights must be at least 0 with a sum above 0 in every problem; "
    "the lowest weight is {}, the lowest sum 0."
)


def _random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_cost_is_the_euclidean_distance():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    y = torch.tensor([[0.0, 0.0], [0.0, 4.0], [6.0, 8.0]])
    expected = torch.tensor([[0.0, 4.0, 10.0], [5.0, 3.0, 5.0]])
    torch.testing.assert_close(pairwise_cost(x, y), expected)
    torch.testing.assert_close(normalised_cost(x, y), expected / 10)


def test_near_points_keep_their_digits_in_float32():
    x = torch.full((40, 2), 1000.0)
    y = x + torch.tensor([3e-3, 4e-3])
    difference = float((y - x)[0].norm())
    torch.testing.assert_close(
        pairwise_cost(x, y), torch.full((40, 40), difference), rtol=1e-5, atol=0
    )


def test_coinciding_points_have_cost_zero_and_a_finite_gradient():
    x = torch.ones(3, 2, requires_grad=True)
    cost = normalised_cost(x, torch.ones(3, 2))
    assert cost.tolist() == [[0.0] * 3] * 3
    cost.sum().backward()
    assert bool(torch.isfinite(x.grad).all())


def test_the_scale_is_each_problems_own():
    cost = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    assert cost_scale(cost).flatten().tolist() == [2.0, 1.0]


def test_two_points_have_a_closed_form():
    """Equal weights, costs 0 and c: P_11 / P_12 = exp(c / eps)."""
    c, eps = 0.3, 0.2
    plan = sinkhorn(torch.tensor([[0.0, c], [c, 0.0]], dtype=F64), eps=eps)
    stays = 0.5 / (1 + math.exp(-c / eps))
    expected = torch.tensor([[stays, 0.5 - stays], [0.5 - stays, stays]], dtype=F64)
    torch.testing.assert_close(plan.plan, expected, atol=1e-12, rtol=0)


def test_gaussians_have_a_closed_form():
    """Squared cost between N(0, s^2) and N(0, t^2): a Gaussian plan (Janati et al. 2020).

    Its cross-covariance solves c^2 + (eps / 2) c = s^2 t^2, and the barycentric map is
    x -> (c / s^2) x.
    """
    s, t, eps = 1.0, 0.6, 0.5
    grid = torch.linspace(-5, 5, 401, dtype=F64)
    a, b = torch.exp(-((grid / s) ** 2) / 2), torch.exp(-((grid / t) ** 2) / 2)
    cost = (grid[:, None] - grid[None, :]) ** 2
    plan = sinkhorn(cost, eps=eps, source=a, target=b, iterations=2000, tolerance=1e-10)
    c = -eps / 4 + math.sqrt(eps**2 / 16 + s**2 * t**2)
    measured = float((plan.plan * grid[:, None] * grid[None, :]).sum())
    assert measured == pytest.approx(c, abs=1e-5)
    image = plan.apply(grid[:, None])[:, 0]
    middle = grid.abs() < 2
    torch.testing.assert_close(image[middle], c / s**2 * grid[middle], atol=1e-3, rtol=0)


def test_the_plan_says_when_it_has_not_converged():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 2, generator=generator)
    y = torch.randn(20, 2, generator=generator) + 3
    short = sinkhorn(normalised_cost(x, y), eps=1e-3, iterations=3)
    assert not bool(short.converged)
    assert float(short.marginal_error) > 1e-2
    assert int(short.iterations) == 3


def test_costs_that_are_not_finite_never_count_as_converged():
    plan = sinkhorn(torch.tensor([[math.nan, 1.0], [1.0, 0.0]]))
    assert not bool(plan.converged)


def test_an_easy_problem_stops_early_and_a_zero_tolerance_runs_all_iterations():
    cost = torch.zeros(4, 4)
    assert int(sinkhorn(cost, iterations=50).iterations) == 10
    assert int(sinkhorn(cost, iterations=50, tolerance=0.0).iterations) == 50


def test_one_point_is_mapped_to_its_only_partner():
    plan = sinkhorn(torch.tensor([[0.7]]))
    assert plan.plan.tolist() == [[1.0]]
    assert plan.apply(torch.tensor([[5.0, -2.0]])).tolist() == [[5.0, -2.0]]


def test_the_plan_carries_no_gradient_by_default():
    x = _random(5, 2).requires_grad_()
    assert not sinkhorn(pairwise_cost(x, _random(4, 2, seed=1))).plan.requires_grad


@pytest.mark.parametrize("tolerance", [0.0, 1e-6])
@pytest.mark.parametrize("iterations", [3, 40])
def test_the_gradient_of_the_plan_is_that_of_finite_differences(iterations, tolerance):
    """Exact for the iterations that ran, converged or not."""
    target = _random(2, 5, 4, seed=3)

    def loss(cost):
        plan = sinkhorn(
            cost, eps=0.3, iterations=iterations, tolerance=tolerance, plan_gradient=True
        )
        return (plan.plan * target).sum()

    cost = _random(2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(loss, (cost,), eps=1e-6, atol=1e-6)


def test_the_gradient_by_weights_is_that_of_finite_differences():
    target = _random(3, 4, seed=3)

    def loss(a, b):
        plan = sinkhorn(
            _random(3, 4), eps=0.3, source=a, target=b, iterations=9, tolerance=0.0,
            plan_gradient=True,
        )  # fmt: skip
        return (plan.plan * target).sum()

    weights = [(0.3 + _random(k, seed=k)).requires_grad_() for k in (3, 4)]
    assert torch.autograd.gradcheck(loss, weights, eps=1e-6, atol=1e-6)


def test_weights_that_problems_share_get_the_sum_of_their_derivatives():
    cost = _random(3, 4, 5).requires_grad_()
    w = _random(3, 4, 5, seed=1)

    def gradient(problems):
        source = (0.3 + _random(4, seed=2)).requires_grad_()
        plan = sinkhorn(
            cost[problems], eps=0.3, source=source.expand(len(problems), 4), plan_gradient=True
        )
        return torch.autograd.grad((plan.plan * w[problems]).sum(), (source, cost))

    together, apart = gradient([0, 1, 2]), [gradient([k]) for k in range(3)]
    for all_at_once, parts in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(all_at_once, sum(parts))
    assert together[0].abs().max() > 0


def test_a_second_derivative_is_refused():
    cost = _random(3, 3).requires_grad_()
    plan = sinkhorn(cost, plan_gradient=True).plan
    (first,) = torch.autograd.grad(plan.square().sum(), cost, create_graph=True)
    assert float(first.detach().abs().max()) > 0
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_a_plan_changed_in_place_keeps_its_gradient_or_is_refused():
    cost = _random(3, 3).requires_grad_()
    (expected,) = torch.autograd.grad(sinkhorn(cost, plan_gradient=True).plan[0].sum(), cost)
    plan = sinkhorn(cost, plan_gradient=True).plan
    plan.mul_(2)
    try:
        (found,) = torch.autograd.grad(plan[0].sum(), cost)
    except RuntimeError as refused:
        assert "modified by an inplace operation" in str(refused)  # noqa: PT017 - or none is raised
    else:
        torch.testing.assert_close(found, 2 * expected)


def test_costs_changed_in_place_are_refused():
    cost = _random(3, 3).requires_grad_()
    held = cost * 1
    plan = sinkhorn(held, plan_gradient=True).plan
    with torch.no_grad():
        held.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        plan.sum().backward()


@pytest.mark.parametrize("changed", ["source", "target", "iterations"])
def test_what_the_adjoint_reads_is_not_changed_in_place(changed):
    plan = sinkhorn(_random(2, 3, 4).requires_grad_(), plan_gradient=True)
    getattr(plan, changed).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        plan.plan.sum().backward()


def test_the_map_has_the_gradient_by_the_weights():
    cost, x = _random(3, 4).double(), torch.randn(4, 2, dtype=torch.float64)

    def moved(source):
        plan = sinkhorn(cost, eps=0.2, source=source, plan_gradient=True, tolerance=0.0)
        return plan.apply(x)

    source = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(moved, source)


def test_costs_of_no_point_are_refused():
    with pytest.raises(SettingsError, match="floating type with at least one row"):
        sinkhorn(torch.zeros(2, 0, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_in_single(dtype):
    cost = _random(2, 5, 4).to(dtype).requires_grad_()
    plan = sinkhorn(cost, eps=0.1, plan_gradient=True)
    assert {plan.plan.dtype, plan.source.dtype, plan.row_potential.dtype} == {dtype}
    expected = sinkhorn(cost.detach().float(), eps=0.1).plan
    torch.testing.assert_close(plan.plan.float(), expected, atol=2e-3, rtol=0)
    plan.plan.square().sum().backward()
    assert cost.grad.dtype == dtype


def test_the_order_in_memory_does_not_matter_and_no_problem_is_none():
    cost = _random(4, 6, 5)
    turned = cost.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    torch.testing.assert_close(sinkhorn(turned).plan, sinkhorn(cost).plan)
    nested = sinkhorn(cost.view(2, 2, 6, 5), source=torch.ones(2, 2, 6, dtype=F64))
    torch.testing.assert_close(nested.plan.view(4, 6, 5), sinkhorn(cost).plan)
    assert nested.converged.shape == (2, 2)
    assert sinkhorn(cost[:0]).plan.shape == (0, 6, 5)


def test_masked_points_may_cost_anything():
    cost = _random(3, 4)
    cost[2] = math.nan
    cost[:, 0] = math.inf
    a, b = torch.tensor([0.5, 0.5, 0.0], dtype=F64), torch.tensor([0.0, 1, 1, 2], dtype=F64)
    plan = sinkhorn(cost, source=a, target=b)
    expected = sinkhorn(cost[:2, 1:], target=b[1:])
    torch.testing.assert_close(plan.plan[:2, 1:], expected.plan)
    assert float(plan.plan.sum()) == pytest.approx(1)


def test_the_gradient_ignores_masked_points():
    cost = _random(3, 4).requires_grad_()
    plan = sinkhorn(cost, source=torch.tensor([0.5, 0.5, 0.0], dtype=F64), plan_gradient=True).plan
    (plan * _random(3, 4, seed=2)).sum().backward()
    assert bool(torch.isfinite(cost.grad).all())
    assert float(cost.grad[2].abs().sum()) == 0
    assert float(cost.grad[:2].abs().sum()) > 0


def test_the_transpose_swaps_everything():
    cost = _random(3, 5)
    plan = sinkhorn(cost)
    back = plan.transpose
    assert back.plan.shape == (5, 3)
    torch.testing.assert_close(back.source, plan.target)
    torch.testing.assert_close(back.row_potential, plan.column_potential)
    x = _random(3, 2, seed=1)
    torch.testing.assert_close(back.apply(x), plan.plan.T @ x * 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 0.0}, "eps must be a finite number above 0, got 0.0."),
        ({"eps": math.nan}, "eps must be a finite number above 0, got nan."),
        ({"iterations": 0}, "iterations must be at least 1, got 0."),
        ({"tolerance": -1.0}, "tolerance must be at least 0, got -1.0."),
        (
            {"source": torch.tensor([0.5, -0.5])},
            _WEIGHTS.format("source", "-0.5"),
        ),
        (
            {"target": torch.zeros(2)},
            _WEIGHTS.format("target", "0"),
        ),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(SettingsError) as caught:
        sinkhorn(torch.zeros(2, 2), **settings)
    assert str(caught.value) == message


def test_an_infinite_cost_forbids_its_pair():
    cost = torch.zeros(3, 3, dtype=torch.float64)
    cost[1, 2] = math.inf
    plan = sinkhorn(cost, eps=0.5, iterations=500)
    assert plan.converged
    assert plan.plan[1, 2] == 0
    cost[1] = math.inf
    nothing_left = sinkhorn(cost)
    assert nothing_left.plan.isnan().any()
    assert not nothing_left.converged
