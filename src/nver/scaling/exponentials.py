"""Rows of exp(v - C / eps), written for the vector unit: 8 numbers of float64 at a time.

numba's own loops take them 4 at a time, and the largest of a row one by one.
"""

# ruff: noqa: ARG001 - numba's own signatures

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nver.scaling.compiled import intrinsic_of
from nver.scaling.vectors import Code, cgutils, ir, types


class Exponential:
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


class _Scores(Exponential):
    """Walks over v - scale * cost in float64, 8 at a time; a rest of fewer is left out."""

    def __init__(self, code: Code, kinds: tuple[Any, Any], given: tuple[Any, Any, Any]) -> None:
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
        code = Code(context, builder, cost)
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
        code = Code(context, builder, cost)
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


exp_row = intrinsic_of(_exp_row)
"""Set exp(v - scale * cost + shift) in whole vectors of 8, 0 below flush; return their sum."""
most = intrinsic_of(_most)
"""Return the largest v - scale * cost in whole vectors of 8, NaN where one is that."""
