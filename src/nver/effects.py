"""What happens to a sound on its way: noise, a room, a telephone, a codec, a level, a delay.

Every effect is a function of a clip, how much of it, and a generator of random numbers, and returns
samples [channels, samples] at the clip's rate. They are those of known libraries: libsndfile (MP3
by LAME, G.711), soxr, SciPy and, for the room, pyroomacoustics (image sources). Libraries of random
augmentations draw from the global generators of Python and NumPy, so none is used.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import soundfile
from numpy.random import Generator
from scipy import signal
from scipy.fft import irfft, next_fast_len, rfftfreq

from nver.audio import Waveform
from nver.errors import AudioError
from nver.registry import require
from nver.shapes import Channels, Mono

Effect = Callable[[Waveform, float, Generator], np.ndarray]
"""From a clip, the effect's value and a generator to samples [channels, samples]."""

NOISE_BAND = (50.0, 8000.0)
"""Hz: the same at every rate, so that an SNR means the same for clips of different rates."""

TELEPHONE_BAND, TELEPHONE_RATE = (300.0, 3400.0), 8000

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Rates that MPEG layer III knows, in Hz; a clip of another is resampled to the next one."""

MP3_DELAY = 1105
"""Samples at the encoder's rate: 576 of LAME and 529 of every decoder."""

ROOM = (5.0, 4.0, 3.0)
"""Width, depth and height in m; the speaker stands 2.25 m from the microphone."""

SPEAKER, MICROPHONE = (1.2, 1.4, 1.5), (3.1, 2.6, 1.3)


def noise(waveform: Waveform, snr: float, rng: Generator) -> np.ndarray:
    """Add pink noise; the SNR is that of the whole clip, its mean (DC) not counted."""
    clip = waveform.mono().samples[0].astype(np.float64)
    added = _pink(clip.size, waveform.rate, rng)
    power = clip.var()
    if power <= 0:
        raise AudioError("silence has no signal-to-noise ratio.")
    added *= math.sqrt(power / np.mean(added**2) / 10 ** (snr / 10))
    return np.asarray(waveform.samples + added)


def _pink(samples: int, rate: int, rng: Generator) -> np.ndarray:
    """Return Gaussian noise with a power density of 1/f within `NOISE_BAND`, [samples]."""
    # At least a second, so that a short clip gets noise of every frequency; never a prime length.
    length = next_fast_len(max(samples, rate), real=True)
    hertz = rfftfreq(length, 1 / rate)
    inside = (hertz >= NOISE_BAND[0]) & (hertz <= NOISE_BAND[1])
    spectrum = np.zeros(hertz.size, dtype=np.complex128)
    parts = rng.standard_normal((2, int(inside.sum())))
    spectrum[inside] = (parts[0] + 1j * parts[1]) / np.sqrt(hertz[inside])
    return np.asarray(irfft(spectrum, length)[:samples])


def reverb(waveform: Waveform, seconds: float, _rng: Generator) -> np.ndarray:
    """Convolve with a room's response, the direct sound in its place and the RMS as it was."""
    response, direct = _room(seconds, waveform.rate)
    samples = waveform.samples.astype(np.float64)
    wet = signal.oaconvolve(samples, response[None, :], axes=1)
    wet = wet[:, direct : direct + samples.shape[1]]
    before, after = (float(np.mean(each**2)) for each in (samples, wet))
    return np.asarray(wet * math.sqrt(before / after) if after > 0 else wet)


@lru_cache(maxsize=16)
def _room(seconds: float, rate: int) -> tuple[Mono, int]:
    """Return the response of `ROOM` for a reverberation time, and the sample of its direct sound.

    The walls' absorption is that of Sabine's formula for this T60; the images are summed up to the
    order that it needs (Allen and Berkley 1979, JASA 65).
    """
    pra = require("pyroomacoustics", "perturb")
    absorption, order = pra.inverse_sabine(seconds, ROOM)
    room = pra.ShoeBox(ROOM, fs=rate, materials=pra.Material(absorption), max_order=order)
    room.add_source(SPEAKER)
    room.add_microphone(MICROPHONE)
    room.compute_rir()
    distance = math.dist(SPEAKER, MICROPHONE)
    # pyroomacoustics delays everything by half the length of its fractional-delay filter.
    centre = pra.constants.get("frac_delay_length") // 2
    direct = round(distance / pra.constants.get("c") * rate) + centre
    return np.asarray(room.rir[0][0], dtype=np.float32), direct


def telephone(waveform: Waveform, _value: float, _rng: Generator) -> np.ndarray:
    """Return what a telephone line leaves: 8 kHz, 300 to 3400 Hz, mu-law (ITU-T G.711)."""
    narrow = waveform.resample(TELEPHONE_RATE).samples
    band = signal.butter(4, TELEPHONE_BAND, "bandpass", fs=TELEPHONE_RATE, output="sos")
    narrow = signal.sosfilt(band, narrow.astype(np.float64), axis=1)
    line = _through_file(narrow, TELEPHONE_RATE, format="WAV", subtype="ULAW")
    wide = Waveform(line, TELEPHONE_RATE).resample(waveform.rate).samples
    return _fitted(wide, waveform.samples.shape[1])


def mp3(waveform: Waveform, kilobits: float, _rng: Generator) -> np.ndarray:
    """Encode as MP3 of a constant bit rate and decode again; the codec's delay is taken out.

    Up to two channels share the bit rate; of more, each gets its own stream.
    """
    if waveform.channels > 2:
        alone = (Waveform(channel, waveform.rate) for channel in waveform.samples)
        return np.concatenate([mp3(channel, kilobits, _rng) for channel in alone])
    rate = next((known for known in MP3_RATES if known >= waveform.rate), MP3_RATES[-1])
    least, most = (32, 320) if rate >= 32000 else (8, 160) if rate >= 16000 else (8, 64)
    level = (most - min(kilobits, most)) / (most - least)
    options = {"bitrate_mode": "CONSTANT", "compression_level": min(level, 0.9999)}
    sent = waveform.resample(rate).samples
    heard = _through_file(sent, rate, format="MP3", subtype="MPEG_LAYER_III", **options)
    if heard.shape[1] > sent.shape[1]:  # frames too small for the tag that tells the decoder
        heard = heard[:, MP3_DELAY : MP3_DELAY + sent.shape[1]]
    return _fitted(Waveform(heard, rate).resample(waveform.rate).samples, waveform.samples.shape[1])


def gain(waveform: Waveform, decibels: float, _rng: Generator) -> np.ndarray:
    """Make the clip louder or softer; what exceeds full scale is kept."""
    return np.asarray(waveform.samples * np.float32(10 ** (decibels / 20)))


def clipping(waveform: Waveform, decibels: float, _rng: Generator) -> np.ndarray:
    """Cut everything beyond a level that lies so many dB below the clip's own peak."""
    level = np.abs(waveform.samples).max() * np.float32(10 ** (-decibels / 20))
    return np.asarray(np.clip(waveform.samples, -level, level))


def shift(waveform: Waveform, seconds: float, _rng: Generator) -> np.ndarray:
    """Put silence before the clip: nothing of it is lost, and it becomes so much longer."""
    return np.pad(waveform.samples, ((0, 0), (round(seconds * waveform.rate), 0)))


def _through_file(samples: np.ndarray, rate: int, **options: Any) -> Channels:
    """Return what libsndfile reads back from a file in memory, float32 [channels, samples]."""
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, **options)
    file.seek(0)
    return np.asarray(soundfile.read(file, dtype="float32", always_2d=True)[0].T)


def _fitted(samples: np.ndarray, length: int) -> np.ndarray:
    """Cut or pad by the few samples that resampling or a codec has added or lost."""
    return np.pad(samples, ((0, 0), (0, max(0, length - samples.shape[1]))))[:, :length]
