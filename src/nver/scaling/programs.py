"""What the GPU programs of `launched` and `strips` share, and what is done around them.

Triton comes with torch's CUDA builds; its interpreter (TRITON_INTERPRET=1) runs the same programs
on a CPU, which is how they are tested where there is no GPU.
"""

# ruff: noqa: ANN001, ANN201 - Triton takes the types from the calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, no_type_check

import torch
from torch import Tensor

from nver.scaling.batched import TINY, WIDEST, Hard, threshold, with_logarithms
from nver.scaling.problem import Problem, Solution

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

AVAILABLE = triton is not None
LARGEST_EXPONENT = {torch.float32: 80.0, torch.float64: 300.0}
"""Beyond this a scaling is outside of its range whatever it is, and its exponential overflows."""
MOST_RESERVED = 2**30
"""Bytes of scalings that are reserved for iterations that may never run."""
F = TypeVar("F", bound=Callable[..., Any])


class Tape(NamedTuple):
    """What the adjoint needs.

    Parameters
    ----------
    x, y : as cost [iterations, problems, n], [iterations, problems, m]
        The scalings after each iteration.
    u, v : float64 [problems, n], [problems, m]
        Potentials of K.
    first : as cost [problems, m]
        The y before the first iteration.
    safe : int32 [problems]
        1 where the scalings stayed in range.
    settings : float64 [3]
        What `settings_of` gave.
    hard : Hard or None
        The others.
    """

    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor
    first: Tensor
    safe: Tensor
    settings: Tensor
    hard: Hard | None


class Scaled(NamedTuple):
    """How the programs end: a solution, which problems are safe, how many are not, and the tape."""

    found: Solution
    safe: Tensor
    unsafe: Tensor
    tape: Tape | None


def program(function: F) -> F:
    """Return the function as Triton compiles it where it is first called."""
    made: F = function if triton is None else triton.jit(function)
    return made


def for_all_sizes(*numbers: str) -> Callable[[F], F]:
    """Return `program` for one that is compiled once whatever these numbers are."""
    if triton is None:
        return program
    made: Callable[[F], F] = triton.jit(do_not_specialize=numbers)
    return made


@program
@no_type_check
def strays(scaling, weights, least, widest):
    """Return 1 where the scaling of a point with weight is outside of its range, else 0."""
    return tl.where(((scaling >= least) & (scaling <= widest)) | (weights == 0), 0, 1)


@program
@no_type_check
def outside_of(scaling, weights, least, widest):
    """Return how many scalings of points with weight are outside of their range."""
    return tl.sum(strays(scaling, weights, least, widest), axis=0)


@program
@no_type_check
def logarithm(x):
    """Return log x in float64, minus infinity where x is not above 0."""
    wide = x.to(tl.float64)
    return tl.where(wide > 0, tl.log(tl.where(wide > 0, wide, 1.0)), float("-inf"))


@program
@no_type_check
def log_sum(t, axis: tl.constexpr):
    """Return logsumexp; minus infinity where there is nothing to add, or what is no number."""
    most = tl.max(t, axis=axis)
    most = tl.where(tl.abs(most) < float("inf"), most, 0.0)
    return most + logarithm(tl.sum(tl.exp(t - tl.expand_dims(most, axis)), axis=axis))


@program
@no_type_check
def tell(  # noqa: PLR0913 - a program takes numbers and pointers, no objects
    error, done, safe, unsafe, p, off, t, iterations, outside, settings
):  # fmt: skip
    """Store how the scaling of problem p ended; it was safe if nothing was `outside` its range."""
    tl.store(error + p, off)
    tl.store(done + p, t)
    fine = (off <= tl.load(settings + 2)) | ((t == iterations) & (off < float("inf")))
    bad = tl.where(fine & (outside == 0), 0, 1)
    tl.store(safe + p, 1 - bad)
    tl.atomic_add(unsafe, bad)


@program
@no_type_check
def potential(weights, sums):
    """Return log weights - sums, minus infinity where either is."""
    there = sums > float("-inf")
    return tl.where(there, logarithm(weights) - tl.where(there, sums, 0.0), float("-inf"))


@program
@no_type_check
def first_scaling(weights, v, largest):
    """Return the y that stands for the potential 0 beside v."""
    there = weights > 0
    found = tl.exp(tl.minimum(-tl.where(there, v, 0.0), largest))
    return tl.where(there, found, 0.0).to(weights.dtype)


@program
@no_type_check
def inside_of(i, j, n, m):
    """Return the places of a strip's entries in their matrix, and which of them there are."""
    return i[:, None] * m + j[None, :], (i[:, None] < n) & (j[None, :] < m)


@program
@no_type_check
def strip(matrix, p, start, n, m, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the rows from `start` on, 0 behind the last."""
    place, inside = inside_of(start + tl.arange(0, ROWS), tl.arange(0, COLUMNS), n, m)
    return tl.load(matrix + p * n * m + place, mask=inside, other=0.0)


def padded(size: int, least: int = 16) -> int:
    """Return the power of 2 that a program works on."""
    return max(least, 1 << (size - 1).bit_length())


def settings_of(problem: Problem) -> Tensor:
    """Return 1 / eps, the error at which a loop stops and the tolerance where a program reads them.

    A launch hands numbers over in float32.
    """
    given = [1 / problem.eps, threshold(problem), problem.tolerance]
    device = problem.cost.device
    return torch.tensor(given, dtype=torch.float64).to(device, non_blocking=True)


def ranges(kind: torch.dtype) -> dict[str, float]:
    """Return the limits that are written into a program."""
    return {
        "LEAST": 1 / WIDEST[kind],
        "WIDEST": WIDEST[kind],
        "TINY": TINY[kind],
        "LARGEST": LARGEST_EXPONENT[kind],
    }


def limit_of(problem: Problem, keep: bool, scaled: Callable[[Problem, int, bool], Scaled]) -> int:
    """Return a limit on iterations that changes nothing; with `keep`, one for which there is room.

    Where scalings for all iterations would take very much, a first run without them counts those
    that run. Iterations on logarithms do not count: they keep what they need by themselves.
    """
    problems, n, m = problem.cost.shape
    size = problem.iterations * problems * (n + m) * problem.cost.itemsize
    if not keep or size <= MOST_RESERVED:
        return problem.iterations
    ran = int(scaled(problem, problem.iterations, False).found.iterations.max())
    return min(problem.iterations, ran + 1)  # who stops does so in the iteration after the last


def unsolved(cost: Tensor, a: Tensor, b: Tensor) -> tuple[Solution, Tensor, Tensor]:
    """Return room for a solution, for which problems are safe, and for how many are not."""
    problems = len(cost)
    found = Solution(
        torch.empty_like(cost),
        torch.empty_like(a),
        torch.empty_like(b),
        cost.new_empty(problems),
        torch.empty(problems, dtype=torch.int64, device=cost.device),
    )
    safe = torch.empty(problems, dtype=torch.int32, device=cost.device)
    return found, safe, torch.zeros(1, dtype=torch.int32, device=cost.device)


def ended(problem: Problem, scaled: Scaled) -> Solution:
    """Return the solution with its tape, the problems that are not safe solved on logarithms."""
    (found, safe, unsafe, tape), hard = scaled, None
    if int(unsafe):
        places = (safe == 0).nonzero().squeeze(1)
        found, hard = with_logarithms(problem, found, places, tape is not None)
    return found if tape is None else found._replace(tape=tape._replace(hard=hard))
