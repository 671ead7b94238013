"""The loops of one member's attention among few tokens, head by head, for the CPU.

Numba compiles them; what they do to a line is in `nver.fusion.lines`, and the matrix products
before and after are in `nver.fusion.attention_members`. Clips are the innermost axis of
projections, in whole lines, `room` numbers long; those beyond the clips are 0. A head's lines lie
together on a desk while it is worked on.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

from typing import Any, NamedTuple, no_type_check

import numpy as np

from nver.fusion import lines
from nver.scaling.compiled import compiled

LINE = 64
"""Bytes of a line."""


class Sizes(NamedTuple):
    """Of one member's arrays; `own` tokens are no images, a number has `size` bytes."""

    tokens: int
    own: int
    clips: int
    room: int
    depth: int
    heads: int
    size: int


class Weighing(NamedTuple):
    """What makes weights of scores (see `nver.fusion.attention_core.Drop`).

    Parameters
    ----------
    counts : int
        Address of the numbers [tokens].
    scale : floating
        Of the scores.
    bits : int
        Address of int16 [heads, tokens, tokens, room].
    levels : int
        Address of int16 [copies, tokens].
    copies : int
        0: nothing is dropped.
    shares : [tokens]
    """

    counts: int
    scale: Any
    bits: int
    levels: int
    copies: int
    shares: np.ndarray


class Desk(NamedTuple):
    """Addresses of a head's lines, on the way forward and back.

    Parameters
    ----------
    queries, keys, values, given : int
        Lines [tokens, depth]; `given` is the gradient at what is seen.
    weights, kept, d_scores : int
        Lines [tokens, tokens]: of each query its keys. Where nothing is dropped the kept are the
        weights.
    sums : int
        Lines [3, depth]: of the gradients at queries, keys and values.
    """

    queries: int
    keys: int
    values: int
    given: int
    weights: int
    kept: int
    d_scores: int
    sums: int


@compiled
@no_type_check
def desk_lines(sizes):
    """Return how many lines there are."""
    return (4 * sizes.tokens + 3) * sizes.depth + 3 * sizes.tokens**2


@compiled
@no_type_check
def desk_in(room, sizes, copies):
    """Lay out the lines in a room of `desk_lines`."""
    rows, pairs = sizes.tokens * sizes.depth * LINE, sizes.tokens**2 * LINE
    weights = room + 4 * rows
    kept = weights + pairs if copies > 0 else weights
    scores = weights + 2 * pairs
    return Desk(
        room, room + rows, room + 2 * rows, room + 3 * rows, weights, kept, scores, scores + pairs
    )


@compiled
@no_type_check
def _take_head(one, sizes, projected, shift, first, chunk, desk):
    """Fetch a head's queries, keys and values, from row `first` on, and add their bias."""
    width, token = sizes.heads * sizes.depth, sizes.room * sizes.size
    step = sizes.tokens * token
    for part in range(3):
        row = part * width + first
        for k in range(sizes.tokens):
            at = projected + row * step + k * token + chunk * LINE
            out = desk.queries + (part * sizes.tokens + k) * sizes.depth * LINE
            lines.take(one, at, step, shift + row * sizes.size, sizes.depth, out)


@compiled
@no_type_check
def _weigh(one, sizes, how, head, chunk, desk):
    """Set a head's weights and what is kept of them."""
    tokens, depth = sizes.tokens, sizes.depth
    for i in range(tokens):
        query, at = desk.queries + i * depth * LINE, i * tokens * LINE
        lines.products(one, query, desk.keys, depth * LINE, (tokens, depth), desk.weights + at)
        lines.softmax(one, desk.weights + at, tokens, how.counts, how.scale)
        if how.copies > 0:
            for j in range(tokens):
                pair = ((head * tokens + (j - i) % tokens) * tokens + i) * sizes.room
                bits = how.bits + 2 * pair + chunk * LINE // sizes.size * 2
                weight, out = desk.weights + at + j * LINE, desk.kept + at + j * LINE
                levels = (how.levels + 2 * j, how.copies)
                lines.survive(one, weight, bits, levels, 2 * tokens, how.shares[j], out)


@compiled
@no_type_check
def _see(one, sizes, first, chunk, desk, seen):
    """Set what every token sees of a head, in seen [width, tokens, room]."""
    tokens, depth = sizes.tokens, sizes.depth
    row = tokens * sizes.room * sizes.size
    for i in range(tokens):
        out = seen + first * row + i * sizes.room * sizes.size + chunk * LINE
        kept = desk.kept + i * tokens * LINE
        lines.mix(one, kept, desk.values, (LINE, depth * LINE, row), (tokens, depth), out)


@compiled
@no_type_check
def attend(one, sizes, projected, shift, how, desk, seen):
    """Set what every token of a member sees, by its weights."""
    for head in range(sizes.heads):
        for chunk in range(sizes.room * sizes.size // LINE):
            _take_head(one, sizes, projected, shift, head * sizes.depth, chunk, desk)
            _weigh(one, sizes, how, head, chunk, desk)
            _see(one, sizes, head * sizes.depth, chunk, desk, seen)


@compiled
@no_type_check
def _score_back(one, sizes, how, d_seen, first, chunk, desk):
    """Set the gradient at a head's scores, from that at what is seen."""
    tokens, depth = sizes.tokens, sizes.depth
    row = tokens * sizes.room * sizes.size
    for i in range(tokens):
        at = d_seen + first * row + i * sizes.room * sizes.size + chunk * LINE
        given = desk.given + i * depth * LINE
        lines.copy(one, at, row, depth, given)
        at = i * tokens * LINE
        d_scores = desk.d_scores + at
        lines.products(one, given, desk.values, depth * LINE, (tokens, depth), d_scores)
        weights, kept = desk.weights + at, desk.kept + at
        lines.softmax_back(one, weights, kept, tokens, how.scale, d_scores)


@compiled
@no_type_check
def _head_back(one, sizes, first, chunk, desk, d_projected):
    """Set the gradients at a head's projections, and add them to their sums over tokens."""
    tokens, depth, token = sizes.tokens, sizes.depth, sizes.room * sizes.size
    width, step = sizes.heads * depth, tokens * token
    for k in range(tokens):
        by_query, by_key, over = k * tokens * LINE, k * LINE, (tokens, depth)
        at = d_projected + first * step + k * token + chunk * LINE
        down = (LINE, depth * LINE, step)
        across = (tokens * LINE, depth * LINE, step)
        lines.mix(one, desk.d_scores + by_query, desk.keys, down, over, at)
        lines.add(one, at, step, depth, desk.sums)
        at += width * step
        lines.mix(one, desk.d_scores + by_key, desk.queries, across, over, at)
        lines.add(one, at, step, depth, desk.sums + depth * LINE)
        at += width * step
        lines.mix(one, desk.kept + by_key, desk.given, across, over, at)
        lines.add(one, at, step, depth, desk.sums + 2 * depth * LINE)


@compiled
@no_type_check
def attend_back(one, sizes, projected, shift, how, desk, made):
    """Set what a member's tokens see again, and the gradients at projections and their bias.

    `made` are the addresses of that at what is seen, of what is seen, and of the gradient at the
    projections, and the gradient at the bias [3 width].
    """
    d_seen, seen, d_projected, d_shift = made
    depth, width = sizes.depth, sizes.heads * sizes.depth
    for head in range(sizes.heads):
        first = head * depth
        lines.clear(one, desk.sums, 3 * depth)
        for chunk in range(sizes.room * sizes.size // LINE):
            _take_head(one, sizes, projected, shift, first, chunk, desk)
            _weigh(one, sizes, how, head, chunk, desk)
            _see(one, sizes, first, chunk, desk, seen)
            _score_back(one, sizes, how, d_seen, first, chunk, desk)
            _head_back(one, sizes, first, chunk, desk, d_projected)
        for part in range(3):
            for d in range(depth):
                line = desk.sums + (part * depth + d) * LINE
                d_shift[part * width + first + d] = lines.total(one, line)
