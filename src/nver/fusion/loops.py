"""The loops of attention among few tokens, and of the costs between them, for the CPU.

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
def _side_by_side(own, images, by, out):
    """Set rows of out to those of `own`, then of each image, plus a number each."""
    n, clips = own.shape[1], images.shape[2]
    for d in range(out.shape[0]):
        more, row, first = by[d], own[d], out[d, :n]
        for x in range(n):
            first[x] = row[x] + more
        for k in range(images.shape[0]):
            image, later = images[k, d], out[d, n + k * clips : n + (k + 1) * clips]
            for x in range(clips):
                later[x] = image[x] + more


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
def _softmax(scores, scale, counts, total, weights):
    """Set weights[r, x] to the softmax over r of scale * scores[r, x], counts[r, x] of each."""
    tokens, n = scores.shape
    total[:] = -np.inf
    for r in range(tokens):
        for x in range(n):
            total[x] = scores[r, x] if scores[r, x] > total[x] else total[x]
    for r in range(tokens):
        for x in range(n):
            weights[r, x] = counts[r, x] * exp((scores[r, x] - total[x]) * scale)
    _sums(weights, total)
    for x in range(n):
        total[x] = 1 / total[x]
    for r in range(tokens):
        for x in range(n):
            weights[r, x] *= total[x]


@compiled
@no_type_check
def _turn(bits, out):
    """Set out [pairs, clips] to the transpose of bits."""
    for c in range(bits.shape[0]):
        for p in range(bits.shape[1]):
            out[p, c] = bits[c, p]


@compiled
@no_type_check
def _surviving(bits, levels, shares, out):
    """Set out[r, i clips + c] to the surviving share of key j; bits [pairs, clips]."""
    tokens, clips = out.shape[0], bits.shape[1]
    for r in range(tokens):
        for i in range(tokens):
            j = (i + r) % tokens
            share, drawn = shares[j], bits[r * tokens + i]
            row = out[r, i * clips : (i + 1) * clips]
            for c in range(clips):
                row[c] = 0
            for n in range(levels.shape[0]):
                level = levels[n, j]
                for c in range(clips):
                    row[c] += share if drawn[c] > level else 0


@compiled
@no_type_check
def _softmax_back(weights, kept, scale, gradient, total):
    """Turn the gradient at the factors of `kept` into that at the unscaled scores."""
    tokens, n = kept.shape
    _times(kept, gradient, gradient)
    _sums(gradient, total)
    for r in range(tokens):
        for x in range(n):
            gradient[r, x] = (gradient[r, x] - weights[r, x] * total[x]) * scale


@compiled_and_kept
@no_type_check
def attend(own, images, shift, counts, bits, levels, shares, split, weights, kept, seen):  # noqa: PLR0913 - arrays
    """Set `split` to the shifted projections of all tokens, and `seen` to what every token sees.

    Shapes, with n = tokens * clips: own [members, 3, heads, depth, own clips], images [images,
    members, 3, heads, depth, clips]; shift [members, 3, heads, depth]; counts, shares [tokens];
    bits [members, clips, heads * tokens * tokens], or [0, 0, 0] where nothing is dropped; levels
    [copies, tokens]; split [members, 3, heads, depth, n]; weights, kept (the same array where
    nothing is dropped) [members, heads, tokens, n]; seen [members, heads, depth, n].
    """
    members, _, heads, depth, n = split.shape
    tokens = weights.shape[2]
    clips, pairs = n // tokens, tokens * tokens
    scale = split.dtype.type(1 / math.sqrt(depth))
    twice = np.empty((depth, 2 * n), split.dtype)
    scores = np.empty((tokens, n), split.dtype)
    counted = np.empty_like(scores)
    total = np.empty(n, split.dtype)
    drawn = np.empty((bits.shape[2], bits.shape[1]), bits.dtype)
    _by_key(counts, clips, counted)
    for m in range(members):
        if bits.shape[0] > 0:
            _turn(bits[m], drawn)
        for h in range(heads):
            for part in range(3):
                _side_by_side(
                    own[m, part, h], images[:, m, part, h], shift[m, part, h], split[m, part, h]
                )
            _twice(split[m, 1, h], twice)
            _products(split[m, 0, h], twice, clips, scores)
            _softmax(scores, scale, counted, total, weights[m, h])
            if bits.shape[0] > 0:
                _surviving(drawn[h * pairs : (h + 1) * pairs], levels, shares, scores)
                _times(weights[m, h], scores, kept[m, h])
            _twice(split[m, 2, h], twice)
            _mix(kept[m, h], twice, clips, seen[m, h])


@compiled_and_kept
@no_type_check
def attend_back(d_seen, split, weights, kept, d_projected, d_shift):
    """Set d_projected, shaped as `split`, and d_shift; shapes as in `attend`."""
    members, _, heads, depth, n = split.shape
    tokens = weights.shape[2]
    clips = n // tokens
    scale = split.dtype.type(1 / math.sqrt(depth))
    wide = np.empty((depth, 2 * n), split.dtype)
    wide_weights = np.empty((tokens, 2 * n), split.dtype)
    d_scores = np.empty((tokens, n), split.dtype)
    total = np.empty(n, split.dtype)
    for m in range(members):
        for h in range(heads):
            given, made = d_seen[m, h], d_projected[m]
            _twice(kept[m, h], wide_weights)
            _twice(given, wide)
            _mix_back(wide_weights, wide, clips, made[2, h])
            _twice(split[m, 2, h], wide)
            _products(given, wide, clips, d_scores)
            _softmax_back(weights[m, h], kept[m, h], scale, d_scores, total)
            _twice(split[m, 1, h], wide)
            _mix(d_scores, wide, clips, made[0, h])
            _twice(d_scores, wide_weights)
            _twice(split[m, 0, h], wide)
            _mix_back(wide_weights, wide, clips, made[1, h])
            for part in range(3):
                _row_sums(made[part, h], d_shift[m, part, h])


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
