"""What attention among few tokens does to lines: 64 bytes of neighbouring clips.

All of it is elementwise over clips, so that a number of the formulas is a line here. Left to itself
LLVM guards every loop over clips against arrays that overlap, which at 32 clips costs more than the
loop: these are written for the vector unit (see `nver.scaling.vectors`). Places are addresses, and
distances are in bytes.
"""

# ruff: noqa: ARG001 - numba's own signatures

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from nver.scaling.compiled import intrinsic_of
from nver.scaling.exponentials import Exponential
from nver.scaling.vectors import BYTES, Code, cgutils, ir, types

AT_ONCE = 4
"""Tokens whose lines are held in registers together."""
EIGHT = 8
"""Features that are turned into lines together; widths are multiples of it."""


class Lines(Code):
    """Writes LLVM's instructions on lines at addresses."""

    def __init__(self, context: Any, builder: Any, one: Any) -> None:
        super().__init__(context, builder, SimpleNamespace(dtype=one))
        self.none = ir.Constant(self.vector, None)

    def place(self, start: Any, number: Any = None, step: Any = None) -> Any:
        """Return start + number * step, by default a line's length apart."""
        if number is None:
            return start
        step = self.integer(BYTES) if step is None else step
        return self.builder.add(start, self.builder.mul(number, step))

    def get(self, start: Any, number: Any = None, step: Any = None) -> Any:
        """Return a line."""
        return self.builder.load(self._at(start, number, step), align=self.size)

    def put(self, value: Any, start: Any, number: Any = None, step: Any = None) -> None:
        """Write a line."""
        self.builder.store(value, self._at(start, number, step), align=self.size)

    def _at(self, start: Any, number: Any, step: Any) -> Any:
        place = self.place(start, number, step)
        return self.builder.inttoptr(place, self.vector.as_pointer())

    def number(self, start: Any, index: Any) -> Any:
        """Return one of neighbouring numbers, in every lane."""
        first = self.builder.inttoptr(start, self.scalar.as_pointer())
        return self.spread(self.builder.load(self.builder.gep(first, [index])))

    def each(self, count: Any) -> Any:
        """Write a loop."""
        return cgutils.for_range(self.builder, count)

    def fresh(self) -> Any:
        """Return a variable that is zero whenever the program comes here."""
        place = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(self.none, place)
        return place

    def few(self, count: Any, body: Callable[[list[Any]], None]) -> None:
        """Write body(numbers) for 4 numbers at a time from 0 to count, then for each of the rest.

        A loop over the few in the innermost place would cost more than what is in it.
        """
        four = self.integer(AT_ONCE)
        whole = self.builder.udiv(count, four)
        with self.each(whole) as loop:
            first = self.builder.mul(loop.index, four)
            body([self.builder.add(first, self.integer(r)) for r in range(AT_ONCE)])
        done = self.builder.mul(whole, four)
        with self.each(self.builder.sub(count, done)) as loop:
            body([self.builder.add(done, loop.index)])

    def exp(self, t: Any) -> Any:
        """Return exp(t) for t at most 0; below -700 that of -700."""
        made = []
        for first in range(0, self.lanes, Exponential.LANES):
            part = self.shuffled(t, t, list(range(first, first + Exponential.LANES)))
            wide = Exponential(self.builder, self.scalar, self.size)
            part = part if self.size == 8 else self.builder.fpext(part, wide.wide)
            low = self.builder.fcmp_ordered("<", part, wide.number(-700.0))
            part = wide.of(self.builder.select(low, wide.number(-700.0), part))
            made.append(part if self.size == 8 else self.builder.fptrunc(part, wide.narrow))
        if len(made) == 1:
            return made[0]
        low, high = made
        return self.shuffled(low, high, list(range(self.lanes)))


def _writes(one: Any, body: Callable[..., None]) -> Callable[..., Any]:
    """Return what numba asks for: writes body(lines, all arguments but the first)."""

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        body(Lines(context, builder, one), *given[1:])
        return context.get_dummy_value()

    return write


def _take(typing: Any, one: Any, source: Any, step: Any, shift: Any, count: Any, out: Any) -> Any:
    def body(code: Lines, source: Any, step: Any, shift: Any, count: Any, out: Any) -> None:
        with code.each(count) as d:
            line = code.get(source, d.index, step)
            code.put(code.plus(line, code.number(shift, d.index)), out, d.index)

    return types.void(one, source, step, shift, count, out), _writes(one, body)


def _copy(typing: Any, one: Any, source: Any, step: Any, count: Any, out: Any) -> Any:
    def body(code: Lines, source: Any, step: Any, count: Any, out: Any) -> None:
        with code.each(count) as d:
            code.put(code.get(source, d.index, step), out, d.index)

    return types.void(one, source, step, count, out), _writes(one, body)


def _clear(typing: Any, one: Any, out: Any, count: Any) -> Any:
    def body(code: Lines, out: Any, count: Any) -> None:
        with code.each(count) as d:
            code.put(code.none, out, d.index)

    return types.void(one, out, count), _writes(one, body)


def _add(typing: Any, one: Any, source: Any, step: Any, count: Any, out: Any) -> Any:
    def body(code: Lines, source: Any, step: Any, count: Any, out: Any) -> None:
        with code.each(count) as d:
            total = code.plus(code.get(out, d.index), code.get(source, d.index, step))
            code.put(total, out, d.index)

    return types.void(one, source, step, count, out), _writes(one, body)


def _total(typing: Any, one: Any, line: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Lines(context, builder, one)
        return code.sum(code.get(given[1]), code.lanes)

    return one(one, line), write


def _products(typing: Any, one: Any, x: Any, y: Any, step: Any, sizes: Any, out: Any) -> Any:
    def body(code: Lines, x: Any, y: Any, step: Any, sizes: Any, out: Any) -> None:
        tokens, depth = (code.builder.extract_value(sizes, i) for i in range(2))

        def some(numbers: list[Any]) -> None:
            totals = [code.fresh() for _ in numbers]
            with code.each(depth) as d:
                own = code.get(x, d.index)
                for number, total in zip(numbers, totals, strict=True):
                    other = code.get(code.place(y, number, step), d.index)
                    code.add_to(total, own, other)
            for number, total in zip(numbers, totals, strict=True):
                code.put(code.builder.load(total), out, number)

        code.few(tokens, some)

    return types.void(one, x, y, step, sizes, out), _writes(one, body)


def _mix(typing: Any, one: Any, weights: Any, rows: Any, steps: Any, sizes: Any, out: Any) -> Any:
    def body(code: Lines, weights: Any, rows: Any, steps: Any, sizes: Any, out: Any) -> None:
        builder = code.builder
        by_weight, by_row, by_line = (builder.extract_value(steps, i) for i in range(3))
        tokens, depth = (builder.extract_value(sizes, i) for i in range(2))
        with code.each(depth) as d:
            code.put(code.none, out, d.index, by_line)

        def some(numbers: list[Any]) -> None:
            held = [code.get(weights, number, by_weight) for number in numbers]
            starts = [code.place(rows, number, by_row) for number in numbers]
            with code.each(depth) as d:
                total = code.get(out, d.index, by_line)
                for weight, start in zip(held, starts, strict=True):
                    total = code.plus(total, code.times(weight, code.get(start, d.index)))
                code.put(total, out, d.index, by_line)

        code.few(tokens, some)

    return types.void(one, weights, rows, steps, sizes, out), _writes(one, body)


def _turned(code: Lines, rows: list[Any]) -> list[Any]:
    """Return vectors of which lane 8 g + i of number j is lane 8 g + j of number i, for eight."""
    for step in (4, 2, 1):
        own, other = (
            [lane if not lane & step else code.lanes + lane - step for lane in range(code.lanes)],
            [lane + step if not lane & step else code.lanes + lane for lane in range(code.lanes)],
        )
        for i in range(EIGHT):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = code.shuffled(a, b, own), code.shuffled(a, b, other)
    return rows


def _to_lines(typing: Any, one: Any, rows: Any, by_row: Any, width: Any, out: Any, by: Any) -> Any:
    def body(code: Lines, rows: Any, by_row: Any, width: Any, out: Any, by: Any) -> None:
        builder, eight = code.builder, code.integer(EIGHT)
        part = ir.VectorType(code.scalar, EIGHT)
        with code.each(builder.udiv(width, eight)) as loop:
            first = builder.mul(loop.index, eight)
            start = code.place(rows, first, code.integer(code.size))
            read = []
            for row in range(code.lanes):
                place = code.place(start, code.integer(row), by_row)
                place = builder.inttoptr(place, part.as_pointer())
                read.append(builder.load(place, align=code.size))
            if code.lanes > EIGHT:
                whole = list(range(code.lanes))
                pairs = zip(read[:EIGHT], read[EIGHT:], strict=True)
                read = [code.shuffled(low, high, whole) for low, high in pairs]
            end = code.place(out, first, by)
            for i, line in enumerate(_turned(code, read)):
                code.put(line, end, code.integer(i), by)

    return types.void(one, rows, by_row, width, out, by), _writes(one, body)


def _to_rows(typing: Any, one: Any, source: Any, by: Any, width: Any, out: Any, by_row: Any) -> Any:
    def body(code: Lines, source: Any, by: Any, width: Any, out: Any, by_row: Any) -> None:
        builder, eight = code.builder, code.integer(EIGHT)
        with code.each(builder.udiv(width, eight)) as loop:
            first = builder.mul(loop.index, eight)
            start = code.place(source, first, by)
            read = [code.get(start, code.integer(i), by) for i in range(EIGHT)]
            end = code.place(out, first, code.integer(code.size))
            for i, line in enumerate(_turned(code, read)):
                for group in range(code.lanes // EIGHT):
                    lanes = list(range(group * EIGHT, (group + 1) * EIGHT))
                    part = code.shuffled(line, line, lanes)
                    place = code.place(end, code.integer(group * EIGHT + i), by_row)
                    place = builder.inttoptr(place, part.type.as_pointer())
                    builder.store(part, place, align=code.size)

    return types.void(one, source, by, width, out, by_row), _writes(one, body)


def _softmax(typing: Any, one: Any, scores: Any, tokens: Any, counts: Any, scale: Any) -> Any:
    def body(code: Lines, scores: Any, tokens: Any, counts: Any, scale: Any) -> None:
        builder, most, total = code.builder, code.fresh(), code.fresh()
        builder.store(code.get(scores), most)
        with code.each(tokens) as j:
            score, before = code.get(scores, j.index), builder.load(most)
            larger = builder.fcmp_ordered(">", score, before)
            builder.store(builder.select(larger, score, before), most)
        by = code.spread(scale)
        with code.each(tokens) as j:
            below = builder.fsub(code.get(scores, j.index), builder.load(most))
            value = code.times(code.exp(code.times(below, by)), code.number(counts, j.index))
            builder.store(code.plus(builder.load(total), value), total)
            code.put(value, scores, j.index)
        share = builder.fdiv(ir.Constant(code.vector, [1.0] * code.lanes), builder.load(total))
        with code.each(tokens) as j:
            code.put(code.times(code.get(scores, j.index), share), scores, j.index)

    return types.void(one, scores, tokens, counts, scale), _writes(one, body)


def _softmax_back(
    typing: Any, one: Any, weights: Any, kept: Any, tokens: Any, scale: Any, gradient: Any
) -> Any:
    def body(code: Lines, weights: Any, kept: Any, tokens: Any, scale: Any, gradient: Any) -> None:
        builder, total = code.builder, code.fresh()
        with code.each(tokens) as j:
            part = code.times(code.get(gradient, j.index), code.get(kept, j.index))
            builder.store(code.plus(builder.load(total), part), total)
            code.put(part, gradient, j.index)
        by = code.spread(scale)
        with code.each(tokens) as j:
            shared = code.times(code.get(weights, j.index), builder.load(total))
            part = builder.fsub(code.get(gradient, j.index), shared)
            code.put(code.times(part, by), gradient, j.index)

    return types.void(one, weights, kept, tokens, scale, gradient), _writes(one, body)


def _survive(
    typing: Any, one: Any, weight: Any, bits: Any, levels: Any, step: Any, share: Any, out: Any
) -> Any:
    def body(
        code: Lines, weight: Any, bits: Any, levels: Any, step: Any, share: Any, out: Any
    ) -> None:
        builder, half = code.builder, ir.IntType(16)
        kind = ir.VectorType(half, code.lanes)
        first, copies = (builder.extract_value(levels, i) for i in range(2))
        drawn = builder.load(builder.inttoptr(bits, kind.as_pointer()), align=2)
        factor, by = code.fresh(), code.spread(share)
        with code.each(copies) as n:
            level = code.place(first, n.index, step)
            level = builder.load(builder.inttoptr(level, half.as_pointer()))
            above = builder.icmp_signed(">", drawn, code.spread(level, kind))
            more = builder.select(above, by, code.none)
            builder.store(code.plus(builder.load(factor), more), factor)
        code.put(code.times(code.get(weight), builder.load(factor)), out)

    return types.void(one, weight, bits, levels, step, share, out), _writes(one, body)


to_lines = intrinsic_of(_to_lines)
"""Set lines out[w] to the numbers w of as many rows as a line has lanes.

From row to row it is `by_row` bytes, from line to line `by`; a row has a multiple of 8 numbers.
"""
to_rows = intrinsic_of(_to_rows)
"""Set the rows to the lines' numbers: the inverse of `to_lines`."""
take = intrinsic_of(_take)
"""Set lines out[d] to the line at source + d step, plus the number shift[d]."""
copy = intrinsic_of(_copy)
"""Set lines out[d] to the line at source + d step."""
clear = intrinsic_of(_clear)
"""Set lines to 0."""
add = intrinsic_of(_add)
"""Add to lines out[d] the line at source + d step."""
total = intrinsic_of(_total)
"""Return the sum over a line."""
products = intrinsic_of(_products)
"""Set lines out[j] to the sum over d of x[d] y_j[d], y_j at y + j step; sizes (tokens, depth)."""
mix = intrinsic_of(_mix)
"""Set lines out[d] to the sum over j of weights[j] rows_j[d].

`steps` are the distances of weights, of the rows j, and of the lines of out.
"""
softmax = intrinsic_of(_softmax)
"""Turn lines of scores into their softmax over j, scaled, each counting counts[j] times."""
softmax_back = intrinsic_of(_softmax_back)
"""Turn the gradient at the factors of `kept` into that at the unscaled scores."""
survive = intrinsic_of(_survive)
"""Set out to the weight times its share for every level that its bits exceed.

`levels` are the address of the first and how many, `step` apart.
"""
