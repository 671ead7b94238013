"""Linear maps and convolutions for a CPU, their weights laid out once for oneDNN's kernels.

torch multiplies matrices on a CPU with MKL, which lays the weights out anew in every call; oneDNN,
which torch carries too, multiplies them a tenth to a third faster once they are laid out, and
applies the GELU that follows while the values are in the cache. The numbers agree with torch's to
rounding (1e-6 of the largest).

torch's own compiler uses the same operators. They are not public, so they are tried once on small
numbers: where they are missing, or say something else, nothing is packed and torch's modules run.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

PACKABLE = (torch.float32, torch.bfloat16)
SMALLEST = 64  # of either side of a matrix; below, there is nothing to gain
TYPICAL_ROWS = 128  # what a layout is chosen for; others run with it as fast
ROUNDED = 16  # a new number of rows costs a kernel, in time and in memory that stays


def _operators() -> Any:
    return torch.ops.mkldnn


def _packed_matrix(weight: Float[Tensor, "out in"]) -> Tensor:
    matrix: Tensor = _operators()._reorder_linear_weight(weight.contiguous(), TYPICAL_ROWS)
    return matrix


@cache
def available(dtype: torch.dtype = torch.float32) -> bool:
    """Return whether oneDNN's operators are there and right for a precision on this machine."""
    if dtype not in PACKABLE or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    rows, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((5, 64), (96, 64), (96,))
    )
    expected = functional.gelu(functional.linear(rows.double(), weight.double(), bias.double()))
    try:
        with torch.inference_mode():
            found = times(rows, _packed_matrix(weight), bias, gelu=True)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    return bool((found.double() - expected).abs().max() < tolerance)


def packable(weight: Tensor) -> bool:
    """Return whether a weight gains from packing: on the CPU, large, of a known precision."""
    large = weight.dim() >= 2 and min(weight.shape[0], weight[0].numel()) >= SMALLEST
    return large and weight.device.type == "cpu" and available(weight.dtype)


def times(
    rows: Float[Tensor, "*shape in"], matrix: Tensor, bias: Tensor | None, *, gelu: bool
) -> Float[Tensor, "*shape out"]:
    """Return the rows times a packed matrix, plus the bias, through GELU where asked."""
    activation = "gelu" if gelu else "none"  # with the algorithm "none": the exact one, by erf
    product: Tensor = _operators()._linear_pointwise(rows, matrix, bias, activation, [], "none")
    return product


def rounded(
    windows: Float[Tensor, "made values"], to: int = ROUNDED
) -> Float[Tensor, "rounded values"]:
    """Return rows, copied, and zeros after them to a round number."""
    more = -len(windows) % to if len(windows) > to else 0
    space = windows.new_empty(len(windows) + more, windows.shape[1])
    space[: len(windows)] = windows
    space[len(windows) :] = 0
    return space


class PackedLinear(nn.Module):
    """A linear map whose weight is packed, optionally with the exact GELU after it.

    Parameters
    ----------
    weight : Tensor [out, in]
    bias : Tensor [out] or None
    gelu : bool
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> None:
        super().__init__()
        self.matrix = _packed_matrix(weight.detach())
        self.bias = None if bias is None else bias.detach()
        self.gelu = gelu

    def forward(self, rows: Float[Tensor, "*shape in"]) -> Float[Tensor, "*shape out"]:
        """Return the mapped rows."""
        count = rows.numel() // rows.shape[-1]
        if count % ROUNDED == 0 or count < ROUNDED:
            return times(rows, self.matrix, self.bias, gelu=self.gelu)
        space = rounded(rows.reshape(count, -1))
        found = times(space, self.matrix, self.bias, gelu=self.gelu)[:count]
        return found.view(*rows.shape[:-1], -1)

    def plus(
        self, rows: Float[Tensor, "rows in"], others: Float[Tensor, "rows out"]
    ) -> Float[Tensor, "rows out"]:
        """Return the mapped rows plus others, without GELU."""
        binary = _operators()._linear_pointwise.binary
        summed: Tensor = binary(rows, others, self.matrix, self.bias, "add")
        return summed


def pack_linears(network: nn.Module, kept: tuple[str, ...] = ()) -> None:
    """Put packed maps in the place of a network's linear ones.

    Parameters
    ----------
    network : Module
        In evaluation; changed in place.
    kept : tuple of str
        Names of modules whose class reads its maps' weights itself, so that they must stay.
    """
    for parent in list(network.modules()):
        if type(parent).__name__ in kept:
            continue
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and packable(child.weight):
                setattr(parent, name, PackedLinear(child.weight, child.bias))


class PackedPositions(nn.Module):
    """The convolutional positional embedding of the wav2vec 2.0 family, then GELU.

    A grouped convolution along time that keeps the number of frames: `kernel` // 2 zeros on either
    side, one output too many for an even kernel, which is dropped. Its weight norm is computed once
    and not in every call.

    Parameters
    ----------
    convolution : Conv1d
        Its weight may be parametrized.
    """

    def __init__(self, convolution: nn.Conv1d) -> None:
        super().__init__()
        weight = convolution.weight.detach()
        groups, (width, inputs, kernel) = convolution.groups, weight.shape
        self.kernel = kernel
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        # [groups, kernel * inputs, outputs]: a window, frame by frame, times this is a group's
        # output. (oneDNN's packed convolution is faster still, but on some processors a layout
        # chosen for another number of frames takes it to its reference loops, 40 times slower.)
        grouped = weight.view(groups, width // groups, inputs, kernel).permute(0, 3, 2, 1)
        self.weight: Tensor = grouped.reshape(groups, kernel * inputs, -1).contiguous()

    def forward(
        self, states: Float[Tensor, "clips frames width"]
    ) -> Float[Tensor, "clips frames width"]:
        """Return the embedding of every frame's place among its neighbours."""
        clips, frames, width = states.shape
        before = self.kernel // 2
        padded = functional.pad(states, (0, 0, before, self.kernel - 1 - before))
        found = torch.empty_like(states)
        inputs = width // len(self.weight)
        for group, matrix in enumerate(self.weight):
            own = padded[:, :, group * inputs : (group + 1) * inputs].contiguous()
            windows = own.as_strided(
                (clips, frames, len(matrix)), (own.stride(0), inputs, 1)
            )  # neighbours overlap
            found[:, :, group * inputs : (group + 1) * inputs] = windows @ matrix
        return functional.gelu(found if self.bias is None else found + self.bias)
