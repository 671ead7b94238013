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
from nver.encoders.readout import Readout
from nver.shapes import Embeddings

MOST_FRAMES = 3200
"""In one forward pass: 32 s at 100 frames per second."""

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
    clips: Sequence[Sequence[Window]], states: States, readout: Readout, class_tokens: int = 0
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
    class_tokens : int
        How many tokens come before the patches.

    Returns
    -------
    float32 [clips, dim]
    """
    windows = [window for clip in clips for window in clip]
    heard: list[list[Tensor]] = [[] for _ in windows]
    vectors = []
    with torch.inference_mode():
        for group in equal_shapes([window.spectrogram.T for window in windows], MOST_FRAMES):
            found = states(torch.from_numpy(np.stack([windows[i].spectrogram for i in group])))
            for row, index in enumerate(group):
                first, last = class_tokens, class_tokens + windows[index].tokens
                if readout.pooling == "cls":
                    first, last = 0, 1
                heard[index] = [state[row, first:last].float().cpu() for state in found]
        of_windows = iter(heard)
        for clip in clips:
            of_clip = [next(of_windows) for _ in clip]
            vectors.append(
                readout.vector([torch.cat(parts) for parts in zip(*of_clip, strict=True)])
            )
    return np.asarray(torch.stack(vectors).numpy())
