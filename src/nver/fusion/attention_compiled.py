"""Attention among few tokens as one operation for torch, in compiled loops on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nver.fusion import attention_members, residual
from nver.fusion.attention_inputs import FIRST_TOKEN, HEADS, Known, check
from nver.fusion.attention_loops import LINE
from nver.fusion.batch_plans import ONE
from nver.scaling.blas import product_address

KEPT = len(attention_members.Kept._fields)


@final
class AttendCompiled(torch.autograd.Function):
    """What `attention_core.Attend` is, member by member.

    What comes out lies feature by feature, as the dense layer after it reads it.
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
        """Return the tokens of each clip side by side; `given` are tokens, then maps."""
        layers = (w_in, b_in, w_out, b_out, scale, shift)
        check(known, layers, given)
        members, clips, width = given[0].shape
        tokens, images = len(known.counts), len(known.sources)
        own, new = tokens - images, w_in.new_empty
        lanes = LINE // w_in.itemsize
        room = -(-clips // lanes) * lanes
        x = [_dense(token, (clips * width, 1, clips)) for token in given[:own]]
        maps = [_dense(part, (clips**2, 1, clips)) for part in given[own:]]
        drop, copies = (known.counts,) * 3, 0  # are not looked at without copies
        if known.drop is not None:
            bits, levels, shares = known.drop
            drop, copies = (bits, levels, shares.to(w_in.dtype)), len(levels)
        made = (
            new(members, attention_members.PARTS * width, tokens * room),
            new(members, width, tokens * room),
            new(members, tokens * room),
        )
        kept = *(part.contiguous() for part in (*layers, known.counts, *drop)), *made
        out = new(members, tokens * width, room)
        ctx.known = known
        ctx.sizes = (members, tokens, own, clips, width // HEADS, HEADS, copies)
        ctx.by_clip = [token.is_contiguous() for token in x]
        ctx.save_for_backward(*kept, *maps)
        attention_members.forward(
            *_constants(out, ctx.sizes),
            _tokens(x, ctx.by_clip),
            _images(known, maps, [None] * images),
            tuple([part.data_ptr() for part in kept]),
            out.data_ptr(),
            residual.EPS,
        )
        return out[..., :clips].mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients."""
        if torch.is_grad_enabled():  # a graph of this is asked for, and there is none
            raise NotImplementedError("Attention in compiled loops has no second derivative.")
        saved = ctx.saved_tensors
        kept, maps = saved[:KEPT], saved[KEPT:]
        members, tokens, own, clips, *_ = ctx.sizes
        w_in, w_out, columns = kept[0], kept[2], kept[-3]
        width, new = w_out.shape[1], w_in.new_empty
        gradient = _with_room(gradient, columns.shape[2] // tokens)
        d_w_in, d_b_in, d_w_out = map(torch.empty_like, kept[:3])
        sums = new(members, 3, width)
        d_x = [
            new(members, clips, width) if by_clip else new(members, width, clips)
            for by_clip in ctx.by_clip
        ]
        wanted = ctx.needs_input_grad[FIRST_TOKEN + own :]
        d_maps = [new(members, clips, clips) if want else None for want in wanted]
        made = (gradient, d_w_in, d_b_in, d_w_out, sums)
        attention_members.backward(
            *_constants(gradient, ctx.sizes),
            _tokens(d_x, ctx.by_clip),
            _images(ctx.known, maps, d_maps),
            tuple([part.data_ptr() for part in kept]),
            tuple([part.data_ptr() for part in made]),
        )
        by_token = zip(d_x, ctx.by_clip, strict=True)
        d_tokens = [part if by_clip else part.mT for part, by_clip in by_token]
        d_scale, d_shift, d_b_out = sums.unbind(1)
        return None, d_w_in, d_b_in, d_w_out, d_b_out, d_scale, d_shift, *d_tokens, *d_maps


def _dense(part: Tensor, turned: tuple[int, int, int]) -> Tensor:
    """Return matrices without gaps: as they are, if they lie row by row or have these strides."""
    return part if part.stride() == turned else part.contiguous()


def _with_room(
    gradient: Float[Tensor, "members clips rows"], room: int
) -> Float[Tensor, "members rows room"]:
    """Return it feature by feature, with zeros after the clips."""
    members, clips, rows = gradient.shape
    if clips == room:
        return gradient.mT.contiguous()
    whole = gradient.new_zeros(members, rows, room)
    whole[..., :clips] = gradient.mT
    return whole


def _constants(like: Tensor, sizes: tuple[int, ...]) -> tuple[int, Any, tuple[int, ...]]:
    return product_address(like.dtype), ONE[like.dtype], sizes


def _tokens(x: Sequence[Tensor], by_clip: Sequence[bool]) -> Int64[np.ndarray, "own 2"]:
    """Return what `attention_members` is told about own tokens, or the gradients at them."""
    told = [(part.data_ptr(), lies) for part, lies in zip(x, by_clip, strict=True)]
    return np.array(told, np.int64)


def _images(
    known: Known, maps: Sequence[Tensor], d_maps: Sequence[Tensor | None]
) -> Int64[np.ndarray, "images 4"]:
    """Return what it is told about images."""
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
