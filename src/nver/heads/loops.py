"""What hidden layers and convolution blocks do beside their matrix products, for the CPU.

Each loop, compiled, reads and writes everything once, where torch needs some six operations.
"""

# ruff: noqa: ANN001, ANN201 - numba takes the types from the calls

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import no_type_check

from nver.scaling.compiled import AVAILABLE, compiled_and_kept

LOG = logging.getLogger(__name__)


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
                row[u] = value * scale if value > 0 else 0
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
def pool(even, odd, bias, out, winner):
    """Set out to max(max(even, odd) + bias, 0), and winner to 1 (even), 2 (odd) or 0 (neither).

    Shapes: even, odd [clips, rows, filters], of which rows from `pooled` on are left out; bias
    [filters]; out, winner [clips, pooled, filters].
    """
    for c in range(out.shape[0]):
        for s in range(out.shape[1]):
            for k in range(out.shape[2]):
                first, second = even[c, s, k], odd[c, s, k]
                value = max(first, second) + bias[k]
                out[c, s, k] = 0 if value <= 0 else value
                winner[c, s, k] = 0 if value <= 0 else (1 if first > second else 2)


@compiled_and_kept
@no_type_check
def pool_back(gradient, winner, even, odd, d_bias):
    """Set even and odd to what passes back to them (0 from `pooled` on); add to d_bias."""
    clips, pooled, filters = gradient.shape
    for c in range(clips):
        for s in range(pooled):
            for k in range(filters):
                passed, won = gradient[c, s, k], winner[c, s, k]
                even[c, s, k] = passed if won == 1 else 0
                odd[c, s, k] = passed if won == 2 else 0
                d_bias[k] += passed if won > 0 else 0
        for s in range(pooled, even.shape[1]):
            for k in range(filters):
                even[c, s, k] = 0
                odd[c, s, k] = 0


@compiled_and_kept
@no_type_check
def read(x, weight, bias, out, winner):
    """Do the whole block for one channel: x [clips, length], weight [3, filters]; see `pool`.

    Here `out` may have more positions than `winner`; they are set to 0.
    """
    pooled = winner.shape[1]
    for c in range(out.shape[0]):
        for s in range(pooled, out.shape[1]):
            for k in range(out.shape[2]):
                out[c, s, k] = 0
        for s in range(pooled):
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
def read_back(x, gradient, winner, d_weight, d_bias):
    """Add to d_weight [3, filters] and d_bias what the gradient says, for one channel.

    The gradient may have more positions than `winner`; they are left out.
    """
    clips, pooled, filters = winner.shape
    for c in range(clips):
        for s in range(pooled):
            x0, x1, x2, x3 = x[c, 2 * s], x[c, 2 * s + 1], x[c, 2 * s + 2], x[c, 2 * s + 3]
            for k in range(filters):
                won = winner[c, s, k]
                passed = gradient[c, s, k] if won > 0 else 0
                d_weight[0, k] += passed * (x0 if won == 1 else x1)
                d_weight[1, k] += passed * (x1 if won == 1 else x2)
                d_weight[2, k] += passed * (x2 if won == 1 else x3)
                d_bias[k] += passed
