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

from nver.scaling.compiled import carray, compiled, compiled_and_kept, exp, pointer
from nver.scaling.forward import solve_some


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
def _sums(rows, out):
    """Set out to the sum of the rows."""
    out[:] = 0
    for r in range(rows.shape[0]):
        for x in range(out.size):
            out[x] += rows[r, x]


@compiled
@no_type_check
def _tokens(projected, m, first, shift, out):
    """Set out [depth, n] to rows of all tokens, from row `first` on, shifted; see `attend`."""
    clips = projected.shape[3]
    for d in range(out.shape[0]):
        more = shift[m, first + d]
        for k in range(projected.shape[0]):
            row, place = projected[k, m, first + d], out[d, k * clips : (k + 1) * clips]
            for x in range(clips):
                place[x] = row[x] + more


@compiled
@no_type_check
def _tokens_twice(projected, m, first, shift, out):
    """Set out [depth, 2 n] to what `_tokens` gives, twice end to end."""
    clips, n = projected.shape[3], out.shape[1] // 2
    for d in range(out.shape[0]):
        more = shift[m, first + d]
        for k in range(projected.shape[0]):
            row, place = projected[k, m, first + d], out[d, k * clips : (k + 1) * clips]
            for x in range(clips):
                place[x] = row[x] + more
            again = out[d, n + k * clips : n + (k + 1) * clips]
            for x in range(clips):
                again[x] = row[x] + more


@compiled
@no_type_check
def _apart(rows, m, first, projected, sums):
    """Write rows [depth, n] to where `_tokens` reads them, and their sums."""
    clips = projected.shape[3]
    for d in range(rows.shape[0]):
        total = rows.dtype.type(0)
        for x in range(rows.shape[1]):
            total += rows[d, x]
        sums[m, first + d] = total
        for k in range(projected.shape[0]):
            row, place = rows[d, k * clips : (k + 1) * clips], projected[k, m, first + d]
            for x in range(clips):
                place[x] = row[x]


@compiled
@no_type_check
def _products(a, b, clips, out, at):
    """Set out[r, at + x] to the sum over d of a[d, x] * b[d, x + r clips]; b is held twice."""
    depth, n = a.shape
    whole = depth - depth % 5
    for r in range(out.shape[0]):
        row, s = out[r, at : at + n], r * clips
        for x in range(n):
            row[x] = 0
        for d in range(0, whole, 5):
            a0, a1, a2, a3, a4 = a[d], a[d + 1], a[d + 2], a[d + 3], a[d + 4]
            b0, b1, b2 = b[d, s : s + n], b[d + 1, s : s + n], b[d + 2, s : s + n]
            b3, b4 = b[d + 3, s : s + n], b[d + 4, s : s + n]
            for x in range(n):
                first = a0[x] * b0[x] + a1[x] * b1[x] + a2[x] * b2[x]
                row[x] += first + a3[x] * b3[x] + a4[x] * b4[x]
        for d in range(whole, depth):
            b0 = b[d, s : s + n]
            for x in range(n):
                row[x] += a[d, x] * b0[x]


@compiled
@no_type_check
def _mix(weights, at, b, clips, out):
    """Set out[d, x] to the sum over r of weights[r, at + x] * b[d, x + r clips], b held twice."""
    tokens, n = weights.shape[0], out.shape[1]
    whole, end = 1 + (tokens - 1) // 3 * 3, at + n
    for d in range(out.shape[0]):
        row, w0 = out[d], weights[0, at:end]
        for x in range(n):
            row[x] = w0[x] * b[d, x]
        for r in range(1, whole, 3):
            w0, w1, w2 = weights[r, at:end], weights[r + 1, at:end], weights[r + 2, at:end]
            s = r * clips
            b0 = b[d, s : s + n]
            b1 = b[d, s + clips : s + clips + n]
            b2 = b[d, s + 2 * clips : s + 2 * clips + n]
            for x in range(n):
                row[x] += w0[x] * b0[x] + w1[x] * b1[x] + w2[x] * b2[x]
        for r in range(whole, tokens):
            w0, b0 = weights[r, at:end], b[d, r * clips : r * clips + n]
            for x in range(n):
                row[x] += w0[x] * b0[x]


@compiled
@no_type_check
def _mix_back(weights, b, clips, out):
    """Set out[d, x + r clips] to the sum over r of weights[r, x] * b[d, x]; b is held twice.

    `weights` are turned: weights[r, x + r clips] stands for weights[r, x].
    """
    tokens, n = weights.shape
    whole = 1 + (tokens - 1) // 3 * 3
    for d in range(out.shape[0]):
        row = out[d]
        for x in range(n):
            row[x] = weights[0, x] * b[d, x]
        for r in range(1, whole, 3):
            w0, w1, w2 = weights[r], weights[r + 1], weights[r + 2]
            s = (tokens - r) * clips
            b0 = b[d, s : s + n]
            b1 = b[d, s - clips : s - clips + n]
            b2 = b[d, s - 2 * clips : s - 2 * clips + n]
            for x in range(n):
                row[x] += w0[x] * b0[x] + w1[x] * b1[x] + w2[x] * b2[x]
        for r in range(whole, tokens):
            s = (tokens - r) * clips
            b0 = b[d, s : s + n]
            for x in range(n):
                row[x] += weights[r, x] * b0[x]


@compiled
@no_type_check
def _turned(weights, at, clips, out):
    """Set out[r, x + r clips] to weights[r, at + x], around the end."""
    tokens, n = out.shape
    for r in range(tokens):
        head, tail, row = out[r, r * clips :], out[r, : r * clips], weights[r, at : at + n]
        for x in range(head.size):
            head[x] = row[x]
        rest = row[head.size :]
        for x in range(tail.size):
            tail[x] = rest[x]


@compiled
@no_type_check
def _by_key(values, clips, out):
    """Set out[r, x] to the value of key j, for every head."""
    tokens = out.shape[0]
    for r in range(tokens):
        for block in range(out.shape[1] // clips):
            value = values[(block + r) % tokens]
            for x in range(block * clips, (block + 1) * clips):
                out[r, x] = value


@compiled
@no_type_check
def _softmax(scores, scale, counts, total):
    """Turn scores into their softmax over r, scaled, each counting counts[r, x] times."""
    tokens, n = scores.shape
    for x in range(n):
        total[x] = scores[0, x]
    for r in range(1, tokens):
        for x in range(n):
            total[x] = scores[r, x] if scores[r, x] > total[x] else total[x]
    for r in range(tokens):
        for x in range(n):
            scores[r, x] = counts[r, x] * exp((scores[r, x] - total[x]) * scale)
    _sums(scores, total)
    for x in range(n):
        total[x] = 1 / total[x]
    for r in range(tokens):
        for x in range(n):
            scores[r, x] *= total[x]


@compiled
@no_type_check
def _drawn(bits, tokens, out):
    """Set out[r, x], x over heads, queries and clips, to what was drawn for query and key."""
    clips, pairs = bits.shape[0], tokens * tokens
    for c in range(clips):
        for h in range(bits.shape[1] // pairs):
            for r in range(tokens):
                for i in range(tokens):
                    place = (h * tokens + i) * clips + c
                    out[r, place] = bits[c, h * pairs + r * tokens + i]


@compiled
@no_type_check
def _kept(weights, drawn, levels, shares, out):
    """Set out to the weights times what survives: a share for each level that is exceeded."""
    for r in range(out.shape[0]):
        row = out[r]
        for x in range(row.size):
            row[x] = 0
        for n in range(levels.shape[0]):
            level = levels[n, r]
            for x in range(row.size):
                row[x] += shares[r, x] if drawn[r, x] > level[x] else 0
        for x in range(row.size):
            row[x] *= weights[r, x]


@compiled
@no_type_check
def _softmax_back(weights, kept, scale, gradient, total):
    """Turn the gradient at the factors of `kept` into that at the unscaled scores."""
    tokens, n = kept.shape
    for r in range(tokens):
        for x in range(n):
            gradient[r, x] *= kept[r, x]
    _sums(gradient, total)
    for r in range(tokens):
        for x in range(n):
            gradient[r, x] = (gradient[r, x] - weights[r, x] * total[x]) * scale


@compiled_and_kept
@no_type_check
def attend(sizes, one, places):
    """Set what every token sees, by its weights.

    `sizes` are members, tokens, clips, depth, levels, and the heads; `one` is 1 in the tokens'
    type. `places` are addresses, with n = tokens * clips, of projected [tokens, members, 3 width,
    clips], the projections to queries, keys and values of all heads without their bias; shift
    [members, 3 width], the bias; counts [tokens]; bits [members, clips, heads * tokens * tokens];
    levels [copies, tokens], or none where nothing is dropped; shares [tokens]; weights, kept (the
    same where nothing is dropped) [members, tokens, heads * n]; seen [members, heads, depth, n].
    """
    members, tokens, clips, depth, copies, heads = sizes
    n, width, columns = tokens * clips, heads * depth, heads * tokens * clips
    projected = carray(pointer(places[0], one), (tokens, members, 3 * width, clips))
    shift = carray(pointer(places[1], one), (members, 3 * width))
    counts = carray(pointer(places[2], one), tokens)
    bits = carray(pointer(places[3], np.int16(0)), (members, clips, heads * tokens * tokens))
    levels = carray(pointer(places[4], np.int16(0)), (copies, tokens))
    shares = carray(pointer(places[5], one), tokens)
    weights = carray(pointer(places[6], one), (members, tokens, columns))
    kept = carray(pointer(places[7], one), (members, tokens, columns))
    seen = carray(pointer(places[8], one), (members, heads, depth, n))
    scale = projected.dtype.type(1 / math.sqrt(depth))
    rows, twice = np.empty((depth, n), projected.dtype), np.empty((depth, 2 * n), projected.dtype)
    counted = np.empty((tokens, columns), projected.dtype)
    shared = np.empty_like(counted)
    total = np.empty(columns, projected.dtype)
    drawn = np.empty((tokens, columns), bits.dtype)
    leveled = np.empty((copies, tokens, columns), levels.dtype)
    _by_key(counts, clips, counted)
    if copies > 0:
        _by_key(shares, clips, shared)
    for level in range(copies):
        _by_key(levels[level], clips, leveled[level])
    for m in range(members):
        for h in range(heads):
            _tokens_twice(projected, m, width + h * depth, shift, twice)
            _tokens(projected, m, h * depth, shift, rows)
            _products(rows, twice, clips, weights[m], h * n)
        _softmax(weights[m], scale, counted, total)
        if copies > 0:
            _drawn(bits[m], tokens, drawn)
            _kept(weights[m], drawn, leveled, shared, kept[m])
        for h in range(heads):
            _tokens_twice(projected, m, 2 * width + h * depth, shift, twice)
            _mix(kept[m], h * n, twice, clips, seen[m, h])


@compiled_and_kept
@no_type_check
def attend_back(sizes, one, places):
    """Set the gradients at projected and shift; `sizes` and shapes as in `attend`.

    `places` are addresses of that at seen, of projected, shift, weights, kept, and of the two.
    """
    members, tokens, clips, depth, _, heads = sizes
    n, width, columns = tokens * clips, heads * depth, heads * tokens * clips
    d_seen = carray(pointer(places[0], one), (members, heads, depth, n))
    projected = carray(pointer(places[1], one), (tokens, members, 3 * width, clips))
    shift = carray(pointer(places[2], one), (members, 3 * width))
    weights = carray(pointer(places[3], one), (members, tokens, columns))
    kept = carray(pointer(places[4], one), (members, tokens, columns))
    d_projected = carray(pointer(places[5], one), (tokens, members, 3 * width, clips))
    d_shift = carray(pointer(places[6], one), (members, 3 * width))
    scale = projected.dtype.type(1 / math.sqrt(depth))
    rows, wide = np.empty((depth, n), projected.dtype), np.empty((depth, 2 * n), projected.dtype)
    turned = np.empty((tokens, n), projected.dtype)
    d_scores = np.empty((tokens, columns), projected.dtype)
    total = np.empty(columns, projected.dtype)
    for m in range(members):
        for h in range(heads):
            first = h * depth
            _turned(kept[m], h * n, clips, turned)
            _twice(d_seen[m, h], wide)
            _mix_back(turned, wide, clips, rows)
            _apart(rows, m, 2 * width + first, d_projected, d_shift)
            _tokens_twice(projected, m, 2 * width + first, shift, wide)
            _products(d_seen[m, h], wide, clips, d_scores, h * n)
        _softmax_back(weights[m], kept[m], scale, d_scores, total)
        for h in range(heads):
            first = h * depth
            _tokens_twice(projected, m, width + first, shift, wide)
            _mix(d_scores, h * n, wide, clips, rows)
            _apart(rows, m, first, d_projected, d_shift)
            _turned(d_scores, h * n, clips, turned)
            _tokens_twice(projected, m, first, shift, wide)
            _mix_back(turned, wide, clips, rows)
            _apart(rows, m, width + first, d_projected, d_shift)


@compiled
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


@compiled_and_kept
@no_type_check
def maps(sizes, settings, one, given, starts):
    """Set n times the plans between x and y, by `costs` and equal weights.

    `sizes` are members, n, width and a tape's words; `settings` as in `solve_some`; `one` is 1 in
    the latents' type. `given` are the addresses of x, y [members, n, width], of what is set
    [members, n, n] and of room, in which cost, weights, row and column potentials, errors,
    iterations and tapes lie from `starts` on.
    """
    members, n, width, words = sizes
    cost = carray(pointer(given[3] + starts[0], one), (members, n, n))
    weights = carray(pointer(given[3] + starts[1], one), (members, n))
    x = carray(pointer(given[0], one), (members, n, width))
    y = carray(pointer(given[1], one), (members, n, width))
    out = carray(pointer(given[2], one), (members, n, n))
    costs(x, y, cost)
    weights[:] = 1 / n
    at = given[3]
    read = (at + starts[0], at + starts[1], at + starts[1], at + starts[5], at + starts[6])
    written = (given[2], at + starts[2], at + starts[3], at + starts[4])
    solve_some(0, 1, (members, n, n, 1, words, 0), settings, one, read + written)
    for m in range(members):
        for i in range(n):
            for j in range(n):
                out[m, i, j] *= n
