"""BEATs: a transformer trained to predict the labels of its own acoustic tokenizer, on AudioSet.

After Chen, Wu, Wang, Liu, Tompkins, Chen, Che, Yu and Wei, BEATs: audio pre-training with acoustic
tokenizers, ICML 2023. Kaldi log-mel of 128 bands on the 16-bit scale, patches of 16 frames (160 ms)
by 16 bands, 12 layers (see `nver.encoders.beats_network`); the mean of the patches. Written after
microsoft/unilm (``beats/``), whose tensors it reads.

- Samples are multiplied by 2^15, the mean and deviation of the spectrogram belong to that scale.
- Only whole patches are heard: up to 150 ms at a clip's end are not, as in the reference, which
  refuses clips below 175 ms. ``tail="padded"`` adds silence to the next whole patch instead.
- In a batch the reference pads the samples, and its mask keeps every patch with one sample of the
  clip; patches that hold both move, and so does the convolution over patches. Here only clips with
  as many patches share a pass, and none is padded.
- Longer clips are heard in windows of 30.08 s: a bias for each pair of patches fills the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.beats_network import (
    BIAS,
    POSITIONS,
    Network,
    Recipe,
    layer_shapes,
    position_kernel,
)
from nver.encoders.device import check_convolutions, dtype_of, require_device
from nver.encoders.kaldi import FilterBank
from nver.encoders.published import find_files, flag, head_count, read_published, short_name
from nver.encoders.readout import read_options
from nver.encoders.timm_block import pair
from nver.encoders.tower import Tower
from nver.encoders.vit import layer_norm, patches
from nver.encoders.window_tokens import Window, chosen_states, embed_windows, slices
from nver.errors import CheckpointError
from nver.registry import unknown
from nver.shapes import Embeddings, Mono

LICENCE = "MIT"
CITATION = (
    "Chen et al., BEATs: audio pre-training with acoustic tokenizers, ICML 2023, arXiv:2212.09058"
)
FOLDERS = ("beats", "BEATs_iter3_plus_AS2M", "BEATs_iter3")
TAILS = {"dropped": "not heard", "padded": "padded with silence"}

RATE = 16_000
BANK = FilterBank(RATE, 128, "povey")
SCALE = 2.0**15
MEAN, STD = 15.41663, 6.55582  # of the log-mel values on that scale
PATCH = 16  # frames and bands
ROW = BANK.n_mels // PATCH  # patches at a time
LEAST = BANK.length + (PATCH - 1) * BANK.hop  # samples of one patch
WINDOW = 188 * PATCH  # frames

OWNED = ("patch_embedding.", "layer_norm.", "post_extract_proj.", "encoder.")
NORMED = {"original0": "weight_g", "original1": "weight_v"}  # names of weight norm, new to old


def own_name(name: str) -> str | None:
    """Return a tensor's name in the original checkpoints, or None where it is not the encoder's.

    >>> own_name("encoder.pos_conv.0.parametrizations.weight.original1")
    'encoder.pos_conv.0.weight_v'
    >>> own_name("predictor.weight") is None
    True
    """
    before, new, part = name.partition("parametrizations.weight.")
    name = before + NORMED.get(part, part) if new else name
    return name if name.startswith(OWNED) else None


def network_shapes(sizes: dict[str, int], table: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the network's tensors.

    Parameters
    ----------
    sizes : dict of str to int
        ``embed`` (of a patch), ``width``, ``hidden``, ``layers``, ``taps`` and ``group`` (of the
        convolution over patches).
    table : pair of int
        Buckets and heads of the table of position biases.
    """
    embed, width = sizes["embed"], sizes["width"]
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (embed, 1, PATCH, PATCH),
        "layer_norm.weight": (embed,),
        "layer_norm.bias": (embed,),
        f"{POSITIONS}.weight_v": (width, sizes["group"], sizes["taps"]),
        f"{POSITIONS}.weight_g": (1, 1, sizes["taps"]),
        f"{POSITIONS}.bias": (width,),
        "encoder.layer_norm.weight": (width,),
        "encoder.layer_norm.bias": (width,),
        BIAS: table,
    }
    if embed != width:
        shapes |= {"post_extract_proj.weight": (width, embed), "post_extract_proj.bias": (width,)}
    for number in range(sizes["layers"]):
        shapes |= layer_shapes(number, width, sizes["hidden"], table[1])
    return shapes


def read_recipe(tower: Tower) -> Recipe:
    """Return the architecture of a checkpoint whose tensors are all there.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected or misshaped, or the configuration lacks a number that no
        tensor says, or asks for what no published checkpoint has.
    """
    numbers = {
        name: tower.number((name,))
        for name in ("encoder_layers", "encoder_attention_heads", "max_distance")
    }
    lacking = [name for name, value in numbers.items() if value is None]
    if lacking:
        raise CheckpointError(
            f"{tower.path} needs a configuration ('cfg' in it, or config.json beside it) with "
            f"{', '.join(lacking)}: no tensor says it."
        )
    activation = tower.config.get("activation_fn", "gelu")
    if activation != "gelu":
        raise CheckpointError(
            f"{tower.path} must have the activation 'gelu', its configuration says {activation!r}."
        )
    layers = int(numbers["encoder_layers"] or 0)
    width = tower.size("encoder.layer_norm.weight", 0, 768)
    heads = head_count(tower, width, numbers["encoder_attention_heads"])
    sizes = {
        "embed": tower.size("layer_norm.weight", 0, 512),
        "width": width,
        "hidden": tower.size("encoder.layers.0.fc1.weight", 0, 4 * width),
        "layers": layers,
        "taps": tower.size(f"{POSITIONS}.weight_v", 2, 128),
        "group": tower.size(f"{POSITIONS}.weight_v", 1, width // 16),
    }
    table = tower.size(BIAS, 0, 320)
    tower.check(network_shapes(sizes, (table, heads)))
    if not (numbers["max_distance"] or 0) > table // 4 > 0:
        raise CheckpointError(
            f"The max_distance of {tower.path} must be more than {table // 4}, a quarter of its "
            f"{table} buckets, it is {numbers['max_distance']}."
        )
    return Recipe(
        layers=layers,
        heads=heads,
        deep=flag(tower, "deep_norm"),
        norm_first=flag(tower, "layer_norm_first", otherwise=False),
        max_distance=int(numbers["max_distance"] or 0),
    )


def without_copies(tower: Tower) -> Tower:
    """Return the tower without the table of biases that every layer stores again.

    Raises
    ------
    CheckpointError
        If one of them is not the first layer's.
    """
    ending = BIAS.partition("layers.0")[2]
    copies = [name for name in tower.tensors if name.endswith(ending) and name != BIAS]
    first = tower.tensors.get(BIAS)
    for name in copies:
        if first is not None and not torch.equal(tower.tensors[name], first):
            raise CheckpointError(
                f"{tower.path} must hold one table of position biases for all layers, "
                f"{name} differs from the first."
            )
    kept = {name: tensor for name, tensor in tower.tensors.items() if name not in copies}
    return Tower(tower.path, kept, tower.config, None)


class BEATsEncoder(Encoder):
    """BEATs, pre-trained or fine-tuned.

    Parameters
    ----------
    checkpoint : path or str, optional
        A file (``BEATs_iter3_plus_AS2M.pt``: {cfg, model}), or safetensors with ``config.json``, a
        folder with one, or its name below $NVER_WEIGHTS or NVER_HOME/weights; without it, ``beats``
        in those folders.
    layer : int or {"mean", "all"}
        0 is what enters the first layer, ..., -1 the network's output; see
        `nver.encoders.readout`.
    pooling : {"mean", "mean+std"}
        Over the clip's patches.
    tail : {"dropped", "padded"}
        What becomes of the samples after the last whole patch: not heard, or with silence a patch.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str, optional
        The card's name, unique within a run; otherwise ``beats:`` and the checkpoint's last part.

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
        tail: str = "dropped",
        dtype: str = "float32",
        device: str = "cpu",
        alias: str | None = None,
    ) -> None:
        if tail not in TAILS:
            raise unknown("tail of 'beats'", tail, TAILS)
        precision = dtype_of("beats", dtype)
        require_device(device)
        self._device = device
        files = find_files("beats", FOLDERS, checkpoint, LICENCE)
        tower = without_copies(read_published(files, own_name))
        recipe = read_recipe(tower)
        width = tower.size("encoder.layer_norm.weight", 0, 0)
        self._tail = tail
        self._readout = read_options("beats", layer, pooling, layers=recipe.layers, width=width)
        self._weights = {
            name: tensor.to(device, precision) for name, tensor in tower.tensors.items()
        }
        kernel = position_kernel(tower.tensors).to(device, precision)
        check_convolutions("beats", kernel)
        self._network = Network(self._weights, kernel, recipe)
        self._card = self._describe(alias, tower, checkpoint, dtype)

    def _describe(
        self, alias: str | None, tower: Tower, checkpoint: str | Path | None, dtype: str
    ) -> EncoderCard:
        return EncoderCard(
            name=alias or f"beats:{short_name(checkpoint, tower.path)}",
            summary="BEATs: predicts acoustic tokens, self-supervised on AudioSet",
            dim=self._readout.dim,
            rate=RATE,
            modality="audio-only",
            pooling=self._readout.pooling_name,
            licence=LICENCE,
            citation=CITATION,
            revision=tower.revision,
            parameters=tower.values,
            min_seconds=LEAST / RATE,
            layer=self._readout.layer_name,
            layers=self._readout.held,
            download_bytes=4 * tower.values,
            facts={
                "resampler": RESAMPLER,
                "frontend": repr(BANK),
                "scale": repr(SCALE),
                "mean": repr(MEAN),
                "std": repr(2 * STD),
                "window": f"{WINDOW} frames, the tail {TAILS[self._tail]}",
                "recipe": repr(self._network.recipe),
                "dtype": dtype,
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "frames mels"]:
        """Return the normalised log-mel spectrogram."""
        if self._tail == "padded":
            samples = np.pad(samples, (0, whole_patches(samples.size) - samples.size))
        mel = BANK(torch.tensor(samples) * SCALE)
        return np.asarray(((mel - MEAN) / (2 * STD)).numpy())

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; windows of as many patches share a forward pass."""
        clips = []
        for spectrogram in inputs:
            whole = spectrogram[: len(spectrogram) // PATCH * PATCH]
            parts = (whole[window] for window in slices(len(whole), WINDOW))
            clips.append([Window(part, len(part) // PATCH * ROW) for part in parts])
        return embed_windows(clips, self._states, self._readout, self._device)

    def tokens(
        self, spectrograms: Float[Tensor, "windows frames mels"]
    ) -> Float[Tensor, "windows tokens width"]:
        """Return the patches as they enter the transformer."""
        weights = self._weights
        found = patches(spectrograms[:, None], weights["patch_embedding.weight"], PATCH)
        found = layer_norm(found, pair(weights, "layer_norm"), 1e-5)
        if "post_extract_proj.weight" in weights:
            found = functional.linear(found, *pair(weights, "post_extract_proj"))
        return found

    def _states(self, spectrograms: Float32[Tensor, "windows frames mels"]) -> list[Tensor]:
        network = self._network
        tokens = network.enter(self.tokens(spectrograms.to(self._weights[BIAS])))
        bias = network.bias(tokens.shape[1])
        return chosen_states(
            tokens,
            lambda x, number: network.layer(x, number, bias),
            network.recipe.layers,
            network.leave,
            self._readout.states,
        )


def whole_patches(samples: int) -> int:
    """Return the least number of samples that hold so many and fill whole patches.

    >>> [whole_patches(samples) for samples in (1, 2800, 2801)]
    [2800, 2800, 5360]
    """
    frames = max(1, -(-(samples - BANK.length) // BANK.hop) + 1)
    rows = -(-frames // PATCH)
    return BANK.length + (rows * PATCH - 1) * BANK.hop
