"""LanguageBind's checkpoints: two layouts of tensors, LoRA, and what the configuration says.

The layout is that of transformers' CLIP, whose vision model hears here. The full fine-tune
(LanguageBind_Audio_FT) has whole weights. LanguageBind_Audio has a frozen weight W for each of the
attention's four linear maps and beside it two narrow ones, A [r, in] and B [out, r]: the map is
W + (alpha / r) B A (LoRA, Hu et al., ICLR 2022). The library that wrote them, peft, changed their
names between versions, after which it loads random weights with a warning; both namings are read
here, and anything missing is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nver.encoders.kaldi import FilterBank
from nver.encoders.torch_file import Tensors
from nver.encoders.tower import Tower
from nver.encoders.vit import ACTIVATIONS, Block, Layer
from nver.errors import CheckpointError

CLASS_TOKEN = "vision_model.embeddings.class_embedding"  # noqa: S105 - no password
PATCHES = "vision_model.embeddings.patch_embedding.weight"
POSITIONS = "vision_model.embeddings.position_embedding.weight"
PROJECTION = "visual_projection.weight"
LAYERS = "vision_model.encoder.layers."
ATTENTION = tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
COLOURS = 3

LARGE = {"width": 1024, "depth": 24, "heads": 16, "dim": 768}  # ViT-L/14, the published one
PATCH = 14
MOST_LAYERS = 1000  # of a configuration that makes sense
ALPHA = 16.0  # the scale of LoRA where the configuration does not say it


@dataclass(frozen=True)
class Recipe:
    """What no tensor says: the front end, and how the network computes.

    Parameters
    ----------
    bank : FilterBank
        The front end.
    frames : int
        Of a window.
    mean, std : float
        Of the log-mel values; they are divided by twice the `std`.
    heads : int
        Of the attention.
    eps : float
        Of the layer norms.
    activation : str
        A name of `nver.encoders.vit.ACTIVATIONS`.
    alpha : float
        Scale of LoRA.
    """

    bank: FilterBank
    frames: int
    mean: float
    std: float
    heads: int
    eps: float
    activation: str
    alpha: float


def is_audio(name: str) -> bool:
    """Return whether a tensor of LanguageBind belongs to the audio tower."""
    mine = name.startswith(("vision_model.", "visual_projection."))
    return mine and not name.endswith(".position_ids")  # a table of 0, 1, 2, ...


def canonical(tower: Tower) -> Tower:
    """Return the tower with the names of the full fine-tune, without what peft puts between."""
    tensors: Tensors = {}
    for name, tensor in tower.tensors.items():
        for infix in (".base_model.model", ".base_layer", ".default"):
            name = name.replace(infix, "")
        tensors[name] = tensor
    return tower if tensors.keys() == tower.tensors.keys() else replace(tower, tensors=tensors)


def read_recipe(tower: Tower) -> Recipe:
    """Return what ``config.json`` says; where it is silent, what the published ones say.

    Raises
    ------
    CheckpointError
        If it makes no sense, or nothing gives the number of attention heads.
    """

    def number(name: str, otherwise: float) -> float:
        found = tower.number(("vision_config", name))
        return otherwise if found is None else found

    width = tower.size(CLASS_TOKEN, 0, LARGE["width"])
    published = LARGE["heads"] if width == LARGE["width"] else 0
    heads = int(number("num_attention_heads", published))
    if heads < 1 or width % heads:
        raise CheckpointError(
            f"The number of attention heads of {tower.path} must divide its width {width}, it is "
            f"{heads or 'unknown'}: config.json beside it must give it, as "
            "vision_config.num_attention_heads."
        )
    vision: Any = tower.config.get("vision_config")
    activation = vision.get("hidden_act", "gelu") if isinstance(vision, Mapping) else "gelu"
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"The activation of {tower.path} must be one of {', '.join(ACTIVATIONS)}, "
            f"config.json says {activation!r}. Is this the right checkpoint?"
        )
    rate, n_mels = int(number("audio_sample_rate", 16_000)), int(number("num_mel_bins", 112))
    frames, std = int(number("target_length", 1036)), number("audio_std", 4.5689974)
    if not (1000 <= rate <= 192_000 and n_mels >= PATCH and frames >= PATCH and std > 0):
        raise CheckpointError(
            f"config.json beside {tower.path} must give a rate of 1000 to 192000 Hz, a positive "
            f"audio_std, and bands and frames for a patch, it gives {rate}, {std}, {n_mels} and "
            f"{frames}. Is this the right checkpoint?"
        )
    return Recipe(
        bank=FilterBank(rate, n_mels, "hanning"),
        frames=frames,
        mean=number("audio_mean", -4.2677393),
        std=std,
        heads=heads,
        eps=number("layer_norm_eps", 1e-5),
        activation=activation,
        alpha=number("lora_alpha", ALPHA),
    )


def checked_shapes(tower: Tower, recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a tower must have: its own sizes, in every tensor the same.

    The depth is the configuration's, or that of ViT-L/14 where the tower is as wide.
    """
    width = tower.size(CLASS_TOKEN, 0, LARGE["width"])
    seen = {name.removeprefix(LAYERS).split(".")[0] for name in tower.tensors if LAYERS in name}
    depth = tower.number(("vision_config", "num_hidden_layers"))
    if depth is None:
        depth = LARGE["depth"] if width == LARGE["width"] else len(seen)
    depth = min(int(depth), MOST_LAYERS)
    patch = max(1, tower.size(PATCHES, 3, PATCH))
    shapes = network_shapes(
        width,
        max(1, int(depth)),
        hidden=tower.size(f"{LAYERS}0.mlp.fc1.weight", 0, 4 * width),
        dim=tower.size(PROJECTION, 0, LARGE["dim"]),
        positions=1 + (recipe.bank.n_mels // patch) * (recipe.frames // patch),
        patch=patch,
    )
    return shapes | lora_shapes(tower, max(1, int(depth)), width)


def network_shapes(
    width: int, depth: int, hidden: int, dim: int, positions: int, patch: int = PATCH
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the audio tower's tensors in the full fine-tune.

    Parameters
    ----------
    width, hidden : int
        Of a token, and inside a layer's two-layer network.
    depth : int
        Number of layers.
    dim : int
        Of the joint space.
    positions : int
        The class token and the patches.
    patch : int
        Side of a patch.
    """
    shapes: dict[str, tuple[int, ...]] = {
        CLASS_TOKEN: (width,),
        PATCHES: (width, COLOURS, patch, patch),
        POSITIONS: (positions, width),
        PROJECTION: (dim, width),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):  # the first is misspelt in every checkpoint
        shapes |= linear_shapes(f"vision_model.{norm}", (width,))
    for number in range(depth):
        shapes |= layer_shapes(f"{LAYERS}{number}.", width, hidden)
    return shapes


def layer_shapes(prefix: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a layer's tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("layer_norm1", "layer_norm2"):
        shapes |= linear_shapes(f"{prefix}{name}", (width,))
    for name in ATTENTION:
        shapes |= linear_shapes(f"{prefix}{name}", (width, width))
    shapes |= linear_shapes(f"{prefix}mlp.fc1", (hidden, width))
    return shapes | linear_shapes(f"{prefix}mlp.fc2", (width, hidden))


def linear_shapes(name: str, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a weight and its bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def lora_shapes(tower: Tower, depth: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of A and B: none, or for every map of every layer's attention.

    They must be there where the configuration says so too: without them the base weights would
    pass for the trained ones.
    """
    said = tower.number(("vision_config", "lora_r")) or 0
    maps = ATTENTION if said > 0 or any(".lora_" in key for key in tower.tensors) else ()
    shapes: dict[str, tuple[int, ...]] = {}
    for name in (f"{LAYERS}{number}.{name}" for number in range(depth) for name in maps):
        rank = tower.size(f"{name}.lora_A.weight", 0, tower.size(f"{name}.lora_B.weight", 1, 1))
        rank = max(1, rank)  # an empty matrix is misshaped
        shapes[f"{name}.lora_A.weight"] = (rank, width)
        shapes[f"{name}.lora_B.weight"] = (width, rank)
    return shapes


def merged(tensors: Tensors, alpha: float) -> tuple[Tensors, bool]:
    """Return the weights W + (alpha / r) B A, computed in float64, and whether there are any."""
    whole = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    narrow = [name.removesuffix(".lora_A.weight") for name in tensors if ".lora_A." in name]
    for name in narrow:
        a, b = (tensors[f"{name}.lora_{part}.weight"].double() for part in ("A", "B"))
        weight = whole[f"{name}.weight"].double() + (alpha / len(a)) * (b @ a)
        whole[f"{name}.weight"] = weight.float()
    return whole, bool(narrow)


def layer(weights: Mapping[str, Tensor], name: str) -> Layer:
    """Return a weight and its bias."""
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def blocks(weights: Mapping[str, Tensor]) -> list[Block]:
    """Return the blocks of the network, in order."""
    depth = sum(name.startswith(LAYERS) and name.endswith("layer_norm1.bias") for name in weights)
    return [block(weights, f"{LAYERS}{number}.") for number in range(depth)]


def block(weights: Mapping[str, Tensor], prefix: str) -> Block:
    """Return one block, its keys and values stacked."""
    query, key, value, output = (layer(weights, f"{prefix}{name}") for name in ATTENTION)
    return Block(
        norm1=layer(weights, f"{prefix}layer_norm1"),
        query=query,
        key_value=(torch.cat([key[0], value[0]]), torch.cat([key[1], value[1]])),
        output=output,
        norm2=layer(weights, f"{prefix}layer_norm2"),
        fc1=layer(weights, f"{prefix}mlp.fc1"),
        fc2=layer(weights, f"{prefix}mlp.fc2"),
    )
