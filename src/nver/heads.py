"""Heads over one embedding: FCN and CNN, as the paper uses them (arXiv 2409.14221).

A head maps embeddings [clips, dim] to logits [clips, classes]. The CNN reads an embedding as a
one-channel sequence along its dimensions. That order carries no meaning, so a CNN can hardly beat a
dense head here; it is the paper's choice and costs about fifty times more.

The convolution block (convolution of width 3, ReLU, max-pooling by 2) is one fused operation.
Positions lie in rows and channels in columns, so that two neighbouring positions are one contiguous
row and the whole block is four matrix products on a few clips at a time, which stay in the cache.
Pooling comes before the bias and the ReLU, which gives the same result on half the values. On a CPU
core this takes half the time of `torch.nn.Conv1d`, `ReLU` and `MaxPool1d` (bench/conv.py); the
results are the same.
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nver.errors import SettingsError

KERNEL = 3
CLIPS_AT_ONCE = 8
"""Clips per pass on a CPU: their block of activations stays in a core's cache."""
SHORTEST = 10
"""Two blocks need ten positions; narrower embeddings are padded with zeros."""


@final
class _ConvPool(torch.autograd.Function):
    """max(conv(x)[2s], conv(x)[2s + 1]) + bias, ReLU; one pass forward, one backward.

    With rows P_s = (x_2s, x_2s+1), E_s = x_2s, O_s = x_2s+1 and the kernel's rows W = (w0, w1, w2):
    conv[2s] = P_s (w0, w1) + E_{s+1} w2 and conv[2s + 1] = O_s w0 + P_{s+1} (w1, w2). The rows of
    several clips are multiplied together; the last row of each clip reaches into the next clip and
    is dropped.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        clips, length, channels = x.shape
        pooled = (length - KERNEL + 1) // 2
        pairs = x[:, : 2 * (pooled + 1)].reshape(clips, pooled + 1, 2 * channels)
        filters = weight.shape[1]
        out = x.new_empty(clips, pooled, filters)
        even_wins = torch.empty_like(out, dtype=torch.bool)
        step = _clips_at_once(x)
        products = x.new_empty(2, min(step, clips) * (pooled + 1), filters)
        for start in range(0, clips, step):
            rows = pairs[start : start + step].reshape(-1, 2 * channels)
            both = products[:, : len(rows)]
            _convolve(rows, weight, both)
            even, odd = both.view(2, -1, pooled + 1, filters)[:, :, :pooled]
            torch.gt(even, odd, out=even_wins[start : start + step])
            part = out[start : start + step]
            torch.maximum(even, odd, out=part)
            part.add_(bias).relu_()
        ctx.save_for_backward(pairs, weight, out, even_wins)
        ctx.length = length
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        pairs, weight, out, even_wins = ctx.saved_tensors
        clips, rows_per_clip, width = pairs.shape
        pooled, filters = rows_per_clip - 1, weight.shape[1]
        d_weight, d_bias = torch.zeros_like(weight), weight.new_zeros(filters)
        d_x = pairs.new_zeros(clips, ctx.length, width // 2) if ctx.needs_input_grad[0] else None
        step = _clips_at_once(pairs)
        # Zeros where a row reaches into the next clip; the loop never writes there.
        products = pairs.new_zeros(2, min(step, clips), rows_per_clip, filters)
        for start in range(0, clips, step):
            here = slice(start, start + step)
            passed = gradient[here] * (out[here] > 0)
            d_bias += passed.sum((0, 1))
            even, odd = products[:, : len(passed)]
            torch.mul(passed, even_wins[here], out=even[:, :pooled])
            torch.sub(passed, even[:, :pooled], out=odd[:, :pooled])
            flat = even.reshape(-1, filters), odd.reshape(-1, filters)
            _accumulate_kernel(pairs[here].reshape(-1, width), *flat, d_weight)
            if d_x is not None:
                d_rows = _input_gradient(*flat, weight)
                d_x[here, : 2 * rows_per_clip] = d_rows.view(-1, 2 * rows_per_clip, width // 2)
        return d_x, d_weight, d_bias


def _convolve(rows: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write the convolution at even and odd positions of `rows` [R, 2C] to `out` [2, R, K]."""
    channels, last = rows.shape[1] // 2, len(rows) - 1
    even, odd = out[0, :last], out[1, :last]
    torch.mm(rows[:last], weight[: 2 * channels], out=even)
    even.addmm_(rows[1:, :channels], weight[2 * channels :])
    torch.mm(rows[:last, channels:], weight[:channels], out=odd)
    odd.addmm_(rows[1:], weight[channels:])


def _accumulate_kernel(rows: Tensor, even: Tensor, odd: Tensor, d_weight: Tensor) -> None:
    """Add to `d_weight` [3C, K] what the gradients at even and odd positions [R, K] say."""
    channels, last = rows.shape[1] // 2, len(rows) - 1
    d_weight[: 2 * channels].addmm_(rows[:last].T, even[:last])
    d_weight[2 * channels :].addmm_(rows[1:, :channels].T, even[:last])
    d_weight[:channels].addmm_(rows[:last, channels:].T, odd[:last])
    d_weight[channels:].addmm_(rows[1:].T, odd[:last])


def _input_gradient(even: Tensor, odd: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient [R, 2C] at the rows from those at even and odd positions [R, K]."""
    channels, last = weight.shape[0] // KERNEL, len(even) - 1
    d_rows = torch.mm(even, weight[: 2 * channels].T)
    d_rows[1:, :channels].addmm_(even[:last], weight[2 * channels :].T)
    d_rows[:, channels:].addmm_(odd, weight[:channels].T)
    d_rows[1:].addmm_(odd[:last], weight[channels:].T)
    return d_rows


def _clips_at_once(x: Tensor) -> int:
    """Return how many clips one pass takes: all on a device that has no cache to stay in."""
    return CLIPS_AT_ONCE if x.device.type == "cpu" else len(x)


@final
class ConvPool(nn.Module):
    """Convolution of width 3, ReLU, max-pooling by 2, positions before channels.

    Parameters
    ----------
    channels, filters : int
        Channels in and out.

    Attributes
    ----------
    weight : [3 channels, filters]
        Row ``k * channels + c`` is tap k of channel c; `torch.nn.Conv1d` keeps [filters, channels,
        3].
    bias : [filters]
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(KERNEL * channels)  # as torch.nn.Conv1d draws its weights
        self.weight = nn.Parameter(torch.empty(KERNEL * channels, filters).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(filters).uniform_(-bound, bound))

    def forward(
        self, x: Float[Tensor, "clips length channels"]
    ) -> Float[Tensor, "clips pooled filters"]:
        """Return the pooled activations; ``pooled = (length - 2) // 2``, length at least 4."""
        out: Tensor = _ConvPool.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


@final
class Standardise(nn.Module):
    """Each feature to mean 0 and deviation 1: of its batch in training, of running averages after.

    Batch normalisation (Ioffe & Szegedy 2015) without scale and shift. The first batch sets the
    averages, so that a training of few steps leaves sound ones; a batch of one clip uses them. A
    prediction never depends on its batch.

    Parameters
    ----------
    width : int
        Number of features.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Float[Tensor, "clips width"]) -> Float[Tensor, "clips width"]:
        """Return the standardised features."""
        learn = self.training and len(x) > 1
        if learn:
            self.batches += 1
        momentum = max(0.1, 1 / max(int(self.batches), 1))
        return nn.functional.batch_norm(
            x, self.mean, self.variance, training=learn, momentum=momentum
        )


@final
class ConvTrunk(nn.Module):
    """Two convolution blocks over an embedding read as a sequence, flattened and standardised.

    Without the standardisation nothing is learned behind attention: after ReLU and pooling all
    features are positive, a dense layer over thousands of them gives every clip nearly the same
    vector, and neither a LayerNorm nor a transport cost tells the clips apart (docs/recipe.md).

    Parameters
    ----------
    dim : int
        Width of the embedding; below 10 it is padded with zeros.
    filters : (int, int)
        Of the two blocks: (64, 128) for the paper's CNN head, (32, 64) for MATA's branches.

    Attributes
    ----------
    width : int
        Values per clip that come out.
    """

    def __init__(self, dim: int, filters: tuple[int, int]) -> None:
        super().__init__()
        self.padding = max(SHORTEST - dim, 0)
        self.blocks = nn.Sequential(ConvPool(1, filters[0]), ConvPool(*filters))
        length = dim + self.padding
        for _ in filters:
            length = (length - KERNEL + 1) // 2
        self.width = length * filters[1]
        self.standardise = Standardise(self.width)

    def forward(self, x: Float[Tensor, "clips dim"]) -> Float[Tensor, "clips width"]:
        """Return the flattened, standardised activations."""
        padded = nn.functional.pad(x, (0, self.padding)) if self.padding else x
        maps: Tensor = self.blocks(padded.unsqueeze(-1))
        standardised: Tensor = self.standardise(maps.flatten(1))
        return standardised


def classifier(width: int, classes: int, dropout: float, hidden: int = 128) -> nn.Sequential:
    """Return the last layers of all networks: dense 128, ReLU, dropout, dense to the classes."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
    )


@final
class FCN(nn.Module):
    """Dense 128, ReLU, dropout, dense to the classes.

    Parameters
    ----------
    dim, classes : int
        Width of the embedding and number of classes.
    dropout : float
        Share of hidden units dropped in training, in [0, 1).
    """

    def __init__(self, dim: int, classes: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.layers = classifier(dim, classes, dropout)

    def forward(self, x: Float[Tensor, "clips dim"]) -> Float[Tensor, "clips classes"]:
        """Return the logits."""
        logits: Tensor = self.layers(x)
        return logits


@final
class CNN(nn.Module):
    """Two convolution blocks (64 and 128 filters), dropout, then the layers of `FCN`.

    Parameters
    ----------
    dim, classes : int
        Width of the embedding and number of classes.
    dropout : float
        Share of the blocks' outputs and of hidden units dropped in training, in [0, 1).
    """

    def __init__(self, dim: int, classes: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.trunk = ConvTrunk(dim, (64, 128))
        self.dropout = nn.Dropout(dropout)
        self.layers = classifier(self.trunk.width, classes, dropout)

    def forward(self, x: Float[Tensor, "clips dim"]) -> Float[Tensor, "clips classes"]:
        """Return the logits."""
        logits: Tensor = self.layers(self.dropout(self.trunk(x)))
        return logits


def build_head(kind: str, dim: int, classes: int, dropout: float) -> FCN | CNN:
    """Return a head by its name.

    Raises
    ------
    SettingsError
        If there is no such head.
    """
    if kind == "fcn":
        return FCN(dim, classes, dropout)
    if kind == "cnn":
        return CNN(dim, classes, dropout)
    raise SettingsError(f"A head is 'fcn' or 'cnn', got '{kind}'.")
