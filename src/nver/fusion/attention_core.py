"""Attention among few tokens, its residual and LayerNorm, forward and back, for stacked networks.

Among four tokens attention is a product of 4 x 15 by 15 x 4 numbers per clip and head: too small
for a matrix product each. Here clips are the innermost axis, so that all of it is elementwise over
contiguous rows, and only the projections are matrix products. On a CPU compiled loops
(`attention_members`) do it each way; torch operations do it elsewhere and where numba is missing.

All is one operation for torch: with some thirty small ones, their dispatch would cost as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int16, Int64
from torch import Tensor

from nver.errors import SettingsError
from nver.fusion import attention_members, residual
from nver.fusion.attention_loops import LINE
from nver.fusion.batch_plans import ONE
from nver.heads.loops import run
from nver.heads.products import accumulate, multiply, multiply_add, sums
from nver.scaling.blas import product_address

HEADS = 8
FIRST_TOKEN = 7
"""Place of the first token among the arguments of `_Attend`."""
KEPT = len(attention_members.Kept._fields)


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
        bits = self.bits.view(*self.bits.shape[:2], HEADS, tokens**2)[..., order]
        bits = bits.permute(0, 2, 3, 4, 1)
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


@final
class _AttendCompiled(torch.autograd.Function):
    """The same on a CPU, member by member in compiled loops."""

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
        _check(known, (w_in, b_in, w_out, b_out, scale, shift), given)
        members, clips, width = given[0].shape
        tokens, images = known.counts.shape[0], len(known.sources)
        own, new = tokens - images, w_in.new_empty
        lanes = LINE // w_in.itemsize
        room = -(-clips // lanes) * lanes
        layers = [part.contiguous() for part in (w_in, b_in, w_out, b_out, scale, shift)]
        x = [token.contiguous() for token in given[:own]]
        maps = [part if part.mT.is_contiguous() else part.contiguous() for part in given[own:]]
        bits, levels, shares = known.drop or (known.counts,) * 3  # are not looked at without levels
        if known.drop is not None:
            bits, shares = bits.contiguous(), shares.to(w_in.dtype)
        made = (
            new(members, 3 * width, tokens * room),
            new(members, tokens, room, width),
            new(members, tokens, room),
        )
        out = new(members, clips, tokens * width)
        copies = 0 if known.drop is None else len(levels)
        ctx.known = known
        ctx.sizes = (members, tokens, own, clips, width // HEADS, HEADS, copies)
        ctx.own = own
        kept = (*layers, known.counts, bits, levels, shares, *made)
        ctx.save_for_backward(*kept, *x, *maps)
        attention_members.forward(
            *_constants(out, ctx.sizes),
            _addresses(x),
            _images(known, maps, [None] * images),
            tuple([part.data_ptr() for part in kept]),
            out.data_ptr(),
            residual.EPS,
        )
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of this is asked for, and there is none
            raise NotImplementedError("Attention in compiled loops has no second derivative.")
        saved = ctx.saved_tensors
        kept, rest = saved[:KEPT], saved[KEPT:]
        x, maps = rest[: ctx.own], rest[ctx.own :]
        w_in, b_in, w_out = kept[:3]
        gradient = gradient.contiguous()
        d_w_in, d_b_in, d_w_out = (torch.empty_like(part) for part in kept[:3])
        members, width = b_in.shape[0], w_out.shape[1]
        sums = w_in.new_empty(members, 3, width)
        d_x = [torch.empty_like(token) for token in x]
        wanted = ctx.needs_input_grad[FIRST_TOKEN + ctx.own :]
        d_maps = [
            part.new_empty(part.shape) if want else None
            for part, want in zip(maps, wanted, strict=True)
        ]
        made = (gradient, d_w_in, d_b_in, d_w_out, sums)
        attention_members.backward(
            *_constants(gradient, ctx.sizes),
            _addresses(x),
            _images(ctx.known, maps, d_maps),
            tuple([part.data_ptr() for part in kept]),
            tuple([part.data_ptr() for part in made]),
            _addresses(d_x),
        )
        d_scale, d_shift, d_b_out = sums.unbind(1)
        return None, d_w_in, d_b_in, d_w_out, d_b_out, d_scale, d_shift, *d_x, *d_maps


def _check(known: Known, layers: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Raise SettingsError where addresses would lead astray."""
    members, clips, width = given[0].shape
    tokens, images = len(known.counts), len(known.sources)
    one, own = (members, width), tokens - images
    wide = (members, 3 * width)
    shapes = [(*wide, width), wide, (*one, width), one, one, one]
    shapes += [(members, clips, width)] * own + [(members, clips, clips)] * images
    got = [part.shape for part in (*layers, *given)]
    kinds = {(part.dtype, part.device) for part in (*layers, *given, known.counts)}
    drawn, drop = (members, clips, HEADS * tokens**2), known.drop
    if drop is not None:
        shapes += [drawn, (len(drop.levels), tokens), (tokens,)]
        got += [drop.bits.shape, drop.levels.shape, drop.shares.shape]
        kinds |= {(given[0].dtype, part.device) for part in drop}
    if (
        got != shapes
        or len(kinds) > 1
        or width % HEADS
        or not all(0 <= source < own for source in known.sources)
    ):
        raise SettingsError(
            f"Expected tensors of one type on one device, shaped {shapes}, with a width that "
            f"{HEADS} divides and images of the first {own} tokens, got {kinds}, "
            f"{[tuple(shape) for shape in got]} and images of {tuple(known.sources)}."
        )


def _constants(like: Tensor, sizes: tuple[int, ...]) -> tuple[int, Any, tuple[int, ...]]:
    return product_address(like.dtype), ONE[like.dtype], sizes


def _addresses(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.array([tensor.data_ptr() for tensor in tensors], np.int64)


def _images(
    known: Known, maps: Sequence[Tensor], d_maps: Sequence[Tensor | None]
) -> Int64[np.ndarray, "images 4"]:
    """Return what `attention_members` is told about images."""
    told = [
        (
            part.data_ptr(),
            not part.is_contiguous(),
            source,
            0 if gradient is None else gradient.data_ptr(),
        )
        for part, source, gradient in zip(maps, known.sources, d_maps, strict=True)
    ]
    return np.array(told, np.int64).reshape(-1, 4)


def _see(projected: Tensor, b_in: Tensor, known: Known) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values = _by_heads(projected, b_in)
    scores = _products(queries, keys).mul_(1 / math.sqrt(queries.shape[2]))
    scores.add_(known.counts.log().unsqueeze(-1))
    weights = torch.softmax(scores, dim=-2)
    kept = weights if known.drop is None else weights * known.drop.factors(weights)
    return _mix(kept, values).flatten(1, 2).flatten(2), weights, kept


def _see_back(
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
    # To predict a little in float64 costs less than to compile for it.
    wanted = torch.is_grad_enabled() or x[0].dtype == torch.float32
    possible = x[0].is_cpu and x[0].numel() > 0 and x[0].dtype in ONE
    compiled = possible and wanted and loops_work(x[0].dtype)
    kind = _AttendCompiled if compiled else _Attend
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
        for kind in (_Attend, _AttendCompiled):
            out = kind.apply(known, *given)  # type: ignore[no-untyped-call]
            found.append((out, *torch.autograd.grad(out.square().sum(), given)))
        if not all(map(partial(torch.allclose, rtol=1e-3, atol=1e-3), *found)):
            raise ArithmeticError("its products are not torch's")

    return run("Attention", once)
