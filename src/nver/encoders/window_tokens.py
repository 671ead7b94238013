"""The tokens of clips that are heard in windows: which share a pass, and how they are pooled.

Transformers over patches of a spectrogram have positions for a few seconds only. A longer clip is
cut into consecutive windows, the network sees each alone, and the tokens of all are pooled
together: nothing is left unheard, and a clip's embedding depends on no other clip.

Without an attention mask a network is exact for windows of equal length only: zeros after a shorter
one would be attended to. So only equal windows share a pass, whichever clip they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from nver.encoders.batching import equal_shapes
from nver.encoders.parallel import over_cores
from nver.encoders.readout import Readout
from nver.shapes import Embeddings

CPU_FRAMES, GPU_FRAMES = 800, 12_800
"""In one forward pass, 100 a second: 8 s keep a core busy."""

States = Callable[[Tensor], "list[Tensor]"]


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a clip.

    Parameters
    ----------
    spectrogram : float32 [frames, mels]
        What the network sees, padding included.
    tokens : int
        How many of its patches are the clip's own; those of the padding come after them.
    """

    spectrogram: Float32[np.ndarray, "frames mels"]
    tokens: int


def slices(frames: int, most: int) -> list[slice]:
    """Return consecutive windows of at most `most` frames.

    >>> slices(10, 4)
    [slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
    """
    return [slice(first, min(first + most, frames)) for first in range(0, frames, most)]


def chosen_states(
    tokens: Float[Tensor, "windows tokens width"],
    layer: Callable[[Tensor, int], Tensor],
    layers: int,
    last: Callable[[Tensor], Tensor],
    wanted: Sequence[int],
) -> list[Tensor]:
    """Return the wanted states of a stack of layers; no layer after the last of them is computed.

    Parameters
    ----------
    tokens : Tensor [windows, tokens, width]
        What enters the first layer: state 0.
    layer : callable
        What leaves the layer of a number (from 0), of what enters it: state n is what the first n
        layers make of state 0.
    layers : int
        How many there are.
    last : callable
        Applied to the output of all layers: the norm that ends the network.
    wanted : sequence of int
        Numbers of states, ascending.
    """
    found = []
    for number in range(wanted[-1] + 1):
        if number:
            tokens = layer(tokens, number - 1)
        if number in wanted:
            found.append(last(tokens) if number == layers else tokens)
    return found


def embed_windows(
    clips: Sequence[Sequence[Window]],
    states: States,
    readout: Readout,
    device: str,
    class_tokens: int = 0,
) -> Embeddings:
    """Return the embeddings of clips that were cut into windows.

    Parameters
    ----------
    clips : sequence of sequence of Window
        At least one window each.
    states : callable
        The states that `readout` reads of a batch of equal windows [windows, frames, mels], each
        [windows, tokens, width].
    readout : Readout
        "cls" reads the first token of each window (and takes their mean), the other poolings the
        clip's own patches of all windows.
    device : str
        Where `states` computes; on a CPU it runs in several threads at once.
    class_tokens : int
        How many tokens come before the patches.

    Returns
    -------
    float32 [clips, dim]
    """
    windows = [window for clip in clips for window in clip]

    def states_of(group: list[int]) -> list[list[Tensor]]:
        """Return the own states of each window of a group."""
        found = states(torch.from_numpy(np.stack([windows[index].spectrogram for index in group])))
        own = []
        for row, index in enumerate(group):
            first, last = class_tokens, class_tokens + windows[index].tokens
            if readout.pooling == "cls":
                first, last = 0, 1
            own.append([state[row, first:last].float().cpu() for state in found])
        return own

    most = CPU_FRAMES if torch.device(device).type == "cpu" else GPU_FRAMES
    groups = equal_shapes([window.spectrogram.T for window in windows], most)
    groups.sort(key=lambda group: -sum(len(windows[index].spectrogram) for index in group))
    heard: dict[int, list[Tensor]] = {}
    for group, own in zip(groups, over_cores(states_of, groups, device), strict=True):
        heard |= dict(zip(group, own, strict=True))
    vectors = []
    of_windows = iter(range(len(windows)))
    with torch.inference_mode():
        for clip in clips:
            of_clip = [heard[next(of_windows)] for _ in clip]
            vectors.append(
                readout.vector([torch.cat(parts) for parts in zip(*of_clip, strict=True)])
            )
    return np.asarray(torch.stack(vectors).numpy())
