"""Layers of one network, or of M networks of one shape at once.

Parameters may have a leading axis of members: a dense layer's weight is [out, in] or [members, out,
in], and its input [clips, in] or [members, clips, in]. Member m of a stack computes what it would
compute alone. A stack is made from single networks by `nver.training`.

Nothing here draws random numbers or asks whether it is being trained. A `Batch` says so: it brings
the random numbers of each layer, and which rows are clips where members have batches of unequal
size. A network that is called without one predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int16
from torch import Tensor, nn

from nver.heads import loops
from nver.heads.products import multiply, multiply_add, sums

LEVELS = 65536
"""Values of the random bits from which dropout masks are made."""


@dataclass(frozen=True)
class Batch:
    """What a network is told about the rows that it gets.

    Parameters
    ----------
    present : bool [members, clips], optional
        Which rows are clips; the others fill up. None: all. A member without any clip is passive:
        it learns nothing.
    bits : callable, optional
        Gives a layer its random bits of this step, int16 [members, clips, units]. None: nothing is
        drawn and nothing is learned, as in validation.
    """

    present: Bool[Tensor, "members clips"] | None = None
    bits: Callable[[nn.Module], Int16[Tensor, "members clips units"]] | None = None


class Random(nn.Module):
    """Base of the layers that get random bits.

    Parameters
    ----------
    units : int
        Random numbers of 16 bits per clip and step.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units


def threshold(share: float) -> int:
    """Return the level t with P(bits > t) = 1 - share, to 1 in 65,536."""
    return round(share * LEVELS) - LEVELS // 2 - 1


@final
class Dropout(Random):
    """Drop a share of the units in training, and scale up the rest (Srivastava et al. 2014).

    Parameters
    ----------
    units : int
        Units per clip.
    share : float
        In [0, 1), rounded to a multiple of 1/65536.
    """

    def __init__(self, units: int, share: float) -> None:
        super().__init__(units if share else 0)
        self.threshold = threshold(share)
        self.scale = LEVELS / (LEVELS - round(share * LEVELS))

    def bits(self, batch: Batch | None) -> Int16[Tensor, "*members clips units"] | None:
        """Return the bits that decide; units where they are at most the threshold are dropped."""
        if batch is None or batch.bits is None or not self.units:
            return None
        return batch.bits(self)

    def forward(
        self, x: Float[Tensor, "*members clips units"], batch: Batch | None = None
    ) -> Float[Tensor, "*members clips units"]:
        """Return x with dropped units set to 0."""
        bits = self.bits(batch)
        return x if bits is None else x * self.mask(bits, x.dtype)

    def mask(
        self, bits: Int16[Tensor, "*members clips units"], dtype: torch.dtype
    ) -> Float[Tensor, "*members clips units"]:
        """Return 0 for units that are dropped and the scale for the others."""
        return (bits > self.threshold).to(dtype).mul_(self.scale)


Factors = list[tuple[Float[Tensor, "members rows out"], Float[Tensor, "members rows width"]]]
"""Gradients G at a dense layer's sums and its inputs X: that at the weight is the sum of G^T X."""


def want_factors(weight: Tensor) -> Factors:
    """Return where a dense layer with this weight puts its gradient's factors from now on.

    The weight itself gets no gradient then; who asks empties the list after each step.
    """
    factors: Factors = []
    weight.factors = factors  # type: ignore[attr-defined]
    return factors


def wanted_factors(weight: Tensor) -> Factors | None:
    """Return where the factors of this weight's gradient go, or None: nobody has asked."""
    return getattr(weight, "factors", None)


@final
class _Dense(torch.autograd.Function):
    """x W^T + b of a stack.

    Weight gradients come out in the layout of the weights, uncopied, or as `Factors`. The product
    is taken as W x^T: with few clips and wide inputs that is twice as fast on a CPU, where whole
    rows of W are read.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.factors = wanted_factors(weight)
        return multiply_add(bias.unsqueeze(2), weight, x.mT).mT.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_dense_gradients(ctx, x, weight, gradient), sums(gradient)


@final
class _HiddenUnits(torch.autograd.Function):
    """max(x W^T + b, 0), of which some are dropped; the outcome tells what passes back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bits: Tensor | None, drop: Dropout
    ) -> Tensor:
        ctx.scale = 1.0 if bits is None else drop.scale
        ctx.factors = wanted_factors(weight)
        product = multiply(weight, x.mT)
        if x.device.type == "cpu" and loops_work(x.dtype):
            out = product.new_empty(product.mT.shape)
            _finish(product, bias, bits, drop.threshold, ctx.scale, out)
        else:
            out = product.mT + bias.unsqueeze(1)
            out.relu_()
            if bits is not None:
                out.mul_(drop.mask(bits, x.dtype))
        ctx.save_for_backward(x, weight, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        if x.device.type == "cpu" and loops_work(x.dtype):
            inner, d_bias = torch.empty_like(out), torch.zeros_like(weight[:, :, 0])
            _pass_back(gradient.contiguous(), out, ctx.scale, inner, d_bias)
        else:
            inner = torch.sgn(out).mul_(gradient)
            if ctx.scale != 1:
                inner.mul_(ctx.scale)
            d_bias = sums(inner)
        return *_dense_gradients(ctx, x, weight, inner), d_bias, None, None


def _dense_gradients(
    ctx: Any, x: Tensor, weight: Tensor, gradient: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients at x and the weight of a stacked dense layer."""
    d_x = multiply(gradient, weight) if ctx.needs_input_grad[0] else None
    if ctx.factors is not None:
        ctx.factors.append((gradient, x))
        return d_x, None
    return d_x, multiply(gradient.mT, x)


def _finish(
    product: Tensor,
    bias: Tensor,
    bits: Tensor | None,
    threshold: int,
    scale: float,
    out: Tensor,
) -> None:
    drawn = torch.empty((0, 0, 0), dtype=torch.int16) if bits is None else bits
    given = (product.numpy(), bias.contiguous().numpy(), drawn.numpy())
    made = out.numpy()
    loops.units(*given, threshold, made.dtype.type(scale), made)


def _pass_back(gradient: Tensor, out: Tensor, scale: float, inner: Tensor, d_bias: Tensor) -> None:
    made = inner.numpy()
    factor = made.dtype.type(scale)
    loops.units_back(gradient.numpy(), out.numpy(), factor, made, d_bias.numpy())


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        one, bits = torch.ones(1, 1, 1, dtype=dtype), torch.ones(1, 1, 1, dtype=torch.int16)
        _finish(one, one[0], bits, 0, 1.0, one.clone())
        _pass_back(one, one, 1.0, one.clone(), one[0].clone())

    return loops.run("Hidden layers", once)


@final
class Linear(nn.Linear):
    """`torch.nn.Linear`, of one network or of a stack."""

    def forward(
        self, x: Float[Tensor, "*members rows width"]
    ) -> Float[Tensor, "*members rows out"]:
        """Return x W^T + b."""
        if self.weight.dim() == 2:
            return nn.functional.linear(x, self.weight, self.bias)
        out: Tensor = _Dense.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


@final
class Hidden(nn.Module):
    """A hidden layer: dense, ReLU, dropout.

    Parameters
    ----------
    width, units : int
        Values in and out.
    share : float
        Share of units dropped in training.
    """

    def __init__(self, width: int, units: int, share: float) -> None:
        super().__init__()
        self.dense = Linear(width, units)
        self.dropout = Dropout(units, share)

    def forward(
        self, x: Float[Tensor, "*members clips width"], batch: Batch | None = None
    ) -> Float[Tensor, "*members clips units"]:
        """Return the units."""
        if self.dense.weight.dim() == 2:
            units: Tensor = self.dropout(torch.relu(self.dense(x)), batch)
            return units
        given = (x, self.dense.weight, self.dense.bias, self.dropout.bits(batch), self.dropout)
        out: Tensor = _HiddenUnits.apply(*given)  # type: ignore[no-untyped-call]
        return out


@final
class LayerNorm(nn.Module):
    """Each row to mean 0 and deviation 1, then scaled and shifted (Ba et al. 2016).

    Parameters
    ----------
    width : int
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(
        self, x: Float[Tensor, "*members rows width"]
    ) -> Float[Tensor, "*members rows width"]:
        """Return the normalised rows."""
        if self.weight.dim() == 1:
            return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias)
        normed = nn.functional.layer_norm(x, x.shape[-1:])
        return torch.addcmul(self.bias.unsqueeze(1), normed, self.weight.unsqueeze(1))
