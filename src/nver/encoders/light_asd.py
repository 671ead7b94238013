"""Light-ASD's ear: a small network that learned to hear who on the screen is speaking.

After Liao et al., A light weight model for active speaker detection, CVPR 2023. Trained end to end
on films (AVA-ActiveSpeaker): it had to agree with what a face does, so it is multimodal, though
only its audio half is read here. Three blocks of separable convolutions over 13 MFCCs, their mean
over the coefficients: 128 values every 40 ms, 0.28 million parameters. What follows in the
checkpoint (the visual half, two recurrent layers, two classifiers) is not read.

The front end is that of the package python_speech_features, as the checkpoint's configuration
describes it. Its peculiarities are kept:

- samples are 16-bit steps, rounded; peaks beyond full scale are kept, not cut as 16 bits would;
- the last frame is filled up with zeros; bands begin and end on whole Fourier bins;
- a power of exactly zero reads as 2.2e-16, so that digital silence is finite;
- the number of frames is cut to a multiple of 4: up to 40 ms at a clip's end are not heard.

A zero among the MFCCs is not silence, and zeros at the end would move the pooling: only clips of
equal length share a forward pass. Clips below 45 ms have no 4 frames and are padded with zero
samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float32, Float64
from torch import Tensor
from torch.nn import functional

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.batch_norm import folded, norm_shapes
from nver.encoders.batching import equal_shapes
from nver.encoders.checkpoint import Checkpoint, find_folder
from nver.encoders.frames import cosines
from nver.encoders.mel import FRAMES_AT_ONCE, hz_to_mel, mel_to_hz
from nver.encoders.readout import POOLINGS, pooled
from nver.registry import unknown
from nver.shapes import Embeddings, Mono

LICENCE = "MIT"
FOLDERS = ("light-asd", "light_asd")
CHOICES = ("mean", "mean+std")
COEFFICIENTS = 13
CHANNELS = (32, 64, 128)  # of the three blocks
WIDTH = CHANNELS[-1]
PATHS = (3, 5)  # kernel sizes of a block's two paths
BATCH_NORM_EPS = 1e-3
FULL_SCALE = 32768.0  # of 16-bit samples
STRIDE = 4  # frames per vector: two max-poolings by 2
MOST_FRAMES = 2000  # in one forward pass: bounds its memory

PREFIX = "model.audioEncoder."
IGNORED = ("model.visualEncoder.", "model.GRU.", "lossAV.", "lossV.", "num_batches_tracked")

Layer = tuple[Tensor, Tensor]  # weight and bias


def network_shapes() -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the audio half's tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    before = 1
    for number, width in enumerate(CHANNELS, start=1):
        block = f"{PREFIX}block{number}."
        for size in PATHS:
            shapes[f"{block}m_{size}.weight"] = (width, before, size, 1)
            shapes[f"{block}t_{size}.weight"] = (width, width, 1, size)
            shapes |= norm_shapes(f"{block}bn_m_{size}", width)
            shapes |= norm_shapes(f"{block}bn_t_{size}", width)
        shapes[f"{block}last.weight"] = (width, width, 1, 1)
        shapes |= norm_shapes(f"{block}bn_last", width)
        before = width
    return shapes


@lru_cache(maxsize=8)
def bin_triangles(
    rate: int, n_fft: int, bands: int, f_min: float, f_max: float
) -> Float64[np.ndarray, "bins bands"]:
    """Return mel filters whose edges and centres are whole Fourier bins.

    Parameters
    ----------
    rate, n_fft : int
        Sampling rate in Hz and length of the Fourier transform in samples.
    bands : int
    f_min, f_max : float
        Lowest and highest edge in Hz.

    Notes
    -----
    Edges are ``floor((n_fft + 1) f / rate)`` for f equally spaced in mel (python_speech_features).
    A band between two edges on the same bin would be empty; there is none in the published sizes.
    """
    lowest, highest = hz_to_mel(np.array([f_min, f_max]))
    hz = mel_to_hz(np.linspace(lowest, highest, bands + 2))
    edges = np.floor((n_fft + 1) * hz / rate)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(n_fft // 2 + 1)[:, None]
    rising = (bins - left) / np.maximum(centre - left, 1)
    falling = (right - bins) / np.maximum(right - centre, 1)
    triangles: np.ndarray = np.where(bins < centre, rising, falling)
    triangles[(bins < left) | (bins >= right)] = 0.0
    triangles.setflags(write=False)
    return triangles


@dataclass(frozen=True)
class Mfcc:
    """MFCCs as python_speech_features computes them, in float64.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    n_fft, frame_length, frame_step : int
        Fourier transform, frame (not windowed) and hop in samples.
    bands : int
        Mel bands.
    f_min, f_max : float
        Their lowest and highest edge in Hz.
    preemphasis : float
        y[t] = x[t] - preemphasis x[t - 1]; the first sample stays.
    lifter : float
        Coefficient n is multiplied by 1 + lifter / 2 sin(pi n / lifter).
    """

    rate: int
    n_fft: int
    frame_length: int
    frame_step: int
    bands: int
    f_min: float
    f_max: float
    preemphasis: float
    lifter: float

    @classmethod
    def of(cls, opened: Checkpoint) -> Mfcc:
        """Return the front end that a checkpoint's configuration describes."""
        return cls(
            rate=int(opened.number("input", "sample_rate")),
            n_fft=int(opened.number("frontend", "nfft")),
            frame_length=int(opened.number("frontend", "frame_length")),
            frame_step=int(opened.number("frontend", "frame_step")),
            bands=int(opened.number("frontend", "n_mels")),
            f_min=opened.number("frontend", "f_min"),
            f_max=opened.number("frontend", "f_max"),
            preemphasis=opened.number("frontend", "preemphasis"),
            lifter=opened.number("frontend", "lifter"),
        )

    def frames(self, samples: int) -> int:
        """Return how many frames a clip of so many samples has; the last is filled up."""
        return 1 + -(-max(0, samples - self.frame_length) // self.frame_step)

    def samples(self, frames: int) -> int:
        """Return the fewest samples of a clip with so many frames (at least 2)."""
        return (frames - 2) * self.frame_step + self.frame_length + 1

    def __call__(self, steps: Float64[np.ndarray, "samples"]) -> Float64[np.ndarray, "frames n"]:
        """Return 13 values per frame: the log energy, then coefficients 1 to 12.

        Parameters
        ----------
        steps : float64 [samples]
            One channel at `rate`, in 16-bit steps.
        """
        signal = np.append(steps[:1], steps[1:] - self.preemphasis * steps[:-1])
        filled = (self.frames(signal.size) - 1) * self.frame_step + self.frame_length
        padded = np.pad(signal, (0, filled - signal.size))
        every = np.lib.stride_tricks.sliding_window_view(padded, self.frame_length)
        every = every[:: self.frame_step]
        return np.concatenate(
            [
                self._coefficients(every[first : first + FRAMES_AT_ONCE])
                for first in range(0, len(every), FRAMES_AT_ONCE)
            ]
        )

    def _coefficients(
        self, every: Float64[np.ndarray, "frames length"]
    ) -> Float64[np.ndarray, "frames n"]:
        spectrum = scipy.fft.rfft(every, n=self.n_fft)
        power = (np.square(spectrum.real) + np.square(spectrum.imag)) / self.n_fft
        triangles = bin_triangles(self.rate, self.n_fft, self.bands, self.f_min, self.f_max)
        order = np.arange(COEFFICIENTS)
        lift = 1.0 + self.lifter / 2.0 * np.sin(np.pi * order / self.lifter)
        found = log_of(power @ triangles) @ cosines(COEFFICIENTS, self.bands).T * lift
        found[:, 0] = log_of(power.sum(axis=1))
        return np.asarray(found)


def log_of(power: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Return the natural logarithm, a power of exactly zero read as float64's epsilon."""
    return np.asarray(np.log(np.where(power == 0.0, np.finfo(np.float64).eps, power)))


class LightASDEncoder(Encoder):
    """The audio half of Light-ASD from a checkpoint folder.

    Parameters
    ----------
    checkpoint : path, optional
        A folder with ``model.safetensors`` and ``config.json``; without it, ``light-asd`` or
        ``light_asd`` in $NVER_WEIGHTS and NVER_HOME/weights.
    pooling : {"mean", "mean+std"}
        Over a clip's vectors (25 a second): 128 or 256 values.
    alias : str
        The card's name, unique within a run.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated or another one.
    UnknownNameError
        If the pooling is none of the two.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        pooling: str = "mean",
        alias: str = "light-asd",
    ) -> None:
        if pooling not in CHOICES:
            raise unknown("pooling of 'light-asd'", str(pooling), CHOICES)
        opened = Checkpoint.open(find_folder("light-asd", FOLDERS, checkpoint, LICENCE))
        tensors = opened.tensors(network_shapes(), ignored=IGNORED)
        self._pooling = pooling
        self._mfcc = Mfcc.of(opened)
        self._blocks = [block_of(tensors, number) for number in range(1, len(CHANNELS) + 1)]
        self._card = self._describe(alias, opened, tensors)

    def _describe(
        self, alias: str, opened: Checkpoint, tensors: dict[str, np.ndarray]
    ) -> EncoderCard:
        rate = self._mfcc.rate
        trained = [name for name in tensors if "running" not in name]
        return EncoderCard(
            name=alias,
            summary="Light-ASD: trained on films to hear who is speaking on the screen",
            dim=POOLINGS[self._pooling] * WIDTH,
            rate=rate,
            modality="multimodal",
            pooling=f"{self._pooling} over frames",
            licence=LICENCE,
            citation="Liao et al., A light weight model for active speaker detection, CVPR 2023, "
            "arXiv:2303.04439",
            revision=opened.revision,
            parameters=sum(tensors[name].size for name in trained),
            min_seconds=self._mfcc.samples(STRIDE) / rate,
            layer="last",
            download_bytes=opened.weights.stat().st_size,
            facts={
                "resampler": RESAMPLER,
                "frontend": repr(self._mfcc),
                "scale": "16-bit steps, rounded, not clipped",
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "coefficients frames"]:
        """Return the MFCCs [13, frames], their number cut to a multiple of 4."""
        steps = np.rint(samples.astype(np.float64) * FULL_SCALE)
        found = self._mfcc(steps).T
        heard = found.shape[1] // STRIDE * STRIDE
        return np.ascontiguousarray(found[:, :heard], dtype=np.float32)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; clips of equal length share a forward pass."""
        vectors = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        with torch.inference_mode():
            for group in equal_shapes(inputs, MOST_FRAMES):
                batch = torch.from_numpy(np.stack([inputs[index] for index in group]))
                for index, frames in zip(group, self.forward(batch), strict=True):
                    vectors[index] = pooled(frames, self._pooling).numpy()
        return vectors

    def forward(
        self, mfcc: Float32[Tensor, "clips coefficients frames"]
    ) -> Float32[Tensor, "clips quarter width"]:
        """Return the vectors of clips of equal length, one for every 4 frames."""
        x = mfcc[:, None]
        for number, block in enumerate(self._blocks, start=1):
            x = block(x)
            if number < len(self._blocks):
                x = functional.max_pool2d(x, (1, 3), stride=(1, 2), padding=(0, 1))
        return x.mean(dim=2).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Block:
    """Two paths side by side, each across the coefficients, then along time; their sum, mixed.

    Parameters
    ----------
    short, long : (Layer, Layer)
        Weight and bias of the two convolutions of each path, batch norms folded in; kernels of 3
        and of 5.
    last : Layer
        Of the 1 x 1 convolution on the sum.
    """

    short: tuple[Layer, Layer]
    long: tuple[Layer, Layer]
    last: Layer

    def __call__(
        self, x: Float32[Tensor, "clips before coefficients frames"]
    ) -> Float32[Tensor, "clips after coefficients frames"]:
        """Return the block's output: as many coefficients and frames as went in."""
        total = along_both(x, *self.short) + along_both(x, *self.long)
        return functional.relu(functional.conv2d(total, *self.last))


def along_both(x: Tensor, across: Layer, along: Layer) -> Tensor:
    """Return what a path makes of its input: across the coefficients, then along time."""
    for weight, bias in (across, along):
        x = functional.relu(functional.conv2d(x, weight, bias, padding="same"))
    return x


def block_of(tensors: dict[str, np.ndarray], number: int) -> Block:
    """Return block `number` (1 to 3) of the network, its batch norms folded."""
    prefix = f"{PREFIX}block{number}."

    def layer(name: str) -> Layer:
        return folded(tensors, f"{prefix}{name}", f"{prefix}bn_{name}", BATCH_NORM_EPS)

    short, long = ((layer(f"m_{size}"), layer(f"t_{size}")) for size in PATHS)
    return Block(short, long, layer("last"))
