"""CLAP: a windowed transformer over spectrograms, trained to agree with captions.

After Wu, Chen, Zhang, Hui, Berg-Kirkpatrick and Dubnov, Large-scale contrastive language-audio
pretraining with feature fusion and keyword-to-caption augmentation, ICASSP 2023, and Chen et al.,
HTS-AT, ICASSP 2022: LAION's checkpoints in the layout of the library transformers
(``clap-htsat-unfused``, ``clap-htsat-fused``, ``larger_clap_*``). 48 kHz, 10 s, 512 values in the
space shared with text. Of a checkpoint only the audio tower and its projection are read.

- The reference is random above 10 s: with and without fusion it draws windows anew at each call.
  Here a longer clip is heard whole and always alike: without fusion the fewest windows that cover
  it, spread evenly, and the mean of their vectors; with fusion the whole clip shrunk to 10 s,
  fused with its first, middle and last 10 s, one of the draws that the reference makes.
- With fusion the reference takes one clip of each batch, drawn at random, for a longer one where
  none is. A clip's vector would depend on its neighbours: here no clip up to 10 s is fused, as in
  the authors' own code outside training.
- A shorter clip is repeated as often as it fits whole, then followed by zeros, as in training.
- The model's own features (`ClapModel.get_audio_features`) are of length 1. "projected" is the
  projection before that, "normalised" after it.

All inputs have one size and batch norms use their stored statistics, so batches are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.catalogue import licence_of
from nver.encoders.checkpoint import CONFIG_FILE, sha256_of
from nver.encoders.clap_spectrogram import PADDINGS, WINDOWS, Spectrograms
from nver.encoders.device import dtype_of, full_precision
from nver.encoders.hub import PREPROCESSOR_FILE, Model, find_model
from nver.encoders.parallel import over_cores
from nver.encoders.transformers_network import (
    EXTRA,
    Layout,
    load_network,
    preprocessor_number,
    preprocessor_of,
    require_type,
    short_name,
)
from nver.errors import CheckpointError
from nver.registry import unknown
from nver.shapes import Embeddings, Mono

MODEL_TYPE = "clap"
CITATION = (
    "Wu et al., Large-scale contrastive language-audio pretraining with feature fusion and "
    "keyword-to-caption augmentation, ICASSP 2023, arXiv:2211.06687"
)

# Computed from the configuration, or a counter of training: older files lack them.
UNUSED = ("relative_position_index", "num_batches_tracked")
LAYOUT = Layout("ClapAudioModelWithProjection", ("audio_model.", "audio_projection."), UNUSED)
REPRESENTATIONS = {
    "projected": "projection into the space shared with text",
    "normalised": "projection into the space shared with text, at length 1",
    "trunk": "mean over the last patches",
}
FUSIONS = {"fusion": True, "rand_trunc": False}  # what preprocessors call it
CPU_WINDOWS, GPU_WINDOWS = 1, 32  # in one forward pass: 4096 patches each fill a core


class ClapEncoder(Encoder):
    """The audio tower of a LAION CLAP.

    Parameters
    ----------
    checkpoint : path or str
        A folder (``config.json`` with ``model.safetensors``), its name below $NVER_WEIGHTS or
        NVER_HOME/weights, or a hub id, ``ID@REVISION`` for one revision.
    representation : {"projected", "normalised", "trunk"}
        The space shared with text as the projection gives it, the same brought to length 1, or what
        enters the projection.
    windows : {"even", "first"}
        What is heard of a clip above 10 s: all of it, or its first 10 s.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str, optional
        The card's name, unique within a run; otherwise ``clap:`` and the checkpoint's last part.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated, incomplete or foreign.
    EncoderError
        If its ``model_type`` is another one.
    UnknownNameError
        If the representation, windows or dtype is none of the known ones.
    MissingExtraError
        If transformers is not installed.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        representation: str = "projected",
        windows: str = "even",
        dtype: str = "float32",
        device: str = "cpu",
        alias: str | None = None,
    ) -> None:
        if representation not in REPRESENTATIONS:
            raise unknown("representation of 'clap'", representation, REPRESENTATIONS)
        if windows not in WINDOWS:
            raise unknown("windows of 'clap'", windows, WINDOWS)
        self._dtype, self._device = dtype_of("clap", dtype), torch.device(device)
        self._representation = representation
        model = find_model("clap", checkpoint, EXTRA)
        require_type("clap", model, MODEL_TYPE)
        self._network: Any = load_network(model, LAYOUT, self._dtype, device)
        self._spectrograms = read_spectrograms(model, self._network.config, windows)
        self._card = self._describe(alias, model)

    def _describe(self, alias: str | None, model: Model) -> EncoderCard:
        config, short = self._network.config, short_name(model)
        stages = len(config.depths)
        trunk = config.patch_embeds_hidden_size * 2 ** (stages - 1)
        return EncoderCard(
            name=alias or f"clap:{short}",
            summary=f"CLAP ({short}): bound to captions",
            dim=trunk if self._representation == "trunk" else config.projection_dim,
            rate=self._spectrograms.rate,
            modality="multimodal",
            pooling=REPRESENTATIONS[self._representation],
            licence=licence_of("clap", model.name),
            citation=CITATION,
            revision=model.revision,
            parameters=sum(tensor.numel() for tensor in self._network.parameters()),
            layer=self._representation,
            extra=EXTRA,
            download_bytes=model.bytes,
            facts={
                "resampler": RESAMPLER,
                "spectrograms": repr(self._spectrograms),
                "dtype": str(self._dtype).removeprefix("torch."),
                "config": sha256_of(model.folder / CONFIG_FILE),
                "transformers": ".".join(version("transformers").split(".")[:2]),
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "windows channels frames mels"]:
        """Return the spectrograms in decibels [windows, 1 or 4, 1001, 64]; 4 where they fuse."""
        return self._spectrograms(samples)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; all inputs have one size, so batches are exact."""
        windows = [window for clip in inputs for window in clip]
        groups = alike(windows, CPU_WINDOWS if self._device.type == "cpu" else GPU_WINDOWS)
        found = over_cores(
            lambda group: self._vectors([windows[index] for index in group]),
            groups,
            str(self._device),
        )
        vectors = np.empty((len(windows), self._card.dim), dtype=np.float32)
        for group, rows in zip(groups, found, strict=True):
            vectors[group] = rows
        ends = np.cumsum([len(clip) for clip in inputs])[:-1]
        return np.stack([self._over_windows(rows) for rows in np.split(vectors, ends)])

    def _vectors(self, windows: Sequence[np.ndarray]) -> Embeddings:
        """Return the vector of each window; all have equally many channels."""
        batch = torch.from_numpy(np.stack(windows)).to(self._device, self._dtype)
        fuse = torch.full((len(windows), 1), batch.shape[1] > 1, device=self._device)
        with full_precision(self._device):
            output = self._network.audio_model(
                input_features=batch, is_longer=fuse, return_dict=True
            )
            found = output.pooler_output
            if self._representation != "trunk":
                found = self._network.audio_projection(found)
        if self._representation == "normalised":
            found = functional.normalize(found.float(), dim=-1)
        return np.asarray(found.float().cpu().numpy())

    def _over_windows(self, vectors: Embeddings) -> np.ndarray:
        """Return a clip's vector: the mean of its windows', at length 1 where they are."""
        if len(vectors) == 1:
            return np.asarray(vectors[0])
        mean = vectors.mean(axis=0, dtype=np.float64)
        if self._representation == "normalised":
            mean /= max(float(np.linalg.norm(mean)), 1e-12)
        return np.asarray(mean, dtype=np.float32)


def alike(windows: Sequence[np.ndarray], most: int) -> list[list[int]]:
    """Return groups of at most `most` indices of windows with equally many channels.

    >>> alike([np.zeros((1, 9, 9)), np.zeros((4, 9, 9)), np.zeros((1, 9, 9))], most=2)
    [[0, 2], [1]]
    """
    groups = []
    for channels in dict.fromkeys(len(window) for window in windows):
        same = [index for index, window in enumerate(windows) if len(window) == channels]
        groups += [same[first : first + most] for first in range(0, len(same), most)]
    return groups


def read_spectrograms(model: Model, config: Any, windows: str) -> Spectrograms:
    """Return what the network gets, read from a checkpoint's two configurations.

    Without ``preprocessor_config.json`` the published values hold.

    Parameters
    ----------
    model : Model
        The checkpoint's files.
    config : PretrainedConfig
        The audio tower's configuration, defaults filled in.
    windows : str
        As in `Spectrograms`.

    Raises
    ------
    CheckpointError
        If ``preprocessor_config.json`` says something that is none of the known values.
    """
    said, path = preprocessor_of(model), model.folder / PREPROCESSOR_FILE
    truncation = said.get("truncation", "fusion" if config.enable_fusion else "rand_trunc")
    padding = said.get("padding", PADDINGS[0])
    for key, value, known in (("truncation", truncation, FUSIONS), ("padding", padding, PADDINGS)):
        if value not in known:
            raise CheckpointError(
                f"{path} must give one of {', '.join(known)} for {key}, it gives {value!r}."
            )
    edges = [said.get("frequency_min", 50), said.get("frequency_max", 14_000)]
    if not all(isinstance(edge, int | float) for edge in edges) or not 0 <= edges[0] < edges[1]:
        raise CheckpointError(
            f"{path} must give frequency_min below frequency_max in Hz, it gives {edges}."
        )
    found = Spectrograms(
        rate=preprocessor_number(model, "sampling_rate", 48_000),
        n_fft=preprocessor_number(model, "fft_window_size", 1024),
        hop_length=preprocessor_number(model, "hop_length", 480),
        n_mels=preprocessor_number(model, "feature_size", config.num_mel_bins),
        f_min=float(edges[0]),
        f_max=float(edges[1]),
        htk=FUSIONS[truncation],
        seconds=preprocessor_number(model, "max_length_s", 10),
        padding=padding,
        fused=FUSIONS[truncation] and bool(config.enable_fusion),
        windows=windows,
    )
    longest = config.spec_size * (config.spec_size // config.num_mel_bins)
    if found.n_mels != config.num_mel_bins or found.frames > longest:
        raise CheckpointError(
            f"{path} makes spectrograms of {found.frames} frames and {found.n_mels} bands, the "
            f"network beside it takes at most {longest} frames of {config.num_mel_bins} bands. Are "
            "both of the same checkpoint?"
        )
    return found
