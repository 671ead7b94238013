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
    Tape,
    compiled,
    compiled_and_kept,
    copy,
    empty_sides,
    exp,
    fill,
    fill_rows,
    pad_sides,
)


@compiled
@no_type_check
def _entries(cost, scale, u, v, kernel, limits):
    """Fill K = exp(u + v - C / eps), 0 where u or v is minus infinity."""
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            t = u[i] + v[j] - cost[i, j] * scale
            kernel[i, j] = exp(t) if t > limits.flush else 0.0


@compiled
@no_type_check
def _sweep(kernel, h, x, w, a_inverse, g, sums):
    """Do w -= x (K h), g = w x / a, sums = K^T g in one reading of K."""
    zero = kernel.dtype.type(0)
    fill(sums, zero)
    for i in range(0, kernel.shape[0], 4):
        s0, s1, s2, s3 = zero, zero, zero, zero
        for j in range(kernel.shape[1]):
            s0 += kernel[i, j] * h[j]
            s1 += kernel[i + 1, j] * h[j]
            s2 += kernel[i + 2, j] * h[j]
            s3 += kernel[i + 3, j] * h[j]
        w[i] -= x[i] * s0
        w[i + 1] -= x[i + 1] * s1
        w[i + 2] -= x[i + 2] * s2
        w[i + 3] -= x[i + 3] * s3
        g0 = w[i] * x[i] * a_inverse[i]
        g1 = w[i + 1] * x[i + 1] * a_inverse[i + 1]
        g2 = w[i + 2] * x[i + 2] * a_inverse[i + 2]
        g3 = w[i + 3] * x[i + 3] * a_inverse[i + 3]
        g[i], g[i + 1], g[i + 2], g[i + 3] = g0, g1, g2, g3
        for j in range(kernel.shape[1]):
            sums[j] += (g0 * kernel[i, j] + g1 * kernel[i + 1, j]) + (
                g2 * kernel[i + 2, j] + g3 * kernel[i + 3, j]
            )


@compiled
@no_type_check
def _add_products(kernel, outer, terms, scale, dcost):
    """Add scale * K * sum over terms of x h^T + g y^T; four rows, two terms at a time."""
    xs, hs, gs, ys = outer
    n, m = dcost.shape
    columns = kernel.shape[1]
    total = np.empty((4, columns), kernel.dtype)
    if terms % 2:
        fill(xs[terms], 0)
        fill(hs[terms], 0)
        fill(gs[terms], 0)
        fill(ys[terms], 0)
    factor = kernel.dtype.type(scale)
    for i in range(0, kernel.shape[0], 4):
        fill_rows(total, 0)
        for k in range(0, terms, 2):
            for r in range(0, 4, 2):
                x0, x1, g0, g1 = xs[k, i + r], xs[k + 1, i + r], gs[k, i + r], gs[k + 1, i + r]
                q = i + r + 1
                w0, w1, f0, f1 = xs[k, q], xs[k + 1, q], gs[k, q], gs[k + 1, q]
                for j in range(columns):
                    h0, h1, y0, y1 = hs[k, j], hs[k + 1, j], ys[k, j], ys[k + 1, j]
                    total[r, j] += (x0 * h0 + x1 * h1) + (g0 * y0 + g1 * y1)
                    total[r + 1, j] += (w0 * h0 + w1 * h1) + (f0 * y0 + f1 * y1)
        for r in range(min(4, n - i)):
            for j in range(m):
                dcost[i + r, j] += factor * kernel[i + r, j] * total[r, j]


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
def _pull_one(cost, sides, scale, tape, ends, given, work, limits):
    """Go back through one problem; `given` holds w, z, dcost and the derivatives by the weights."""
    count, segments = ends
    w, z, dcost, da, db = given
    kernel, sums, outer = work
    xs, hs, gs, ys = outer
    before = np.empty(cost.shape[1])
    for segment in range(segments - 1, -1, -1):
        first = tape.start[segment]
        u, v = tape.u[segment], tape.v[segment]
        _entries(cost, scale, u, v, kernel, limits)
        k = 0
        for t in range(count, first - 1, -1):
            copy(tape.x[t], xs[k])
            for j in range(z.size):
                hs[k, j] = z[j] * tape.y[t, j] * sides.b_inverse[j]
                db[j] += z[j]
            _sweep(kernel, hs[k], xs[k], w, sides.a_inverse, gs[k], sums)
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

    `weights` are (a, b), `plans` (plan, iterations, dL/dplan), `tape` the fields of a Tape and
    `limits` of Limits; `out` takes the derivatives by cost, log a and log b.
    """
    a, b = weights
    plan, iterations, grad = plans
    tape = Tape(*tape)
    limits = Limits(*limits)
    rows, columns, slots = tape.x.shape[2], tape.y.shape[2], tape.x.shape[1]
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
    n, m = cost.shape[1:]
    factor = cost.dtype.type(scale)
    for p in range(first, cost.shape[0], step):
        if tape.segments[p] == 0:
            fill_rows(dcost[p], np.nan)
            fill(dlog_a[p], np.nan)
            fill(dlog_b[p], np.nan)
            continue
        pad_sides(a[p], b[p], sides)
        w, z = np.zeros(rows, cost.dtype), np.zeros(columns, cost.dtype)
        da, db = np.zeros(rows, cost.dtype), np.zeros(columns, cost.dtype)
        for i in range(n):
            for j in range(m):
                q = grad[p, i, j] * plan[p, i, j]
                w[i] += q
                z[j] += q
                dcost[p, i, j] = -factor * q
        one = Tape(tape.x[p], tape.y[p], tape.u[p], tape.v[p], tape.start[p], tape.segments)
        ends = (iterations[p], tape.segments[p])
        _pull_one(cost[p], sides, scale, one, ends, (w, z, dcost[p], da, db), work, limits)
        copy(da, dlog_a[p])
        copy(db, dlog_b[p])
