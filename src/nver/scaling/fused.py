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

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, empty, empty_like

from nver.scaling.backward import pull_back_some
from nver.scaling.compiled import AVAILABLE as AVAILABLE
from nver.scaling.compiled import tape_words
from nver.scaling.forward import solve_some
from nver.scaling.memory import check_room, too_much
from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution

READS_PLAN = False
WORK_PER_THREAD = 4_000_000
"""Entries of K times iterations (about half a millisecond) that pay for starting a thread."""
MOST_RESERVED = 2**31
"""Bytes of tapes that are reserved for iterations that may never run."""


_ONE = {torch.float32: np.float32(1), torch.float64: np.float64(1)}
_Given = tuple[tuple[int, int, int, int, int, int], tuple[float, int, float, int], Any]
"""Sizes, settings and 1 in the costs' type, as the loops take them."""


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the scalings of every iteration.

    Where the limit on iterations asks for very long tapes, a first solve without them counts the
    iterations that run, and the second keeps as many of each problem: the same numbers.
    """
    cost, a, b, eps, iterations, tolerance = problem
    cost, a, b = cost.contiguous(), a.contiguous(), b.contiguous()
    problems, n, m = cost.shape
    plan, row, column = empty_like(cost), empty_like(a), empty_like(b)
    error, done = empty(problems, dtype=cost.dtype), empty(problems, dtype=torch.int64)
    kept = int(iterations) if keep else 1
    words = tape_words(n, m, kept, cost.itemsize)
    size, layout = problems * words, None
    if keep and 8 * size > MOST_RESERVED:
        counts = solve(problem, keep=False).iterations
        held = int(counts.sum()) * (n + m) * cost.itemsize
        check_room(held, held, int(counts.max()), cost.device)
        layout, size = _layout(counts, cost)
        kept = int(layout[:, 0].max())
    try:
        tapes = empty(size, dtype=torch.float64)  # pages never written cost nothing
    except RuntimeError as refused:
        raise too_much(8 * size, kept) from refused
    settings = (1 / eps, int(iterations), float(tolerance), CHECK_EVERY)
    place = 0 if layout is None else layout.data_ptr()
    given = ((problems, n, m, kept, words, place), settings, _ONE[cost.dtype])
    read = (cost.data_ptr(), a.data_ptr(), b.data_ptr(), done.data_ptr(), tapes.data_ptr())
    written = (plan.data_ptr(), row.data_ptr(), column.data_ptr(), error.data_ptr())
    _over_problems(solve_some, given, (*read, *written))
    tape = (given, read, (cost, a, b, layout, tapes)) if keep else None
    return Solution(plan, row, column, error, done, tape)


def _layout(counts: Tensor, cost: Tensor) -> tuple[Tensor, int]:
    """Return what each problem's tape keeps and where it starts, and the numbers of 8 bytes."""
    _, n, m = cost.shape
    kept = counts + 1  # the step in which a problem stops writes once more
    words = [tape_words(n, m, each, cost.itemsize) for each in kept.tolist()]
    ends = torch.tensor(words).cumsum(0)
    return torch.stack([kept, ends - torch.tensor(words)], dim=1), int(ends[-1])


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    given, read, (cost, a, b, *_) = solution.tape
    grad, by_cost = grad.contiguous(), empty_like(cost)
    by_weights = problem.source.requires_grad or problem.target.requires_grad
    if problem.cost.requires_grad and not by_weights:
        places = (*read, grad.data_ptr(), by_cost.data_ptr(), 0, 0)
        _over_problems(pull_back_some, given, places)
        return Gradient(by_cost, None, None)
    by_a, by_b = empty_like(a), empty_like(b)
    written = (by_cost.data_ptr(), by_a.data_ptr(), by_b.data_ptr())
    _over_problems(pull_back_some, given, (*read, grad.data_ptr(), *written))
    return Gradient(by_cost, by_a, by_b)


def _over_problems(run: Callable[..., None], given: _Given, places: tuple[int, ...]) -> None:
    """Call `run(first, step, ...)` so that together the calls see every problem once.

    The arrays go as addresses: whoever calls holds them.
    """
    sizes, settings, one = given
    problems = sizes[0]
    if problems == 1 or (work := math.prod(sizes[:3]) * settings[1]) < 2 * WORK_PER_THREAD:
        run(0, 1, sizes, settings, one, places)
        return
    threads = min(torch.get_num_threads(), problems, work // WORK_PER_THREAD)
    others = [
        threading.Thread(target=run, args=(first, threads, *given, places))
        for first in range(1, threads)
    ]
    for thread in others:
        thread.start()
    try:
        run(0, threads, *given, places)
    finally:
        for thread in others:
            thread.join()
