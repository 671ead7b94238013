"""A tiny random w2v-BERT 2.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_depthwise_kernel_size": 31,
}


def tiny_w2v_bert(seed: int = 0, head: str = "Wav2Vec2BertModel", **changes: Any) -> Any:
    """Return a tiny network of a class of transformers, its tensors drawn from `seed`."""
    import torch
    import transformers

    config = transformers.Wav2Vec2BertConfig(**{**TINY, **changes})
    network = getattr(transformers, head)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            is_scale = "norm" in name and name.endswith("weight")
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator) + is_scale)
    return network


def write_w2v_bert(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write config.json, model.safetensors and preprocessor_config.json; return the folder."""
    import transformers

    tiny_w2v_bert(seed, **changes).save_pretrained(folder)
    # The published file says that padding is 1, not 0.
    transformers.SeamlessM4TFeatureExtractor(padding_value=1.0).save_pretrained(folder)
    return folder
