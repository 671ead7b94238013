"""Random checkpoints of the x-vector and of Light-ASD: same layout as published, random tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]

XVECTOR_WIDTHS, XVECTOR_KERNELS, XVECTOR_DIM = (16, 16, 16, 16, 24), (5, 3, 3, 1, 1), 12

LIGHT_ASD_CONFIG: dict[str, Any] = {
    "input": {"sample_rate": 16000},
    "frontend": {
        "preemphasis": 0.97,
        "frame_length": 400,
        "frame_step": 160,
        "nfft": 512,
        "n_mels": 26,
        "f_min": 0,
        "f_max": 8000,
        "lifter": 22,
    },
}


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Tensors:
    """Return float32 tensors that keep activations near unit size; scales of norms lie near 1."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if name.endswith("running_var"):
            values = 0.5 + np.square(values)
        elif len(shape) > 1:
            values *= np.sqrt(2.0 / np.prod(shape[1:]))
        else:
            values = 0.1 * values + name.endswith(".weight")
        tensors[name] = values.astype(np.float32)
    return tensors


def xvector_tensors(seed: int = 0) -> Tensors:
    """Return a tiny x-vector, with the counters of its batch norms, which are not read."""
    from nver.encoders.xvector import NORMS, network_shapes

    tensors = drawn(network_shapes(XVECTOR_WIDTHS, XVECTOR_KERNELS, XVECTOR_DIM), seed)
    return tensors | {f"{norm}.num_batches_tracked": np.array(7) for norm in NORMS}


def write_xvector(folder: Path, seed: int = 0) -> Path:
    """Write embedding_model.ckpt, and the classifier that lies beside it; return the folder."""
    from tests.contracts.checkpoints import save_torch

    save_torch(folder / "embedding_model.ckpt", xvector_tensors(seed))
    save_torch(folder / "classifier.ckpt", {"out.w.weight": np.zeros((4, 12), dtype=np.float32)})
    return folder


def light_asd_tensors(seed: int = 0) -> Tensors:
    """Return Light-ASD's audio half, with stray tensors of the rest, which is not read."""
    from nver.encoders.light_asd import PREFIX, network_shapes

    return drawn(network_shapes(), seed) | {
        f"{PREFIX}block1.bn_last.num_batches_tracked": np.array(7),
        "model.visualEncoder.block1.last.weight": np.zeros((2, 2, 1, 1, 1), dtype=np.float32),
        "model.GRU.gru_forward.bias_hh_l0": np.zeros(6, dtype=np.float32),
        "lossAV.FC.bias": np.zeros(2, dtype=np.float32),
        "lossV.FC.bias": np.zeros(2, dtype=np.float32),
    }


def write_light_asd(folder: Path, seed: int = 0) -> Path:
    """Write config.json and model.safetensors and return the folder."""
    from tests.contracts.checkpoints import write_checkpoint

    return write_checkpoint(folder, LIGHT_ASD_CONFIG, light_asd_tensors(seed))
