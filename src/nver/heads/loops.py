"""What hidden layers and convolution blocks do beside their matrix products, for the CPU.

Each loop, compiled, reads and writes everything once, where torch needs some six operations. Rows
get no names where that counts a reference up and down for each (numba takes most of this out again,
but not from large loops): it costs more than the row.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import no_type_check

import numpy as np

from nver.scaling.compiled import AVAILABLE, compiled, compiled_and_kept

LOG = logging.getLogger(__name__)
BLOCK = 512
"""Features that are standardised together: those of 32 clips stay in a core's cache."""
EVEN, ODD = np.int8(1), np.int8(2)
"""Which of two positions was the larger; 0 where neither passed the ReLU."""


def run(what: str, once: Callable[[], None]) -> bool:
    """Return whether compiled loops work, by running them once; if not, the log says why."""
    reason = "numba is not installed (pip install 'nver[fast]')"
    if AVAILABLE:
        try:
            once()
        except Exception as error:  # noqa: BLE001 - numba breaks in many ways, and none may stop us
            reason = f"{type(error).__name__}: {error}"
        else:
            return True
    LOG.info("%s runs on torch alone, slower on a CPU: %s", what, reason)
    return False


@compiled_and_kept
@no_type_check
def units(product, bias, bits, threshold, scale, out):
    """Set out[m, c, u] to max(product[m, u, c] + bias[m, u], 0) times `scale`, or 0 if dropped.

    Shapes: product [members, units, clips]; bias [members, units]; bits [members, clips, units],
    dropped where they are at most the threshold, or [0, 0, 0]: nothing is.
    """
    members, clips, width = out.shape
    for m in range(members):
        for c in range(clips):
            row = out[m, c]
            for u in range(width):
                row[u] = product[m, u, c]
            for u in range(width):
                value = row[u] + bias[m, u]
                row[u] = 0 if value <= 0 else value * scale  # NaN stays NaN
            if bits.shape[0] > 0:
                drawn = bits[m, c]
                for u in range(width):
                    row[u] = row[u] if drawn[u] > threshold else 0


@compiled_and_kept
@no_type_check
def units_back(gradient, out, scale, inner, d_bias):
    """Set the gradient at the sums, and add to that at the bias; `out` as `units` left it."""
    members, clips, width = out.shape
    for m in range(members):
        for c in range(clips):
            for u in range(width):
                inner[m, c, u] = gradient[m, c, u] * scale if out[m, c, u] > 0 else 0
            for u in range(width):
                d_bias[m, u] += inner[m, c, u]


@compiled_and_kept
@no_type_check
def spread(inner, windows):
    """Write every position of inner [clips, positions, filters] and the next two as a row.

    windows is [clips, positions, 3 filters]; the last two rows of a clip are left as they are.
    """
    filters = inner.shape[2]
    for c in range(inner.shape[0]):
        for s in range(inner.shape[1] - 2):
            for i in range(3):
                given, row = inner[c, s + i], windows[c, s, i * filters : (i + 1) * filters]
                for k in range(filters):
                    row[k] = given[k]


@compiled_and_kept
@no_type_check
def pool(product, bias, out, winner):
    """Set out to max(max(even, odd) + bias, 0), and winner to 1 (even), 2 (odd) or 0 (neither).

    Shapes: product [clips, positions, filters], of which positions from 2 `pooled` on are left out;
    bias [filters]; out, winner [clips, pooled, filters].
    """
    for c in range(out.shape[0]):
        for s in range(out.shape[1]):
            for k in range(out.shape[2]):
                first, second = product[c, 2 * s, k], product[c, 2 * s + 1, k]
                value = max(first, second) + bias[k]
                out[c, s, k] = 0 if value <= 0 else value
                winner[c, s, k] = 0 if value <= 0 else (1 if first > second else 2)


@compiled_and_kept
@no_type_check
def mostly(winner, balanced, most):
    """Set most [pooled, filters] to 1 where more than half of the balanced clips pass the ReLU.

    Shapes: winner [clips, pooled, filters], see `pool`; balanced [clips].
    """
    half = balanced.sum() // 2
    count = np.empty(winner.shape[2], np.int32)
    for s in range(winner.shape[1]):
        count[:] = 0
        for c in range(winner.shape[0]):
            if balanced[c]:
                for k in range(count.size):
                    count[k] += 1 if winner[c, s, k] != 0 else 0
        for k in range(count.size):
            most[s, k] = 1 if count[k] > half else 0


@compiled_and_kept
@no_type_check
def pool_back(gradient, winner, most, product, d_bias):
    """Set what passes back to the product (0 from 2 `pooled` on); add to d_bias.

    Where most [pooled, filters] is 1, the gradients of all clips together are 0: the bias is told
    minus those that do not pass.
    """
    clips, pooled, filters = gradient.shape
    none = gradient.dtype.type(0)
    for c in range(clips):
        for s in range(pooled):
            for k in range(filters):
                product[c, 2 * s, k] = gradient[c, s, k] if winner[c, s, k] == EVEN else 0
            for k in range(filters):
                product[c, 2 * s + 1, k] = gradient[c, s, k] if winner[c, s, k] == ODD else 0
            for k in range(filters):
                inverse, passes = most[s, k] != 0, winner[c, s, k] != 0
                told = -gradient[c, s, k] if inverse else gradient[c, s, k]
                d_bias[k] += told if inverse != passes else none
        for s in range(2 * pooled, product.shape[1]):
            for k in range(filters):
                product[c, s, k] = 0


@compiled_and_kept
@no_type_check
def read(x, weight, bias, out, winner):
    """Do the whole block for one channel: x [clips, length], weight [3, filters]; see `pool`."""
    for c in range(out.shape[0]):
        for s in range(out.shape[1]):
            x0, x1, x2, x3 = x[c, 2 * s], x[c, 2 * s + 1], x[c, 2 * s + 2], x[c, 2 * s + 3]
            for k in range(out.shape[2]):
                w0, w1, w2 = weight[0, k], weight[1, k], weight[2, k]
                first = w0 * x0 + w1 * x1 + w2 * x2
                second = w0 * x1 + w1 * x2 + w2 * x3
                value = max(first, second) + bias[k]
                out[c, s, k] = 0 if value <= 0 else value
                winner[c, s, k] = 0 if value <= 0 else (1 if first > second else 2)


@compiled_and_kept
@no_type_check
def read_back(x, windows, winner, d_weight, d_bias):
    """Add to d_weight [3, filters] and d_bias what the gradient says, for one channel.

    It comes for every window of three positions, [clips, positions, 3 filters]; that at the last
    two of a clip is 0. Two positions are done together: positions are an even number.
    """
    clips, positions, filters = winner.shape
    room = np.empty((4, filters), x.dtype)
    for c in range(clips):
        for s in range(0, positions, 2):
            for i in range(2):
                # Before the first two positions there is no window: the last two stand for them.
                own, won, at = windows[c], winner[c, s + i], s + i
                first, second = own[at, :filters], own[at - 1, filters : 2 * filters]
                third, even, odd = own[at - 2, 2 * filters :], room[2 * i], room[2 * i + 1]
                for k in range(filters):
                    passed = first[k] + second[k] + third[k]
                    even[k] = passed if won[k] == EVEN else 0
                    odd[k] = passed if won[k] == ODD else 0
            x0, x1, x2 = x[c, 2 * s], x[c, 2 * s + 1], x[c, 2 * s + 2]
            x3, x4, x5 = x[c, 2 * s + 3], x[c, 2 * s + 4], x[c, 2 * s + 5]
            for k in range(filters):
                g0, g1, g2, g3 = room[0, k], room[1, k], room[2, k], room[3, k]
                d_weight[0, k] += g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3
                d_weight[1, k] += g0 * x1 + g1 * x2 + g2 * x3 + g3 * x4
                d_weight[2, k] += g0 * x2 + g1 * x3 + g2 * x4 + g3 * x5
                d_bias[k] += g0 + g1 + g2 + g3


@compiled_and_kept
@no_type_check
def moments(x, weights, batches, average, variance, eps, mean, factor):
    """Find by what `standardise` makes z = (x - mean) factor of x [members, clips, width].

    weights [members, clips] says 1 for clips and 0 for what fills up, and is told what they weigh
    in the mean. A member with more than one clip counts a batch and moves its averages by a tenth,
    or by more in its first batches; another's x is standardised by its averages, without weights.
    """
    members, clips, width = x.shape
    one, small = x.dtype.type(1), x.dtype.type(eps)
    for m in range(members):
        count = weights[m].sum()
        for c in range(clips):
            weights[m, c] = weights[m, c] / count if count > 1 else 0
        batches[m] += 1 if count > 1 else 0
        share = x.dtype.type(max(0.1, 1 / batches[m]) if count > 1 else 0)
        for start in range(0, width, BLOCK):
            part = slice(start, min(start + BLOCK, width))
            middle, spread = mean[m, part], factor[m, part]
            usual, usual_spread = average[m, part], variance[m, part]
            if count > 1:
                _moments(x[m], weights[m], part, middle, spread)
                _follow(middle, spread, share, count / (count - one), usual, usual_spread)
            else:
                middle[:] = usual
                spread[:] = usual_spread
            for u in range(spread.size):
                spread[u] = one / math.sqrt(spread[u] + small)


@compiled
@no_type_check
def _moments(x, weights, part, mean, variance):
    """Set the weighted mean and variance of a part of the columns of x [clips, width]."""
    mean[:] = 0
    variance[:] = 0
    for c in range(len(x)):
        row, weight = x[c, part], weights[c]
        for u in range(row.size):
            mean[u] += weight * row[u]
    for c in range(len(x)):
        row, weight = x[c, part], weights[c]
        for u in range(row.size):
            off = row[u] - mean[u]
            variance[u] += weight * off * off


@compiled
@no_type_check
def _follow(mean, variance, share, unbiased, average, average_variance):
    """Move the averages by a share of what is between."""
    for u in range(mean.size):
        average[u] += (mean[u] - average[u]) * share
        average_variance[u] += (variance[u] * unbiased - average_variance[u]) * share


@compiled_and_kept
@no_type_check
def standardise(x, mean, factor, drop, out):
    """Set out to (x - mean) factor, dropped and scaled: `drop` is (bits, threshold, scale).

    Bits as in `units`: [members, clips, width], or [0, 0, 0]: nothing is dropped.
    """
    members, clips, width = x.shape
    for m in range(members):
        for start in range(0, width, BLOCK):
            part = slice(start, min(start + BLOCK, width))
            middle, times = mean[m, part], factor[m, part]
            for c in range(clips):
                row, made = x[m, c, part], out[m, c, part]
                for u in range(row.size):
                    made[u] = (row[u] - middle[u]) * times[u]
                _drop(made, drop, m, c, part)


@compiled
@no_type_check
def _drop(row, drop, m, c, part):
    """Set what is dropped of a row to 0, and scale up the rest."""
    bits, threshold, scale = drop
    if bits.shape[0] > 0:
        drawn = bits[m, c, part]
        for u in range(row.size):
            row[u] = row[u] * scale if drawn[u] > threshold else 0


@compiled_and_kept
@no_type_check
def standardise_back(gradient, x, mean, factor, weights, drop, d_x):
    """Set d_x to (g - w sum g - w z sum(g z)) factor: g the gradient at z, of `standardise`."""
    members, clips, width = x.shape
    sums, along = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
    for m in range(members):
        for start in range(0, width, BLOCK):
            part = slice(start, min(start + BLOCK, width))
            middle, times = mean[m, part], factor[m, part]
            sums[:] = 0
            along[:] = 0
            for c in range(clips):
                given, row, made = gradient[m, c, part], x[m, c, part], d_x[m, c, part]
                for u in range(row.size):
                    made[u] = given[u]
                _drop(made, drop, m, c, part)
                for u in range(row.size):
                    sums[u] += made[u]
                    along[u] += made[u] * (row[u] - middle[u])
            for u in range(times.size):
                along[u] *= times[u] * times[u]
            for c in range(clips):
                row, made, weight = x[m, c, part], d_x[m, c, part], weights[m, c]
                for u in range(row.size):
                    shared = sums[u] + (row[u] - middle[u]) * along[u]
                    made[u] = (made[u] - weight * shared) * times[u]
