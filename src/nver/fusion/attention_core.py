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
from nver.heads.loops import run

HEADS = 8
FIRST_MAP = 8
"""Place of the first map among the arguments of `_Attend`."""


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
    """Tokens x [members, own, clips, width] and their images: all attend, all are normalised.

    An image of token s is T x[:, s], T [members, clips, clips]. Its projections are the images of
    those of s, which costs a quarter of projecting it.

    Inside, an axis order of (members, heads, width of a head, tokens, clips) is kept throughout.
    """

    @staticmethod
    def forward(  # noqa: PLR0913 - torch wants every tensor as an argument of its own
        ctx: Any,
        x: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        scale: Tensor,
        shift: Tensor,
        known: Known,
        *maps: Tensor,
    ) -> Tensor:
        members, own, clips, width = x.shape
        rows = x.view(members, own * clips, width)
        projected = torch.bmm(w_in, rows.mT)
        moved = x.new_empty(len(maps), members, 3 * width, clips)
        images = x.new_empty(len(maps), members, clips, width)
        for k, (source, image) in enumerate(zip(known.sources, maps, strict=True)):
            part = projected[:, :, source * clips : (source + 1) * clips]
            torch.bmm(part, image.mT, out=moved[k])
            torch.bmm(image, x[:, source], out=images[k])
        ctx.compiled = x.device.type == "cpu" and loops_work(x.dtype)
        attend_all = _attend_compiled if ctx.compiled else _attend_torch
        seen, weights, kept = attend_all(projected, moved, b_in, known)
        joined = torch.bmm(seen.mT, w_out.mT).view(members, own + len(maps), clips, width)
        norm = residual.compiled if ctx.compiled else residual.plain
        out, normed, deviations = norm((x, images), joined, b_out, scale, shift, known.counts)
        ctx.known = known
        made = (projected, moved, seen, weights, kept, normed, deviations)
        ctx.save_for_backward(x, w_in, b_in, w_out, scale, *made, *maps)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, w_in, b_in, w_out, scale, *made = ctx.saved_tensors
        projected, moved, seen, weights, kept, normed, deviations, *maps = made
        members, own, clips, width = x.shape
        norm_back = residual.compiled_back if ctx.compiled else residual.plain_back
        given = (gradient.contiguous(), ctx.known.counts, scale, normed, deviations)
        d_tokens, d_scale, d_shift, d_b_out = norm_back(*given)
        d_joined = d_tokens.view(members, -1, width)
        d_w_out = torch.bmm(d_joined.mT, seen.mT)
        d_seen = torch.bmm(w_out.mT, d_joined.mT)
        back = _back_compiled if ctx.compiled else _back_torch
        d_projected, d_b_in = back(d_seen, projected, moved, b_in, weights, kept)
        d_own, rows = d_projected[:, :, : own * clips], d_joined[:, : own * clips]
        d_maps: list[Tensor | None] = [None] * len(maps)
        for k, (source, image) in enumerate(zip(ctx.known.sources, maps, strict=True)):
            at, place = (slice(token * clips, (token + 1) * clips) for token in (source, own + k))
            if ctx.needs_input_grad[FIRST_MAP + k]:
                d_map = torch.bmm(d_projected[:, :, place].mT, projected[:, :, at])
                d_maps[k] = d_map.baddbmm_(d_joined[:, place], x[:, source].mT)
            # Two operations: a product into a part of an array is done member by member.
            d_own[:, :, at].add_(torch.bmm(d_projected[:, :, place], image))
            rows[:, at].add_(torch.bmm(image.mT, d_joined[:, place]))
        d_w_in = torch.bmm(d_own, x.view(members, own * clips, width))
        d_x = torch.bmm(d_own.mT, w_in).add_(rows).view(x.shape)
        return d_x, d_w_in, d_b_in, d_w_out, d_b_out, d_scale, d_shift, None, *d_maps


def _attend_compiled(
    projected: Tensor, moved: Tensor, b_in: Tensor, known: Known
) -> tuple[Tensor, Tensor, Tensor]:
    members, rows, width = projected.shape
    tokens, depth = len(known.counts), rows // (3 * HEADS)
    columns = width // (tokens - len(moved)) * tokens
    weights = projected.new_empty(members, tokens, HEADS * columns)
    kept, drop = weights, known.drop
    if drop is None:
        none = torch.empty(0, dtype=torch.int16)
        drop = Drop(none.view(0, 0, 0), none.view(0, tokens), known.counts)
    else:
        kept = torch.empty_like(weights)
    seen = projected.new_empty(members, HEADS, depth, columns)
    given = (projected, moved, b_in.contiguous(), known.counts, *drop, weights, kept, seen)
    loops.attend(*(part.numpy() for part in given))
    return seen.view(members, -1, columns), weights, kept


def _back_compiled(
    d_seen: Tensor, projected: Tensor, moved: Tensor, b_in: Tensor, weights: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    members, width, columns = d_seen.shape
    d_projected = d_seen.new_empty(members, 3, HEADS, width // HEADS, columns)
    d_shift = d_seen.new_empty(members, 3 * width)
    by_heads = d_seen.view(members, HEADS, -1, columns)
    given = (by_heads, projected, moved, b_in.contiguous(), weights, kept, d_projected, d_shift)
    loops.attend_back(*(part.numpy() for part in given))
    return d_projected.view(members, -1, columns), d_shift


def _attend_torch(
    projected: Tensor, moved: Tensor, b_in: Tensor, known: Known
) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values = _all_tokens(projected, moved, b_in, len(known.counts))
    scores = _products(queries, keys).mul_(1 / math.sqrt(queries.shape[2]))
    scores.add_(known.counts.log().unsqueeze(-1))
    weights = torch.softmax(scores, dim=-2)
    kept = weights if known.drop is None else weights * known.drop.factors(weights)
    return _mix(kept, values).flatten(1, 2).flatten(2), weights, kept


def _back_torch(
    d_seen: Tensor, projected: Tensor, moved: Tensor, b_in: Tensor, weights: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    tokens = weights.shape[2]
    queries, keys, values = _all_tokens(projected, moved, b_in, tokens)
    given = d_seen.view(values.shape)
    d_scores = _products(given, values).mul_(kept)
    d_scores.addcmul_(weights, d_scores.sum(-2, keepdim=True), value=-1)
    d_scores.mul_(1 / math.sqrt(queries.shape[2]))
    parts = (
        _mix(d_scores, keys),
        _mix(d_scores.transpose(2, 3), queries),
        _mix(kept.transpose(2, 3), given),
    )
    d_projected = torch.stack(parts, dim=1).view(*projected.shape[:2], -1)
    return d_projected, d_projected.sum(-1)


def _all_tokens(
    projected: Tensor, moved: Tensor, b_in: Tensor, tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values [members, heads, depth, tokens, clips]."""
    whole = torch.cat([projected, *moved], dim=2).add_(b_in.unsqueeze(-1))
    members, rows, columns = whole.shape
    shape = (members, 3, HEADS, rows // (3 * HEADS), tokens, columns // tokens)
    queries, keys, values = whole.view(shape).unbind(1)
    return queries, keys, values


def attend(
    x: Float[Tensor, "members own clips width"],
    layers: Sequence[Tensor],
    known: Known,
    maps: Sequence[Float[Tensor, "members clips clips"]],
) -> Float[Tensor, "members clips columns"]:
    """Return the tokens of each clip side by side: LayerNorm(x + attention(x)), times its count.

    Parameters
    ----------
    x : float [members, own, clips, width]
        The tokens that are no images.
    layers : sequence of tensor
        Weight and bias of the projections [members, 3 width, width], [members, 3 width], of the
        last layer [members, width, width], [members, width], and of the LayerNorm [members, width].
    known : Known
    maps : sequence of float [members, clips, clips]
        T of each image.
    """
    out: Tensor = _Attend.apply(x.contiguous(), *layers, known, *maps)  # type: ignore[no-untyped-call]
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
        known, none = Known(flat[0, :1], drop, ()), x[:0]
        given = wide.unsqueeze(2), x.new_ones(0, 1, 1, 1), wide
        seen, *weights = _attend_compiled(*given, known)
        _back_compiled(seen, *given, *weights)
        out, *kept = residual.compiled((x, none), x.clone(), flat, flat, flat, known.counts)
        residual.compiled_back(out, known.counts, flat, *kept)

    return run("Attention", once)
