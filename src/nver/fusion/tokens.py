"""MATA's tokens: transported and original latents of every ordered pair of encoders.

Tokens come before clips: [*members, tokens, clips, width], so that all clips' tokens are the rows
of one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion.attending import Image
from nver.fusion.coupling import Latents, Moved


def token_count(encoders: int) -> int:
    """Return how many tokens MATA has: three for every ordered pair of encoders."""
    return 3 * encoders * (encoders - 1)


def token_copies(encoders: int) -> tuple[int, ...]:
    """Return which of the distinct tokens each of MATA's tokens is.

    The distinct ones are the encoders' latents, then the transported ones of every ordered pair.

    >>> token_copies(2)
    (2, 0, 1, 3, 1, 0)
    """
    pairs = enumerate(permutations(range(encoders), 2))
    return tuple(part for pair, (i, j) in pairs for part in (encoders + pair, i, j))


def distinct_tokens(
    latents: Latents, moved: Moved
) -> Float[Tensor, "*members distinct clips width"]:
    """Return the tokens without repetition: every x_i, then x_{j->i} for each ordered pair."""
    pairs = permutations(range(len(latents)), 2)
    return torch.stack([*latents, *(moved[pair] for pair in pairs)], dim=-3)


def token_images(
    encoders: int, maps: Mapping[tuple[int, int], Float[Tensor, "*members clips clips"]]
) -> list[Image]:
    """Return which distinct tokens are images of the encoders' latents, and by which matrices."""
    pairs = enumerate(permutations(range(encoders), 2))
    return [Image(encoders + pair, j, maps[i, j]) for pair, (i, j) in pairs]


def tokens(latents: Latents, moved: Moved) -> Float[Tensor, "*members tokens clips width"]:
    """Return [x_{j->i}, x_i, x_j] for each ordered pair; two encoders give the paper's six."""
    pairs = permutations(range(len(latents)), 2)
    parts = [part for i, j in pairs for part in (moved[i, j], latents[i], latents[j])]
    return torch.stack(parts, dim=-3)


def side_by_side(
    x: Float[Tensor, "*members tokens clips width"],
) -> Float[Tensor, "*members clips columns"]:
    """Return each clip's tokens as one row."""
    return x.transpose(-3, -2).flatten(-2)
