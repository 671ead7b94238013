"""AdamW for the weights of wide dense layers, whose gradient is never written as a whole.

It is G^T X, of the gradient G at the layer's sums and the layer's inputs X (`nver.heads.layers`
keeps both where it is asked to). With convolutions before it such a layer has millions of weights
and a step is memory traffic: a few rows of the gradient at a time stay in the cache until they have
moved their weights. Where vectors are wide (`nver.scaling.tiles`) it is a few entries at a time,
and they stay in registers: a third faster.
"""

# ruff: noqa: ANN001, ANN202, ARG001 - numba takes the types from the calls; its own signatures

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nver.heads.loops import run
from nver.scaling.compiled import compiled_and_kept, intrinsic_of
from nver.scaling.tiles import FAST, Left, fetch, tile
from nver.scaling.vectors import FLAGS, Code, types

WIDE = 2**20
"""Weights of a layer from which on this is faster than torch's fused kernel."""
AT_ONCE = 2**18
"""Entries of the gradient that are made at once, where they pass through the cache."""
ROWS, VECTORS = 4, 4
"""Of a tile of the gradient that stays in registers."""
LANES, COLUMNS = 16, 1024
"""Numbers in a vector; columns of the inputs that are used for all rows in turn."""


class Move(NamedTuple):
    """How a step of AdamW moves: w = keep w - size m / (sqrt(v) root + eps)."""

    keep: float
    by_first: float
    by_second: float
    root: float
    size: float
    eps: float


def move_weights(
    weight: Float[Tensor, "out width"],
    first: Float[Tensor, "out width"],
    second: Float[Tensor, "out width"],
    factors: Sequence[tuple[Float[Tensor, "_ out"], Float[Tensor, "_ width"]]],
    how: Move,
) -> None:
    """Move weights and moments in place; their gradient is the sum of G^T X over the factors."""
    out, width = weight.shape
    sides = zip(*factors, strict=True)
    left, right = (side[0].contiguous() if len(side) == 1 else torch.cat(side) for side in sides)
    moved = (weight, first, second)
    whole = width % (VECTORS * LANES) == 0 and all(part.is_contiguous() for part in moved)
    if FAST and weight.dtype == torch.float32 and whole:
        given = (part.numpy() for part in (left, right, weight, first, second))
        _move_tiles(*given, tuple(map(np.float32, how)))
        return
    left = left.mT.contiguous()
    rows = -(-out // -(-out * width // AT_ONCE))
    room = weight.new_empty(rows, width)
    numbers = tuple(weight.numpy().dtype.type(number) for number in how)
    for start in range(0, out, rows):
        part = slice(start, min(start + rows, out))
        gradient = room[: part.stop - start]
        torch.mm(left[part], right, out=gradient)
        arrays = (gradient, weight[part], first[part], second[part])
        _move(*(array.view(-1).numpy() for array in arrays), numbers)


@compiled_and_kept
@no_type_check
def _move(gradient, weight, first, second, how):
    keep, by_first, by_second, root, size, eps = how
    for i in range(weight.size):
        g = gradient[i]
        m = first[i] + (g - first[i]) * by_first
        v = second[i] + (g * g - second[i]) * by_second
        first[i] = m
        second[i] = v
        weight[i] = weight[i] * keep - size * m / (math.sqrt(v) * root + eps)


def _tile_of(rows: int) -> Any:
    """Return the intrinsic for tiles of so many rows."""

    def moved(
        typing: Any, left: Any, right: Any, weight: Any, first: Any, second: Any, at: Any, how: Any
    ) -> Any:
        def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            code = Code(context, builder, weight)
            g, x, *arrays = map(code.array, (left, right, weight, first, second), given[:5])
            row, column = (builder.extract_value(given[5], i) for i in (0, 1))
            clips, out = (builder.extract_value(g.shape, i) for i in (0, 1))
            given_at = Left(builder.gep(g.data, [row]), code.integer(1), out)
            inputs = builder.gep(x.data, [column]), builder.extract_value(x.shape, 1)
            width = inputs[1]
            lines = [builder.gep(code.row(array, row), [column]) for array in arrays]

            def fetch_one(clip: Any) -> None:
                """Fetch what moves, a vector beside each clip: it is there after the product."""
                number = builder.urem(clip, code.integer(rows * VECTORS))
                own, vector = (
                    part(number, code.integer(VECTORS)) for part in (builder.udiv, builder.urem)
                )
                down = builder.mul(own, width)
                across = builder.mul(vector, code.integer(LANES))
                for line in lines:
                    fetch(code, builder.gep(line, [builder.add(down, across)]))

            gradient = tile(code, clips, given_at, inputs, (rows, VECTORS), fetch_one)
            numbers = [code.spread(builder.extract_value(given[6], i)) for i in range(len(how))]
            for i, vectors in enumerate(gradient):
                starts = [
                    builder.gep(line, [builder.mul(code.integer(i), width)]) for line in lines
                ]
                for v, part in enumerate(vectors):
                    places = [code.at(start, code.integer(v)) for start in starts]
                    _move_vector(code, part, places, numbers)
            return context.get_dummy_value()

        return types.void(left, right, weight, first, second, at, how), write

    return intrinsic_of(moved)


def _move_vector(code: Code, gradient: Any, places: Sequence[Any], how: Sequence[Any]) -> None:
    """Write what `_move` does for a vector: `places` are those of weights and of both moments."""
    builder, (keep, by_first, by_second, root, size, eps) = code.builder, how

    def minus(a: Any, b: Any) -> Any:
        return builder.fsub(a, b, flags=FLAGS)

    weight, first, second = (builder.load(place, align=code.size) for place in places)
    first = code.plus(first, code.times(minus(gradient, first), by_first))
    second = code.plus(second, code.times(minus(code.times(gradient, gradient), second), by_second))
    deviation = code.sqrt(second)
    step = builder.fdiv(code.times(size, first), code.plus(code.times(deviation, root), eps))
    weight = minus(code.times(weight, keep), step)
    for value, place in zip((weight, first, second), places, strict=True):
        builder.store(value, place, align=code.size)


_tile_rows, _tile_row = _tile_of(ROWS), _tile_of(1)


@compiled_and_kept
@no_type_check
def _move_tiles(left, right, weight, first, second, how):
    """Do all of `move_weights`: left [clips, out] and right [clips, width]."""
    out, width = weight.shape
    for start in range(0, width, COLUMNS):
        end = min(start + COLUMNS, width)
        whole = out // ROWS * ROWS
        for row in range(0, whole, ROWS):
            for column in range(start, end, VECTORS * LANES):
                _tile_rows(left, right, weight, first, second, (row, column), how)
        for row in range(whole, out):
            for column in range(start, end, VECTORS * LANES):
                _tile_row(left, right, weight, first, second, (row, column), how)


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loop runs here."""

    def once() -> None:
        for width in (1, VECTORS * LANES):
            one = torch.ones(1, width, dtype=dtype)
            given = one.clone(), one.clone(), one.clone()
            move_weights(*given, [(one[:, :1], one)], Move(1, 0, 0, 1, 0, 1))

    return run("AdamW of wide layers", once)
