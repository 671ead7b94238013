"""Tiny random checkpoints of `ast`, `clap` and `pe-audio`, in the layout of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

AST = {
    "hidden_size": 64,  # the least that is packed on a CPU
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_mel_bins": 32,
    "max_length": 256,
    "num_labels": 5,
}


def drawn(network: Any, seed: int = 0) -> Any:
    """Return the network with tensors drawn from `seed` at the scale of trained ones.

    Products keep the size of what they get, norms' scales are near 1, running statistics are those
    of a log-mel spectrogram in decibels.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1 and not name.endswith(("alpha", "_embeddings", "_token")):
                tensor.copy_(noise * tensor[0].numel() ** -0.5)
            elif name.endswith("alpha") or ("norm" in name and name.endswith("weight")):
                tensor.copy_(1 + 0.1 * noise)
            else:
                tensor.copy_(0.2 * noise)
        for name, tensor in network.named_buffers():
            noise = torch.randn(tensor.shape, generator=generator) if tensor.ndim else 0
            if name.endswith("batch_norm.running_mean"):
                tensor.copy_(-40 + 5 * noise)
            elif name.endswith("batch_norm.running_var"):
                tensor.copy_(400 * (1 + 0.1 * noise.abs()))
    return network.eval()


def tiny_ast(seed: int = 0) -> Any:
    """Return a tiny AST with its classifier."""
    from transformers import ASTConfig, ASTForAudioClassification

    return drawn(ASTForAudioClassification(ASTConfig(**AST)), seed)


def ast_extractor() -> Any:
    """Return the feature extractor of `tiny_ast`."""
    from transformers import ASTFeatureExtractor

    return ASTFeatureExtractor(num_mel_bins=AST["num_mel_bins"], max_length=AST["max_length"])


def write_ast(folder: Path, seed: int = 0) -> Path:
    tiny_ast(seed).save_pretrained(folder)
    ast_extractor().save_pretrained(folder)
    return folder


CLAP_AUDIO: dict[str, Any] = {
    "patch_embeds_hidden_size": 16,
    "hidden_size": 32,
    "depths": [2, 2],
    "num_attention_heads": [2, 4],
    "spec_size": 64,
    "num_mel_bins": 16,
    "window_size": 4,
    "projection_dim": 24,
}
CLAP_FUSED = {"enable_fusion": True, "fusion_type": "aff_2d", "aff_block_r": 2}
CLAP_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 40,
    "projection_dim": 24,
}


def tiny_clap(fused: bool = False, seed: int = 0) -> Any:
    """Return a tiny CLAP with both towers, which hears 2 s."""
    from transformers import ClapConfig, ClapModel

    audio = {**CLAP_AUDIO, **(CLAP_FUSED if fused else {})}
    config = ClapConfig(text_config=CLAP_TEXT, audio_config=audio, projection_dim=24)
    return drawn(ClapModel(config), seed)


def clap_extractor(fused: bool = False) -> Any:
    """Return the feature extractor of `tiny_clap`."""
    from transformers import ClapFeatureExtractor

    return ClapFeatureExtractor(
        feature_size=CLAP_AUDIO["num_mel_bins"],
        max_length_s=2,
        frequency_min=50,
        frequency_max=14_000,
        truncation="fusion" if fused else "rand_trunc",
    )


def write_clap(folder: Path, fused: bool = False, seed: int = 0) -> Path:
    tiny_clap(fused, seed).save_pretrained(folder)
    clap_extractor(fused).save_pretrained(folder)
    return folder


PE_AUDIO: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 16,
    "dac_config": {
        "encoder_hidden_size": 4,
        "codebook_dim": 8,
        "downsampling_ratios": [2, 8, 10, 12],
    },
}
PE_TEXT = {
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}


def tiny_pe_audio(seed: int = 0) -> Any:
    """Return a tiny PE-Audio with its text tower."""
    from transformers import PeAudioConfig, PeAudioModel

    config = PeAudioConfig(audio_config=PE_AUDIO, text_config=PE_TEXT)
    return drawn(PeAudioModel(config), seed)


def write_pe_audio(folder: Path, kind: str = "pe_audio", seed: int = 0) -> Path:
    """Write a tiny checkpoint of a ``model_type``.

    "pe_audio_video" is written by hand: the library needs timm to build its video tower.
    """
    from safetensors.torch import save_file
    from transformers import PeAudioFeatureExtractor

    network = tiny_pe_audio(seed)
    if kind == "pe_audio_encoder":
        network.audio_encoder.save_pretrained(folder)
    else:
        network.save_pretrained(folder)
    if kind == "pe_audio_video":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        inner = {"audio_config": config.pop("audio_config"), "hidden_size": 32}
        said = {**config, "model_type": kind, "audio_video_config": inner}
        (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
        tensors = {f"audio_model.{name}": value for name, value in network.state_dict().items()}
        tensors["audio_video_encoder.norm.weight"] = network.audio_encoder.norm.weight.clone()
        save_file(tensors, folder / "model.safetensors")
    PeAudioFeatureExtractor().save_pretrained(folder)
    return folder
