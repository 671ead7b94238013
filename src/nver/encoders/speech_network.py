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

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nver.encoders.checkpoint import foreign
from nver.encoders.hub import Model, one_line
from nver.errors import CheckpointError, SettingsError
from nver.registry import require

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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what transformers prints, logs and warns; what matters is raised or on the card."""
    settings: Any = importlib.import_module("transformers.utils.logging")
    verbosity, bar = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity(logging.CRITICAL)
    settings.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.set_verbosity(verbosity)
        if bar:
            settings.enable_progress_bar()


def load_network(model: Model, class_name: str, dtype: torch.dtype, device: str) -> nn.Module:
    """Return a network with a checkpoint's weights, in evaluation.

    Parameters
    ----------
    model : Model
        The checkpoint's files.
    class_name : str
        The class of transformers ("Wav2Vec2Model").
    dtype : torch.dtype
        Of the weights; transformers alone would take the checkpoint's, half precision included.
    device : str
        Where it runs.

    Raises
    ------
    CheckpointError
        If the weights are truncated, or miss tensors, or belong to another architecture.
    SettingsError
        If torch cannot use the device here.
    MissingExtraError
        If transformers is not installed.
    """
    transformers = require("transformers", "speech")
    weights = model.weights[0] if len(model.weights) == 1 else model.folder
    require_device(device)
    try:
        with quiet():
            network, report = getattr(transformers, class_name).from_pretrained(
                str(model.folder),
                dtype=dtype,
                local_files_only=True,
                use_safetensors=model.weights[0].suffix == ".safetensors",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except MemoryError:
        raise
    except Exception as error:  # transformers raises a dozen kinds for a broken file
        if type(error).__name__ == "UnpicklingError":
            raise CheckpointError(
                f"{weights} is damaged or holds Python objects besides tensors, which are never "
                "read. Fetch it again, or convert it to safetensors."
            ) from error
        raise CheckpointError(
            f"{weights} cannot be read as a {class_name} ({one_line(error)}). "
            "Fetch the checkpoint again."
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(UNUSED))
    extra = sorted(name for name in report["unexpected_keys"] if of_backbone(name))
    misshaped = [
        f"{name} {list(found)} instead of {list(expected)}"
        for name, found, expected in sorted(report["mismatched_keys"])
    ]
    if missing or extra or misshaped:
        raise foreign(weights, len(network.state_dict()), missing, extra, misshaped)
    network.feature_extractor = ClipByClip(network.feature_extractor)
    prepared: nn.Module = network.to(device).eval().requires_grad_(False)
    return prepared


def require_device(device: str) -> None:
    """Refuse a device that torch cannot use here.

    Raises
    ------
    SettingsError
        If torch has no such device, or it is not there.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"The device must be one that torch can use here (cpu, cuda, mps), '{device}' is not: "
            f"{one_line(error)}"
        ) from error


def of_backbone(name: str) -> bool:
    """Return whether a tensor belongs to the network below the heads."""
    return name.startswith(BACKBONE) or name.partition(".")[2].startswith(BACKBONE)


def hidden_states(
    network: nn.Module, clips: Sequence[Float[Tensor, "_"]], every_layer: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
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
    tuple of (tuple of Tensor, Tensor)
        The states that enter each layer [clips, frames, width], empty without `every_layer`; and
        the network's output of the same shape.
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
    return states, output.last_hidden_state
