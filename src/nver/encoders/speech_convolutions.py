"""The convolutions under a speech transformer, written as products of matrices.

A convolution over [frames, channels] whose stride is s and kernel k is a product of each k rows, in
steps of s, with one matrix. Four things are then cheap that are not in the usual layout
[channels, frames] (`bench/encoders.py` measures the whole):

- GELU is applied while the values are in the cache.
- A layer norm over the channels reads neighbours in memory, without two transpositions.
- The group norm after the first convolution (one group per channel, over the whole clip) needs no
  pass of its own. The clip has one channel, so a first output channel is y = w . x over windows x
  of 10 samples: its mean is w . m and its variance w C w, with m and C the windows' mean and
  covariance. Norm and convolution are then one product with w / sd and an offset, found in float64.
- A kernel of 3 in steps of 2 takes 5 products of rows for 2 outputs and not 6 (Winograd, Arithmetic
  complexity of computations, 1980): see `PairedStep`.

One clip at a time: the statistics are the clip's own, and no padding is ever convolved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional

from nver.encoders.packed import ROUNDED, PackedLinear, available, rounded, times

Rows = Float[Tensor, "_ channels"]

FIRST_ROUNDED = 64  # of the first convolution, which has sixty times the rows of the last
TOLERANCE = 1e-5  # of the largest value, between these products and the convolutions as they were


class Step(nn.Module):
    """A convolution, its layer norm where it has one, and GELU.

    Parameters
    ----------
    convolution : Conv1d
    norm : LayerNorm or None
    """

    def __init__(self, convolution: nn.Conv1d, norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.kernel, self.stride = convolution.kernel_size[0], convolution.stride[0]
        matrix = convolution.weight.detach().transpose(1, 2).flatten(1)
        self.product = PackedLinear(matrix, convolution.bias, gelu=norm is None)
        self.norm = norm

    def forward(self, even: Rows, odd: Rows) -> tuple[Rows, Rows]:
        """Return the outputs of even and of odd number, from the inputs of even and odd number."""
        rows = joined(even, odd)
        made = (len(rows) - self.kernel) // self.stride + 1
        width = rows.shape[1]
        windows = rows.as_strided((made, self.kernel * width), (self.stride * width, 1))
        found = self.product(rounded(windows))[:made]
        if self.norm is not None:
            found = functional.gelu(self.norm(found))
        return found[0::2], found[1::2]


class PairedStep(nn.Module):
    """A convolution with kernel (A, B, C) in steps of 2, two outputs at a time, its norm and GELU.

    With inputs e0 o0 e1 o1 e2, the outputs are e0 A + o0 B + e1 C and e1 A + o1 B + e2 C, that is
    ``(e0 - e1) A + o0 B + m`` and ``(e2 - e1) C + o1 B + m`` with ``m = e1 (A + C)``.

    Parameters
    ----------
    convolution : Conv1d
    norm : LayerNorm or None
    """

    def __init__(self, convolution: nn.Conv1d, norm: nn.LayerNorm | None) -> None:
        super().__init__()
        a, b, c = convolution.weight.detach().unbind(dim=2)
        self.shared = PackedLinear(a + c, convolution.bias)
        self.first = PackedLinear(torch.cat([a, b], dim=1), None)
        self.second = PackedLinear(torch.cat([c, b], dim=1), None)
        self.norm = norm

    def forward(self, even: Rows, odd: Rows) -> tuple[Rows, Rows]:
        """Return the outputs of even and of odd number, from the inputs of even and odd number."""
        made = (len(even) + len(odd) - 3) // 2 + 1
        pairs = (made + 1) // 2
        pairs += -pairs % ROUNDED if pairs > ROUNDED else 0
        even = functional.pad(even, (0, 0, 0, 2 * pairs + 1 - len(even)))
        odd = functional.pad(odd, (0, 0, 0, 2 * pairs - len(odd)))
        middle = even[1::2]
        shared = self.shared(middle.contiguous())
        first = torch.cat([even[:-1:2] - middle, odd[0::2]], dim=1)
        second = torch.cat([even[2::2] - middle, odd[1::2]], dim=1)
        return (
            self._ended(self.first.plus(first, shared))[: (made + 1) // 2],
            self._ended(self.second.plus(second, shared))[: made // 2],
        )

    def _ended(self, found: Rows) -> Rows:
        return functional.gelu(found if self.norm is None else self.norm(found))


class ConvolutionProducts(nn.Module):
    """A stack of convolutions over clips of one length, one after the other.

    Parameters
    ----------
    first : Conv1d
        From samples to channels.
    norm : GroupNorm or LayerNorm
        After the first convolution; a group norm has one group per channel.
    steps : sequence of Module
        The convolutions after it.
    """

    def __init__(
        self, first: nn.Conv1d, norm: nn.GroupNorm | nn.LayerNorm, steps: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.first, self.norm, self.steps = first, norm, nn.ModuleList(steps)

    def forward(
        self, samples: Float[Tensor, "clips samples"]
    ) -> Float[Tensor, "clips width frames"]:
        """Return the frames of clips of one length."""
        return torch.stack([self.frames(clip) for clip in samples]).transpose(1, 2)

    def frames(self, samples: Float[Tensor, "samples"]) -> Rows:
        """Return the frames of a clip."""
        rows = self._first(samples)
        phases = rows[0::2], rows[1::2]
        for step in self.steps:
            phases = step(*phases)
        return joined(*phases)

    def _first(self, samples: Float[Tensor, "samples"]) -> Rows:
        """Return the first convolution, its norm and GELU."""
        kernel, stride = self.first.kernel_size[0], self.first.stride[0]
        weight = self.first.weight[:, 0]
        if isinstance(self.norm, nn.LayerNorm):
            windows = samples.unfold(0, kernel, stride)
            rows = functional.linear(windows, weight, self.first.bias)
            return functional.gelu(self.norm(rows))
        # A constant offset moves each channel by a constant, which the norm takes away again.
        centred = samples.double() - samples.double().mean()
        precise = centred.unfold(0, kernel, stride)
        folded_weight, bias = folded(weight.double(), self.norm, precise)
        rows = rounded(precise.float(), FIRST_ROUNDED)
        found = times(rows, folded_weight.float(), bias.float(), gelu=True)
        return found[: len(precise)]


def folded(
    weight: Float64[Tensor, "channels kernel"],
    norm: nn.GroupNorm,
    windows: Float64[Tensor, "frames kernel"],
) -> tuple[Float64[Tensor, "channels kernel"], Float64[Tensor, "channels"]]:
    """Return the weight and bias that convolve the windows and normalise each channel over them."""
    mean = windows.mean(dim=0)
    covariance = (windows - mean).T @ (windows - mean) / len(windows)
    variance = ((weight @ covariance) * weight).sum(dim=1).clamp_min(0)
    scale = norm.weight.double() / torch.sqrt(variance + norm.eps)
    return weight * scale[:, None], norm.bias.double() - (weight @ mean) * scale


def joined(even: Rows, odd: Rows) -> Rows:
    """Return rows by turns from the two, which begin with an even one."""
    rows = even.new_empty(len(even) + len(odd), even.shape[1])
    rows[0::2], rows[1::2] = even, odd
    return rows


def as_products(stack: Any, dtype: torch.dtype) -> nn.Module | None:
    """Return the products that do what a feature extractor of transformers does, or None.

    None where the extractor is built in another way than described above, runs on another device
    or in half precision, or the products say something else than it does.
    """
    on_cpu = next(stack.parameters()).device.type == "cpu"
    if not on_cpu or dtype != torch.float32 or not available(dtype):
        return None
    found = _read(list(stack.conv_layers))
    if found is None:
        return None
    generator = torch.Generator().manual_seed(0)
    sound = 0.1 * torch.randn(1, 4000, generator=generator) + 0.01
    with torch.inference_mode():
        expected, products = stack(sound), found(sound)
    same = expected.shape == products.shape
    near = same and (expected - products).abs().max() <= TOLERANCE * expected.abs().max()
    return found if near else None


def _read(layers: list[Any]) -> ConvolutionProducts | None:
    """Return the products of convolution layers, or None where one is of an unknown build."""
    norms: list[Any] = [getattr(layer, "layer_norm", None) for layer in layers]
    first = norms[0]
    grouped = isinstance(first, nn.GroupNorm) and first.num_groups == first.num_channels
    known = all(norm is None or isinstance(norm, nn.LayerNorm) for norm in norms[1:])
    if not (known and (grouped or isinstance(first, nn.LayerNorm))):
        return None
    steps = [_step(layer.conv, norm) for layer, norm in zip(layers[1:], norms[1:], strict=True)]
    return ConvolutionProducts(layers[0].conv, first, steps)


def _step(convolution: nn.Conv1d, norm: nn.LayerNorm | None) -> nn.Module:
    shape = convolution.kernel_size[0], convolution.stride[0]
    return PairedStep(convolution, norm) if shape == (3, 2) else Step(convolution, norm)
