"""What was heard: waveforms, how they are read from files, and what is refused.

Files are decoded by libsndfile (WAV of 8 to 32 bit, float and mu-law, FLAC, OGG, Opus, MP3, AIFF).
What libsndfile refuses goes to FFmpeg through PyAV where the extra ``media`` is installed (M4A,
AAC, MP4, WebM, AMR). Either gives the native channels at the native rate as float32; the mean over
channels and the resampling are done here, the same for both, because FFmpeg's own downmix is not
the mean and its default resampler aliases.

What happens to unusual files:

- peaks above 1 (MP3 overshoot, float WAV): kept, never clipped;
- truncated files: what still decodes is kept; where nothing does (most M4A) the file is refused;
- the name's ending is ignored: an MP3 named ``.wav`` is an MP3;
- empty files, text, no audio track, no samples, NaN or infinity: `AudioError`, which says which;
- silence and constant (DC-only) signals are waveforms like any other, and encoders take them;
  `check_audible` refuses them where a corpus is read.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import soxr

from nver.errors import AudioError, MissingExtraError
from nver.registry import require
from nver.shapes import Channels, Embedding

RESAMPLER = f"soxr-HQ/{soxr.__version__}"
"""Name and version of the one resampler; part of the fingerprint of an encoder."""

RATES = (1_000, 768_000)
"""Rates in Hz that a file may claim; beyond them its header is wrong."""

SILENCE = 2.0**-15
"""Peak-to-peak range up to which a clip counts as silent: one step of 16-bit audio (-90 dBFS)."""

NEAR_IDENTICAL = 0.98
"""Cosine of two thumbprints from which two clips count as the same recording.

``bench/thumbprint.py`` on EmoGator: none of 1,619,100 pairs of different clips reaches it (highest
.973; median of two takes of one speaker and class .48). All copies through 75 kbit/s MP3, 8 kHz
mu-law, 16 kHz, gain or added silence do, 99 % of those through Vorbis, Opus or the lowest MP3
quality, 93 % of those clipped by 6 dB.
"""

PRINT_RATE = 8000
"""Rate in Hz at which thumbprints are taken: every clip has the band below 4 kHz."""

# FFmpeg's demuxers of media files only. Others (HLS playlists, ffconcat scripts) open further files
# and addresses that the content names, which no audio file may do.
MEDIA_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,amr,amrnb,amrwb,asf,caf,flv,avi,"
    "mpeg,mpegts,mp3,ogg,flac,wav,w64,aiff,au,ac3,eac3,wv,ape,tta"
)


@dataclass(frozen=True, eq=False, init=False)
class Waveform:
    """Audio samples with their rate.

    Parameters
    ----------
    samples : float [samples] or [channels, samples]
        Full scale is 1; values beyond it are kept. Stored as float32 [channels, samples].
    rate : int
        Sampling rate in Hz.

    Raises
    ------
    AudioError
        If there are no samples, NaN or infinite ones, or integers; if the shape is none of the two
        or the rate is not a positive whole number.

    Examples
    --------
    >>> tone = Waveform(np.sin(np.arange(8000) / 5).astype(np.float32), 16000)
    >>> tone.seconds, tone.channels, tone.resample(8000).samples.shape
    (0.5, 1, (1, 4000))
    """

    samples: Channels
    rate: int

    def __init__(self, samples: np.ndarray, rate: int) -> None:
        samples = np.asarray(samples)
        if samples.ndim not in (1, 2):
            shape = list(samples.shape)
            raise AudioError(f"A waveform is [samples] or [channels, samples], this is {shape}.")
        if not np.issubdtype(samples.dtype, np.floating):
            raise AudioError(
                f"A waveform is floating point with full scale 1, this is {samples.dtype}. "
                "Divide integer samples by their full scale (16-bit: samples / 32768)."
            )
        if samples.size == 0:
            raise AudioError("A waveform needs at least one sample, this has none.")
        if int(rate) != rate or rate < 1:
            raise AudioError(f"A sampling rate is a whole number of Hz from 1, not {rate}.")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite: refused below
            samples = np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float32)
        finite = np.isfinite(samples).all(axis=0)
        if not finite.all():
            raise AudioError(
                f"A waveform is finite, this has {np.count_nonzero(~finite)} samples that are NaN "
                f"or infinite, the first at {np.argmin(finite) / rate:.3f} s."
            )
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "rate", int(rate))

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return int(self.samples.shape[1]) / self.rate

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.samples.shape[0])

    def mono(self, channels: Literal["mean", "first"] = "mean") -> Waveform:
        """Return one channel: the mean of all, or the first."""
        if self.channels == 1:
            return self
        if channels == "first":
            return Waveform(self.samples[:1], self.rate)
        return Waveform(self.samples.mean(axis=0, dtype=np.float64), self.rate)

    def resample(self, rate: int) -> Waveform:
        """Return the waveform at another rate in Hz, band-limited (soxr HQ; stop band -140 dB)."""
        if rate == self.rate:
            return self
        # A clip shorter than one output sample would vanish: it is padded to that one sample.
        missing = max(0, math.ceil(self.rate / rate) - self.samples.shape[1])
        padded = np.pad(self.samples, ((0, 0), (0, missing)))
        return Waveform(soxr.resample(padded.T, self.rate, rate, quality="HQ").T, rate)

    def slice(self, start: float, stop: float) -> Waveform:
        """Return the part from `start` to `stop`, in seconds; what lies beyond the end is absent.

        Raises
        ------
        AudioError
            If no sample lies between them.
        """
        first, last = max(0, round(start * self.rate)), max(0, round(stop * self.rate))
        part = self.samples[:, first:last]
        if part.shape[1] == 0:
            raise AudioError(
                f"No sample lies between {start:g} and {stop:g} s: "
                f"the clip lasts {self.seconds:g} s."
            )
        return Waveform(part, self.rate)

    def digest(self) -> str:
        """Return the SHA-256 (hex) of rate, shape and samples: the identity of the decoded clip."""
        header = f"{self.rate} {self.samples.shape[0]} {self.samples.shape[1]}\n".encode()
        return hashlib.sha256(header + self.samples.astype("<f4", copy=False).tobytes()).hexdigest()


def load(path: Path | str) -> Waveform:
    """Return a file as a waveform, at its own rate and with its own channels.

    Raises
    ------
    AudioError
        If it cannot be read or decoded, or holds no samples, NaN or infinity.
    """
    return decode(read(path), str(path))


def read(path: Path | str) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    AudioError
        If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AudioError(f"Cannot read {path}: {error.strerror or error}.") from error


def decode(data: bytes, name: str) -> Waveform:
    """Return the bytes of an audio file as a waveform, at its own rate and with its own channels.

    Parameters
    ----------
    data : bytes
        The whole file.
    name : str
        What to call it in messages; not used to guess the format.

    Raises
    ------
    AudioError
        If no decoder takes it, or it holds no samples, NaN or infinity.
    """
    if not data:
        raise AudioError(f"Cannot decode {name}: the file is empty (0 bytes).")
    try:
        samples, rate = _by_libsndfile(data)
    except soundfile.LibsndfileError as error:
        samples, rate = _by_ffmpeg(data, name, refusal=str(error.error_string).rstrip("."))
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(
            f"{name} claims a rate of {rate} Hz; sound has {RATES[0]} to {RATES[1]} Hz."
        )
    if samples.size == 0:
        raise AudioError(f"{name} holds no samples.")
    try:
        return Waveform(samples, rate)
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from error


@cache
def decoder() -> str:
    """Return the names and versions of the decoders; what they gave is stored under it."""
    try:
        ffmpeg = version("av")
    except PackageNotFoundError:
        ffmpeg = "absent"
    return f"libsndfile/{soundfile.__libsndfile_version__} av/{ffmpeg}"


def check_audible(waveform: Waveform, name: str) -> None:
    """Refuse a clip in which nothing can be heard.

    A clip is silent when the mean of its channels varies by no more than `SILENCE`: a constant
    offset is silence, a sound on an offset is not. EmoGator's quietest clip (-71 dBFS) passes.

    Raises
    ------
    AudioError
        If it is silent; the message says in which way.
    """
    if np.ptp(waveform.mono().samples) > SILENCE:
        return
    if np.ptp(waveform.samples, axis=1).max() > SILENCE:
        raise AudioError(f"{name} is silent as a mean of channels: they cancel each other.")
    offset = float(waveform.samples[0, 0])
    if abs(offset) > SILENCE:
        raise AudioError(f"{name} holds nothing but a constant offset of {offset:.4g}.")
    raise AudioError(f"{name} is silent.")


@dataclass(frozen=True, eq=False)
class ClipFacts:
    """What is known of a clip once it has been decoded.

    Parameters
    ----------
    digest : str
        `Waveform.digest`: the identity of the decoded clip.
    seconds : float
        Duration.
    rate : int
        Native sampling rate in Hz.
    channels : int
        Native number of channels.
    peak : float
        Largest absolute sample in dBFS: above 0 where the file exceeds full scale, -inf for zeros.
    thumbprint : float32 [256]
        See `thumbprint`.
    """

    digest: str
    seconds: float
    rate: int
    channels: int
    peak: float
    thumbprint: Embedding


def measure(waveform: Waveform) -> ClipFacts:
    """Return the facts of a decoded clip."""
    largest = float(np.abs(waveform.samples).max())
    return ClipFacts(
        digest=waveform.digest(),
        seconds=waveform.seconds,
        rate=waveform.rate,
        channels=waveform.channels,
        peak=20 * math.log10(largest) if largest > 0 else -math.inf,
        thumbprint=thumbprint(waveform),
    )


def thumbprint(waveform: Waveform) -> Embedding:
    """Return a small print of what a clip sounds like, to find the same recording again.

    The energy of 16 mel bands (100 to 3700 Hz) in 16 equal slices of time, in dB over a floor 50 dB
    below the loudest, its mean removed. The slices span the part that holds the
    middle 98 % of the energy, so added silence and codec delay do not matter, and gain, rate and
    channel count do not either.

    The print has length 1, so a scalar product of two is their cosine (see `NEAR_IDENTICAL`); it is
    all zeros for a silent clip.
    """
    mono = waveform.mono()
    centred = Waveform(mono.samples - mono.samples.mean(dtype=np.float64), mono.rate)
    power = _mel_energy(centred.resample(PRINT_RATE).samples[0].astype(np.float64))
    total = np.concatenate([[0.0], np.cumsum(power.sum(axis=1))])
    if total[-1] <= 0:
        return np.zeros(256, dtype=np.float32)
    steps = np.arange(total.size)
    first, last = np.interp([0.01 * total[-1], 0.99 * total[-1]], total, steps)
    edges = np.linspace(first, last, 17)
    bands = np.cumsum(np.vstack([np.zeros(16), power]), axis=0)
    energy = np.diff(np.stack([np.interp(edges, steps, band) for band in bands.T]), axis=1)
    level = np.log10(np.maximum(energy, 1e-5 * energy.max()))
    level -= level.mean()
    length = float(np.linalg.norm(level))
    return np.asarray(level / length if length > 0 else level, dtype=np.float32).ravel()


def _mel_energy(samples: np.ndarray) -> np.ndarray:
    """Return the energy of frames (32 ms, every 8 ms) in 16 mel bands: [frames, 16]."""
    window, hop = 256, 64
    padded = np.pad(samples, (window // 2, window // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    energy = np.empty((len(frames), 16))
    for first in range(0, len(frames), 4096):  # half a minute at a time: hours must fit in memory
        part = slice(first, first + 4096)
        spectrum = np.fft.rfft(frames[part] * np.hanning(window), axis=1)
        energy[part] = np.abs(spectrum) ** 2 @ _mel_bands(window)
    return energy


@cache
def _mel_bands(window: int) -> np.ndarray:
    """Return 16 triangles, equally spaced in mel between 100 and 3700 Hz: [bins, 16]."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (100.0, 3700.0))
    edges = 700 * (10 ** (np.linspace(low, high, 18) / 2595) - 1)
    bins = np.fft.rfftfreq(window, 1 / PRINT_RATE)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rise, fall)))


def _by_libsndfile(data: bytes) -> tuple[np.ndarray, int]:
    """Return what libsndfile decodes: float32 [channels, samples] and the rate."""
    # read(n) until nothing comes: blocks() repeats the last buffer of a truncated MP3 up to the
    # length that its header promises, and read() refuses streams without random access (GSM).
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        blocks = [np.empty((0, file.channels), dtype=np.float32)]
        try:
            while (block := file.read(2**18, dtype="float32", always_2d=True)).size:
                blocks.append(block)
        except soundfile.LibsndfileError:
            if len(blocks) == 1:
                raise
        return np.concatenate(blocks).T, file.samplerate


def _by_ffmpeg(data: bytes, name: str, refusal: str) -> tuple[np.ndarray, int]:
    """Return what FFmpeg decodes: float32 [channels, samples] and the rate."""
    refused = f"Cannot decode {name}: libsndfile says '{refusal}'"
    try:
        av = require("av", "media")
    except MissingExtraError as error:
        extra = "M4A, AAC, MP4 and WebM are read by an extra: pip install 'nver[media]'"
        raise AudioError(f"{refused}. {extra}") from error
    frames, options = list[Any](), {"format_whitelist": MEDIA_FORMATS}
    try:
        with av.open(io.BytesIO(data), options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioError(f"{name} has no audio track.")
            frames.extend(container.decode(audio=0))
    except av.FFmpegError as error:
        if not frames:
            raise AudioError(f"{refused}, FFmpeg says '{error.strerror}'.") from error
    if not frames:
        raise AudioError(f"{name} holds no samples.")
    kinds = {(frame.sample_rate, frame.layout.nb_channels) for frame in frames}
    if len(kinds) > 1:
        raise AudioError(f"{name} changes its rate or channels midway: {sorted(kinds)}.")
    return np.concatenate([_planes(frame) for frame in frames], axis=1), frames[0].sample_rate


def _planes(frame: Any) -> np.ndarray:
    """Return an FFmpeg frame as float [channels, samples] with full scale 1."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        return np.asarray((values.astype(np.float32) - 128) / 128)
    if np.issubdtype(values.dtype, np.integer):
        return np.asarray(values / -float(np.iinfo(values.dtype).min), dtype=np.float32)
    return np.asarray(values, dtype=np.float32)
