"""Whisper's encoder: a transformer trained to transcribe and translate speech of the web.

After Radford, Kim, Xu, Brockman, McLeavey and Sutskever, Robust speech recognition via large-scale
weak supervision, ICML 2023: a log-mel spectrogram (80 bands, 128 in large-v3), two convolutions and
4 to 32 transformer layers, 50 states a second. Of a checkpoint with its decoder (tiny to large-v3,
fine-tuned ones too) only the encoder is kept.

The network hears exactly 30 s, takes no mask, and gives 1500 states whatever the clip. So:

- A shorter clip is followed by zeros, as in training, and its embedding is pooled over its own
  states alone, one for each 320 samples begun: in the usual mean over all 1500, a clip of 1 s is
  97 % padding.
- A longer clip is cut into windows of 30 s, one after the other, without overlap; nothing is left
  out. The last window is as short as it is: mean and standard deviation are over the states of the
  whole clip.
- The spectrogram's floor is 8 powers of ten below the loudest band of its window, padding included,
  as in the reference; windows do not know of each other.

All windows have one length and none is padded for another, so batches are exact. Layers above the
one that is read are dropped.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.catalogue import licence_of
from nver.encoders.checkpoint import CONFIG_FILE, sha256_of
from nver.encoders.device import dtype_of
from nver.encoders.hub import Model, find_model
from nver.encoders.packed import pack_linears
from nver.encoders.parallel import over_cores
from nver.encoders.readout import POOLINGS, Readout, read_options
from nver.encoders.transformers_network import (
    EXTRA,
    Layout,
    load_network,
    preprocessor_number,
    require_type,
    short_name,
)
from nver.errors import CheckpointError
from nver.shapes import Embedding, Embeddings, Mono

MODEL_TYPE = "whisper"
CITATION = (
    "Radford et al., Robust speech recognition via large-scale weak supervision, ICML 2023, "
    "arXiv:2212.04356"
)

# The class that holds an encoder and no decoder. Its head is not in most checkpoints, nor used.
LAYOUT = Layout(
    "WhisperForAudioClassification",
    backbone=("encoder.",),
    unused=(
        "projector.weight",
        "projector.bias",
        "classifier.weight",
        "classifier.bias",
        "layer_weights",
    ),
)

MOST_WINDOWS = 4  # of 30 s, in one forward pass: bounds memory
HIGHEST = 8000.0  # Hz, edge of the last band
FLOOR = 1e-10  # of the power in a band
RANGE = 8.0  # powers of ten below the loudest band of a window


@dataclass(frozen=True)
class WindowMel:
    """Whisper's log-mel spectrogram of one window, the clip followed by zeros.

    ``(max(log10(max(power, 1e-10)), loudest - 8) + 4) / 4`` over centred frames, in float32 as the
    reference (`transformers.WhisperFeatureExtractor`, and OpenAI's own code). Frames that hear
    nothing but padding are not transformed: each is the floor.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    n_fft, hop : int
        Length of the Fourier transform and distance of frames, in samples.
    mels : int
        Number of bands.
    frames : int
        In a window.
    """

    rate: int
    n_fft: int
    hop: int
    mels: int
    frames: int

    @property
    def samples(self) -> int:
        """Samples in a window."""
        return self.frames * self.hop

    def own_frames(self, samples: int) -> int:
        """Return how many frames begin within so many samples.

        >>> WindowMel(16000, 400, 160, 80, 3000).own_frames(161)
        2
        """
        return -(-samples // self.hop)

    def __call__(self, samples: Mono) -> Float32[np.ndarray, "mels frames"]:
        """Return the spectrogram of at least 1 and at most `samples` samples."""
        heard = min(self.frames, -(-(samples.size + self.n_fft // 2) // self.hop))
        length = min(self.samples, heard * self.hop + self.n_fft)  # both edges are reflected
        padded = np.zeros(length, dtype=np.float32)
        padded[: samples.size] = samples
        spectrum = torch.stft(
            torch.from_numpy(padded),
            self.n_fft,
            self.hop,
            window=torch.hann_window(self.n_fft),
            return_complex=True,
        )
        power = spectrum[:, :heard].abs().square()
        mel = torch.zeros(self.mels, self.frames)
        mel[:, :heard] = torch.tensor(slaney_filters(self), dtype=torch.float32).T @ power
        decades = mel.clamp_(min=FLOOR).log10_()
        scaled = torch.maximum(decades, decades.max() - RANGE).add_(4.0).div_(4.0)
        return np.asarray(scaled.numpy())


@lru_cache(maxsize=8)
def slaney_filters(mel: WindowMel) -> Float64[np.ndarray, "bins mels"]:
    """Return triangles of equal area on Slaney's mel scale (linear to 1 kHz), as transformers'."""
    filters: Any = importlib.import_module("transformers.audio_utils").mel_filter_bank(
        num_frequency_bins=mel.n_fft // 2 + 1,
        num_mel_filters=mel.mels,
        min_frequency=0.0,
        max_frequency=HIGHEST,
        sampling_rate=mel.rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return np.asarray(filters)


class WhisperEncoder(Encoder):
    """The encoder of a Whisper checkpoint.

    Parameters
    ----------
    checkpoint : path or str
        A folder (``config.json`` with ``model.safetensors``), its name below $NVER_WEIGHTS or
        NVER_HOME/weights, or a hub id, ``ID@REVISION`` for one revision.
    layer : int or {"mean", "all"}
        0 is what enters the first transformer layer, 1 its output, ...; -1 or the number of layers
        is the network's output, after its last layer norm. "mean" averages the outputs of all
        layers, "all" puts the vectors of 0 to the last one after the other.
    pooling : {"mean", "mean+std"}
        Over the clip's own states; the standard deviation divides by their number.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str, optional
        The card's name, unique within a run; otherwise ``whisper:`` and the checkpoint's last part.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated, incomplete or foreign, or its front end does not
        fit its network.
    EncoderError
        If its ``model_type`` is not ``whisper``.
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
        pooling: str = "mean",
        dtype: str = "float32",
        device: str = "cpu",
        alias: str | None = None,
    ) -> None:
        self._dtype, self._device = dtype_of("whisper", dtype), device
        model = find_model("whisper", checkpoint, EXTRA)
        require_type("whisper", model, MODEL_TYPE)
        holder: Any = load_network(model, LAYOUT, self._dtype, device)
        config = holder.config
        self._mel = window_mel(model, config)
        self._readout = read_options(
            "whisper", layer, pooling, layers=config.encoder_layers, width=config.d_model
        )
        self._card = self._describe(alias, model, holder.encoder)
        self._network = up_to(holder.encoder, max(self._readout.states))
        pack_linears(self._network)

    def _describe(self, alias: str | None, model: Model, network: nn.Module) -> EncoderCard:
        readout, mel, short = self._readout, self._mel, short_name(model)
        return EncoderCard(
            name=alias or f"whisper:{short}",
            summary=f"Whisper's encoder ({short}): states of layer {readout.layer_name}",
            dim=readout.dim,
            rate=mel.rate,
            modality="audio-only",
            pooling=readout.pooling_name,
            licence=licence_of("whisper", model.name),
            citation=CITATION,
            revision=model.revision,
            parameters=sum(tensor.numel() for tensor in network.parameters()),
            min_seconds=2 * mel.hop / mel.rate,
            layer=readout.layer_name,
            layers=readout.held,
            extra=EXTRA,
            download_bytes=model.bytes,
            facts={
                "resampler": RESAMPLER,
                "frontend": repr(mel),
                "windows": "one after the other, over the clip's own states",
                "dtype": str(self._dtype).removeprefix("torch."),
                "config": sha256_of(model.folder / CONFIG_FILE),
                "transformers": ".".join(version("transformers").split(".")[:2]),
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "mels_and_mark frames"]:
        """Return the spectrogram of each window, one after the other, and below it the mark.

        Returns
        -------
        float32 [mels + 1, windows x 3000]
            The last row is 1 where a frame is the clip's own and 0 where it is padding.
        """
        mel = self._mel
        windows = []
        for start in range(0, samples.size, mel.samples):
            window = samples[start : start + mel.samples]
            mark = np.zeros((1, mel.frames), dtype=np.float32)
            mark[:, : mel.own_frames(window.size)] = 1.0
            windows.append(np.concatenate([mel(window), mark]))
        return np.concatenate(windows, axis=1)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; every window is an item of its own."""
        length = self._mel.frames
        windows = [
            (clip, array[:, start : start + length])
            for clip, array in enumerate(inputs)
            for start in range(0, array.shape[1], length)
        ]
        # The library's record of all states is not made for several threads.
        in_turn = len(self._readout.states) > 1 or torch.device(self._device).type != "cpu"
        size = MOST_WINDOWS if in_turn else 1
        batches = [windows[first : first + size] for first in range(0, len(windows), size)]
        found = (
            [over_cores(self._pooled, [batch], self._device)[0] for batch in batches]
            if in_turn
            else over_cores(self._pooled, batches, self._device)
        )
        vectors: list[list[Embedding]] = [[] for _ in inputs]
        states: list[list[int]] = [[] for _ in inputs]
        for batch, pooled in zip(batches, found, strict=True):
            for (clip, _), (vector, count) in zip(batch, pooled, strict=True):
                vectors[clip].append(vector)
                states[clip].append(count)
        rows = [joined(*parts, self._readout) for parts in zip(vectors, states, strict=True)]
        return np.stack(rows) if rows else np.empty((0, self._card.dim), dtype=np.float32)

    def _pooled(self, windows: Sequence[tuple[int, np.ndarray]]) -> list[tuple[Embedding, int]]:
        """Return the vector of each window over its own states, and how many these are."""
        mel = np.stack([array[:-1] for _, array in windows])
        # A state for each two frames begun: the second convolution steps by two.
        own = [(int(array[-1].sum()) + 1) // 2 for _, array in windows]
        chosen = self._states(torch.tensor(mel, dtype=self._dtype, device=self._device))
        return [
            (self._readout.vector([state[item, :count] for state in chosen]).cpu().numpy(), count)
            for item, count in enumerate(own)
        ]

    def _states(
        self, mel: Float[Tensor, "windows mels frames"]
    ) -> list[Float[Tensor, "windows states width"]]:
        """Return the states that the readout asks for."""
        several = len(self._readout.states) > 1
        output = self._network(mel, output_hidden_states=several, return_dict=True)
        if not several:  # the network ends with the layer that is read
            return [output.last_hidden_state]
        states = (*output.hidden_states[:-1], output.last_hidden_state)
        return [states[index] for index in self._readout.states]


def window_mel(model: Model, config: Any) -> WindowMel:
    """Return the front end: ``preprocessor_config.json`` where it is there, else as published.

    Raises
    ------
    CheckpointError
        If that file describes another spectrogram than the network takes.
    """
    mel = WindowMel(
        rate=preprocessor_number(model, "sampling_rate", 16_000),
        n_fft=preprocessor_number(model, "n_fft", 400),
        hop=preprocessor_number(model, "hop_length", 160),
        mels=config.num_mel_bins,
        frames=2 * config.max_source_positions,
    )
    bands = preprocessor_number(model, "feature_size", mel.mels)
    seconds = preprocessor_number(model, "chunk_length", max(1, mel.samples // mel.rate))
    if bands != mel.mels or seconds * mel.rate != mel.samples:
        raise CheckpointError(
            f"{model.folder} holds a front end of {bands} bands and {seconds} s for a network of "
            f"{mel.mels} bands and {mel.samples / mel.rate:g} s. Fetch all files of one checkpoint."
        )
    return mel


def up_to(network: Any, layer: int) -> Any:
    """Return the network that ends with a layer's output: later ones would change nothing."""
    if layer < len(network.layers):
        network.layers = network.layers[:layer]
        network.layer_norm = nn.Identity()  # it ends the whole network, not a layer
    return network


def joined(vectors: Sequence[Embedding], states: Sequence[int], readout: Readout) -> Embedding:
    """Return the vector of a clip from those of its windows, as over all its states at once.

    Parameters
    ----------
    vectors : sequence of float32 [dim]
        Each pooled over its window's states.
    states : sequence of int
        How many those are.
    readout : Readout
        Whether they are means, or means and standard deviations.
    """
    if len(vectors) == 1:
        return vectors[0]
    share = np.asarray(states, dtype=np.float64) / sum(states)
    shape = (len(vectors), -1, POOLINGS[readout.pooling], readout.width)
    parts = np.stack(vectors).astype(np.float64).reshape(shape)
    statistics = np.einsum("w,wpsd->psd", share, parts)
    if readout.pooling == "mean+std":
        spread = np.square(parts[:, :, 0] - statistics[:, 0]) + np.square(parts[:, :, 1])
        statistics[:, 1] = np.sqrt(np.einsum("w,wpd->pd", share, spread))
    return np.asarray(statistics.ravel(), dtype=np.float32)
