"""Products of four rows of a matrix at a time, written for the vector unit.

Left to itself LLVM guards each loop over a row against arrays that overlap, and sums in halves of
the widest registers; at 32 columns that costs more than the products. Here the vectors are 64 bytes
wide in LLVM's own terms, and its code generator splits them where the machine's are narrower.

Rows are whole vectors (`compiled.COLUMNS` entries are one of float32 and two of float64).
"""

# ruff: noqa: ARG001 - numba's own signatures

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nver.scaling.compiled import numba

if numba is not None:
    ir: Any = importlib.import_module("llvmlite.ir")
    cgutils: Any = importlib.import_module("numba.core.cgutils")
    types: Any = numba.types

BYTES = 64
FLAGS = ("contract", "reassoc", "nsz")


class _Code:
    """Writes LLVM's instructions for one element type."""

    def __init__(self, context: Any, builder: Any, array: Any) -> None:
        self.context = context
        self.builder = builder
        self.scalar = context.get_data_type(array.dtype)
        self.size = context.get_abi_sizeof(self.scalar)
        self.lanes = BYTES // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def array(self, kind: Any, value: Any) -> Any:
        """Return numba's view of an array."""
        return self.context.make_array(kind)(self.context, self.builder, value)

    def row(self, array: Any, index: Any) -> Any:
        """Return where a row of a matrix starts."""
        columns = self.builder.extract_value(array.shape, 1)
        return self.builder.gep(array.data, [self.builder.mul(index, columns)])

    def at(self, start: Any, vector: Any) -> Any:
        """Return where the vector of this number starts."""
        lanes = self.integer(self.lanes)
        place = self.builder.gep(start, [self.builder.mul(vector, lanes)])
        return self.builder.bitcast(place, self.vector.as_pointer())

    def load(self, start: Any, vector: Any) -> Any:
        """Return a vector."""
        return self.builder.load(self.at(start, vector), align=self.size)

    def store(self, value: Any, start: Any, vector: Any) -> None:
        """Write a vector."""
        self.builder.store(value, self.at(start, vector), align=self.size)

    def zero(self) -> Any:
        """Return a variable with a vector of zeros in it."""
        place = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(ir.Constant(self.vector, None), place)
        return place

    def spread(self, value: Any, kind: Any = None) -> Any:
        """Return a vector with the same number in every lane."""
        kind = kind or self.vector
        nothing = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(nothing, value, ir.IntType(32)(0))
        return self.shuffled(first, nothing, [0] * kind.count)

    def sum(self, vector: Any, lanes: int) -> Any:
        """Return the sum over the lanes."""
        return self.builder.extract_element(self.folded(vector, lanes, 1), ir.IntType(32)(0))

    def shuffled(self, a: Any, b: Any, lanes: list[int]) -> Any:
        """Return these lanes of a and b, which are numbered through."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        return self.builder.shuffle_vector(a, b, mask)

    def plus(self, a: Any, b: Any) -> Any:
        """Return a + b."""
        return self.builder.fadd(a, b, flags=FLAGS)

    def times(self, a: Any, b: Any) -> Any:
        """Return a * b."""
        return self.builder.fmul(a, b, flags=FLAGS)

    def add_to(self, place: Any, a: Any, b: Any) -> None:
        """Add a * b to a variable."""
        self.builder.store(self.plus(self.builder.load(place), self.times(a, b)), place)

    def sums(self, four: list[Any]) -> Any:
        """Return a vector of the sums of four vectors."""
        half = self.lanes // 2
        low = [*range(half), *range(self.lanes, self.lanes + half)]
        high = [lane + half for lane in low]
        pairs = [
            self.plus(self.shuffled(a, b, low), self.shuffled(a, b, high))
            for a, b in (four[:2], four[2:])
        ]
        left, right = pairs
        quarter = half // 2  # of each: the halves of both pairs, folded again
        low = [lane + k for lane in (0, half, 2 * half, 3 * half) for k in range(quarter)]
        high = [lane + quarter for lane in low]
        found = self.plus(self.shuffled(left, right, low), self.shuffled(left, right, high))
        lanes = self.lanes
        return self.folded(found, lanes, 4)

    def folded(self, vector: Any, lanes: int, to: int) -> Any:
        """Return the vector with neighbours added until this many lanes are left."""
        while lanes > to:
            even, odd = list(range(0, lanes, 2)), list(range(1, lanes, 2))
            parts = (self.shuffled(vector, vector, part) for part in (even, odd))
            vector = self.plus(*parts)
            lanes //= 2
        return vector

    def integer(self, value: int) -> Any:
        """Return a constant."""
        return self.context.get_constant(types.intp, value)

    def rows(self, array: Any, first: Any, offsets: Any) -> list[Any]:
        """Return where rows first, first + 1, ... start."""
        found = []
        for r in offsets:
            number = self.builder.add(first, self.integer(r))
            found.append(self.row(array, number))
        return found

    def vectors(self, array: Any) -> Any:
        """Return how many vectors a row has."""
        lanes = self.integer(self.lanes)
        return self.builder.udiv(self.builder.extract_value(array.shape, 1), lanes)


def _dot4(typing: Any, matrix: Any, first: Any, vector: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = _Code(context, builder, matrix)
        k, y = code.array(matrix, given[0]), code.array(vector, given[2])
        rows = code.rows(k, given[1], range(4))
        totals = [code.zero() for _ in rows]
        with cgutils.for_range(builder, code.vectors(k)) as loop:
            part = code.load(y.data, loop.index)
            for row, total in zip(rows, totals, strict=True):
                code.add_to(total, code.load(row, loop.index), part)
        found = code.sums([builder.load(total) for total in totals])
        parts = [builder.extract_element(found, ir.IntType(32)(r)) for r in range(4)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(matrix.dtype, 4)(matrix, first, vector), write


def _add4(typing: Any, matrix: Any, first: Any, factors: Any, sums: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = _Code(context, builder, matrix)
        k, out = code.array(matrix, given[0]), code.array(sums, given[3])
        rows = code.rows(k, given[1], range(4))
        spread = [code.spread(builder.extract_value(given[2], r)) for r in range(4)]
        with cgutils.for_range(builder, code.vectors(k)) as loop:
            parts = [
                code.times(code.load(row, loop.index), factor)
                for row, factor in zip(rows, spread, strict=True)
            ]
            both = code.plus(code.plus(parts[0], parts[1]), code.plus(parts[2], parts[3]))
            code.store(code.plus(code.load(out.data, loop.index), both), out.data, loop.index)
        return context.get_dummy_value()

    return types.void(matrix, first, factors, sums), write


def _outer4(typing: Any, lefts: Any, rights: Any, terms: Any, first: Any, total: Any) -> Any:
    matrix = lefts.dtype

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = _Code(context, builder, matrix)
        pairs = [
            tuple(code.array(matrix, builder.extract_value(side, i)) for side in given[:2])
            for i in range(2)
        ]
        out = code.array(total, given[4])
        vectors, two = code.vectors(out), code.integer(2)
        half = builder.udiv(vectors, two)
        with cgutils.for_range(builder, half) as loop:
            _outer_block(code, pairs, given[2:4], (out, builder.mul(loop.index, two)), 2)
        with builder.if_then(builder.icmp_unsigned("<", builder.mul(half, two), vectors)):
            _outer_block(code, pairs, given[2:4], (out, builder.sub(vectors, code.integer(1))), 1)
        return context.get_dummy_value()

    return types.void(lefts, rights, terms, first, total), write


def _outer_block(code: _Code, pairs: Any, at: Any, out: tuple[Any, Any], width: int) -> None:
    """Write the sums over terms of four rows and `width` vectors: they stay in registers."""
    builder, (terms, first), (target, vector) = code.builder, at, out
    places = [builder.add(vector, code.integer(i)) for i in range(width)]
    totals = [[code.zero() for _ in places] for _ in range(4)]
    with cgutils.for_range(builder, terms) as term:
        for left, right in pairs:
            row = code.row(right, term.index)
            parts = [code.load(row, place) for place in places]
            start = builder.gep(code.row(left, term.index), [first])
            for r, own in enumerate(totals):
                factor = code.spread(builder.load(builder.gep(start, [code.integer(r)])))
                for total, part in zip(own, parts, strict=True):
                    code.add_to(total, factor, part)
    for row, own in zip(code.rows(target, code.integer(0), range(4)), totals, strict=True):
        for place, total in zip(places, own, strict=True):
            code.store(builder.load(total), row, place)


class _Exponential:
    """Writes exp of vectors of 8 float64: Cody & Waite's reduction by ln 2, Taylor's polynomial.

    The result has the precision of the element type that it is for.
    """

    LANES = 8
    TERMS = {4: 7, 8: 12}  # noqa: RUF012 - a table; |r| <= 0.35, and 0.35^8 / 8! is 6e-9

    def __init__(self, builder: Any, element: Any, size: int) -> None:
        self.builder = builder
        self.wide = ir.VectorType(ir.DoubleType(), self.LANES)
        self.bits = ir.VectorType(ir.IntType(64), self.LANES)
        self.half = ir.VectorType(ir.IntType(32), self.LANES)
        self.narrow = ir.VectorType(element, self.LANES)
        self.terms = self.TERMS[size]

    def number(self, value: float) -> Any:
        """Return a vector of one number."""
        return ir.Constant(self.wide, [value] * self.LANES)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """Return a * b + c."""
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(product, c, flags=("contract",))

    def of(self, t: Any) -> Any:
        """Return exp(t) for t from -700 to 700."""
        builder = self.builder
        scaled = builder.fmul(t, self.number(1.4426950408889634))
        floor = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.wide, [self.wide]), f"llvm.floor.v{self.LANES}f64"
        )
        k = builder.call(floor, [builder.fadd(scaled, self.number(0.5))])
        r = self.fused(k, self.number(-6.93147180369123816490e-01), t)
        r = self.fused(k, self.number(-1.90821492927058770002e-10), r)
        p = self.number(1 / math.factorial(self.terms))
        for term in range(self.terms - 1, -1, -1):
            p = self.fused(p, r, self.number(1 / math.factorial(term)))
        whole = builder.sext(builder.fptosi(k, self.half), self.bits)
        power = builder.shl(whole, ir.Constant(self.bits, [52] * self.LANES))
        return builder.bitcast(builder.add(builder.bitcast(p, self.bits), power), self.wide)


class _Scores(_Exponential):
    """Walks over v - scale * cost in float64, 8 at a time; a rest of fewer is left out."""

    def __init__(self, code: _Code, kinds: tuple[Any, Any], given: tuple[Any, Any, Any]) -> None:
        super().__init__(code.builder, code.scalar, code.size)
        self.code = code
        self.cost = code.array(kinds[0], given[0])
        self.v = code.array(kinds[1], given[2])
        self.minus = code.spread(code.builder.fneg(given[1]), self.wide)

    def place(self, array: Any, start: Any, kind: Any) -> Any:
        """Return where the vector from an entry is."""
        return self.builder.bitcast(self.builder.gep(array.data, [start]), kind.as_pointer())

    @contextmanager
    def each(self) -> Iterator[tuple[Any, Any]]:
        """Write a loop that gives each start and its scores."""
        builder, lanes = self.builder, self.code.integer(self.LANES)
        count = builder.udiv(builder.extract_value(self.cost.shape, 0), lanes)
        with cgutils.for_range(builder, count) as loop:
            start = builder.mul(loop.index, lanes)
            c = builder.load(self.place(self.cost, start, self.narrow), align=self.code.size)
            c = c if self.code.size == 8 else builder.fpext(c, self.wide)
            v = builder.load(self.place(self.v, start, self.wide), align=8)
            yield start, self.fused(c, self.minus, v)

    def variable(self, value: float) -> Any:
        """Return a variable with a vector of one number in it."""
        place = cgutils.alloca_once(self.builder, self.wide)
        self.builder.store(self.number(value), place)
        return place


def _exp_row(typing: Any, cost: Any, scale: Any, v: Any, shift: Any, out: Any, flush: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = _Code(context, builder, cost)
        scores = _Scores(code, (cost, v), given[:3])
        outs = code.array(out, given[4])
        shifted, least = (code.spread(number, scores.wide) for number in (given[3], given[5]))
        total = scores.variable(0.0)
        with scores.each() as (start, score):
            t = builder.fadd(score, shifted)
            above = builder.fcmp_ordered(">=", t, least)
            e = scores.of(builder.select(above, t, least))
            e = builder.select(above, e, scores.number(0.0))
            builder.store(builder.fadd(builder.load(total), e), total)
            e = e if code.size == 8 else builder.fptrunc(e, scores.narrow)
            builder.store(e, scores.place(outs, start, scores.narrow), align=code.size)
        return code.sum(builder.load(total), scores.LANES)

    return types.float64(cost, scale, v, shift, out, flush), write


def _most(typing: Any, cost: Any, scale: Any, v: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = _Code(context, builder, cost)
        scores = _Scores(code, (cost, v), given)
        most, strange = scores.variable(-math.inf), scores.variable(0.0)
        with scores.each() as (_, t):
            old = builder.load(most)
            builder.store(builder.select(builder.fcmp_ordered(">", t, old), t, old), most)
            mark = builder.select(
                builder.fcmp_unordered("uno", t, t), scores.number(1.0), scores.number(0.0)
            )
            builder.store(builder.fadd(builder.load(strange), mark), strange)
        parts = [builder.extract_element(builder.load(most), ir.IntType(32)(i)) for i in range(8)]
        while len(parts) > 1:
            a, b = parts[:2]
            parts = [*parts[2:], builder.select(builder.fcmp_ordered(">", a, b), a, b)]
        marks = code.sum(builder.load(strange), scores.LANES)
        usual = builder.fcmp_ordered("==", marks, ir.DoubleType()(0.0))
        return builder.select(usual, parts[0], ir.DoubleType()(math.nan))

    return types.float64(cost, scale, v), write


def _intrinsic(written: Any) -> Any:
    """Return the function for use in numba's loops; without numba there are none."""
    return written if numba is None else numba.extending.intrinsic(written)


dot4 = _intrinsic(_dot4)
"""Return the products of rows first, ... first + 3 of a matrix and a vector."""
add4 = _intrinsic(_add4)
"""Add to `sums` the rows first, ... first + 3, each times its factor."""
outer4 = _intrinsic(_outer4)
"""Set four rows of the sum over terms k of x_k h_k^T + g_k y_k^T, from (x, g) and (h, y)."""
exp_row = _intrinsic(_exp_row)
"""Set exp(v - scale * cost + shift) in whole vectors of 8, 0 below flush; return their sum."""
most = _intrinsic(_most)
"""Return the largest v - scale * cost in whole vectors of 8, NaN where one is that."""
