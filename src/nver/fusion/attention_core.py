"""Attention among few tokens, its residual and LayerNorm, forward and back, for stacked networks.

Among four tokens attention is a product of 4 x 15 by 15 x 4 numbers per clip and head: too small
for a matrix product each. Here clips are the innermost axis, so that all of it is elementwise over
contiguous rows, and only the projections are matrix products. On a CPU compiled loops (`loops`) do
it each way; torch operations do it elsewhere and where numba is missing.

All is one operation for torch: with some thirty small ones, their dispatch would cost as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float, Int16
from torch import Tensor

from nver.fusion import loops, residual
from nver.fusion.batch_plans import ONE
from nver.heads.loops import run
from nver.heads.products import accumulate, multiply, multiply_add, sums

HEADS = 8
FIRST_TOKEN = 7
"""Place of the first token among the arguments of `_Attend`."""


class Drop(NamedTuple):
    """What decides which attention weights survive.

    Parameters
    ----------
    bits : int16 [members, clips, heads * tokens * tokens]
        Of query i and key (i + r) modulo tokens at r * tokens + i of a head's.
    levels : int16 [copies, tokens]
        Bits above level number n let more than n copies of a key survive.
    shares : float [tokens]
        By what each survivor's weight is multiplied.
    """

    bits: Int16[Tensor, "members clips pairs"]
    levels: Int16[Tensor, "copies tokens"]
    shares: Float[Tensor, " tokens"]

    def factors(self, like: Tensor) -> Float[Tensor, "members heads tokens tokens clips"]:
        """Return the factor of each weight of query i for key j."""
        tokens, places = len(self.shares), torch.arange(len(self.shares), device=like.device)
        order = (places - places.unsqueeze(1)) % tokens * tokens + places.unsqueeze(1)
        bits = self.bits.reshape(*self.bits.shape[:2], HEADS, -1)[..., order].permute(0, 2, 3, 4, 1)
        count = torch.zeros(bits.shape, dtype=like.dtype, device=like.device)
        for level in self.levels:
            count += bits > level.unsqueeze(-1)
        return count.mul_(self.shares.unsqueeze(-1).to(like.dtype))


class Known(NamedTuple):
    """What is no parameter of the network.

    Parameters
    ----------
    counts : float [tokens]
        How many copies each token stands for.
    drop : Drop, optional
        Dropout of the attention weights.
    sources : sequence of int
        Of which token each image is one.
    """

    counts: Float[Tensor, " tokens"]
    drop: Drop | None
    sources: Sequence[int]


@final
class _Attend(torch.autograd.Function):
    """Tokens [members, clips, width] and images of them: all attend, all are normalised.

    An image of token s is T x_s, T [members, clips, clips]. Its projections are the images of those
    of s, which costs a quarter of projecting it.

    Every token has arrays of its own: a product into a part of one would be done member by member.
    """

    @staticmethod
    def forward(
        ctx: Any,
        known: Known,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        scale: Tensor,
        shift: Tensor,
        *given: Tensor,
    ) -> Tensor:
        members, clips, width = given[0].shape
        own = known.counts.shape[0] - len(known.sources)
        maps = given[own:]
        x = [token.contiguous() for token in given[:own]]
        projected = w_in.new_empty(known.counts.shape[0], members, 3 * width, clips)
        projections = projected.unbind()
        for k in range(own):
            multiply(w_in, x[k].mT, out=projections[k])
        for k, (source, image) in enumerate(zip(known.sources, maps, strict=True), own):
            x.append(multiply(image, x[source]))
            multiply(projections[source], image.mT, out=projections[k])
        ctx.compiled = w_in.device.type == "cpu" and loops_work(w_in.dtype)
        attend_all = _attend_compiled if ctx.compiled else _attend_torch
        seen, weights, kept = attend_all(projected, b_in, known)
        joined = multiply(seen.mT, w_out.mT).view(members, len(x), clips, width)
        norm = residual.compiled if ctx.compiled else residual.plain
        out, normed, deviations = norm(x, joined, b_out, scale, shift, known.counts)
        ctx.known = known
        made = (projected, seen, weights, kept, normed, deviations)
        ctx.save_for_backward(w_in, b_in, w_out, scale, *made, *x[:own], *maps)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        w_in, b_in, w_out, scale, projected, *made = ctx.saved_tensors
        seen, weights, kept, normed, deviations, *rest = made
        own = ctx.known.counts.shape[0] - len(ctx.known.sources)
        x, maps = rest[:own], rest[own:]
        norm_back = residual.compiled_back if ctx.compiled else residual.plain_back
        given = (gradient.contiguous(), ctx.known.counts, scale, normed, deviations)
        d_tokens, d_scale, d_shift, d_b_out = norm_back(*given)
        d_joined = d_tokens.flatten(1, 2)
        d_w_out, d_seen = multiply(d_joined.mT, seen.mT), multiply(w_out.mT, d_joined.mT)
        back = _back_compiled if ctx.compiled else _back_torch
        d_projected, d_b_in = back(d_seen, projected, b_in, weights, kept)
        parts, rows = d_projected.unbind(), list(d_tokens.unbind(1))
        d_maps: list[Tensor | None] = [None] * len(maps)
        for k, (source, image) in enumerate(zip(ctx.known.sources, maps, strict=True), own):
            if ctx.needs_input_grad[FIRST_TOKEN + k]:
                d_map = multiply(parts[k].mT, projected[source])
                accumulate(d_map, rows[k], x[source].mT)
                d_maps[k - own] = d_map
            accumulate(parts[source], parts[k], image)
            rows[source] = multiply_add(rows[source], image.mT, rows[k])
        d_w_in = multiply(parts[0], x[0])
        for k in range(1, own):
            accumulate(d_w_in, parts[k], x[k])
        d_own = [multiply_add(rows[k], parts[k].mT, w_in) for k in range(own)]
        return None, d_w_in, d_b_in, d_w_out, d_b_out, d_scale, d_shift, *d_own, *d_maps


def _attend_compiled(
    projected: Tensor, b_in: Tensor, known: Known
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, members, rows, clips = projected.shape
    depth, columns = rows // (3 * HEADS), tokens * clips
    weights = projected.new_empty(members, tokens, HEADS * columns)
    drop = known.drop
    kept = weights if drop is None else torch.empty_like(weights)
    seen = projected.new_empty(members, HEADS * depth, columns)
    shift, counts = b_in.contiguous(), known.counts
    bits, levels, shares = drop or (counts, counts, counts)  # are not looked at without levels
    if drop is not None:
        bits, shares = bits.contiguous(), shares.to(counts.dtype)
    given = (projected, shift, counts, bits, levels, shares, weights, kept, seen)
    sizes = (members, tokens, clips, depth, 0 if drop is None else levels.shape[0], HEADS)
    loops.attend(sizes, ONE[projected.dtype], tuple([part.data_ptr() for part in given]))
    return seen, weights, kept


def _back_compiled(
    d_seen: Tensor, projected: Tensor, b_in: Tensor, weights: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    tokens, members, rows, clips = projected.shape
    d_projected, d_shift = torch.empty_like(projected), torch.empty_like(b_in)
    given = (d_seen, projected, b_in.contiguous(), weights, kept, d_projected, d_shift)
    sizes = (members, tokens, clips, rows // (3 * HEADS), 0, HEADS)
    loops.attend_back(sizes, ONE[projected.dtype], tuple([part.data_ptr() for part in given]))
    return d_projected, d_shift


def _attend_torch(projected: Tensor, b_in: Tensor, known: Known) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values = _by_heads(projected, b_in)
    scores = _products(queries, keys).mul_(1 / math.sqrt(queries.shape[2]))
    scores.add_(known.counts.log().unsqueeze(-1))
    weights = torch.softmax(scores, dim=-2)
    kept = weights if known.drop is None else weights * known.drop.factors(weights)
    return _mix(kept, values).flatten(1, 2).flatten(2), weights, kept


def _back_torch(
    d_seen: Tensor, projected: Tensor, b_in: Tensor, weights: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    queries, keys, values = _by_heads(projected, b_in)
    given = d_seen.view(values.shape)
    d_scores = _products(given, values).mul_(kept)
    d_scores.addcmul_(weights, d_scores.sum(-2, keepdim=True), value=-1)
    d_scores.mul_(1 / math.sqrt(queries.shape[2]))
    parts = (
        _mix(d_scores, keys),
        _mix(d_scores.transpose(2, 3), queries),
        _mix(kept.transpose(2, 3), given),
    )
    whole = torch.stack(parts, dim=1).view(*b_in.shape, len(projected), -1)
    return whole.permute(2, 0, 1, 3).contiguous(), sums(whole.flatten(2).mT)


def _by_heads(projected: Tensor, b_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values [members, heads, depth, tokens, clips]."""
    whole = projected.permute(1, 2, 0, 3) + b_in[:, :, None, None]
    members, rows, tokens, clips = whole.shape
    shape = (members, 3, HEADS, rows // (3 * HEADS), tokens, clips)
    queries, keys, values = whole.reshape(shape).unbind(1)
    return queries, keys, values


def attend(
    x: Sequence[Float[Tensor, "members clips width"]],
    layers: Sequence[Tensor],
    known: Known,
    maps: Sequence[Float[Tensor, "members clips clips"]],
) -> Float[Tensor, "members clips columns"]:
    """Return the tokens of each clip side by side: LayerNorm(x + attention(x)), times its count.

    Parameters
    ----------
    x : sequence of float [members, clips, width]
        The tokens that are no images.
    layers : sequence of tensor
        Weight and bias of the projections [members, 3 width, width], [members, 3 width], of the
        last layer [members, width, width], [members, width], and of the LayerNorm [members, width].
    known : Known
    maps : sequence of float [members, clips, clips]
        T of each image.
    """
    out: Tensor = _Attend.apply(known, *layers, *x, *maps)  # type: ignore[no-untyped-call]
    return out


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return the sums over d of a[m, h, d, i, c] * b[m, h, d, j, c]."""
    return _combine(a.unsqueeze(-2), b.unsqueeze(-3), 2)


def _mix(weights: Tensor, b: Tensor) -> Tensor:
    """Return [m, h, d, i, c], the sums over j of weights[m, h, i, j, c] * b[m, h, d, j, c]."""
    return _combine(weights.unsqueeze(2), b.unsqueeze(3), -2)


def _combine(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Return the sum of a * b over an axis of few entries, without the product in memory."""
    first, *others = zip(a.unbind(axis), b.unbind(axis), strict=True)
    total = torch.mul(*first)
    for pair in others:
        total.addcmul_(*pair)
    return total


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        x = torch.ones(1, 1, 1, HEADS, dtype=dtype)
        flat, wide = x[0, 0], x.new_ones(1, 3 * HEADS)
        drop = Drop(flat.view(1, 1, -1).short(), flat[:, :1].short(), flat[0, :1])
        known, projected = Known(flat[0, :1], drop, ()), wide.view(1, 1, -1, 1)
        seen, *weights = _attend_compiled(projected, wide, known)
        _back_compiled(seen, projected, wide, *weights)
        out, *kept = residual.compiled([x[0]], x.clone(), flat, flat, flat, known.counts)
        residual.compiled_back(out, known.counts, flat, *kept)

    return run("Attention", once)
