"""Matrix products from within compiled loops: the BLAS that torch has, or SciPy's.

A loop that goes on with a member's matrices while they lie in the cache cannot return to Python for
each product. Torch's library gives out the function on Linux and macOS (on x86 it is MKL's, the one
that `torch.bmm` calls); elsewhere SciPy's is taken.
"""

# ruff: noqa: ANN001, ANN201, ARG001 - numba takes the types from the calls; its own signatures

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, no_type_check

import torch

from nver.scaling.compiled import compiled, intrinsic_of, numba
from nver.scaling.vectors import cgutils, ir, types

NAMES = {torch.float32: "sgemm", torch.float64: "dgemm"}
AS_IS, TURNED = ord("N"), ord("T")


class Matrix(NamedTuple):
    """Where a matrix lies, row by row.

    Parameters
    ----------
    at : int
        Address of the first entry.
    columns : int
        From one row to the next, in entries.
    turned : bool
        Whether its transpose is meant.
    """

    at: int
    columns: int
    turned: bool


@cache
def product_address(dtype: torch.dtype) -> int:
    """Return the address of the function that `multiply` calls."""
    endings = {"linux": "so", "darwin": "dylib"}
    path = Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{endings.get(sys.platform)}"
    try:
        function = getattr(ctypes.CDLL(str(path)), f"{NAMES[dtype]}_")
    except (OSError, AttributeError):  # no such file, or one that keeps its BLAS to itself
        address: int = numba.extending.get_cython_function_address(
            "scipy.linalg.cython_blas", NAMES[dtype]
        )
        return address
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _call(typing: Any, function: Any, one: Any, turns: Any, sizes: Any, at: Any, add: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        real, wide, letter = given[1].type, ir.IntType(64), ir.IntType(8)

        def place(value: Any, kind: Any) -> Any:
            """Return where the number lies: Fortran takes addresses."""
            room = cgutils.alloca_once(builder, kind)
            builder.store(value, room)
            return room

        def parts(value: Any, count: int) -> list[Any]:
            return [builder.extract_value(value, i) for i in range(count)]

        letters = [place(builder.trunc(turn, letter), letter) for turn in parts(given[2], 2)]
        # 8 bytes each: whoever reads 4 of them finds the same number, as the low ones come first.
        m, n, k, lda, ldb, ldc = (place(size, wide) for size in parts(given[3], 6))
        a, b, c = (builder.inttoptr(where, real.as_pointer()) for where in parts(given[4], 3))
        arguments = [*letters, m, n, k, place(given[1], real), a, lda, b, ldb]
        arguments += [place(given[5], real), c, ldc]
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), arguments)
        return context.get_dummy_value()

    return types.void(function, one, turns, sizes, at, add), write


_gemm = intrinsic_of(_call)


@compiled
@no_type_check
def multiply(function, one, a, b, out, sizes, add):
    """Set out to a b, or add it if `add` is 1.

    `function` is `product_address`, `one` is 1 in the type of the entries and `add` 0 or 1 in it;
    `a`, `b` and `out` are `Matrix`; `sizes` are rows, columns, and the length of the sums.
    """
    rows, columns, inner = sizes
    # Fortran reads columns where we have rows: out^T = b^T a^T.
    turns = (TURNED if b.turned else AS_IS, TURNED if a.turned else AS_IS)
    lengths = (columns, rows, inner, b.columns, a.columns, out.columns)
    _gemm(function, one, turns, lengths, (b.at, a.at, out.at), add)
