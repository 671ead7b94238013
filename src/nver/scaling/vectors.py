"""The sweeps over K, written for the vector unit: four rows at a time.

Left to itself LLVM guards each loop over a row against arrays that overlap, and sums in halves of
the widest registers; at 32 columns that costs more than the products. Here the vectors are 64 bytes
wide in LLVM's own terms, and its code generator splits them where the machine's are narrower.

Rows are whole vectors (`compiled.COLUMNS` entries are one of float32 and two of float64).
"""

# ruff: noqa: ARG001 - numba's own signatures

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import reduce
from typing import Any

from nver.scaling.compiled import intrinsic_of, numba

ir: Any = None
cgutils: Any = None
types: Any = None
if numba is not None:
    ir = importlib.import_module("llvmlite.ir")
    cgutils = importlib.import_module("numba.core.cgutils")
    types = numba.types

BYTES = 64
FLAGS = ("contract", "reassoc", "nsz")


class Code:
    """Writes LLVM's instructions for one element type."""

    def __init__(self, context: Any, builder: Any, array: Any) -> None:
        self.context = context
        self.builder = builder
        self.scalar = context.get_data_type(array.dtype)
        self.size = context.get_abi_sizeof(self.scalar)
        self.lanes = BYTES // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def array(self, kind: Any, value: Any) -> Any:
        """Return numba's view of an array, which must lie row by row."""
        if kind.layout != "C":
            raise TypeError(f"Expected a contiguous array, got {kind}.")
        return self.context.make_array(kind)(self.context, self.builder, value)

    def arrays(self, kind: Any, values: Any, count: int) -> list[Any]:
        """Return numba's views of a tuple of arrays of one kind."""
        parts = (self.builder.extract_value(values, i) for i in range(count))
        return [self.array(kind, part) for part in parts]

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

    def sqrt(self, vector: Any) -> Any:
        """Return the square roots."""
        kind = ir.FunctionType(vector.type, [vector.type])
        name = f"llvm.sqrt.v{vector.type.count}f{8 * self.size}"
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, name), [vector]
        )

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

    def four(self, array: Any, first: Any, value: Any = None) -> Any:
        """Return entries first to first + 3, or write them."""
        place = self.builder.gep(array.data, [first])
        place = self.builder.bitcast(place, ir.VectorType(self.scalar, 4).as_pointer())
        if value is not None:
            return self.builder.store(value, place, align=self.size)
        return self.builder.load(place, align=self.size)

    def all(self, kind: Any, number: Any) -> Any:
        """Return a vector with a number of the program, or of ours, in every lane."""
        if isinstance(number, float):
            return ir.Constant(kind, [number] * kind.count)
        return self.spread(number, kind)

    def at_least(self, value: Any, least: Any) -> Any:
        """Return the larger of both in every lane."""
        return self.builder.select(self.builder.fcmp_ordered(">", value, least), value, least)

    def outside(self, value: Any, weights: Any, least: Any, widest: Any) -> Any:
        """Return 1 where a scaling with weight is outside of its range, else 0."""
        builder, kind = self.builder, value.type
        none = builder.fcmp_ordered("==", weights, self.all(kind, 0.0))
        low = builder.fcmp_ordered(">=", value, self.all(kind, least))
        high = builder.fcmp_ordered("<=", value, self.all(kind, widest))
        fits = builder.or_(builder.and_(low, high), none)
        return builder.select(fits, self.all(kind, 0.0), self.all(kind, 1.0))


NARROW = (2, 4)
"""Vectors in a row of K for which a block of four rows stays in registers: 32 and 64 of float32."""


def _blocks(code: Code, kernel: Any, vector: Any, sums: Any, middle: Callable[..., Any]) -> None:
    """Write one reading of K: four products K_i y, what becomes of them, sums = K^T of that."""
    builder, vectors = code.builder, code.vectors(kernel)
    wide = builder.append_basic_block("wide")
    end = builder.append_basic_block("end")
    choice = builder.switch(vectors, wide)
    for width in NARROW:
        case = builder.append_basic_block(f"narrow.{width}")
        choice.add_case(code.integer(width), case)
        builder.position_at_end(case)
        _narrow_blocks(code, kernel, (vector, sums), middle, width)
        builder.branch(end)
    builder.position_at_end(wide)
    _wide_blocks(code, kernel, (vector, sums), middle)
    builder.branch(end)
    builder.position_at_end(end)


def _narrow_blocks(
    code: Code, kernel: Any, ends: tuple[Any, Any], middle: Callable[..., Any], width: int
) -> None:
    """Write `_blocks` for rows of so many vectors."""
    builder, four, (vector, sums) = code.builder, code.integer(4), ends
    places = [code.integer(i) for i in range(width)]
    parts = [code.load(vector.data, place) for place in places]
    totals = [code.zero() for _ in places]
    with cgutils.for_range(
        builder, builder.udiv(builder.extract_value(kernel.shape, 0), four)
    ) as block:
        first = builder.mul(block.index, four)
        rows = [
            [code.load(row, place) for place in places]
            for row in code.rows(kernel, first, range(4))
        ]
        products = [reduce(code.plus, map(code.times, row, parts)) for row in rows]
        factors = middle(first, code.sums(products))
        spread = [code.shuffled(factors, factors, [r] * code.lanes) for r in range(4)]
        for total, column in zip(totals, zip(*rows, strict=True), strict=True):
            both = reduce(code.plus, map(code.times, column, spread))
            builder.store(code.plus(builder.load(total), both), total)
    for total, place in zip(totals, places, strict=True):
        code.store(builder.load(total), sums.data, place)


def _wide_blocks(
    code: Code, kernel: Any, ends: tuple[Any, Any], middle: Callable[..., Any]
) -> None:
    """Write `_blocks` for rows of any length."""
    builder, four, (vector, sums) = code.builder, code.integer(4), ends
    vectors = code.vectors(kernel)
    with cgutils.for_range(builder, vectors) as loop:
        code.store(ir.Constant(code.vector, None), sums.data, loop.index)
    with cgutils.for_range(
        builder, builder.udiv(builder.extract_value(kernel.shape, 0), four)
    ) as block:
        first = builder.mul(block.index, four)
        rows = code.rows(kernel, first, range(4))
        totals = [code.zero() for _ in rows]
        with cgutils.for_range(builder, vectors) as loop:
            part = code.load(vector.data, loop.index)
            for row, total in zip(rows, totals, strict=True):
                code.add_to(total, code.load(row, loop.index), part)
        factors = middle(first, code.sums([builder.load(total) for total in totals]))
        spread = [code.shuffled(factors, factors, [r] * code.lanes) for r in range(4)]
        with cgutils.for_range(builder, vectors) as loop:
            parts = [
                code.times(code.load(row, loop.index), factor)
                for row, factor in zip(rows, spread, strict=True)
            ]
            both = reduce(code.plus, parts)
            code.store(code.plus(code.load(sums.data, loop.index), both), sums.data, loop.index)


def _sweep(
    typing: Any, kernel: Any, a: Any, y: Any, before: Any, x: Any, sums: Any, limits: Any
) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Code(context, builder, kernel)
        kinds = (kernel, a, y, before, x, sums)
        k, weights, ys, old, new, out = map(code.array, kinds, given[:6])
        tiny, least, widest = (builder.extract_value(given[6], part) for part in range(3))
        few = ir.VectorType(code.scalar, 4)
        error, outside = (cgutils.alloca_once(builder, few) for _ in range(2))
        for place in (error, outside):
            builder.store(ir.Constant(few, None), place)
        name = f"llvm.fabs.v4f{8 * code.size}"
        absolute = cgutils.get_or_insert_function(builder.module, ir.FunctionType(few, [few]), name)

        def middle(first: Any, found: Any) -> Any:
            own = code.four(weights, first)
            off = builder.fsub(code.times(code.four(old, first), found), own)
            builder.store(code.plus(builder.load(error), builder.call(absolute, [off])), error)
            scaling = builder.fdiv(own, code.at_least(found, code.all(few, tiny)))
            code.four(new, first, scaling)
            more = code.outside(scaling, own, least, widest)
            builder.store(code.plus(builder.load(outside), more), outside)
            return scaling

        _blocks(code, k, ys, out, middle)
        sums_of = [code.sum(builder.load(place), 4) for place in (error, outside)]
        return context.make_tuple(builder, signature.return_type, sums_of)

    result = types.UniTuple(kernel.dtype, 2)
    return result(kernel, a, y, before, x, sums, limits), write


def _divide(typing: Any, b: Any, sums: Any, y: Any, limits: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Code(context, builder, b)
        weights, totals, out = map(code.array, (b, sums, y), given[:3])
        tiny, least, widest = (builder.extract_value(given[3], part) for part in range(3))
        outside = code.zero()
        count = builder.udiv(builder.extract_value(weights.shape, 0), code.integer(code.lanes))
        with cgutils.for_range(builder, count) as loop:
            own, total = (code.load(array.data, loop.index) for array in (weights, totals))
            scaling = builder.fdiv(own, code.at_least(total, code.spread(tiny)))
            code.store(scaling, out.data, loop.index)
            more = code.outside(scaling, own, least, widest)
            builder.store(code.plus(builder.load(outside), more), outside)
        return code.sum(builder.load(outside), code.lanes)

    return b.dtype(b, sums, y, limits), write


def _step_back(typing: Any, kernel: Any, rows: Any, columns: Any) -> Any:
    one = rows.dtype

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Code(context, builder, kernel)
        k = code.array(kernel, given[0])
        xs, ws, a_inverse, das, gs = code.arrays(one, given[1], 5)
        ys, before, zs, b_inverse, dbs, hs, sums = code.arrays(one, given[2], 7)
        vectors = code.vectors(k)
        with cgutils.for_range(builder, vectors) as loop:
            z, y, inverse, db = (code.load(v.data, loop.index) for v in (zs, ys, b_inverse, dbs))
            code.store(code.times(code.times(z, y), inverse), hs.data, loop.index)
            code.store(code.plus(db, z), dbs.data, loop.index)

        def middle(first: Any, found: Any) -> Any:
            scaling = code.four(xs, first)
            left = builder.fsub(code.four(ws, first), code.times(scaling, found))
            code.four(ws, first, ir.Constant(left.type, None))
            code.four(das, first, code.plus(code.four(das, first), left))
            factors = code.times(code.times(left, scaling), code.four(a_inverse, first))
            code.four(gs, first, factors)
            return factors

        _blocks(code, k, hs, sums, middle)
        with cgutils.for_range(builder, vectors) as loop:
            y, total = (code.load(v.data, loop.index) for v in (before, sums))
            code.store(builder.fneg(code.times(y, total)), zs.data, loop.index)
        return context.get_dummy_value()

    return types.void(kernel, rows, columns), write


def _outer4(typing: Any, lefts: Any, rights: Any, terms: Any, first: Any, total: Any) -> Any:
    matrix = lefts.dtype

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Code(context, builder, matrix)
        pairs = list(zip(*(code.arrays(matrix, side, 2) for side in given[:2]), strict=True))
        out = code.array(total, given[4])
        vectors, two = code.vectors(out), code.integer(2)
        half = builder.udiv(vectors, two)
        with cgutils.for_range(builder, half) as loop:
            _outer_block(code, pairs, given[2:4], (out, builder.mul(loop.index, two)), 2)
        with builder.if_then(builder.icmp_unsigned("<", builder.mul(half, two), vectors)):
            _outer_block(code, pairs, given[2:4], (out, builder.sub(vectors, code.integer(1))), 1)
        return context.get_dummy_value()

    return types.void(lefts, rights, terms, first, total), write


def _outer_block(code: Code, pairs: Any, at: Any, out: tuple[Any, Any], width: int) -> None:
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


sweep = intrinsic_of(_sweep)
"""Set x = a / (K y), sums = K^T x in one reading of K.

`limits` are (tiny, least, widest). Returns the row error of (before, y), and how many x are outside
of their range.
"""
divide = intrinsic_of(_divide)
"""Set y = b / sums; return how many y are outside of their range."""
step_back = intrinsic_of(_step_back)
"""Go back through an iteration, in one reading of K.

From rows (x, w, 1 / a, da, g) and columns (y, y before, z, 1 / b, db, h, sums): h = z y / b,
db += z, then w -= x (K h), da += w, g = w x / a, w = 0, and z = -(y before) (K^T g).
"""
outer4 = intrinsic_of(_outer4)
"""Set four rows of the sum over terms k of x_k h_k^T + g_k y_k^T, from (x, g) and (h, y)."""
