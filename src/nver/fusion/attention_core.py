"""The sums of attention among few tokens, forward and back, for one network or a stack.

Among six tokens attention is a product of 6 x 15 by 15 x 6 numbers per clip and head: too small for
a matrix product each. Here clips are the innermost axis, so that all of it is elementwise over
contiguous rows, and only the projections are matrix products. On a CPU two compiled loops (`loops`)
do it, ten times faster than torch operations, which do it elsewhere and where numba is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nver.fusion import loops
from nver.heads.loops import run

HEADS = 8
FIRST_MAP = 9
"""Place of the first map among the arguments of `_Attend`."""


@final
class _Attend(torch.autograd.Function):
    """Projections and attention of x [members, distinct, clips, width].

    Tokens named in `moves` are images of others: (token, its source, T [members, clips, clips])
    says that x[:, token] = T x[:, source]. Their projections are the images of the source's, which
    costs a quarter of projecting them; they come after all tokens that are no images.

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
        moves: Sequence[tuple[int, int]],
        *maps: Tensor,
    ) -> Tensor:
        members, distinct, clips, width = x.shape
        own = distinct - len(moves)
        rows = x[:, :own].reshape(members, own * clips, width)
        projected = x.new_empty(members, 3 * width, distinct * clips)
        torch.bmm(w_in, rows.mT, out=projected[:, :, : own * clips])
        places = projected.view(members, 3 * width, distinct, clips)
        for (token, source), image in zip(moves, maps, strict=True):
            torch.bmm(places[:, :, source], image.mT, out=places[:, :, token])
        projected.add_(b_in.unsqueeze(-1))
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
        ctx.moves, ctx.distinct = moves, distinct
        kept_for_later = (rows, w_in, b_in, w_out, kinds, survivors, split, weights, kept, columns)
        ctx.save_for_backward(*kept_for_later, *maps)
        return torch.baddbmm(b_out.unsqueeze(1), columns.mT, w_out.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, w_in, b_in, w_out, kinds, survivors, split, weights, kept, columns, *maps = (
            ctx.saved_tensors
        )
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
        d_b_in = d_projected.sum(-1)
        d_maps = _follow(ctx, d_projected, split, b_in, maps)
        d_own = d_projected[:, :, : rows.shape[1]]
        d_x = rows.new_zeros(members, distinct * clips, rows.shape[2])
        torch.bmm(d_own.mT, w_in, out=d_x[:, : rows.shape[1]])
        d_x = d_x.view(members, distinct, clips, -1)
        d_w_in = torch.bmm(d_own, rows)
        d_w_out, d_b_out = torch.bmm(gradient.mT, columns.mT), gradient.sum(1)
        return d_x, d_w_in, d_b_in, d_w_out, d_b_out, None, None, None, None, *d_maps


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
    x: Float[Tensor, "members distinct clips width"],
    layers: Sequence[Tensor],
    kinds: Int[Tensor, " tokens"],
    log_counts: Float[Tensor, "distinct 1"],
    survivors: Float[Tensor, "members heads tokens distinct clips"] | None,
    moves: Sequence[tuple[int, int]],
    maps: Sequence[Float[Tensor, "members clips clips"]],
) -> Float[Tensor, "members rows width"]:
    """Return what every token sees, projected; rows are tokens times clips.

    Parameters
    ----------
    x : float [members, distinct, clips, width]
        The distinct tokens.
    layers : sequence of tensor
        Weight and bias of the projections [members, 3 width, width], [members, 3 width] and of the
        last layer [members, width, width], [members, width].
    kinds : int [tokens]
        Which of the distinct tokens each token is.
    log_counts : float [distinct, 1]
        Logarithm of how many tokens each distinct one is.
    survivors : float [members, heads, tokens, distinct, clips], optional
        Factors of the attention weights, from dropout.
    moves : sequence of (int, int)
        Tokens that are images of others, and these.
    maps : sequence of float [members, clips, clips]
        T of each of them, with x[:, token] = T x[:, source].
    """
    seen: Tensor = _Attend.apply(  # type: ignore[no-untyped-call]
        x, *layers, kinds, log_counts, survivors, moves, *maps
    )
    return seen


def _products(a: Tensor, part_a: int, b: Tensor, part_b: int) -> Tensor:
    """Return the sums over d of a[m, part_a, h, d, i, c] * b[m, part_b, h, d, j, c]."""
    members, _, heads, _, rows, clips = a.shape
    if a.device.type == "cpu" and loops_work(a.dtype):
        out = a.new_empty(members, heads, rows, b.shape[4], clips)
        loops.products(a.numpy(), part_a, b.numpy(), part_b, out.numpy())
        return out
    return _combine(a[:, part_a].unsqueeze(-2), b[:, part_b].unsqueeze(-3), 2)


def _mix(
    weights: Tensor, b: Tensor, part_b: int, out: Tensor, part: int, *, turned: bool = False
) -> None:
    """Set out[m, part, h, d, i, c] to the sums over j of weights[m, h, i, j, c] * b[..., j, c]."""
    if b.device.type == "cpu" and loops_work(b.dtype):
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
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        one = torch.ones((1,) * 6, dtype=dtype).numpy()
        loops.products(one, 0, one, 0, one[0].copy())
        loops.mix(one[0], False, one, 0, one.copy(), 0)

    return run("Attention", once)
