"""A tiny random Whisper: the whole published layout, decoder too, with windows of 2 s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 80,
    "max_source_positions": 100,
    "max_target_positions": 8,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 1,
    "begin_suppress_tokens": None,
}


def tiny_whisper(
    seed: int = 0, head: str = "WhisperForConditionalGeneration", **changes: Any
) -> Any:
    """Return a tiny network of a class of transformers, its tensors drawn from `seed`."""
    import torch
    import transformers

    network = getattr(transformers, head)(transformers.WhisperConfig(**{**TINY, **changes})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if "embed_positions" not in name:
                is_scale = "norm" in name and name.endswith("weight")
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator) + is_scale)
    return network


def write_whisper(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write config.json, model.safetensors and preprocessor_config.json; return the folder."""
    import transformers

    network = tiny_whisper(seed, **changes)
    network.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(
        feature_size=network.config.num_mel_bins,
        chunk_length=network.config.max_source_positions // 50,
    ).save_pretrained(folder)
    return folder
