"""Heads: the fused convolution block against torch's own layers, and the shapes of both heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from nver.errors import SettingsError
from nver.heads import (
    CLIPS_AT_ONCE,
    CNN,
    FCN,
    Batch,
    ConvPool,
    ConvTrunk,
    Dropout,
    Hidden,
    LayerNorm,
    Linear,
    Standardise,
    build_head,
    layers,
    standardise,
)
from nver.heads.trunk import loops_work
from nver.training import seeded, stack

F64 = torch.float64
CPU = torch.device("cpu")


def _bits(layer):
    """Return the bits of a step in which no layer drops anything."""
    return torch.full((1, layer.units), 32767, dtype=torch.int16)


LEARNING = Batch(None, _bits)


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


@pytest.mark.parametrize("clips", [1, CLIPS_AT_ONCE, 2 * CLIPS_AT_ONCE + 3])
@pytest.mark.parametrize("dim", [10, 11, 12, 13, 40])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_compiled_blocks_are_two_blocks_and_so_are_their_gradients(clips, dim, dtype):
    pytest.importorskip("numba")
    assert loops_work(dtype)
    close = {"atol": 1e-10, "rtol": 1e-9} if dtype == F64 else {"atol": 1e-4, "rtol": 1e-4}
    trunks = [ConvTrunk(dim, (3, 5)).to(dtype) for _ in range(2)]
    whole = stack.stack(trunks, CPU)
    x = torch.randn(2, clips, dim, generator=torch.Generator().manual_seed(dim), dtype=dtype)
    mine = whole.maps(x)
    assert "_TwoBlocks" in type(mine.grad_fn).__name__
    theirs = whole.blocks(x.unsqueeze(-1))
    torch.testing.assert_close(mine, theirs, **close)
    upstream = torch.randn(mine.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    parameters = list(whole.blocks.parameters())
    got = torch.autograd.grad(mine, parameters, upstream)
    expected = torch.autograd.grad(theirs, parameters, upstream)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **close)
    torch.testing.assert_close(trunks[1].maps(x[1]), mine[1], **close)


@pytest.mark.parametrize("filters", [(32, 64), (64, 128)])
@pytest.mark.parametrize(("clips", "dim"), [(1, 10), (2, 14), (5, 40), (2, 300)])
def test_tiles_are_the_blocks_in_float64(filters, clips, dim):
    """Of one pooled position, of fewer and more than a tile, of more than a block of pairs."""
    generator = torch.Generator().manual_seed(dim)
    with seeded(0):
        whole = stack.stack([ConvTrunk(dim, filters) for _ in range(2)], CPU)
    x = torch.randn(2, clips, dim, generator=generator)
    balanced = torch.ones(2, clips, dtype=torch.bool)
    mine = whole.maps(x, balanced)
    assert "_TwoBlocks" in type(mine.grad_fn).__name__
    upstream = torch.randn(mine.shape, generator=generator)
    got = torch.autograd.grad(mine, list(whole.blocks.parameters()), upstream)
    exact = whole.double()
    first, second = exact.blocks
    theirs = second(first(x.double().unsqueeze(-1)), balanced)
    expected = torch.autograd.grad(theirs, list(exact.blocks.parameters()), upstream.double())
    for a, b in zip((mine, *got), (theirs, *expected), strict=True):
        assert (a - b).abs().max() <= 2e-6 * b.abs().max()


def test_small_gradients_of_taps_are_as_exact_as_large_ones():
    """Of one pooled position, where all sums of an entry's gradient are one product or none."""
    with seeded(0):
        trunk = ConvTrunk(40, (32, 64))
    x = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    x[:, 12:] *= 1e-6
    trunk.blocks[0].bias.data.zero_()
    second = trunk.blocks[1]
    (mine,) = torch.autograd.grad(trunk.maps(x)[0, 2].sum(), second.weight)
    exact = trunk.double()
    theirs = second(exact.blocks[0](x.double().unsqueeze(-1)))
    (expected,) = torch.autograd.grad(theirs[0, 2].sum(), second.weight)
    torch.testing.assert_close(mine.double(), expected, rtol=1e-3, atol=0)
    sizes = expected[expected != 0].abs()
    assert sizes.min() < 1e-5 * sizes.max()


@pytest.mark.parametrize("place", [0, 7, 39])
def test_nan_stays_nan_in_tiles(place):
    with seeded(0):
        trunk = ConvTrunk(40, (32, 64))
    x = torch.zeros(1, 40)
    x[0, place] = float("nan")
    expected = trunk.blocks(x.unsqueeze(-1)).isnan()
    assert torch.equal(trunk.maps(x).isnan(), expected)
    assert expected.any() == (place < 38)


@pytest.mark.parametrize("work", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("filters", [(3, 5), (32, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_bias_that_the_standardisation_takes_away_gets_no_gradient(
    monkeypatch, dtype, filters, work
):
    """Of 9, 4 and 1 clips; the first filter is always above 0, so that its bias moves the mean.

    In the second and third member nothing is there to be taken away: it is always 0, or its single
    clip is standardised by averages.
    """
    assert loops_work(dtype)
    monkeypatch.setattr("nver.heads.networks.loops_work", lambda _: work)
    with seeded(0):
        whole = stack.stack([ConvTrunk(24, filters).to(dtype) for _ in range(3)], CPU)
    whole.blocks[1].bias.data[:, 0] = torch.tensor([9.0, -9.0, 9.0])
    generator = torch.Generator().manual_seed(0)
    present = torch.arange(9) < torch.tensor([9, 4, 1]).unsqueeze(1)
    x = torch.randn(3, 9, 24, generator=generator, dtype=F64).to(dtype)
    upstream = torch.randn(3, 9, whole.width, generator=generator, dtype=F64).to(dtype)
    upstream *= present.unsqueeze(-1)
    batch, bias = Batch(present, _bits), whole.blocks[1].bias
    (mine,) = torch.autograd.grad(whole(x, batch), bias, upstream)
    plain = whole.standardise(whole.maps(x).flatten(-2), batch)
    (theirs,) = torch.autograd.grad(plain, bias, upstream)
    close = {"atol": 1e-12, "rtol": 1e-9} if dtype == F64 else {"atol": 1e-3, "rtol": 1e-4}
    torch.testing.assert_close(mine, theirs, **close)
    assert mine[:2, 0].tolist() == [0, 0]
    assert theirs[0, 0] != 0  # rounding
    assert mine[2, 0] != 0
    assert torch.all(mine[:2, 1:].abs().sum(1) > 0.1)


def test_without_the_loops_or_with_a_gradient_at_the_input_torch_does_it(monkeypatch):
    trunk = ConvTrunk(12, (3, 5))
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    expected = trunk(x)
    torch.testing.assert_close(trunk(x.clone().requires_grad_()), expected)
    monkeypatch.setattr("nver.heads.networks.loops_work", lambda _: False)
    torch.testing.assert_close(trunk(x), expected)


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


def test_standardising_uses_the_batch_in_training_and_averages_after():
    layer = Standardise(3).double()
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=F64) * 4 + 7
    trained = layer(x, LEARNING)
    torch.testing.assert_close(trained.mean(0), torch.zeros(3, dtype=F64), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        trained.var(0, correction=0), torch.ones(3, dtype=F64), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(layer(x), (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt())
    torch.testing.assert_close(layer(x[:1]), layer(x)[:1])


def test_a_batch_of_one_clip_changes_no_average():
    layer = Standardise(3)
    layer(torch.randn(8, 3), LEARNING)
    before = layer.mean.clone()
    one = torch.full((1, 3), 100.0)
    torch.testing.assert_close(layer(one, LEARNING), layer(one))
    assert torch.equal(layer.mean, before)


def _torchs(x, gradient):
    """Return what BatchNorm1d makes of x, its gradient, and its averages after one batch."""
    theirs = nn.BatchNorm1d(x.shape[1], affine=False, momentum=1.0).double()
    x = x.clone().requires_grad_()
    out = theirs(x)
    (d_x,) = torch.autograd.grad(out, x, gradient)
    return out.detach(), d_x, theirs.running_mean, theirs.running_var


@pytest.mark.parametrize("work", [True, False], ids=["compiled", "torch"])
def test_standardising_is_torchs_batch_normalisation_for_members_of_unequal_batches(
    monkeypatch, work
):
    """Three members with 9, 4 and 1 clips; the last learns nothing from its single clip."""
    if work:
        assert standardise.loops_work(F64)
    monkeypatch.setattr(standardise, "loops_work", lambda _: work)
    generator = torch.Generator().manual_seed(0)
    whole = stack.stack([Standardise(5).double() for _ in range(3)], CPU)
    x = torch.randn(3, 9, 5, generator=generator, dtype=F64).requires_grad_()
    counts = torch.tensor([9, 4, 1])
    present = torch.arange(9) < counts.unsqueeze(1)
    gradient = torch.randn(3, 9, 5, generator=generator, dtype=F64) * present.unsqueeze(-1)
    out = whole(x, Batch(present, _bits))
    (d_x,) = torch.autograd.grad(out, x, gradient)
    for m in (0, 1):
        n = int(counts[m])
        expected = _torchs(x[m, :n].detach(), gradient[m, :n])
        found = (out[m, :n].detach(), d_x[m, :n], whole.mean[m], whole.variance[m])
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-10)
        assert not d_x[m, n:].any()
    assert whole.batches.tolist() == [1, 1, 0]
    assert not whole.mean[2].any()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("width", [1, 7, 1301])
@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("counts", [(6, 6), (6, 2), (1, 0), None])
def test_the_loop_standardises_and_drops_as_torch_does(monkeypatch, dtype, width, share, counts):
    """Two steps, the second from averages that the first has moved; None: one clip each."""
    assert standardise.loops_work(dtype)
    generator = torch.Generator().manual_seed(width)
    clips = 1 if counts is None else 6
    present = None if counts is None else torch.arange(6) < torch.tensor(counts).unsqueeze(1)
    given = 3 + 2 * torch.randn(2, 2, clips, width, generator=generator, dtype=F64).to(dtype)
    upstream = torch.randn(2, clips, width, generator=generator, dtype=F64).to(dtype)
    bits = torch.randint(-(2**15), 2**15, (2, clips, width), generator=generator)
    batch = Batch(present, lambda _: bits.to(torch.int16))
    found = []
    for work in (True, False):
        monkeypatch.setattr(standardise, "loops_work", lambda _, work=work: work)
        whole = stack.stack([Standardise(width, share).to(dtype) for _ in range(2)], CPU)
        for step in given:
            x = step.clone().requires_grad_()
            out = whole(x, batch)
            (d_x,) = torch.autograd.grad(out, x, upstream)
            found.append((out.detach(), d_x))
        found.append((whole.mean, whole.variance, whole.batches))
    for mine, theirs in zip(found[:3], found[3:], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=2e-4 if dtype != F64 else 1e-11, rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(6, 5),
        lambda: Hidden(6, 5, 0.3),
        lambda: LayerNorm(6),
        lambda: Standardise(6),
        lambda: FCN(6, 3, 0.3),
        lambda: CNN(12, 3, 0.3),
    ],
    ids=["linear", "hidden", "norm", "standardise", "fcn", "cnn"],
)
def test_a_stack_computes_what_its_members_do_and_so_do_its_gradients(make):
    layers = [make().double() for _ in range(3)]
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        for p in layer.parameters():
            p.data.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=F64))
    whole = stack.stack(layers, CPU)
    width = 12 if isinstance(layers[0], CNN) else 6
    x = torch.randn(3, 7, width, generator=generator, dtype=F64)
    out = whole(x)
    upstream = torch.randn(out.shape, generator=generator, dtype=F64)
    gradients = (
        torch.autograd.grad(out, list(whole.parameters()), upstream)
        if any(True for _ in whole.parameters())
        else []
    )
    for m, layer in enumerate(layers):
        alone = layer(x[m])
        torch.testing.assert_close(out[m], alone, atol=1e-12, rtol=1e-10)
        parameters = list(layer.parameters())
        expected = torch.autograd.grad(alone, parameters, upstream[m]) if parameters else []
        for mine, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine[m], theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("work", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_hidden_units_and_their_gradients_are_those_of_the_formula(monkeypatch, share, work):
    if work:
        assert layers.loops_work(F64)
    monkeypatch.setattr(layers, "loops_work", lambda _: work)
    members = [Hidden(7, 5, share).double() for _ in range(3)]
    whole = stack.stack(members, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 7, generator=generator, dtype=F64, requires_grad=True)
    upstream = torch.randn(3, 6, 5, generator=generator, dtype=F64)
    bits = torch.randint(-(2**15), 2**15, (3, 6, 5), generator=generator).to(torch.int16)
    weight, bias = whole.dense.weight, whole.dense.bias
    expected = torch.relu(x @ weight.mT + bias.unsqueeze(1))
    if share:
        kept = (bits > whole.dropout.threshold).to(F64)
        assert 0 < float(kept.mean()) < 1
        expected = expected * kept / (1 - share)
    found = whole(x, Batch(None, lambda _: bits))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=2e-5)
    for mine, theirs in zip(
        *(torch.autograd.grad(out, [x, weight, bias], upstream) for out in (found, expected)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=2e-5)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    layer = Dropout(200_000, share)
    bits = torch.randint(
        -(2**15), 2**15, (1, 200_000), generator=torch.Generator().manual_seed(0)
    ).to(torch.int16)
    out = layer(torch.ones(1, 200_000), Batch(None, lambda _: bits))
    assert float((out == 0).float().mean()) == pytest.approx(share, abs=0.005)
    assert float(out.mean()) == pytest.approx(1, abs=0.01)
    values = out.unique().tolist()
    assert values == pytest.approx([0, 1 / (1 - share)], abs=1e-4)
    assert torch.equal(layer(torch.ones(1, 200_000)), torch.ones(1, 200_000))


def test_every_level_of_the_bits_is_dropped_or_kept_as_the_share_says():
    layer = Dropout(65536, 0.25)
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    out = layer(torch.ones(1, 65536), Batch(None, lambda _: bits[None]))
    assert int((out == 0).sum()) == 16384


@pytest.mark.parametrize("kind", ["fcn", "cnn"])
def test_a_trained_head_sees_one_clip_at_a_time(kind):
    head = build_head(kind, 30, 4, dropout=0.5).double()
    head(torch.randn(9, 30, dtype=F64), LEARNING)
    X = torch.randn(6, 30, dtype=F64)
    alone = torch.cat([head(clip[None]) for clip in X])
    torch.testing.assert_close(alone, head(X), atol=1e-12, rtol=0)


def test_an_unknown_head_is_refused():
    with pytest.raises(SettingsError, match=r"^A head is 'fcn' or 'cnn', got 'rnn'\.$"):
        build_head("rnn", 10, 2, 0.1)
