"""Small random checkpoints of the encoders that need one: same layout, random tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]

BYOL_S_CONFIG: dict[str, Any] = {
    "min_frames": 8,
    "input": {"sample_rate": 16000},
    "frontend": {
        "n_fft": 1024,
        "win_length": 400,
        "hop_length": 160,
        "n_mels": 64,
        "f_min": 60.0,
        "f_max": 7800.0,
        "emogator_stats": {"mean": -6.9, "std": 4.5},
    },
}

RELU, SWISH = "relu", "hardswish"
EFFICIENTAT_CONFIG: dict[str, Any] = {
    "min_samples": 1024,
    "input": {"sample_rate": 32000},
    "frontend": {
        "n_fft": 1024,
        "win_length": 800,
        "hop_length": 320,
        "n_mels": 128,
        "f_min": 0.0,
        "f_max": 15000.0,
    },
    "blocks": [
        {"kernel": kernel, "stride": stride, "act": act, "squeeze_excite": squeeze}
        for kernel, stride, act, squeeze in (
            (3, 1, RELU, False),
            (3, 2, RELU, False),
            (3, 1, RELU, False),
            (5, 2, RELU, True),
            (5, 1, RELU, True),
            (5, 1, RELU, True),
            (3, 2, SWISH, False),
            (3, 1, SWISH, False),
            (3, 1, SWISH, False),
            (3, 1, SWISH, False),
            (3, 1, SWISH, True),
            (3, 1, SWISH, True),
            (5, 2, SWISH, True),
            (5, 1, SWISH, True),
            (5, 1, SWISH, True),
        )
    ],
}


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Return float32 tensors that keep activations near unit size."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if name.endswith("running_var"):
            values = 0.5 + np.square(values)
        elif len(shape) > 1:
            values *= np.sqrt(2.0 / np.prod(shape[1:]))
        else:
            values = 0.1 * values + name.endswith("1.weight")
        tensors[name] = values.astype(np.float32)
    return tensors


def write_checkpoint(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    """Write ``config.json`` and ``model.safetensors`` and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_byol_s(folder: Path, seed: int = 0) -> Path:
    from nver.encoders.byol_s import SHAPES

    return write_checkpoint(folder, BYOL_S_CONFIG, random_tensors(SHAPES, seed))


def write_efficientat(folder: Path, seed: int = 0) -> Path:
    from nver.encoders.checkpoint import Checkpoint
    from nver.encoders.efficientat import network_shapes, read_blocks

    blocks = read_blocks(Checkpoint(folder, EFFICIENTAT_CONFIG, ""))
    tensors = random_tensors(network_shapes(blocks), seed)
    # A classifier and a counter, as published: they are not read.
    tensors["classifier.2.weight"] = np.zeros((4, 384), dtype=np.float32)
    tensors["features.0.1.num_batches_tracked"] = np.array(7)
    return write_checkpoint(folder, EFFICIENTAT_CONFIG, tensors)


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
DATA2VEC = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}

# kind -> prefix of its classes in transformers, what differs from TINY
SPEECH_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-group": ("Wav2Vec2", {}),
    "wav2vec2-layer": ("Wav2Vec2", LAYER_NORM),
    "hubert-group": ("Hubert", {}),
    "hubert-layer": ("Hubert", LAYER_NORM),
    "wavlm-group": ("WavLM", {}),
    "wavlm-layer": ("WavLM", LAYER_NORM),
    "unispeech-group": ("UniSpeech", {}),
    "unispeech-sat-group": ("UniSpeechSat", {}),
    "unispeech-sat-layer": ("UniSpeechSat", LAYER_NORM),
    "data2vec-audio": ("Data2VecAudio", DATA2VEC),
}


def tiny_network(kind: str, seed: int = 0, **changes: Any) -> Any:
    """Return a tiny network of a kind, every tensor drawn from `seed`."""
    import torch
    import transformers

    prefix, differences = SPEECH_KINDS[kind]
    config = getattr(transformers, f"{prefix}Config")(**{**TINY, **differences, **changes})
    network = getattr(transformers, f"{prefix}Model")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            is_scale = "norm" in name and name.endswith("weight")
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator) + is_scale)
    return network


def write_speech(folder: Path, kind: str = "wav2vec2-group", seed: int = 0) -> Path:
    tiny_network(kind, seed).save_pretrained(folder)
    return folder


IMAGEBIND_CONFIG = {"audio_embed_dim": 32, "audio_num_blocks": 2, "audio_num_heads": 4}


def imagebind_tensors(seed: int = 0) -> Tensors:
    """Return the audio tower of a tiny ImageBind, with a stray tensor of another modality."""
    from nver.encoders.imagebind import SCALE, network_shapes

    tensors = random_tensors(network_shapes(width=32, depth=2, hidden=64, dim=12), seed)
    tensors[SCALE] = np.array(np.log(20.0), dtype=np.float32)
    return tensors | {"modality_trunks.vision.blocks.0.norm_1.bias": np.zeros(4, dtype=np.float32)}


def save_torch(path: Path, tensors: Tensors) -> Path:
    """Write a state dict as `torch.save` does and return its path."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.from_numpy(value.copy()) for name, value in tensors.items()}, path)
    return path


def write_imagebind(folder: Path, seed: int = 0) -> Path:
    """Write imagebind_huge.pth and config.json and return the folder."""
    save_torch(folder / "imagebind_huge.pth", imagebind_tensors(seed))
    (folder / "config.json").write_text(json.dumps(IMAGEBIND_CONFIG), encoding="utf-8")
    return folder


LANGUAGEBIND_CONFIG: dict[str, Any] = {
    "model_type": "LanguageBindAudio",
    "projection_dim": 12,
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-05,
        "lora_alpha": 16,
        "num_mel_bins": 112,
        "target_length": 1036,
        "audio_sample_rate": 16000,
        "audio_mean": -4.2677393,
        "audio_std": 4.5689974,
    },
}
LANGUAGEBIND_WIDTH, LANGUAGEBIND_DEPTH = 32, 2


def languagebind_tensors(seed: int = 0) -> Tensors:
    """Return a tiny LanguageBind in the layout of the full fine-tune, with a stray text tensor."""
    from nver.encoders import languagebind_weights as layout

    width = LANGUAGEBIND_WIDTH
    shapes = layout.network_shapes(width, LANGUAGEBIND_DEPTH, hidden=48, dim=12, positions=593)
    tensors = random_tensors(shapes, seed)
    tensors["vision_model.embeddings.position_ids"] = np.arange(593)[None]
    tensors["text_projection.weight"] = np.zeros((12, 8), dtype=np.float32)
    return tensors | {"logit_scale": np.array(2.6592, dtype=np.float32)}


def with_lora(tensors: Tensors, rank: int, seed: int = 0) -> Tensors:
    """Return the same network in the layout that peft writes, with random A and B beside it."""
    from nver.encoders import languagebind_weights as layout

    encoder = "vision_model.encoder."
    renamed = {
        name.replace(f"{encoder}layers", f"{encoder}base_model.model.layers"): value
        for name, value in tensors.items()
    }
    rng = np.random.default_rng(seed)
    for number in range(LANGUAGEBIND_DEPTH):
        for name in layout.ATTENTION:
            prefix = f"{encoder}base_model.model.layers.{number}.{name}"
            for part, shape in (
                ("A", (rank, LANGUAGEBIND_WIDTH)),
                ("B", (LANGUAGEBIND_WIDTH, rank)),
            ):
                values = 0.2 * rng.standard_normal(shape)
                renamed[f"{prefix}.lora_{part}.default.weight"] = values.astype(np.float32)
    return renamed


def write_languagebind(folder: Path, seed: int = 0, lora: int = 0) -> Path:
    """Write pytorch_model.bin and config.json and return the folder."""
    tensors = languagebind_tensors(seed)
    save_torch(folder / "pytorch_model.bin", with_lora(tensors, lora) if lora else tensors)
    (folder / "config.json").write_text(json.dumps(LANGUAGEBIND_CONFIG), encoding="utf-8")
    return folder


def copied(folder: Path, copy: Path) -> Path:
    """Copy a checkpoint's files into a new folder, which a test may spoil."""
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def spoil(folder: Path, change: Callable[[Tensors], object]) -> Path:
    """Change a checkpoint's tensors in place; return their file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def change(path: Path, **values: object) -> None:
    """Change what a JSON file says."""
    said = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**said, **values}), encoding="utf-8")
