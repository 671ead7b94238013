"""Sinkhorn's iterations on one problem of a batch, in loops that numba compiles.

Arrays are padded with zeros to whole blocks (rows by 4, columns by 16), so that no loop has a
remainder; `cost` and `plan` have the size of the problem. `scale` is 1 / eps.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

from typing import no_type_check

import numpy as np

from nver.scaling.compiled import (
    aligned,
    carray,
    compiled,
    compiled_and_kept,
    empty_sides,
    exp,
    fill,
    fill_rows,
    length_and_start,
    limits_of,
    pad_sides,
    padded,
    pointer,
    tape_at,
)
from nver.scaling.exponentials import exp_row, most
from nver.scaling.vectors import divide, sweep


@compiled
@no_type_check
def _row_step(cost, a, scale, u, v, kernel, limits):
    """Set u = log a - logsumexp_j(v - C / eps) and K = exp(u + v - C / eps); False: no number."""
    n, m = cost.shape
    for i in range(n):
        u[i] = -np.inf
        if a[i] == 0:
            fill(kernel[i], 0)
            continue
        largest = most(cost[i], scale, v)
        for j in range(m // 8 * 8, m):
            t = v[j] - cost[i, j] * scale
            largest = t if (t > largest) | (t != t) else largest
        if not np.isfinite(largest):
            return False
        total = exp_row(cost[i], scale, v, -largest, kernel[i], limits.flush)
        for j in range(m // 8 * 8, m):
            t = v[j] - cost[i, j] * scale - largest
            e = 0.0 if t < limits.flush else exp(t)
            kernel[i, j] = e
            total += e
        factor = a[i] / total
        u[i] = np.log(factor) - largest
        for j in range(m):
            kernel[i, j] *= kernel.dtype.type(factor)
    return True


@compiled
@no_type_check
def _column_factors(kernel, b, v, factors, limits):
    """Scale the columns of K to b, and v with them; False, and nothing done, where K lost mass."""
    n, m = kernel.shape
    fill(factors, 0)
    for i in range(n):
        for j in range(m):
            factors[j] += kernel[i, j]
    outside = 0
    for j in range(m):
        factors[j] = b[j] / factors[j] if factors[j] > 0 else 0.0
        fits = 0 < factors[j] <= limits.widest
        outside += 0 if fits or b[j] == 0 else 1
    if outside > 0:
        return False
    for j in range(v.size):
        v[j] = v[j] + np.log(factors[j]) if b[j] > 0 else -np.inf
    for i in range(n):
        for j in range(m):
            kernel[i, j] *= factors[j]
    return True


@compiled
@no_type_check
def _column_step(cost, b, scale, u, v, kernel, limits):
    """Set v = log b - logsumexp_i(u - C / eps) and K = exp(u + v - C / eps); False: no number."""
    n, m = cost.shape
    largest = np.empty(m)
    fill(largest, -np.inf)
    for i in range(n):
        for j in range(m):
            t = u[i] - cost[i, j] * scale
            largest[j] = t if t > largest[j] else largest[j]
    totals = np.zeros(m)
    for i in range(n):
        for j in range(m):
            t = u[i] - cost[i, j] * scale - largest[j]
            e = 0.0 if t < limits.flush else exp(t)
            kernel[i, j] = e
            totals[j] += e
    for j in range(m):
        if b[j] > 0 and not np.isfinite(largest[j]):
            return False
        v[j] = np.log(b[j]) - largest[j] - np.log(totals[j]) if b[j] > 0 else -np.inf
        totals[j] = b[j] / totals[j] if b[j] > 0 else 0.0
    for i in range(n):
        for j in range(m):
            kernel[i, j] *= kernel.dtype.type(totals[j])
    return True


@compiled
@no_type_check
def _log_step(cost, sides, scale, u, v, kernel, limits, factors):
    """Do one iteration on logarithms from v; its plan becomes K. False: it is not a number."""
    if not _row_step(cost, sides.a, scale, u, v, kernel, limits):
        return False
    if _column_factors(kernel, sides.b, v, factors, limits):
        return True
    return _column_step(cost, sides.b, scale, u, v, kernel, limits)


@compiled
@no_type_check
def _ones(weights, scaling):
    """Set the scaling 1, 0 for weight 0."""
    for i in range(weights.size):
        scaling[i] = 1 if weights[i] > 0 else 0


@compiled
@no_type_check
def _absorb(base, scaling, out):
    """Set the potential that base and scaling are together."""
    for j in range(base.size):
        out[j] = base[j] + np.log(scaling[j])


@compiled
@no_type_check
def _potential(base, scaling, scale, out):
    """Set the potential in units of the cost that base and scaling are together."""
    for j in range(base.size):
        out[j] = (base[j] + np.log(scaling[j])) / scale


@compiled
@no_type_check
def _iterate(cost, sides, settings, tape, work, limits, plan):
    """Return iterations done and segments (0: it is not a number).

    `work` has K, the columns' sums and their factors. In float32 a sweep's error is rounded: only
    the plan's own ends the iteration.
    """
    scale, iterations, tolerance, every = settings
    x, y, u, v, start, _ = tape
    kernel, sums, factors = work
    slots, bases = x.shape[0], u.shape[0]
    ranges = (limits.tiny, limits.least, limits.widest)
    _ones(sides.b, y[0])
    for j in range(v.shape[1]):
        v[0, j] = 0 if sides.b[j] > 0 else -np.inf
    t, segment = 0, 0
    absorb = True
    while t < iterations:
        old, new = t % slots, (t + 1) % slots
        if not absorb:
            error, outside = sweep(kernel, sides.a, y[old], x[old], x[new], sums, ranges)
            if (
                tolerance > 0
                and t % every == 0
                and error <= tolerance
                and _finish(kernel, x[old], y[old], sides, plan) <= tolerance
            ):
                break
            absorb = outside + divide(sides.b, sums, y[new], ranges) > 0
            if absorb:
                _absorb(v[segment % bases], y[old], v[(segment + 1) % bases])
                segment += 1
        if absorb:
            here = segment % bases
            if not _log_step(cost, sides, scale, u[here], v[here], kernel, limits, factors):
                return t, 0
            start[here] = t + 1
            _ones(sides.a, x[new])
            _ones(sides.b, y[new])
            absorb = False
        t += 1
    return t, segment + 1


@compiled
@no_type_check
def _finish(kernel, x, y, sides, plan):
    """Write the plan x K y; return its marginal error."""
    n, m = plan.shape
    columns = np.zeros(m)
    error = 0.0
    for i in range(n):
        row = 0.0
        for j in range(m):
            plan[i, j] = x[i] * kernel[i, j] * y[j]
            row += plan[i, j]
            columns[j] += plan[i, j]
        error += abs(row - sides.a[i])
    for j in range(m):
        error += abs(columns[j] - sides.b[j])
    return error


@compiled_and_kept
@no_type_check
def solve_some(first, step, sizes, settings, one, places):
    """Solve problems first, first + step, ..., each in the same memory.

    `sizes` are problems, n, m, the iterations that a tape keeps (or 1, where none is wanted), the
    numbers of 8 bytes from one tape to the next, and 0, or the address of what `length_and_start`
    reads; `settings` are 1 / eps, iterations, tolerance and iterations between checks; `one` is 1
    in the costs' type. `places` are addresses: cost, a, b, iterations done, tapes, plan, row,
    column, error.
    """
    problems, n, m, _, _, _ = sizes
    cost = carray(pointer(places[0], one), (problems, n, m))
    a = carray(pointer(places[1], one), (problems, n))
    b = carray(pointer(places[2], one), (problems, m))
    done = carray(pointer(places[3], np.int64(0)), problems)
    plan = carray(pointer(places[5], one), (problems, n, m))
    row = carray(pointer(places[6], one), (problems, n))
    column = carray(pointer(places[7], one), (problems, m))
    error = carray(pointer(places[8], one), problems)
    limits = limits_of(cost)
    rows, columns = padded(n, m)
    kernel = aligned(rows, columns, cost)
    fill_rows(kernel, 0)
    work = (kernel, aligned(1, columns, cost)[0], np.empty(columns))
    sides = empty_sides(rows, columns, cost.dtype)
    for p in range(first, problems, step):
        pad_sides(a[p], b[p], sides)
        kept, start = length_and_start(sizes, p)
        tape = tape_at(places[4] + start * 8, n, m, kept, one)
        count, segments = _iterate(cost[p], sides, settings, tape, work, limits, plan[p])
        tape.segments[0] = segments
        done[p] = count
        if segments == 0:
            fill_rows(plan[p], np.nan)
            fill(row[p], np.nan)
            fill(column[p], np.nan)
            error[p] = np.nan
            continue
        last, here = count % tape.x.shape[0], (segments - 1) % tape.u.shape[0]
        error[p] = _finish(kernel, tape.x[last], tape.y[last], sides, plan[p])
        _potential(tape.u[here], tape.x[last], settings[0], row[p])
        _potential(tape.v[here], tape.y[last], settings[0], column[p])
