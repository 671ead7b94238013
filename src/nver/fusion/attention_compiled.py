"""Attention among few tokens as one operation for torch, in compiled loops on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from nver.fusion import attention_members, residual
from nver.fusion.attention_inputs import FIRST_TOKEN, HEADS, Known, check
from nver.fusion.attention_loops import LINE
from nver.fusion.batch_plans import ONE
from nver.scaling.blas import product_address

KEPT = len(attention_members.Kept._fields)


@final
class AttendCompiled(torch.autograd.Function):
    """What `attention_core.attend` does, member by member."""

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
        layers: tuple[Tensor, ...] = (w_in, b_in, w_out, b_out, scale, shift)
        check(known, layers, given)
        members, clips, width = given[0].shape
        counts, drop, sources = known
        tokens, own = len(counts), len(counts) - len(sources)
        new, lanes = w_in.new_empty, LINE // w_in.itemsize
        room = -(-clips // lanes) * lanes
        x = [token.contiguous() for token in given[:own]]
        maps = _dense(given[own:])
        copies = 0
        told: tuple[Tensor, ...] = (counts,) * 4  # but for counts, not looked at without copies
        if drop is not None:
            copies, told = len(drop.levels), (counts, *drop[:2], drop.shares.to(w_in.dtype))
        layers = tuple([part.contiguous() for part in layers])
        told = tuple([part.contiguous() for part in told])
        made = (
            new(members, attention_members.PARTS * width, tokens * room),
            new(members, width, tokens * room),
            new(members, tokens * room),
        )
        out = new(members, clips, tokens * width)
        ctx.sources = sources
        ctx.sizes = (members, tokens, own, clips, width // HEADS, HEADS, copies)
        kept = (*layers, *told, *made)
        ctx.lay = [(part.dtype, True) for part in kept]
        ctx.save_for_backward(*kept, *maps)
        attention_members.forward(
            *_constants(out, ctx.sizes),
            _places(x, maps, sources, (None,) * len(maps)),
            tuple([part.data_ptr() for part in kept]),
            out.data_ptr(),
            residual.EPS,
        )
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients."""
        if torch.is_grad_enabled():  # a graph of this is asked for, and there is none
            raise NotImplementedError("Attention in compiled loops has no second derivative.")
        saved = ctx.saved_tensors
        kept, maps = list(saved[:KEPT]), _dense([part.to(gradient.dtype) for part in saved[KEPT:]])
        # Hooks on saved tensors may give them back otherwise than they were.
        if [(part.dtype, part.is_contiguous()) for part in kept] != ctx.lay:
            known = zip(kept, ctx.lay, strict=True)
            kept = [part.to(kind).contiguous() for part, (kind, _) in known]
        members, _, own, clips, depth, heads, _ = ctx.sizes
        gradient, new, width = gradient.contiguous(), gradient.new_empty, heads * depth
        d_w_in, d_b_in, d_w_out = map(torch.empty_like, kept[:3])
        sums = new(3, members, width)
        d_x = [new(members, clips, width) for _ in range(own)]
        wanted = ctx.needs_input_grad[FIRST_TOKEN + own :]
        d_maps = [new(members, clips, clips) if want else None for want in wanted]
        made = (gradient, d_w_in, d_b_in, d_w_out, sums)
        attention_members.backward(
            *_constants(gradient, ctx.sizes),
            _places(d_x, maps, ctx.sources, d_maps),
            tuple([part.data_ptr() for part in kept]),
            tuple([part.data_ptr() for part in made]),
        )
        d_scale, d_shift, d_b_out = sums.unbind()
        return None, d_w_in, d_b_in, d_w_out, d_b_out, d_scale, d_shift, *d_x, *d_maps


def _dense(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return maps [members, clips, clips] without gaps, each row by row or transposed."""
    turned = [(part.shape[1] ** 2, 1, part.shape[1]) for part in maps]
    pairs = zip(maps, turned, strict=True)
    return [part if part.stride() == lies else part.contiguous() for part, lies in pairs]


def _constants(like: Tensor, sizes: tuple[int, ...]) -> tuple[int, Any, tuple[int, ...]]:
    return product_address(like.dtype), ONE[like.dtype], sizes


def _places(
    x: Sequence[Tensor],
    maps: Sequence[Tensor],
    sources: Sequence[int],
    d_maps: Sequence[Tensor | None],
) -> Int64[np.ndarray, " places"]:
    """Return where own tokens, or the gradients at them, are, and what is said of images."""
    told = [token.data_ptr() for token in x]
    for part, source, gradient in zip(maps, sources, d_maps, strict=True):
        place = 0 if gradient is None else gradient.data_ptr()
        told += (part.data_ptr(), not part.is_contiguous(), source, place)
    return np.array(told, np.int64)
