"""Agreement with POT, an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nver.transport import pairwise_cost, sinkhorn

ot = pytest.importorskip("ot")


@pytest.fixture(autouse=True, scope="module", params=["fused", "batched"])
def solver(request):
    """Solve with numba's loops, then with torch's matrix products."""
    if request.param == "fused":
        pytest.importorskip("numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVER_SINKHORN", request.param)
        yield request.param


def _clouds(seed, n, m, classes):
    """Return clouds with cluster structure, as embeddings of a few classes have it."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((classes, 6))
    x = centres[rng.integers(classes, size=n)] + rng.standard_normal((n, 6))
    y = centres[rng.integers(classes, size=m)] + rng.standard_normal((m, 6))
    return x, y


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (32, 32), (20, 45)])
@pytest.mark.parametrize("eps", [0.02, 0.05, 0.5])
def test_the_converged_plan_is_pots(n, m, eps):
    x, y = _clouds(0, n, m, classes=4)
    cost = ot.dist(x, y, metric="euclidean")
    cost /= cost.max()
    a = np.random.default_rng(1).dirichlet(np.full(n, 5.0))
    b = np.random.default_rng(2).dirichlet(np.full(m, 5.0))
    expected = ot.bregman.sinkhorn_log(a, b, cost, eps, numItermax=100_000, stopThr=1e-13)
    plan = sinkhorn(
        torch.from_numpy(cost),
        eps=eps,
        source=torch.from_numpy(a),
        target=torch.from_numpy(b),
        iterations=100_000,
        tolerance=1e-12,
    )
    assert bool(plan.converged)
    np.testing.assert_allclose(plan.plan.numpy(), expected, atol=1e-9, rtol=1e-6)


def test_the_cost_is_pots():
    x, y = _clouds(3, 12, 9, classes=3)
    mine = pairwise_cost(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(mine, ot.dist(x, y, metric="euclidean"), atol=1e-10)


def test_an_unconverged_plan_is_pots_after_as_many_iterations():
    """POT updates the columns first: it is compared on the transposed problem."""
    x, y = _clouds(4, 16, 16, classes=2)
    cost = ot.dist(x, y, metric="euclidean")
    cost /= cost.max()
    weights = np.full(16, 1 / 16)
    with pytest.warns(UserWarning, match="did not converge"):
        expected = ot.bregman.sinkhorn_log(
            weights, weights, cost.T, 0.01, numItermax=8, stopThr=0.0
        )
    plan = sinkhorn(torch.from_numpy(cost), eps=0.01, iterations=8, tolerance=0.0)
    np.testing.assert_allclose(plan.plan.numpy(), expected.T, atol=1e-12)


def test_gradients_are_pots():
    """Through the same number of unrolled iterations."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    grads = []
    for solve in (
        lambda cost: (
            sinkhorn(cost, eps=0.5, iterations=300, tolerance=0.0, plan_gradient=True).plan
        ),
        lambda cost: ot.bregman.sinkhorn_log([], [], cost, 0.5, numItermax=300, stopThr=1e-14),
    ):
        point = x.clone().requires_grad_()
        (solve(pairwise_cost(point, y)) * weights).sum().backward()
        grads.append(point.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("eps", [0.05, 0.1])
def test_float32_plans_and_gradients_are_pots_in_float64(eps):
    """To 1e-5, after 50 iterations; POT is differentiated by torch through all of them."""
    x, y = _clouds(5, 32, 32, classes=8)
    cost = torch.from_numpy(ot.dist(x, y, metric="euclidean"))
    cost /= cost.max()
    w = torch.from_numpy(np.random.default_rng(6).standard_normal((32, 32)))
    theirs = cost.clone().requires_grad_()
    with pytest.warns(UserWarning, match="did not converge"):
        # POT updates the columns first.
        expected = ot.bregman.sinkhorn_log([], [], theirs.T, eps, numItermax=50, stopThr=0.0).T
    (expected * w).sum().backward()
    mine = cost.float().requires_grad_()
    plan = sinkhorn(mine, eps=eps, iterations=50, tolerance=0.0, plan_gradient=True).plan
    (plan * w.float()).sum().backward()
    torch.testing.assert_close(
        plan.detach().double(),
        expected.detach(),
        atol=1e-5 * float(expected.detach().max()),
        rtol=0,
    )
    limit = 1e-5 * float(theirs.grad.abs().max())
    torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=limit, rtol=0)
