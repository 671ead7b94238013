"""Log-mel spectrograms, the input of most audio networks.

Power spectrogram by a short-time Fourier transform, summed in triangular bands that are equally
wide on the mel scale, then the logarithm. The two traditions differ in where the triangles are
straight lines: in Hz (HTK, and torchaudio's `MelSpectrogram`) or in mel (Kaldi).

All runs in float64 in numpy and is rounded to float32 at the end: in float32 the quiet bands carry
rounding errors of the transform (up to 3e-4 in the logarithm) that differ between libraries.

Good for networks trained on centred, reflected frames. Kaldi's own framing (no centring, offset and
pre-emphasis per frame) is another front end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy.fft
from jaxtyping import Float32, Float64

from nver.shapes import Mono

Triangles = Literal["hz", "mel"]

# Frames transformed at a time: bounds the memory of an hour-long clip.
FRAMES_AT_ONCE = 4096


def hz_to_mel(hz: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Return 1127 ln(1 + f / 700), the mel scale of HTK and Kaldi (O'Shaughnessy 1987)."""
    return np.asarray(1127.0 * np.log1p(hz / 700.0))


def mel_to_hz(mel: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Return 700 (exp(m / 1127) - 1), the inverse of `hz_to_mel`."""
    return np.asarray(700.0 * np.expm1(mel / 1127.0))


@lru_cache(maxsize=32)
def mel_filters(
    rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float, triangles: Triangles
) -> Float64[np.ndarray, "bins mels"]:
    """Return the triangular filters [n_fft // 2 + 1, n_mels], peak 1, no area normalisation.

    Parameters
    ----------
    rate : int
        Sampling rate in Hz.
    n_fft : int
        Length of the Fourier transform in samples.
    n_mels : int
        Number of bands; their edges are equally spaced in mel.
    f_min, f_max : float
        Lowest and highest edge in Hz.
    triangles : {"hz", "mel"}
        Where the flanks are straight lines: in Hz (HTK) or in mel (Kaldi).
    """
    lowest, highest = hz_to_mel(np.array([f_min, f_max]))
    edges_mel = np.linspace(lowest, highest, n_mels + 2)
    bins_hz = np.arange(n_fft // 2 + 1) * (rate / n_fft)
    bins, edges = (
        (bins_hz, mel_to_hz(edges_mel)) if triangles == "hz" else (hz_to_mel(bins_hz), edges_mel)
    )
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    filters: np.ndarray = np.maximum(0.0, np.minimum(rising, falling))
    filters.setflags(write=False)
    return filters


@lru_cache(maxsize=32)
def hann(length: int, periodic: bool) -> Float64[np.ndarray, "length"]:
    """Return the Hann window: periodic for Fourier analysis, or symmetric."""
    phase = 2.0 * np.pi * np.arange(length) / (length if periodic else length - 1)
    window = 0.5 - 0.5 * np.cos(phase)
    window.setflags(write=False)
    return window


@dataclass(frozen=True)
class LogMel:
    """A log-mel front end: ``ln(mel power + floor)``.

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
    floor : float
        Added to the power before the logarithm.
    triangles : {"hz", "mel"}
        See `mel_filters`.
    periodic : bool
        Whether the Hann window is periodic.
    preemphasis : float
        y[t] = x[t + 1] - preemphasis x[t], one sample shorter; 0 for none.
    """

    rate: int
    n_fft: int
    win_length: int
    hop_length: int
    n_mels: int
    f_min: float
    f_max: float
    floor: float
    triangles: Triangles
    periodic: bool = True
    preemphasis: float = 0.0

    def frames(self, samples: int) -> int:
        """Return how many frames a clip of so many samples has."""
        return 1 + (samples - (self.preemphasis != 0.0)) // self.hop_length

    def __call__(self, samples: Mono) -> Float32[np.ndarray, "mels frames"]:
        """Return the log-mel spectrogram.

        Parameters
        ----------
        samples : float32 [samples]
            One channel at `rate`, longer than ``n_fft // 2`` samples (the reflected edge).
        """
        signal = samples.astype(np.float64)
        if self.preemphasis:
            signal = signal[1:] - self.preemphasis * signal[:-1]
        padded = np.pad(signal, self.n_fft // 2, mode="reflect")
        # The window is zero outside its middle part, and a shift does not change the power: so only
        # the middle part of each frame is taken.
        start = (self.n_fft - self.win_length) // 2
        stop = padded.size - (self.n_fft - self.win_length - start)
        frames = np.lib.stride_tricks.sliding_window_view(padded[start:stop], self.win_length)
        frames = frames[:: self.hop_length]
        mel = np.concatenate(
            [
                self._mel_power(frames[first : first + FRAMES_AT_ONCE])
                for first in range(0, len(frames), FRAMES_AT_ONCE)
            ]
        )
        return np.log(mel.T + self.floor).astype(np.float32, order="C")

    def _mel_power(
        self, frames: Float64[np.ndarray, "frames window"]
    ) -> Float64[np.ndarray, "frames mels"]:
        spectrum = scipy.fft.rfft(frames * hann(self.win_length, self.periodic), n=self.n_fft)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        filters = mel_filters(
            self.rate, self.n_fft, self.n_mels, self.f_min, self.f_max, self.triangles
        )
        return np.asarray(power @ filters)
