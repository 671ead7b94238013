"""Perturbations by name: an effect (`nver.effects`) and how much of it.

A perturbation is a pure function of the clip: the same clip and name give the same samples, on any
machine and in any order, because its random draw is seeded by the clip's content and the name. It
keeps the clip's rate, its channels and (except ``shift``) its length.

What happens to unusual clips:

- values beyond full scale are kept, as everywhere in nver, and ``gain``, ``noise`` and ``reverb``
  may add some; only ``telephone`` and ``clipping`` cut them, which is what they stand for;
- several channels hear the same noise and the same room; levels are those of their mean;
- a clip too short for an effect is processed as it is: a reverberation is cut at the clip's end;
- silence has no signal-to-noise ratio: `AudioError`. A corpus run refuses silent files before.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import soundfile
from scipy import __version__ as scipy_version

from nver import effects
from nver.audio import RESAMPLER, Waveform
from nver.effects import Effect
from nver.errors import AudioError, MissingExtraError, SettingsError
from nver.registry import require, unknown

ALL = "all"
"""The name that stands for every perturbation in `STANDARD`."""

STANDARD = (
    "noise:20",
    "noise:10",
    "noise:0",
    "reverb:0.5",
    "telephone",
    "mp3:32",
    "gain:-12",
    "clipping:12",
    "shift:0.25",
)
"""What ``--perturb all`` asks for."""


@dataclass(frozen=True)
class Kind:
    """A kind of perturbation, before its strength is chosen.

    Parameters
    ----------
    name : str
        Before the colon.
    summary : str
        What it does, in one sentence.
    title : str
        With ``{}`` for the value: what a table calls it.
    effect : callable
        See `nver.effects.Effect`.
    recipe : callable
        Returns what changes the samples besides the value: a version, libraries.
    value : float or None
        The value without a colon; None where the kind takes none.
    unit : str
        Of the value.
    low, high : float
        Its range, both ends included.
    extra : tuple of (str, str) or None
        The package that it needs, and nver's extra that brings it.
    """

    name: str
    summary: str
    title: str
    effect: Effect
    recipe: Callable[[], str]
    value: float | None = None
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    extra: tuple[str, str] | None = None

    def at(self, text: str) -> Perturbation:
        """Return the perturbation of the strength that `text` says; "" is the usual one.

        Raises
        ------
        SettingsError
            If it is no number, or out of range.
        """
        if self.value is None:
            if text:
                raise SettingsError(f"Expected '{self.name}' without a value, got ':{text}'.")
            return Perturbation(self.name, self.title, self, 0.0)
        try:
            value = float(text or self.value)
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high:
            raise SettingsError(
                f"Expected {self.name}:{self.unit} from {self.low:g} to {self.high:g}, "
                f"got '{self.name}:{text}'."
            )
        shown = f"{value + 0.0:g}"  # minus zero is zero
        return Perturbation(f"{self.name}:{shown}", self.title.format(shown), self, float(shown))


@dataclass(frozen=True)
class Perturbation:
    """What happens to a clip: a kind and its strength.

    Parameters
    ----------
    name : str
        Canonical: ``noise:10`` however it was asked for.
    title : str
        For people.
    kind : Kind
        What it does.
    value : float
        How much of it, in the kind's unit; 0 where it takes none.
    """

    name: str
    title: str
    kind: Kind
    value: float

    def apply(self, waveform: Waveform) -> Waveform:
        """Return the perturbed clip, at its own rate and with its own channels.

        Raises
        ------
        AudioError
            If the clip cannot be perturbed (silence has no signal-to-noise ratio).
        MissingExtraError
            If the kind's package is not installed.
        """
        draw = hashlib.sha256(f"{self.name} {waveform.digest()}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(draw, "little"))
        try:
            return Waveform(self.kind.effect(waveform, self.value, rng), waveform.rate)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"libsndfile refuses it: {error.error_string}") from error

    def key(self, digest: str) -> str:
        """Return the store's key (SHA-256) of the perturbed clip, from that of the clip.

        It differs from the digest of every clip, perturbed or not, and changes with the recipe.
        """
        recipe = f"nver perturbed\n{self.name}\n{self.kind.recipe()}\n{digest}"
        return hashlib.sha256(recipe.encode()).hexdigest()


def perturbation(name: str) -> Perturbation:
    """Return a perturbation by name: ``telephone``, ``noise``, ``noise:5``.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    SettingsError
        If the value is no number, or out of range.

    Examples
    --------
    >>> perturbation("noise:5.0").name, perturbation("noise").title
    ('noise:5', 'noise, SNR 10 dB')
    """
    kind, colon, value = name.strip().partition(":")
    if kind not in PERTURBATIONS:
        raise unknown("perturbation", kind, [*PERTURBATIONS, ALL])
    if colon and not value:
        raise SettingsError(f"Expected a value after the colon, got '{name}'.")
    return PERTURBATIONS[kind].at(value)


def choose(names: Iterable[str]) -> tuple[Perturbation, ...]:
    """Return the perturbations that were asked for, each once; "all" is `STANDARD`.

    Raises
    ------
    UnknownNameError, SettingsError
        As `perturbation`.
    MissingExtraError
        If one needs a package that is not installed; the message says how to go on without it.
    """
    asked = [each for name in names for each in (STANDARD if name == ALL else (name,))]
    chosen = {found.name: found for found in map(perturbation, asked)}
    for found in chosen.values():
        _check(found, chosen.values())
    return tuple(chosen.values())


def _check(one: Perturbation, chosen: Iterable[Perturbation]) -> None:
    """Refuse a perturbation whose package is missing, and say what remains without it."""
    extra = one.kind.extra
    if extra is None:
        return
    try:
        require(*extra, f"The perturbation '{one.name}'")
    except MissingExtraError as error:
        rest = [f"--perturb {other.name}" for other in chosen if other.kind.extra != extra]
        way = f"Or go on without it: {' '.join(rest)}." if rest else "Or go on without --perturb."
        raise MissingExtraError(f"{error} {way}") from error


def _sndfile() -> str:
    return f"libsndfile/{soundfile.__libsndfile_version__}"


def _rooms() -> str:
    return f"pyroomacoustics/{require('pyroomacoustics', 'perturb').__version__}"


PERTURBATIONS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="noise",
            summary="adds pink noise (50 Hz to 8 kHz) at a signal-to-noise ratio over the clip",
            title="noise, SNR {} dB",
            effect=effects.noise,
            recipe=lambda: f"1 numpy/{np.__version__}",
            value=10,
            unit="DB",
            low=-30,
            high=80,
        ),
        Kind(
            name="reverb",
            summary="puts the clip into a room of 5 x 4 x 3 m with a reverberation time T60; the "
            "level (RMS) stays",
            title="reverberation, T60 {} s",
            effect=effects.reverb,
            recipe=lambda: f"1 {_rooms()} scipy/{scipy_version}",
            value=0.5,
            unit="SECONDS",
            low=0.2,
            high=1.0,
            extra=("pyroomacoustics", "perturb"),
        ),
        Kind(
            name="telephone",
            summary="sends the clip through a telephone: 8 kHz, 300 to 3400 Hz, G.711 mu-law",
            title="telephone, 300 to 3400 Hz",
            effect=effects.telephone,
            recipe=lambda: f"1 {RESAMPLER} scipy/{scipy_version} {_sndfile()}",
        ),
        Kind(
            name="mp3",
            summary="encodes as MP3 of a constant bit rate (64 at most below 16 kHz) and decodes",
            title="MP3, {} kbit/s",
            effect=effects.mp3,
            recipe=lambda: f"1 {RESAMPLER} {_sndfile()}",
            value=32,
            unit="KBITS",
            low=32,
            high=128,
        ),
        Kind(
            name="gain",
            summary="makes the clip louder or softer",
            title="gain, {} dB",
            effect=effects.gain,
            recipe=lambda: "1",
            value=-12,
            unit="DB",
            low=-60,
            high=60,
        ),
        Kind(
            name="clipping",
            summary="cuts the clip at a level that lies so far below its peak",
            title="clipping, {} dB below the peak",
            effect=effects.clipping,
            recipe=lambda: "1",
            value=12,
            unit="DB",
            low=0,
            high=60,
        ),
        Kind(
            name="shift",
            summary="lets the clip begin later, after silence; it becomes so much longer",
            title="begins {} s later",
            effect=effects.shift,
            recipe=lambda: "1",
            value=0.25,
            unit="SECONDS",
            low=0,
            high=10,
        ),
    )
}
"""Every kind, by name."""
