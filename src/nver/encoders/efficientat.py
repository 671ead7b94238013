"""EfficientAT mn04: a MobileNetV3 for audio tagging, distilled from transformers.

After Schmid, Koutini and Widmer, Efficient large-scale audio tagging via transformer-to-CNN
knowledge distillation, ICASSP 2023 (mn04_as, AudioSet mAP 43.2). The network is MobileNetV3-Large
(Howard et al. 2019, table 1) at width 0.4 over a 128-band log-mel spectrogram at 32 kHz. One
million parameters, half of them in the classifier, which is not used; 384 values per clip.

Two layers can be read: ``last`` (the mean of the last feature map, the reference's embedding) and
``features.11`` (an earlier map, mean over time only, its eight frequency rows kept); ``all`` is
``features.11`` and then ``last``, which are equally wide: a search numbers them 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from nver.errors import CheckpointError
from nver.registry import unknown
from nver.shapes import Embeddings, Mono

LICENCE = "MIT"
FOLDERS = ("efficientat-mn04", "efficientat_mn04")
LAYERS = {"features.11": "mean over time", "last": "mean over frequency and time"}
ALL = {"all": "mean over time; mean over frequency and time"}
DIM = 384  # of each layer
WIDTH = 0.4
BATCH_NORM_EPS = 1e-3
PREEMPHASIS = 0.97
LOG_FLOOR = 1e-5
MEAN, STD = -4.5, 5.0  # of the log-mel values: (x + 4.5) / 5
EARLY = 11  # the block read by layer "features.11"
MOST_FRAMES = 800  # in one forward pass; more only costs cache misses

Weights = dict[str, tuple[Tensor, Tensor]]  # weight and bias by layer

# MobileNetV3-Large, table 1 of Howard et al. 2019: expanded and output channels of each block at
# width 1 (kernel, stride, activation and squeeze-excite come from the checkpoint's configuration).
STEM = 16
BLOCKS = (
    *((16, 16), (64, 24), (72, 24), (72, 40), (120, 40), (120, 40)),
    *((240, 80), (200, 80), (184, 80), (184, 80), (480, 112), (672, 112)),
    *((672, 160), (960, 160), (960, 160)),
)


def divisible(channels: float) -> int:
    """Return the multiple of 8 nearest to a channel count, at most a tenth below it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class Block:
    """One inverted residual: expand 1 x 1, depthwise, squeeze-excite, project 1 x 1.

    Parameters
    ----------
    name : str
        Prefix of its tensors.
    before, inside, after : int
        Channels that enter, are expanded to, and leave.
    kernel, stride : int
        Of the depthwise convolution.
    hardswish : bool
        Activation: hard swish, or ReLU.
    squeeze : bool
        Whether the channels are re-weighted by their global mean.
    """

    name: str
    before: int
    inside: int
    after: int
    kernel: int
    stride: int
    hardswish: bool
    squeeze: bool

    @property
    def depthwise(self) -> int:
        """Index of the depthwise convolution: 1 after an expansion, else 0."""
        return int(self.inside != self.before)

    @property
    def projection(self) -> int:
        """Index of the projection."""
        return self.depthwise + 1 + self.squeeze

    @property
    def excitation(self) -> str:
        """Prefix of the squeeze-excite layers."""
        return f"{self.name}.{self.depthwise + 1}.conc_se_layers.0"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the block's tensors."""
        sizes: dict[int, tuple[int, ...]] = {
            self.depthwise: (self.inside, 1, self.kernel, self.kernel),
            self.projection: (self.after, self.inside, 1, 1),
        }
        if self.depthwise:
            sizes[0] = (self.inside, self.before, 1, 1)
        found: dict[str, tuple[int, ...]] = {}
        for index, shape in sizes.items():
            found[f"{self.name}.{index}.0.weight"] = shape
            found |= norm_shapes(f"{self.name}.{index}.1", shape[0])
        if self.squeeze:
            narrow = divisible(self.inside / 4)
            for layer, shape in (("fc1", (narrow, self.inside)), ("fc2", (self.inside, narrow))):
                found[f"{self.excitation}.{layer}.weight"] = shape
                found[f"{self.excitation}.{layer}.bias"] = shape[:1]
        return found


def read_blocks(opened: Checkpoint) -> list[Block]:
    """Return the blocks of the network that a checkpoint's configuration describes.

    Raises
    ------
    CheckpointError
        If it does not describe the fifteen blocks.
    """
    described = opened.config.get("blocks")
    needed = {"kernel", "stride", "act", "squeeze_excite"}
    if not (
        isinstance(described, list)
        and len(described) == len(BLOCKS)
        and all(isinstance(item, dict) and needed <= set(item) for item in described)
        and all(isinstance(item[key], int) for item in described for key in ("kernel", "stride"))
    ):
        raise CheckpointError(
            f"{opened.folder / 'config.json'} must list {len(BLOCKS)} blocks, each with "
            f"{', '.join(sorted(needed))}. Is this the right checkpoint?"
        )
    blocks = []
    before = divisible(STEM * WIDTH)
    for index, (item, (inside, after)) in enumerate(zip(described, BLOCKS, strict=True), start=1):
        blocks.append(
            Block(
                name=f"features.{index}.block",
                before=before,
                inside=divisible(inside * WIDTH),
                after=divisible(after * WIDTH),
                kernel=int(item["kernel"]),
                stride=int(item["stride"]),
                hardswish=item["act"] == "hardswish",
                squeeze=bool(item["squeeze_excite"]),
            )
        )
        before = blocks[-1].after
    return blocks


def network_shapes(blocks: Sequence[Block]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of every tensor up to the last feature map."""
    first, last = blocks[0].before, blocks[-1].after
    shapes: dict[str, tuple[int, ...]] = {
        "features.0.0.weight": (first, 1, 3, 3),
        **norm_shapes("features.0.1", first),
        "features.16.0.weight": (DIM, last, 1, 1),
        **norm_shapes("features.16.1", DIM),
    }
    for block in blocks:
        shapes |= block.shapes()
    return shapes


class EfficientATEncoder(Encoder):
    """EfficientAT mn04 from a checkpoint folder.

    Parameters
    ----------
    checkpoint : path, optional
        A folder with ``model.safetensors`` and ``config.json``; without it, ``efficientat-mn04`` or
        ``efficientat_mn04`` in $NVER_WEIGHTS and NVER_HOME/weights.
    layer : {"last", "features.11", "all"}
        Which feature map becomes the embedding, 384 values; "all": both side by side.
    alias : str
        The card's name, unique within a run.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated or another one.
    UnknownNameError
        If the layer is none of these.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        layer: str = "last",
        alias: str = "efficientat-mn04",
    ) -> None:
        if layer not in LAYERS | ALL:
            raise unknown("layer of efficientat-mn04", layer, LAYERS | ALL)
        opened = Checkpoint.open(find_folder("efficientat-mn04", FOLDERS, checkpoint, LICENCE))
        self._blocks = read_blocks(opened)
        tensors = opened.tensors(
            network_shapes(self._blocks), ignored=("classifier.", "num_batches_tracked")
        )
        self._layer = layer
        self._read = LAYERS if layer in ALL else {layer: LAYERS[layer]}
        self._logmel = log_mel(opened)
        self._weights = prepared(tensors)
        self._card = self._describe(alias, opened, tensors)

    def _describe(
        self, alias: str, opened: Checkpoint, tensors: dict[str, np.ndarray]
    ) -> EncoderCard:
        rate = self._logmel.rate
        trained = [n for n in tensors if "running" not in n]
        return EncoderCard(
            name=alias,
            summary="EfficientAT mn04: MobileNetV3 distilled for AudioSet tagging",
            dim=DIM * len(self._read),
            rate=rate,
            modality="audio-only",
            pooling=(LAYERS | ALL)[self._layer],
            licence=LICENCE,
            citation="Schmid et al., Efficient large-scale audio tagging via transformer-to-CNN "
            "knowledge distillation, ICASSP 2023, arXiv:2211.04772",
            revision=opened.revision,
            parameters=sum(tensors[n].size for n in trained),
            min_seconds=int(opened.number("min_samples")) / rate,
            layer=self._layer,
            layers=len(self._read),
            download_bytes=opened.weights.stat().st_size,
            facts={
                "resampler": RESAMPLER,
                "frontend": repr(self._logmel),
                "blocks": repr([(b.kernel, b.stride, b.hardswish) for b in self._blocks]),
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "mels frames"]:
        """Return the normalised log-mel spectrogram [128, frames]."""
        return (self._logmel(samples) - np.float32(MEAN)) / np.float32(STD)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; clips of equal length share a forward pass."""
        vectors = np.empty((len(inputs), self._card.dim), dtype=np.float32)
        with torch.inference_mode():
            for group in equal_shapes(inputs, MOST_FRAMES):
                batch = torch.from_numpy(np.stack([inputs[index] for index in group]))
                vectors[group] = self._forward(batch).numpy()
        return vectors

    def _forward(self, mel: Float32[Tensor, "clips mels frames"]) -> Float32[Tensor, "clips dim"]:
        x = functional.hardswish(
            functional.conv2d(mel[:, None], *self._weights["features.0"], stride=2, padding=1)
        )
        for index, block in enumerate(self._blocks, start=1):
            x = run_block(x, block, self._weights)
            if index == EARLY and "features.11" in self._read:
                early = x.mean(dim=3).flatten(1)  # channel slowest, frequency row fastest
                if "last" not in self._read:
                    return early
        last = functional.hardswish(functional.conv2d(x, *self._weights["features.16"]))
        found = last.mean(dim=(2, 3))
        return torch.cat([early, found], dim=1) if "features.11" in self._read else found


def prepared(tensors: dict[str, np.ndarray]) -> Weights:
    """Return weight and bias of every layer by name, batch norms folded in."""
    weights: Weights = {}
    for key in tensors:
        name = key.removesuffix(".weight")
        if key.endswith(".0.weight"):
            prefix = key.removesuffix(".0.weight")
            weights[prefix] = folded(tensors, name, f"{prefix}.1", BATCH_NORM_EPS)
        elif key.endswith((".fc1.weight", ".fc2.weight")):
            weights[name] = (as_tensor(tensors[key]), as_tensor(tensors[f"{name}.bias"]))
    return weights


def run_block(x: Tensor, block: Block, weights: Weights) -> Tensor:
    """Return the output of one inverted residual.

    Parameters
    ----------
    x : float32 [clips, channels, bands, frames]
        Its input.
    block : Block
        What it is made of.
    weights : dict
        As `prepared` returns them.
    """
    activation = functional.hardswish if block.hardswish else functional.relu
    y = x
    if block.depthwise:
        y = activation(functional.conv2d(y, *weights[f"{block.name}.0"]))
    kernel, bias = weights[f"{block.name}.{block.depthwise}"]
    y = activation(
        functional.conv2d(
            y,
            kernel,
            bias,
            stride=block.stride,
            padding=(block.kernel - 1) // 2,
            groups=block.inside,
        )
    )
    if block.squeeze:
        gate = functional.relu(
            functional.linear(y.mean(dim=(2, 3)), *weights[f"{block.excitation}.fc1"])
        )
        gate = torch.sigmoid(functional.linear(gate, *weights[f"{block.excitation}.fc2"]))
        y = y * gate[:, :, None, None]
    y = functional.conv2d(y, *weights[f"{block.name}.{block.projection}"])
    return x + y if block.stride == 1 and block.before == block.after else y


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
        triangles="mel",
        periodic=False,
        preemphasis=PREEMPHASIS,
    )
