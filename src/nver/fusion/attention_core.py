"""The sums of attention among few tokens, forward and back, for one network or a stack.

Among four tokens attention is a product of 4 x 15 by 15 x 4 numbers per clip and head: too small
for a matrix product each. Here clips are the innermost axis, so that all of it is elementwise over
contiguous rows, and only the projections are matrix products. On a CPU one compiled loop (`loops`)
does it each way; torch operations do it elsewhere and where numba is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float, Int16
from torch import Tensor

from nver.fusion import loops
from nver.heads.loops import run

HEADS = 8
FIRST_MAP = 6
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


@final
class _Attend(torch.autograd.Function):
    """Projections and attention of x [members, tokens, clips, width].

    Tokens named in `moves` are images of others: (token, its source, T [members, clips, clips])
    says that x[:, token] = T x[:, source]. Their projections are the images of the source's, which
    costs a quarter of projecting them; they come after all tokens that are no images.

    Inside, an axis order of (members, heads, width of a head, tokens, clips) is kept throughout.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        given: tuple[Tensor, Drop | None, Sequence[tuple[int, int]]],
        *maps: Tensor,
    ) -> Tensor:
        log_counts, drop, moves = given
        members, tokens, clips, width = x.shape
        own = tokens - len(moves)
        rows = x[:, :own].reshape(members, own * clips, width)
        projected = x.new_empty(members, 3 * width, tokens * clips)
        torch.bmm(w_in, rows.mT, out=projected[:, :, : own * clips])
        places = projected.view(members, 3 * width, tokens, clips)
        for (token, source), image in zip(moves, maps, strict=True):
            torch.bmm(places[:, :, source], image.mT, out=places[:, :, token])
        split = projected.view(members, 3, HEADS, width // HEADS, tokens, clips)
        ctx.compiled = x.device.type == "cpu" and loops_work(x.dtype)
        attend_all = _attend_compiled if ctx.compiled else _attend_torch
        seen, weights, survivors = attend_all(split, b_in, log_counts, drop)
        columns = seen.view(members, width, tokens * clips)
        ctx.moves = moves
        ctx.save_for_backward(rows, w_in, b_in, w_out, split, weights, survivors, columns, *maps)
        return torch.baddbmm(b_out.unsqueeze(1), columns.mT, w_out.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, w_in, b_in, w_out, split, weights, survivors, columns, *maps = ctx.saved_tensors
        members, _, heads, depth, tokens, clips = split.shape
        d_seen = torch.bmm(w_out.mT, gradient.mT).view(members, heads, depth, tokens, clips)
        back = _back_compiled if ctx.compiled else _back_torch
        d_projected, d_b_in = back(d_seen, split, weights, survivors)
        d_maps = _follow(ctx, d_projected, split, b_in, maps)
        d_own = d_projected[:, :, : rows.shape[1]]
        d_x = rows.new_zeros(members, tokens * clips, rows.shape[2])
        torch.bmm(d_own.mT, w_in, out=d_x[:, : rows.shape[1]])
        d_w_in = torch.bmm(d_own, rows)
        d_w_out, d_b_out = torch.bmm(gradient.mT, columns.mT), gradient.sum(1)
        return d_x.view(members, tokens, clips, -1), d_w_in, d_b_in, d_w_out, d_b_out, None, *d_maps


def _attend_compiled(
    split: Tensor, shift: Tensor, log_counts: Tensor, drop: Drop | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    members, _, heads, depth, tokens, clips = split.shape
    weights = split.new_empty(members, heads, tokens, tokens * clips)
    survivors = None if drop is None else torch.empty_like(weights)
    if drop is None:
        none = torch.empty(0, dtype=torch.int16)
        drop = Drop(none.view(0, 0, 0), none.view(0, 0), log_counts)
    seen = split.new_empty(members, heads, depth, tokens * clips)
    projected, shift = split.flatten(-2), shift.contiguous().view(members, 3, heads, depth)
    made = (weights, weights[:0] if survivors is None else survivors, seen)
    given = (projected, shift, log_counts, drop.bits, drop.levels, drop.shares, *made)
    loops.attend(*(part.numpy() for part in given))
    return seen, weights, survivors


def _back_compiled(
    d_seen: Tensor, split: Tensor, weights: Tensor, survivors: Tensor | None
) -> tuple[Tensor, Tensor]:
    d_projected = torch.empty_like(split).flatten(-2)
    d_shift = d_projected.new_empty(d_projected.shape[:-1])
    kept = weights[:0] if survivors is None else survivors
    given = (d_seen.flatten(-2), split.flatten(-2), weights, kept, d_projected, d_shift)
    loops.attend_back(*(part.numpy() for part in given))
    return d_projected.flatten(1, 3), d_shift.flatten(1)


def _attend_torch(
    split: Tensor, shift: Tensor, log_counts: Tensor, drop: Drop | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    split += shift.view(*split.shape[:4], 1, 1)
    scores = _products(split[:, 0], split[:, 1]).mul_(1 / math.sqrt(split.shape[3]))
    weights = torch.softmax(scores.add_(log_counts.to(scores.dtype).unsqueeze(-1)), dim=-2)
    survivors = None if drop is None else drop.factors(weights)
    kept = weights if survivors is None else weights * survivors
    return _mix(kept, split[:, 2]), weights, survivors


def _back_torch(
    d_seen: Tensor, split: Tensor, weights: Tensor, survivors: Tensor | None
) -> tuple[Tensor, Tensor]:
    kept = weights if survivors is None else weights * survivors
    d_kept = _products(d_seen, split[:, 2]).mul_(kept)
    d_scores = d_kept.addcmul_(weights, d_kept.sum(-2, keepdim=True), value=-1)
    d_scores.mul_(1 / math.sqrt(split.shape[3]))
    parts = (
        _mix(d_scores, split[:, 1]),
        _mix(d_scores.transpose(2, 3), split[:, 0]),
        _mix(kept.transpose(2, 3), d_seen),
    )
    d_projected = torch.stack(parts, dim=1).flatten(-2).flatten(1, 3)
    return d_projected, d_projected.sum(-1)


def _follow(
    ctx: Any, d_projected: Tensor, split: Tensor, b_in: Tensor, maps: Sequence[Tensor]
) -> list[Tensor | None]:
    """Pass the gradients of images on to their sources, in place; return those of the maps."""
    places = d_projected.view(*d_projected.shape[:2], -1, split.shape[-1])
    values = split.view(places.shape)
    d_maps: list[Tensor | None] = []
    for number, ((token, source), image) in enumerate(zip(ctx.moves, maps, strict=True)):
        d_image = places[:, :, token]
        wanted = ctx.needs_input_grad[FIRST_MAP + number]
        before = values[:, :, source] - b_in.unsqueeze(-1) if wanted else None
        d_maps.append(None if before is None else torch.bmm(d_image.mT, before))
        places[:, :, source].baddbmm_(d_image, image)
    return d_maps


def attend(
    x: Float[Tensor, "members tokens clips width"],
    layers: Sequence[Tensor],
    log_counts: Float[Tensor, " tokens"],
    drop: Drop | None,
    moves: Sequence[tuple[int, int]],
    maps: Sequence[Float[Tensor, "members clips clips"]],
) -> Float[Tensor, "members rows width"]:
    """Return what every token sees, projected; rows are tokens times clips.

    Parameters
    ----------
    x : float [members, tokens, clips, width]
        The distinct tokens.
    layers : sequence of tensor
        Weight and bias of the projections [members, 3 width, width], [members, 3 width] and of the
        last layer [members, width, width], [members, width].
    log_counts : float [tokens]
        Logarithm of how many copies each of them stands for as a key.
    drop : Drop, optional
        Dropout of the attention weights.
    moves : sequence of (int, int)
        Tokens that are images of others, and these.
    maps : sequence of float [members, clips, clips]
        T of each of them, with x[:, token] = T x[:, source].
    """
    given = (log_counts.to(x.dtype), drop, moves)
    seen: Tensor = _Attend.apply(x, *layers, given, *maps)  # type: ignore[no-untyped-call]
    return seen


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
        split = torch.ones(1, 3, 1, 1, 1, 1, dtype=dtype)
        bits = torch.zeros(1, 1, 1, dtype=torch.int16)
        drop = Drop(bits, bits[0], split.flatten())
        seen, weights, survivors = _attend_compiled(split, split.view(1, 3), split.flatten(), drop)
        _back_compiled(seen.unsqueeze(-1), split, weights, survivors)

    return run("Attention", once)
