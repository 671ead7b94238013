"""Features standardised along the clips, some of them dropped.

Batch normalisation (Ioffe & Szegedy 2015) without scale and shift, then dropout: over thousands of
features of a convolution both together are memory traffic alone. On a CPU they are one compiled
loop, which reads and writes everything once or twice where torch needs some fifteen operations.
"""

from __future__ import annotations

from functools import cache
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nver.heads import loops
from nver.heads.layers import Batch, Dropout
from nver.heads.products import product, sums


@final
class _StandardiseBatch(torch.autograd.Function):
    """Weighted standardisation along the clips; also returns the batch's mean and variance.

    With weights w that sum to 1: m = sum w x, v = sum w (x - m)^2, out = (x - m) / sqrt(v + e), and
    back dx = (g - w sum g - w out sum(g out)) / sqrt(v + e), rows of weight 0 passing nothing on.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean = product(weights, x)
        out = x - mean
        variance = product(weights, out.square())
        scale = (variance + eps).rsqrt()
        out.mul_(scale)
        ctx.save_for_backward(out, weights, scale)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        out, weights, scale = ctx.saved_tensors
        column = weights.mT
        shared = sums(gradient).unsqueeze(-2)
        along = sums(gradient * out).unsqueeze(-2)
        inner = torch.addcmul(shared, out, along).mul_(column)
        return torch.sub(gradient, inner, out=inner).mul_(scale), None, None


@final
class _OneLoop(torch.autograd.Function):
    """As `_StandardiseBatch`, then dropout, by compiled loops; moves the layer's averages."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, bits: Tensor | None, layer: Standardise
    ) -> Tensor:
        x = x.contiguous()
        mean, factor, out = (
            torch.empty_like(layer.mean),
            torch.empty_like(layer.mean),
            torch.empty_like(x),
        )
        x_, weights_, mean_, factor_, out_ = (
            tensor.numpy() for tensor in (x, weights, mean, factor, out)
        )
        own = layer.batches.numpy(), layer.mean.numpy(), layer.variance.numpy()
        loops.moments(x_, weights_, *own, layer.eps, mean_, factor_)
        drop = layer.dropout
        drawn = torch.empty((0, 0, 0), dtype=torch.int16) if bits is None else bits
        ctx.drop = drawn.numpy(), drop.threshold, x_.dtype.type(drop.scale)
        loops.standardise(x_, mean_, factor_, ctx.drop, out_)
        ctx.save_for_backward(x, mean, factor, weights)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        given = gradient.contiguous(), *ctx.saved_tensors
        d_x = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        loops.standardise_back(*(tensor.numpy() for tensor in given), ctx.drop, d_x.numpy())
        return d_x, None, None, None


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        layer = Standardise(1, 0.5).to(dtype)
        for name, value in list(layer.named_buffers()):
            setattr(layer, name, value.unsqueeze(0))
        x = torch.ones(1, 2, 1, dtype=dtype, requires_grad=True)
        bits = torch.zeros(1, 2, 1, dtype=torch.int16)
        with torch.enable_grad():
            out = _OneLoop.apply(x, torch.ones(1, 2, dtype=dtype), bits, layer)  # type: ignore[no-untyped-call]
            out.sum().backward()

    return loops.run("Standardisation", once)


@final
class Standardise(nn.Module):
    """Each feature to mean 0 and deviation 1: of its batch in training, of running averages after.

    Batch normalisation (Ioffe & Szegedy 2015) without scale and shift, then dropout. The first
    batch sets the averages, so that a training of few steps leaves sound ones; a batch of one clip
    uses them. A prediction never depends on its batch.

    Parameters
    ----------
    width : int
        Number of features.
    share : float
        Share of the standardised features dropped in training.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor
    eps = 1e-5

    def __init__(self, width: int, share: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.dropout = Dropout(width, share)

    def forward(
        self, x: Float[Tensor, "*members clips width"], batch: Batch | None = None
    ) -> Float[Tensor, "*members clips width"]:
        """Return the standardised features, dropped ones set to 0."""
        if batch is None or batch.bits is None:
            return self._by_averages(x)
        present = x.new_ones(x.shape[:-1])
        if batch.present is not None:
            present.copy_(batch.present)
        if self.mean.dim() == 2 and x.device.type == "cpu" and loops_work(x.dtype):
            made: Tensor = _OneLoop.apply(x, present, self.dropout.bits(batch), self)  # type: ignore[no-untyped-call]
            return made
        count = present.sum(-1, keepdim=True)
        weights = present / count.clamp(min=1)
        out, mean, variance = _StandardiseBatch.apply(x, weights.unsqueeze(-2), self.eps)  # type: ignore[no-untyped-call]
        enough = self._learn(mean.squeeze(-2), variance.squeeze(-2), count)
        if x.shape[-2] == 1 or batch.present is not None:
            out = torch.where(enough.unsqueeze(-1), out, self._by_averages(x))
        standardised: Tensor = self.dropout(out, batch)
        return standardised

    @staticmethod
    def balanced(
        x: Float[Tensor, "*members clips width"], batch: Batch | None
    ) -> Bool[Tensor, "*members clips"] | None:
        """Return the clips of which the gradients at x sum to 0; None: not even those of all do.

        A shift of a feature of all clips is taken away again where the batch says the mean.
        """
        if batch is None or batch.bits is None:
            return None
        present = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        if batch.present is not None:
            present.copy_(batch.present)
        return present & (present.sum(-1, keepdim=True) > 1)

    def _by_averages(self, x: Tensor) -> Tensor:
        scale = (self.variance + self.eps).rsqrt()
        return (x - self.mean.unsqueeze(-2)) * scale.unsqueeze(-2)

    @torch.no_grad()
    def _learn(self, mean: Tensor, variance: Tensor, count: Tensor) -> Tensor:
        """Move the averages of the members that have a batch worth the name; return which do."""
        enough = count > 1
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.batches += enough.squeeze(-1)
        momentum = (1 / self.batches.clamp(min=1)).clamp(min=0.1).unsqueeze(-1) * enough
        self.mean.lerp_(mean, momentum.to(mean.dtype))
        self.variance.lerp_(unbiased, momentum.to(mean.dtype))
        return enough
