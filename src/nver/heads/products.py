"""Matrix products of a stack of members, each rounded as if its member were alone.

On a CPU these are torch's. On a GPU the libraries choose how a product is cut up by the number of
members, so that a member's last digits, and after some epochs its answers, would depend on how many
are trained beside it: on how much memory was free. Here the cut depends on the sizes of one
member's matrices alone.

The program multiplies in float32 and sums one product after the other, so that not even the layout
of the matrices in memory, which torch chooses differently for a single member, changes a digit.
Dense networks wait for the launch of a program longer than for its end; with convolutions it takes
more time than the libraries'. Triton comes with torch's CUDA builds; without it, and in float64,
the products are the libraries'.
"""

# ruff: noqa: ANN001, ANN202 - Triton takes the types from the calls

from __future__ import annotations

import importlib
from typing import Any, final, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from nver.errors import SettingsError

try:
    triton: Any = importlib.import_module("triton")
    tl: Any = importlib.import_module("triton.language")
except ImportError:
    triton = tl = None

ROWS, COLUMNS, DEPTH = 64, 32, 32
"""Of a tile of the outcome, and of the step in which it is summed up."""
PART = 1024
"""Longer sums are cut into parts of this length, each summed by itself, then added up by torch."""


def multiply(
    a: Float[Tensor, "members rows inner"],
    b: Float[Tensor, "members inner columns"],
    out: Float[Tensor, "members rows columns"] | None = None,
) -> Float[Tensor, "members rows columns"]:
    """Return a b, in `out` if there is one."""
    if not _own(a):
        return torch.bmm(a, b) if out is None else torch.bmm(a, b, out=out)
    if out is None:
        out = a.new_empty(*a.shape[:2], b.shape[2])
    return _launch(a, b, out, add=False)


def accumulate(
    out: Float[Tensor, "members rows columns"],
    a: Float[Tensor, "members rows inner"],
    b: Float[Tensor, "members inner columns"],
) -> None:
    """Add a b to `out`."""
    if _own(a):
        _launch(a, b, out, add=True)
    else:
        out.baddbmm_(a, b)


def multiply_add(
    start: Float[Tensor, "members #rows #columns"],
    a: Float[Tensor, "members rows inner"],
    b: Float[Tensor, "members inner columns"],
) -> Float[Tensor, "members rows columns"]:
    """Return start + a b."""
    return multiply(a, b).add_(start) if _own(a) else torch.baddbmm(start, a, b)


def sums(x: Float[Tensor, "*members rows columns"]) -> Float[Tensor, "*members columns"]:
    """Return the sums over rows."""
    if x.dim() != 3 or not _own(x):
        return x.sum(-2)
    return multiply(x.new_ones(1).expand(len(x), 1, x.shape[1]), x).squeeze(1)


def dots(
    a: Float[Tensor, "members columns"], b: Float[Tensor, "members columns"]
) -> Float[Tensor, " members"]:
    """Return the sums of a * b over columns, which can be differentiated."""
    return product(a.unsqueeze(1), b.unsqueeze(2)).flatten() if _own(a) else (a * b).sum(1)


def product(
    a: Float[Tensor, "*members rows inner"], b: Float[Tensor, "*members inner columns"]
) -> Float[Tensor, "*members rows columns"]:
    """Return a b, which can be differentiated."""
    if a.dim() != 3 or not _own(a):
        return a @ b
    out: Tensor = _Product.apply(a, b)  # type: ignore[no-untyped-call]
    return out


@final
class _Product(torch.autograd.Function):
    """`multiply`, and back by two of them."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return multiply(a, b)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        d_a = multiply(gradient, b.mT) if ctx.needs_input_grad[0] else None
        return d_a, multiply(a.mT, gradient) if ctx.needs_input_grad[1] else None


def _own(a: Tensor) -> bool:
    return triton is not None and a.device.type == "cuda" and a.dtype == torch.float32


def _launch(a: Tensor, b: Tensor, out: Tensor, *, add: bool) -> Tensor:
    members, rows, inner = a.shape
    columns = b.shape[2]
    if b.shape != (members, inner, columns) or out.shape != (members, rows, columns):
        raise SettingsError(
            f"Expected matrices that can be multiplied, got {tuple(a.shape)}, {tuple(b.shape)} "
            f"and room for {tuple(out.shape)}."
        )
    if not out.numel():
        return out
    tiles = -(-rows // ROWS) * -(-columns // COLUMNS)
    count = max(1, -(-inner // PART))
    made = out if count == 1 else a.new_empty(count, members, rows, columns)
    strides = (*a.stride(), *b.stride(), *made.stride()[-3:])
    length = PART if count > 1 else -(-inner // DEPTH) * DEPTH
    sizes = {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH, "LENGTH": length}
    over = made.stride(0) if count > 1 else 0
    given = (a, b, made, rows, columns, inner, *strides, over)
    _program[(tiles, members, count)](*given, ADD=add and count == 1, **sizes)
    if count == 1:
        return out
    return out.add_(made.sum(0)) if add else torch.sum(made, 0, out=out)


def _jit(function: Any) -> Any:
    """Compile once whatever the members' distances are: torch sets them anyhow for one member."""
    if triton is None:
        return function
    return triton.jit(do_not_specialize=("a_m", "b_m", "out_m", "over"))(function)


@_jit
@no_type_check
def _program(  # noqa: PLR0913 - a launch takes numbers and pointers, no objects
    a, b, out, rows, columns, inner, a_m, a_r, a_k, b_m, b_k, b_c, out_m, out_r, out_c, over,
    ADD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    LENGTH: tl.constexpr,
):  # fmt: skip
    """Compute one tile of one part of one member's product."""
    across = tl.cdiv(columns, COLUMNS)
    tile, member, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    i = tile // across * ROWS + tl.arange(0, ROWS)
    j = tile % across * COLUMNS + tl.arange(0, COLUMNS)
    k = part * LENGTH + tl.arange(0, DEPTH)
    a_at = a + member * a_m + i[:, None].to(tl.int64) * a_r + k[None, :].to(tl.int64) * a_k
    b_at = b + member * b_m + k[:, None].to(tl.int64) * b_k + j[None, :].to(tl.int64) * b_c
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, LENGTH, DEPTH):
        inside = k < inner - start
        x = tl.load(a_at, mask=(i[:, None] < rows) & inside[None, :], other=0.0)
        y = tl.load(b_at, mask=inside[:, None] & (j[None, :] < columns), other=0.0)
        total = tl.dot(x, y, total, input_precision="ieee")
        a_at += DEPTH * a_k
        b_at += DEPTH * b_k
    out_at = out + part.to(tl.int64) * over + member * out_m
    out_at += i[:, None].to(tl.int64) * out_r + j[None, :].to(tl.int64) * out_c
    there = (i[:, None] < rows) & (j[None, :] < columns)
    if ADD:
        total += tl.load(out_at, mask=there, other=0.0)
    tl.store(out_at, total, mask=there)
