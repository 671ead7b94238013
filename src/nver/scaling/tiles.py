"""Products of matrices tile by tile: a tile stays in registers until its user has done with it.

For wide vectors alone (`FAST`): a tile of 16 to 24 of them fills AVX-512's 32 registers and is
about as fast as the best libraries are, and what follows a product needs no pass of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from nver.scaling.compiled import numba
from nver.scaling.vectors import Code, cgutils, ir


def _wide_registers() -> bool:
    if numba is None:
        return False
    told = numba.config.CPU_FEATURES  # by NUMBA_CPU_FEATURES, or none by NUMBA_CPU_NAME=generic
    if told is not None:
        return "+avx512f" in told.split(",")
    binding: Any = importlib.import_module("llvmlite.binding")
    there = binding.get_host_cpu_features().get("avx512f", False)
    return bool(there and numba.config.ENABLE_AVX)


FAST = _wide_registers()
"""Whether loops may use 32 registers of 64 bytes; with fewer a tile would go through memory."""


class Left(NamedTuple):
    """Numbers of the left matrix: where the tile's first is, and how far rows and terms lie."""

    start: Any
    by_row: Any
    by_term: Any


def nothing(term: Any) -> None:
    """Do nothing beside a product."""


def tile(
    code: Code,
    terms: Any,
    left: Left,
    right: tuple[Any, Any],
    shape: tuple[int, int],
    beside: Callable[[Any], None] = nothing,
) -> list[list[Any]]:
    """Write the sum over terms k of left[i, k] right[k, v]; return its vectors by row.

    `right` is where the vectors of the first term start, and how far terms lie; `shape` is rows and
    vectors of the tile. `beside` writes what is done with each term beside the products.
    """
    builder, (rows, vectors) = code.builder, shape
    totals = [[code.zero() for _ in range(vectors)] for _ in range(rows)]
    with cgutils.for_range(builder, terms) as loop:
        beside(loop.index)
        here = builder.gep(right[0], [builder.mul(loop.index, right[1])])
        parts = [code.load(here, code.integer(v)) for v in range(vectors)]
        start = builder.gep(left.start, [builder.mul(loop.index, left.by_term)])
        for i, own in enumerate(totals):
            place = builder.gep(start, [builder.mul(left.by_row, code.integer(i))])
            factor = code.spread(builder.load(place))
            for total, part in zip(own, parts, strict=True):
                code.add_to(total, factor, part)
    return [[builder.load(total) for total in own] for own in totals]


def fetch(code: Code, place: Any) -> None:
    """Write a hint that a line of memory will be wanted soon: it comes while others are used."""
    byte, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
    hint = cgutils.get_or_insert_function(code.builder.module, kind, "llvm.prefetch.p0")
    to_read, nearest, data = (whole(value) for value in (0, 3, 1))
    code.builder.call(hint, [code.builder.bitcast(place, byte), to_read, nearest, data])
