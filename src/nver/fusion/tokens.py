"""MATA's tokens: transported and original latents of every ordered pair of encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nver.fusion.attending import Image
from nver.fusion.coupling import Latents, Moved
from nver.heads import Linear


def token_copies(encoders: int) -> tuple[int, ...]:
    """Return which of the distinct tokens each of MATA's tokens is.

    The distinct ones are the encoders' latents, then the transported ones of every ordered pair.

    >>> token_copies(2)
    (2, 0, 1, 3, 1, 0)
    """
    pairs = enumerate(permutations(range(encoders), 2))
    return tuple(part for pair, (i, j) in pairs for part in (encoders + pair, i, j))


def copy_counts(copies: Sequence[int]) -> list[int]:
    """Return how many tokens each distinct one stands for.

    >>> copy_counts(token_copies(2))
    [2, 2, 1, 1]
    """
    return [copies.count(kind) for kind in range(max(copies) + 1)]


@torch.no_grad()
def read_once(dense: Linear, copies: Sequence[int]) -> None:
    """Let a dense layer over tokens side by side read distinct ones, each times its count.

    For c copies of x, W_1 x + ... + W_c x = W (c x), W being the mean. W is what is left. It starts
    as the mean of what was drawn, and it is trained as they would be: each W_i has the same
    gradient G and W has c G, but a step of Adam is the same for all multiples of a gradient (up to
    its eps), and weight decay is linear.

    Parameters
    ----------
    dense : Linear
        Reads tokens of one width, in the order of `copies`.
    copies : sequence of int
        Which of the distinct tokens each token is.
    """
    parts = dense.weight.view(len(dense.weight), len(copies), -1)
    kinds = torch.tensor(copies)
    means = [parts[:, kinds == kind].mean(dim=1) for kind in range(max(copies) + 1)]
    dense.weight = nn.Parameter(torch.cat(means, dim=1))
    dense.in_features = dense.weight.shape[1]


def distinct_tokens(latents: Latents, moved: Moved) -> list[Float[Tensor, "*members clips width"]]:
    """Return the tokens without repetition: every x_i, then x_{j->i} for each ordered pair."""
    pairs = permutations(range(len(latents)), 2)
    return [*latents, *(moved[pair] for pair in pairs)]


def token_images(
    encoders: int, maps: Mapping[tuple[int, int], Float[Tensor, "*members clips clips"]]
) -> list[Image]:
    """Return which distinct tokens are images of the encoders' latents, and by which matrices."""
    return [Image(j, maps[i, j]) for i, j in permutations(range(encoders), 2)]
