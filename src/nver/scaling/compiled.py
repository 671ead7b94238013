"""What the loops of `forward` and `backward` share: their compiler, their arrays, an exponential.

Without numba the functions stay what they are, and are not to be called (`AVAILABLE`). What is kept
on disk holds as long as the files of the loop's package and of this one do. A division by 0 gives
infinity or NaN, as numpy's does: a test for it would keep the loop from the vector unit.
"""

# ruff: noqa: ANN001, ANN201, ARG001 - numba takes the types from the calls; its own signatures

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast, no_type_check

import numpy as np

try:
    numba: Any = importlib.import_module("numba")
except ImportError:  # none, or one that is too old for the numpy that is there
    numba = None

AVAILABLE = numba is not None
F = TypeVar("F", bound=Callable[..., Any])
ROWS, COLUMNS = 4, 16
"""Rows and columns are padded to multiples."""

FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
"""Sums in any order, fused products; the guards need NaN and infinity to keep their meaning."""


def compiled(function: F) -> F:
    """Return the function as numba compiles it where it is first called."""
    if numba is None:
        return function
    made: F = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(function)
    return made


def compiled_and_kept(function: F) -> F:
    """Return it so for a call from Python; the machine code is kept on disk, if that can be.

    It lies in the `__pycache__` beside the function's file, or in the user's cache folder where
    that cannot be written to; NUMBA_CACHE_DIR is another place.
    """
    if numba is None:
        return function
    try:
        made: Any = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy", cache=True)(
            function
        )
    except RuntimeError:  # no such folder can be written to
        return compiled(function)
    _stamp(made, Path(function.__code__.co_filename).parent)
    return cast(F, made)


def _stamp(made: Any, folder: Path) -> None:
    """Let what is kept hold only for these sources.

    Numba looks at the time of the function's own file; loops call functions of other files.
    """
    try:
        kept = made._cache._cache_file
        kept._source_stamp = (kept._source_stamp, _sources(folder), _sources(Path(__file__).parent))
    except AttributeError:  # another numba: then as it does by itself
        return


@cache
def _sources(folder: Path) -> str:
    """Return a digest of the files of which functions are called by loops of other files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Limits(NamedTuple):
    """Numbers that depend on the data's type, in that type.

    Parameters
    ----------
    least, widest : floating
        The range of scalings in which K loses nothing to underflow.
    tiny : floating
        Stands for a sum of 0.
    flush : float
        Logarithm, relative to its row or column, below which an entry of K is 0.
    """

    least: Any
    widest: Any
    tiny: Any
    flush: float


class Sides(NamedTuple):
    """Weights a, b of one problem, padded with zeros, and 1 / a, 1 / b with 0 for weight 0."""

    a: np.ndarray
    b: np.ndarray
    a_inverse: np.ndarray
    b_inverse: np.ndarray


class Tape(NamedTuple):
    """What the adjoint needs of one problem, and what a forward pass works on.

    Parameters
    ----------
    x, y : [slots, rows], [slots, columns]
        Scalings after iteration t in slot t, relative to their segment's base. Without a gradient
        there are two slots, used in turn.
    u, v : float64 [segments, n], [segments, m]
        Base potentials. A segment starts with a logarithmic step.
    start : int64 [segments]
        The iteration with which each segment starts.
    segments : int64 [1]
        How many; 0 where the plan is NaN.
    """

    x: np.ndarray
    y: np.ndarray
    u: np.ndarray
    v: np.ndarray
    start: np.ndarray
    segments: np.ndarray


@cache
def tape_words(n: int, m: int, kept: int, size: int) -> int:
    """Return how many numbers of 8 bytes a problem's tape takes: whole cache lines.

    `kept` is the iterations that it keeps, `size` that of a cost.
    """
    rows, columns = -(-n // ROWS) * ROWS, -(-m // COLUMNS) * COLUMNS
    scalings = (kept + 1) * (rows + columns) * size // 8
    return _whole_lines(kept + 1) + _whole_lines(scalings) + _whole_lines(kept * (n + m))


def _whole_lines(words: int) -> int:
    return -(-words // 8) * 8


def _pointer(typing: Any, address: Any, like: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.inttoptr(given[0], context.get_value_type(signature.return_type))

    return numba.types.CPointer(like)(address, like), write


def intrinsic_of(written: Any) -> Any:
    """Return the function for use in numba's loops; without numba there are none."""
    return written if numba is None else numba.extending.intrinsic(written)


carray: Any = None if numba is None else numba.carray
pointer = intrinsic_of(_pointer)
"""Return the address as one of numbers like this: an array is a third as quickly handed over."""


@compiled
@no_type_check
def limits_of(array):
    """Return the limits of an array's type."""
    kind = array.dtype.type
    wide = array.itemsize == 8
    widest = 1e100 if wide else 1e12
    tiny = 1e-300 if wide else 1e-37
    return Limits(kind(1 / widest), kind(widest), kind(tiny), -690.0 if wide else -83.0)


@compiled
@no_type_check
def exp(t):
    """Return exp(t) for t >= -700 (below: that of -700), to 1e-15; unlike libm's it vectorises.

    Cody & Waite's reduction by ln 2 in two parts, then Taylor's polynomial on [-0.35, 0.35].
    """
    t = t if t > -700.0 else -700.0
    k = np.floor(t * 1.4426950408889634 + 0.5)
    r = t - k * 6.93147180369123816490e-01
    r = r - k * 1.90821492927058770002e-10
    p = 1.0 / 479001600
    p = p * r + 1.0 / 39916800
    p = p * r + 1.0 / 3628800
    p = p * r + 1.0 / 362880
    p = p * r + 1.0 / 40320
    p = p * r + 1.0 / 5040
    p = p * r + 1.0 / 720
    p = p * r + 1.0 / 120
    p = p * r + 1.0 / 24
    p = p * r + 1.0 / 6
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * np.int64((np.int64(k) + np.int64(1023)) << np.int64(52)).view(np.float64)


@compiled
@no_type_check
def padded(n, m):
    """Return rows and columns in whole blocks."""
    return (n + ROWS - 1) // ROWS * ROWS, (m + COLUMNS - 1) // COLUMNS * COLUMNS


@compiled
@no_type_check
def aligned(rows, columns, like):
    """Return room for a matrix like the array that starts a cache line: numba's start anywhere."""
    space = np.empty(rows * columns + 64 // like.itemsize, like.dtype)
    skip = -space.ctypes.data % 64 // like.itemsize
    return space[skip : skip + rows * columns].reshape(rows, columns)


@compiled
@no_type_check
def address(array):
    """Return where an array lies; numba's own number has no sign, and plus another is a float.

    An array that numba has made is freed after it is last named, whoever has its address: name it
    once more when its address has been used (see `alive`).
    """
    return np.int64(array.ctypes.data)


@compiled
@no_type_check
def alive(arrays):
    """Return a number of these arrays, which are not freed before this call."""
    total = 0
    for array in arrays:
        total += array.shape[0]
    return total


@compiled
@no_type_check
def tape_at(address, n, m, kept, one):
    """Return the tape that lies there: integers, then scalings, then potentials."""
    rows, columns = padded(n, m)
    segments = carray(pointer(address, np.int64(0)), 1)
    start = carray(pointer(address + 8, np.int64(0)), kept)
    address += (kept + 8) // 8 * 64
    y = carray(pointer(address, one), (kept + 1, columns))
    address += y.size * y.itemsize
    x = carray(pointer(address, one), (kept + 1, rows))
    address += (x.size * x.itemsize + 63) // 64 * 64
    u = carray(pointer(address, 0.0), (kept, n))
    v = carray(pointer(address + u.size * u.itemsize, 0.0), (kept, m))
    return Tape(x, y, u, v, start, segments)


@compiled
@no_type_check
def length_and_start(sizes, p):
    """Return how many iterations the tape of problem p keeps, and where it starts.

    `sizes` ends with that number, the distance of tapes, and the address of both of each problem
    where they differ (else 0).
    """
    if sizes[5] == 0:
        return sizes[3], p * sizes[4]
    given = carray(pointer(sizes[5], np.int64(0)), (sizes[0], 2))
    return given[p, 0], given[p, 1]


@compiled
@no_type_check
def pad_sides(a, b, sides):
    """Fill `sides` from a problem's weights."""
    for i in range(a.size):
        sides.a[i] = a[i]
        sides.a_inverse[i] = 1 / a[i] if a[i] > 0 else 0
    for j in range(b.size):
        sides.b[j] = b[j]
        sides.b_inverse[j] = 1 / b[j] if b[j] > 0 else 0


@compiled
@no_type_check
def empty_sides(rows, columns, dtype):
    """Return room for the weights of a problem."""
    return Sides(
        np.zeros(rows, dtype),
        np.zeros(columns, dtype),
        np.zeros(rows, dtype),
        np.zeros(columns, dtype),
    )


@compiled
@no_type_check
def fill(array, value):
    """Set every entry; numba compiles this loop much faster than an assignment to a slice."""
    for i in range(array.size):
        array[i] = value


@compiled
@no_type_check
def fill_rows(array, value):
    """Set every entry of a matrix."""
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            array[i, j] = value


@compiled
@no_type_check
def copy(values, array):
    """Copy a vector."""
    for i in range(array.size):
        array[i] = values[i]


@compiled
@no_type_check
def copy_rows(values, array):
    """Copy a matrix."""
    for i in range(array.shape[0]):
        for j in range(array.shape[1]):
            array[i, j] = values[i, j]
