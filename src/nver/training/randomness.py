"""Where random numbers come from: of initial weights, of the order of clips, of masks and noise.

Every member draws from a stream of its own seed, so that what it gets does not depend on the
members beside it. The streams of masks and noise are counted (`loops`): one launch on a GPU serves
all members, and every device gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int16, Int64
from torch import Tensor, nn

from nver.heads import Random
from nver.heads.loops import run
from nver.training import loops

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
    """The masks' bits and the input noise of each step, for every member from its own stream.

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
        self._next = [start(seed) for seed in seeds]
        self._noise, self._device = noise, device
        self._places: dict[int, tuple[slice, int]] = {}
        self._words = 0
        for layer in network.modules():
            if isinstance(layer, Random):
                end = self._words + -(-layer.units // LANES)
                self._places[id(layer)] = slice(self._words, end), layer.units
                self._words = end
        self._bits: dict[int, Tensor] = {}
        self._starts = torch.empty(0, dtype=torch.int64, device=device)
        self._numbers = self._starts
        self._ahead: list[tuple[Tensor, int]] = []
        self._stride = 0

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members only."""
        self._next = [self._next[m] for m in members]

    def plan(self, counts: Sequence[Sequence[int]], rows: Sequence[int], columns: int) -> None:
        """Say how many clips each member's batch has in the steps to come, of how many rows each.

        `columns` is the inputs' width.

        A clip takes the same numbers however many are beside it; a member without clips takes none.
        """
        self._stride = self._words + (-(-columns // 2) if self._noise else 0)
        starts = []
        for step in counts:
            starts.append([_signed(number) for number in self._next])
            taken = (clips * self._stride * loops.GOLDEN for clips in step)
            self._next = [number + more for number, more in zip(self._next, taken, strict=True)]
        # All at once: nothing in a step waits for the device.
        table = torch.tensor(starts, dtype=torch.int64).to(self._device)
        self._ahead = list(zip(table, rows, strict=True))

    def draw(self) -> None:
        """Draw what the next step needs."""
        self._starts, width = self._ahead.pop(0)
        if self._device.type != "cpu" or not loops_work():
            self._numbers = numbers(self._starts, width, self._stride)
            self._bits = {key: self._numbers[..., at] for key, (at, _) in self._places.items()}
            return
        for key, (at, _) in self._places.items():
            shape = len(self._starts), width, at.stop - at.start
            if key not in self._bits or self._bits[key].shape != shape:
                self._bits[key] = torch.empty(shape, dtype=torch.int64)
            loops.fill_bits(self._starts.numpy(), self._stride, at.start, self._bits[key].numpy())

    def add_noise(self, inputs: Float[Tensor, "members clips columns"]) -> None:
        """Add the step's noise to the inputs, in place."""
        if not self._noise:
            return
        if self._device.type == "cpu" and loops_work():
            given = self._starts.numpy(), self._stride, self._words
            loops.add_noise(*given, np.float32(self._noise), inputs.numpy())
            return
        z = self._numbers[..., self._words :]
        radius = ((z >> 40) & 0xFFFFFF).add_(1).float().mul_(2**-24).log_().mul_(-2).sqrt_()
        radius.mul_(self._noise)
        angle = (z & 0xFFFFFF).float().mul_(2**-24).sub_(0.5).mul_(2 * math.pi)
        half = z.shape[-1]
        inputs[..., :half] += radius * angle.cos()
        inputs[..., half:] += (radius * angle.sin_())[..., : inputs.shape[-1] - half]

    def bits(self, layer: nn.Module) -> Int16[Tensor, "members clips units"]:
        """Return the bits of a layer of the network."""
        return self._bits[id(layer)].view(torch.int16)[..., : self._places[id(layer)][1]]


def start(seed: int) -> int:
    """Return where the stream of a seed starts, an integer modulo 2**64."""
    return int(numbers(torch.tensor([_signed(seed * loops.GOLDEN)]), 1, 1).item())


def numbers(
    starts: Int64[Tensor, " members"], clips: int, stride: int
) -> Int64[Tensor, "members clips stride"]:
    """Return numbers 0, 1, ... of the streams that start there, as `loops.fill_bits` does."""
    count = torch.arange(clips * stride, device=starts.device).mul_(loops.GOLDEN)
    z = starts.unsqueeze(1) + count
    z.bitwise_xor_((z >> 30).bitwise_and_(2**34 - 1)).mul_(loops.FIRST)
    z.bitwise_xor_((z >> 27).bitwise_and_(2**37 - 1)).mul_(loops.SECOND)
    z.bitwise_xor_((z >> 31).bitwise_and_(2**33 - 1))
    return z.view(len(starts), clips, stride)


def _signed(number: int) -> int:
    """Return the int64 with the same lowest 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


@cache
def loops_work() -> bool:
    """Return whether the compiled loops run here."""

    def once() -> None:
        starts, bits = np.zeros(1, np.int64), np.zeros((1, 1, 1), np.int64)
        loops.fill_bits(starts, 1, 0, bits)
        loops.add_noise(starts, 1, 0, np.float32(1), np.zeros((1, 1, 2), np.float32))

    return run("Drawing random numbers", once)
