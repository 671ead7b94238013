"""The spectrograms of LAION's CLAP: mel bands in decibels, of windows or of a whole clip.

Power of a centred, reflected Fourier transform under a periodic Hann window; 64 triangular bands;
10 log10(max(p, 1e-10)). Checkpoints without fusion use Slaney's mel scale with bands of equal area
(as librosa), those with fusion HTK's with bands of equal height (as torchaudio).

The network hears 10 s. A shorter clip is repeated as often as it fits whole ("repeatpad") and
followed by zeros, before it is transformed. What becomes of a longer one, see `Spectrograms`.

All runs in float64 in numpy and is rounded to float32 at the end, as in the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float32, Float64
from torch.nn import functional

from nver.encoders.even_windows import even_starts
from nver.encoders.mel import hann, mel_filters
from nver.shapes import Mono

PADDINGS = ("repeatpad", "repeat", "pad")
WINDOWS = ("even", "first")
LEAST_POWER = 1e-10
FRAMES_AT_ONCE = 4096  # bounds the memory of an hour-long clip

# Slaney's mel scale: straight up to 1000 Hz (15 mel), then 27 mel for each factor of 6.4.
HZ_PER_MEL, KNEE_HZ, KNEE_MEL, PER_MEL = 200.0 / 3.0, 1000.0, 15.0, np.log(6.4) / 27.0


@dataclass(frozen=True)
class Spectrograms:
    """What the network gets of a clip.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    n_fft, hop_length : int
        Fourier transform and window, and hop, in samples.
    n_mels : int
        Number of bands.
    f_min, f_max : float
        Lowest and highest band edge in Hz.
    htk : bool
        HTK's mel scale and equal height; otherwise Slaney's and equal area.
    seconds : int
        What the network hears.
    padding : {"repeatpad", "repeat", "pad"}
        Of a shorter clip: repeated whole and zeros, repeated and cut, or zeros alone.
    fused : bool
        Whether a longer clip is one input of four channels: the spectrogram of the whole clip
        shrunk to one window, and its first, middle and last window. Otherwise it is several inputs.
    windows : {"even", "first"}
        Of a longer clip: the fewest windows that cover it, spread evenly (with `fused`, see there);
        or its first alone.
    """

    rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    f_min: float
    f_max: float
    htk: bool
    seconds: int
    padding: str
    fused: bool
    windows: str

    @property
    def samples(self) -> int:
        """Samples in a window."""
        return self.seconds * self.rate

    @property
    def frames(self) -> int:
        """Frames in a window."""
        return 1 + self.samples // self.hop_length

    def __call__(self, samples: Mono) -> Float32[np.ndarray, "windows channels frames mels"]:
        """Return the inputs for a clip.

        Parameters
        ----------
        samples : float32 [samples]
            One channel at `rate`, at least one sample.

        Returns
        -------
        float32 [windows, channels, frames, mels]
            One window of four channels for a longer clip with `fused`; one channel otherwise.
        """
        if samples.size <= self.samples or self.windows == "first":
            return self.decibels(self.filled(samples[: self.samples]))[None, None]
        if self.fused:
            mel = self.decibels(samples)
            # A clip longer by less than a hop has no more frames than a window.
            return (self.fusion(mel) if len(mel) > self.frames else mel[None])[None]
        starts = even_starts(samples.size, self.samples)
        return np.stack([self.decibels(samples[s : s + self.samples])[None] for s in starts])

    def filled(self, samples: Mono) -> Float32[np.ndarray, "window"]:
        """Return a clip at the length of a window."""
        missing = self.samples - samples.size
        if missing and self.padding != "pad":
            count = self.samples // samples.size + (self.padding == "repeat")
            samples = np.tile(samples, count)[: self.samples]
        return np.pad(samples, (0, self.samples - samples.size))

    def fusion(
        self, mel: Float32[np.ndarray, "frames mels"]
    ) -> Float32[np.ndarray, "channels window mels"]:
        """Return the whole clip in the length of a window, and its first, middle, last window."""
        size, last = self.frames, len(mel) - self.frames
        shrunk = functional.interpolate(
            torch.from_numpy(mel)[None, None],
            size=[size, self.n_mels],
            mode="bilinear",
            align_corners=False,
        )
        chunks = [mel[first : first + size] for first in (0, last // 2, last)]
        return np.stack([shrunk[0, 0].numpy(), *chunks])

    def decibels(self, samples: Mono) -> Float32[np.ndarray, "frames mels"]:
        """Return the spectrogram of samples, more than ``n_fft // 2`` of them."""
        padded = np.pad(samples.astype(np.float64), self.n_fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop_length]
        parts = [
            self._mel_power(frames[first : first + FRAMES_AT_ONCE])
            for first in range(0, len(frames), FRAMES_AT_ONCE)
        ]
        power = np.maximum(np.concatenate(parts), LEAST_POWER)
        return np.asarray(10.0 * np.log10(power), dtype=np.float32)

    def _mel_power(
        self, frames: Float64[np.ndarray, "frames window"]
    ) -> Float64[np.ndarray, "frames mels"]:
        spectrum = scipy.fft.rfft(frames * hann(self.n_fft, periodic=True))
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        make = htk_filters if self.htk else slaney_filters
        filters = make(self.rate, self.n_fft, self.n_mels, self.f_min, self.f_max)
        return np.asarray(power @ filters)


def htk_filters(
    rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float
) -> Float64[np.ndarray, "bins mels"]:
    """Return triangles of height 1 that are straight lines in Hz, on HTK's mel scale."""
    return mel_filters(rate, n_fft, n_mels, f_min, f_max, "hz")


@lru_cache(maxsize=8)
def slaney_filters(
    rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float
) -> Float64[np.ndarray, "bins mels"]:
    """Return triangles of area 1 that are straight lines in Hz, on Slaney's mel scale.

    After Slaney, Auditory Toolbox, 1998.
    """
    lowest, highest = hz_to_slaney(np.array([f_min, f_max]))
    edges = slaney_to_hz(np.linspace(lowest, highest, n_mels + 2))
    bins = np.arange(n_fft // 2 + 1) * (rate / n_fft)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (right - left))
    filters.setflags(write=False)
    return np.asarray(filters)


def hz_to_slaney(hz: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Return frequencies on Slaney's mel scale.

    >>> hz_to_slaney(np.array([500.0, 1000.0, 6400.0])).round(6).tolist()
    [7.5, 15.0, 42.0]
    """
    above = KNEE_MEL + np.log(np.maximum(hz, KNEE_HZ) / KNEE_HZ) / PER_MEL
    return np.where(hz < KNEE_HZ, hz / HZ_PER_MEL, above)


def slaney_to_hz(mel: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Return the inverse of `hz_to_slaney`."""
    above = KNEE_HZ * np.exp(PER_MEL * (np.maximum(mel, KNEE_MEL) - KNEE_MEL))
    return np.where(mel < KNEE_MEL, mel * HZ_PER_MEL, above)
