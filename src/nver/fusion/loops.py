"""The loops of attention among few tokens, its residual, its LayerNorm and its costs, for the CPU.

Numba compiles them. Arrays are C-contiguous. With D tokens and B clips, x = i B + c stands for clip
c of token i, and r pairs it with clip c of token j = (i + r) modulo D: every sum is elementwise
over rows of D B numbers, one of them shifted by r B. Rows that are read shifted are held twice, end
to end. The modules that call them have the same as torch operations, for GPUs and for where numba
is missing.

One array is written per loop: with more the compiler does not vectorise.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from nver.scaling.compiled import compiled, compiled_and_kept, exp


@compiled
@no_type_check
def _twice(values, out):
    """Write rows [rows, n] end to end with themselves."""
    rows, n = values.shape
    for d in range(rows):
        head, tail = out[d, :n], out[d, n:]
        for x in range(n):
            head[x] = values[d, x]
        for x in range(n):
            tail[x] = values[d, x]


@compiled
@no_type_check
def _times(a, b, out):
    """Set out to a * b."""
    for r in range(out.shape[0]):
        for x in range(out.shape[1]):
            out[r, x] = a[r, x] * b[r, x]


@compiled
@no_type_check
def _sums(rows, out):
    """Set out to the sum of the rows."""
    out[:] = 0
    for r in range(rows.shape[0]):
        for x in range(out.size):
            out[x] += rows[r, x]


@compiled
@no_type_check
def _shift(rows, by):
    """Add a number to each row."""
    for d in range(rows.shape[0]):
        more = by[d]
        for x in range(rows.shape[1]):
            rows[d, x] += more


@compiled
@no_type_check
def _row_sums(rows, out):
    """Set out[d] to the sum of row d."""
    for d in range(rows.shape[0]):
        total = rows.dtype.type(0)
        for x in range(rows.shape[1]):
            total += rows[d, x]
        out[d] = total


@compiled
@no_type_check
def _products(a, b, clips, out):
    """Set out[r, x] to the sum over d of a[d, x] * b[d, x + r clips]; b is held twice."""
    depth, n = a.shape
    whole = depth - depth % 3
    for r in range(out.shape[0]):
        row, s = out[r], r * clips
        for x in range(n):
            row[x] = 0
        for d in range(0, whole, 3):
            b0, b1, b2 = b[d, s : s + n], b[d + 1, s : s + n], b[d + 2, s : s + n]
            for x in range(n):
                row[x] += a[d, x] * b0[x] + a[d + 1, x] * b1[x] + a[d + 2, x] * b2[x]
        for d in range(whole, depth):
            b0 = b[d, s : s + n]
            for x in range(n):
                row[x] += a[d, x] * b0[x]


@compiled
@no_type_check
def _mix(weights, b, clips, out):
    """Set out[d, x] to the sum over r of weights[r, x] * b[d, x + r clips]; b is held twice."""
    tokens, n = weights.shape
    for d in range(out.shape[0]):
        row = out[d]
        for x in range(n):
            row[x] = weights[0, x] * b[d, x]
        for r in range(1, tokens - 1, 2):
            b0, b1 = b[d, r * clips : r * clips + n], b[d, (r + 1) * clips : (r + 1) * clips + n]
            for x in range(n):
                row[x] += weights[r, x] * b0[x] + weights[r + 1, x] * b1[x]
        if tokens % 2 == 0:
            b0 = b[d, (tokens - 1) * clips : (tokens - 1) * clips + n]
            for x in range(n):
                row[x] += weights[tokens - 1, x] * b0[x]


@compiled
@no_type_check
def _mix_back(weights, b, clips, out):
    """Set out[d, x + r clips] to the sum over r of weights[r, x] * b[d, x]; both are held twice."""
    tokens, n = weights.shape[0], out.shape[1]
    for d in range(out.shape[0]):
        row = out[d]
        for x in range(n):
            row[x] = weights[0, x] * b[d, x]
        for r in range(1, tokens):
            s = (tokens - r) * clips
            w0, b0 = weights[r, s : s + n], b[d, s : s + n]
            for x in range(n):
                row[x] += w0[x] * b0[x]


@compiled
@no_type_check
def _by_key(values, clips, out):
    """Set out[r, x] to the value of key j."""
    tokens = out.shape[0]
    for r in range(tokens):
        for i in range(tokens):
            for x in range(i * clips, (i + 1) * clips):
                out[r, x] = values[(i + r) % tokens]


@compiled
@no_type_check
def _softmax(scores, scale, shift, total, weights):
    """Set weights[r, x] to the softmax over r of scale * scores[r, x] + shift[r, x]."""
    tokens, n = scores.shape
    total[:] = -np.inf
    for r in range(tokens):
        for x in range(n):
            scores[r, x] = scores[r, x] * scale + shift[r, x]
        for x in range(n):
            total[x] = scores[r, x] if scores[r, x] > total[x] else total[x]
    for r in range(tokens):
        for x in range(n):
            weights[r, x] = exp(scores[r, x] - total[x])
    _sums(weights, total)
    for x in range(n):
        total[x] = 1 / total[x]
    for r in range(tokens):
        for x in range(n):
            weights[r, x] *= total[x]


@compiled
@no_type_check
def _surviving(bits, first, levels, shares, clips, out):
    """Set out[r, x] to the surviving share of key j; bits [clips, pairs], a head's from `first`."""
    tokens = out.shape[0]
    for r in range(tokens):
        for i in range(tokens):
            j = (i + r) % tokens
            for c in range(clips):
                drawn = bits[c, first + r * tokens + i]
                count = 0
                for level in range(levels.shape[0]):
                    count += 1 if drawn > levels[level, j] else 0
                out[r, i * clips + c] = count * shares[j]


@compiled
@no_type_check
def _softmax_back(weights, gradient, scale, kept, total):
    """Set kept to the gradient at the unscaled scores, from what was kept and that at it."""
    tokens, n = kept.shape
    _times(kept, gradient, kept)
    _sums(kept, total)
    for r in range(tokens):
        for x in range(n):
            kept[r, x] = (kept[r, x] - weights[r, x] * total[x]) * scale


@compiled_and_kept
@no_type_check
def attend(projected, shift, log_counts, bits, levels, shares, weights, survivors, seen):  # noqa: PLR0913 - arrays
    """Add `shift` to the projections, and set what every token sees.

    Shapes, with n = tokens * clips: projected [members, 3, heads, depth, n]; shift [members, 3,
    heads, depth]; log_counts, shares [tokens]; bits [members, clips, heads * tokens * tokens], or
    [0, 0, 0] where nothing is dropped; levels [copies, tokens]; weights, survivors [members, heads,
    tokens, n]; seen [members, heads, depth, n].
    """
    members, _, heads, depth, n = projected.shape
    tokens = weights.shape[2]
    clips, pairs = n // tokens, tokens * tokens
    scale = projected.dtype.type(1 / math.sqrt(depth))
    twice = np.empty((depth, 2 * n), projected.dtype)
    scores = np.empty((tokens, n), projected.dtype)
    counted = np.empty_like(scores)
    total = np.empty(n, projected.dtype)
    _by_key(log_counts, clips, counted)
    for m in range(members):
        for h in range(heads):
            for part in range(3):
                _shift(projected[m, part, h], shift[m, part, h])
            own = weights[m, h]
            _twice(projected[m, 1, h], twice)
            _products(projected[m, 0, h], twice, clips, scores)
            _softmax(scores, scale, counted, total, own)
            kept = own
            if bits.shape[0] > 0:
                left = survivors[m, h]
                _surviving(bits[m], h * pairs, levels, shares, clips, left)
                _times(own, left, scores)
                kept = scores
            _twice(projected[m, 2, h], twice)
            _mix(kept, twice, clips, seen[m, h])


@compiled_and_kept
@no_type_check
def attend_back(d_seen, projected, weights, survivors, d_projected, d_shift):
    """Set d_projected and d_shift; shapes as in `attend`. No survivors: nothing was dropped."""
    members, _, heads, depth, n = projected.shape
    tokens = weights.shape[2]
    clips = n // tokens
    scale = projected.dtype.type(1 / math.sqrt(depth))
    wide = np.empty((depth, 2 * n), projected.dtype)
    wide_weights = np.empty((tokens, 2 * n), projected.dtype)
    kept = np.empty((tokens, n), projected.dtype)
    d_kept = np.empty_like(kept)
    total = np.empty(n, projected.dtype)
    for m in range(members):
        for h in range(heads):
            own, given = weights[m, h], d_seen[m, h]
            if survivors.shape[0] > 0:
                _times(own, survivors[m, h], kept)
            else:
                kept[:] = own
            _twice(kept, wide_weights)
            _twice(given, wide)
            _mix_back(wide_weights, wide, clips, d_projected[m, 2, h])
            _twice(projected[m, 2, h], wide)
            _products(given, wide, clips, d_kept)
            _softmax_back(own, d_kept, scale, kept, total)
            _twice(projected[m, 1, h], wide)
            _mix(kept, wide, clips, d_projected[m, 0, h])
            _twice(kept, wide_weights)
            _twice(projected[m, 0, h], wide)
            _mix_back(wide_weights, wide, clips, d_projected[m, 1, h])
            for part in range(3):
                _row_sums(d_projected[m, part, h], d_shift[m, part, h])


@compiled
@no_type_check
def _normalise(row, eps):
    """Bring a row to mean 0 and deviation 1; return its scale."""
    total = row.dtype.type(0)
    for w in range(row.size):
        total += row[w]
    mean = row.dtype.type(total / row.size)
    total = row.dtype.type(0)
    for w in range(row.size):
        apart = row[w] - mean
        total += apart * apart
    factor = row.dtype.type(1 / math.sqrt(total / row.size + eps))
    for w in range(row.size):
        row[w] = (row[w] - mean) * factor
    return factor


@compiled
@no_type_check
def _normalise_back(gradient, weight, normed, scale):
    """Turn the gradient at a normalised row into that at the row."""
    shared, along = gradient.dtype.type(0), gradient.dtype.type(0)
    for w in range(gradient.size):
        g = gradient[w] * weight[w]
        shared += g
        along += g * normed[w]
    shared = gradient.dtype.type(shared * scale / gradient.size)
    along = gradient.dtype.type(along * scale / gradient.size)
    for w in range(gradient.size):
        gradient[w] = gradient[w] * weight[w] * scale - shared - normed[w] * along


@compiled_and_kept
@no_type_check
def add_and_norm(x, joined, counts, weight, bias, eps, out, normed, scale):  # noqa: PLR0913 - arrays
    """Set out[m, c, k] to counts[k] times the LayerNorm of x[m, k, c] + joined[m, k, c].

    Shapes: x, joined, normed [members, distinct, clips, width]; out [members, clips, distinct,
    width]; weight, bias [members, width]; scale [members, distinct, clips]. `normed` is what weight
    and bias are applied to.
    """
    members, distinct, clips, width = joined.shape
    for m in range(members):
        for k in range(distinct):
            for c in range(clips):
                for w in range(width):
                    normed[m, k, c, w] = x[m, k, c, w] + joined[m, k, c, w]
                scale[m, k, c] = _normalise(normed[m, k, c], eps)
        for c in range(clips):
            for k in range(distinct):
                for w in range(width):
                    value = normed[m, k, c, w] * weight[m, w] + bias[m, w]
                    out[m, c, k, w] = value * counts[k]


@compiled_and_kept
@no_type_check
def add_and_norm_back(gradient, counts, weight, normed, scale, d_x, d_weight, d_bias):
    """Set d_x, which is d_joined too, and add to d_weight and d_bias; shapes as forward."""
    members, distinct, clips, width = normed.shape
    for m in range(members):
        for c in range(clips):
            for k in range(distinct):
                for w in range(width):
                    d_x[m, k, c, w] = gradient[m, c, k, w] * counts[k]
                for w in range(width):
                    d_weight[m, w] += d_x[m, k, c, w] * normed[m, k, c, w]
                for w in range(width):
                    d_bias[m, w] += d_x[m, k, c, w]
                _normalise_back(d_x[m, k, c], weight[m], normed[m, k, c], scale[m, k, c])


@compiled_and_kept
@no_type_check
def costs(x, y, out):
    """Set out[m, i, j] to ||x[m, i] - y[m, j]|| over the largest of member m, 0 if all are 0."""
    members, n, width = x.shape
    for m in range(members):
        most = x.dtype.type(0)
        for i in range(n):
            for j in range(y.shape[1]):
                total = x.dtype.type(0)
                for w in range(width):
                    apart = x[m, i, w] - y[m, j, w]
                    total += apart * apart
                out[m, i, j] = math.sqrt(total)
                most = max(most, out[m, i, j])
        scale = x.dtype.type(1 / most if most > 0 else 1)
        for i in range(n):
            for j in range(y.shape[1]):
                out[m, i, j] *= scale
