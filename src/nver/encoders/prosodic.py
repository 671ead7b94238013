"""The weight-free encoder ``prosodic``: how a sound is voiced and how it moves, over time.

The other view beside ``spectral``: pitch, voicing, energy, rhythm, modulation, resonance and voice
quality. Frames of 50 ms every 10 ms at 16 kHz; the clip is first brought to a peak of 1, so that no
column depends on the recording level (``spectral`` has the loudness). The span of a clip runs from
the first to the last active frame (no more than 25 dB under the loudest).

Groups of columns (``feature_names`` lists every one):

- ``f0_*``: F0 in semitones above 220 Hz over voiced frames: moments; sizes of its steps
  (jitter-like) and of their changes; its course over the span, interpolated where unvoiced; its
  modulation spectrum (vibrato, tremor). After Boersma 1993 (`nver.encoders.pitch`). Without any
  voiced frame: 0.
- ``strength_*``, ``voiced_*``, ``pause_*``, ``harmonicity_*``: periodicity; share, number and
  lengths of voiced stretches and of the pauses between them; harmonics-to-noise ratio in dB.
- ``energy_*``: level in dB under its maximum: moments, course, modulation spectrum;
  ``amplitude_*``: the modulation spectrum of the linear amplitude. Laughter swings about five times
  a second (J.-A. Bachorowski et al., JASA 110, 2001).
- ``swing_*``, ``burst_*``, ``onset_*``: the strongest swing between 2 and 12 Hz and how regular it
  is; number, rate, spacing and prominence of bursts; attack and decay.
- ``rough<low>-<high>hz_*``: modulation of the amplitude from 15 to 450 Hz within 128 ms; 30 to 150
  Hz is the roughness of screams (L. Arnal et al., Current Biology 25, 2015).
- ``balance<b>_*``: ten mel bands relative to their mean, over voiced and over unvoiced active
  frames, their courses and the modulation of four broad ones.
- ``formant<n>_*``: peaks of the all-pole envelope in octaves above 1 kHz, their prominence in dB,
  the distance of the second from the first; frames weigh as they are loud, voiced or not (whispers
  and sighs have formants too).
- ``alpha_ratio_*``, ``hammarberg_*``, ``slope_*``, ``cpp_*``, ``h1-h2_*`` and other differences of
  harmonics, ``shimmer_*``: voice quality (F. Eyben et al., GeMAPS, 2016; J. Hillenbrand et al.,
  1994). Jitter and shimmer are taken from frame to frame, not from cycle to cycle: their values are
  not those of Praat.

Good on one voice close to the microphone; music and several voices are measured as if they were
one. Each clip is measured alone, so batching cannot change a number.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy import fft

from nver.audio import RESAMPLER
from nver.encoders.base import EncoderCard
from nver.encoders.contours import (
    FRAME_RATE,
    Contour,
    Contours,
    Functionals,
    active,
    loudness,
    modulation,
    modulation_spectrum,
    moments,
    named,
    peaks,
    runs,
    span,
    spread,
    trend,
    weighted,
)
from nver.encoders.frames import RATE, cosines, decibels, frames, normalised, unit_window
from nver.encoders.voice import (
    BALANCE,
    FORMANTS,
    TILT,
    VoiceFrames,
    analyse,
    harmonic_levels,
)
from nver.encoders.weight_free import WeightFreeEncoder
from nver.shapes import Mono

Flags = Bool[np.ndarray, "frames"]
RANGE = 60.0  # dB from the loudest frame down to the floor of the energy contour
HARMONICS = ("h1-h2", "h2-h4", "h1-h3", "h1-top", "h1-valley", "harmonics-valleys")
THREE = (0.05, 0.5, 0.95)
LARGEST_STEP = 4.0  # semitones in 10 ms: beyond it the tracker jumped, not the voice
F0_EDGES = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 17.0, 22.0, 30.0)  # Hz
ENERGY_EDGES = (
    *(0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0),
    *(8.0, 10.0, 12.0, 15.0, 18.0, 22.0, 28.0, 36.0, 50.0),
)
BAND_EDGES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 18.0, 28.0, 50.0)
BROAD = {"low": (0, 2), "middle": (2, 5), "high": (5, 8), "top": (8, 10)}  # of the ten bands
ROUGH_EDGES = (15, 22, 30, 40, 55, 75, 100, 140, 200, 300, 450)  # Hz
ROUGH_RATE, ROUGH_LENGTH, ROUGH_HOP = 1000, 128, 64  # Hz, samples, samples


class ProsodicEncoder(WeightFreeEncoder):
    """Functionals of pitch, voicing, energy, rhythm, modulation, formants and voice quality."""

    @cached_property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return EncoderCard(
            name="prosodic",
            summary="Pitch, voicing, rhythm, modulation, formant and voice-quality functionals; "
            "no weights.",
            dim=len(self.feature_names),
            rate=RATE,
            modality="weight-free",
            pooling="functionals over the active span",
            licence="Apache-2.0",
            citation=(
                "P. Boersma, Accurate short-term analysis of the fundamental frequency and the "
                "harmonics-to-noise ratio of a sampled sound, IFA Proceedings 17:97-110, 1993; "
                "F. Eyben et al., The Geneva Minimalistic Acoustic Parameter Set (GeMAPS), "
                "IEEE Trans. Affective Computing 7(2):190-202, 2016"
            ),
            revision="3",
            facts={"resampler": RESAMPLER},
        )

    def functionals(self, samples: Mono) -> Functionals:
        """Return the named numbers of one clip; the module's description says what they are."""
        samples, _ = normalised(samples)
        voice = analyse(samples)
        level = decibels(voice.energy, RANGE)
        on = active(level)
        begin, end = span(on)
        voiced = voice.pitch.voiced & on
        best = voiced if voiced.any() else on
        return (
            _f0(voice.pitch.semitones, voiced, begin, end)
            | _voicing(voice, voiced, on)
            | _energy(level[begin:end], voice.energy[begin:end])
            | _bursts(level[begin:end])
            | _roughness(samples)
            | _balance(voice.balance, voiced, on)
            | _formants(voice)
            | _quality(voice, level, voiced, best)
        )


def _steps(name: str, values: Contour, voiced: Flags, order: int) -> Functionals:
    """Return moments of the changes (of their changes: order 2) within voiced stretches."""
    inside = voiced.copy()
    for shift in range(1, order + 1):
        inside[shift:] &= voiced[:-shift]
    size = np.abs(np.diff(values, n=order))[inside[order:]]
    return spread(name, size[size < LARGEST_STEP], empty=0.0, levels=(0.5, 0.95))


def _f0(semitones: Contour, voiced: Flags, begin: int, end: int) -> Functionals:
    where = np.flatnonzero(voiced)
    course = np.zeros(end - begin)
    if where.size:
        course = np.interp(np.arange(begin, end), where, semitones[where])
    return (
        spread("f0", semitones[voiced], empty=0.0)
        | _steps("f0_step", semitones, voiced, 1)
        | _steps("f0_bend", semitones, voiced, 2)
        | trend("f0", course)
        | modulation("f0", course, F0_EDGES)
    )


def _voicing(voice: VoiceFrames, voiced: Flags, on: Flags) -> Functionals:
    begin, end = span(on)
    strength = voice.pitch.strength
    first, last = runs(voiced[begin:end])
    lengths, pauses = (last - first) / FRAME_RATE, (first[1:] - last[:-1]) / FRAME_RATE
    seconds = (end - begin) / FRAME_RATE
    course = cosines(5, end - begin)[1:] @ strength[begin:end] / np.sqrt(end - begin)
    return (
        spread("strength", strength[on], empty=0.0)
        | {f"strength_dct{order}": value for order, value in enumerate(course.tolist(), start=1)}
        | spread("harmonicity", voice.pitch.harmonicity[voiced], empty=-10.0)
        | {
            "voiced_of_span": float(voiced[begin:end].mean()),
            "voiced_of_active": float(voiced[on].mean()),
            "voiced_rate": lengths.size / seconds,
            "voiced_number_log": float(np.log1p(lengths.size)),
            "voiced_length_max": float(lengths.max(initial=0.0)),
            "pause_length_max": float(pauses.max(initial=0.0)),
            "seconds_log": float(np.log(seconds)),
        }
        | spread("voiced_length", lengths, empty=0.0, levels=())
        | spread("pause_length", pauses, empty=0.0, levels=())
    )


def _energy(level: Contour, energy: Contour) -> Functionals:
    amplitude = np.sqrt(energy)
    amplitude = amplitude / max(float(amplitude.mean()), 1e-6)
    frequency, power = modulation_spectrum(amplitude)
    swing = (frequency >= 2.0) & (frequency < 12.0)
    away = level - level.mean()
    # From 80 to 490 ms: the periods of laughing, sobbing and panting.
    lags = range(8, min(50, level.size))
    similar = np.array([away[:-lag] @ away[lag:] for lag in lags] or [0.0])
    similar = similar / max(float(away @ away), 1e-9)
    prominence = power[swing].max() / max(float(power[swing].mean()), 1e-9)
    return (
        spread("energy", level - level.max(), empty=0.0)
        | trend("energy", level)
        | modulation("energy", level, ENERGY_EDGES)
        | modulation("amplitude", amplitude, ENERGY_EDGES, floor=1e-3)
        | {
            "swing_frequency": float(frequency[swing][power[swing].argmax()]),
            "swing_prominence": float(10.0 * np.log10(prominence + 1e-3)),
            "swing_similarity": float(similar.max()),
            "swing_period": float(similar.argmax() + 8) / FRAME_RATE,
            "swing_dissimilarity": float(similar.min()),
        }
    )


def _bursts(level: Contour) -> Functionals:
    smooth = np.convolve(np.pad(level, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    places, prominences = peaks(smooth, 3.0)
    gaps = np.diff(places) / FRAME_RATE
    tops = smooth[places]
    fade = np.polyfit(np.arange(tops.size), tops, 1)[0] if tops.size > 1 else 0.0
    rise = np.maximum(np.diff(level, prepend=level[0]), 0.0)
    top = smooth.max()
    return (
        {
            "burst_number": float(places.size),
            "burst_rate": places.size * FRAME_RATE / level.size,
            "burst_gap_variation": float(gaps.std() / gaps.mean()) if gaps.size else 0.0,
            "burst_gap_min": float(gaps.min()) if gaps.size else 0.0,
            "burst_gap_max": float(gaps.max(initial=0.0)),
            "burst_level_sd": float(tops.std()) if tops.size else 0.0,
            "burst_fade": float(fade),
            "onset_max": float(rise.max()),
            "onset_mean": float(rise.mean()),
            "onset_attack": float(smooth.argmax()) / FRAME_RATE,
            "onset_decay": float(smooth.size - smooth.argmax()) / FRAME_RATE,
        }
        | {f"energy_within_{less}db": float((smooth >= top - less).mean()) for less in (3, 6, 12)}
        | spread("burst_gap", gaps, empty=0.0, levels=())
        | spread("burst_prominence", prominences, empty=0.0, levels=())
    )


def _roughness(samples: Mono) -> Functionals:
    step = RATE // ROUGH_RATE
    whole = samples[: samples.size // step * step].reshape(-1, step)
    envelope = np.sqrt((whole**2).mean(axis=1))
    parts = frames(envelope, ROUGH_LENGTH, ROUGH_HOP)
    mean = parts.mean(axis=1, keepdims=True)
    keep = mean[:, 0] >= 0.1 * mean.max()
    relative = parts[keep] / np.maximum(mean[keep], np.float32(1e-5)) - 1
    points = 2 * ROUGH_LENGTH
    power = np.abs(fft.rfft(relative * unit_window(ROUGH_LENGTH), n=points, axis=-1)) ** 2
    frequency = np.fft.rfftfreq(points, 1.0 / ROUGH_RATE)
    edges = list(pairwise(ROUGH_EDGES))
    inside = [(frequency >= low) & (frequency < high) for low, high in edges]
    rows = np.stack([power[:, band].mean(axis=1) for band in inside]).astype(np.float64)
    names = [f"rough{low}-{high}hz" for low, high in edges]
    return moments(names, 10.0 * np.log10(rows + 1e-3), (0.9,))


def _balance(bands: Contours, voiced: Flags, on: Flags) -> Functionals:
    names = [f"balance{band}" for band in range(BALANCE)]
    relative = bands - bands.mean(axis=0)
    begin, end = span(on)
    course = np.maximum(bands[:, begin:end], bands.max() - RANGE)
    terms = course @ cosines(4, end - begin).T / np.sqrt(end - begin)
    found: Functionals = {}
    for suffix, where in (("voiced", voiced), ("unvoiced", on & ~voiced)):
        part = relative[:, where if where.any() else on]
        found |= moments([f"{name}_{suffix}" for name in names], part)
    for term in (1, 2, 3):
        found |= named(names, f"dct{term}", terms[:, term])
    for name, (first, last) in BROAD.items():
        broad = course[first:last].mean(axis=0)
        found |= modulation(f"balance_{name}", np.maximum(broad, broad.max() - 50.0), BAND_EDGES)
    return found


def _formants(voice: VoiceFrames) -> Functionals:
    weight = loudness(voice.energy)
    octaves = np.log2(voice.formants / 1000.0)
    found: Functionals = {}
    for number in range(FORMANTS):
        name = f"formant{number + 1}"
        rows = np.stack([octaves[number], voice.prominence[number]])
        # A uniform tube of 17 cm resonates at 500, 1500, 2500 and 3500 Hz.
        neutral = np.array([np.log2(number + 0.5), 0.0])
        found |= _where_defined([name, f"{name}_prominence"], rows, weight, neutral)
    apart = (octaves[1] - octaves[0])[None]
    return found | _where_defined(["formant2-1"], apart, weight, np.log2([3.0]))


def _where_defined(
    names: list[str], rows: Contours, weight: Contour, neutral: Float[np.ndarray, "rows"]
) -> Functionals:
    there = np.isfinite(rows[0])
    if not there.any():
        return weighted(names, neutral[:, None], np.ones(1))
    return weighted(names, rows[:, there], weight[there] / weight[there].sum())


def _quality(voice: VoiceFrames, level: Contour, voiced: Flags, best: Flags) -> Functionals:
    found = moments(TILT, voice.tilt[:, best])
    found |= spread("cpp", voice.cepstral_peak[active(level)], empty=0.0)
    found |= spread("cpp_voiced", voice.cepstral_peak[best], empty=0.0, levels=())
    found |= moments(HARMONICS, _harmonics(voice, voiced), THREE)
    return found | _steps("shimmer", level, voiced, 1)


def _harmonics(voice: VoiceFrames, voiced: Flags) -> Float64[np.ndarray, "differences voiced"]:
    """Return differences in dB in the order of `HARMONICS`; zeros where no frame is voiced."""
    if not voiced.any():
        return np.zeros((len(HARMONICS), 1))
    one, two, three, four, half, between, second = harmonic_levels(
        voice, (1, 2, 3, 4, 0.5, 1.5, 2.5)
    )[:, voiced[voice.pitch.voiced]]
    over = (one + two + three - half - between - second) / 3.0
    top = voice.spectrum[voiced].max(axis=1)
    return np.stack([one - two, two - four, one - three, one - top, one - between, over])
