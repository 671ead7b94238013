"""Eight vocal bursts as gestures of a synthetic voice: what moves how, drawn anew for every take.

The shapes follow what phoneticians say of the real ones (a laugh is a train of aspirated vowels
some five times a second, a sigh falls and is breathy, a scream is high, loud and rough); the
numbers are nobody's measurements. Weak takes of neighbouring bursts resemble each other on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from nver.corpora.vocal_tract import CONTROL_RATE, Contour, Gesture, Voice

Recipe = Callable[[np.random.Generator, float, float], Gesture]
"""(generator, strength 0 to 1, tempo) -> gesture."""

# a take's mood: log-factors on pitch, noise, F1, F2; shifts of mouth, tension, roughness
_MOOD_FACTORS = np.array([0.15, 0.5, 0.12, 0.12])
_MOOD_SHIFTS = np.array([0.2, 0.2, 0.15])
# how often a take swells and fades, and by which log-factor: without it the long, even bursts of
# all voices would be near copies of each other
_SWELLS, _SWELL = 5, 0.8
# the largest share of another burst in a take: beyond one half it would be more of the other
_BLEND = 0.5


@dataclass(frozen=True)
class Burst:
    """A vocalisation, the emotion it stands for, how it is made, and what it may turn into."""

    vocalisation: str
    emotion: str
    recipe: Recipe
    kin: tuple[str, ...]


def perform(burst: Burst, voice: Voice, strength: float, rng: np.random.Generator) -> Gesture:
    """Return one take of `burst` by `voice`; `strength` from 0 (faint) to 1 (full-blown).

    Real bursts are not pure: each take is blended with one of its kin, by a share drawn between
    nothing and one half, and has a mood that moves everything a little. Without that, a few
    averages would tell the bursts apart without a mistake.
    """
    strength = float(np.clip(strength * voice.expression, 0, 1))
    own = burst.recipe(rng, strength, voice.tempo)
    kin = {other.vocalisation: other for other in BURSTS}[str(rng.choice(burst.kin))]
    other = kin.recipe(rng, strength, voice.tempo)
    return _moody(rng, _blend(own, other, float(rng.uniform(0, _BLEND))))


def _blend(own: Gesture, other: Gesture, share: float) -> Gesture:
    """Return the gesture `share` of the way from `own` to `other`, its duration too."""
    lengths = own.pitch.size, other.pitch.size
    size = round((1 - share) * lengths[0] + share * lengths[1])
    mixed = {
        name: (1 - share) * _path(size, contour) + share * _path(size, getattr(other, name))
        for name, contour in vars(own).items()
    }
    return Gesture(**mixed)


def _moody(rng: np.random.Generator, gesture: Gesture) -> Gesture:
    pitch, noise, f1, f2 = np.exp(rng.standard_normal(4) * _MOOD_FACTORS)
    mouth, tension, roughness = rng.standard_normal(3) * _MOOD_SHIFTS
    swell = np.exp(_path(gesture.pitch.size, rng.standard_normal(_SWELLS) * _SWELL))
    return replace(
        gesture,
        voicing=gesture.voicing * swell,
        pitch=gesture.pitch * pitch,
        noise=gesture.noise * noise * swell,
        f1=gesture.f1 * f1,
        f2=gesture.f2 * f2,
        mouth=np.clip(gesture.mouth + mouth, 0, 1),
        tension=gesture.tension + tension,
        roughness=np.clip(gesture.roughness + roughness, 0, 1),
    )


def laugh(rng: np.random.Generator, strength: float, tempo: float) -> Gesture:
    """Return a train of aspirated vowels, each falling in pitch, the whole dying away."""
    calls = int(rng.integers(2, 5 + round(2 * strength)))
    period = rng.uniform(0.16, 0.32) / tempo
    voiced = rng.choice([0.25, 1.0], p=[0.25, 0.75])  # some laughs are all breath
    size = _size(calls * period + 0.15)
    time = np.arange(size) / CONTROL_RATE
    within = np.clip(time / period % 1, 0, 1)
    alive = time < calls * period
    decay = np.exp(-time / rng.uniform(0.5, 1.2))
    call = np.exp(-(((within - 0.45) / rng.uniform(0.14, 0.2)) ** 2)) * alive
    puff = np.exp(-(((within - 0.12) / 0.12) ** 2)) * alive
    peak = 1.15 + rng.uniform(0.2, 0.7) * strength
    return _gesture(
        rng,
        size,
        pitch=peak * (1 - 0.25 * (within - 0.4)) * (0.75 + 0.25 * decay),
        voicing=voiced * call * decay,
        noise=(0.15 + 0.3 * rng.random()) * puff * decay + 0.2 * (1 - voiced) * call,
        vowel=_vowel(rng, "a", "e"),
        mouth=[0.7],
        tension=[0.1 * strength],
        roughness=[0.1 * rng.random()],
    )


def cry(rng: np.random.Generator, strength: float, tempo: float) -> Gesture:
    """Return one to four wavering, falling sobs, most with an intake of breath before each."""
    sobs = int(rng.integers(1, 5))
    size = _size(rng.uniform(0.9, 1.4) / tempo)
    place = np.linspace(0, sobs, size, endpoint=False) % 1
    waver = np.sin(2 * np.pi * np.cumsum(rng.uniform(5, 9) / CONTROL_RATE * np.ones(size)))
    peak = 1.15 + rng.uniform(0.2, 0.9) * strength
    rise = np.clip((place - 0.2) / 0.12, 0, 1) * np.clip((1 - place) / 0.3, 0, 1)
    return _gesture(
        rng,
        size,
        pitch=peak * (1.1 - 0.35 * place) * (1 + 0.07 * strength * waver),
        voicing=rise * (1 + 0.3 * waver * strength) * np.linspace(1, 0.6, size),
        noise=rng.uniform(0, 0.4) * np.exp(-(((place - 0.1) / 0.08) ** 2)) + 0.08 * rise,
        vowel=_vowel(rng, "e", "@"),
        mouth=[rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.6)],
        tension=[0.15 * strength],
        roughness=[0.1 + 0.3 * rng.random() * strength],
    )


def scream(rng: np.random.Generator, strength: float, tempo: float) -> Gesture:
    """Return a high, loud, tense plateau with a rough middle."""
    size = _size(rng.uniform(0.7, 1.3) / tempo)
    height = 1.5 + rng.uniform(0.6, 1.8) * strength
    return _gesture(
        rng,
        size,
        pitch=_path(size, [0.7 * height, height, rng.uniform(0.9, 1.1) * height, 0.75 * height]),
        voicing=_envelope(size, 0.05, 0.15),
        noise=[0.1, 0.2],
        vowel=_vowel(rng, "a", "i"),
        mouth=[0.7 + 0.3 * strength],
        tension=[0.25 + 0.3 * strength],
        roughness=_path(size, [0.0, 0.7 * rng.random(), 0.2]) * strength,
    )


def sigh(rng: np.random.Generator, strength: float, tempo: float) -> Gesture:
    """Return a long breathy fall, at times after an intake of breath."""
    size = _size(rng.uniform(0.6, 1.5) / tempo)
    start = 1.0 + rng.uniform(0.1, 0.5) * strength
    intake = rng.choice([0.0, 0.3], p=[0.6, 0.4])
    out = size - int(intake * CONTROL_RATE)
    fade = np.pad(_envelope(out, 0.08, 0.7), (size - out, 0))
    breath = np.linspace(0, 1, size) * (np.arange(size) < size - out)
    return _gesture(
        rng,
        size,
        pitch=_path(size, [start, 0.95, 0.75]),
        voicing=fade * rng.uniform(0.15, 0.6),
        noise=fade * (0.15 + 0.35 * strength) + rng.uniform(0.2, 0.8) * breath,
        vowel=_vowel(rng, "a", "@"),
        mouth=[0.6, 0.35],
        tension=[-0.2],
        roughness=[0.05],
    )


def growl(rng: np.random.Generator, strength: float, tempo: float) -> Gesture:
    """Return a low, rough, pressed sound."""
    size = _size(rng.uniform(0.7, 1.4) / tempo)
    level = rng.uniform(0.75, 1.15)
    return _gesture(
        rng,
        size,
        pitch=_path(size, [level, level * rng.uniform(0.95, 1.3), level * 0.85]),
        voicing=_envelope(size, rng.uniform(0.04, 0.2), 0.25) * _swells(rng, size),
        noise=[0.15, 0.15 + 0.2 * strength, 0.1],
        vowel=_vowel(rng, "@", "a"),
        mouth=[rng.uniform(0.25, 0.6), rng.uniform(0.25, 0.7)],
        tension=[0.15 + 0.2 * strength],
        roughness=[0.2, 0.3 + 0.6 * strength, 0.3],
    )


def gasp(rng: np.random.Generator, strength: float, tempo: float) -> Gesture:
    """Return a sharp intake of breath, often with a short rising voice in it or after it."""
    breath = rng.uniform(0.2, 0.4) / tempo
    tail = rng.uniform(0.15, 0.9) / tempo
    size = _size(breath + tail)
    time = np.arange(size) / CONTROL_RATE
    intake = np.clip(time / breath, 0, 1) * (time < breath)
    voiced = np.clip((time - breath) / 0.03, 0, 1) * np.exp(-np.clip(time - breath, 0, None) / tail)
    height = 1.2 + rng.uniform(0.2, 0.9) * strength
    return _gesture(
        rng,
        size,
        pitch=_path(size, [height, 1.3 * height, 0.9 * height]),
        voicing=rng.uniform(0.1, 0.8) * voiced + 0.15 * intake * rng.random(),
        noise=(0.15 + 0.5 * strength) * intake + 0.1 * voiced,
        vowel=_vowel(rng, "o", "a"),
        mouth=[0.4, 0.8],
        tension=[0.0],
        roughness=[0.05],
    )


def moan(rng: np.random.Generator, strength: float, tempo: float) -> Gesture:
    """Return a soft, closed, slowly rising and falling sound."""
    size = _size(rng.uniform(0.9, 1.5) / tempo)
    swell = rng.uniform(0.05, 0.4) * strength
    return _gesture(
        rng,
        size,
        pitch=_path(size, [0.95, 1.0 + swell, 0.85]),
        voicing=_envelope(size, 0.3, 0.4) * _swells(rng, size),
        noise=[0.05 + 0.1 * rng.random()],
        vowel=_vowel(rng, "u", "@"),
        mouth=[rng.uniform(0, 0.35), rng.uniform(0.1, 0.45), 0.1],
        tension=[-0.1],
        roughness=[0.1 * rng.random()],
    )


def groan(rng: np.random.Generator, strength: float, tempo: float) -> Gesture:
    """Return a strained, creaking fall with a hard onset."""
    size = _size(rng.uniform(0.7, 1.4) / tempo)
    start = 1.0 + rng.uniform(0, 0.6) * strength
    return _gesture(
        rng,
        size,
        pitch=_path(size, [start, start * 0.95, 0.7]),
        voicing=_envelope(size, rng.uniform(0.03, 0.1), 0.5) * _swells(rng, size),
        noise=[0.08, 0.15],
        vowel=_vowel(rng, "@", "u"),
        mouth=[rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.4)],
        tension=[0.1 + 0.2 * strength],
        roughness=[0.05, 0.15, 0.3 + 0.4 * strength],
    )


BURSTS: Sequence[Burst] = (
    Burst("laugh", "amusement", laugh, ("cry", "gasp")),
    Burst("growl", "anger", growl, ("groan", "scream")),
    Burst("scream", "fear", scream, ("cry", "growl")),
    Burst("groan", "pain", groan, ("moan", "growl")),
    Burst("moan", "pleasure", moan, ("groan", "sigh")),
    Burst("sigh", "relief", sigh, ("moan", "gasp")),
    Burst("cry", "sadness", cry, ("laugh", "moan")),
    Burst("gasp", "surprise", gasp, ("sigh", "scream")),
)

_VOWELS: Mapping[str, tuple[float, float]] = {
    "a": (750.0, 1250.0),
    "e": (500.0, 1850.0),
    "i": (320.0, 2300.0),
    "o": (480.0, 900.0),
    "u": (320.0, 780.0),
    "@": (500.0, 1450.0),
}
"""First two formants in Hz for a tract of 17.5 cm."""

Values = Float64[np.ndarray, "knots"] | Sequence[float]


def _gesture(
    rng: np.random.Generator,
    size: int,
    vowel: tuple[Sequence[float], Sequence[float]],
    **contours: Values,
) -> Gesture:
    """Return a gesture of `size` steps: a short sequence is a path, pitch drifts a little."""
    paths = {name: _path(size, values) for name, values in contours.items()}
    drift = np.cumsum(rng.standard_normal(size)) * 0.004
    paths["pitch"] = paths["pitch"] * np.exp(drift - np.linspace(0, drift[-1], size))
    edges = _envelope(size, 0.02, 0.04)
    paths["voicing"] = np.clip(paths["voicing"], 0, None) * edges
    paths["noise"] = np.clip(paths["noise"], 0, None) * edges
    return Gesture(f1=_path(size, vowel[0]), f2=_path(size, vowel[1]), **paths)


def _vowel(
    rng: np.random.Generator, first: str, last: str
) -> tuple[Sequence[float], Sequence[float]]:
    """Return paths of F1 and F2 between two vowels, each somewhere near its place."""
    ends = np.array([_VOWELS[first], _VOWELS[last]]) * rng.uniform(0.85, 1.15, (2, 2))
    mix = rng.random()
    ends[1] = mix * ends[1] + (1 - mix) * ends[0]
    return ends[:, 0].tolist(), ends[:, 1].tolist()


def _swells(rng: np.random.Generator, size: int) -> Contour:
    """Return an even level, or two or three swells: a burst may come in several pushes."""
    pushes = int(rng.integers(1, 4))
    depth = 0.0 if pushes == 1 else rng.uniform(0.3, 0.95)
    phase = 2 * np.pi * pushes * np.linspace(0, 1, size)
    return np.asarray(1 - depth * (0.5 + 0.5 * np.cos(phase)))


def _size(seconds: float) -> int:
    return max(40, round(seconds * CONTROL_RATE))


def _path(size: int, values: Values) -> Contour:
    """Return `values` spread evenly over `size` steps, with rounded corners."""
    values = np.asarray(values, dtype=np.float64)
    if values.size == size:
        return values
    return np.interp(np.linspace(0, values.size - 1, size), np.arange(values.size), values)


def _envelope(size: int, attack: float, release: float) -> Contour:
    """Return 0 to 1 to 0; attack in seconds, release as a share of the whole."""
    time = np.arange(size) / CONTROL_RATE
    left = (size - 1) / CONTROL_RATE - time
    up = np.clip(time / attack, 0, 1)
    down = np.clip(left / max(release * size / CONTROL_RATE, 1e-3), 0, 1)
    return np.sin(np.pi / 2 * up) ** 2 * np.sin(np.pi / 2 * down)
