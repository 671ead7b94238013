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

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, from_numpy

from nver.scaling.backward import pull_back_some
from nver.scaling.compiled import AVAILABLE as AVAILABLE
from nver.scaling.compiled import Limits, tape_sizes
from nver.scaling.forward import solve_some
from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution

WORK_PER_THREAD = 4_000_000
"""Entries of K times iterations (about half a millisecond) that pay for starting a thread."""


def _limits(dtype: type[np.floating], widest: float, tiny: float, flush: float) -> tuple[Any, ...]:
    return tuple(Limits(dtype(1 / widest), dtype(widest), dtype(tiny), flush))


_LIMITS = {
    "f": _limits(np.float32, 1e12, 1e-37, -83.0),
    "d": _limits(np.float64, 1e100, 1e-300, -690.0),
}
_NONE = {
    char: (np.empty((0, 0), char), np.empty((0, 0)), np.empty((0, 0), np.int64)) for char in "fd"
}
"""Tapes of no problem, by the costs' type."""


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the scalings of every iteration."""
    cost, a, b = arrays = _arrays(problem.cost, problem.source, problem.target)
    dtype, problems = cost.dtype, len(cost)
    tape = _tape(cost.shape, dtype, problem.iterations) if keep else _NONE[dtype.char]
    found = (
        np.empty(cost.shape, dtype),
        np.empty(a.shape, dtype),
        np.empty(b.shape, dtype),
        np.empty(problems, dtype),
        np.empty(problems, np.int64),
    )
    settings = (1 / problem.eps, int(problem.iterations), float(problem.tolerance), CHECK_EVERY)
    given = (cost, (a, b), settings, tape, found, _LIMITS[dtype.char])
    _over_problems(solve_some, cost.size * problem.iterations, problems, given)
    plan, row, column, error, done = map(from_numpy, found)
    return Solution(plan, row, column, error, done, (arrays, tape, found[4]) if keep else None)


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    (cost, a, b), tape, done = solution.tape
    plans = (*_arrays(solution.plan, grad), done)
    dtype = cost.dtype
    found = (np.empty(cost.shape, dtype), np.empty(a.shape, dtype), np.empty(b.shape, dtype))
    given = (cost, (a, b), 1 / problem.eps, tape, plans, found, _LIMITS[dtype.char])
    _over_problems(pull_back_some, cost.size * problem.iterations, len(cost), given)
    return Gradient(from_numpy(found[0]), from_numpy(found[1]), from_numpy(found[2]))


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Return them in C's order: the loops are compiled for that."""
    return [tensor.contiguous().numpy(force=True) for tensor in tensors]


def _tape(shape: tuple[int, ...], dtype: np.dtype, iterations: int) -> tuple[np.ndarray, ...]:
    """Return room for every iteration; pages never written cost nothing."""
    scalings, potentials, integers = tape_sizes(shape[1], shape[2], iterations + 1)
    return (
        np.empty((shape[0], scalings), dtype),
        np.empty((shape[0], potentials)),
        np.empty((shape[0], integers), np.int64),
    )


def _over_problems(
    run: Callable[..., None], work: int, problems: int, given: tuple[Any, ...]
) -> None:
    """Call `run(first, step, *given)` so that together the calls see every problem once.

    `work` is the entries of K times the iterations.
    """
    if work < 2 * WORK_PER_THREAD or problems == 1:
        run(0, 1, *given)
        return
    threads = min(torch.get_num_threads(), problems, work // WORK_PER_THREAD)
    others = [
        threading.Thread(target=run, args=(first, threads, *given)) for first in range(1, threads)
    ]
    for thread in others:
        thread.start()
    try:
        run(0, threads, *given)
    finally:
        for thread in others:
            thread.join()
