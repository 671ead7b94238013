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
call, over problems, as many as torch may use. Arrays are handed over as addresses: with numba's way
of handing over arrays, that took longer than solving a problem of 32 points.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, empty, empty_like

from nver.scaling.backward import pull_back_some
from nver.scaling.compiled import AVAILABLE as AVAILABLE
from nver.scaling.compiled import tape_words
from nver.scaling.forward import solve_some
from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution

WORK_PER_THREAD = 4_000_000
"""Entries of K times iterations (about half a millisecond) that pay for starting a thread."""


_ONE = {torch.float32: np.float32(1), torch.float64: np.float64(1)}


class _Tape(NamedTuple):
    """The arrays that were solved, in C's order, and what `compiled.tapes_at` finds in `memory`."""

    cost: Tensor
    source: Tensor
    target: Tensor
    memory: Tensor


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the scalings of every iteration."""
    cost, a, b = problem.cost.contiguous(), problem.source.contiguous(), problem.target.contiguous()
    problems, n, m = cost.shape
    plan, row, column = empty_like(cost), empty_like(a), empty_like(b)
    error, done = empty(problems, dtype=cost.dtype), empty(problems, dtype=torch.int64)
    tape, memory = None, 0
    if keep:  # pages never written cost nothing
        words = problems * tape_words(n, m, problem.iterations, cost.itemsize)
        tape = _Tape(cost, a, b, empty(words, dtype=torch.float64))
        memory = tape.memory.data_ptr()
    places = (
        *(cost.data_ptr(), a.data_ptr(), b.data_ptr()),
        *(plan.data_ptr(), row.data_ptr(), column.data_ptr(), error.data_ptr(), done.data_ptr()),
        memory,
    )
    _over_problems(solve_some, cost, problem, places)
    return Solution(plan, row, column, error, done, tape)


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    cost, a, b, memory = solution.tape
    grad = grad.contiguous()
    by_cost, by_a, by_b = empty_like(cost), None, None
    if a.requires_grad or b.requires_grad or not cost.requires_grad:
        by_a, by_b = empty_like(a), empty_like(b)
    places = (
        *(cost.data_ptr(), a.data_ptr(), b.data_ptr()),
        *(memory.data_ptr(), solution.iterations.data_ptr(), grad.data_ptr()),
        by_cost.data_ptr(),
        *((0, 0) if by_a is None or by_b is None else (by_a.data_ptr(), by_b.data_ptr())),
    )
    _over_problems(pull_back_some, cost, problem, places)
    return Gradient(by_cost, by_a, by_b)


def _over_problems(
    run: Callable[..., None], cost: Tensor, problem: Problem, places: tuple[int, ...]
) -> None:
    """Call `run(first, step, ...)` so that together the calls see every problem once.

    The arrays go as addresses: whoever calls holds them.
    """
    problems, n, m = sizes = tuple(cost.shape)
    _, _, _, eps, iterations, tolerance = problem
    settings = (1 / eps, int(iterations), float(tolerance), CHECK_EVERY)
    given = (sizes, settings, _ONE[cost.dtype], places)
    work = problems * n * m * iterations
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
