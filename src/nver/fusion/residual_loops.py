"""A residual and its LayerNorm over one member's tokens, for the CPU.

`nver.fusion.residual` has the same as torch operations. Clips are the innermost axis here, so that
all of it is elementwise over lines (see `nver.fusion.lines`): row i holds feature i of every token
of every clip.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ARG001 - numba takes the types from the calls; its own signatures

from __future__ import annotations

import math
from typing import Any, NamedTuple, no_type_check

from nver.fusion import lines
from nver.fusion.attention_loops import LINE
from nver.fusion.lines import Lines
from nver.scaling.compiled import address, compiled, intrinsic_of
from nver.scaling.vectors import FLAGS, ir, types


class Extent(NamedTuple):
    """Features, tokens, and lines of a token's row."""

    width: Any
    tokens: Any
    chunks: Any


class _Columns:
    """Lines of a few columns, feature by feature.

    Parameters
    ----------
    code : Lines
    extent : Extent
    numbers : list
        Those of the lines in a row of all tokens.
    counts : address
        How many copies each token stands for.
    """

    def __init__(self, code: Lines, extent: Extent, numbers: list[Any], counts: Any) -> None:
        builder = code.builder
        tokens = [builder.udiv(number, extent.chunks) for number in numbers]
        self.code, self.extent, self.numbers = code, extent, numbers
        self.counts = [code.number(counts, token) for token in tokens]
        row = builder.mul(extent.chunks, code.integer(LINE))
        self.row = builder.mul(extent.tokens, row)
        self.token_row = row
        # A token's rows lie together in the outcome: token k's first is row k width.
        rows = builder.mul(builder.sub(extent.width, code.integer(1)), extent.chunks)
        self.in_outcome = [
            builder.add(number, builder.mul(token, rows))
            for number, token in zip(numbers, tokens, strict=True)
        ]

    def starts(self, matrix: Any) -> list[Any]:
        """Return where the columns start in a matrix of all tokens."""
        return [self.code.place(matrix, number) for number in self.numbers]

    def outcome(self, matrix: Any) -> list[Any]:
        """Return where they start in a matrix with one token below the other."""
        return [self.code.place(matrix, number) for number in self.in_outcome]

    def variables(self) -> list[Any]:
        """Return a variable for each column, which is 0."""
        return [self.code.fresh() for _ in self.numbers]

    def each(self) -> Any:
        """Write a loop over features."""
        return self.code.each(self.extent.width)


def _minus(code: Lines, a: Any, b: Any) -> Any:
    return code.builder.fsub(a, b, flags=FLAGS)


def _share(code: Lines, width: Any) -> Any:
    """Return one over the width in every lane."""
    whole = code.builder.sitofp(width, code.scalar)
    return code.spread(code.builder.fdiv(ir.Constant(code.scalar, 1.0), whole))


def _norm(
    typing: Any, one: Any, x: Any, layer: Any, counts: Any, made: Any, extent: Any, eps: Any
) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Lines(context, builder, one)
        added, weight, bias = (builder.extract_value(given[2], i) for i in range(3))
        normed, deviations, out = (builder.extract_value(given[4], i) for i in range(3))
        of = Extent(*(builder.extract_value(given[5], i) for i in range(3)))
        share, least = _share(code, of.width), code.spread(given[6])
        none, nan, unit = (code.all(code.vector, value) for value in (0.0, math.nan, 1.0))

        def some(numbers: list[Any]) -> None:
            columns = _Columns(code, of, numbers, given[3])
            xs, places = columns.starts(given[1]), columns.starts(normed)
            means, squares = columns.variables(), columns.variables()
            with columns.each() as i:
                more = code.number(added, i.index)
                for start, place, total in zip(xs, places, means, strict=True):
                    value = code.plus(code.get(place, i.index, columns.row), more)
                    value = code.plus(value, code.get(start, i.index, columns.row))
                    code.put(value, place, i.index, columns.row)
                    builder.store(code.plus(builder.load(total), value), total)
            middles = [code.times(builder.load(total), share) for total in means]
            with columns.each() as i:
                for place, middle, total in zip(places, middles, squares, strict=True):
                    apart = _minus(code, code.get(place, i.index, columns.row), middle)
                    code.add_to(total, apart, apart)
            factors = []
            for number, total in zip(numbers, squares, strict=True):
                root = code.sqrt(code.plus(code.times(builder.load(total), share), least))
                factor = builder.fdiv(unit, root)
                # Where squares overflowed: no number, rather than a row of zeros.
                factor = builder.select(builder.fcmp_ordered(">", factor, none), factor, nan)
                code.put(factor, deviations, number)
                factors.append(factor)
            outs = columns.outcome(out)
            with columns.each() as i:
                scale, shift = code.number(weight, i.index), code.number(bias, i.index)
                for n, (place, end) in enumerate(zip(places, outs, strict=True)):
                    value = _minus(code, code.get(place, i.index, columns.row), middles[n])
                    value = code.times(value, factors[n])
                    code.put(value, place, i.index, columns.row)
                    value = code.plus(code.times(value, scale), shift)
                    code.put(code.times(value, columns.counts[n]), end, i.index, columns.token_row)

        code.few(builder.mul(of.tokens, of.chunks), some)
        return context.get_dummy_value()

    return types.void(one, x, layer, counts, made, extent, eps), write


def _add(code: Lines, values: list[Any], sums: Any, i: Any) -> None:
    """Add values to line i of the sums."""
    total = code.get(sums, i)
    for value in values:
        total = code.plus(total, value)
    code.put(total, sums, i)


def _few_back(
    columns: _Columns, places: tuple[Any, Any, Any, Any], weight: Any, sums: list[Any]
) -> None:
    """Write the way back of a few columns.

    `places` are those of the gradient at the outcome, of what was normed, of one over the
    deviations, and of the gradient that is set; `sums` those of weight, bias and added.
    """
    code, builder = columns.code, columns.code.builder
    gradients, seens = columns.outcome(places[0]), columns.starts(places[1])
    ends, share = columns.starts(places[3]), _share(code, columns.extent.width)
    shared, along = columns.variables(), columns.variables()

    def read(i: Any) -> tuple[Any, list[Any], list[Any]]:
        found = [
            code.times(code.get(place, i, columns.token_row), count)
            for place, count in zip(gradients, columns.counts, strict=True)
        ]
        return code.number(weight, i), found, [code.get(place, i, columns.row) for place in seens]

    with columns.each() as i:
        scale, found, rows = read(i.index)
        both = [code.times(g, row) for g, row in zip(found, rows, strict=True)]
        _add(code, both, sums[0], i.index)
        _add(code, found, sums[1], i.index)
        for n, (g, product) in enumerate(zip(found, both, strict=True)):
            code.add_to(shared[n], g, scale)
            code.add_to(along[n], product, scale)
    factors = [code.get(places[2], number) for number in columns.numbers]
    parts = [
        [code.times(code.times(builder.load(total), share), factor) for total in pair]
        for pair, factor in zip(zip(shared, along, strict=True), factors, strict=True)
    ]
    with columns.each() as i:
        scale, found, rows = read(i.index)
        values = []
        for n, (g, row) in enumerate(zip(found, rows, strict=True)):
            value = code.times(code.times(g, scale), factors[n])
            off = code.plus(parts[n][0], code.times(row, parts[n][1]))
            values.append(_minus(code, value, off))
            code.put(values[-1], ends[n], i.index, columns.row)
        _add(code, values, sums[2], i.index)


def _norm_back(
    typing: Any, one: Any, seen: Any, weight: Any, counts: Any, d_x: Any, sums: Any, extent: Any
) -> Any:
    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        code = Lines(context, builder, one)
        gradient, normed, deviations = (builder.extract_value(given[1], i) for i in range(3))
        of = Extent(*(builder.extract_value(given[6], i) for i in range(3)))
        parts = [code.place(given[5], builder.mul(code.integer(i), of.width)) for i in range(3)]
        places = gradient, normed, deviations, given[4]

        def some(numbers: list[Any]) -> None:
            _few_back(_Columns(code, of, numbers, given[3]), places, given[2], parts)

        code.few(builder.mul(of.tokens, of.chunks), some)
        return context.get_dummy_value()

    return types.void(one, seen, weight, counts, d_x, sums, extent), write


_normalise, _normalise_back = intrinsic_of(_norm), intrinsic_of(_norm_back)


@compiled
@no_type_check
def _extent(sizes):
    chunks = sizes.room * sizes.size // LINE
    return (sizes.heads * sizes.depth, sizes.tokens, chunks)


@compiled
@no_type_check
def add_and_norm(one, sizes, x, layer, counts, made, eps):
    """Set out to LayerNorm(x + normed + added) times the token's count.

    All are addresses: `layer` of added, weight and bias [width]; `made` of normed [width, tokens
    room], which is left as what weight and bias were applied to, of one over the deviations [tokens
    room], and of out [tokens width, room].
    """
    _normalise(one, x, layer, counts, made, _extent(sizes), eps)


@compiled
@no_type_check
def add_and_norm_back(one, sizes, seen, weight, counts, d_x, sums):
    """Set d_x [width, tokens room], and the gradients at weight, bias and added.

    `seen` are the addresses of the gradient at out, of normed and of one over the deviations.
    `sums` are lines [3 width] to work with, and the three gradients, arrays of [width].
    """
    line_sums, made = sums
    width = sizes.heads * sizes.depth
    lines.clear(one, address(line_sums), 3 * width)
    at = address(line_sums)
    _normalise_back(one, seen, weight, counts, d_x, at, _extent(sizes))
    for part in range(3):
        for i in range(width):
            made[part][i] = lines.total(one, at + (part * width + i) * LINE)
