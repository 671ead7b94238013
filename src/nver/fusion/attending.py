"""Self-attention among a clip's few tokens, shared by the fusions that have it.

Among six tokens attention is a product of 6 x 15 by 15 x 6 numbers per clip and head: too small for
a matrix product each. Here clips are the innermost axis, so that all of it is elementwise over
contiguous rows, and only the projections are matrix products. On a CPU two compiled loops (`loops`)
do it, ten times faster than torch operations, which do it elsewhere and where numba is missing.

MATA repeats tokens: of its six, x_a and x_b come twice. Equal tokens have equal queries, keys and
values, so these are computed once; a key that stands c times counts c times in the softmax.
Attention weights are dropped as if every copy stood alone (see `SelfAttention`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion import loops
from nver.heads import Batch, LayerNorm, Linear, Random
from nver.heads.layers import LEVELS
from nver.heads.loops import run

HEADS = 8
DROPOUT = 0.1
"""Share of attention weights dropped in training. Among two or six tokens the 0.5 of the dense
layers drops too much: it costs a point of UAR (docs/recipe.md)."""


@final
class SelfAttention(Random):
    """Multi-head self-attention over tokens, residual, LayerNorm (Vaswani et al. 2017).

    A weight among T tokens is dropped with probability 0.1. Of the c copies of a key, each with the
    same weight, a binomial number of c survives: this number is drawn, not each copy's fate.

    Parameters
    ----------
    width : int
        Of a token; a multiple of the 8 heads.
    copies : sequence of int
        Which of the distinct tokens each token is, from 0 on.
    """

    kinds: Tensor
    log_counts: Tensor
    levels: Tensor
    shares: Tensor

    def __init__(self, width: int, copies: Sequence[int]) -> None:
        distinct = max(copies) + 1
        super().__init__(HEADS * len(copies) * distinct)
        counted = Counter(copies)
        counts = [counted[kind] for kind in range(distinct)]
        self.distinct = distinct
        self.inner = Linear(width, 3 * width)
        self.outer = Linear(width, width)
        self.norm = LayerNorm(width)
        shared = {
            "kinds": torch.tensor(copies),
            "log_counts": torch.tensor(counts, dtype=torch.float64).log().unsqueeze(-1),
            "levels": _levels(counts),
            "shares": torch.tensor([1 / (count * (1 - DROPOUT)) for count in counts]).unsqueeze(-1),
        }
        for name, values in shared.items():
            self.register_buffer(name, values, persistent=False)

    def forward(
        self, x: Float[Tensor, "*members distinct clips width"], batch: Batch | None = None
    ) -> Float[Tensor, "*members tokens clips width"]:
        """Return LayerNorm(x + attention(x)) of every token, from the distinct ones."""
        layers = (self.inner, self.outer)
        parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
        rows = x
        if x.dim() == 3:
            rows = x.unsqueeze(0)
            parameters = [p.unsqueeze(0) for p in parameters]
        joined = _Attend.apply(  # type: ignore[no-untyped-call]
            rows, *parameters, self.kinds, self.log_counts, self._survivors(batch)
        )
        tokens = x.index_select(-3, self.kinds)
        whole = tokens + joined.view_as(tokens)
        normed: Tensor = self.norm(whole.flatten(-3, -2))
        return normed.view_as(tokens)

    def _survivors(self, batch: Batch | None) -> Tensor | None:
        """Return each key's surviving share over 1 - 0.1, [members, heads, tokens, keys, clips]."""
        if batch is None or batch.bits is None:
            return None
        bits = batch.bits(self).mT.contiguous()
        bits = bits.view(len(bits), HEADS, len(self.kinds), self.distinct, -1)
        survivors = (bits > self.levels[0]).to(self.shares.dtype)
        for level in self.levels[1:]:
            survivors += bits > level
        return survivors.mul_(self.shares)


def _levels(counts: Sequence[int]) -> Tensor:
    """Return int16 levels [most copies, keys, 1]: P(bits > level r) = P(more than r survive)."""
    levels = torch.full((max(counts), len(counts), 1), LEVELS // 2 - 1, dtype=torch.int16)
    for key, count in enumerate(counts):
        at_most = 0.0
        for survive in range(count):
            chance = (1 - DROPOUT) ** survive * DROPOUT ** (count - survive)
            at_most += math.comb(count, survive) * chance
            levels[survive, key] = round(at_most * LEVELS) - LEVELS // 2 - 1
    return levels


@final
class _Attend(torch.autograd.Function):
    """Projections and attention of x [members, distinct, clips, width].

    Inside, an axis order of (members, heads, width of a head, tokens, clips) is kept throughout.
    """

    @staticmethod
    def forward(  # noqa: PLR0913 - an autograd function takes tensors one by one
        ctx: Any,
        x: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        kinds: Tensor,
        log_counts: Tensor,
        survivors: Tensor | None,
    ) -> Tensor:
        members, distinct, clips, width = x.shape
        rows = x.reshape(members, distinct * clips, width)
        projected = torch.baddbmm(b_in.unsqueeze(-1), w_in, rows.mT)
        split = projected.view(members, 3, HEADS, width // HEADS, distinct, clips)
        scores = _products(split, 0, split, 1)
        scores.mul_(1 / math.sqrt(width // HEADS)).add_(log_counts.to(scores.dtype))
        weights = torch.softmax(scores, dim=-2)
        kept = weights.index_select(2, kinds)
        if survivors is not None:
            kept.mul_(survivors)
        seen = projected.new_empty(members, 1, HEADS, width // HEADS, len(kinds), clips)
        _mix(kept, split, 2, seen, 0)
        columns = seen.view(members, width, len(kinds) * clips)
        ctx.save_for_backward(rows, w_in, w_out, kinds, survivors, split, weights, kept, columns)
        return torch.baddbmm(b_out.unsqueeze(1), columns.mT, w_out.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, w_in, w_out, kinds, survivors, split, weights, kept, columns = ctx.saved_tensors
        members, _, heads, depth, distinct, clips = split.shape
        d_seen = torch.bmm(w_out.mT, gradient.mT)
        d_seen = d_seen.view(members, 1, heads, depth, len(kinds), clips)
        d_split = torch.empty_like(split)
        _mix(kept, d_seen, 0, d_split, 2, turned=True)
        d_kept = _products(d_seen, 0, split, 2)
        if survivors is not None:
            d_kept.mul_(survivors)
        d_weights = torch.zeros_like(weights).index_add_(2, kinds, d_kept).mul_(weights)
        d_scores = d_weights.addcmul_(weights, d_weights.sum(-2, keepdim=True), value=-1)
        d_scores.mul_(1 / math.sqrt(depth))
        _mix(d_scores, split, 1, d_split, 0)
        _mix(d_scores, split, 0, d_split, 1, turned=True)
        d_projected = d_split.view(members, -1, distinct * clips)
        d_x = torch.bmm(d_projected.mT, w_in).view(members, distinct, clips, -1)
        d_w_in, d_b_in = torch.bmm(d_projected, rows), d_projected.sum(-1)
        d_w_out, d_b_out = torch.bmm(gradient.mT, columns.mT), gradient.sum(1)
        return d_x, d_w_in, d_b_in, d_w_out, d_b_out, None, None, None


def _products(a: Tensor, part_a: int, b: Tensor, part_b: int) -> Tensor:
    """Return the sums over d of a[m, part_a, h, d, i, c] * b[m, part_b, h, d, j, c]."""
    members, _, heads, _, rows, clips = a.shape
    if a.device.type == "cpu" and _loops_work(a.dtype):
        out = a.new_empty(members, heads, rows, b.shape[4], clips)
        loops.products(a.numpy(), part_a, b.numpy(), part_b, out.numpy())
        return out
    return _combine(a[:, part_a].unsqueeze(-2), b[:, part_b].unsqueeze(-3), 2)


def _mix(  # noqa: PLR0913 - two tensors, which part of each, and where the sums go
    weights: Tensor, b: Tensor, part_b: int, out: Tensor, part: int, *, turned: bool = False
) -> None:
    """Set out[m, part, h, d, i, c] to the sums over j of weights[m, h, i, j, c] * b[..., j, c]."""
    if b.device.type == "cpu" and _loops_work(b.dtype):
        loops.mix(weights.numpy(), turned, b.numpy(), part_b, out.numpy(), part)
        return
    straight = weights.transpose(2, 3) if turned else weights
    mixed = _combine(straight.unsqueeze(2), b[:, part_b].unsqueeze(3), -2)
    out[:, part] = mixed


def _combine(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Return the sum of a * b over an axis of few entries, without the product in memory."""
    first, *others = zip(a.unbind(axis), b.unbind(axis), strict=True)
    total = torch.mul(*first)
    for pair in others:
        total.addcmul_(*pair)
    return total


@cache
def _loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        one = torch.ones((1,) * 6, dtype=dtype).numpy()
        loops.products(one, 0, one, 0, one[0].copy())
        loops.mix(one[0], False, one, 0, one.copy(), 0)

    return run("Attention", once)
