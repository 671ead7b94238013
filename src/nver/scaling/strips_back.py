"""The GPU programs that go back through Sinkhorn's iterations strip by strip, for `strips`."""

# ruff: noqa: ANN001, ANN201, ANN202 - Triton takes the types from the calls

from __future__ import annotations

from typing import no_type_check

from nver.scaling.programs import for_all_sizes, inside_of, program, strip

try:
    import triton.language as tl
except ImportError:
    tl = None


@program
@no_type_check
def _inverse(weights):
    """Return 1 / weights, 0 for weight 0."""
    return tl.where(weights > 0, 1.0 / tl.where(weights > 0, weights, 1.0), 0.0)


@program
@no_type_check
def _sums(plan, grad, rows, p, n, m, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Set the sums of Q = plan * grad over its rows; return those over its columns."""
    j = tl.arange(0, COLUMNS)
    shares = tl.zeros((ROWS, COLUMNS), dtype=plan.dtype.element_ty)
    start = 0
    while start < n:
        i = start + tl.arange(0, ROWS)
        place, inside = inside_of(i, j, n, m)
        q = tl.load(plan + p * n * m + place, mask=inside, other=0.0)
        q *= tl.load(grad + p * n * m + place, mask=inside, other=0.0)
        tl.store(rows + p * n + i, tl.sum(q, axis=1), mask=i < n)
        shares += q
        start += ROWS
    return tl.sum(shares, axis=0)


@program
@no_type_check
def _sweep_back(  # noqa: PLR0913
    kernel, a, x_t, g_t, dlog_a, last, h_t, p, n, m, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Set g = w x / a with w = -x K h, to which its `last` value is added; return K^T g."""
    shares = tl.zeros((ROWS, COLUMNS), dtype=h_t.dtype)
    start = 0
    coming = strip(kernel, p, start, n, m, ROWS, COLUMNS)
    while start < n:
        i, k = start + tl.arange(0, ROWS), coming
        start += ROWS
        coming = strip(kernel, p, start, n, m, ROWS, COLUMNS)
        a_p = tl.load(a + p * n + i, mask=i < n, other=0.0)
        x_p = tl.load(x_t + p * n + i, mask=i < n, other=0.0)
        before = tl.load(dlog_a + p * n + i, mask=i < n, other=0.0)
        w = -x_p * tl.sum(k * h_t[None, :], axis=1)
        tl.store(dlog_a + p * n + i, before + w, mask=i < n)
        g = tl.where(last, before + w, w) * x_p * _inverse(a_p)
        tl.store(g_t + p * n + i, g, mask=i < n)
        shares += k * g[:, None]
    return tl.sum(shares, axis=0)


@for_all_sizes("problems")
@no_type_check
def go_back(  # noqa: PLR0913
    kernel, a, b, plan, grad, x, y, first, safe, done, g, h, dlog_a, dlog_b,
    problems, n, m, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Set h, g of every iteration and the derivatives by log a, log b; as `batched.go_back`.

    `dlog_a` starts as the derivative by the last u.
    """
    p, j = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMNS)
    b_over = _inverse(tl.load(b + p * m + j, mask=j < m, other=0.0))
    initial = tl.load(first + p * m + j, mask=j < m, other=0.0)
    z = _sums(plan, grad, dlog_a, p, n, m, ROWS, COLUMNS)
    z_all = z * 0.0
    # Those solved on logarithms are not gone through here.
    last = tl.where(tl.load(safe + p) == 1, tl.load(done + p), 0) - 1
    t = last
    while t >= 0:
        tl.debug_barrier()  # other threads read the sums that these have written
        at = t * problems + p
        y_t = tl.load(y + at * m + j, mask=j < m, other=0.0)
        earlier = tl.load(y + tl.maximum(at - problems, p) * m + j, mask=j < m, other=0.0)
        before = tl.where(t > 0, earlier, initial)
        z_all += z
        h_t = z * y_t * b_over
        tl.store(h + at * m + j, h_t, mask=j < m)
        size = t * problems * n
        z = -before * _sweep_back(
            kernel, a, x + size, g + size, dlog_a, t == last, h_t, p, n, m, ROWS, COLUMNS
        )
        t -= 1
    tl.store(dlog_b + p * m + j, z_all, mask=j < m)


@for_all_sizes("problems")
@no_type_check
def products(  # noqa: PLR0913
    plan, grad, x, y, first, safe, done, g, h, dcost, problems, n, m, settings,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Turn a strip of K into the derivative by costs, (K sum_t (x h^T + g y^T) - Q) / eps."""
    p = tl.program_id(0).to(tl.int64)
    i, j = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    place, inside = inside_of(i, j, n, m)
    before = tl.load(first + p * m + j, mask=j < m, other=0.0)
    total = tl.zeros((ROWS, COLUMNS), dtype=before.dtype)
    t, ran = 0, tl.where(tl.load(safe + p) == 1, tl.load(done + p), 0)
    while t < ran:
        at = t * problems.to(tl.int64) + p
        x_t = tl.load(x + at * n + i, mask=i < n, other=0.0)
        g_t = tl.load(g + at * n + i, mask=i < n, other=0.0)
        h_t = tl.load(h + at * m + j, mask=j < m, other=0.0)
        total += x_t[:, None] * h_t[None, :] + g_t[:, None] * before[None, :]
        before = tl.load(y + at * m + j, mask=j < m, other=0.0)
        t += 1
    q = tl.load(plan + p * n * m + place, mask=inside, other=0.0)
    q *= tl.load(grad + p * n * m + place, mask=inside, other=0.0)
    k = tl.load(dcost + p * n * m + place, mask=inside, other=0.0)
    tl.store(
        dcost + p * n * m + place, (k * total - q) * tl.load(settings).to(k.dtype), mask=inside
    )
