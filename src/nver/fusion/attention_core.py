"""Attention among few tokens, its residual and LayerNorm, forward and back, for stacked networks.

Among four tokens attention is a product of 4 x 15 by 15 x 4 numbers per clip and head: too small
for a matrix product each. Here clips are the innermost axis, so that all of it is elementwise over
contiguous rows, and only the projections are matrix products. On a CPU compiled loops
(`attention_compiled`) do it each way; torch operations do it elsewhere and where numba is missing.

All is one operation for torch: with some thirty small ones, their dispatch would cost as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion import residual
from nver.fusion.attention_compiled import AttendCompiled
from nver.fusion.attention_inputs import FIRST_TOKEN, HEADS, Drop, Known
from nver.fusion.batch_plans import ONE
from nver.heads.loops import run
from nver.heads.products import accumulate, multiply, multiply_add, sums


@final
class _Attend(torch.autograd.Function):
    """Tokens [members, clips, width] and images of them attend and are normalised, by torch.

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
        seen, weights, kept = _see(projected, b_in, known)
        joined = multiply(seen.mT, w_out.mT).view(members, len(x), clips, width)
        out, normed, deviations = residual.forward(x, joined, b_out, scale, shift, known.counts)
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
        given = (gradient.contiguous(), ctx.known.counts, scale, normed, deviations)
        d_tokens, d_scale, d_shift, d_b_out = residual.backward(*given)
        d_joined = d_tokens.flatten(1, 2)
        d_w_out, d_seen = multiply(d_joined.mT, seen.mT), multiply(w_out.mT, d_joined.mT)
        d_projected, d_b_in = _see_back(d_seen, projected, b_in, weights, kept)
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


def _see(
    projected: Float[Tensor, "tokens members rows clips"],
    b_in: Float[Tensor, "members rows"],
    known: Known,
) -> tuple[Float[Tensor, "members width columns"], Tensor, Tensor]:
    """Return what every token sees, a column per token and clip; weights, and what is kept of them.

    Rows are those of queries, keys and values; weights are [members, heads, tokens, tokens, clips].
    """
    queries, keys, values = _by_heads(projected, b_in)
    scores = _products(queries, keys).mul_(1 / math.sqrt(queries.shape[2]))
    scores.add_(known.counts.log().unsqueeze(-1))
    weights = torch.softmax(scores, dim=-2)
    kept = weights if known.drop is None else weights * known.drop.factors(weights)
    return _mix(kept, values).flatten(1, 2).flatten(2), weights, kept


def _see_back(
    d_seen: Float[Tensor, "members width columns"],
    projected: Float[Tensor, "tokens members rows clips"],
    b_in: Float[Tensor, "members rows"],
    weights: Float[Tensor, "members heads tokens tokens clips"],
    kept: Float[Tensor, "members heads tokens tokens clips"],
) -> tuple[Float[Tensor, "tokens members rows clips"], Float[Tensor, "members rows"]]:
    """Return the gradients at what is projected and at its bias, of `_see`."""
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
    # To predict a little in float64 costs less than to compile for it.
    wanted = torch.is_grad_enabled() or x[0].dtype == torch.float32
    possible = x[0].is_cpu and x[0].numel() > 0 and x[0].dtype in ONE
    compiled = possible and wanted and loops_work(x[0].dtype)
    kind = AttendCompiled if compiled else _Attend
    out: Tensor = kind.apply(known, *layers, *x, *maps)  # type: ignore[no-untyped-call]
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
    """Return whether the compiled loops run here, and with this BLAS give what torch gives."""

    @torch.inference_mode(mode=False)
    @torch.enable_grad()
    def once() -> None:
        draw = torch.Generator().manual_seed(0)

        def some(*shape: int) -> Tensor:
            return torch.rand(shape, dtype=dtype, generator=draw)

        one, width = some(1), 2 * HEADS
        bits, levels = torch.ones(1, 3, 4 * HEADS).short(), torch.zeros(1, 2).short()
        known = Known(torch.cat([one, one]), Drop(bits, levels, torch.cat([one, one])), (0,))
        layers = [some(1, 3 * width, width), some(1, 3 * width), some(1, width, width)]
        layers += [some(1, width) for _ in range(3)]
        given = [part.requires_grad_() for part in (*layers, some(1, 3, width), some(1, 3, 3))]
        found = []
        for kind in (_Attend, AttendCompiled):
            out = kind.apply(known, *given)  # type: ignore[no-untyped-call]
            found.append((out, *torch.autograd.grad(out.square().sum(), given)))
        if not all(map(partial(torch.allclose, rtol=1e-3, atol=1e-3), *found)):
            raise ArithmeticError("its products are not torch's")

    return run("Attention", once)
