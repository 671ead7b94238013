"""What attention among few tokens is told, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int16
from torch import Tensor

from nver.errors import SettingsError

HEADS = 8
FIRST_TOKEN = 7
"""Place of the first token among the arguments of the operations."""


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


@cache
def _shapes(
    members: int, clips: int, width: int, own: int, images: int, copies: int | None
) -> list[tuple[int, ...]]:
    """Return those of the layers, the tokens and the maps, and of what decides the dropout."""
    one, wide, tokens = (members, width), (members, 3 * width), own + images
    shapes = [(*wide, width), wide, (*one, width), one, one, one]
    shapes += [(members, clips, width)] * own + [(members, clips, clips)] * images
    if copies is not None:
        shapes += [(members, clips, HEADS * tokens**2), (copies, tokens), (tokens,)]
    return shapes


def check(known: Known, layers: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Raise SettingsError where addresses would lead astray; see `attention_core.attend`."""
    drop, images, kind = known.drop or (), len(known.sources), given[0].dtype
    own = len(known.counts) - images
    copies = None if known.drop is None else len(known.drop.levels)
    shapes = _shapes(*given[0].shape, own, images, copies)
    parts, numbers = (*layers, *given, *drop), (*layers, *given, known.counts)
    types = {part.dtype for part in numbers}
    drawn = {part.dtype for part in drop[:2]} or {torch.int16}
    if (
        [part.shape for part in parts] == shapes
        and types == {kind}
        and drawn == {torch.int16}
        and {part.is_cpu for part in (*parts, known.counts)} == {True}
        and set(known.sources) <= set(range(own))
        and not given[0].shape[2] % HEADS
    ):
        return
    raise SettingsError(
        f"Expected tensors of one type on the CPU, shaped {shapes}, with a width that {HEADS} "
        f"divides, bits and levels of int16, and images of the first {own} tokens, got {types} on "
        f"{ {part.device for part in parts} }, shaped {[tuple(part.shape) for part in parts]}, "
        f"bits and levels of {drawn}, and images of {tuple(known.sources)}."
    )
