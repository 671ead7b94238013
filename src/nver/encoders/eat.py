"""EAT: an audio transformer, self-supervised on AudioSet, with a token for the whole clip.

After Chen, Liang, Ma, Zheng and Chen, EAT: self-supervised pre-training with efficient audio
transformer, IJCAI 2024: data2vec 2.0 on patches of a spectrogram, the class token trained to
predict the teacher's mean. Kaldi log-mel of 128 bands, patches of 16 frames (160 ms) by 16 bands,
fixed positions, 12 (base) or 24 (large) post-norm blocks. Written after cwx-worst-one/EAT and the
code beside the hub's checkpoints (worstchan/EAT-base_epoch30_pretrain), whose tensors it reads.

- A clip's mean is subtracted, its spectrogram is padded with zeros, and only then normalised with
  one mean and one deviation: silence after a clip is the constant 0.467.
- How far it is padded is the reader's choice in the reference (1024 frames, 10.24 s, in its
  script). Here to the next multiple of 16 frames, as its documentation advises for other lengths;
  ``frames=1024`` does as the script. There is no attention mask: the padding is attended to.
- The poolings over patches leave out those that are padding only.
- Longer clips (above 122.88 s with the published positions, or above `frames`, where the reference
  cuts them off) are heard in consecutive windows, and their tokens pooled together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from nver.audio import Waveform
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.device import dtype_of, require_device
from nver.encoders.kaldi import FilterBank
from nver.encoders.post_norm import PostNorm
from nver.encoders.published import find_files, flag, head_count, read_published, short_name
from nver.encoders.readout import POOLINGS, read_options
from nver.encoders.sinc import RESAMPLER, resample
from nver.encoders.timm_block import block_shapes, pair, read_block
from nver.encoders.tower import Tower
from nver.encoders.vit import layer_norm, patches
from nver.encoders.window_tokens import Window, chosen_states, embed_windows, slices
from nver.errors import CheckpointError, SettingsError
from nver.shapes import Embeddings, Mono

LICENCE = "MIT"
CITATION = (
    "Chen et al., EAT: self-supervised pre-training with efficient audio transformer, IJCAI 2024, "
    "arXiv:2401.03497"
)
FOLDERS = ("eat", "EAT-base_epoch30_pretrain", "EAT-base_epoch30_finetune_AS2M")
PUBLISHED = {768: (12, 12), 1024: (24, 16)}  # width: depth, heads

RATE = 16_000
BANK = FilterBank(RATE, 128, "hanning")
MEAN, STD = -4.268, 4.569  # of the log-mel values
PATCH = 16  # frames and bands
ROW = BANK.n_mels // PATCH  # patches at a time
PADDING = (0.0 - MEAN) / (2 * STD)  # a zero of the spectrogram, normalised
EPS = 1e-6

OWNED = (
    "local_encoder.",
    "extra_tokens",
    "fixed_positional_encoder.",
    "pre_norm.",
    "blocks.",
    "context_encoder.",
)
POSITIONS = "fixed_positional_encoder.positions"


def own_name(name: str) -> str | None:
    """Return a tensor's name without the prefixes of the hub's and of fairseq's checkpoints.

    >>> own_name("model.blocks.0.norm1.bias"), own_name("model.fc_norm.weight")
    ('blocks.0.norm1.bias', None)
    >>> own_name("modality_encoders.IMAGE.context_encoder.norm.bias")
    'pre_norm.bias'
    """
    name = name.removeprefix("model.").removeprefix("modality_encoders.IMAGE.")
    name = name.replace("context_encoder.norm.", "pre_norm.")
    return name if name.startswith(OWNED) else None


def network_shapes(
    width: int, depth: int, hidden: int, positions: int
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the network's tensors.

    Parameters
    ----------
    width, hidden : int
        Of a token, and inside a block's two-layer network.
    depth : int
        Number of blocks.
    positions : int
        Of patches, row by row of `ROW`.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "local_encoder.proj.weight": (width, 1, PATCH, PATCH),
        "local_encoder.proj.bias": (width,),
        "extra_tokens": (1, 1, width),
        POSITIONS: (1, positions, width),
        "pre_norm.weight": (width,),
        "pre_norm.bias": (width,),
    }
    for number in range(depth):
        shapes |= block_shapes(f"blocks.{number}.", width, hidden)
    return shapes


def checked(tower: Tower) -> tuple[int, int, int]:
    """Return width, depth and heads of a checkpoint whose tensors are all there.

    The depth is the configuration's, or the published one of that width; the number of blocks in
    the file only where neither says it.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected or misshaped, nothing says the number of heads, or the
        blocks are pre-norm.
    """
    if flag(tower, "layer_norm_first", otherwise=False):
        raise CheckpointError(
            f"{tower.path} must have post-norm blocks, as all published ones; its configuration "
            "says layer_norm_first."
        )
    width = tower.size("extra_tokens", 2, 768)
    blocks = {name.split(".")[1] for name in tower.tensors if name.startswith("blocks.")}
    usual = PUBLISHED.get(width, (None, None))
    depth = tower.number(("depth",)) or usual[0] or max(1, len(blocks))
    hidden = tower.size("blocks.0.mlp.fc1.weight", 0, 4 * width)
    positions = tower.size(POSITIONS, 1, 768 * ROW)
    tower.check(network_shapes(width, int(depth), hidden, positions))
    heads = head_count(tower, width, tower.number(("num_heads",)) or usual[1])
    return width, int(depth), heads


class EATEncoder(Encoder):
    """EAT, base or large, pre-trained or fine-tuned.

    Parameters
    ----------
    checkpoint : path or str, optional
        A file, a folder with one, its name below $NVER_WEIGHTS or NVER_HOME/weights, or a hub id
        (``worstchan/EAT-base_epoch30_pretrain``); without it, ``eat`` in those folders.
    layer : int or {"mean", "all"}
        0 is what enters the first block, ..., -1 the network's output; see
        `nver.encoders.readout`.
    pooling : {"cls", "mean", "mean+std"}
        The class token, which the authors recommend for a whole clip, or over the clip's patches.
    frames : int, optional
        Of the spectrogram, a multiple of 16: shorter clips are padded to it, longer ones are heard
        in windows of it. Without it, the next multiple of 16.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str, optional
        The card's name, unique within a run; otherwise ``eat:`` and the checkpoint's last part.

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
        pooling: str = "cls",
        frames: int | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        alias: str | None = None,
    ) -> None:
        precision = dtype_of("eat", dtype)
        require_device(device)
        self._device = device
        files = find_files("eat", FOLDERS, checkpoint, LICENCE)
        tower = read_published(files, own_name)
        width, depth, heads = checked(tower)
        self._readout = read_options(
            "eat", layer, pooling, layers=depth, width=width, poolings=tuple(POOLINGS)
        )
        self._weights = {
            name: tensor.to(device, precision) for name, tensor in tower.tensors.items()
        }
        blocks = [read_block(self._weights, f"blocks.{number}.") for number in range(depth)]
        eps = tower.number(("norm_eps",)) or EPS
        self._trunk, self._eps = PostNorm(blocks, heads, eps), eps
        self._frames = frames
        self._window = window_of(frames, tower.size(POSITIONS, 1, 0))
        self._card = self._describe(alias, tower, checkpoint, {"heads": str(heads), "dtype": dtype})

    def _describe(
        self,
        alias: str | None,
        tower: Tower,
        checkpoint: str | Path | None,
        facts: dict[str, str],
    ) -> EncoderCard:
        trained = tower.values - tower.tensors[POSITIONS].numel()
        padded = f"{PATCH} frames" if self._frames is None else f"{self._frames} frames"
        return EncoderCard(
            name=alias or f"eat:{short_name(checkpoint, tower.path)}",
            summary="EAT: self-supervised on AudioSet, with a class token for the whole clip",
            dim=self._readout.dim,
            rate=RATE,
            modality="audio-only",
            pooling=self._readout.pooling_name,
            licence=LICENCE,
            citation=CITATION,
            revision=tower.revision,
            parameters=trained,
            min_seconds=BANK.length / RATE,
            layer=self._readout.layer_name,
            layers=self._readout.held,
            download_bytes=4 * tower.values,
            facts={
                "resampler": RESAMPLER,
                "frontend": repr(BANK),
                "mean": repr(MEAN),
                "std": repr(2 * STD),
                "window": f"{self._window} frames, padded to a multiple of {padded}",
                "eps": repr(self._eps),
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

    def features(self, samples: Mono) -> Float32[np.ndarray, "frames mels"]:
        """Return the normalised log-mel spectrogram, before it is padded."""
        signal = torch.tensor(samples)
        mel = BANK(signal - signal.mean())
        return np.asarray(((mel - MEAN) / (2 * STD)).numpy())

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; windows of equal length share a forward pass."""
        clips = [self.windows(spectrogram) for spectrogram in inputs]
        return embed_windows(clips, self._states, self._readout, self._device, class_tokens=1)

    def windows(self, spectrogram: Float32[np.ndarray, "frames mels"]) -> list[Window]:
        """Return the windows of a clip, padded to whole patches, or to `frames`."""
        found = []
        for part in (spectrogram[window] for window in slices(len(spectrogram), self._window)):
            rows = -(-len(part) // PATCH)
            missing = (self._frames or rows * PATCH) - len(part)
            padded = np.pad(part, ((0, missing), (0, 0)), constant_values=np.float32(PADDING))
            found.append(Window(padded, rows * ROW))
        return found

    def tokens(
        self, spectrograms: Float[Tensor, "windows frames mels"]
    ) -> Float[Tensor, "windows tokens width"]:
        """Return what enters the first block: class token and patches with their positions."""
        weights = self._weights
        found = patches(spectrograms[:, None], weights["local_encoder.proj.weight"], PATCH)
        found = found + weights["local_encoder.proj.bias"]
        found = found + weights[POSITIONS][:, : found.shape[1]]
        first = weights["extra_tokens"].expand(len(found), -1, -1)
        return layer_norm(torch.cat([first, found], dim=1), pair(weights, "pre_norm"), self._eps)

    def _states(self, spectrograms: Float32[Tensor, "windows frames mels"]) -> list[Tensor]:
        trunk = self._trunk
        return chosen_states(
            self.tokens(spectrograms.to(self._weights["extra_tokens"])),
            lambda x, number: trunk.through(x, trunk.blocks[number]),
            len(trunk.blocks),
            lambda x: x,
            self._readout.states,
        )


def window_of(frames: int | None, positions: int) -> int:
    """Return the most frames that the network sees at a time.

    Raises
    ------
    SettingsError
        If `frames` is no positive multiple of 16, or more than there are positions for.

    Examples
    --------
    >>> window_of(None, 6144), window_of(1024, 6144)
    (12288, 1024)
    """
    most = positions // ROW * PATCH
    if frames is None:
        return most
    if isinstance(frames, bool) or not isinstance(frames, int) or frames % PATCH or frames < PATCH:
        raise SettingsError(
            f"The frames of 'eat' must be a multiple of {PATCH} (1024 for 10.24 s), "
            f"they are {frames!r}."
        )
    if frames > most:
        raise SettingsError(
            f"The frames of 'eat' must be at most {most} with this checkpoint, they are {frames}."
        )
    return frames
