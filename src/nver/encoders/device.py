"""Where a network runs and in which precision, as the options of every encoder say it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn import functional

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


def check_convolutions(encoder: str, *convolutions: torch.Tensor | nn.Module) -> None:
    """Refuse convolutions that this processor computes wrongly.

    oneDNN, as in torch 2.13, does on a CPU with AMX: in bfloat16, over an even number of input
    channels (of a group) below 16, where that number times the kernel's width is a multiple of 32
    above 32. The errors are as large as the values. No published checkpoint has such; small ones of
    one's own may. Whatever is at risk is tried, so that a machine that is right refuses nothing.

    Parameters
    ----------
    encoder : str
        Its name.
    convolutions : Tensor [out, in, width] or [out, in, height, width], or Module
        Weights in their precision, or networks whose convolutions are meant.

    Raises
    ------
    SettingsError
        If one is wrong.
    """
    for weight, stride in (pair for given in convolutions for pair in _weights(given)):
        if not _right(weight, stride):
            raise SettingsError(
                f"In bfloat16 this processor computes convolutions like those of '{encoder}' "
                f"wrongly (oneDNN of torch {torch.__version__}, {weight.shape[1]} input channels). "
                "Leave dtype=bfloat16 out, or use a GPU (device=cuda)."
            )


def _weights(given: torch.Tensor | nn.Module) -> Iterator[tuple[torch.Tensor, tuple[int, ...]]]:
    """Yield the weights of convolutions with their strides."""
    if isinstance(given, torch.Tensor):
        yield given, (1,) * (given.dim() - 2)
        return
    for part in given.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d):
            yield part.weight.detach(), part.stride


def _right(weight: torch.Tensor, stride: tuple[int, ...]) -> bool:
    """Return whether a convolution agrees with the one in double precision on random numbers."""
    channels, *kernel = weight.shape[1:]
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not 1 < channels < 16:
        return True
    convolve = functional.conv1d if len(kernel) == 1 else functional.conv2d
    shape = (1, channels, *(taps + 47 for taps in kernel))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    with torch.inference_mode():
        found = convolve(values, weight, stride=stride).double()
    expected = convolve(values.double(), weight.double(), stride=stride)
    return bool((found - expected).abs().max() <= 0.05 * expected.abs().max())


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
