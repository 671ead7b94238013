"""Heads: the fused convolution block against torch's own layers, and the shapes of both heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from nver.errors import SettingsError
from nver.heads import CLIPS_AT_ONCE, CNN, FCN, ConvPool, ConvTrunk, build_head

F64 = torch.float64


def _reference(block: ConvPool, x: torch.Tensor) -> torch.Tensor:
    """Return what Conv1d, ReLU and MaxPool1d make of x [clips, length, channels]."""
    channels = x.shape[2]
    kernel = block.weight.view(3, channels, -1).permute(2, 1, 0)
    maps = functional.conv1d(x.transpose(1, 2), kernel, block.bias)
    return functional.max_pool1d(functional.relu(maps), 2).transpose(1, 2)


@pytest.mark.parametrize("clips", [1, CLIPS_AT_ONCE, 2 * CLIPS_AT_ONCE + 3])
@pytest.mark.parametrize("length", [4, 5, 6, 7, 31, 64])
@pytest.mark.parametrize("channels", [1, 5])
def test_the_block_is_conv_relu_pool_and_so_are_its_gradients(clips, length, channels):
    generator = torch.Generator().manual_seed(length)
    block = ConvPool(channels, 7).double()
    x = torch.randn(clips, length, channels, generator=generator, dtype=F64, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    mine, theirs = block(x), _reference(block, twin)
    torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)
    upstream = torch.randn(mine.shape, generator=generator, dtype=F64)
    parameters = [block.weight, block.bias]
    got = torch.autograd.grad(mine, [x, *parameters], upstream)
    expected = torch.autograd.grad(theirs, [twin, *parameters], upstream)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


def test_the_block_draws_its_weights_in_the_range_of_conv1d():
    block, conv = ConvPool(40, 50), nn.Conv1d(40, 50, 3)
    bound = float(conv.weight.detach().abs().max())
    assert float(block.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize("dim", [1, 9, 10, 11, 226, 512])
def test_the_trunk_knows_its_width_and_pads_what_is_too_narrow(dim):
    trunk = ConvTrunk(dim, (4, 6))
    assert trunk(torch.zeros(2, dim)).shape == (2, trunk.width)
    expected = max(dim, 10)
    for _ in range(2):
        expected = (expected - 2) // 2
    assert trunk.width == 6 * expected


@pytest.mark.parametrize(("kind", "cls"), [("fcn", FCN), ("cnn", CNN)])
def test_a_head_gives_a_logit_per_class(kind, cls):
    head = build_head(kind, 20, 3, dropout=0.5)
    assert isinstance(head, cls)
    assert head(torch.zeros(5, 20)).shape == (5, 3)


def test_the_papers_sizes():
    """Dense 128; 64 and 128 filters of width 3 (arXiv 2409.14221)."""
    assert sum(p.numel() for p in FCN(768, 6).parameters()) == 768 * 128 + 128 + 128 * 6 + 6
    sequence = ((768 - 2) // 2 - 2) // 2
    expected = (3 * 64 + 64) + (3 * 64 * 128 + 128) + (sequence * 128 * 128 + 128) + 128 * 6 + 6
    assert sum(p.numel() for p in CNN(768, 6).parameters()) == expected


def test_an_unknown_head_is_refused():
    with pytest.raises(SettingsError, match=r"^A head is 'fcn' or 'cnn', got 'rnn'\.$"):
        build_head("rnn", 10, 2, 0.1)
