"""wav2vec 2.0-family networks through transformers, made exact under batching.

All of them are a stack of convolutions (one frame each 20 ms) under a transformer. Padding a batch
breaks both parts, each in its own way, and each is mended in its own way:

- The convolutions. Where the first one is followed by a group norm (wav2vec2-base, HuBERT-base,
  WavLM-base, UniSpeech-SAT-base), the norm's statistics run over the whole time axis, so padding
  changes every frame (by a fifth to a third of the pooled vector). On a CPU the convolutions run on
  each clip's own samples (`OneByOne`), elsewhere over the padded batch with a norm whose statistics
  are those of each clip's own frames (`MaskedGroupNorm`).
- The transformer. With an attention mask, transformers zeroes the padded frames and attends to none
  of them: exact to rounding. Except in data2vec-audio, whose five stacked positional convolutions
  with layer norms carry padding into valid frames: there only clips of equal length share a batch.

The reference is the network run on one clip, unpadded and without a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nver.encoders.device import check_convolutions, on_device
from nver.encoders.gated_attention import GatedAttention
from nver.encoders.hub import Model
from nver.encoders.packed import PackedLinear, PackedPositions, pack_linears, packable
from nver.encoders.speech_convolutions import as_products
from nver.encoders.transformers_network import Layout, load_network

# Only training uses it: a checkpoint may lack it.
UNUSED = ("masked_spec_embed",)
# A checkpoint may hold a head (pre-training, CTC, classification) on top, never another backbone.
BACKBONE = ("feature_extractor.", "feature_projection.", "encoder.")

# Samples of each clip of the batch in flight.
LENGTHS: ContextVar[tuple[int, ...]] = ContextVar("LENGTHS")
# The states of every layer of the batch in flight, where they are asked for. Context variables, as
# batches run in several threads at once; transformers' own record of states is not made for that,
# and the meaning of its last entry differs between releases.
STATES: ContextVar[list[Tensor] | None] = ContextVar("STATES", default=None)


class OneByOne(nn.Module):
    """A convolution stack that takes clips of one length; clips of several go one by one.

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


class MaskedGroupNorm(nn.Module):
    """The group norm after the first convolution, over each clip's own frames.

    What it makes of the frames of the padding does not matter: they never reach a valid frame.

    Parameters
    ----------
    norm : GroupNorm
        One group per channel.
    kernel, stride : int
        Of the convolution before it.
    """

    def __init__(self, norm: nn.GroupNorm, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.kernel, self.stride = kernel, stride

    def forward(
        self, found: Float[Tensor, "clips channels frames"]
    ) -> Float[Tensor, "clips channels frames"]:
        """Return the normalised channels."""
        lengths = torch.tensor(LENGTHS.get(), device=found.device)
        frames = torch.div(lengths - self.kernel, self.stride, rounding_mode="floor") + 1
        mine = torch.arange(found.shape[2], device=found.device) < frames[:, None]
        mask, count = mine[:, None].to(found.dtype), frames[:, None, None]
        centred = found - (found * mask).sum(dim=2, keepdim=True) / count
        variance = (centred.square() * mask).sum(dim=2, keepdim=True) / count
        scale = self.weight[:, None] * torch.rsqrt(variance + self.eps)
        return centred * scale + self.bias[:, None]


def load_speech_network(
    model: Model, class_name: str, dtype: torch.dtype, device: str
) -> tuple[nn.Module, int]:
    """Return a network prepared for `hidden_states`, and how many trained values it has.

    Parameters
    ----------
    model : Model
        The checkpoint's files.
    class_name : str
        The class of transformers ("Wav2Vec2Model").
    dtype : torch.dtype
        Of the weights.
    device : str
        Where it runs.

    Raises
    ------
    CheckpointError, SettingsError, MissingExtraError
        See `nver.encoders.transformers_network.load_network`.
    """
    layout = Layout(class_name, BACKBONE, UNUSED)
    network: Any = load_network(model, layout, dtype, device)
    values = sum(tensor.numel() for tensor in network.parameters())
    products = as_products(network.feature_extractor, dtype)
    if products is None:
        _mask_norm(network.feature_extractor.conv_layers[0])
    else:
        network.feature_extractor = OneByOne(products)
    encoder = network.encoder
    for layer in encoder.layers:
        if type(layer.attention).__name__ == "WavLMAttention":
            layer.attention = GatedAttention(layer.attention)
        layer.register_forward_hook(_kept_output)
    encoder.layers[0].register_forward_pre_hook(_kept_input, with_kwargs=True)
    _prepare_positions(encoder, network.config.feat_extract_activation)
    pack_linears(network)
    check_convolutions(class_name, network)
    for layer in encoder.layers:
        _fuse_activation(layer.feed_forward, network.config.hidden_act)
    return cast("nn.Module", network), values


def _mask_norm(first: Any) -> None:
    """Let the norm of the first convolution see no padding."""
    norm = getattr(first, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        first.layer_norm = MaskedGroupNorm(norm, first.conv.kernel_size[0], first.conv.stride[0])


def _prepare_positions(encoder: Any, activation: str) -> None:
    """Compute the weight norm of the positional convolution once, and pack it where that gains."""
    convolution = getattr(encoder.pos_conv_embed, "conv", None)
    if not isinstance(convolution, nn.Conv1d):
        return  # data2vec has a stack of others
    if activation == "gelu" and packable(convolution.weight):
        encoder.pos_conv_embed = PackedPositions(convolution)
    elif nn.utils.parametrize.is_parametrized(convolution, "weight"):
        nn.utils.parametrize.remove_parametrizations(convolution, "weight")


def _fuse_activation(feed_forward: Any, activation: str) -> None:
    """Let the packed map before an exact GELU apply it."""
    if activation == "gelu" and isinstance(feed_forward.intermediate_dense, PackedLinear):
        feed_forward.intermediate_dense.gelu = True
        feed_forward.intermediate_act_fn = nn.Identity()


def _kept_input(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keep what enters the first layer, where the states are asked for."""
    states = STATES.get()
    if states is not None:
        states.append(args[0] if args else kwargs["hidden_states"])


def _kept_output(_: object, __: object, output: Any) -> None:
    """Keep what leaves a layer, where the states are asked for."""
    states = STATES.get()
    if states is not None:
        states.append(output[0] if isinstance(output, tuple) else output)


def hidden_states(
    network: nn.Module, clips: Sequence[Float[Tensor, "_"]], every_layer: bool
) -> tuple[Tensor, ...]:
    """Return the hidden states of a batch, exact for every clip's own frames.

    Parameters
    ----------
    network : Module
        As `load_speech_network` returns it.
    clips : sequence of Tensor [samples]
        float32 samples of each clip, in main memory; they are padded here.
    every_layer : bool
        Whether to keep the states of every layer.

    Returns
    -------
    tuple of Tensor [clips, frames, width]
        The states that enter each layer, only with `every_layer`; and last the network's output,
        after its final norm where it has one.
    """
    lengths = tuple(len(clip) for clip in clips)
    weight = next(network.parameters())
    samples = on_device(nn.utils.rnn.pad_sequence(list(clips), batch_first=True), weight.device)
    samples = samples.to(weight.dtype)
    mask = None
    if len(set(lengths)) > 1:
        ends = torch.tensor(lengths, device=samples.device)
        mask = (torch.arange(samples.shape[1], device=samples.device) < ends[:, None]).long()
    states: list[Tensor] = []
    tokens = LENGTHS.set(lengths), STATES.set(states if every_layer else None)
    try:
        output: Any = network(samples, attention_mask=mask, return_dict=True)
    finally:
        LENGTHS.reset(tokens[0])
        STATES.reset(tokens[1])
    return (*states[:-1], output.last_hidden_state)
