"""BYOL-S: a small convolutional network, self-supervised on the speech of AudioSet.

After Scheidwasser-Clow, Kegler, Beckmann and Cernak, SERAB: a multi-lingual benchmark for speech
emotion recognition, ICASSP 2022 ("default512"). Three blocks of 3 x 3 convolution, batch norm, ReLU
and 2 x 2 max-pooling over a 64-band log-mel spectrogram, two dense layers per time step, then the
maximum plus the mean over time. 0.6 million parameters, 512 values per clip.

The input is normalised with one mean and one standard deviation. The defaults come from the
checkpoint's configuration (statistics of EmoGator); both are options and part of the fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.batch_norm import as_tensor, folded, norm_shapes
from nver.encoders.batching import equal_shapes
from nver.encoders.checkpoint import Checkpoint, find_folder
from nver.encoders.mel import LogMel
from nver.errors import SettingsError
from nver.shapes import Embeddings, Mono

LICENCE = "MIT"
FOLDERS = ("byol-s", "byols_512")
CHANNELS = 64
DIM = 512
BORROWED = "; normalises its input by statistics of all EmoGator clips: mean=M,std=S for your own"
BATCH_NORM_EPS = 1e-5
LOG_FLOOR = 1.1920929e-07  # float32 epsilon
MOST_FRAMES = (
    800  # in one forward pass; more only costs cache misses (bench: 260 against 150 x real time)
)

SHAPES: dict[str, tuple[int, ...]] = {
    "features.0.weight": (CHANNELS, 1, 3, 3),
    "features.4.weight": (CHANNELS, CHANNELS, 3, 3),
    "features.8.weight": (CHANNELS, CHANNELS, 3, 3),
    **{f"features.{n}.bias": (CHANNELS,) for n in (0, 4, 8)},
    **norm_shapes("features.1", CHANNELS),
    **norm_shapes("features.5", CHANNELS),
    **norm_shapes("features.9", CHANNELS),
    **{f"fc.{n}.weight": (DIM, DIM) for n in (0, 3)},
    **{f"fc.{n}.bias": (DIM,) for n in (0, 3)},
}


class ByolSEncoder(Encoder):
    """BYOL-S from a checkpoint folder.

    Parameters
    ----------
    checkpoint : path, optional
        A folder with ``model.safetensors`` and ``config.json``; without it, ``byol-s`` or
        ``byols_512`` in $NVER_WEIGHTS and NVER_HOME/weights.
    mean, std : float, optional
        Of the log-mel values of the whole data set, to normalise the input; the configuration's
        otherwise. In an experiment, take them from training speakers.
    alias : str
        The card's name, unique within a run.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated or another one.
    SettingsError
        If `std` is not positive.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        mean: float | None = None,
        std: float | None = None,
        alias: str = "byol-s",
    ) -> None:
        opened = Checkpoint.open(find_folder("byol-s", FOLDERS, checkpoint, LICENCE))
        tensors = opened.tensors(SHAPES, ignored=("num_batches_tracked",))
        statistics = ("frontend", "emogator_stats")
        self._mean = opened.number(*statistics, "mean") if mean is None else mean
        self._std = opened.number(*statistics, "std") if std is None else std
        if not self._std > 0:
            raise SettingsError(f"The std of 'byol-s' must be positive, it is {self._std}.")
        self._logmel = log_mel(opened)
        self._convolutions = [
            folded(tensors, f"features.{n}", f"features.{n + 1}", BATCH_NORM_EPS) for n in (0, 4, 8)
        ]
        self._dense = [
            (as_tensor(tensors[f"fc.{n}.weight"]), as_tensor(tensors[f"fc.{n}.bias"]))
            for n in (0, 3)
        ]
        borrowed = "" if mean is not None and std is not None else BORROWED
        self._card = self._describe(alias, opened, tensors, borrowed)

    def _describe(
        self, alias: str, opened: Checkpoint, tensors: dict[str, np.ndarray], borrowed: str
    ) -> EncoderCard:
        frontend = self._logmel
        frames = int(opened.number("min_frames"))
        trained = [n for n in tensors if "running" not in n]
        return EncoderCard(
            name=alias,
            summary="BYOL-S (SERAB): self-supervised on AudioSet speech" + borrowed,
            dim=DIM,
            rate=frontend.rate,
            modality="audio-only",
            pooling="max + mean over time",
            licence=LICENCE,
            citation="Scheidwasser-Clow et al., SERAB, ICASSP 2022, arXiv:2110.03414",
            revision=opened.revision,
            parameters=sum(tensors[n].size for n in trained),
            min_seconds=(frames - 1) * frontend.hop_length / frontend.rate,
            layer="last",
            download_bytes=opened.weights.stat().st_size,
            facts={
                "resampler": RESAMPLER,
                "frontend": repr(frontend),
                "mean": repr(float(self._mean)),
                "std": repr(float(self._std)),
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "mels frames"]:
        """Return the normalised log-mel spectrogram [64, frames]."""
        return (self._logmel(samples) - np.float32(self._mean)) / np.float32(self._std)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, 512]; clips of equal length share a forward pass."""
        vectors = np.empty((len(inputs), DIM), dtype=np.float32)
        with torch.inference_mode():
            for group in equal_shapes(inputs, MOST_FRAMES):
                batch = torch.from_numpy(np.stack([inputs[index] for index in group]))
                vectors[group] = self._forward(batch).numpy()
        return vectors

    def _forward(self, mel: Float32[Tensor, "clips mels frames"]) -> Float32[Tensor, "clips dim"]:
        x = mel[:, None]
        for weight, bias in self._convolutions:
            x = functional.max_pool2d(
                functional.relu(functional.conv2d(x, weight, bias, padding=1)), 2
            )
        # Each time step's features in the order band x channel, band slowest.
        x = x.permute(0, 3, 2, 1).flatten(2)
        for weight, bias in self._dense:
            x = functional.relu(functional.linear(x, weight, bias))
        return x.amax(dim=1) + x.mean(dim=1)


def log_mel(opened: Checkpoint) -> LogMel:
    """Return the front end that a checkpoint's configuration describes."""
    return LogMel(
        rate=int(opened.number("input", "sample_rate")),
        n_fft=int(opened.number("frontend", "n_fft")),
        win_length=int(opened.number("frontend", "win_length")),
        hop_length=int(opened.number("frontend", "hop_length")),
        n_mels=int(opened.number("frontend", "n_mels")),
        f_min=opened.number("frontend", "f_min"),
        f_max=opened.number("frontend", "f_max"),
        floor=LOG_FLOOR,
        triangles="hz",
    )
