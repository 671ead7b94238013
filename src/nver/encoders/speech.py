"""Speech foundation models: any wav2vec 2.0-family checkpoint.

wav2vec 2.0, XLS-R, MMS, voc2vec, HuBERT, WavLM, UniSpeech, UniSpeech-SAT and data2vec-audio, from a
local folder or the hub, pooled over the frames of one layer. They hear 16 kHz mono, 50 frames a
second. All were trained on speech, voc2vec on vocalisations. "last" is always `last_hidden_state`:
the last of `hidden_states` changed its meaning between releases of transformers.

A clip is normalised to mean 0 and variance 1 where the checkpoint's ``preprocessor_config.json``
says so, on its own samples, before any padding. `nver.encoders.speech_network` says how batches are
exact. In half precision (`dtype`, only when asked) they are exact to that precision, about 1e-2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.batching import equal_shapes, similar_lengths
from nver.encoders.catalogue import licence_of
from nver.encoders.checkpoint import CONFIG_FILE, sha256_of
from nver.encoders.device import dtype_of, values_at_once
from nver.encoders.hub import Model, find_model
from nver.encoders.parallel import over_cores
from nver.encoders.readout import read_options
from nver.encoders.speech_network import hidden_states, load_speech_network
from nver.encoders.speech_recipe import family_of, read_recipe
from nver.encoders.transformers_network import EXTRA, short_name
from nver.shapes import Embeddings, Mono

MOST_SAMPLES = 16_000 * 32  # in one forward pass where the free memory is not known
BYTES_A_SAMPLE = 1500  # of activations in a base model, the first convolutions' above all
CPU_SAMPLES = (16_000 * 2, 16_000 * 10)  # a core works at its best rate from 2 s on
CPU_PADDING, GPU_PADDING = 0.05, 0.2  # of a forward pass, at most


class SpeechEncoder(Encoder):
    """A wav2vec 2.0-family checkpoint.

    Parameters
    ----------
    checkpoint : path or str
        A folder (``config.json`` with ``model.safetensors``), its name below $NVER_WEIGHTS or
        NVER_HOME/weights, or a hub id, ``ID@REVISION`` for one revision.
    layer : int or {"mean", "all"}
        0 is what enters the first transformer layer, 1 its output, ...; -1 or the number of layers
        is the network's output. "mean" averages the outputs of all layers, "all" puts the vectors
        of 0 to the last one after the other.
    pooling : {"mean", "mean+std"}
        Over the clip's frames; the standard deviation divides by their number, so that a clip of
        one frame has 0.
    normalise : bool, optional
        Whether to bring each clip to mean 0 and variance 1; otherwise what the checkpoint's
        ``preprocessor_config.json`` says, or without it what its kind was trained with (yes for
        layer-norm convolutions, no for group-norm).
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str, optional
        The card's name, unique within a run; otherwise `name` and the checkpoint's last part.
    name : str
        What the encoder is called in the table: "speech" reads every family, the others their own.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated, incomplete or foreign.
    EncoderError
        If its ``model_type`` is of no supported family.
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
        normalise: bool | int | str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        alias: str | None = None,
        name: str = "speech",
    ) -> None:
        self._dtype, self._device = dtype_of(name, dtype), device
        model = find_model(name, checkpoint, EXTRA)
        self._family = family_of(name, model)
        self._network, self._values = load_speech_network(
            model, self._family.class_name, self._dtype, device
        )
        config: Any = self._network.config
        layers, width = config.num_hidden_layers, config.hidden_size
        readout = read_options(name, layer, pooling, layers=layers, width=width)
        self._recipe = read_recipe(name, model, config, readout, normalise)
        self._card = self._describe(name, alias, model)

    def _describe(self, name: str, alias: str | None, model: Model) -> EncoderCard:
        recipe, short = self._recipe, short_name(model)
        return EncoderCard(
            name=alias or f"{name}:{short}",
            summary=f"{self._family.title} ({short}): frames of layer {recipe.readout.layer_name}",
            dim=recipe.readout.dim,
            rate=recipe.rate,
            modality="audio-only",
            pooling=recipe.readout.pooling_name,
            licence=licence_of(name, model.name),
            citation=self._family.citation,
            revision=model.revision,
            parameters=self._values,
            min_seconds=recipe.samples_for(1) / recipe.rate,
            layer=recipe.readout.layer_name,
            layers=recipe.readout.held,
            extra=EXTRA,
            download_bytes=model.bytes,
            facts={
                "resampler": RESAMPLER,
                "normalise": str(recipe.normalise),
                "dtype": str(self._dtype).removeprefix("torch."),
                "config": sha256_of(model.folder / CONFIG_FILE),
                "transformers": ".".join(version("transformers").split(".")[:2]),
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Mono:
        """Return the samples, at mean 0 and variance 1 where the checkpoint was trained so."""
        if not self._recipe.normalise:
            return samples
        exact = samples.astype(np.float64)
        scaled = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)
        return np.asarray(scaled, dtype=np.float32)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim], exact under any batching."""
        groups = self._groups(inputs)
        found = over_cores(
            lambda group: self._pooled([inputs[index] for index in group]), groups, self._device
        )
        vectors = np.empty((len(inputs), self._card.dim), dtype=np.float32)
        for group, rows in zip(groups, found, strict=True):
            vectors[group] = rows
        return vectors

    def _groups(self, inputs: Sequence[np.ndarray]) -> list[list[int]]:
        """Return which clips share a forward pass."""
        most = values_at_once(self._device, BYTES_A_SAMPLE, MOST_SAMPLES)
        if not self._family.exact_under_padding:
            return equal_shapes(inputs, most)
        if torch.device(self._device).type != "cpu":
            return similar_lengths(inputs, most, GPU_PADDING)
        return similar_lengths(
            inputs, CPU_SAMPLES[1], CPU_PADDING, torch.get_num_threads(), CPU_SAMPLES[0]
        )

    def _pooled(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the embeddings of clips that share a forward pass."""
        recipe = self._recipe
        clips = [torch.tensor(samples) for samples in inputs]
        readout = recipe.readout
        states = hidden_states(self._network, clips, not readout.only_last)
        chosen = states[-1:] if readout.only_last else [states[index] for index in readout.states]
        rows = [
            readout.vector([state[clip, : recipe.frames(len(samples))] for state in chosen])
            for clip, samples in enumerate(clips)
        ]
        return np.asarray(torch.stack(rows).cpu().numpy())


wav2vec2 = partial(SpeechEncoder, name="wav2vec2")
xls_r = partial(SpeechEncoder, name="xls-r")
mms = partial(SpeechEncoder, name="mms")
hubert = partial(SpeechEncoder, name="hubert")
wavlm = partial(SpeechEncoder, name="wavlm")
unispeech_sat = partial(SpeechEncoder, name="unispeech-sat")
data2vec_audio = partial(SpeechEncoder, name="data2vec-audio")
voc2vec = partial(SpeechEncoder, name="voc2vec")
