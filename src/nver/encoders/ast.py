"""AST: a vision transformer over spectrograms, trained to tag the sounds of AudioSet.

After Gong, Chung and Glass, AST: Audio Spectrogram Transformer, Interspeech 2021. The Kaldi log-mel
spectrogram of 128 bands and 1024 frames (10.24 s) as an image, in patches of 16 by 16 that overlap
by 6, through 12 transformer layers of width 768, with a class and a distillation token. 86 million
parameters. Read from the layout of the library transformers; a classifier on top is not read.

- The network hears exactly 10.24 s. A shorter clip is followed by zeros, put behind its spectrogram
  before that is normalised, as in training: they become the constant 0.467, and a clip of 1 s is
  90 % constant. The class token has learned to live with it. A mean over all patches has not: so
  "mean" and "mean+std" are over the patches that hold at least one frame of the clip.
- A longer clip is not cut: the fewest windows that cover it, spread evenly
  (`nver.encoders.even_windows`). Its vector is the mean of theirs; its standard deviation is that
  over the patches of all windows together.
- The reference's vector ("cls") is the mean of the class and the distillation token after the last
  layer norm. Layer -1 is always after that norm: the last of transformers' own ``hidden_states`` is
  before it.

All windows have one size and none is padded for another, so batches are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.catalogue import licence_of
from nver.encoders.checkpoint import CONFIG_FILE, sha256_of
from nver.encoders.device import dtype_of, full_precision
from nver.encoders.even_windows import even_starts
from nver.encoders.hub import PREPROCESSOR_FILE, Model, find_model
from nver.encoders.kaldi import FilterBank
from nver.encoders.packed import pack_linears
from nver.encoders.parallel import over_cores
from nver.encoders.readout import POOLINGS, Readout, read_options
from nver.encoders.transformers_network import (
    EXTRA,
    Layout,
    load_network,
    preprocessor_of,
    require_type,
    short_name,
)
from nver.errors import CheckpointError
from nver.shapes import Embedding, Embeddings, Mono

MODEL_TYPE = "audio-spectrogram-transformer"
CITATION = (
    "Gong, Chung and Glass, AST: Audio Spectrogram Transformer, Interspeech 2021, arXiv:2104.01778"
)

# The classifier has a layer norm of its own, so "layernorm." is no sign of the network's.
LAYOUT = Layout(
    "ASTModel", ("audio_spectrogram_transformer.", "embeddings.", "encoder.", "layers.")
)
TOKENS = 2  # before the patches: class and distillation
CPU_WINDOWS, GPU_WINDOWS = 1, 16  # in one forward pass: 1214 tokens each fill a core

# Of the published checkpoints, where no preprocessor_config.json says others.
RATE, MEAN, STD = 16_000, -4.2677393, 4.5689974


@dataclass(frozen=True)
class Recipe:
    """What changes the input, read from a checkpoint's two configurations.

    Parameters
    ----------
    bank : FilterBank
        The log-mel spectrogram.
    frames : int
        Of a window.
    mean, std : float
        The input is ``(x - mean) / (2 std)``.
    patch, frequency_stride, time_stride : int
        Side of a patch, and from one to the next, in bands and frames.
    """

    bank: FilterBank
    frames: int
    mean: float
    std: float
    patch: int
    frequency_stride: int
    time_stride: int

    @property
    def padding(self) -> np.float32:
        """What the zeros behind a spectrogram become."""
        return np.float32((np.float32(0) - np.float32(self.mean)) / np.float32(2 * self.std))

    @property
    def grid(self) -> tuple[int, int]:
        """How many patches there are along frequency and along time."""
        return (
            (self.bank.n_mels - self.patch) // self.frequency_stride + 1,
            (self.frames - self.patch) // self.time_stride + 1,
        )

    def own_columns(self, frames: int) -> int:
        """Return how many columns of patches hold at least one of a window's first `frames`."""
        return min(self.grid[1], -(-frames // self.time_stride))

    def own_frames(self, window: Float32[np.ndarray, "frames mels"]) -> int:
        """Return how many frames of a window are the clip's: all before the padding.

        No frame of sound has one value in all bands.
        """
        return int(np.flatnonzero((window != self.padding).any(axis=1))[-1]) + 1


def read_recipe(model: Model, config: Any) -> Recipe:
    """Return what changes the input.

    Parameters
    ----------
    model : Model
        The checkpoint's files.
    config : PretrainedConfig
        The network's configuration, defaults filled in.

    Raises
    ------
    CheckpointError
        If ``preprocessor_config.json`` says something that is no number, or belongs to a network of
        another size.
    """
    said = preprocessor_of(model)
    path = model.folder / PREPROCESSOR_FILE
    for key in ("num_mel_bins", "max_length"):
        expected = getattr(config, key)
        if said.get(key, expected) != expected:
            raise CheckpointError(
                f"{path} gives {said[key]} for {key}, {CONFIG_FILE} beside it {expected}. Are both "
                "of the same checkpoint?"
            )
    values = {"sampling_rate": RATE, "mean": MEAN, "std": STD}
    for key, default in values.items():
        value = said.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{path} must give a number for {key}, it gives {value!r}.")
        values[key] = value
    if values["std"] <= 0 or values["sampling_rate"] < 1000:
        raise CheckpointError(
            f"{path} must give a positive std and a rate from 1000 Hz, it gives {values}."
        )
    normalise = bool(said.get("do_normalize", True))
    return Recipe(
        bank=FilterBank(int(values["sampling_rate"]), config.num_mel_bins, "hanning"),
        frames=config.max_length,
        mean=float(values["mean"]) if normalise else 0.0,
        std=float(values["std"]) if normalise else 0.5,
        patch=config.patch_size,
        frequency_stride=config.frequency_stride,
        time_stride=config.time_stride,
    )


class ASTEncoder(Encoder):
    """An audio spectrogram transformer.

    Parameters
    ----------
    checkpoint : path or str
        A folder (``config.json`` with ``model.safetensors``), its name below $NVER_WEIGHTS or
        NVER_HOME/weights, or a hub id, ``ID@REVISION`` for one revision.
    layer : int or {"mean", "all"}
        0 is what enters the first layer, 1 its output, ...; -1 or the number of layers is the
        network's output, after its last layer norm. "mean" averages the outputs of all layers,
        "all" puts the vectors of 0 to the last one after the other.
    pooling : {"cls", "mean", "mean+std"}
        "cls" is the mean of the class and the distillation token; the others are over the patches
        that hold frames of the clip.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str, optional
        The card's name, unique within a run; otherwise ``ast:`` and the checkpoint's last part.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated, incomplete or foreign.
    EncoderError
        If its ``model_type`` is another one.
    SettingsError, UnknownNameError
        If an option is out of range.
    MissingExtraError
        If transformers is not installed.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        layer: int | str = -1,
        pooling: str = "cls",
        dtype: str = "float32",
        device: str = "cpu",
        alias: str | None = None,
    ) -> None:
        self._dtype, self._device = dtype_of("ast", dtype), torch.device(device)
        model = find_model("ast", checkpoint, EXTRA)
        require_type("ast", model, MODEL_TYPE)
        self._network = load_network(model, LAYOUT, self._dtype, device)
        config: Any = self._network.config
        self._readout = read_options(
            "ast",
            layer,
            pooling,
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            poolings=tuple(POOLINGS),
        )
        self._recipe = read_recipe(model, config)
        self._card = self._describe(alias, model)
        pack_linears(self._network)  # after its parameters were counted

    def _describe(self, alias: str | None, model: Model) -> EncoderCard:
        recipe, readout, short = self._recipe, self._readout, short_name(model)
        pooling = f"{readout.pooling} over the patches that hold the clip's frames"
        return EncoderCard(
            name=alias or f"ast:{short}",
            summary=f"Audio spectrogram transformer ({short}): layer {readout.layer_name}",
            dim=readout.dim,
            rate=recipe.bank.rate,
            modality="audio-only",
            pooling="class and distillation token" if readout.pooling == "cls" else pooling,
            licence=licence_of("ast", model.name),
            citation=CITATION,
            revision=model.revision,
            parameters=sum(tensor.numel() for tensor in self._network.parameters()),
            min_seconds=recipe.bank.length / recipe.bank.rate,
            layer=readout.layer_name,
            layers=readout.held,
            extra=EXTRA,
            download_bytes=model.bytes,
            facts={
                "resampler": RESAMPLER,
                "recipe": repr(recipe),
                "windows": "even, mean",
                "dtype": str(self._dtype).removeprefix("torch."),
                "config": sha256_of(model.folder / CONFIG_FILE),
                "transformers": ".".join(version("transformers").split(".")[:2]),
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "windows frames mels"]:
        """Return the normalised log-mel spectrograms of the windows [windows, 1024, 128]."""
        recipe = self._recipe
        signal = torch.from_numpy(samples)
        mel = recipe.bank(signal - signal.mean()).numpy()
        if len(mel) < recipe.frames:
            mel = np.pad(mel, ((0, recipe.frames - len(mel)), (0, 0)))
        starts = even_starts(len(mel), recipe.frames)
        windows = np.stack([mel[first : first + recipe.frames] for first in starts])
        return (windows - np.float32(recipe.mean)) / np.float32(2 * recipe.std)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; all windows have one size, so batches are exact."""
        windows = [window for clip in inputs for window in clip]
        size = CPU_WINDOWS if self._device.type == "cpu" else GPU_WINDOWS
        groups = [windows[first : first + size] for first in range(0, len(windows), size)]
        found = np.concatenate(over_cores(self._pooled, groups, str(self._device)))
        ends = np.cumsum([len(clip) for clip in inputs])[:-1]
        return np.stack([over_windows(rows, self._readout) for rows in np.split(found, ends)])

    def _pooled(self, windows: Sequence[Float32[np.ndarray, "frames mels"]]) -> Embeddings:
        """Return the vector of each window; they share a forward pass."""
        batch = torch.from_numpy(np.stack(windows)).to(self._device, self._dtype)
        readout = self._readout
        with full_precision(self._device):
            output = self._network(
                batch, output_hidden_states=not readout.only_last, return_dict=True
            )
        # The last of `hidden_states` differs from release to release, the output does not.
        states = () if readout.only_last else tuple(output.hidden_states)[:-1]
        states = (*states, output.last_hidden_state)
        chosen = states if readout.only_last else [states[index] for index in readout.states]
        rows = [
            readout.vector([self._frames(state[index], window) for state in chosen])
            for index, window in enumerate(windows)
        ]
        return np.asarray(torch.stack(rows).cpu().numpy())

    def _frames(
        self, tokens: Float[Tensor, "tokens width"], window: Float32[np.ndarray, "frames mels"]
    ) -> Float[Tensor, "own width"]:
        """Return what is pooled of a window's tokens."""
        if self._readout.pooling == "cls":
            return tokens[:TOKENS].float().mean(dim=0, keepdim=True)
        recipe = self._recipe
        columns = recipe.own_columns(recipe.own_frames(window))
        patches = tokens[TOKENS:].reshape(*recipe.grid, -1)  # time is the faster one
        return patches[:, :columns].flatten(0, 1)


def over_windows(vectors: Float32[np.ndarray, "windows dim"], readout: Readout) -> Embedding:
    """Return a clip's vector from those of its windows, which have equally many patches.

    Means are averaged. The standard deviation is that over the patches of all windows: the root of
    the mean variance within windows and the variance of their means.
    """
    if len(vectors) == 1:
        return np.asarray(vectors[0])
    parts = vectors.astype(np.float64).reshape(
        len(vectors), -1, POOLINGS[readout.pooling], readout.width
    )
    found = parts.mean(axis=0)
    if readout.pooling == "mean+std":
        between = parts[:, :, 0].var(axis=0)
        found[:, 1] = np.sqrt(np.square(parts[:, :, 1]).mean(axis=0) + between)
    return np.asarray(found.reshape(-1), dtype=np.float32)
