"""The adjoint of Sinkhorn's iterations on one problem of a batch, in loops that numba compiles.

With S = -C / eps, iteration t is u_t = log a - logsumexp_j(S + v_t-1), then v_t = log b -
logsumexp_i(S + u_t), and the plan is P = exp(S + u_T + v_T). Let Q = P * dL/dP, and w_t, z_t the
derivatives by u_t, v_t. Then

    z_T = Q^T 1,   w_t = [t = T] Q 1 - x_t K h_t,   h_t = z_t y_t / b,
    z_t-1 = -y_t-1 K^T g_t,   g_t = w_t x_t / a,
    dL/dS = Q - K * sum_t (x_t h_t^T + g_t y_t-1^T),
    dL/dlog a = sum_t w_t,   dL/dlog b = sum_t z_t.

Arrays are padded as in `forward`.
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
    copy,
    copy_rows,
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
from nver.scaling.exponentials import exp_row
from nver.scaling.vectors import outer4, step_back


@compiled
@no_type_check
def _entries(cost, scale, u, v, kernel, limits):
    """Fill K = exp(u + v - C / eps), 0 where u or v is minus infinity."""
    n, m = cost.shape
    for i in range(n):
        exp_row(cost[i], scale, v, u[i], kernel[i], limits.flush)
        for j in range(m // 8 * 8, m):
            t = u[i] + v[j] - cost[i, j] * scale
            kernel[i, j] = exp(t) if t > limits.flush else 0.0


@compiled
@no_type_check
def _start(grad, kernel, x, y, factor, w, z, dcost):
    """Set w and z to the sums over rows and columns of Q = grad * x K y, dcost to factor * Q."""
    by = dcost.dtype.type(factor)
    for i in range(dcost.shape[0]):
        total = dcost.dtype.type(0)
        for j in range(dcost.shape[1]):
            q = grad[i, j] * (x[i] * kernel[i, j] * y[j])
            total += q
            z[j] += q
            dcost[i, j] = by * q
        w[i] = total


@compiled
@no_type_check
def _add_row(kernel, total, factor, dcost):
    """Add factor * kernel * total."""
    for j in range(dcost.size):
        dcost[j] += factor * kernel[j] * total[j]


@compiled
@no_type_check
def _add_products(kernel, outer, terms, scale, dcost):
    """Add scale * K * sum over terms of x h^T + g y^T, four rows at a time."""
    xs, hs, gs, ys = outer
    n = dcost.shape[0]
    total = np.empty((4, kernel.shape[1]), kernel.dtype)
    factor = kernel.dtype.type(scale)
    for i in range(0, kernel.shape[0], 4):
        outer4((xs, gs), (hs, ys), terms, i, total)
        for r in range(min(4, n - i)):
            _add_row(kernel[i + r], total[r], factor, dcost[i + r])


@compiled
@no_type_check
def _log_half_step(cost, scale, u, v, g, z, dcost, limits):
    """Go back through u = log a - logsumexp(v - C / eps) where v is no scaling of K and z is 0."""
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            t = u[i] + v[j] - cost[i, j] * scale
            part = g[i] * exp(t) if t > limits.flush else 0.0
            z[j] -= part
            dcost[i, j] += scale * part


@compiled
@no_type_check
def _before(tape, segment, sides, before, scaling, limits):
    """Fill in v at the start of a segment, and as a scaling of its base; False: that is 0."""
    v = tape.v[segment]
    fill(scaling, 0)
    inside = True
    for j in range(v.size):
        before[j] = 0.0 if sides.b[j] > 0 else -np.inf
        if segment > 0:
            before[j] = tape.v[segment - 1, j] + np.log(tape.y[tape.start[segment] - 1, j])
        if sides.b[j] > 0:
            shift = before[j] - v[j]
            inside = inside and -limits.flush > abs(shift)
            scaling[j] = np.exp(shift) if inside else 0.0
    if not inside:
        fill(scaling, 0)
    return inside


@compiled
@no_type_check
def _pull_one(cost, sides, scale, tape, count, given, work, limits):
    """Go back through one problem; `given` holds dL/dplan, w, z and the derivatives' places."""
    grad, w, z, dcost, da, db = given
    kernel, sums, (hs, gs, ys) = work
    before = np.empty(cost.shape[1])
    for segment in range(tape.segments[0] - 1, -1, -1):
        first = tape.start[segment]
        terms = count - first + 1
        u, v = tape.u[segment], tape.v[segment]
        _entries(cost, scale, u, v, kernel, limits)
        if segment == tape.segments[0] - 1:
            _start(grad, kernel, tape.x[count], tape.y[count], -scale, w, z, dcost)
        inside = _before(tape, segment, sides, before, ys[0], limits)
        copy_rows(tape.y[first:count], ys[1:terms])
        for k in range(terms - 1, -1, -1):
            rows = (tape.x[first + k], w, sides.a_inverse, da, gs[k])
            step_back(kernel, rows, (tape.y[first + k], ys[k], z, sides.b_inverse, db, hs[k], sums))
        if not inside:
            _log_half_step(cost, scale, u, before, gs[0], z, dcost, limits)
        _add_products(kernel, (tape.x[first : count + 1], hs, gs, ys), terms, scale, dcost)
        count = first - 1


@compiled_and_kept
@no_type_check
def pull_back_some(first, step, sizes, settings, one, places):
    """Go back through problems first, first + step, ...

    What is given is what `solve_some` got. Of `places` the last four are those of dL/dplan and of
    the derivatives by cost, log a and log b; the last two may be 0.
    """
    problems, n, m, longest, _, _ = sizes
    cost = carray(pointer(places[0], one), (problems, n, m))
    a = carray(pointer(places[1], one), (problems, n))
    b = carray(pointer(places[2], one), (problems, m))
    done = carray(pointer(places[3], np.int64(0)), problems)
    grad = carray(pointer(places[5], one), (problems, n, m))
    dcost = carray(pointer(places[6], one), (problems, n, m))
    dlog_a = carray(pointer(places[7], one), (problems, n))
    dlog_b = carray(pointer(places[8], one), (problems, m))
    limits = limits_of(cost)
    rows, columns = padded(n, m)
    kernel = aligned(rows, columns, cost)
    fill_rows(kernel, 0)
    outer = (
        aligned(longest, columns, cost),
        aligned(longest, rows, cost),
        aligned(longest, columns, cost),
    )
    work = (kernel, aligned(1, columns, cost)[0], outer)
    sides = empty_sides(rows, columns, cost.dtype)
    w, da = np.empty(rows, cost.dtype), np.empty(rows, cost.dtype)
    z, db = np.empty(columns, cost.dtype), np.empty(columns, cost.dtype)
    for p in range(first, problems, step):
        kept, start = length_and_start(sizes, p)
        tape = tape_at(places[4] + start * 8, n, m, kept, one)
        nothing = 0 if tape.segments[0] > 0 else np.nan
        for vector in (w, da, z, db):
            fill(vector, nothing)
        if tape.segments[0] > 0:
            pad_sides(a[p], b[p], sides)
            given = (grad[p], w, z, dcost[p], da, db)
            _pull_one(cost[p], sides, settings[0], tape, done[p], given, work, limits)
        else:
            fill_rows(dcost[p], nothing)
        if places[7] > 0:
            copy(da, dlog_a[p])
            copy(db, dlog_b[p])
