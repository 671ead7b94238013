"""Kaldi's log-mel filter bank, the front end of ImageBind, LanguageBind, AST and BEATs.

After the feature extraction of Kaldi (Povey et al., ASRU 2011) as torchaudio's
``compliance.kaldi.fbank`` computes it with ``htk_compat`` and without dither or energy: whole
frames of 25 ms every 10 ms, each freed of its own mean, pre-emphasised, windowed and zero-padded to
a power of two; power spectrum; triangles that are straight lines in mel; natural logarithm.

Frames do not know of each other: the frames of a slice are a slice of the frames. A band that holds
no line of the spectrum is the logarithm of the floor, as a silent one is (128 bands at 16 kHz have
one such). Samples are taken as they are: who needs Kaldi's 16-bit scale multiplies by 32768.

Transformed in float32, as the reference is: the quiet bands then carry the same rounding errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from nver.encoders.mel import mel_filters
from nver.errors import SettingsError

Window = Literal["hanning", "povey"]

LOG_FLOOR = 1.1920928955078125e-07  # float32 epsilon
PREEMPHASIS = 0.97
LOWEST = 20.0  # Hz, edge of the first band; the last ends at half the rate
POVEY = 0.85  # exponent of the Hann window
FRAMES_AT_ONCE = 4096  # bounds the memory of an hour-long clip


@dataclass(frozen=True)
class FilterBank:
    """A Kaldi filter bank: ``ln(max(mel power, 1.19e-7))``.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    n_mels : int
        Number of bands between 20 Hz and half the rate.
    window : {"hanning", "povey"}
        Symmetric Hann window, or that to the power of 0.85.
    """

    rate: int
    n_mels: int
    window: Window

    @property
    def length(self) -> int:
        """Samples in a frame: 25 ms."""
        return self.rate * 25 // 1000

    @property
    def hop(self) -> int:
        """Samples from frame to frame: 10 ms."""
        return self.rate * 10 // 1000

    def frames(self, samples: int) -> int:
        """Return how many whole frames so many samples hold.

        >>> FilterBank(16000, 128, "hanning").frames(32000)
        198
        """
        return 0 if samples < self.length else 1 + (samples - self.length) // self.hop

    def __call__(self, samples: Float32[Tensor, "samples"]) -> Float32[Tensor, "frames mels"]:
        """Return the log-mel spectrogram.

        Parameters
        ----------
        samples : float32 [samples]
            One channel at `rate`.

        Raises
        ------
        SettingsError
            If there are fewer samples than one frame has.
        """
        if samples.numel() < self.length:
            raise SettingsError(
                f"A filter bank needs {self.length} samples (25 ms at {self.rate} Hz), "
                f"this clip has {samples.numel()}. Pad it with zeros."
            )
        frames = samples.unfold(0, self.length, self.hop)
        parts = [self._mel_power(part) for part in torch.split(frames, FRAMES_AT_ONCE)]
        return torch.cat(parts).clamp_min_(LOG_FLOOR).log_()

    def _mel_power(
        self, frames: Float32[Tensor, "frames window"]
    ) -> Float32[Tensor, "frames mels"]:
        centred = frames - frames.mean(dim=1, keepdim=True)
        before = torch.cat([centred[:, :1], centred[:, :-1]], dim=1)  # a frame's first has itself
        window, filters, n_fft = tables(self)
        shaped = (centred - PREEMPHASIS * before) * window
        power: Tensor = torch.fft.rfft(shaped, n=n_fft).abs().square() @ filters
        return power


@lru_cache(maxsize=16)
def tables(
    bank: FilterBank,
) -> tuple[Float32[Tensor, "window"], Float32[Tensor, "bins mels"], int]:
    """Return the window, the filters (made in float64) and the length of the transform."""
    window = torch.hann_window(bank.length, periodic=False, dtype=torch.float32)
    if bank.window == "povey":
        window = window**POVEY
    n_fft = 1 << (bank.length - 1).bit_length()
    filters = mel_filters(bank.rate, n_fft, bank.n_mels, LOWEST, bank.rate / 2, "mel")
    return window, torch.tensor(filters, dtype=torch.float32), n_fft
