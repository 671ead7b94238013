"""The loops of `batched` on a GPU: all iterations in one launch, one program per problem (Triton).

K stays in the program's registers, so both sides of a problem have at most 128 points. Triton comes
with torch's CUDA builds; its interpreter (TRITON_INTERPRET=1) runs the same programs on a CPU,
which is how they are tested.
"""

# ruff: noqa: ANN001, ANN202 - Triton takes the types from the calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, final, no_type_check

import torch
from torch import Tensor

from nver.scaling.batched import TINY, WIDEST, Scalings, threshold
from nver.scaling.problem import CHECK_EVERY, Problem

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

AVAILABLE = triton is not None
F = TypeVar("F", bound=Callable[..., Any])


def _program(function: F) -> F:
    made: F = function if triton is None else triton.jit(function)
    return made


@_program
@no_type_check
def _outside(scaling, weights, least, widest):
    """Return how many scalings of points with weight are outside of their range."""
    fits = ((scaling >= least) & (scaling <= widest)) | (weights == 0)
    return tl.sum(tl.where(fits, 0, 1), axis=0)


@_program
@no_type_check
def _iterate(  # noqa: PLR0913 - a launch takes numbers and pointers, no objects
    kernel, a, b, x, y, done, safe,
    problems, n, m, iterations, check, tolerance, least, widest, tiny,
    N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Do all iterations of one problem; as `MatrixProducts.iterate`."""
    p = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, N), tl.arange(0, M)
    inside = (i[:, None] < n) & (j[None, :] < m)
    k = tl.load(kernel + p * n * m + i[:, None] * m + j[None, :], mask=inside, other=0.0)
    a_p = tl.load(a + p * n + i, mask=i < n, other=0.0)
    b_p = tl.load(b + p * m + j, mask=j < m, other=0.0)
    x_t = tl.where(a_p > 0, 1.0, 0.0).to(k.dtype)
    y_t = tl.where(b_p > 0, 1.0, 0.0).to(k.dtype)
    tl.store(x + p * n + i, x_t, mask=i < n)
    tl.store(y + p * m + j, y_t, mask=j < m)
    t = 1
    running = 1
    outside = 0
    while (t < iterations) & (running == 1):
        sums = tl.sum(k * y_t[None, :], axis=1)
        error = tl.sum(tl.abs(x_t * sums - a_p), axis=0)
        close = (tolerance > 0) & (error <= tolerance) & (t % check == 0)
        x_new = a_p / tl.maximum(sums, tiny)
        y_new = b_p / tl.maximum(tl.sum(k * x_new[:, None], axis=0), tiny)
        x_t = tl.where(close, x_t, x_new)
        y_t = tl.where(close, y_t, y_new)
        outside += _outside(x_t, a_p, least, widest) + _outside(y_t, b_p, least, widest)
        tl.store(x + (t * problems + p) * n + i, x_t, mask=i < n)
        tl.store(y + (t * problems + p) * m + j, y_t, mask=j < m)
        running = tl.where(close | (outside > 0), 0, 1)
        t += tl.where(close, 0, 1)
    tl.store(done + p, t)
    tl.store(safe + p, tl.where(outside > 0, 0, 1))


@_program
@no_type_check
def _go_back(  # noqa: PLR0913 - the same
    kernel, a, b, x, y, done, w_last, z_last, h, g, w_sum, z_sum, problems, n, m,
    N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Go back through one problem; as `MatrixProducts.go_back`."""
    p = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, N), tl.arange(0, M)
    inside = (i[:, None] < n) & (j[None, :] < m)
    k = tl.load(kernel + p * n * m + i[:, None] * m + j[None, :], mask=inside, other=0.0)
    a_p = tl.load(a + p * n + i, mask=i < n, other=0.0)
    b_p = tl.load(b + p * m + j, mask=j < m, other=0.0)
    a_over = tl.where(a_p > 0, 1.0 / tl.where(a_p > 0, a_p, 1.0), 0.0)
    b_over = tl.where(b_p > 0, 1.0 / tl.where(b_p > 0, b_p, 1.0), 0.0)
    w = tl.load(w_last + p * n + i, mask=i < n, other=0.0)
    z = tl.load(z_last + p * m + j, mask=j < m, other=0.0)
    w_all = w * 0.0
    z_all = z * 0.0
    t = tl.load(done + p) - 1
    while t >= 0:
        at = t * problems + p
        x_t = tl.load(x + at * n + i, mask=i < n, other=0.0)
        y_t = tl.load(y + at * m + j, mask=j < m, other=0.0)
        h_t = z * y_t * b_over
        w -= x_t * tl.sum(k * h_t[None, :], axis=1)
        g_t = w * x_t * a_over
        tl.store(h + at * m + j, h_t, mask=j < m)
        tl.store(g + at * n + i, g_t, mask=i < n)
        w_all += w
        z_all += z
        before = tl.load(y + tl.maximum(at - problems, p) * m + j, mask=j < m, other=0.0)
        z = -before * tl.sum(k * g_t[:, None], axis=0)
        w = w * 0.0
        t -= 1
    tl.store(w_sum + p * n + i, w_all, mask=i < n)
    tl.store(z_sum + p * m + j, z_all, mask=j < m)


@final
class Launches:
    """Both loops as one launch each, for float32."""

    def iterate(self, kernel: Tensor, problem: Problem) -> Scalings:
        """Scale K until each problem's tolerance or limit, or until it leaves the safe range."""
        problems, n, m = kernel.shape
        x = kernel.new_zeros(problem.iterations, problems, n)
        y = kernel.new_zeros(problem.iterations, problems, m)
        done = torch.empty(problems, dtype=torch.int64, device=kernel.device)
        safe = torch.empty_like(done)
        widest = WIDEST[kernel.dtype]
        weights = problem.source.contiguous(), problem.target.contiguous()
        _iterate[(problems,)](
            *(kernel.contiguous(), *weights, x, y, done, safe),
            *(problems, n, m, problem.iterations, CHECK_EVERY),
            *(threshold(problem), 1 / widest, widest, TINY[kernel.dtype]),
            **_blocks(n, m),
        )
        return Scalings(x, y, done, safe.bool())

    def go_back(
        self, kernel: Tensor, problem: Problem, scalings: Scalings, last: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Go back through the iterations."""
        problems, n, m = kernel.shape
        x, y = scalings.x, scalings.y
        h, g = torch.zeros_like(y), torch.zeros_like(x)
        w, z = (part.contiguous() for part in last)
        w_sum, z_sum = torch.empty_like(w), torch.empty_like(z)
        weights = problem.source.contiguous(), problem.target.contiguous()
        _go_back[(problems,)](
            *(kernel.contiguous(), *weights, x, y, scalings.done, w, z, h, g, w_sum, z_sum),
            *(problems, n, m),
            **_blocks(n, m),
        )
        return h, g, w_sum, z_sum


def _blocks(n: int, m: int) -> dict[str, Any]:
    """Return block sizes (powers of 2, at least 16) and warps for them."""
    rows, columns = (max(16, 1 << (size - 1).bit_length()) for size in (n, m))
    return {"N": rows, "M": columns, "num_warps": max(1, rows * columns // 2048)}
