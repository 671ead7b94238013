"""Mel spectrograms in decibels, as torchaudio's `MelSpectrogram` and `AmplitudeToDB` make them.

Power of a centred, reflected short-time Fourier transform under a periodic Hann window, triangles
that are straight lines in Hz (HTK's mel scale, peak 1), then 10 log10(max(p, 1e-10)), and nothing
lower than `top_db` below the loudest cell.

That last step looks at all that it is given at once: torchaudio takes the loudest cell of the whole
batch, so that a quiet clip changes beside a loud one. Here it is always the clip's own.

In float32, as the reference is: the quiet bands then carry the same rounding errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from nver.encoders.mel import hann, mel_filters

LEAST_POWER = 1e-10
FRAMES_AT_ONCE = 4096  # bounds the memory of an hour-long clip


@dataclass(frozen=True)
class DecibelMel:
    """A mel spectrogram in decibels.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    n_fft, win_length, hop_length : int
        Fourier transform, window and hop in samples; the window is in the transform's middle.
    n_mels : int
        Number of bands.
    f_min, f_max : float
        Lowest and highest band edge in Hz.
    top_db : float
        The quietest cell is at most so many decibels below the clip's loudest.
    """

    rate: int
    n_fft: int
    win_length: int
    hop_length: int
    n_mels: int
    f_min: float
    f_max: float
    top_db: float

    def frames(self, samples: int) -> int:
        """Return how many frames a clip of so many samples has.

        >>> DecibelMel(16000, 512, 512, 160, 64, 0.0, 8000.0, 120.0).frames(16000)
        101
        """
        return 1 + samples // self.hop_length

    def __call__(self, samples: Float32[Tensor, "samples"]) -> Float32[Tensor, "frames mels"]:
        """Return the spectrogram.

        Parameters
        ----------
        samples : float32 [samples]
            One channel at `rate`, longer than ``n_fft // 2`` samples (the reflected edge).
        """
        edge = self.n_fft // 2
        padded = functional.pad(samples[None], (edge, edge), mode="reflect")[0]
        frames = padded.unfold(0, self.n_fft, self.hop_length)
        parts = [self._mel_power(part) for part in torch.split(frames, FRAMES_AT_ONCE)]
        decibels = 10.0 * torch.cat(parts).clamp_min_(LEAST_POWER).log10_()
        return decibels.clamp_min_(float(decibels.max()) - self.top_db)

    def _mel_power(
        self, frames: Float32[Tensor, "frames window"]
    ) -> Float32[Tensor, "frames mels"]:
        window, filters = tables(self)
        power: Tensor = torch.fft.rfft(frames * window).abs().square() @ filters
        return power


@lru_cache(maxsize=8)
def tables(bank: DecibelMel) -> tuple[Float32[Tensor, "window"], Float32[Tensor, "bins mels"]]:
    """Return the window, zero outside its middle part, and the filters; made in float64."""
    before = (bank.n_fft - bank.win_length) // 2
    after = bank.n_fft - bank.win_length - before
    window = torch.tensor(hann(bank.win_length, periodic=True), dtype=torch.float32)
    filters = mel_filters(bank.rate, bank.n_fft, bank.n_mels, bank.f_min, bank.f_max, "hz")
    return functional.pad(window, (before, after)), torch.tensor(filters, dtype=torch.float32)
