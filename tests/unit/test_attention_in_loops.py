"""What the compiled attention must not do because it works on addresses."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from nver.errors import SettingsError
from nver.fusion import FusionShape, attention_core, build_fusion
from nver.fusion.attending import Image, SelfAttention
from nver.fusion.attention_inputs import HEADS, Drop, Known
from nver.training import TrainingSettings, seeded, stack, train_members

pytest.importorskip("numba")
F64 = torch.float64


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _stack(members=1, width=24):
    with seeded(0):
        layers = [SelfAttention(width, (0, 1)).double() for _ in range(members)]
    return stack.stack(layers, torch.device("cpu"))


def test_members_beside_one_that_diverged_are_trained_as_without_it():
    """Batches of 20 leave room in a line of 16 clips, which is used for all members in turn."""
    X, y = _random(70, 40).float(), torch.arange(70) % 3
    shape = FusionShape((slice(0, 20), slice(20, 40)), 3, "fcn", 0.5)
    made = []
    for seed in range(3):
        with seeded(seed):
            made.append(build_fusion("mata", shape))
    with torch.no_grad():
        made[0].attention.inner.bias[5] = math.nan
    settings = TrainingSettings(epochs=2, min_steps=0, batch_size=20)
    train_members(made, [(X, y)] * 3, settings, seeds=range(3))
    finite = [all(bool(p.isfinite().all()) for p in member.parameters()) for member in made]
    assert finite == [False, True, True]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_who_asks_first_without_a_gradient_hears_the_same(mode):
    attention_core.loops_work.cache_clear()
    with mode():
        assert attention_core.loops_work(F64)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, images: ([x[0], x[1].float()], images),
        lambda x, images: ([x[0]], []),
        lambda x, images: ([part[..., :16].contiguous() for part in x], []),
        lambda x, images: ([x[0]], [Image(0, images[0].map.float())]),
        lambda x, images: ([x[0]], [Image(1, images[0].map)]),
    ],
    ids=["type", "tokens", "width", "map's type", "source"],
)
def test_tensors_that_do_not_fit_are_refused(change):
    x = [_random(1, 5, 24, seed=seed) for seed in range(2)]
    x, images = change(x, [Image(0, _random(1, 5, 5))])
    with pytest.raises(SettingsError, match="Expected tensors of one type on the CPU, shaped"):
        _stack()(x, None, images)


def test_no_clips_give_gradients_of_zero():
    layer = _stack()
    out = layer([_random(1, 0, 24)] * 2)
    assert out.shape == (1, 0, 48)
    out.sum().backward()
    assert all(not p.grad.any() for p in layer.parameters())


def test_checkpoints_give_the_same_gradient_and_a_second_derivative_is_refused():
    layer, upstream = _stack(), _random(1, 5, 48, seed=2)
    x = [_random(1, 5, 24, seed=seed).requires_grad_() for seed in range(2)]
    out = checkpoint(layer, x, use_reentrant=False)
    again = layer(x)
    found = torch.autograd.grad(out, x, upstream)
    for a, b in zip(found, torch.autograd.grad(again, x, upstream), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(layer(x), x, upstream, create_graph=True)


@pytest.mark.parametrize("value", [1e30, math.inf, math.nan])
def test_numbers_too_large_for_their_squares_stay_visible(value):
    x = [_random(1, 5, 24, seed=seed).float() for seed in range(2)]
    x[0][0, 2, 3] = value
    out = _stack().float()(x).unflatten(2, (2, 24))
    assert not out[0, 2, 0].isfinite().any()
    assert out[0, :2].isfinite().all()


def test_rooms_are_held_while_their_addresses_are_in_use():
    """Blocks that are freed go back to the system at once here, and reading them ends the program.

    Numba frees an array after it is last named; attention had named its rooms before its loop over
    members, and kept their addresses.
    """
    code = (
        "import torch; from nver.fusion import FusionShape, build_fusion\n"
        "net = build_fusion('mata', FusionShape((slice(0, 20), slice(20, 40)), 3))\n"
        "for clips in (32, 48):\n"
        "    net(torch.randn(clips, 40)).sum().backward()\n"
        "print('done')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "done\n")


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [(lambda t: t.mT.contiguous(), lambda t: t.mT), (lambda t: t.double(), lambda t: t)],
    ids=["turned", "another type"],
)
def test_hooks_may_give_saved_tensors_back_otherwise(pack, unpack):
    layer, upstream = _stack().float(), _random(1, 5, 48, seed=2).float()
    x = [_random(1, 5, 24, seed=seed).float().requires_grad_() for seed in range(2)]

    def turn(work):
        return lambda t: work(t) if t.dim() > 1 and t.is_floating_point() else t

    with torch.autograd.graph.saved_tensors_hooks(turn(pack), turn(unpack)):
        out = layer(x)
    found = torch.autograd.grad(out, x, upstream)
    expected = torch.autograd.grad(layer(x), x, upstream)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def _dropped(bits, x):
    """Return what attention makes of two tokens with these bits."""
    layer = _stack()
    inner, outer, norm = layer.inner, layer.outer, layer.norm
    layers = [inner.weight, inner.bias, outer.weight, outer.bias, norm.weight, norm.bias]
    counts, levels = torch.ones(2, dtype=F64), torch.zeros(1, 2, dtype=torch.int16)
    return attention_core.attend(x, layers, Known(counts, Drop(bits, levels, counts), ()), ())


def test_bits_of_another_type_or_changed_before_the_way_back_are_refused():
    bits = torch.arange(5 * 4 * HEADS).view(1, 5, 4 * HEADS).sub(80).short()
    x = [_random(1, 5, 24, seed=seed).requires_grad_() for seed in range(2)]
    with pytest.raises(SettingsError, match="bits and levels of int16"):
        _dropped(bits.int(), x)
    out = _dropped(bits, x)
    bits.neg_()
    with pytest.raises(RuntimeError, match="inplace operation"):
        out.sum().backward()
