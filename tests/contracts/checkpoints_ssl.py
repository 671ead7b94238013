"""Small random checkpoints of Dasheng, EAT and BEATs, every tensor drawn from its name alone.

So that outputs of their reference implementations, stored once, can be compared with on any
machine: a tensor is made by numpy's frozen RandomState from the CRC-32 of its name.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]
WIDTH, DEPTH, HEADS = 32, 2, 4
FULL = {"embed_dim": 768, "depth": 12, "num_heads": 12}

DASHENG_CONFIG: dict[str, Any] = {
    "embed_dim": WIDTH,
    "depth": DEPTH,
    "num_heads": HEADS,
    "target_length": 1008,
    "patch_size": [64, 4],
    "patch_stride": [64, 4],
}
EAT_ROWS = 64  # positions for 10.24 s
EAT_CONFIG: dict[str, Any] = {
    "model_type": "eat",
    "embed_dim": WIDTH,
    "depth": DEPTH,
    "num_heads": HEADS,
    "layer_norm_first": False,
    "norm_eps": 1e-6,
    "max_length": EAT_ROWS,
}
BEATS_CONFIG: dict[str, Any] = {
    "input_patch_size": 16,
    "embed_dim": 24,
    "conv_bias": False,
    "encoder_layers": DEPTH,
    "encoder_embed_dim": WIDTH,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": HEADS,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "conv_pos": 128,
    "conv_pos_groups": 4,
    "relative_position_embedding": True,
    "num_buckets": 320,
    "max_distance": 800,
    "gru_rel_pos": True,
}
BEATS_FULL = {
    **BEATS_CONFIG,
    "embed_dim": 512,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "conv_pos_groups": 16,
}
BIASES = "self_attn.relative_attention_bias.weight"


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal values that depend on a name and a shape alone."""
    stream = np.random.RandomState(zlib.crc32(f"nver-ssl-v1:{name}".encode()))
    return np.asarray(stream.standard_normal(shape))


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a float32 tensor of realistic scale that depends on its name and shape alone."""
    if name.endswith(BIASES):
        name = f"encoder.layers.0.{BIASES}"  # all layers share the first one's
    values = normal(name, shape)
    if name.endswith("running_mean"):
        values = 15 * values - 20  # decibels
    elif name.endswith("running_var"):
        values = 200 + 50 * np.abs(values)
    elif name.endswith("weight_g"):
        values = 0.5 + 0.5 * np.abs(values)
    elif name.endswith(BIASES):
        values = 2 * values
    elif any(part in name for part in ("pos_embed", "positions", "extra_tokens")):
        values = 0.5 * values
    elif len(shape) < 2:
        values = 0.1 * values + name.endswith("weight")
    else:
        values = values / np.sqrt(np.prod(shape[1:]))
    return np.asarray(values, dtype=np.float32)


def drawn_all(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Return every tensor of a network."""
    return {name: drawn(name, shape) for name, shape in shapes.items()}


def burst(seconds: float) -> np.ndarray:
    """Return a noise that swells and fades, with a constant offset: float32 at 16 kHz."""
    samples = round(16_000 * seconds)
    place = np.arange(samples) / samples
    return np.asarray(
        0.4 * place * (1 - place) * normal(str(samples), (samples,)) + 0.01, dtype=np.float32
    )


def dasheng_tensors(config: Mapping[str, Any] = DASHENG_CONFIG) -> Tensors:
    """Return a Dasheng by the names of the original checkpoint."""
    from nver.encoders.dasheng import network_shapes

    width = config["embed_dim"]
    return drawn_all(network_shapes(width, config["depth"], 4 * width, positions=252))


def write_dasheng(folder: Path) -> Path:
    """Write a tiny Dasheng in the hub's layout, a classifier's head beside it."""
    tensors = {f"encoder.{name}": tensor for name, tensor in dasheng_tensors().items()}
    tensors["encoder.init_bn.1.num_batches_tracked"] = np.array(7)
    tensors["outputlayer.1.weight"] = np.zeros((3, WIDTH), dtype=np.float32)
    config = {"model_type": "dasheng", "encoder_kwargs": DASHENG_CONFIG}
    return write_folder(folder, config, tensors)


def eat_tensors(config: Mapping[str, Any] = EAT_CONFIG) -> Tensors:
    """Return an EAT by its names without the hub's prefix."""
    from nver.encoders.eat import network_shapes

    width, rows = config["embed_dim"], config.get("max_length", EAT_ROWS)
    return drawn_all(network_shapes(width, config["depth"], 4 * width, positions=8 * rows))


def write_eat(folder: Path) -> Path:
    """Write a tiny EAT in the hub's layout, a classifier's head beside it."""
    tensors = {f"model.{name}": tensor for name, tensor in eat_tensors().items()}
    tensors["model.head.weight"] = np.zeros((3, WIDTH), dtype=np.float32)
    return write_folder(folder, EAT_CONFIG, tensors)


def beats_tensors(config: Mapping[str, Any] = BEATS_CONFIG) -> Tensors:
    """Return a BEATs with the table of biases in every layer, as published."""
    from nver.encoders.beats import network_shapes

    width, groups = config["encoder_embed_dim"], config["conv_pos_groups"]
    sizes = {
        "embed": config["embed_dim"],
        "width": width,
        "hidden": config["encoder_ffn_embed_dim"],
        "layers": config["encoder_layers"],
        "taps": config["conv_pos"],
        "group": width // groups,
    }
    table = (config["num_buckets"], config["encoder_attention_heads"])
    tensors = drawn_all(network_shapes(sizes, table))
    for number in range(1, config["encoder_layers"]):
        name = f"encoder.layers.{number}.{BIASES}"
        tensors[name] = drawn(name, table)
    return tensors


def save_wrapped(path: Path, tensors: Tensors, name: str, config: Mapping[str, Any]) -> Path:
    """Write ``{"model": tensors, NAME: config}`` as `torch.save` does and return its path."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: torch.from_numpy(value.copy()) for key, value in tensors.items()}
    torch.save({"model": state, name: dict(config)}, path)
    return path


def write_beats(folder: Path) -> Path:
    """Write a tiny BEATs as published, in a folder with one file, and return the file."""
    tensors = beats_tensors() | {"predictor.weight": np.zeros((3, WIDTH), dtype=np.float32)}
    return save_wrapped(folder / "BEATs_tiny.pt", tensors, "cfg", BEATS_CONFIG)


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    """Write ``config.json`` and ``model.safetensors`` and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_shards(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    """Write a checkpoint as two shards with their index and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = {"weight_map": {name: file for file, held in halves.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
