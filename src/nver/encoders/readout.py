"""How the hidden states of a network become one vector: which layer, and which statistics.

A network of L layers has L + 1 states: 0 is what enters the first layer, 1 its output, ..., L the
network's output, after whatever norm ends it. Which layer knows most of a task differs from network
to network (Yang et al., SUPERB, Interspeech 2021), so the layer is an option of every encoder that
has several.

The last state is always the network's output. Libraries disagree: transformers changed the meaning
of the last of its `hidden_states` in version 5.16, from after to before the final norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from nver.errors import SettingsError
from nver.registry import unknown

POOLINGS = {"mean": 1, "mean+std": 2, "cls": 1}
"""How frames become one vector, and how many statistics that is."""


@dataclass(frozen=True)
class Readout:
    """A layer and a pooling, as an encoder's options chose them.

    Parameters
    ----------
    layer : int or str
        0 to `layers`; "mean" (over the outputs of all layers, 1 to `layers`); or "all" (the vectors
        of 0 to `layers`, one after the other).
    layers : int
        Number of layers.
    pooling : {"mean", "mean+std", "cls"}
        Over a clip's frames; "cls" is the state of a class token.
    width : int
        Of a state.
    """

    layer: int | str
    layers: int
    pooling: str
    width: int

    @property
    def states(self) -> tuple[int, ...]:
        """Which states are read, in order."""
        if self.layer == "all":
            return tuple(range(self.layers + 1))
        if self.layer == "mean":
            return tuple(range(1, self.layers + 1))
        return (int(self.layer),)

    @property
    def only_last(self) -> bool:
        """Whether the network's output is all that is read."""
        return self.states == (self.layers,)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.held * POOLINGS[self.pooling] * self.width

    @property
    def held(self) -> int:
        """How many layers an embedding holds, one after the other."""
        return self.layers + 1 if self.layer == "all" else 1

    @property
    def layer_name(self) -> str:
        """The layer as the card says it."""
        return "last" if self.layer == self.layers else str(self.layer)

    @property
    def pooling_name(self) -> str:
        """The pooling as the card says it."""
        return "class token" if self.pooling == "cls" else f"{self.pooling} over frames"

    def vector(self, states: Sequence[Float[Tensor, "frames width"]]) -> Float32[Tensor, "dim"]:
        """Return a clip's embedding.

        Parameters
        ----------
        states : sequence of Tensor [frames, width]
            The clip's own frames of each of `states`, in that order; the class token alone where
            the pooling is "cls".
        """
        if self.layer == "mean":
            return pooled(torch.stack([state.float() for state in states]).mean(0), self.pooling)
        return torch.cat([pooled(state.float(), self.pooling) for state in states])


def pooled(
    frames: Float32[Tensor, "frames width"], pooling: str
) -> Float32[Tensor, "statistics_x_width"]:
    """Return the mean over frames, and after it the standard deviation where `pooling` says so.

    The standard deviation divides by the number of frames: 0 for a single one.
    """
    mean = frames.mean(dim=0)
    if pooling != "mean+std":
        return mean
    return torch.cat([mean, (frames - mean).square().mean(dim=0).sqrt()])


def read_options(
    encoder: str,
    layer: int | str,
    pooling: str,
    *,
    layers: int,
    width: int,
    poolings: Sequence[str] = ("mean", "mean+std"),
) -> Readout:
    """Return the readout that an encoder's options ask for.

    Parameters
    ----------
    encoder : str
        The encoder's name, for messages.
    layer : int or str
        0 to `layers`, or from the end: -1 or "last" is the network's output; "mean" or "all".
    pooling : str
        One of `poolings`.
    layers, width : int
        The network's.
    poolings : sequence of str
        Those that the network has.

    Raises
    ------
    SettingsError
        If the network has no such layer.
    UnknownNameError
        If it has no such pooling.
    """
    if pooling not in poolings:
        raise unknown(f"pooling of '{encoder}'", str(pooling), poolings)
    return Readout(layer_index(encoder, layer, layers), layers, pooling, width)


def layer_index(encoder: str, layer: int | str, layers: int) -> int | str:
    """Return a layer as 0 to `layers` (-1 and "last" mean `layers`), or "mean" or "all".

    >>> [layer_index("speech", layer, 12) for layer in (-1, -2, "last", 0, "all")]
    [12, 11, 12, 0, 'all']
    """
    if layer in ("mean", "all"):
        return layer
    index = -1 if layer == "last" else layer
    if isinstance(index, bool) or not isinstance(index, int) or not -layers - 1 <= index <= layers:
        raise SettingsError(
            f"The layer of '{encoder}' must be 0 to {layers}, -1 (last), 'mean' or 'all' for this "
            f"checkpoint, it is {layer!r}."
        )
    return index if index >= 0 else layers + 1 + index
