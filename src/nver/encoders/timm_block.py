"""Transformer blocks that are stored under the names of the library timm.

Several audio transformers took over timm's vision transformer, and with it the names of a block's
tensors: ``norm1``, ``attn.qkv`` (queries, keys and values in one projection), ``attn.proj``,
``norm2``, ``mlp.fc1`` and ``mlp.fc2``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nver.encoders.vit import Block, Layer


def block_shapes(prefix: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of one block's tensors.

    Parameters
    ----------
    prefix : str
        Of their names.
    width, hidden : int
        Of a token, and inside the two-layer network.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
    }
    norms = (f"norm{index}.{part}" for index in (1, 2) for part in ("weight", "bias"))
    shapes |= dict.fromkeys(("attn.proj.bias", "mlp.fc2.bias", *norms), (width,))
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def read_block(weights: Mapping[str, Tensor], prefix: str) -> Block:
    """Return the block whose tensors have the names of `block_shapes`."""
    weight, bias = pair(weights, f"{prefix}attn.qkv")
    width = weight.shape[1]
    return Block(
        norm1=pair(weights, f"{prefix}norm1"),
        query=(weight[:width], bias[:width]),
        key_value=(weight[width:], bias[width:]),
        output=pair(weights, f"{prefix}attn.proj"),
        norm2=pair(weights, f"{prefix}norm2"),
        fc1=pair(weights, f"{prefix}mlp.fc1"),
        fc2=pair(weights, f"{prefix}mlp.fc2"),
    )


def pair(weights: Mapping[str, Tensor], name: str) -> Layer:
    """Return a layer's weight and bias."""
    return weights[f"{name}.weight"], weights[f"{name}.bias"]
