"""Where a network runs and in which precision, as the options of every encoder say it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from nver.errors import SettingsError
from nver.registry import unknown

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Precisions by name. Half ones only when asked: their batches are exact to 1e-2 only."""


def dtype_of(encoder: str, name: str) -> torch.dtype:
    """Return a precision by its name.

    Raises
    ------
    UnknownNameError
        If there is no such precision.
    """
    if name not in DTYPES:
        raise unknown(f"dtype of '{encoder}'", str(name), DTYPES)
    return DTYPES[name]


def require_device(device: str) -> None:
    """Refuse a device that torch cannot use here.

    Raises
    ------
    SettingsError
        If torch has no such device, or it is not there.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"The device must be one that torch can use here (cpu, cuda, mps), '{device}' is not: "
            f"{said}"
        ) from error


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Return a context without TF32 convolutions, which would cost three digits on a GPU."""
    if device.type != "cuda":
        return nullcontext()  # the switch is the whole process's: a CPU's threads leave it alone
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def on_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a batch on a device; towards a GPU through pinned memory, while the GPU goes on."""
    if device.type != "cuda":
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


def values_at_once(device: str, bytes_each: int, otherwise: int) -> int:
    """Return how many input values a forward pass may hold.

    Parameters
    ----------
    device : str
        On a GPU, half of its free memory may be used.
    bytes_each : int
        Of activations, for each input value.
    otherwise : int
        Elsewhere, and at least.
    """
    if torch.device(device).type != "cuda":
        return otherwise
    free, _ = torch.cuda.mem_get_info(device)
    return max(otherwise, free // (2 * bytes_each))
