"""AdamW from a gradient's factors: torch's AdamW on the gradient itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nver.fusion import FusionShape, build_fusion
from nver.heads import Hidden, Linear, build_head
from nver.heads.layers import want_factors
from nver.training import TrainingSettings, factored, optimiser, seeded, stack, train_members
from nver.training.factored import Move, loops_work, move_weights

pytest.importorskip("numba")
F64 = torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    ("out", "at_once", "width"),
    [(1, 1, 7), (5, 14, 7), (6, 21, 7), (6, 1000, 7), (6, 1, 64), (9, 1, 1088)],
)
def test_a_step_is_torchs_adamw(monkeypatch, dtype, out, at_once, width):
    """Blocks of one row, of two with one left over, of three, all rows at once; tiles."""
    assert loops_work(dtype)
    monkeypatch.setattr(factored, "AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64).to(dtype)

    weight = draw(out, width)
    theirs = weight.clone().requires_grad_()
    reference = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.5, foreach=False)
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for count in (1, 2, 3):
        parts = (4, 1)[: 1 + count % 2]
        factors = [(draw(out, rows).mT, draw(width, rows).mT) for rows in parts]
        theirs.grad = sum(g.mT @ x for g, x in factors)
        reference.step()
        move_weights(weight, first, second, factors, optimiser._move_of(0.1, count, 0.5))
        torch.testing.assert_close(weight, theirs.detach())


def test_no_rate_is_no_move():
    assert optimiser._move_of(None, 3, 0.5) == Move(1, 0, 0, 1, 0, optimiser.EPS)


@pytest.mark.parametrize("make", [lambda: Linear(6, 5), lambda: Hidden(6, 5, 0.3)])
def test_the_factors_are_those_of_the_gradient(make):
    whole = stack.stack([make().double() for _ in range(2)], torch.device("cpu"))
    weight = getattr(whole, "dense", whole).weight
    x = torch.randn(2, 4, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    whole(x).square().sum().backward()
    expected, weight.grad = weight.grad, None
    factors = want_factors(weight)
    whole(x).square().sum().backward()
    assert weight.grad is None
    ((g, inputs),) = factors
    torch.testing.assert_close(g.mT @ inputs, expected)


@pytest.mark.parametrize("kind", ["mata-cnn", "late-fcn", "cnn"])
def test_a_training_ends_the_same_with_factors_and_without(monkeypatch, kind):
    """Members have unequal batches, stop at different epochs, and leave the stack."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(64, 30, generator=generator)
    y = torch.arange(64) % 3
    data = [(X[:n].double(), y[:n]) for n in (64, 39)]
    settings = replace(TrainingSettings.paper(), epochs=6, patience=1, validation=0.3)

    def make(seed):
        with seeded(seed):
            if kind == "cnn":
                return build_head("cnn", 30, 3, 0.4).double()
            fusion, branch = kind.split("-")
            views = (slice(0, 14), slice(14, 30))
            return build_fusion(fusion, FusionShape(views, 3, branch, 0.4)).double()

    moved, trained = [], []
    monkeypatch.setattr(
        optimiser, "move_weights", lambda *given: moved.append(0) or move_weights(*given)
    )
    for wide in (2**40, 0):
        monkeypatch.setattr(optimiser, "WIDE", wide)
        assert not moved
        networks = [make(seed) for seed in range(2)]
        histories = train_members(networks, data, settings, seeds=[0, 1], at_once=2)
        trained.append((networks, [len(history.training_loss) for history in histories]))
    assert moved
    assert trained[0][1] == trained[1][1]
    for a, b in zip(trained[0][0], trained[1][0], strict=True):
        for mine, theirs in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-7)
