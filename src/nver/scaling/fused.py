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

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nver.scaling.backward import pull_back_some
from nver.scaling.compiled import AVAILABLE as AVAILABLE
from nver.scaling.compiled import Limits, Plans, Tape
from nver.scaling.forward import solve_some
from nver.scaling.problem import CHECK_EVERY, Gradient, Problem, Solution

ROWS, COLUMNS = 4, 16
"""Rows and columns are padded to multiples."""
WORK_PER_THREAD = 4_000_000
"""Entries of K times iterations (about half a millisecond) that pay for starting a thread."""


def _limits(dtype: type[np.floating], widest: float, tiny: float, flush: float) -> Limits:
    return Limits(dtype(1 / widest), dtype(widest), dtype(tiny), flush)


LIMITS = {
    torch.float32: _limits(np.float32, 1e12, 1e-37, -83.0),
    torch.float64: _limits(np.float64, 1e100, 1e-300, -690.0),
}


def solve(problem: Problem, keep: bool) -> Solution:
    """Return the plans; with `keep`, remember the scalings of every iteration."""
    problems, n, m = problem.cost.shape
    cost, a, b = (_array(part) for part in (problem.cost, problem.source, problem.target))
    tape = _empty_tape(problem, keep)
    plan, error = torch.empty_like(problem.cost), problem.cost.new_empty(problems)
    row = torch.empty(problems, n, dtype=torch.float64)
    column = torch.empty(problems, m, dtype=torch.float64)
    iterations = torch.empty(problems, dtype=torch.int64)
    plans = Plans(*(part.numpy() for part in (plan, row, column, error, iterations)))
    settings = (1 / problem.eps, problem.iterations, problem.tolerance, CHECK_EVERY)
    limits = LIMITS[problem.cost.dtype]
    _over_problems(
        lambda first, step: solve_some(first, step, cost, (a, b), settings, tape, plans, limits),
        problem,
    )
    return Solution(plan, row, column, error, iterations, tape if keep else None)


def pull_back(
    problem: Problem, solution: Solution, grad: Float[Tensor, "problems n m"]
) -> Gradient:
    """Return the derivatives of <grad, plan>, those of the iterations that ran."""
    found = Gradient(
        *(torch.empty_like(part) for part in (problem.cost, problem.source, problem.target))
    )
    cost, a, b = (_array(part) for part in (problem.cost, problem.source, problem.target))
    limits = LIMITS[problem.cost.dtype]
    plans = (_array(solution.plan), _array(solution.iterations), _array(grad), limits)
    out = tuple(part.numpy() for part in found)
    _over_problems(
        lambda first, step: pull_back_some(
            first, step, cost, (a, b), 1 / problem.eps, solution.tape, plans, out
        ),
        problem,
    )
    return found


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array


def _empty_tape(problem: Problem, keep: bool) -> Tape:
    """Return room for every iteration, or for the last two; pages never written cost nothing."""
    problems, n, m = problem.cost.shape
    slots, bases = (problem.iterations + 1, problem.iterations) if keep else (2, 1)
    rows, columns = ROWS * math.ceil(n / ROWS), COLUMNS * math.ceil(m / COLUMNS)
    dtype = np.float32 if problem.cost.dtype == torch.float32 else np.float64
    return Tape(
        x=np.empty((problems, slots, rows), dtype),
        y=np.empty((problems, slots, columns), dtype),
        u=np.empty((problems, bases, n)),
        v=np.empty((problems, bases, m)),
        start=np.empty((problems, bases), np.int64),
        segments=np.empty(problems, np.int64),
    )


def _over_problems(work: Callable[[int, int], None], problem: Problem) -> None:
    """Call `work(first, step)` so that together the calls see every problem once."""
    problems = len(problem.cost)
    worth = problem.cost.numel() * problem.iterations // WORK_PER_THREAD
    threads = max(1, min(torch.get_num_threads(), problems, worth))
    others = [threading.Thread(target=work, args=(i, threads)) for i in range(1, threads)]
    for thread in others:
        thread.start()
    try:
        work(0, threads)
    finally:
        for thread in others:
            thread.join()
