"""Dasheng: a transformer that learned to fill in masked audio, on 272 thousand hours of it.

After Dinkel, Yan, Wang, Zhang, Wang and Wang, Scaling up masked audio encoder learning for general
audio classification, Interspeech 2024. A 64-band mel spectrogram in decibels, each band normalised
with the training data's statistics, cut into patches of four frames (40 ms), through 12 (base), 32
(0.6B) or 40 (1.2B) pre-norm blocks; the mean of the patches. Written after RicherMans/Dasheng
(dasheng 0.0.9) and jimbozhang/hf_transformers_custom_model_dasheng, whose tensors it reads.

- The decibels end 120 below the loudest cell of the clip, not of the batch (see
  `nver.encoders.decibel_mel`).
- The network hears 10.08 s at a time. What remains of a longer clip is a shorter window, as
  in dasheng 0.0.9; before it, and on the hub, the network saw zeros after it (``last="padded"``).
  The hub's code also drops the last window of an exact multiple of 10.08 s, which nver does not.
- There is no attention mask: only windows of equal length share a pass.
- The hub's ``logits`` are the sigmoid of the mean; the mean itself is the embedding.
- What is left after the last whole patch (up to 30 ms) is not heard, as in the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.batch_norm import norm_shapes
from nver.encoders.checkpoint import read_json
from nver.encoders.decibel_mel import DecibelMel
from nver.encoders.device import dtype_of, require_device
from nver.encoders.hub import PREPROCESSOR_FILE
from nver.encoders.published import find_files, head_count, read_published, short_name
from nver.encoders.readout import read_options
from nver.encoders.timm_block import block_shapes, pair, read_block
from nver.encoders.tower import Tower
from nver.encoders.vit import Transformer, layer_norm
from nver.encoders.window_tokens import Window, chosen_states, embed_windows, slices
from nver.errors import CheckpointError
from nver.registry import unknown
from nver.shapes import Embeddings, Mono

LICENCE = "Apache-2.0"
CITATION = (
    "Dinkel et al., Scaling up masked audio encoder learning for general audio classification, "
    "Interspeech 2024, arXiv:2406.06992"
)
FOLDERS = ("dasheng", "dasheng-base", "dasheng_base")
PUBLISHED = {768: (12, 12), 1280: (32, 16), 1536: (40, 24)}  # width: depth, heads
LAST = {"own": "as a window of its own length", "padded": "with zeros to a whole window"}

BANK = DecibelMel(16_000, 512, 512, 160, 64, 0.0, 8000.0, 120.0)
PATCH = 4  # frames
NORM_EPS, BLOCK_EPS = 1e-5, 1e-6

OWNED = ("time_pos_embed", "freq_pos_embed", "init_bn.", "patch_embed.", "blocks.", "norm.")
NORM = "init_bn.1"


def own_name(name: str) -> str | None:
    """Return a tensor's name in the original checkpoint, or None where it is not the encoder's.

    >>> own_name("encoder.blocks.0.norm1.weight"), own_name("outputlayer.1.weight")
    ('blocks.0.norm1.weight', None)
    """
    name = name.removeprefix("encoder.")
    return name if name.startswith(OWNED) and "num_batches" not in name else None


def network_shapes(
    width: int, depth: int, hidden: int, positions: int, mels: int = BANK.n_mels
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the network's tensors.

    Parameters
    ----------
    width, hidden : int
        Of a token, and inside a block's two-layer network.
    depth : int
        Number of blocks.
    positions : int
        Patches in a window.
    mels : int
        Number of bands.
    """
    blocks: dict[str, tuple[int, ...]] = {}
    for number in range(depth):
        blocks |= block_shapes(f"blocks.{number}.", width, hidden)
    return {
        "time_pos_embed": (1, width, 1, positions),
        "freq_pos_embed": (1, width, 1, 1),
        **norm_shapes(NORM, mels),
        "patch_embed.proj.weight": (width, 1, mels, PATCH),
        "patch_embed.proj.bias": (width,),
        **blocks,
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


def checked(tower: Tower) -> tuple[int, int, int]:
    """Return width, depth and heads of a checkpoint whose tensors are all there.

    The depth is the configuration's, or the published one of that width; the number of blocks in
    the file only where neither says it.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected or misshaped, or nothing says the number of heads.
    """
    width = tower.size("norm.weight", 0, 768)
    blocks = {name.split(".")[1] for name in tower.tensors if name.startswith("blocks.")}
    usual = PUBLISHED.get(width, (None, None))
    depth = _told(tower, "depth") or usual[0] or max(1, len(blocks))
    hidden = tower.size("blocks.0.mlp.fc1.weight", 0, 4 * width)
    positions = tower.size("time_pos_embed", 3, 252)
    mels = tower.size(f"{NORM}.weight", 0, BANK.n_mels)
    tower.check(network_shapes(width, int(depth), hidden, positions, mels))
    return width, int(depth), head_count(tower, width, _told(tower, "num_heads") or usual[1])


def _told(tower: Tower, name: str) -> float | None:
    """Return a number of the configuration, in the hub's layout or the original's."""
    return tower.number(("encoder_kwargs", name), (name,))


def read_bank(tower: Tower) -> DecibelMel:
    """Return the front end: what the checkpoint says of it, else as published.

    Raises
    ------
    CheckpointError
        If the checkpoint says something that is no number, or has frames that are not centred.
    """
    beside = tower.path.parent / PREPROCESSOR_FILE
    said: dict[str, Any] = {**tower.config, **(read_json(beside) if beside.is_file() else {})}
    if said.get("center", True) is not True:
        raise CheckpointError(f"{tower.path} must have centred frames, its configuration has not.")

    def number(name: str, usual: float) -> float:
        value = said.get(name)
        if value is None:
            return usual
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise CheckpointError(
                f"The configuration of {tower.path} must give a number for {name}, not {value!r}."
            )
        return float(value)

    return DecibelMel(
        rate=int(number("sampling_rate", BANK.rate)),
        n_fft=int(number("n_fft", BANK.n_fft)),
        win_length=int(number("win_size", BANK.win_length)),
        hop_length=int(number("hop_size", BANK.hop_length)),
        n_mels=tower.size(f"{NORM}.weight", 0, BANK.n_mels),
        f_min=number("f_min", BANK.f_min),
        f_max=number("f_max", BANK.f_max),
        top_db=number("top_db", BANK.top_db),
    )


class DashengEncoder(Encoder):
    """Dasheng, base, 0.6B or 1.2B.

    Parameters
    ----------
    checkpoint : path or str, optional
        A file (``dasheng_base.pt`` of Zenodo, safetensors), a folder with one, its name below
        $NVER_WEIGHTS or NVER_HOME/weights, or a hub id (``mispeech/dasheng-base``); without it,
        ``dasheng`` or ``dasheng-base`` in those folders.
    layer : int or {"mean", "all"}
        0 is what enters the first block, ..., -1 the network's output; see
        `nver.encoders.readout`.
    pooling : {"mean", "mean+std"}
        Over the clip's patches.
    last : {"own", "padded"}
        How the network sees what remains of a clip longer than 10.08 s: as a window of its own
        length, or with zeros to a whole window.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str, optional
        The card's name, unique within a run; otherwise ``dasheng:`` and the checkpoint's last part.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated, incomplete or foreign.
    SettingsError, UnknownNameError
        If an option is out of range.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        layer: int | str = -1,
        pooling: str = "mean",
        last: str = "own",
        dtype: str = "float32",
        device: str = "cpu",
        alias: str | None = None,
    ) -> None:
        if last not in LAST:
            raise unknown("last window of 'dasheng'", last, LAST)
        precision = dtype_of("dasheng", dtype)
        require_device(device)
        self._device = device
        files = find_files("dasheng", FOLDERS, checkpoint, LICENCE)
        tower = read_published(files, own_name)
        width, depth, heads = checked(tower)
        self._bank, self._last = read_bank(tower), last
        self._readout = read_options("dasheng", layer, pooling, layers=depth, width=width)
        self._norm = {name: tower.tensors[name] for name in norm_shapes(NORM, 0)}
        self._weights = {
            name: tensor.to(device, precision) for name, tensor in tower.tensors.items()
        }
        blocks = [read_block(self._weights, f"blocks.{number}.") for number in range(depth)]
        self._trunk = Transformer(blocks, heads, BLOCK_EPS)
        self._window = PATCH * self._weights["time_pos_embed"].shape[-1]
        self._card = self._describe(alias, tower, checkpoint, {"heads": str(heads), "dtype": dtype})

    def _describe(
        self,
        alias: str | None,
        tower: Tower,
        checkpoint: str | Path | None,
        facts: dict[str, str],
    ) -> EncoderCard:
        bank, readout = self._bank, self._readout
        least = max((PATCH - 1) * bank.hop_length, bank.n_fft // 2 + 1)
        return EncoderCard(
            name=alias or f"dasheng:{short_name(checkpoint, tower.path)}",
            summary="Dasheng: masked audio, 272 thousand hours of speech, music and sounds",
            dim=readout.dim,
            rate=bank.rate,
            modality="audio-only",
            pooling=readout.pooling_name,
            licence=LICENCE,
            citation=CITATION,
            revision=tower.revision,
            parameters=tower.values - 2 * bank.n_mels,
            min_seconds=least / bank.rate,
            layer=readout.layer_name,
            layers=readout.held,
            download_bytes=4 * tower.values,
            facts={
                "resampler": RESAMPLER,
                "frontend": repr(bank),
                "window": f"{self._window} frames, the last one {LAST[self._last]}",
                **facts,
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "frames mels"]:
        """Return the spectrogram in decibels, each band normalised as in training."""
        decibels = self._bank(torch.tensor(samples))
        norm = self._norm
        normalised = functional.batch_norm(
            decibels,
            norm[f"{NORM}.running_mean"],
            norm[f"{NORM}.running_var"],
            norm[f"{NORM}.weight"],
            norm[f"{NORM}.bias"],
            eps=NORM_EPS,
        )
        return np.asarray(normalised.numpy())

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; windows of equal length share a forward pass."""
        clips = [self.windows(spectrogram) for spectrogram in inputs]
        return embed_windows(clips, self._states, self._readout, self._device)

    def windows(self, spectrogram: Float32[np.ndarray, "frames mels"]) -> list[Window]:
        """Return the windows of a clip: whole patches only, or zeros after the last."""
        padded = self._last == "padded" and len(spectrogram) > self._window
        found = []
        for part in (spectrogram[window] for window in slices(len(spectrogram), self._window)):
            tokens = len(part) // PATCH
            if padded:
                seen = np.pad(part, ((0, self._window - len(part)), (0, 0)))
            else:
                seen = part[: tokens * PATCH]
            if tokens:
                found.append(Window(seen, tokens))
        return found

    def tokens(
        self, spectrograms: Float[Tensor, "windows frames mels"]
    ) -> Float[Tensor, "windows tokens width"]:
        """Return what enters the first block: patches over all bands, with their positions."""
        weights = self._weights
        clips, frames, mels = spectrograms.shape
        patches = spectrograms.view(clips, frames // PATCH, PATCH, mels).transpose(2, 3).flatten(2)
        found = functional.linear(
            patches,
            weights["patch_embed.proj.weight"].flatten(1),
            weights["patch_embed.proj.bias"],
        )
        positions = weights["time_pos_embed"] + weights["freq_pos_embed"]
        return found + positions[0, :, 0, : found.shape[1]].T

    def _states(self, spectrograms: Float32[Tensor, "windows frames mels"]) -> list[Tensor]:
        weights = self._weights
        norm, trunk = pair(weights, "norm"), self._trunk
        return chosen_states(
            self.tokens(spectrograms.to(norm[0])),
            lambda x, number: trunk.through(x, trunk.blocks[number]),
            len(trunk.blocks),
            lambda x: layer_norm(x, norm, BLOCK_EPS),
            self._readout.states,
        )
