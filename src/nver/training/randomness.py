"""Where random numbers come from: of initial weights, of the order of clips, of masks and noise.

Every member draws from generators of its own seed, so that what it gets does not depend on the
members beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int16
from torch import Tensor, nn

from nver.heads import Random

LANES = 4
"""Random numbers of 16 bits in one of 64."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed what torch draws inside (initial weights, dropout); the global generator is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251 - the one place that may
        yield


def order_generator(seed: int) -> torch.Generator:
    """Return the generator of what is held out and of the order of clips."""
    return torch.Generator().manual_seed(seed)


class Draws:
    """The masks' bits and the input noise of each step, for every member from its own generator.

    Parameters
    ----------
    network : torch.nn.Module
        Its `Random` layers say how many bits they need.
    seeds : sequence of int
        One per member.
    noise : float
        Deviation of the input noise.
    device : torch.device
    """

    def __init__(
        self, network: nn.Module, seeds: Sequence[int], noise: float, device: torch.device
    ) -> None:
        self._generators = [torch.Generator(device).manual_seed(_another(seed)) for seed in seeds]
        self._noise, self._device = noise, device
        self._places: dict[int, slice] = {}
        end = 0
        for layer in network.modules():
            if isinstance(layer, Random):
                self._places[id(layer)] = slice(end, end + layer.units)
                end += layer.units
        self._words = -(-end // LANES)
        self._bits = torch.empty(0, dtype=torch.int64, device=device)
        self._values = torch.empty(0, device=device)

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members only."""
        self._generators = [self._generators[m] for m in members]

    def draw(self, counts: Sequence[int], columns: int) -> None:
        """Draw what each member's batch of so many clips needs; none for a passive member."""
        members, width = len(counts), max(counts)
        if self._bits.shape != (members, width, self._words):
            self._bits = self._bits.new_zeros(members, width, self._words)
        if self._noise and self._values.shape != (members, width, columns):
            self._values = self._values.new_zeros(members, width, columns)
        for m, (count, generator) in enumerate(zip(counts, self._generators, strict=True)):
            if count and self._words:
                # The whole range of int64: without it the highest bit would never be set.
                self._bits[m, :count].random_(-(2**63), None, generator=generator)
            if count and self._noise:
                self._values[m, :count].normal_(0, self._noise, generator=generator)

    def add_noise(self, inputs: Float[Tensor, "members clips columns"]) -> None:
        """Add the step's noise to the inputs, in place."""
        if self._noise:
            inputs.add_(self._values)

    def bits(self, layer: nn.Module) -> Int16[Tensor, "members clips units"]:
        """Return the bits of a layer of the network."""
        return self._bits.view(torch.int16)[..., self._places[id(layer)]]


def _another(seed: int) -> int:
    """Return a seed whose stream is not that of `seed`; different ones stay different."""
    return (seed * 2654435769 + 1) % 2**32
