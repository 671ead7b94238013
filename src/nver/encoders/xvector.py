"""The x-vector: a small time-delay network trained to tell 7,205 speakers apart.

After Snyder et al., X-vectors: robust DNN embeddings for speaker recognition, ICASSP 2018, as
SpeechBrain trained it on VoxCeleb (``speechbrain/spkrec-xvect-voxceleb``). Five convolutions over
time on 24 mel bands in decibels, the mean and the standard deviation over time, one dense layer:
4.2 million parameters, 512 values per clip. It was trained on who speaks, not on how.

What the reference does is kept, in three places it would break an encoder's law:

- Its pooling adds random noise of up to 9e-5 to the mean even at inference. Here is none, so that
  the same clip gives the same vector twice.
- Its convolutions reflect at a clip's ends, and its loudness floor (80 dB under the loudest cell)
  and mean are the clip's. Padding to a neighbour's length changes all three: only clips of equal
  length share a forward pass.
- Reflection needs 4 frames: shorter clips (below 30 ms) are padded with zeros.

Of several channels the first is heard, as ImageBind and LanguageBind hear it; SpeechBrain leaves
the choice to its caller. Loading needs neither
SpeechBrain nor its YAML, which instantiates any class that it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor
from torch.nn import functional

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.batch_norm import norm_shapes
from nver.encoders.batching import equal_shapes
from nver.encoders.device import dtype_of, full_precision, require_device
from nver.encoders.mel import FRAMES_AT_ONCE, hann, hz_to_mel, mel_to_hz
from nver.encoders.options import truth
from nver.encoders.remote import TowerKind, find_tower
from nver.encoders.tower import Tower, read_tower
from nver.registry import unknown
from nver.shapes import Embeddings, Mono

LICENCE = "code Apache-2.0; weights: as their model page says"
CITATION = (
    "Snyder et al., X-vectors: robust DNN embeddings for speaker recognition, ICASSP 2018; "
    "Ravanelli et al., SpeechBrain, arXiv:2106.04624"
)
FOLDERS = ("xvector", "spkrec-xvect-voxceleb")
SOURCES = ("speechbrain/spkrec-xvect-voxceleb",)
REPRESENTATIONS = {
    "embedding": "dense layer on mean and standard deviation over time",
    "statistics": "mean and standard deviation over time",
}

RATE = 16_000
WINDOW, HOP = 400, 160  # samples: 25 ms, 10 ms
BANDS = 24
LOWEST_POWER = 1e-10
SPAN_DB = 80.0  # what is further under the clip's loudest cell is raised to it
LEAK = 0.01
BATCH_NORM_EPS = 1e-5
STD_OFFSET = 1e-5  # added to every standard deviation

# By layer. Sizes come from the tensors; the dilations stand in no tensor.
WIDTHS, KERNELS, DIM = (512, 512, 512, 512, 1500), (5, 3, 3, 1, 1), 512
DILATIONS = (1, 2, 3, 1, 1)
CONVOLUTIONS = tuple(f"blocks.{3 * layer}.conv" for layer in range(len(WIDTHS)))
NORMS = tuple(f"blocks.{3 * layer + 2}.norm" for layer in range(len(WIDTHS)))
DENSE = "blocks.16.w"
MOST_FRAMES = 4000  # in one forward pass: bounds its memory


def network_shapes(
    widths: Sequence[int], kernels: Sequence[int], dim: int
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the network's tensors.

    Parameters
    ----------
    widths, kernels : sequence of int
        Output channels and length of the five convolutions.
    dim : int
        Of the embedding.
    """
    shapes: dict[str, tuple[int, ...]] = {
        f"{DENSE}.weight": (dim, 2 * widths[-1]),
        f"{DENSE}.bias": (dim,),
    }
    before = BANDS
    for convolution, norm, width, kernel in zip(CONVOLUTIONS, NORMS, widths, kernels, strict=True):
        shapes[f"{convolution}.weight"] = (width, before, kernel)
        shapes[f"{convolution}.bias"] = (width,)
        shapes |= norm_shapes(norm, width)
        before = width
    return shapes


def checked_shapes(tower: Tower) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a checkpoint must have: its own sizes, in every tensor the same.

    Kernels are odd: only then do as many frames leave a convolution as enter it.
    """
    names = [f"{convolution}.weight" for convolution in CONVOLUTIONS]
    widths = [tower.size(name, 0, width) for name, width in zip(names, WIDTHS, strict=True)]
    kernels = [tower.size(name, 2, size) | 1 for name, size in zip(names, KERNELS, strict=True)]
    return network_shapes(widths, kernels, tower.size(f"{DENSE}.weight", 0, DIM))


def is_read(name: str) -> bool:
    """Return whether a tensor of the checkpoint changes the embedding."""
    return not name.endswith("num_batches_tracked")


def check(tower: Tower) -> None:
    """Refuse a checkpoint that is no x-vector.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected or misshaped.
    """
    tower.check(checked_shapes(tower))


TOWER = TowerKind("xvector", FOLDERS, LICENCE, SOURCES, is_read, check, {})


@cache
def mel_triangles() -> Float64[np.ndarray, "bins bands"]:
    """Return SpeechBrain's mel filters: triangles as wide on their right as on their left.

    Their centres are equally spaced in mel from 0 to 8 kHz, and each begins at the centre before
    it. Elsewhere a triangle ends at the centre after it, which lies further away.
    """
    lowest, highest = hz_to_mel(np.array([0.0, RATE / 2]))
    edges = mel_to_hz(np.linspace(lowest, highest, BANDS + 2))
    centres, widths = edges[1:-1], np.diff(edges)[:-1]
    bins = np.arange(WINDOW // 2 + 1)[:, None] * (RATE / WINDOW)
    triangles: np.ndarray = np.maximum(0.0, 1.0 - np.abs(bins - centres) / widths)
    triangles.setflags(write=False)
    return triangles


def decibel_mel(samples: Mono) -> Float64[np.ndarray, "bands frames"]:
    """Return the mel power in dB, 24 bands, a frame every 10 ms.

    Frames are centred on multiples of 10 ms, zeros before and after the clip; Hamming window; not
    below -100 dB nor 80 dB under the clip's loudest cell.
    """
    padded = np.pad(samples.astype(np.float64), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    hamming = 0.08 + 0.92 * hann(WINDOW, periodic=True)
    power = np.empty((len(frames), BANDS))
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        block = slice(first, first + FRAMES_AT_ONCE)
        spectrum = scipy.fft.rfft(frames[block] * hamming)
        power[block] = (np.square(spectrum.real) + np.square(spectrum.imag)) @ mel_triangles()
    decibels = 10.0 * np.log10(np.maximum(power.T, LOWEST_POWER))
    return np.asarray(np.maximum(decibels, decibels.max() - SPAN_DB))


class XVectorEncoder(Encoder):
    """SpeechBrain's x-vector, without its noise.

    Parameters
    ----------
    checkpoint : path, optional
        ``embedding_model.ckpt``, a safetensors file with the same tensors, or a folder with one of
        them, a hub id or an address; without it, what is here or published.
    representation : {"embedding", "statistics"}
        The x-vector (512 values), or what its dense layer reads: mean and standard deviation over
        time of the last convolution (3000 values).
    normalise : bool or {"yes", "no"}
        Whether vectors are brought to length 1, as is usual before cosines. Off: as the network
        gives them.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the convolutions and the dense layer; statistics are taken in float32.
    device : str
        "cpu", "cuda", ...
    alias : str
        The card's name, unique within a run.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated, incomplete or foreign.
    UnknownNameError
        If the representation or dtype is none of the known ones.
    SettingsError
        If torch cannot use the device here.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        representation: str = "embedding",
        normalise: bool | int | str = False,
        dtype: str = "float32",
        device: str = "cpu",
        alias: str = "xvector",
    ) -> None:
        if representation not in REPRESENTATIONS:
            raise unknown("representation of 'xvector'", representation, REPRESENTATIONS)
        self._dtype = dtype_of("xvector", dtype)
        require_device(device)
        tower = read_tower("xvector", find_tower(TOWER, checkpoint), is_read)
        check(tower)
        tower.keep()
        self._representation, self._normalise = representation, truth("normalise", normalise)
        self._weights = {
            name: tensor.to(device, self._dtype) for name, tensor in tower.tensors.items()
        }
        self._card = self._describe(alias, tower, dtype)

    def _describe(self, alias: str, tower: Tower, dtype: str) -> EncoderCard:
        axis = 0 if self._representation == "embedding" else 1
        trained = [tensor for name, tensor in tower.tensors.items() if "running" not in name]
        kernels = [tower.size(f"{convolution}.weight", 2, 1) for convolution in CONVOLUTIONS]
        reach = [size // 2 * step for size, step in zip(kernels, DILATIONS, strict=True)]
        length = "length 1" if self._normalise else "as the network gives it"
        return EncoderCard(
            name=alias,
            summary="x-vector (SpeechBrain): trained to tell VoxCeleb's speakers apart",
            dim=tower.size(f"{DENSE}.weight", axis, 0),
            rate=RATE,
            modality="audio-only",
            pooling=f"{REPRESENTATIONS[self._representation]}, {length}",
            licence=LICENCE,
            citation=CITATION,
            revision=tower.revision,
            parameters=sum(tensor.numel() for tensor in trained),
            channels="first",
            # A reflected edge needs one frame more than it is wide, a standard deviation two.
            min_seconds=max(1, *reach) * HOP / RATE,
            layer=self._representation,
            download_bytes=4 * tower.values,
            facts={
                "resampler": RESAMPLER,
                "frontend": f"Hamming {WINDOW}/{HOP}, {BANDS} mel, {SPAN_DB:g} dB, mean removed",
                "noise": "none",
                "dtype": dtype,
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "frames bands"]:
        """Return the mel power in dB [frames, 24], each band less its mean over the clip."""
        decibels = decibel_mel(samples)
        centred = decibels - decibels.mean(axis=1, keepdims=True)
        return np.ascontiguousarray(centred.T, dtype=np.float32)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; clips of equal length share a forward pass."""
        vectors = np.empty((len(inputs), self.card.dim), dtype=np.float32)
        bias = self._weights[f"{DENSE}.bias"]
        with torch.inference_mode(), full_precision(bias.device):
            for group in equal_shapes([array.T for array in inputs], MOST_FRAMES):
                batch = torch.from_numpy(np.stack([inputs[index].T for index in group]))
                vectors[group] = self.forward(batch.to(bias)).cpu()
        return vectors

    def forward(self, mel: Float[Tensor, "clips bands frames"]) -> Float32[Tensor, "clips dim"]:
        """Return the vectors of clips of equal length."""
        found = statistics(self.frames(mel).float())
        if self._representation == "embedding":
            weight, bias = self._weights[f"{DENSE}.weight"], self._weights[f"{DENSE}.bias"]
            found = functional.linear(found.to(self._dtype), weight, bias).float()
        return functional.normalize(found, dim=1) if self._normalise else found

    def frames(
        self, mel: Float[Tensor, "clips bands frames"]
    ) -> Float[Tensor, "clips width frames"]:
        """Return the last convolution's output: as many frames as went in."""
        x, weights = mel, self._weights
        for convolution, norm, dilation in zip(CONVOLUTIONS, NORMS, DILATIONS, strict=True):
            kernel, bias = weights[f"{convolution}.weight"], weights[f"{convolution}.bias"]
            edge = kernel.shape[2] // 2 * dilation
            x = functional.pad(x, (edge, edge), mode="reflect")
            x = functional.leaky_relu(functional.conv1d(x, kernel, bias, dilation=dilation), LEAK)
            x = functional.batch_norm(
                x,
                weights[f"{norm}.running_mean"],
                weights[f"{norm}.running_var"],
                weights[f"{norm}.weight"],
                weights[f"{norm}.bias"],
                eps=BATCH_NORM_EPS,
            )
        return x


def statistics(
    x: Float32[Tensor, "clips width frames"],
) -> Float32[Tensor, "clips two_x_width"]:
    """Return mean and standard deviation over time (n - 1 in the denominator, 1e-5 added)."""
    return torch.cat([x.mean(dim=2), x.std(dim=2) + STD_OFFSET], dim=1)
