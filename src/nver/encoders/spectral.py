"""The weight-free encoder ``spectral``: what a sound is made of, over frequency.

Frames of 25 ms every 10 ms at 16 kHz. The clip is first brought to a peak of 1, and bands are given
relative to the clip's own mean level: only the ``loudness_*`` columns know how loud the recording
was, every other column is the same for any gain. Means and deviations over time weigh each frame by
its loudness (power to the 0.3), so that the pauses and the room count for little.

Groups of columns (``feature_names`` lists every one); the size of deltas is their root mean square:

- ``mel<b>``: 40 mel bands from 50 Hz to 8 kHz in dB: mean (less the mean over all bands), standard
  deviation, size of the deltas. S. Davis and P. Mermelstein, IEEE Trans. ASSP 28(4), 1980; deltas
  after S. Young et al., The HTK Book.
- ``mfcc<k>``: cepstral coefficients 1 to 19: standard deviation and size of the deltas (the means
  are linear in the mel means and would say nothing new); of 0 to 11 the cosine transform over the
  clip's active span, terms 1 to 4: how energy and timbre develop. The span runs from the first to
  the last frame no more than 25 dB under the loudest.
- ``together<b>-<c>``: correlation over time of eight broad bands' levels, pair by pair: whether the
  sound swells as a whole or moves in frequency. J. McDermott and E. Simoncelli, Neuron 71(5), 2011.
- ``centroid``, ``spread``, ``skewness``, ``kurtosis`` (logarithm), ``rolloff<25|50|75|90>``, on an
  octave scale around 1 kHz; ``slope`` (nepers an octave); ``flatness<b>`` in seven mel bands;
  ``flux``: mean, standard deviation, size of the deltas. G. Peeters, IRCAM, 2004.
- ``contrast<b>``: peaks over valleys in seven bands (nepers): mean. D.-N. Jiang et al., ICME 2002.
- ``level_*``, ``seconds_*``: the temporal envelope: moments and quantiles of the level under its
  maximum, share of active frames, centre and width of the energy over time, mean step; logarithms
  of durations.
- ``loudness_*``: peak, loudest frame and mean power in dB against full scale.

Good on one sound at a time; a steady background shifts the deviations. Each clip is measured alone,
so batching cannot change a number.
"""

from __future__ import annotations

from functools import cache, cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, Float64

from nver.audio import RESAMPLER
from nver.encoders.base import EncoderCard
from nver.encoders.contours import (
    Contour,
    Contours,
    Functionals,
    active,
    deltas,
    loudness,
    named,
    span,
    spread,
    weighted,
)
from nver.encoders.frames import (
    FLOOR,
    RATE,
    cosines,
    decibels,
    frozen,
    mel_means,
    normalised,
    power_spectra,
)
from nver.encoders.weight_free import WeightFreeEncoder
from nver.shapes import Mono

LENGTH = 400  # samples of a frame: 25 ms
BINS = 257  # a 512-point FFT
BANDS = 40
BROAD = 8  # broad bands of five mel bands each, for what moves together
CEPSTRA = 20
DEVELOPING = 12  # cepstra whose course over the clip is described
SPAN = 80.0  # dB from the loudest band value down to a mel band's floor
EDGES = (50, 200, 400, 800, 1600, 3200, 6400, 8000)  # Hz, of the contrast's bands
ROLLOFF = (0.25, 0.50, 0.75, 0.90)
FLATNESS = tuple(f"flatness{band}" for band in range(7))
CONTRAST = tuple(f"contrast{band}" for band in range(7))
SHAPE = (
    *("centroid", "spread", "skewness", "kurtosis"),
    *(f"rolloff{round(100 * part)}" for part in ROLLOFF),
    "slope",
    *FLATNESS,
    "flux",
)
Spectra = Float32[np.ndarray, "frames bins"]
Rows = Float32[np.ndarray, "rows frames"]


class SpectralEncoder(WeightFreeEncoder):
    """Functionals of log-mel bands, MFCCs, spectral shape and the temporal envelope."""

    @cached_property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return EncoderCard(
            name="spectral",
            summary="Log-mel, MFCC, spectral shape and envelope functionals; no weights.",
            dim=len(self.feature_names),
            rate=RATE,
            modality="weight-free",
            pooling="loudness-weighted functionals",
            licence="Apache-2.0",
            citation=(
                "S. Davis and P. Mermelstein, Comparison of parametric representations for "
                "monosyllabic word recognition, IEEE Trans. ASSP 28(4), 1980; "
                "G. Peeters, A large set of audio features for sound description, IRCAM, 2004"
            ),
            revision="1",
            facts={"resampler": RESAMPLER},
        )

    def functionals(self, samples: Mono) -> Functionals:
        """Return the named numbers of one clip; the module's description says what they are."""
        samples, peak = normalised(samples)
        blocks = [_describe(power) for power in power_spectra(samples, LENGTH, BINS)]
        energy, bands, shape, contrast = (
            np.concatenate(part, axis=-1) for part in zip(*blocks, strict=True)
        )
        energy = energy.astype(np.float64)
        level, weight = decibels(energy, SPAN), loudness(energy)
        on = active(level)
        mels = decibels(bands, SPAN).astype(np.float64)
        shape = np.concatenate([shape, _flux(bands)]).astype(np.float64)
        return (
            _mel(mels, weight)
            | _cepstral(cosines(CEPSTRA, BANDS) @ mels, weight, on)
            | _together(mels, weight)
            | weighted(SHAPE, shape, weight)
            | named(SHAPE, "delta", _size(deltas(shape), weight))
            | named(CONTRAST, "mean", contrast.astype(np.float64) @ weight)
            | _envelope(level, energy, on)
            | _loudness(energy, peak)
        )


def _describe(power: Spectra) -> tuple[np.ndarray, ...]:
    """Return energy [frames], and mel bands, shape (less flux) and contrast [rows, frames]."""
    log_power = np.log(np.maximum(power, np.float32(FLOOR)))
    seven = mel_means(len(FLATNESS), BINS)
    flatness = log_power @ seven - np.log(np.maximum(power @ seven, np.float32(FLOOR)))
    slope = log_power @ _slope_weights()
    shape = np.concatenate([_distribution(power), slope[None], flatness.T])
    return power.sum(axis=1), (power @ mel_means(BANDS, BINS)).T, shape, _contrast(log_power)


@cache
def _octaves() -> Float32[np.ndarray, "bins"]:
    """Return the bins' frequencies in octaves above 1 kHz; below 50 Hz counts as 50 Hz."""
    frequency = np.linspace(0.0, RATE / 2, BINS)
    return frozen(np.log2(np.maximum(frequency, 50.0) / 1000.0), np.float32)


@cache
def _powers() -> Float32[np.ndarray, "bins 4"]:
    return frozen(np.stack([_octaves() ** power for power in (1, 2, 3, 4)], axis=1), np.float32)


@cache
def _slope_weights() -> Float32[np.ndarray, "bins"]:
    """Return the weights of the regression line over octaves, every octave counting alike."""
    octave = _octaves().astype(np.float64)
    weight = np.where(octave > octave[0], 2.0**-octave, 0.0)  # bins are 2^octave times as dense
    away = octave - np.average(octave, weights=weight)
    return frozen(weight * away / (weight @ away**2), np.float32)


def _distribution(power: Spectra) -> Rows:
    """Return centroid, spread, skewness, log kurtosis and roll-off points of the power."""
    share = power / np.maximum(power.sum(axis=1, keepdims=True), np.float32(FLOOR))
    # The moments about 1 kHz in one matrix product, then moved to the centroid.
    first, second, third, fourth = (share @ _powers()).T.astype(np.float64)
    variance = np.maximum(second - first**2, 1e-3)
    skewness = (third - 3 * first * second + 2 * first**3) / variance**1.5
    tails = (fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4) / variance**2
    below = np.cumsum(share, axis=1)
    rolloff = [_octaves()[np.minimum((below < part).sum(axis=1), BINS - 1)] for part in ROLLOFF]
    rows = [first, np.sqrt(variance), np.clip(skewness, -5, 5), np.log(np.clip(tails, 1, 100))]
    return np.stack([*rows, *rolloff]).astype(np.float32)


def _contrast(log_power: Spectra) -> Rows:
    """Return how far the strongest fifth of each band's bins lies over its weakest fifth."""
    frequency = np.linspace(0.0, RATE / 2, BINS)
    rows = []
    for low, high in pairwise(EDGES):
        first, last = np.searchsorted(frequency, [low, high])
        ordered = np.sort(log_power[:, first:last], axis=1)
        count = max(1, int(0.2 * ordered.shape[1]))
        rows.append(ordered[:, -count:].mean(axis=1) - ordered[:, :count].mean(axis=1))
    return np.stack(rows)


def _flux(bands: Rows) -> Float32[np.ndarray, "1 frames"]:
    """Return the Hellinger-type distance of each frame's mel distribution from the one before."""
    root = np.sqrt(bands / np.maximum(bands.sum(axis=0), np.float32(FLOOR)))
    steps = np.sqrt(((root[:, 1:] - root[:, :-1]) ** 2).sum(axis=0))
    return np.concatenate([np.zeros(1, dtype=np.float32), steps])[None]


def _size(values: Contours, weight: Contour) -> Float64[np.ndarray, "rows"]:
    """Return the root mean square of each row."""
    return np.asarray(np.sqrt(values**2 @ weight))


def _mel(mels: Contours, weight: Contour) -> Functionals:
    names = [f"mel{band:02d}" for band in range(BANDS)]
    relative = mels - (mels @ weight).mean()
    changes = _size(deltas(mels), weight)
    return weighted(names, relative, weight) | named(names, "delta", changes)


def _cepstral(cepstra: Contours, weight: Contour, on: Bool[np.ndarray, "frames"]) -> Functionals:
    names = [f"mfcc{order:02d}" for order in range(CEPSTRA)]
    away = cepstra - (cepstra @ weight)[:, None]
    found = named(names[1:], "sd", _size(away, weight)[1:])
    found |= named(names[1:], "delta", _size(deltas(cepstra), weight)[1:])
    begin, end = span(on)
    course = cepstra[:DEVELOPING, begin:end]
    terms = course @ cosines(5, course.shape[1]).T / np.sqrt(course.shape[1])
    for term in range(1, 5):
        found |= named(names[:DEVELOPING], f"dct{term}", terms[:, term])
    return found


def _together(mels: Contours, weight: Contour) -> Functionals:
    broad = mels.reshape(BROAD, BANDS // BROAD, -1).mean(axis=1)
    away = broad - (broad @ weight)[:, None]
    # Half a dB more than measured: the noise of a band that never moves correlates with nothing.
    away /= _size(away, weight)[:, None] + 0.5
    product = (away * weight) @ away.T
    return {
        f"together{one}-{two}": float(product[one, two])
        for one in range(BROAD)
        for two in range(one + 1, BROAD)
    }


def _envelope(level: Contour, energy: Contour, on: Bool[np.ndarray, "frames"]) -> Functionals:
    begin, end = span(on)
    time = np.linspace(0.0, 1.0, level.size) if level.size > 1 else np.zeros(1)
    share = (energy + FLOOR) / (energy + FLOOR).sum()
    centre = float(share @ time)
    steps = np.abs(np.diff(level)) if level.size > 1 else np.zeros(1)
    return spread("level", level - level.max(), empty=0.0) | {
        "level_active": float(on.mean()),
        "level_centre": centre,
        "level_width": float(np.sqrt(share @ (time - centre) ** 2)),
        "level_step_mean": float(steps.mean()),
        "seconds_log": float(np.log(level.size / 100.0)),
        "seconds_active_log": float(np.log((end - begin) / 100.0)),
        "seconds_before_log": float(np.log1p(begin / 100.0)),
    }


def _loudness(energy: Contour, peak: float) -> Functionals:
    """Return dB against full scale, not below -100."""
    full = 20.0 * np.log10(max(peak, 1e-5))
    # One side of the spectrum sums to (BINS - 1) times the mean square (Parseval).
    powers = {"max": energy.max() / (BINS - 1), "mean": energy.mean() / (BINS - 1)}
    levels = {key: full + 10.0 * float(np.log10(max(p, FLOOR))) for key, p in powers.items()}
    return {"loudness_peak": full} | {
        f"loudness_{key}": max(level, -100.0) for key, level in levels.items()
    }
