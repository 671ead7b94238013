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
        layers = (w_in, b_in, w_out, b_out, scale, shift)
        check(known, layers, given)
        members, clips, width = given[0].shape
        tokens, images = len(known.counts), len(known.sources)
        own, new = tokens - images, w_in.new_empty
        lanes = LINE // w_in.itemsize
        room = -(-clips // lanes) * lanes
        turned = clips**2, 1, clips
        x = [token.contiguous() for token in given[:own]]
        maps = [part if part.stride() == turned else part.contiguous() for part in given[own:]]
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
        out = new(members, clips, tokens * width)
        ctx.known = known
        ctx.sizes = (members, tokens, own, clips, width // HEADS, HEADS, copies)
        ctx.save_for_backward(*kept, *maps)
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
        """Return the gradients."""
        if torch.is_grad_enabled():  # a graph of this is asked for, and there is none
            raise NotImplementedError("Attention in compiled loops has no second derivative.")
        saved = ctx.saved_tensors
        kept, maps = saved[:KEPT], saved[KEPT:]
        members, _, own, clips, *_ = ctx.sizes
        gradient, new = gradient.contiguous(), gradient.new_empty
        width = kept[2].shape[1]
        d_w_in, d_b_in, d_w_out = map(torch.empty_like, kept[:3])
        sums = new(members, 3, width)
        d_x = [new(members, clips, width) for _ in range(own)]
        wanted = ctx.needs_input_grad[FIRST_TOKEN + own :]
        d_maps = [new(members, clips, clips) if want else None for want in wanted]
        made = (gradient, d_w_in, d_b_in, d_w_out, sums)
        attention_members.backward(
            *_constants(gradient, ctx.sizes),
            _addresses(d_x),
            _images(ctx.known, maps, d_maps),
            tuple([part.data_ptr() for part in kept]),
            tuple([part.data_ptr() for part in made]),
        )
        d_scale, d_shift, d_b_out = sums.unbind(1)
        return None, d_w_in, d_b_in, d_w_out, d_b_out, d_scale, d_shift, *d_x, *d_maps


def _constants(like: Tensor, sizes: tuple[int, ...]) -> tuple[int, Any, tuple[int, ...]]:
    return product_address(like.dtype), ONE[like.dtype], sizes


def _addresses(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.array([tensor.data_ptr() for tensor in tensors], np.int64)


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
