"""What `winograd` does with a tile or a column of vectors, in LLVM's instructions.

Arrays are C-contiguous matrices of float32; winners are int8, 1 (even), 2 (odd) or 0 (neither
passed the ReLU). The four inputs or products of a pair lie `PAIRS` rows apart.
"""

# ruff: noqa: ARG001 - numba's own signatures

from __future__ import annotations

from typing import Any

from nver.scaling.compiled import intrinsic_of
from nver.scaling.tiles import Left, tile
from nver.scaling.vectors import FLAGS, Code, cgutils, ir, types

EVEN, ODD = 1, 2


class Writer(Code):
    """`Code` for columns of vectors: matrices are told by their first number and their width."""

    def matrix(self, kind: Any, value: Any, column: Any) -> tuple[Any, Any]:
        """Return where a matrix's column starts, and how long its rows are."""
        array = self.array(kind, value)
        return self.builder.gep(array.data, [column]), self.builder.extract_value(array.shape, 1)

    def place(self, matrix: tuple[Any, Any], row: Any) -> Any:
        """Return where the column is in a row."""
        return self.builder.gep(matrix[0], [self.builder.mul(row, matrix[1])])

    def get(self, place: Any, winners: bool = False) -> Any:
        """Return the vector there."""
        kind = self.bytes if winners else self.vector
        pointer = self.builder.bitcast(place, kind.as_pointer())
        return self.builder.load(pointer, align=1 if winners else self.size)

    def put(self, value: Any, place: Any, winners: bool = False) -> None:
        """Write a vector there."""
        pointer = self.builder.bitcast(place, value.type.as_pointer())
        self.builder.store(value, pointer, align=1 if winners else self.size)

    @property
    def bytes(self) -> Any:
        """Return the type of a vector of winners."""
        return ir.VectorType(ir.IntType(8), self.lanes)

    def minus(self, a: Any, b: Any) -> Any:
        """Return a - b."""
        return self.builder.fsub(a, b, flags=FLAGS)

    def whole(self, value: int) -> Any:
        """Return a vector of a winner."""
        return ir.Constant(self.bytes, [value] * self.lanes)

    def only(self, winners: Any, winner: int, value: Any) -> Any:
        """Return the value where this one won, else 0."""
        won = self.builder.icmp_signed("==", winners, self.whole(winner))
        return self.builder.select(won, value, ir.Constant(value.type, None))

    def next(self, row: Any, more: int) -> Any:
        """Return row + more."""
        return self.builder.add(row, self.integer(more))

    def number(self, array: Any, index: Any) -> Any:
        """Return a number in every lane."""
        return self.spread(self.builder.load(self.builder.gep(array, [index])))

    def pooled(self, first: Any, second: Any, bias: Any) -> tuple[Any, Any]:
        """Return max(max(first, second) + bias, 0), and the winners; NaN stays NaN."""
        builder, nothing = self.builder, ir.Constant(self.vector, None)
        larger = builder.fcmp_ordered(">", first, second)
        even = builder.or_(larger, builder.fcmp_unordered("uno", first, first))
        value = self.plus(builder.select(even, first, second), bias)
        dead = builder.fcmp_ordered("<=", value, nothing)
        winner = builder.select(even, self.whole(EVEN), self.whole(ODD))
        winner = builder.select(dead, self.whole(0), winner)
        return builder.select(dead, nothing, value), winner


def _read(typing: Any, x: Any, weight: Any, bias: Any, out: Any, won: Any, column: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Writer(context, builder, x)
        numbers = code.array(x, given[0]).data
        taps, made, wins = (
            code.matrix(kind, given[i], given[5]) for kind, i in ((weight, 1), (out, 3), (won, 4))
        )
        own = [code.get(code.place(taps, code.integer(tap))) for tap in range(3)]
        more = code.get(builder.gep(code.array(bias, given[2]).data, [given[5]]))
        rows = builder.extract_value(code.array(out, given[3]).shape, 0)
        with cgutils.for_range(builder, rows) as loop:
            start = builder.mul(loop.index, code.integer(2))
            values = [code.number(numbers, code.next(start, i)) for i in range(4)]
            sums = []
            for i in range(2):
                total = code.times(own[0], values[i])
                for tap in (1, 2):
                    total = code.plus(total, code.times(own[tap], values[i + tap]))
                sums.append(total)
            value, winner = code.pooled(sums[0], sums[1], more)
            code.put(value, code.place(made, loop.index))
            code.put(winner, code.place(wins, loop.index), winners=True)
        return context.get_dummy_value()

    return types.void(x, weight, bias, out, won, column), write


def _unfold(typing: Any, inner: Any, first: Any, count: Any, room: Any, column: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Writer(context, builder, inner)
        source, target = (
            code.matrix(inner, given[0], given[4]),
            code.matrix(room, given[3], given[4]),
        )
        apart = _apart(code, room, given[3])
        with cgutils.for_range(builder, given[2]) as loop:
            start = builder.mul(builder.add(given[1], loop.index), code.integer(2))
            d = [code.get(code.place(source, code.next(start, i))) for i in range(4)]
            parts = (
                code.minus(d[0], d[2]), code.plus(d[1], d[2]),
                code.minus(d[2], d[1]), code.minus(d[3], d[1]),
            )  # fmt: skip
            for i, part in enumerate(parts):
                row = builder.add(loop.index, builder.mul(apart, code.integer(i)))
                code.put(part, code.place(target, row))
        return context.get_dummy_value()

    return types.void(inner, first, count, room, column), write


def _apart(code: Any, kind: Any, value: Any) -> Any:
    """Return how many rows lie between the four parts of a pair."""
    rows = code.builder.extract_value(code.array(kind, value).shape, 0)
    return code.builder.udiv(rows, code.integer(4))


def _pool_of(pairs: int) -> Any:
    """Return the intrinsic that makes pooled activations of so many pairs and four vectors."""

    def pool(typing: Any, room: Any, kernels: Any, bias: Any, out: Any, won: Any, at: Any) -> Any:
        def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            code = Writer(context, builder, room)
            pair, target, column = (builder.extract_value(given[5], i) for i in range(3))
            inputs = code.matrix(room, given[0], code.integer(0))
            weights, made, wins = (
                code.matrix(kind, given[i], column)
                for kind, i in ((kernels, 1), (out, 3), (won, 4))
            )
            more = builder.gep(code.array(bias, given[2]).data, [column])
            apart = _apart(code, room, given[0])
            rows = [builder.add(pair, builder.mul(apart, code.integer(i))) for i in range(4)]
            totals = _even_and_odd(code, inputs, rows, weights, pairs)
            for p, line in enumerate(zip(*totals, strict=True)):
                row = code.next(target, p)
                for v, (even, odd) in enumerate(zip(*line, strict=True)):
                    shift = code.get(code.at(more, code.integer(v)))
                    value, winner = code.pooled(builder.load(even), builder.load(odd), shift)
                    skip = [code.integer(v * code.lanes)]
                    code.put(value, builder.gep(code.place(made, row), skip))
                    code.put(winner, builder.gep(code.place(wins, row), skip), winners=True)
            return context.get_dummy_value()

        return types.void(room, kernels, bias, out, won, at), write

    return intrinsic_of(pool)


def _even_and_odd(code: Any, inputs: Any, rows: Any, weights: Any, pairs: int) -> Any:
    """Write the sums of a convolution at the two positions of pairs, in four vectors."""
    builder, terms = code.builder, inputs[1]
    sums = [[[code.zero() for _ in range(4)] for _ in range(pairs)] for _ in range(2)]

    def add(parts: tuple[int, int]) -> None:
        with cgutils.for_range(builder, terms) as loop:
            for part, totals in zip(parts, sums, strict=True):
                row = builder.add(loop.index, builder.mul(terms, code.integer(part)))
                vectors = [code.load(code.place(weights, row), code.integer(v)) for v in range(4)]
                for p, own in enumerate(totals):
                    start = code.place(inputs, code.next(rows[part], p))
                    factor = code.number(start, loop.index)
                    for total, vector in zip(own, vectors, strict=True):
                        code.add_to(total, factor, vector)

    add((1, 2))  # both positions have these two, the odd one less the second
    for pair in zip(*sums, strict=True):
        for even, odd in zip(*pair, strict=True):
            plus, minus = builder.load(even), builder.load(odd)
            builder.store(code.plus(plus, minus), even)
            builder.store(code.minus(plus, minus), odd)
    add((0, 3))
    return sums


def _pool_back(
    typing: Any, gradient: Any, won: Any, most: Any, products: Any, d_bias: Any, at: Any
) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Writer(context, builder, gradient)
        first, count, column = (builder.extract_value(given[5], i) for i in range(3))
        source, wins, usual, target = (
            code.matrix(kind, given[i], column)
            for kind, i in ((gradient, 0), (won, 1), (most, 2), (products, 3))
        )
        apart = _apart(code, products, given[3])
        told = builder.gep(code.array(d_bias, given[4]).data, [column])
        total = code.zero()
        with cgutils.for_range(builder, count) as loop:
            row = builder.add(first, loop.index)
            value = code.get(code.place(source, row))
            winner = code.get(code.place(wins, row), winners=True)
            even, odd = (code.only(winner, which, value) for which in (EVEN, ODD))
            both = code.plus(even, odd)
            parts = even, both, code.minus(even, odd), odd
            for i, part in enumerate(parts):
                own = builder.add(loop.index, builder.mul(apart, code.integer(i)))
                code.put(part, code.place(target, own))
            inverse = code.get(code.place(usual, row), winners=True)
            share = code.minus(both, code.only(inverse, 1, value))
            builder.store(code.plus(builder.load(total), share), total)
        code.put(code.plus(code.get(told), builder.load(total)), told)
        return context.get_dummy_value()

    return types.void(gradient, won, most, products, d_bias, at), write


def _outer(typing: Any, inner: Any, products: Any, count: Any, total: Any, at: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Writer(context, builder, inner)
        position, part, base, row, column = (builder.extract_value(given[4], i) for i in range(5))
        left, right = code.matrix(inner, given[0], row), code.matrix(products, given[1], column)
        out = code.matrix(total, given[3], column)
        apart = builder.mul(left[1], code.integer(2))
        numbers = Left(code.place(left, position), code.integer(1), apart)
        made = tile(code, given[2], numbers, (code.place(right, part), right[1]), (4, 4))
        for i, vectors in enumerate(made):
            line = code.place(out, builder.add(base, code.next(row, i)))
            for v, value in enumerate(vectors):
                place = code.integer(v)
                code.store(code.plus(code.load(line, place), value), line, place)
        return context.get_dummy_value()

    return types.void(inner, products, count, total, at), write


def _back_of(pairs: int) -> Any:
    """Return the intrinsic for the gradients at the inputs of so many pairs, in two vectors."""

    def back(typing: Any, products: Any, turned: Any, out: Any, at: Any) -> Any:
        def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            code = Writer(context, builder, products)
            row, base, part, target, column = (builder.extract_value(given[3], i) for i in range(5))
            left = code.matrix(products, given[0], code.integer(0))
            right, made = (
                code.matrix(kind, given[i], column) for kind, i in ((turned, 1), (out, 2))
            )
            numbers = Left(code.place(left, row), left[1], code.integer(1))
            start = code.place(right, base), right[1]
            for i, vectors in enumerate(tile(code, left[1], numbers, start, (pairs, 2))):
                own = builder.mul(code.next(target, i), code.integer(4))
                line = code.place(made, builder.add(own, part))
                for v, value in enumerate(vectors):
                    code.store(value, line, code.integer(v))
            return context.get_dummy_value()

        return types.void(products, turned, out, at), write

    return intrinsic_of(back)


def _read_back(
    typing: Any, x: Any, back: Any, won: Any, d_weight: Any, d_bias: Any, column: Any
) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Writer(context, builder, x)
        numbers = code.array(x, given[0]).data
        source, wins, told = (
            code.matrix(kind, given[i], given[5])
            for kind, i in ((back, 1), (won, 2), (d_weight, 3))
        )
        places = [code.place(told, code.integer(tap)) for tap in range(3)]
        places.append(builder.gep(code.array(d_bias, given[4]).data, [given[5]]))
        totals = [code.zero() for _ in places]
        rows = builder.extract_value(code.array(won, given[2]).shape, 0)
        with cgutils.for_range(builder, builder.udiv(rows, code.integer(2))) as loop:
            _two_positions(code, (numbers, source, wins), loop.index, totals)
        for place, total in zip(places, totals, strict=True):
            code.put(code.plus(code.get(place), builder.load(total)), place)
        return context.get_dummy_value()

    return types.void(x, back, won, d_weight, d_bias, column), write


def _two_positions(code: Any, given: Any, pair: Any, totals: Any) -> None:
    """Write what two positions of the first block's outcome say of its weights and bias."""
    builder, (numbers, source, wins) = code.builder, given
    row = builder.mul(pair, code.integer(4))
    old = [code.get(code.place(source, code.next(row, i))) for i in range(4)]
    new = [code.get(code.place(source, code.next(row, 4 + i))) for i in range(4)]
    even = code.plus(code.minus(new[0], old[0]), code.plus(old[1], old[2]))
    odd = code.minus(code.minus(new[1], new[2]), code.minus(new[3], old[3]))
    for i, passed in enumerate((even, odd)):
        position = code.next(builder.mul(pair, code.integer(2)), i)
        winner = code.get(code.place(wins, position), winners=True)
        start = builder.mul(position, code.integer(2))
        values = [code.number(numbers, code.next(start, k)) for k in range(4)]
        both = [code.only(winner, which, passed) for which in (EVEN, ODD)]
        for which, own in enumerate(both):
            for tap in range(3):
                code.add_to(totals[tap], own, values[which + tap])
        builder.store(code.plus(builder.load(totals[3]), code.plus(both[0], both[1])), totals[3])


read = intrinsic_of(_read)
"""Do the first block (`loops.read`) for 16 of its filters."""
unfold = intrinsic_of(_unfold)
"""Set the four inputs of `count` pairs from `first` on, in 16 columns."""
pool_some, pool_one = _pool_of(3), _pool_of(1)
"""Set pooled activations and winners of three pairs, or one, in 64 columns.

`at` is the pair in `room`, the pair in `out`, and the column.
"""
pool_back = intrinsic_of(_pool_back)
"""Set the gradients at the four products of pairs, and add to d_bias (`loops.pool_back`).

`at` is the first pair, their count, and the column.
"""
outer = intrinsic_of(_outer)
"""Add to four rows and 64 columns of the gradient at a tap.

`at` is the first pair's position and its row among products, the tap's first row, the row in it,
and the column.
"""
back_some, back_one = _back_of(8), _back_of(1)
"""Set the gradient at one of four inputs of eight pairs, or one, in 32 columns.

`at` is the pair's row, the turned kernel's first row, the part, the pair in `out` and the column.
"""
read_back = intrinsic_of(_read_back)
"""Add to the gradients at the first block's weights and bias for 16 of its filters."""
