"""Sinkhorn on a CPU: one problem at a time, all its iterations and their adjoint in the cache.

With the base potentials u, v of the last logarithmic step, K_ij = exp(u_i + v_j - C_ij / eps) is
scaled by x and y: x_i = a_i / (K y)_i and y_j = b_j / (K^T x)_j. A row's sum, its x_i and its share
of every column's sum are taken in one reading of that row, so an iteration reads K once, from the
core's own cache, where a pair of matrix-vector products reads it twice. When a scaling leaves the
range in which K loses nothing to underflow, the iteration is done again on logarithms (Schmitzer
2019, section 3), from the same potentials: the sequence is the logarithmic one at every eps.
Potentials are float64 whatever the costs are: they are as large as C / eps, and float32 would keep
three digits of exp of them at C / eps = 1e4.

The adjoint is that of the iterations that ran, from the stored x_t and y_t (`backward`): nothing of
size n x m is stored per iteration.

The loops are Python that numba compiles on first use and keeps on disk. Threads are started per
call, over problems, as many as torch may use.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nver.scaling.backward import pull_back_some
from nver.scaling.compiled import AVAILABLE as AVAILABLE
from nver.scaling.compiled import Limits, Tape
from nver.scaling.forward import solve_some
from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution

ROWS, COLUMNS = 4, 16
"""Rows and columns are padded to multiples."""
WORK_PER_THREAD = 4_000_000
"""Entries of K times iterations (about half a millisecond) that pay for starting a thread."""


def _limits(dtype: type[np.floating], widest: float, tiny: float, flush: float) -> tuple[Any, ...]:
    return tuple(Limits(dtype(1 / widest), dtype(widest), dtype(tiny), flush))


LIMITS = {
    torch.float32: _limits(np.float32, 1e12, 1e-37, -83.0),
    torch.float64: _limits(np.float64, 1e100, 1e-300, -690.0),
}


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the scalings of every iteration."""
    cost, a, b = arrays = _arrays(problem.cost, problem.source, problem.target)
    tape = _empty_tape(cost.shape, cost.dtype, problem.iterations, keep)
    error, done = np.empty(len(cost), cost.dtype), np.empty(len(cost), np.int64)
    found = (np.empty_like(cost), np.empty_like(a), np.empty_like(b), error, done)
    settings = (1 / problem.eps, int(problem.iterations), float(problem.tolerance), CHECK_EVERY)
    _over_problems(
        solve_some, problem, (cost, (a, b), settings, tape, found, LIMITS[problem.cost.dtype])
    )
    plan, row, column, off, count = (torch.from_numpy(part) for part in found)
    return Solution(plan, row, column, off, count, (arrays, tape, done) if keep else None)


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    (cost, a, b), tape, done = solution.tape
    plan, given = _arrays(solution.plan, grad)
    found = (np.empty_like(cost), np.empty_like(a), np.empty_like(b))
    given_all = (plan, done, given)
    limits = LIMITS[problem.cost.dtype]
    _over_problems(
        pull_back_some, problem, (cost, (a, b), 1 / problem.eps, tape, given_all, found, limits)
    )
    return Gradient(*(torch.from_numpy(part) for part in found))


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Return them in C's order: the loops are compiled for that."""
    return tuple(np.ascontiguousarray(tensor.numpy(force=True)) for tensor in tensors)


def _empty_tape(
    shape: tuple[int, ...], dtype: np.dtype, iterations: int, keep: bool
) -> tuple[np.ndarray, ...]:
    """Return room for every iteration, or for the last two; pages never written cost nothing."""
    problems, n, m = shape
    slots, bases = (iterations + 1, iterations) if keep else (2, 1)
    rows, columns = ROWS * math.ceil(n / ROWS), COLUMNS * math.ceil(m / COLUMNS)
    tape = Tape(
        x=np.empty((problems, slots, rows), dtype),
        y=np.empty((problems, slots, columns), dtype),
        u=np.empty((problems, bases, n)),
        v=np.empty((problems, bases, m)),
        start=np.empty((problems, bases), np.int64),
        segments=np.empty(problems, np.int64),
    )
    return tuple(tape)


def _over_problems(work: Callable[..., None], problem: Problem, given: tuple[Any, ...]) -> None:
    """Call `work(first, step, *given)` so that together the calls see every problem once."""
    worth = problem.cost.numel() * problem.iterations // WORK_PER_THREAD
    threads = min(torch.get_num_threads(), len(problem.cost), worth)
    others = [
        threading.Thread(target=work, args=(first, threads, *given)) for first in range(1, threads)
    ]
    for thread in others:
        thread.start()
    try:
        work(0, max(1, threads), *given)
    finally:
        for thread in others:
            thread.join()
