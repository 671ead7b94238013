"""Batch normalisation folded into the convolution before it: one operation, the same numbers.

In evaluation a batch norm is the fixed affine map (y - mean) / sqrt(var + eps) * weight + bias of
each channel, so it can scale the convolution's weights instead (Jacob et al. 2018, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

STATISTICS = ("weight", "bias", "running_mean", "running_var")


def norm_shapes(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Return the tensor names and shapes of a batch norm stored under `prefix`."""
    return {f"{prefix}.{name}": (channels,) for name in STATISTICS}


def folded(
    tensors: Mapping[str, np.ndarray], convolution: str, norm: str, eps: float
) -> tuple[Float32[Tensor, "out in height width"], Float32[Tensor, "out"]]:
    """Return the weight and bias of a convolution that does what it and its batch norm did.

    Parameters
    ----------
    tensors : mapping
        Names to float32 arrays.
    convolution, norm : str
        Prefixes of the two; the convolution may have no bias.
    eps : float
        Added to the variance.
    """
    weight, bias, mean, variance = (
        tensors[f"{norm}.{name}"].astype(np.float64) for name in STATISTICS
    )
    scale = weight / np.sqrt(variance + eps)
    kernel = tensors[f"{convolution}.weight"] * scale[:, None, None, None]
    offset = tensors.get(f"{convolution}.bias", np.zeros_like(mean)) - mean
    return as_tensor(kernel), as_tensor(offset * scale + bias)


def as_tensor(array: np.ndarray) -> Float[Tensor, "..."]:
    """Return a float32 tensor holding a copy of `array`."""
    return torch.from_numpy(np.array(array, dtype=np.float32))
