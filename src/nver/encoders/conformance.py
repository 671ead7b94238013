"""Does an encoder keep the contract of `nver.encoders.base`? Asked on the user's own machine.

Every check is a sentence of the contract. Differences between embeddings of the same clip are
measured as ``max|a - b| / max|a|`` per clip, and the largest over the clips counts: a column near
zero is compared on the scale of the clip's largest value, as a network's rounding errors are.

Good for encoders that a session can hold; it encodes about a hundred seconds of audio.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nver.audio import Waveform
from nver.encoders.base import Encoder
from nver.encoders.example_sounds import example_waveforms, gliding_voice, noise_bursts
from nver.errors import AudioError, EncoderError, SettingsError
from nver.shapes import Embeddings, Mono


@dataclass(frozen=True)
class Check:
    """One sentence of the contract, and whether it holds.

    Parameters
    ----------
    name : str
        Which check.
    passed : bool
    detail : str
        What was measured; where it failed: what was expected, what came, what to do.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class ConformanceReport:
    """What `check_encoder` found.

    Parameters
    ----------
    encoder : str
        The name on the card.
    checks : tuple of Check
        In the order in which they ran.
    """

    encoder: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    def raise_if_failed(self) -> None:
        """Do nothing if every check passed.

        Raises
        ------
        EncoderError
            With one line for each check that failed.
        """
        if self.failures:
            lines = [f"- {check.name}: {check.detail}" for check in self.failures]
            head = f"Encoder '{self.encoder}' fails {len(lines)} of {len(self.checks)} checks:"
            raise EncoderError("\n".join([head, *lines]))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        rows = [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in self.checks]
        return {"encoder": self.encoder, "passed": self.passed, "checks": rows}

    def __str__(self) -> str:
        rows = [f"{'ok  ' if c.passed else 'FAIL'} {c.name}: {c.detail}" for c in self.checks]
        return "\n".join(rows)


def check_encoder(
    encoder: Encoder, waveforms: Sequence[Waveform] | None = None, tolerance: float = 1e-5
) -> ConformanceReport:
    """Check an encoder against its contract.

    Parameters
    ----------
    encoder : Encoder
        Built and loaded.
    waveforms : sequence of Waveform, optional
        At least two clips for the checks of batching, of different lengths where possible. Without
        them, `example_waveforms` at the card's rate.
    tolerance : float
        Largest relative difference (defined above) between two embeddings of one clip.

    Returns
    -------
    ConformanceReport
        A check that raises has failed; it never stops the others.

    Raises
    ------
    SettingsError
        If fewer than two clips are given: one alone says nothing about batches.

    Examples
    --------
    >>> from nver.encoders import load_encoder
    >>> check_encoder(load_encoder("spectral")).passed
    True
    """
    clips = list(example_waveforms(encoder.card.rate) if waveforms is None else waveforms)
    if len(clips) < 2:
        raise SettingsError(f"Checking batches needs at least two clips, got {len(clips)}.")
    bench = _Bench(encoder, clips, tolerance)
    return ConformanceReport(encoder.card.name, tuple(_run(check, bench) for check in CHECKS))


@dataclass(frozen=True)
class _Bench:
    """What the checks share: the encoder, the clips of the batching checks, the tolerance."""

    encoder: Encoder
    clips: list[Waveform]
    tolerance: float

    @property
    def rate(self) -> int:
        return self.encoder.card.rate

    @cached_property
    def together(self) -> Embeddings:
        """The clips in one batch; `_twice` checks that doing it again changes nothing."""
        return self.encode(self.clips)

    @cached_property
    def alone(self) -> Embeddings:
        """The clips one by one."""
        return np.concatenate([self.encode([clip]) for clip in self.clips])

    def encode(self, clips: Sequence[Waveform]) -> Embeddings:
        return self.encoder.encode(clips)

    def one_second(self) -> Mono:
        """Return a voice of one second at the card's rate, with a peak below 1."""
        return gliding_voice(np.random.default_rng(1), 1.0, self.rate)

    def same(self, expected: Embeddings, found: Embeddings, remedy: str) -> str:
        """Return the difference as a sentence, or raise _BrokenError with the remedy."""
        if expected.shape != found.shape:
            raise _BrokenError(
                f"Expected {list(expected.shape)}, got {list(found.shape)}. {remedy}"
            )
        scale = np.maximum(np.abs(expected).max(axis=1), np.finfo(np.float32).tiny)
        errors = np.abs(expected.astype(np.float64) - found).max(axis=1) / scale
        worst = int(np.nan_to_num(errors, nan=np.inf).argmax())
        sentence = f"largest relative difference {errors[worst]:.1e} (clip {worst})"
        if not errors[worst] <= self.tolerance:
            raise _BrokenError(
                f"Expected at most {self.tolerance:.0e}, got the {sentence}. {remedy}"
            )
        return sentence

    def finite(self, clips: Sequence[Waveform]) -> str:
        """Return what was encoded as a sentence; `Encoder.encode` raises where it is not finite."""
        vectors = np.concatenate([self.encode([clip]) for clip in clips])
        return self.whole(vectors, len(clips))

    def whole(self, vectors: np.ndarray, clips: int) -> str:
        """Return what the vectors are as a sentence, or raise _BrokenError."""
        shape = [clips, self.encoder.card.dim]
        if list(vectors.shape) != shape or vectors.dtype != np.float32:
            raise _BrokenError(
                f"Expected float32 {shape}, got {vectors.dtype} {list(vectors.shape)}."
            )
        if not np.isfinite(vectors).all():
            raise _BrokenError(
                "Expected finite values, got NaN or infinity. Mend `embed` for such clips."
            )
        return f"float32 {shape}, finite"


class _BrokenError(Exception):
    """A sentence of the contract that does not hold."""


def _run(check: Callable[[_Bench], str], bench: _Bench) -> Check:
    name = check.__name__.removeprefix("_")
    try:
        return Check(name, True, check(bench))
    except _BrokenError as broken:
        return Check(name, False, str(broken))
    except Exception as error:  # noqa: BLE001 - a check that raises is a check that failed
        return Check(name, False, f"Expected an embedding, got {type(error).__name__}: {error}")


def _card_complete(bench: _Bench) -> str:
    card = bench.encoder.card
    texts = ("name", "summary", "pooling", "licence", "citation", "revision")
    empty = [name for name in texts if not str(getattr(card, name)).strip()]
    if empty:
        raise _BrokenError(f"Expected every fact on the card, these are empty: {', '.join(empty)}.")
    if card.dim < 1 or not 1000 <= card.rate <= 192_000 or not 0 <= card.min_seconds <= 60:
        raise _BrokenError(
            "Expected dim from 1, rate from 1000 to 192000 Hz and min_seconds from 0 to 60, "
            f"got {card.dim}, {card.rate} and {card.min_seconds:g}."
        )
    json.dumps(card.to_dict())
    return f"{card.dim} dimensions, {card.rate} Hz, {card.licence}"


def _fingerprint_stable(bench: _Bench) -> str:
    first = bench.encoder.card.fingerprint
    bench.encode([Waveform(bench.one_second(), bench.rate)])
    second = bench.encoder.card.fingerprint
    if first != second:
        raise _BrokenError(
            f"Expected one fingerprint, got {first[:16]} before encoding and {second[:16]} after. "
            "The card's facts must not change once the encoder is built."
        )
    return first[:16]


def _shape_and_dtype(bench: _Bench) -> str:
    nothing = bench.encode([])
    if nothing.shape != (0, bench.encoder.card.dim):
        raise _BrokenError(f"Expected [0, dim] for no clips, got {list(nothing.shape)}.")
    return bench.whole(bench.alone, len(bench.clips))


def _twice(bench: _Bench) -> str:
    remedy = "Something is random or keeps state: switch dropout off, fix the seed."
    return bench.same(bench.together, bench.encode(bench.clips), remedy)


def _alone_as_in_batch(bench: _Bench) -> str:
    remedy = (
        "A clip sees its neighbours or their padding: mask the padding, pool over valid frames, "
        "take a group norm's statistics over them, or batch equal lengths only."
    )
    return bench.same(bench.alone, bench.together, remedy)


def _shuffled(bench: _Bench) -> str:
    order = np.random.default_rng(0).permutation(len(bench.clips))
    found = bench.encode([bench.clips[index] for index in order])
    return bench.same(bench.together[order], found, "Return the rows in the clips' order.")


def _sorted_by_length(bench: _Bench) -> str:
    order = np.argsort([-clip.seconds for clip in bench.clips], kind="stable")
    expected = bench.together
    remedy = "Return the rows in the clips' order, however `embed` groups them."
    falling = bench.same(
        expected[order], bench.encode([bench.clips[index] for index in order]), remedy
    )
    rising = [bench.clips[index] for index in order[::-1]]
    bench.same(expected[order[::-1]], bench.encode(rising), remedy)
    return falling


def _inputs_unchanged(bench: _Bench) -> str:
    before = [clip.samples.copy() for clip in bench.clips]
    inputs = [bench.encoder.frontend(clip) for clip in bench.clips]
    copies = [np.array(values) for values in inputs]
    bench.encoder.embed(inputs)
    if any((clip.samples != old).any() for clip, old in zip(bench.clips, before, strict=True)):
        raise _BrokenError(
            "Expected the waveforms as they were, got changed samples. Copy them first."
        )
    if any((values != old).any() for values, old in zip(inputs, copies, strict=True)):
        raise _BrokenError(
            "Expected `embed` to leave its inputs alone, it changed them. Copy them first."
        )
    return "waveforms and features are as they were"


def _tells_sounds_apart(bench: _Bench) -> str:
    noise = noise_bursts(np.random.default_rng(2), 1.0, bench.rate)
    first, second = bench.encode(
        [Waveform(bench.one_second(), bench.rate), Waveform(noise, bench.rate)]
    )
    difference = float(np.abs(first - second).max() / max(np.abs(first).max(), 1e-30))
    if difference <= 10 * bench.tolerance:
        raise _BrokenError(
            f"Expected a voice and noise to differ, they do by {difference:.1e}. "
            "Does `embed` use what `features` gave?"
        )
    return f"a voice and noise differ by {difference:.1e}"


def _too_short(bench: _Bench) -> str:
    card = bench.encoder.card
    short = bench.one_second()[: max(1, card.rate // 100)]
    missing = int(np.ceil(card.min_seconds * card.rate)) - short.size
    padded = np.pad(short, (0, max(0, missing)))
    bench.finite([Waveform(short[-1:], card.rate)])
    return bench.same(
        bench.encode([Waveform(padded, card.rate)]),
        bench.encode([Waveform(short, card.rate)]),
        "A clip of 10 ms must be padded with zeros to the card's min_seconds.",
    )


def _long(bench: _Bench) -> str:
    return bench.finite(
        [Waveform(gliding_voice(np.random.default_rng(3), 15.0, bench.rate), bench.rate)]
    )


def _silent(bench: _Bench) -> str:
    return bench.finite([Waveform(np.zeros(bench.rate, dtype=np.float32), bench.rate)])


def _constant_offset(bench: _Bench) -> str:
    constant = np.full(bench.rate, 0.5, dtype=np.float32)
    moved = bench.one_second() + np.float32(0.3)
    return bench.finite([Waveform(constant, bench.rate), Waveform(moved, bench.rate)])


def _clipped(bench: _Bench) -> str:
    return bench.finite([Waveform(np.clip(20 * bench.one_second(), -1, 1), bench.rate)])


def _peaks_kept(bench: _Bench) -> str:
    loud = 10 * bench.one_second()
    bench.finite([Waveform(loud, bench.rate)])
    kept, cut = bench.encode(
        [Waveform(loud, bench.rate), Waveform(np.clip(loud, -1, 1), bench.rate)]
    )
    if np.abs(kept - cut).max() <= bench.tolerance * np.abs(kept).max():
        raise _BrokenError("Expected peaks above 1 to be kept, got what the clipped clip gives.")
    return "peaks above 1 are not clipped"


def _channels(bench: _Bench) -> str:
    rule = bench.encoder.card.channels
    stereo = Waveform(np.stack([bench.one_second(), bench.one_second()[::-1]]), bench.rate)
    return bench.same(
        bench.encode([stereo.mono(rule)]),
        bench.encode([stereo]),
        f"Several channels must become one by the card's rule, '{rule}'.",
    )


def _rates(bench: _Bench) -> str:
    sentence = ""
    for rate in (8000, 44_100, 48_000, 96_000):
        clip = Waveform(gliding_voice(np.random.default_rng(4), 1.0, rate), rate)
        remedy = f"A clip at {rate} Hz must be resampled to the card's rate."
        expected = bench.encode([bench.encoder.resample(clip)])
        sentence = bench.same(expected, bench.encode([clip]), remedy)
    return sentence


def _refuses_nan(bench: _Bench) -> str:
    clip = Waveform(bench.one_second(), bench.rate)
    clip.samples[0, 100] = np.nan  # what a caller may do to an array after it was checked
    try:
        bench.encode([clip])
    except AudioError:
        return "AudioError"
    raise _BrokenError("Expected AudioError for NaN samples, got an embedding.")


CHECKS: tuple[Callable[[_Bench], str], ...] = (
    _card_complete,
    _fingerprint_stable,
    _shape_and_dtype,
    _twice,
    _alone_as_in_batch,
    _shuffled,
    _sorted_by_length,
    _inputs_unchanged,
    _tells_sounds_apart,
    _too_short,
    _long,
    _silent,
    _constant_offset,
    _clipped,
    _peaks_kept,
    _channels,
    _rates,
    _refuses_nan,
)
