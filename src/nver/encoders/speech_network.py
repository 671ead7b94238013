"""wav2vec 2.0-family networks through transformers, made exact under batching.

All of them are a stack of convolutions (one frame each 20 ms) under a transformer. Padding a batch
breaks both parts, each in its own way, and each is mended in its own way:

- The convolutions. Where the first one is followed by a group norm (wav2vec2-base, HuBERT-base,
  WavLM-base, UniSpeech-SAT-base), the norm's statistics run over the whole time axis, so padding
  changes every frame (by a fifth to a third of the pooled vector). `ClipByClip` runs the
  convolutions on each clip's own samples and pads their frames instead: the statistics are those of
  the clip alone, and no padding is convolved.
- The transformer. With an attention mask, transformers zeroes the padded frames and attends to none
  of them: exact to rounding. Except in data2vec-audio, whose five stacked positional convolutions
  with layer norms carry padding into valid frames: there only clips of equal length share a batch.

The reference is the network run on one clip, unpadded and without a mask.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nver.encoders.hub import Model
from nver.encoders.transformers_network import Layout, load_network

# Only training uses it: a checkpoint may lack it.
UNUSED = ("masked_spec_embed",)
# A checkpoint may hold a head (pre-training, CTC, classification) on top, never another backbone.
BACKBONE = ("feature_extractor.", "feature_projection.", "encoder.")

# Samples of each clip of the batch in flight.
LENGTHS: ContextVar[tuple[int, ...]] = ContextVar("LENGTHS")


class ClipByClip(nn.Module):
    """A convolution stack that sees one clip at a time, without its padding.

    Parameters
    ----------
    stack : Module
        [clips, samples] to [clips, width, frames].
    """

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.stack = stack

    def forward(
        self, samples: Float[Tensor, "clips samples"]
    ) -> Float[Tensor, "clips width frames"]:
        """Return the frames of each clip, zeros after its last one."""
        lengths = LENGTHS.get()
        if len(set(lengths)) == 1:
            return torch.as_tensor(self.stack(samples))
        frames = [
            self.stack(row[None, :length])[0].T
            for row, length in zip(samples, lengths, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(frames, batch_first=True).transpose(1, 2)


def load_speech_network(
    model: Model, class_name: str, dtype: torch.dtype, device: str
) -> nn.Module:
    """Return a network whose convolutions see each clip without padding; see `load_network`."""
    layout = Layout(class_name, BACKBONE, UNUSED)
    network = load_network(model, layout, dtype, device)
    network.feature_extractor = ClipByClip(network.feature_extractor)
    return network


def hidden_states(
    network: nn.Module, clips: Sequence[Float[Tensor, "_"]], every_layer: bool
) -> tuple[Tensor, ...]:
    """Return the hidden states of a batch, exact for every clip's own frames.

    Parameters
    ----------
    network : Module
        As `load_network` returns it.
    clips : sequence of Tensor [samples]
        Samples of each clip; they are padded here.
    every_layer : bool
        Whether to keep the states of every layer.

    Returns
    -------
    tuple of Tensor [clips, frames, width]
        The states that enter each layer, only with `every_layer`; and last the network's output.
    """
    lengths = tuple(len(clip) for clip in clips)
    samples = nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    mask = None
    if len(set(lengths)) > 1:
        ends = torch.tensor(lengths, device=samples.device)
        mask = (torch.arange(samples.shape[1], device=samples.device) < ends[:, None]).long()
    token = LENGTHS.set(lengths)
    try:
        # TF32 convolutions on a GPU would cost three digits.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), warnings.catch_warnings():
            # WavLM gives torch a boolean and a float mask: right, and warned of.
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            output: Any = network(
                samples, attention_mask=mask, output_hidden_states=every_layer, return_dict=True
            )
    finally:
        LENGTHS.reset(token)
    # The last entry of `hidden_states` means different things in different releases: before or
    # after the final layer norm. The output is unambiguous.
    states = tuple(output.hidden_states)[:-1] if every_layer else ()
    return (*states, output.last_hidden_state)
