"""Random numbers from counters, compiled for the CPU; `randomness` has the same in torch.

Number k of a stream is Steele et al.'s mix of its start and k ("Fast splittable pseudorandom number
generators", OOPSLA 2014, SplitMix64): any of them can be had without those before, so clips,
members and steps can be done in any order and side by side.
"""

# ruff: noqa: ANN001, ANN201 - numba takes the types from the calls

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from nver.scaling.compiled import compiled, compiled_and_kept

GOLDEN = -0x61C8864680B583EB
FIRST = -0x40A7B892E31B1A47
SECOND = -0x6B2FB644ECCEEE15
"""SplitMix64's increment and factors, as int64."""

_GOLDEN, _FIRST, _SECOND = np.int64(GOLDEN), np.int64(FIRST), np.int64(SECOND)
_MASK_30, _MASK_27, _MASK_31 = (np.int64(2 ** (64 - shift) - 1) for shift in (30, 27, 31))
_S30, _S27, _S31, _S40 = (np.int64(shift) for shift in (30, 27, 31, 40))
_LOW = np.int64(2**24 - 1)
_ZERO, _QUARTER, _HALF, _ONE = (np.float32(value) for value in (0, 0.25, 0.5, 1))
_UNIT = np.float32(2.0**-24)
_LN2, _ROOT2, _MINUS_TWO = np.float32(math.log(2)), np.float32(math.sqrt(2)), np.float32(-2)
_TURN = np.float32(2 * math.pi)
_SINE = tuple(np.float32((-1) ** k / math.factorial(2 * k + 1)) for k in range(6))
_S0, _S1, _S2, _S3, _S4, _S5 = _SINE
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (np.float32(value) for value in _LOG)
_EXPONENT, _MANTISSA, _BITS_OF_ONE = np.int32(23), np.int32(0x7FFFFF), np.int32(0x3F800000)
_BIAS = np.int32(127)


@compiled
@no_type_check
def mix(z):
    """Return 64 bits that look random, of a counter times `GOLDEN`."""
    z = (z ^ ((z >> _S30) & _MASK_30)) * _FIRST
    z = (z ^ ((z >> _S27) & _MASK_27)) * _SECOND
    return z ^ ((z >> _S31) & _MASK_31)


@compiled
@no_type_check
def log(u):
    """Return the logarithm of u in (0, 1], to 1e-7: Cephes' polynomial about 1, and ln 2.

    A quotient would not be vectorised: Python's check for 0 is a branch.
    """
    bits = np.float32(u).view(np.int32)
    f = np.int32((bits & _MANTISSA) | _BITS_OF_ONE).view(np.float32)
    big = f > _ROOT2
    x = (f * _HALF if big else f) - _ONE
    e = np.float32((bits >> _EXPONENT) - _BIAS) + (_ONE if big else _ZERO)
    p = ((((_L0 * x + _L1) * x + _L2) * x + _L3) * x + _L4) * x + _L5
    p = ((p * x + _L6) * x + _L7) * x + _L8
    return e * _LN2 + (x - _HALF * x * x + x * x * x * p)


@compiled
@no_type_check
def sine(turns):
    """Return sin(2 pi turns) for turns in [-1/4, 1/4], to 1e-7 (Taylor)."""
    x = turns * _TURN
    q = x * x
    return x * (((((_S5 * q + _S4) * q + _S3) * q + _S2) * q + _S1) * q + _S0)


@compiled_and_kept
@no_type_check
def fill_bits(starts, stride, skipped, out):
    """Set out[m, c, w] to number c * stride + skipped + w of the stream from starts[m]."""
    members, clips, words = out.shape
    for m in range(members):
        for c in range(clips):
            start = starts[m] + np.int64(c * stride + skipped) * _GOLDEN
            for w in range(words):
                out[m, c, w] = mix(start + np.int64(w) * _GOLDEN)


@compiled_and_kept
@no_type_check
def add_noise(starts, stride, skipped, deviation, inputs):
    """Add Gaussian noise to inputs [members, clips, columns] (Box & Muller 1958).

    Number c * stride + skipped + w of a member's stream makes the noise of columns w and w + half.
    """
    members, clips, columns = inputs.shape
    half = (columns + 1) // 2
    radius, angle = np.empty(half, np.float32), np.empty(half, np.float32)
    for m in range(members):
        for c in range(clips):
            start = starts[m] + np.int64(c * stride + skipped) * _GOLDEN
            for w in range(half):
                z = mix(start + np.int64(w) * _GOLDEN)
                radius[w] = np.float32(((z >> _S40) & _LOW) + 1) * _UNIT
                angle[w] = np.float32(z & _LOW) * _UNIT - _HALF
            for w in range(half):
                radius[w] = deviation * math.sqrt(_MINUS_TWO * log(radius[w]))
            for w in range(half):
                inputs[m, c, w] += radius[w] * sine(_QUARTER - abs(angle[w]))
            for w in range(columns - half):
                t = angle[w]
                t = _HALF - t if t > _QUARTER else (-_HALF - t if t < -_QUARTER else t)
                inputs[m, c, half + w] += radius[w] * sine(t)
