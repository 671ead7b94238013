"""Networks trained on a GPU: the numbers of the CPU, and members at once as one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nver.fusion import FUSIONS, FusionShape, build_fusion
from nver.heads import build_head
from nver.training import TrainingSettings, seeded, train_members

pytestmark = pytest.mark.gpu

VIEWS = (slice(0, 14), slice(14, 30))
SHORT = TrainingSettings(epochs=4, min_steps=0)
SIZES = (64, 52, 39, 24)
NETWORKS = [
    *((fusion, branch) for fusion in FUSIONS.names() for branch in ("fcn", "cnn")),
    (None, "fcn"),
    (None, "cnn"),
]


def _data():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 30, generator=generator)
    found = []
    for size in SIZES:
        y = torch.arange(size) % 3
        found.append((centres[y] + 3 * torch.randn(size, 30, generator=generator), y))
    return found


def _network(fusion, branch, seed):
    with seeded(seed):
        if fusion is None:
            return build_head(branch, 30, 3, 0.4).double()
        return build_fusion(fusion, FusionShape(VIEWS, 3, branch, 0.4)).double()


def _trained(fusion, branch, device, settings=SHORT, at_once=None):
    """Return trained networks, in float64, and their histories."""
    networks = [_network(fusion, branch, seed) for seed in range(len(SIZES))]
    data = [(X.double(), y) for X, y in _data()]
    groups = [torch.arange(size) // 4 for size in SIZES]
    seeds = range(10, 14)
    told = train_members(
        networks, data, settings, seeds=seeds, groups=groups, device=device, at_once=at_once
    )
    return networks, told


@pytest.mark.parametrize(("fusion", "branch"), NETWORKS)
def test_a_gpu_trains_the_networks_of_the_cpu(fusion, branch):
    mine, told = _trained(fusion, branch, "cuda")
    theirs, expected = _trained(fusion, branch, "cpu")
    for a, b, here, there in zip(mine, theirs, told, expected, strict=True):
        assert here.training_loss == pytest.approx(there.training_loss, rel=1e-5)
        for name, value in b.state_dict().items():
            torch.testing.assert_close(a.state_dict()[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("fusion", "branch"), NETWORKS)
def test_members_at_once_are_members_one_by_one_to_the_bit(fusion, branch):
    """In float32, with batches and stopping of their own: the pack's size is no setting."""
    stopping = replace(TrainingSettings.paper(), epochs=8, patience=1, validation=0.3)
    found = []
    for at_once in (None, 1):
        networks = [_network(fusion, branch, seed).float() for seed in range(len(SIZES))]
        groups = [torch.arange(size) // 4 for size in SIZES]
        given = {"seeds": range(4), "groups": groups, "device": "cuda", "at_once": at_once}
        train_members(networks, _data(), stopping, **given)
        found.append(networks)
    for mine, theirs in zip(*found, strict=True):
        assert all(map(torch.equal, mine.state_dict().values(), theirs.state_dict().values()))


@pytest.mark.parametrize("branch", ["fcn", "cnn"])
def test_in_float32_the_losses_are_the_cpus(branch):
    losses = []
    for device in ("cuda", "cpu"):
        networks = [_network("mata", branch, seed).float() for seed in range(2)]
        told = train_members(networks, _data()[:2], SHORT, seeds=[1, 2], device=device)
        losses.append([history.training_loss for history in told])
    for mine, theirs in zip(*losses, strict=True):
        assert mine == pytest.approx(theirs, rel=2e-2)


def test_the_same_training_gives_the_same_bits():
    first, second = (_trained("mata", "fcn", "cuda")[0] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(map(torch.equal, a.parameters(), b.parameters()))
