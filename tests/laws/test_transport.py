"""Laws that entropic transport obeys whatever the clouds are."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from nver.transport import normalised_cost, pairwise_cost, sinkhorn

CONVERGED = {"iterations": 20_000, "tolerance": 1e-11}
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 9)


@pytest.fixture(autouse=True, scope="module", params=["fused", "batched"])
def solver(request):
    """Solve with numba's loops, then with torch's matrix products."""
    if request.param == "fused":
        pytest.importorskip("numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVER_SINKHORN", request.param)
        yield request.param


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _problem(seed: int, n: int, m: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = _draw(seed)
    cost = torch.rand(n, m, generator=generator, dtype=torch.float64)
    a = 0.1 + torch.rand(n, generator=generator, dtype=torch.float64)
    b = 0.1 + torch.rand(m, generator=generator, dtype=torch.float64)
    return cost, a / a.sum(), b / b.sum()


@settings(max_examples=30)
@given(seeds, sizes, sizes)
def test_a_converged_plan_has_its_marginals(seed, n, m):
    cost, a, b = _problem(seed, n, m)
    plan = sinkhorn(cost, eps=0.2, source=a, target=b, **CONVERGED)
    assert bool(plan.converged)
    torch.testing.assert_close(plan.plan.sum(1), a, atol=1e-10, rtol=0)
    torch.testing.assert_close(plan.plan.sum(0), b, atol=1e-10, rtol=0)
    assert bool((plan.plan > 0).all())


@settings(max_examples=30)
@given(seeds, sizes, sizes)
def test_swapping_the_clouds_transposes_the_plan(seed, n, m):
    cost, a, b = _problem(seed, n, m)
    there = sinkhorn(cost, eps=0.2, source=a, target=b, **CONVERGED)
    back = sinkhorn(cost.T, eps=0.2, source=b, target=a, **CONVERGED)
    torch.testing.assert_close(there.plan.T, back.plan, atol=1e-9, rtol=0)


@settings(max_examples=30)
@given(seeds, sizes, sizes, st.floats(-5, 5))
def test_adding_to_a_row_a_column_or_all_costs_changes_nothing(seed, n, m, shift):
    cost, a, b = _problem(seed, n, m)
    plan = sinkhorn(cost, eps=0.2, source=a, target=b, **CONVERGED).plan
    for shifted in (cost + shift, cost + shift * a[:, None], cost + shift * b[None, :]):
        other = sinkhorn(shifted, eps=0.2, source=a, target=b, **CONVERGED).plan
        torch.testing.assert_close(plan, other, atol=1e-9, rtol=0)


@settings(max_examples=30)
@given(seeds, sizes, sizes)
def test_the_order_of_points_does_not_matter(seed, n, m):
    cost, a, b = _problem(seed, n, m)
    rows = torch.randperm(n, generator=_draw(seed))
    columns = torch.randperm(m, generator=_draw(seed + 1))
    plan = sinkhorn(cost, source=a, target=b, iterations=30, tolerance=0.0).plan
    moved = sinkhorn(
        cost[rows][:, columns], source=a[rows], target=b[columns], iterations=30, tolerance=0.0
    ).plan
    torch.testing.assert_close(plan[rows][:, columns], moved, atol=1e-12, rtol=1e-9)


@settings(max_examples=20)
@given(seeds, sizes, sizes, st.floats(0.01, 100))
def test_scaling_costs_and_eps_together_changes_nothing(seed, n, m, scale):
    cost, a, b = _problem(seed, n, m)
    plan = sinkhorn(cost, eps=0.1, source=a, target=b, iterations=25, tolerance=0.0).plan
    scaled = sinkhorn(
        cost * scale, eps=0.1 * scale, source=a, target=b, iterations=25, tolerance=0.0
    ).plan
    torch.testing.assert_close(plan, scaled, atol=1e-11, rtol=1e-8)


@settings(max_examples=20)
@given(seeds, st.integers(1, 6), sizes, sizes)
def test_problems_of_a_batch_do_not_touch_each_other(seed, problems, n, m):
    cost = torch.rand(problems, n, m, generator=_draw(seed), dtype=torch.float64) * 3
    together = sinkhorn(cost, iterations=200, tolerance=1e-6)
    for i in range(problems):
        alone = sinkhorn(cost[i], iterations=200, tolerance=1e-6)
        torch.testing.assert_close(together.plan[i], alone.plan, atol=1e-14, rtol=1e-10)
        assert int(together.iterations[i]) == int(alone.iterations)
        assert bool(together.converged[i]) == bool(alone.converged)


@settings(max_examples=20)
@given(seeds, sizes, sizes, st.integers(1, 3), st.integers(1, 3))
def test_points_of_weight_zero_are_as_if_absent(seed, n, m, more_rows, more_columns):
    cost, a, b = _problem(seed, n, m)
    padded = torch.full((n + more_rows, m + more_columns), 7.0, dtype=torch.float64)
    padded[:n, :m] = cost
    masked = sinkhorn(
        padded,
        source=torch.cat([a, a.new_zeros(more_rows)]),
        target=torch.cat([b, b.new_zeros(more_columns)]),
    )
    plain = sinkhorn(cost, source=a, target=b)
    torch.testing.assert_close(masked.plan[:n, :m], plain.plan, atol=1e-12, rtol=1e-9)
    assert float(masked.plan[n:].abs().sum() + masked.plan[:, m:].abs().sum()) == 0
    x = torch.rand(m + more_columns, 2, generator=_draw(seed), dtype=torch.float64)
    assert float(masked.apply(x)[n:].abs().sum()) == 0


@settings(max_examples=20)
@given(seeds, sizes)
def test_a_single_point_gets_everything(seed, n):
    """A Dirac: the only plan is the product of the weights."""
    cost, a, _ = _problem(seed, n, 1)
    plan = sinkhorn(cost, source=a)
    torch.testing.assert_close(plan.plan[:, 0], a, atol=1e-12, rtol=0)
    assert bool(plan.converged)


@settings(max_examples=20)
@given(seeds, st.integers(2, 8))
def test_far_apart_pairs_are_matched_by_their_permutation(seed, n):
    order = torch.randperm(n, generator=_draw(seed))
    x = torch.arange(n, dtype=torch.float64).unsqueeze(1) * 10
    plan = sinkhorn(normalised_cost(x, x[order]), eps=0.005, **CONVERGED)
    torch.testing.assert_close(plan.apply(x[order]), x, atol=1e-3, rtol=0)


@settings(max_examples=20)
@given(seeds, st.integers(1, 6), st.integers(1, 6))
def test_the_map_out_of_sample_extends_the_plan(seed, n, m):
    generator = _draw(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(m, 3, generator=generator, dtype=torch.float64)
    cost = pairwise_cost(x, y)
    plan = sinkhorn(cost, eps=0.5, **CONVERGED)
    torch.testing.assert_close(plan.extend(cost, y), plan.apply(y), atol=1e-8, rtol=0)
    back = plan.transpose
    torch.testing.assert_close(back.extend(cost.T, x), back.apply(x), atol=1e-8, rtol=0)


@settings(max_examples=15)
@given(seeds, st.floats(1e-4, 1.0), st.integers(1, 200))
def test_small_eps_in_float32_gives_no_nan_and_an_honest_flag(seed, eps, iterations):
    """Up to cost / eps = 1e4, converged or not."""
    cost = torch.rand(2, 12, 9, generator=_draw(seed))
    plan = sinkhorn(cost, eps=eps, iterations=iterations, tolerance=1e-4)
    assert bool(torch.isfinite(plan.plan).all())
    rows = (plan.plan.sum(-1) - 1 / 12).abs().sum(-1)
    columns = (plan.plan.sum(-2) - 1 / 9).abs().sum(-1)
    torch.testing.assert_close(plan.marginal_error, rows + columns, atol=1e-6, rtol=0)
    assert plan.converged.tolist() == (plan.marginal_error <= 1e-4).tolist()


@settings(max_examples=15)
@given(seeds, st.booleans(), st.floats(1e-4, 1e-2), st.sampled_from([torch.float32, torch.float64]))
def test_classes_matched_or_not_give_finite_plans_and_gradients(seed, matched, eps, dtype):
    """Unmatched, most rows must cross to another class: their scalings are the most extreme."""
    generator = _draw(seed)
    centres = torch.randn(3, 4, generator=generator, dtype=dtype)
    rows = torch.randint(3, (14,), generator=generator)
    columns = rows if matched else (rows + (torch.arange(14) < 10).long()) % 3
    x, y = (
        centres[k] + 0.01 * torch.randn(14, 4, generator=generator, dtype=dtype)
        for k in (rows, columns)
    )
    cost = normalised_cost(x, y).requires_grad_()
    plan = sinkhorn(cost, eps=eps, iterations=60, tolerance=1e-5, plan_gradient=True)
    (plan.plan * torch.randn(14, 14, generator=generator, dtype=dtype)).sum().backward()
    assert bool(torch.isfinite(plan.plan).all())
    assert bool(torch.isfinite(cost.grad).all())
    held = plan.plan.detach().double()
    error = (held.sum(0) - 1 / 14).abs().sum() + (held.sum(1) - 1 / 14).abs().sum()
    assert abs(float(plan.marginal_error) - float(error)) < 2e-6
    assert bool(plan.converged) == (float(plan.marginal_error) <= 1e-5)


@settings(max_examples=15)
@given(seeds, sizes, sizes)
def test_the_gradient_of_a_plan_does_not_see_shifts(seed, n, m):
    """Adding to a row or column changes no plan: row and column sums of the gradient are 0."""
    cost, a, b = _problem(seed, n, m)
    plan = sinkhorn(
        cost.requires_grad_(), eps=0.3, source=a, target=b, plan_gradient=True, **CONVERGED
    ).plan
    (plan * torch.rand(n, m, generator=_draw(seed), dtype=torch.float64)).sum().backward()
    for axis in (0, 1):
        zero = cost.grad.sum(axis)
        torch.testing.assert_close(zero, torch.zeros_like(zero), atol=1e-8, rtol=0)


@settings(max_examples=40)
@given(seeds, st.floats(0.01, 0.3), st.sampled_from([1e-6, 1e-5, 1e-3]))
def test_what_stops_before_the_limit_has_converged(seed, eps, tolerance):
    """In float32 too, where the error while iterating is rounded."""
    cost = torch.rand(8, 12, 9, generator=_draw(seed))
    plan = sinkhorn(cost, eps=eps, iterations=400, tolerance=tolerance)
    stopped = plan.iterations < 400
    assert plan.converged[stopped].all()
    held = plan.plan.double()
    error = (held.sum(-1) - 1 / 12).abs().sum(-1) + (held.sum(-2) - 1 / 9).abs().sum(-1)
    assert bool((error[stopped] <= tolerance * 1.05 + 1e-7).all())
