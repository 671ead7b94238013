"""The fundamental frequency (F0) of a voice, frame by frame, and how periodic each frame is.

After P. Boersma, "Accurate short-term analysis of the fundamental frequency and the
harmonics-to-noise ratio of a sampled sound", IFA Proceedings 17, 1993: the autocorrelation of the
windowed frame over that of the window, a few candidates per frame, "unvoiced" as one more, and the
best path through them. His costs are kept. Three things differ: the range is 60 to 1600 Hz, because
screams and cries go there; only 40 Hz to 4 kHz is used, so that breath over a voice does not hide
it; and a candidate's strength is the lesser of the autocorrelation at its period and at the first
multiple of it that lies 5 ms away or more, because noise through a narrow resonance (a sigh, a
whistle of breath) repeats once, and a voice many times.

Good on one voice at a time. Of two voices the stronger is followed; creak below 60 Hz is unvoiced
or doubled. All frames at once, but for the path, which is a loop over frames. Not an encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from scipy import fft

from nver.encoders.frames import RATE, frozen, unit_window

LOWEST, HIGHEST = 60.0, 1600.0  # Hz
WINDOW = 800  # samples: 50 ms, three periods of the lowest F0
POINTS = 1200  # FFT length: WINDOW and the longest lag, at least; 2^4 3 5^2
BINS = POINTS // 2 + 1
RUMBLE, BAND = 3, 300  # bins used: 40 Hz to 4 kHz
SHORTEST, LONGEST = 10, 268  # lags in samples, HIGHEST to LOWEST
TAPS = 4  # samples on either side that interpolate between lags
LAGS = LONGEST + TAPS + 1
HORIZON = 80  # samples: 5 ms
CANDIDATES = 5
SILENCE, VOICING = 0.03, 0.45
CROWDING_COST = 0.05
OCTAVE_COST, JUMP_COST, SWITCH_COST = 0.01, 0.35, 0.14
Frequencies = Float64[np.ndarray, "frames candidates"]


@dataclass(frozen=True, eq=False)
class PitchTrack:
    """F0 and periodicity over the frames of a clip.

    Parameters
    ----------
    f0 : float64 [frames]
        Hz; 0 where unvoiced.
    strength : float64 [frames]
        Normalised autocorrelation in [0, 1]: at the chosen period where voiced, at the best one
        where not. 1 is periodic, 0 is noise.
    """

    f0: Float64[np.ndarray, "frames"]
    strength: Float64[np.ndarray, "frames"]

    @property
    def voiced(self) -> Bool[np.ndarray, "frames"]:
        """Where there is an F0."""
        return self.f0 > 0

    @property
    def semitones(self) -> Float64[np.ndarray, "frames"]:
        """F0 in semitones above 220 Hz; 0 where unvoiced."""
        return np.where(
            self.voiced, 12.0 * np.log2(np.where(self.voiced, self.f0, 220.0) / 220.0), 0.0
        )

    @property
    def harmonicity(self) -> Float64[np.ndarray, "frames"]:
        """Harmonics-to-noise ratio in dB, ``10 log10(r / (1 - r))``, within -30 to 40 (eq. 4)."""
        strength = np.clip(self.strength, 1e-3, 1.0 - 1e-4)
        return np.asarray(10.0 * np.log10(strength / (1.0 - strength)))


@cache
def _own() -> Float32[np.ndarray, "lags"]:
    """Return the autocorrelation of the window itself, 1 at lag 0."""
    found = np.correlate(unit_window(WINDOW), unit_window(WINDOW), "full")[WINDOW - 1 :]
    return frozen(found[:LAGS] / found[0], np.float32)


def autocorrelation(
    power: Float32[np.ndarray, "frames bins"],
) -> Float32[np.ndarray, "frames lags"]:
    """Return the normalised autocorrelation of frames, 40 Hz to 4 kHz (Boersma's eq. 9).

    Parameters
    ----------
    power : float32 [frames, 601]
        Power spectra of windowed frames (``power_spectra(samples, WINDOW, BINS)``).

    Returns
    -------
    float32 [frames, 273]
        Lags 0 to 272 samples; 1 at lag 0, all 0 for a silent frame.
    """
    band = power.copy()
    band[:, :RUMBLE] = 0.0
    band[:, BAND:] = 0.0
    found = fft.dct(band, type=1, axis=-1)[:, :LAGS]  # the inverse FFT of what is real and even
    return np.asarray(found / np.maximum(found[:, :1], np.float32(1e-12)) / _own())


def candidates(correlation: Float32[np.ndarray, "frames lags"]) -> tuple[Frequencies, Frequencies]:
    """Return the frequencies (Hz) and strengths of each frame's best peaks; 0 and 0 where none.

    Peaks are placed between samples by a parabola; below 4 kHz the autocorrelation is sampled at
    four times its own rate, so that the parabola is near enough (0.1 % at 1500 Hz).
    """
    left, mid, right = (correlation[:, step : LONGEST + step] for step in (0, 1, 2))
    peak = (mid > left) & (mid >= right) & (mid > 0)
    peak[:, : SHORTEST - 1] = False
    bend = np.minimum(left - 2 * mid + right, np.float32(-1e-9))
    height = np.where(peak, mid - 0.125 * (left - right) ** 2 / bend, np.float32(-1))
    best = _largest(height - _preference())
    found = np.take_along_axis(peak, best, axis=1)
    before, at, after = (np.take_along_axis(part, best, axis=1) for part in (left, mid, right))
    period = best + 1 + np.clip(_vertex(before, at, after), -0.5, 0.5)
    later = _top(correlation, np.ceil(HORIZON / period) * period)
    strength = np.clip(np.minimum(_top(correlation, period), later), 0.0, 1.0)
    return np.where(found, RATE / period, 0.0), np.where(found, strength, 0.0)


def _largest(scores: Float32[np.ndarray, "frames lags"]) -> Int[np.ndarray, "frames candidates"]:
    """Return the places of each row's largest scores, from the largest; overwrites them."""
    rows = np.arange(len(scores))
    places = np.empty((len(scores), CANDIDATES), dtype=int)
    for rank in range(CANDIDATES):
        places[:, rank] = scores.argmax(axis=1)
        scores[rows, places[:, rank]] = -np.inf
    return places


@cache
def _preference() -> Float32[np.ndarray, "lags"]:
    """Return what a candidate loses for its lag, so that multiples do not crowd out a period."""
    lags = np.arange(1, LONGEST + 1)
    return frozen(CROWDING_COST * np.log2(LOWEST * lags / RATE), np.float32)


def _top(correlation: Float32[np.ndarray, "frames lags"], lag: Frequencies) -> Frequencies:
    """Return the height of the autocorrelation's top nearest to a lag, between samples.

    A parabola tells where the top is; how high it is takes band-limited interpolation.
    """
    near = np.clip(np.rint(lag).astype(int), TAPS, LONGEST)
    rows = np.arange(len(correlation))[:, None]
    left, mid, right = (correlation[rows, near + step] for step in (-1, 0, 1))
    top = near + np.clip(_vertex(left, mid, right), -1.0, 1.0)
    first = np.floor(top).astype(int) - TAPS + 1
    taps = first[..., None] + np.arange(2 * TAPS)
    away = top[..., None] - taps
    weight = np.sinc(away) * (0.5 + 0.5 * np.cos(np.pi * away / TAPS))
    return np.asarray((correlation[rows[..., None], taps] * weight).sum(axis=-1))


def _vertex(left: np.ndarray, mid: np.ndarray, right: np.ndarray) -> Float64[np.ndarray, "..."]:
    """Return where the parabola through three samples has its top, relative to the middle one."""
    bend = np.minimum(left - 2 * mid + right, -1e-9)
    return np.asarray(0.5 * (left - right) / bend, dtype=np.float64)


def best_path(
    frequency: Frequencies, strength: Frequencies, peak: Float[np.ndarray, "frames"]
) -> PitchTrack:
    """Return the cheapest path through the candidates and "unvoiced" (Viterbi; Boersma's eq. 24).

    Parameters
    ----------
    frequency, strength : float64 [frames, candidates]
        What `candidates` gave.
    peak : float [frames]
        Largest amplitude of each frame: quiet frames are more readily unvoiced.
    """
    there = frequency > 0
    octaves = np.log2(np.where(there, frequency, LOWEST) / LOWEST)
    loudness = peak / max(float(peak.max()), 1e-6)
    unvoiced = VOICING + np.maximum(0.0, 2.0 - loudness * (1.0 + VOICING) / SILENCE)
    local = np.where(there, strength + OCTAVE_COST * octaves, -9.0)
    chosen = _viterbi(np.concatenate([local, unvoiced[:, None]], axis=1), _moves(octaves))
    rows, column = np.arange(len(chosen)), np.minimum(chosen, frequency.shape[1] - 1)
    f0 = np.where(chosen < frequency.shape[1], frequency[rows, column], 0.0)
    return PitchTrack(f0, np.where(f0 > 0, strength[rows, column], strength.max(axis=1)))


def _moves(octaves: Frequencies) -> Float64[np.ndarray, "steps from_states to_states"]:
    """Return what each step costs, as a negative gain; the last state is "unvoiced"."""
    steps, count = octaves.shape[0] - 1, octaves.shape[1]
    gain = np.full((steps, count + 1, count + 1), -SWITCH_COST)
    gain[:, :count, :count] = -JUMP_COST * np.abs(octaves[:-1, :, None] - octaves[1:, None, :])
    gain[:, count, count] = 0.0
    return gain


def _viterbi(
    local: Float64[np.ndarray, "frames states"],
    moves: Float64[np.ndarray, "steps states states"],
) -> Int[np.ndarray, "frames"]:
    """Return the states that maximise the sum of local gains and moves."""
    states = np.arange(local.shape[1])
    origin = np.empty(local.shape, dtype=int)
    total = local[0]
    for frame, move in enumerate(moves, start=1):
        arrive = total[:, None] + move
        origin[frame] = arrive.argmax(axis=0)
        total = arrive[origin[frame], states] + local[frame]
    path = np.empty(len(local), dtype=int)
    path[-1] = total.argmax()
    for frame in range(len(local) - 1, 0, -1):
        path[frame - 1] = origin[frame, path[frame]]
    return path
