"""Resampling as torchaudio does it, for the encoders whose reference resamples so.

A sinc low-pass with its cut-off at 0.99 of the lower Nyquist frequency, under a Hann window that
ends after six zero crossings (Smith, Digital audio resampling, 2002; torchaudio's
``functional.resample`` with its defaults). Short, hence fast, but with a wide transition band: what
lies above the new Nyquist frequency leaks, and `nver.audio`'s resampler is the better one. The
embeddings of ImageBind and LanguageBind follow it all the same: with soxr in its place ImageBind's
move by 0.4 % from 44.1 kHz and by 11 % from 8 kHz (random weights).

The kernel is made in float32 like the reference's: in float64 the result moves by 2e-6.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from nver.audio import Waveform

RESAMPLER = "sinc-hann, 6 zero crossings, roll-off 0.99"
"""What the encoders' cards say of it."""

ZERO_CROSSINGS = 6
ROLL_OFF = 0.99
PHASES_AT_ONCE = 32  # of output samples; few, so that their kernels hold few zeros
SAMPLES_AT_ONCE = 2**18  # bounds the memory of an hour-long clip

Kernels = tuple[tuple[int, Float32[Tensor, "phases 1 taps"]], ...]


def resample(waveform: Waveform, rate: int) -> Waveform:
    """Return the waveform at another rate.

    Parameters
    ----------
    waveform : Waveform
        Of n samples at rate r.
    rate : int
        The new rate R in Hz.

    Returns
    -------
    Waveform
        Of ceil(n R / r) samples; the waveform itself where the rates are equal.

    Examples
    --------
    >>> import numpy as np
    >>> resample(Waveform(np.zeros(4410), 44100), 16000).samples.shape
    (1, 1600)
    """
    if rate == waveform.rate:
        return waveform
    divisor = math.gcd(waveform.rate, rate)
    old, new = waveform.rate // divisor, rate // divisor
    length = waveform.samples.shape[1]
    width = half_width(old, new)
    padded = functional.pad(torch.from_numpy(waveform.samples), (width, width + old))
    steps, at_once = length // old + 1, max(1, SAMPLES_AT_ONCE // max(old, new))
    with torch.inference_mode():
        parts = [
            filtered(padded[:, first * old :], min(at_once, steps - first), old, new)
            for first in range(0, steps, at_once)
        ]
        mixed = torch.cat(parts, dim=1)
    return Waveform(mixed[:, : math.ceil(new * length / old)].numpy(), rate)


def filtered(
    padded: Float32[Tensor, "channels samples"], steps: int, old: int, new: int
) -> Float32[Tensor, "channels made"]:
    """Return `steps` times `new` output samples, from the beginning of the padded input."""
    phases = [
        functional.conv1d(
            padded[:, None, first : first + (steps - 1) * old + kernel.shape[2]], kernel, stride=old
        )
        for first, kernel in kernels(old, new)
    ]
    return torch.cat(phases, dim=1).transpose(1, 2).flatten(1)


def half_width(old: int, new: int) -> int:
    """Return how many input samples on either side reach an output sample."""
    return math.ceil(ZERO_CROSSINGS * old / (min(old, new) * ROLL_OFF))


@lru_cache(maxsize=8)
def kernels(old: int, new: int) -> Kernels:
    """Return the filters for every `new` output samples, which `old` input samples make.

    Output sample p lies at the position p old / new of the input. Its filter spans `half_width`
    samples on either side; neighbouring ones are stacked and start at the returned input sample.
    """
    cutoff = min(old, new) * ROLL_OFF
    width = half_width(old, new)
    found = []
    for first in range(0, new, PHASES_AT_ONCE):
        last = min(first + PHASES_AT_ONCE, new) - 1
        start, stop = first * old // new, last * old // new + 2 * width + 1
        position = torch.arange(start - width, stop - width, dtype=torch.float32) / old
        phase = torch.arange(-first, -last - 1, -1, dtype=torch.float32)[:, None] / new
        time = ((phase + position) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        window = torch.cos(time * math.pi / ZERO_CROSSINGS / 2).square()
        kernel = torch.where(time == 0, 1.0, torch.sin(time * math.pi) / (time * math.pi))
        found.append((start, (kernel * window * (cutoff / old))[:, None]))
    return tuple(found)
