"""A residual and its LayerNorm (Ba et al. 2016) over counted tokens, by torch operations.

Tokens come as arrays [members, clips, width]. What comes out lies clip by clip, as the dense layer
after it reads it. On a CPU the loops of `nver.fusion.residual_loops` do it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nver.heads.products import sums

EPS = 1e-5

Out = Float[Tensor, "members clips columns"]
Tokens = Float[Tensor, "members tokens clips width"]
PerMember = Float[Tensor, "members width"]


def forward(
    x: Sequence[Float[Tensor, "members clips width"]],
    joined: Tokens,
    added: PerMember,
    scale: PerMember,
    shift: PerMember,
    counts: Float[Tensor, " tokens"],
) -> tuple[Out, Tokens, Tensor]:
    """Return LayerNorm(x + joined + added) times the token's count.

    Also returns what `scale` and `shift` are applied to, and one over the deviations.
    """
    whole = torch.stack(tuple(x), dim=1).add_(joined).add_(added[:, None, None])
    normed, _, deviations = torch.native_layer_norm(whole, whole.shape[-1:], None, None, EPS)
    out = torch.addcmul(shift[:, None, None], normed, scale[:, None, None])
    out.mul_(counts[:, None, None])
    return out.transpose(1, 2).flatten(2), normed, deviations.squeeze(-1)


def backward(
    gradient: Out, counts: Tensor, scale: PerMember, normed: Tokens, deviations: Tensor
) -> tuple[Tokens, PerMember, PerMember, PerMember]:
    """Return the gradients at x (which is that at `joined`), `scale`, `shift` and `added`."""
    tokens, width = normed.shape[1], normed.shape[3]
    given = gradient.view(*gradient.shape[:2], tokens, width).transpose(1, 2)
    inner = (given * counts[:, None, None]).contiguous()
    d_scale, d_shift = (sums(part.flatten(1, 2)) for part in (inner * normed, inner))
    inner.mul_(scale[:, None, None])
    along = (inner * normed).mean(-1, keepdim=True)
    d_x = torch.addcmul(inner - inner.mean(-1, keepdim=True), normed, along, value=-1)
    d_x.mul_(deviations.unsqueeze(-1))
    return d_x, d_scale, d_shift, sums(d_x.flatten(1, 2))
