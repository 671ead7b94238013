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
    Limits,
    compiled,
    compiled_and_kept,
    copy,
    empty_sides,
    exp,
    fill,
    fill_rows,
    pad_sides,
    padded,
    tape_of,
)
from nver.scaling.exponentials import exp_row
from nver.scaling.vectors import outer4, sweep_back


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
def _start_row(grad, plan, factor, z, dcost):
    """Add q = grad * plan to z, set dcost to factor * q and return the sum of q."""
    total = dcost.dtype.type(0)
    by = dcost.dtype.type(factor)
    for j in range(dcost.size):
        q = grad[j] * plan[j]
        total += q
        z[j] += q
        dcost[j] = by * q
    return total


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
    """Go back through u = log a - logsumexp(v - C / eps) where v is no scaling of K."""
    fill(z, 0)
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            t = u[i] + v[j] - cost[i, j] * scale
            part = g[i] * exp(t) if t > limits.flush else 0.0
            z[j] -= part
            dcost[i, j] += scale * part


@compiled
@no_type_check
def _before(tape, segment, sides, before, scaling, limits):
    """Fill in v at the start of a segment, and as a scaling of its base; False if it is none."""
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
    return inside


@compiled
@no_type_check
def _pull_one(cost, sides, scale, tape, count, given, work, limits):
    """Go back through one problem; `given` holds w, z, dcost and the derivatives by the weights."""
    w, z, dcost, da, db = given
    kernel, sums, outer = work
    xs, hs, gs, ys = outer
    before = np.empty(cost.shape[1])
    for segment in range(tape.segments[0] - 1, -1, -1):
        first = tape.start[segment]
        u, v = tape.u[segment], tape.v[segment]
        _entries(cost, scale, u, v, kernel, limits)
        k = 0
        for t in range(count, first - 1, -1):
            copy(tape.x[t], xs[k])
            for j in range(z.size):
                hs[k, j] = z[j] * tape.y[t, j] * sides.b_inverse[j]
                db[j] += z[j]
            sweep_back(kernel, hs[k], xs[k], w, sides.a_inverse, gs[k], sums)
            for i in range(w.size):
                da[i] += w[i]
                w[i] = 0
            if t > first:
                copy(tape.y[t - 1], ys[k])
                for j in range(z.size):
                    z[j] = -ys[k, j] * sums[j]
            k += 1
        if _before(tape, segment, sides, before, ys[k - 1], limits):
            for j in range(z.size):
                z[j] = -ys[k - 1, j] * sums[j]
        else:
            fill(ys[k - 1], 0)
            _log_half_step(cost, scale, u, before, gs[k - 1], z, dcost, limits)
        _add_products(kernel, outer, k, scale, dcost)
        count = first - 1


@compiled_and_kept
@no_type_check
def pull_back_some(  # noqa: PLR0913 - plain tuples are much quicker to hand over than one object
    first, step, cost, weights, scale, tape, plans, out, limits
):
    """Go back through problems first, first + step, ...

    `weights` are (a, b), `tape` is the memory of each problem's Tape, `plans` (plan, dL/dplan,
    iterations), `limits` the fields of Limits; `out` takes the derivatives by cost, log a, log b.
    """
    a, b = weights
    plan, grad, iterations = plans
    scalings, potentials, integers = tape
    limits = Limits(*limits)
    n, m = cost.shape[1:]
    rows, columns = padded(n, m)
    slots = scalings.shape[1] // (rows + columns)
    kernel = np.zeros((rows, columns), cost.dtype)
    outer = (
        np.empty((slots, rows), cost.dtype),
        np.empty((slots, columns), cost.dtype),
        np.empty((slots, rows), cost.dtype),
        np.empty((slots, columns), cost.dtype),
    )
    work = (kernel, np.empty(columns, cost.dtype), outer)
    sides = empty_sides(rows, columns, cost.dtype)
    dcost, dlog_a, dlog_b = out
    for p in range(first, cost.shape[0], step):
        one = tape_of(scalings[p], potentials[p], integers[p], n, m)
        if one.segments[0] == 0:
            fill_rows(dcost[p], np.nan)
            fill(dlog_a[p], np.nan)
            fill(dlog_b[p], np.nan)
            continue
        pad_sides(a[p], b[p], sides)
        w, z = np.zeros(rows, cost.dtype), np.zeros(columns, cost.dtype)
        da, db = np.zeros(rows, cost.dtype), np.zeros(columns, cost.dtype)
        for i in range(n):
            w[i] = _start_row(grad[p, i], plan[p, i], -scale, z, dcost[p, i])
        given = (w, z, dcost[p], da, db)
        _pull_one(cost[p], sides, scale, one, iterations[p], given, work, limits)
        copy(da, dlog_a[p])
        copy(db, dlog_b[p])
