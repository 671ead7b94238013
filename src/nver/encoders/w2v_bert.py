"""w2v-BERT 2.0: a conformer, self-supervised on 4.5 million hours of speech.

After Seamless Communication, Seamless: multilingual expressive and streaming speech translation,
2023, and Chung et al., w2v-BERT, ASRU 2021: a Kaldi log-mel spectrogram (80 bands, each brought to
mean 0 and variance 1 over the clip, two frames stacked: 160 values, 50 a second), then 24 conformer
layers with relative positions and causal convolutions. Checkpoints of ``model_type``
``wav2vec2-bert``, fine-tuned ones too; a head on top is left aside, a length adapter is refused.

- The bands' mean and variance are those of the clip's own frames, before any padding.
- An odd last mel frame is left out, as in the reference: there it is stacked with a frame of
  padding, and the mask then hides the pair. Without that mask the padding would be heard.
- Two mel frames (35 ms) are the least: the variance of one is undefined, and one cannot be stacked.
- With its attention mask the network is exact under padding, in every layer: padded frames are
  attended to by none, and the convolutions look back only. So clips of similar length share a pass.

Relative positions cost memory with the square of the duration (at the published width a process
peaked at 0.8 GiB for 15 s and 4.0 GiB for 60 s, two layers loaded): cut long recordings into
windows. Layers above the one that is read are dropped.
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
from torch import Tensor, nn

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.batching import similar_lengths
from nver.encoders.catalogue import licence_of
from nver.encoders.checkpoint import CONFIG_FILE, sha256_of
from nver.encoders.device import dtype_of
from nver.encoders.hub import Model, find_model
from nver.encoders.mel import hann, mel_filters
from nver.encoders.parallel import over_cores
from nver.encoders.readout import read_options
from nver.encoders.transformers_network import (
    EXTRA,
    Layout,
    load_network,
    preprocessor_number,
    require_type,
    short_name,
)
from nver.errors import CheckpointError, EncoderError
from nver.shapes import Embeddings, Mono

MODEL_TYPE = "wav2vec2-bert"
CITATION = (
    "Seamless Communication, Seamless: multilingual expressive and streaming speech translation, "
    "2023, arXiv:2312.05187"
)
LAYOUT = Layout(
    "Wav2Vec2BertModel",
    backbone=("feature_projection.", "encoder."),
    unused=("masked_spec_embed",),
)

PADDING = 0.2  # of a batch, at most
MOST_FRAMES = 50 * 16  # in one forward pass: bounds memory, and gives every core a share

LENGTH, HOP, N_FFT = 400, 160, 512  # samples
LOWEST = 20.0  # Hz, edge of the first band; the last ends at half the rate
PREEMPHASIS = 0.97
POVEY = 0.85  # exponent of the Hann window
FULL_SCALE = 2.0**15  # Kaldi reads 16-bit samples
LOG_FLOOR = 1.192092955078125e-07
VARIANCE_FLOOR = 1e-7


@dataclass(frozen=True)
class StackedMel:
    """The front end of w2v-BERT 2.0, as `transformers.SeamlessM4TFeatureExtractor` has it.

    Kaldi's filter bank in float64, rounded to float32 where the reference rounds, then normalised
    per band in float32, with the variance over frames - 1. One difference: a band that never
    changes, as in silence, is 0; there the reference hears its own rounding errors.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    mels : int
        Number of bands.
    stack : int
        Mel frames in a frame of the network.
    """

    rate: int
    mels: int
    stack: int

    @property
    def least(self) -> int:
        """The fewest samples that can be normalised and stacked."""
        return LENGTH + (max(2, self.stack) - 1) * HOP

    def __call__(self, samples: Mono) -> Float32[np.ndarray, "frames bands"]:
        """Return the network's input [frames, stack x mels] for at least `least` samples."""
        mel = self.bank(samples)
        changes = np.ptp(mel, axis=0) > 0
        scaled = (mel - mel.mean(axis=0)) / np.sqrt(mel.var(axis=0, ddof=1) + VARIANCE_FLOOR)
        frames = len(mel) // self.stack
        return np.where(changes, scaled, 0)[: frames * self.stack].reshape(frames, -1)

    def bank(self, samples: Mono) -> Float32[np.ndarray, "frames mels"]:
        """Return Kaldi's log-mel spectrogram with Povey's window."""
        signal = samples.astype(np.float64) * FULL_SCALE
        frames = np.lib.stride_tricks.sliding_window_view(signal, LENGTH)[::HOP]
        centred = frames - frames.mean(axis=1, keepdims=True)
        before = np.concatenate([centred[:, :1], centred[:, :-1]], axis=1)
        shaped = (centred - PREEMPHASIS * before) * hann(LENGTH, periodic=False) ** POVEY
        spectrum = np.fft.rfft(shaped, n=N_FFT).astype(np.complex64)
        power = np.square(np.abs(spectrum, dtype=np.float64))
        filters = mel_filters(self.rate, N_FFT, self.mels, LOWEST, self.rate / 2, "mel")
        mel = np.maximum(filters.T @ power.T, LOG_FLOOR)
        # Bands are rows in memory, as in the reference: sums over frames then round alike.
        return np.asarray(np.log(mel), dtype=np.float32).T


class W2vBertEncoder(Encoder):
    """A w2v-BERT 2.0 checkpoint.

    Parameters
    ----------
    checkpoint : path or str
        A folder (``config.json`` with ``model.safetensors``), its name below $NVER_WEIGHTS or
        NVER_HOME/weights, or a hub id, ``ID@REVISION`` for one revision.
    layer : int or {"mean", "all"}
        0 is what enters the first layer, 1 its output, ...; -1 or the number of layers is the
        network's output. "mean" averages the outputs of all layers, "all" puts the vectors of 0 to
        the last one after the other.
    pooling : {"mean", "mean+std"}
        Over the clip's frames; the standard deviation divides by their number.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str, optional
        The card's name, unique within a run; otherwise ``w2v-bert:`` and the checkpoint's last
        part.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated, incomplete or foreign, or its front end does not
        fit its network.
    EncoderError
        If its ``model_type`` is not ``wav2vec2-bert``, or it has a length adapter on top.
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
        self._dtype, self._device = dtype_of("w2v-bert", dtype), device
        model = find_model("w2v-bert", checkpoint, EXTRA)
        require_type("w2v-bert", model, MODEL_TYPE)
        network: Any = load_network(model, LAYOUT, self._dtype, device)
        config = network.config
        if config.add_adapter or config.use_intermediate_ffn_before_adapter:
            raise EncoderError(
                f"{model.folder} has a length adapter on top (add_adapter), which 'w2v-bert' does "
                "not read. Use the checkpoint that it was made from."
            )
        self._mel = stacked_mel(model, config)
        self._readout = read_options(
            "w2v-bert", layer, pooling, layers=config.num_hidden_layers, width=config.hidden_size
        )
        self._card = self._describe(alias, model, network)
        network.encoder.layers = network.encoder.layers[: max(self._readout.states)]
        self._network = network

    def _describe(self, alias: str | None, model: Model, network: nn.Module) -> EncoderCard:
        readout, mel, short = self._readout, self._mel, short_name(model)
        return EncoderCard(
            name=alias or f"w2v-bert:{short}",
            summary=f"w2v-BERT 2.0 ({short}): frames of layer {readout.layer_name}",
            dim=readout.dim,
            rate=mel.rate,
            modality="audio-only",
            pooling=readout.pooling_name,
            licence=licence_of("w2v-bert", model.name),
            citation=CITATION,
            revision=model.revision,
            parameters=sum(tensor.numel() for tensor in network.parameters()),
            min_seconds=mel.least / mel.rate,
            layer=readout.layer_name,
            layers=readout.held,
            extra=EXTRA,
            download_bytes=model.bytes,
            facts={
                "resampler": RESAMPLER,
                "frontend": repr(mel),
                "dtype": str(self._dtype).removeprefix("torch."),
                "config": sha256_of(model.folder / CONFIG_FILE),
                "transformers": ".".join(version("transformers").split(".")[:2]),
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "frames bands"]:
        """Return the normalised, stacked log-mel spectrogram [frames, 160]."""
        return self._mel(samples)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim], exact under any batching."""
        groups = similar_lengths([array.T for array in inputs], MOST_FRAMES, PADDING)
        parts = [[inputs[index] for index in group] for group in groups]
        in_turn = len(self._readout.states) > 1  # the library's record is not made for threads
        found = (
            [over_cores(self._pooled, [part], self._device)[0] for part in parts]
            if in_turn
            else over_cores(self._pooled, parts, self._device)
        )
        vectors = np.empty((len(inputs), self._card.dim), dtype=np.float32)
        for group, rows in zip(groups, found, strict=True):
            vectors[group] = rows
        return vectors

    def _pooled(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the embeddings of clips that share a forward pass."""
        clips = [torch.tensor(array, dtype=self._dtype, device=self._device) for array in inputs]
        states = self._states(clips)
        rows = [
            self._readout.vector([state[item, : len(clip)] for state in states])
            for item, clip in enumerate(clips)
        ]
        return np.asarray(torch.stack(rows).cpu().numpy())

    def _states(
        self, clips: Sequence[Float[Tensor, "_ bands"]]
    ) -> list[Float[Tensor, "clips frames width"]]:
        """Return the states that the readout asks for, exact for every clip's own frames."""
        lengths = [len(clip) for clip in clips]
        padded = nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
        mask = None
        if len(set(lengths)) > 1:
            ends = torch.tensor(lengths, device=padded.device)
            mask = (torch.arange(padded.shape[1], device=padded.device) < ends[:, None]).long()
        several = len(self._readout.states) > 1
        output = self._network(
            padded, attention_mask=mask, output_hidden_states=several, return_dict=True
        )
        if not several:  # the network ends with the layer that is read
            return [output.last_hidden_state]
        states = (*output.hidden_states[:-1], output.last_hidden_state)
        return [states[index] for index in self._readout.states]


def stacked_mel(model: Model, config: Any) -> StackedMel:
    """Return the front end: ``preprocessor_config.json`` where it is there, else as published.

    Raises
    ------
    CheckpointError
        If that file describes another input than the network takes.
    """
    mel = StackedMel(
        rate=preprocessor_number(model, "sampling_rate", 16_000),
        mels=preprocessor_number(model, "num_mel_bins", 80),
        stack=preprocessor_number(model, "stride", 2),
    )
    if mel.mels * mel.stack != config.feature_projection_input_dim:
        raise CheckpointError(
            f"{model.folder} holds a front end of {mel.stack} x {mel.mels} bands for a network of "
            f"{config.feature_projection_input_dim}. Fetch all files of one checkpoint."
        )
    return mel
