"""A residual and its LayerNorm (Ba et al. 2016) over counted tokens, forward and back.

Tokens come as arrays [members, clips, width]. What comes out lies clip by clip, as the dense layer
after it reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion import residual_loops
from nver.fusion.batch_plans import ONE
from nver.heads.products import sums

EPS = 1e-5

Out = Float[Tensor, "members clips columns"]
Tokens = Float[Tensor, "members tokens clips width"]
PerMember = Float[Tensor, "members width"]


def compiled(
    x: Sequence[Float[Tensor, "members clips width"]],
    joined: Tokens,
    added: PerMember,
    scale: PerMember,
    shift: PerMember,
    counts: Float[Tensor, " tokens"],
) -> tuple[Out, Tokens, Float[Tensor, "members tokens clips"]]:
    """Return LayerNorm(x + joined + added) times the token's count, from one loop on a CPU.

    Also returns what `scale` and `shift` are applied to, in the place of `joined`, and one over the
    deviations.
    """
    members, tokens, clips, width = joined.shape
    out, deviations = (
        joined.new_empty(members, clips, tokens * width),
        joined.new_empty(members, tokens, clips),
    )
    given = (joined, added.contiguous(), scale.contiguous(), shift.contiguous(), counts)
    places = [part.data_ptr() for part in (*given, out, deviations)]
    tokens_at = np.array([token.data_ptr() for token in x], np.int64)
    sizes, one = (members, tokens, clips, width), ONE[joined.dtype]
    residual_loops.add_and_norm(sizes, one, tokens_at, tuple(places), EPS)
    return out, joined, deviations


def compiled_back(
    gradient: Out, counts: Tensor, scale: PerMember, normed: Tokens, deviations: Tensor
) -> tuple[Tokens, PerMember, PerMember, PerMember]:
    """Return the gradients at x (which is that at `joined`), `scale`, `shift` and `added`."""
    members, tokens, clips, width = normed.shape
    d_x, sums = torch.empty_like(normed), normed.new_empty(3, members, width)
    given = (gradient, counts, scale.contiguous(), normed, deviations, d_x, sums)
    places = tuple([part.data_ptr() for part in given])
    residual_loops.add_and_norm_back((members, tokens, clips, width), ONE[normed.dtype], places)
    d_scale, d_shift, d_added = sums.unbind()
    return d_x, d_scale, d_shift, d_added


def plain(
    x: Sequence[Float[Tensor, "members clips width"]],
    joined: Tokens,
    added: PerMember,
    scale: PerMember,
    shift: PerMember,
    counts: Float[Tensor, " tokens"],
) -> tuple[Out, Tokens, Tensor]:
    """Return what `compiled` returns, by torch operations."""
    whole = torch.stack(tuple(x), dim=1).add_(joined).add_(added[:, None, None])
    normed, _, deviations = torch.native_layer_norm(whole, whole.shape[-1:], None, None, EPS)
    out = torch.addcmul(shift[:, None, None], normed, scale[:, None, None])
    out.mul_(counts[:, None, None])
    return out.transpose(1, 2).flatten(2), normed, deviations.squeeze(-1)


def plain_back(
    gradient: Out, counts: Tensor, scale: PerMember, normed: Tokens, deviations: Tensor
) -> tuple[Tokens, PerMember, PerMember, PerMember]:
    """Return what `compiled_back` returns, by torch operations."""
    tokens, width = normed.shape[1], normed.shape[3]
    given = gradient.view(*gradient.shape[:2], tokens, width).transpose(1, 2)
    inner = (given * counts[:, None, None]).contiguous()
    d_scale, d_shift = (sums(part.flatten(1, 2)) for part in (inner * normed, inner))
    inner.mul_(scale[:, None, None])
    along = (inner * normed).mean(-1, keepdim=True)
    d_x = torch.addcmul(inner - inner.mean(-1, keepdim=True), normed, along, value=-1)
    d_x.mul_(deviations.unsqueeze(-1))
    return d_x, d_scale, d_shift, sums(d_x.flatten(1, 2))
