"""The convolutions under a speech transformer, written as products of matrices.

A convolution over [frames, channels] whose stride is s and kernel k is a product of each k rows, in
steps of s, with one matrix. Three things then cost nothing that cost much in the usual layout
[channels, frames] (measured by ``bench/encoders.py``):

- GELU is applied while the values are in the cache;
- a layer norm over the channels reads neighbours in memory, without two transpositions;
- the group norm after the first convolution (one group per channel, over the whole clip) needs no
  pass of its own. The clip has one channel, so a first output channel is y = w . x over windows x
  of 10 samples: its mean is w . m and its variance w C w, with m and C the windows' mean and
  covariance. Norm and convolution are then one product with w / sd and an offset, computed here in
  float64.

One clip at a time: the statistics are the clip's own, and no padding is ever convolved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional

from nver.encoders.packed import PackedLinear, available, times

ROUNDED = 16  # rows of a product: a new number of rows costs oneDNN a new kernel
TOLERANCE = 1e-5  # of the largest value, between these products and the convolutions as they were


@dataclass(frozen=True, eq=False)
class Step:
    """One convolution: its kernel and stride, its product, and the layer norm before its GELU."""

    kernel: int
    stride: int
    product: PackedLinear
    norm: nn.LayerNorm | None


class ConvolutionProducts(nn.Module):
    """A stack of convolutions over clips of one length, one after the other.

    Parameters
    ----------
    first : Conv1d
        From samples to channels.
    group_norm : GroupNorm or None
        After the first convolution, one group per channel.
    steps : sequence of Step
        The convolutions after it; with a layer norm, the first one too.
    """

    def __init__(
        self, first: nn.Conv1d, group_norm: nn.GroupNorm | None, steps: Sequence[Step]
    ) -> None:
        super().__init__()
        self.first, self.group_norm, self.steps = first, group_norm, steps

    def forward(
        self, samples: Float[Tensor, "clips samples"]
    ) -> Float[Tensor, "clips width frames"]:
        """Return the frames of clips of one length."""
        return torch.stack([self.frames(clip) for clip in samples]).transpose(1, 2)

    def frames(self, samples: Float[Tensor, "samples"]) -> Float[Tensor, "frames width"]:
        """Return the frames of a clip."""
        rows = samples[:, None]
        if self.group_norm is not None:
            rows = self._normalised_first(samples, self.group_norm)
        for step in self.steps:
            rows = applied(rows, step)
        return rows

    def _normalised_first(
        self, samples: Float[Tensor, "samples"], norm: nn.GroupNorm
    ) -> Float[Tensor, "frames channels"]:
        """Return the first convolution, its group norm and GELU as one product."""
        kernel, stride = self.first.kernel_size[0], self.first.stride[0]
        # A constant offset moves each channel by a constant, which the norm takes away again.
        centred = samples.double() - samples.double().mean()
        windows = centred.unfold(0, kernel, stride)
        weight, bias = folded(self.first.weight[:, 0].double(), norm, windows)
        return times(windows.float(), weight.float(), bias.float(), gelu=True)


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


def applied(rows: Float[Tensor, "frames channels"], step: Step) -> Float[Tensor, "made width"]:
    """Return one convolution of the rows, through its norm and GELU."""
    made = (rows.shape[0] - step.kernel) // step.stride + 1
    rows = step.product(windows_of(rows.contiguous(), made, step.kernel, step.stride))[:made]
    if step.norm is None:
        return rows
    return functional.gelu(step.norm(rows))


def windows_of(
    rows: Float[Tensor, "frames channels"], made: int, kernel: int, stride: int
) -> Float[Tensor, "rounded kernel_x_channels"]:
    """Return every `kernel` rows in steps of `stride`, side by side, and zeros to a round number.

    Where kernel and stride are equal and the number is round, no value is copied.
    """
    width = rows.shape[1]
    view = rows.as_strided((made, kernel * width), (stride * width, 1))
    if made % ROUNDED == 0 or made < ROUNDED:
        return view.contiguous()
    space = rows.new_zeros(made + -made % ROUNDED, kernel * width)
    space[:made] = view
    return space


def as_products(stack: Any, dtype: torch.dtype) -> nn.Module | None:
    """Return the products that do what a feature extractor of transformers does, or None.

    None where the extractor is built in another way than described above, runs on another device
    or in half precision, or the products say something else than it does.
    """
    try:
        found = _read(list(stack.conv_layers))
    except AttributeError:
        return None
    on_cpu = next(stack.parameters()).device.type == "cpu"
    if found is None or not on_cpu or dtype != torch.float32 or not available(dtype):
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
    first = layers[0]
    norm = getattr(first, "layer_norm", None)
    grouped = isinstance(norm, nn.GroupNorm)
    if grouped and norm.num_groups != norm.num_channels:
        return None
    steps = []
    for layer in layers[1:] if grouped else layers:
        norm_after = getattr(layer, "layer_norm", None)
        if not isinstance(norm_after, nn.LayerNorm | None):
            return None
        steps.append(_step(layer.conv, norm_after))
    return ConvolutionProducts(first.conv, norm if grouped else None, steps)


def _step(convolution: nn.Conv1d, norm: nn.LayerNorm | None) -> Step:
    weight = convolution.weight.detach()
    matrix = weight.transpose(1, 2).reshape(len(weight), -1)
    product = PackedLinear(matrix, convolution.bias, gelu=norm is None)
    return Step(convolution.kernel_size[0], convolution.stride[0], product, norm)
