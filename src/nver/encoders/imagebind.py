"""ImageBind's ear: a vision transformer over spectrograms, trained to agree with images.

After Girdhar et al., ImageBind: one embedding space to bind them all, CVPR 2023. Three windows of
2 s, the first at the beginning, the last at the end, the second halfway; of each the Kaldi log-mel
spectrogram of 128 bands, cut into overlapping patches, through 12 transformer blocks of width 768.
The class token is projected to the space that images, text and sound share (1024 values), brought
to length 20, and averaged over the windows. 86 million parameters.

Clips shorter than 2 s are one window (three equal ones in the reference, which is the same), its
spectrogram padded with zeros to 204 frames before it is normalised. Of several channels the first
is heard. Rates other than 16 kHz are resampled as torchaudio does it.

The reference subtracts each window's mean in place, so that windows that overlap (clips below 6 s)
move each other where a clip has a constant offset. Here every window is its own copy; the option
``in_place`` does as the reference does with one channel (of several it subtracts the common mean).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from nver.audio import Waveform
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.device import DTYPES, require_device
from nver.encoders.kaldi import FilterBank
from nver.encoders.options import truth, whole_number
from nver.encoders.parallel import over_cores
from nver.encoders.remote import TowerKind, find_tower
from nver.encoders.sinc import RESAMPLER, resample
from nver.encoders.tower import Tower, read_tower
from nver.encoders.vit import Block, Transformer, layer_norm, patches, with_class_token
from nver.errors import CheckpointError
from nver.registry import unknown
from nver.shapes import Embeddings, Mono

LICENCE = "CC BY-NC-SA 4.0 (code and weights: non-commercial)"
CITATION = (
    "Girdhar et al., ImageBind: one embedding space to bind them all, CVPR 2023, arXiv:2305.05665"
)
FOLDERS = ("imagebind", "imagebind_huge", "imagebind-huge")
SOURCES = (
    "nielsr/imagebind-huge",
    "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
)
REPRESENTATIONS = {
    "projected": "class token in the joint space, at length 20",
    "trunk": "class token after the last layer norm",
}

RATE = 16_000
SECONDS = 2  # of a window
WINDOWS = 3
BANK = FilterBank(RATE, 128, "hanning")
FRAMES = 204
MEAN, STD = -4.268, 9.138  # of the log-mel values
PATCH, STRIDE = 16, 10
STEM_EPS, BLOCK_EPS = 1e-5, 1e-6
LARGEST_SCALE = 100.0
WINDOWS_AT_ONCE = 64  # in one forward pass of a GPU; on a CPU one window keeps a core busy

HUGE = {"width": 768, "depth": 12, "heads": 12, "dim": 1024}  # imagebind_huge, the published one

STEM = "modality_preprocessors.audio."
BLOCKS = "modality_trunks.audio.blocks."
HEAD = "modality_heads.audio."
SCALE = "modality_postprocessors.audio.1.log_logit_scale"
CLASS_TOKEN, POSITIONS = f"{STEM}cls_token", f"{STEM}pos_embedding_helper.pos_embed"


def windows(samples: int) -> list[slice]:
    """Return the three windows of a clip of so many samples at 16 kHz.

    Their times are exact fractions of the clip's duration as a float, and the samples are those
    before the fraction's end, as in the reference: a window may begin a sample early.

    >>> windows(48_000)
    [slice(0, 32000, None), slice(8000, 40000, None), slice(16000, 48000, None)]
    >>> windows(8_000)
    [slice(0, 32000, None), slice(0, 32000, None), slice(0, 32000, None)]
    """
    latest = Fraction(max(samples / RATE - SECONDS, 0))
    starts = [latest / (WINDOWS - 1) * index for index in range(WINDOWS)]
    return [slice(int(start * RATE), int((start + SECONDS) * RATE)) for start in starts]


def network_shapes(width: int, depth: int, hidden: int, dim: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the audio tower's tensors.

    Parameters
    ----------
    width, hidden : int
        Of a token, and inside a block's two-layer network.
    depth : int
        Number of blocks.
    dim : int
        Of the joint space.
    """
    rows, columns = ((size - PATCH) // STRIDE + 1 for size in (BANK.n_mels, FRAMES))
    block: dict[str, tuple[int, ...]] = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.bias_k": (1, 1, width),
        "attn.bias_v": (1, 1, width),
        "attn.out_proj.weight": (width, width),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
    }
    vectors = ("attn.out_proj.bias", "mlp.fc2.bias")
    norms = (f"norm_{index}.{part}" for index in (1, 2) for part in ("weight", "bias"))
    block |= dict.fromkeys((*vectors, *norms), (width,))
    return {
        CLASS_TOKEN: (1, 1, width),
        POSITIONS: (1, 1 + rows * columns, width),
        f"{STEM}rgbt_stem.proj.weight": (width, 1, PATCH, PATCH),
        f"{STEM}rgbt_stem.norm_layer.weight": (width,),
        f"{STEM}rgbt_stem.norm_layer.bias": (width,),
        **{f"{BLOCKS}{n}.{name}": shape for n in range(depth) for name, shape in block.items()},
        f"{HEAD}0.weight": (width,),
        f"{HEAD}0.bias": (width,),
        f"{HEAD}2.weight": (dim, width),
        SCALE: (),
    }


def is_audio(name: str) -> bool:
    """Return whether a tensor of ImageBind belongs to the audio tower."""
    return name.startswith("modality_") and name.split(".")[1:2] == ["audio"]


def checked_shapes(tower: Tower) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a tower must have: its own sizes, in every tensor the same.

    The depth is the configuration's, or that of imagebind_huge where the tower is as wide.
    """
    width = tower.size(CLASS_TOKEN, 2, HUGE["width"])
    numbers = {name.removeprefix(BLOCKS).split(".")[0] for name in tower.tensors if BLOCKS in name}
    depth = _audio(tower, "num_blocks") or (HUGE["depth"] if width == HUGE["width"] else None)
    hidden = tower.size(f"{BLOCKS}0.mlp.fc1.weight", 0, 4 * width)
    dim = tower.size(f"{HEAD}2.weight", 0, HUGE["dim"])
    return network_shapes(width, depth or max(1, len(numbers)), hidden, dim)


def check(tower: Tower) -> None:
    """Refuse a tower that is not ImageBind's.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected or misshaped.
    """
    tower.check(checked_shapes(tower))


TOWER = TowerKind("imagebind", FOLDERS, LICENCE, SOURCES, is_audio, check, {})


def _audio(tower: Tower, name: str) -> int | None:
    """Return what ``config.json`` says of the audio tower, in any of its published layouts."""
    places = (("audio", name), (f"audio_{name}",), ("config", f"audio_{name}"))
    found = tower.number(*places)
    return None if found is None else int(found)


def heads_of(tower: Tower, width: int, given: int | None) -> int:
    """Return the number of heads: `given`, the configuration's, or that of imagebind_huge.

    Raises
    ------
    CheckpointError
        If nothing says it, or the width is no multiple of it.
    """
    heads = given or _audio(tower, "num_heads") or (HUGE["heads"] if width == HUGE["width"] else 0)
    if heads < 1 or width % heads:
        raise CheckpointError(
            f"The number of attention heads of {tower.path} must divide its width {width}, it is "
            f"{heads or 'unknown'}: give audio.num_heads in config.json beside it, or pass heads=N."
        )
    return heads


class ImageBindEncoder(Encoder):
    """The audio tower of ImageBind.

    Parameters
    ----------
    checkpoint : path or str, optional
        ``imagebind_huge.pth``, a safetensors file with its audio tensors, or a folder with one of
        them; a hub id or an address of such a file. Without it, ``imagebind`` or
        ``imagebind_huge`` in $NVER_WEIGHTS and NVER_HOME/weights, else what is published is
        downloaded, see `nver.encoders.remote`.
    representation : {"projected", "trunk"}
        The joint space (1024 values: the mean over the windows of vectors of length 20, so its
        length is at most 20), or the class token before the projection (768 values, mean over the
        windows).
    in_place : bool or {"yes", "no"}
        Whether windows that overlap share the subtraction of their means, as in the reference;
        it matters where a clip below 6 s has a constant offset.
    heads : int, optional
        Of the attention, for other sizes than the published one; no tensor says it.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
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
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        representation: str = "projected",
        in_place: bool | int | str = False,
        heads: int | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        alias: str = "imagebind",
    ) -> None:
        options = (("representation", representation, REPRESENTATIONS), ("dtype", dtype, DTYPES))
        for kind, value, known in options:
            if value not in known:
                raise unknown(f"{kind} of 'imagebind'", value, known)
        require_device(device)
        heads = None if heads is None else whole_number("heads", heads, 1)
        tower = read_tower("imagebind", find_tower(TOWER, checkpoint), is_audio)
        check(tower)
        tower.keep()
        self._representation, self._in_place = representation, truth("in_place", in_place)
        self._device = device
        self._weights = {
            name: tensor.to(device, DTYPES[dtype]) for name, tensor in tower.tensors.items()
        }
        width = self._weights[CLASS_TOKEN].numel()
        heads = heads_of(tower, width, heads)
        self._trunk = Transformer(blocks(self._weights), heads, BLOCK_EPS)
        self._card = self._describe(alias, tower, {"heads": str(heads), "dtype": dtype})

    def _describe(self, alias: str, tower: Tower, facts: dict[str, str]) -> EncoderCard:
        axis = 0 if self._representation == "projected" else 1
        return EncoderCard(
            name=alias,
            summary="ImageBind audio: bound to images, from AudioSet videos",
            dim=tower.size(f"{HEAD}2.weight", axis, 0),
            rate=RATE,
            modality="multimodal",
            pooling=f"{REPRESENTATIONS[self._representation]}; mean over {WINDOWS} windows",
            licence=LICENCE,
            citation=CITATION,
            revision=tower.revision,
            parameters=tower.values,
            channels="first",
            min_seconds=BANK.length / RATE,
            layer=self._representation,
            download_bytes=4 * tower.values,
            facts={
                "resampler": RESAMPLER,
                "frontend": repr(BANK),
                "windows": f"{WINDOWS} of {SECONDS} s, {FRAMES} frames",
                "in_place": str(self._in_place),
                "mean": repr(MEAN),
                "std": repr(STD),
                **facts,
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def resample(self, waveform: Waveform) -> Waveform:
        """Return the clip at 16 kHz, resampled as torchaudio does it."""
        return resample(waveform, RATE)

    def features(self, samples: Mono) -> Float32[np.ndarray, "windows 1 mels frames"]:
        """Return the normalised log-mel spectrograms of the three windows [3, 1, 128, 204]."""
        signal = torch.tensor(samples)
        found = torch.zeros(WINDOWS, FRAMES, BANK.n_mels)
        for row, part in zip(found, windows(samples.size), strict=True):
            window = signal[part] if self._in_place else signal[part].clone()
            window -= window.mean()
            mel = BANK(window)[:FRAMES]
            row[: len(mel)] = mel
        normalised = (found - MEAN) / STD
        return np.ascontiguousarray(normalised.transpose(1, 2)[:, None].numpy())

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; equal windows of a clip are computed once."""
        different = [distinct(mel) for mel in inputs]
        owners = np.repeat(np.arange(len(inputs)), [len(mel) for mel in different])
        rows = [row for mel in different for row in mel]
        on_cpu = self._weights[CLASS_TOKEN].device.type == "cpu"
        size = 1 if on_cpu else WINDOWS_AT_ONCE
        groups = [np.stack(rows[first : first + size]) for first in range(0, len(rows), size)]
        whole = np.concatenate(over_cores(self._encoded, groups, self._device))
        return np.stack([whole[owners == clip].mean(axis=0) for clip in range(len(inputs))])

    def _encoded(self, mel: Float32[np.ndarray, "windows 1 mels frames"]) -> np.ndarray:
        """Return the vectors of windows that share a forward pass."""
        found = self.forward(torch.from_numpy(mel).to(self._weights[CLASS_TOKEN]))
        return np.asarray(found.float().cpu().numpy())

    def tokens(
        self, mel: Float[Tensor, "windows 1 mels frames"]
    ) -> Float[Tensor, "windows tokens width"]:
        """Return what enters the first block: the patches after the class token."""
        weights, stem = self._weights, f"{STEM}rgbt_stem."
        found = patches(mel, weights[f"{stem}proj.weight"], STRIDE)
        norm = (weights[f"{stem}norm_layer.weight"], weights[f"{stem}norm_layer.bias"])
        return with_class_token(
            layer_norm(found, norm, STEM_EPS), weights[CLASS_TOKEN][0, 0], weights[POSITIONS][0]
        )

    def forward(self, mel: Float[Tensor, "windows 1 mels frames"]) -> Float[Tensor, "windows dim"]:
        """Return the vector of each window, before the mean over a clip's windows."""
        weights = self._weights
        norm = (weights[f"{HEAD}0.weight"], weights[f"{HEAD}0.bias"])
        token = layer_norm(self._trunk(self.tokens(mel)), norm, BLOCK_EPS)
        if self._representation == "trunk":
            return token
        joint = functional.linear(token, weights[f"{HEAD}2.weight"])
        return functional.normalize(joint, dim=-1) * weights[SCALE].exp().clamp(max=LARGEST_SCALE)


def blocks(weights: Mapping[str, Tensor]) -> list[Block]:
    """Return the blocks of the trunk, in order."""
    depth = sum(name.startswith(BLOCKS) and name.endswith("norm_1.bias") for name in weights)
    return [block(weights, f"{BLOCKS}{number}.") for number in range(depth)]


def block(weights: Mapping[str, Tensor], prefix: str) -> Block:
    """Return one block; its packed projection holds queries, keys and values, in this order."""

    def layer(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"]

    weight, bias = (weights[f"{prefix}attn.in_proj_{part}"] for part in ("weight", "bias"))
    width = bias.numel() // 3
    return Block(
        norm1=layer("norm_1"),
        query=(weight[:width], bias[:width]),
        key_value=(weight[width:], bias[width:]),
        output=layer("attn.out_proj"),
        norm2=layer("norm_2"),
        fc1=layer("mlp.fc1"),
        fc2=layer("mlp.fc2"),
        extra=(weights[f"{prefix}attn.bias_k"], weights[f"{prefix}attn.bias_v"]),
    )


def distinct(mel: Float32[np.ndarray, "windows 1 mels frames"]) -> np.ndarray:
    """Return one window where all are equal (clips up to 2 s), else all of them."""
    return mel[:1] if (mel == mel[:1]).all() else mel
