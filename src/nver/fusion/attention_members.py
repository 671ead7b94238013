"""Attention among few tokens with its matrix products, one member after the other, for the CPU.

Numba compiles it. Clips are the innermost axis of everything, `room` numbers long: whole lines,
where those beyond the clips are 0. For the way back a member keeps the projections and what the
LayerNorm saw. Weights are computed again, in the cache; to write them, and to read them when the
other members have passed, takes longer.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

import math
from typing import NamedTuple, no_type_check

import numpy as np

from nver.fusion import lines
from nver.fusion.attention_loops import (
    LINE,
    Sizes,
    Weighing,
    attend,
    attend_back,
    desk_in,
    desk_lines,
)
from nver.fusion.residual_loops import add_and_norm, add_and_norm_back
from nver.scaling.blas import Matrix, multiply
from nver.scaling.compiled import (
    address,
    aligned,
    alive,
    carray,
    compiled,
    compiled_and_kept,
    pointer,
)

MAP, TURNED, SOURCE, D_MAP = range(4)
"""What is said of an image: the address of T, whether it lies transposed, of which token it is the
image, and where the gradient at T goes, or 0."""
ABOUT_IMAGE = 4
PARTS = 4
"""Of a token's column: query, key, value, and the token itself."""


class Kept(NamedTuple):
    """Addresses, forward and back: of weights, of what decides the dropout, and of what is kept.

    The shapes: w_in [members, 3 width, width]; b_in [members, 3 width]; w_out [members, width,
    width]; b_out, scale, shift [members, width]; counts [tokens]; bits int16 [members, clips, heads
    tokens tokens]; levels int16 [copies, tokens]; shares [tokens]; columns [members, 4 width,
    tokens room]; normed [members, width, tokens room]; deviations, of which it is one over
    [members, tokens room].
    """

    w_in: int
    b_in: int
    w_out: int
    b_out: int
    scale: int
    shift: int
    counts: int
    bits: int
    levels: int
    shares: int
    columns: int
    normed: int
    deviations: int


class Gradients(NamedTuple):
    """Addresses of gradients: what is given at the outcome, then those that are set."""

    out: int
    w_in: int
    b_in: int
    w_out: int
    sums: int


@compiled
@no_type_check
def _sizes(one, all_sizes, kept):
    """Return `Sizes`; `all_sizes` as in `forward`."""
    _, tokens, own, clips, depth, heads, _ = all_sizes
    size = carray(pointer(kept.counts, one), tokens).itemsize
    lanes = LINE // size
    return Sizes(tokens, own, clips, (clips + lanes - 1) // lanes * lanes, depth, heads, size)


@compiled
@no_type_check
def _rows(like, rows, sizes):
    """Return room for rows of all tokens, in the numbers' type."""
    return aligned(rows, sizes.tokens * sizes.room, like)


@compiled
@no_type_check
def _draw(sizes, members, bits, m, drawn):
    """Bring a member's bits into the room."""
    pairs = sizes.heads * sizes.tokens**2
    given = carray(pointer(bits, np.int16(0)), (members, sizes.clips, pairs))[m]
    for c in range(sizes.clips):
        for pair in range(pairs):
            drawn[pair, c] = given[c, pair]


@compiled
@no_type_check
def _to_columns(one, sizes, rows, width, columns, total):
    """Turn clips [clips, width] into columns [width, total]; both are addresses."""
    lanes = LINE // sizes.size
    whole = sizes.clips // lanes * lanes
    for c in range(0, whole, lanes):
        source, out = rows + c * width * sizes.size, columns + c * sizes.size
        lines.to_lines(one, source, width * sizes.size, width, out, total * sizes.size)
    if whole < sizes.clips:
        given = carray(pointer(rows, one), (sizes.clips, width))
        out = carray(pointer(columns, one), width * total)
        for w in range(width):
            for c in range(whole, sizes.clips):
                out[w * total + c] = given[c, w]


@compiled
@no_type_check
def _to_clips(one, sizes, columns, width, rows, total):
    """Turn columns [width, total] into clips [clips, width]; both are addresses."""
    lanes = LINE // sizes.size
    whole = sizes.clips // lanes * lanes
    for c in range(0, whole, lanes):
        source, out = columns + c * sizes.size, rows + c * width * sizes.size
        lines.to_rows(one, source, total * sizes.size, width, out, width * sizes.size)
    if whole < sizes.clips:
        given = carray(pointer(columns, one), width * total)
        out = carray(pointer(rows, one), (sizes.clips, width))
        for c in range(whole, sizes.clips):
            for w in range(width):
                out[c, w] = given[w * total + c]


@compiled
@no_type_check
def _fetch(one, sizes, m, tokens, columns):
    """Bring a member's own tokens into its columns."""
    width, size = sizes.heads * sizes.depth, sizes.size
    for k in range(sizes.own):
        rows, at = tokens[k] + m * sizes.clips * width * size, columns + k * sizes.room * size
        _to_columns(one, sizes, rows, width, at, sizes.tokens * sizes.room)


@compiled
@no_type_check
def _hand_over(one, sizes, m, columns, tokens):
    """Write the gradients at a member's own tokens to where they are wanted."""
    width, size = sizes.heads * sizes.depth, sizes.size
    for k in range(sizes.own):
        rows, at = tokens[k] + m * sizes.clips * width * size, columns + k * sizes.room * size
        _to_clips(one, sizes, at, width, rows, sizes.tokens * sizes.room)


@compiled
@no_type_check
def _map(sizes, image, m, back):
    """Return a member's T, or its transpose."""
    at = image[MAP] + m * sizes.clips**2 * sizes.size
    return Matrix(at, sizes.clips, (image[TURNED] == 1) != back)


@compiled
@no_type_check
def _part(sizes, columns, part, k):
    """Return the columns from token k on of an array [parts width, tokens room], from a part on."""
    total = sizes.tokens * sizes.room
    at = columns + (part * sizes.heads * sizes.depth * total + k * sizes.room) * sizes.size
    return Matrix(at, total, False)


@compiled
@no_type_check
def _turned(matrix):
    return Matrix(matrix.at, matrix.columns, not matrix.turned)


@compiled
@no_type_check
def _of_member(sizes, kept, m):
    """Return a member's weights, the address of its bias, and of its columns."""
    width, size = sizes.heads * sizes.depth, sizes.size
    return (
        Matrix(kept.w_in + m * 3 * width**2 * size, width, False),
        Matrix(kept.w_out + m * width**2 * size, width, False),
        kept.b_in + m * 3 * width * size,
        kept.columns + m * PARTS * width * sizes.tokens * sizes.room * size,
    )


@compiled
@no_type_check
def _of_norm(sizes, kept, m):
    """Return where a member's LayerNorm has what it adds, scales and shifts, saw and scaled by."""
    width, total, size = sizes.heads * sizes.depth, sizes.tokens * sizes.room, sizes.size
    layer = (
        kept.b_out + m * width * size,
        kept.scale + m * width * size,
        kept.shift + m * width * size,
    )
    return layer, kept.normed + m * width * total * size, kept.deviations + m * total * size


@compiled
@no_type_check
def _weighing(one, kept, drawn, sizes, copies):
    scale = carray(pointer(kept.shares, one), sizes.tokens)
    by = scale.dtype.type(1 / math.sqrt(sizes.depth))
    return Weighing(kept.counts, by, drawn, kept.levels, copies, scale)


@compiled_and_kept
@no_type_check
def forward(product, one, all_sizes, places, kept, out_at, eps):
    """Set out [members, clips, tokens width]: see `nver.fusion.attention_core.attend`.

    `product` is a `product_address`, `one` is 1 in the numbers' type, `eps` the LayerNorm's.
    `all_sizes` are members, tokens, own tokens, clips, depth, heads, and copies (0: nothing is
    dropped). `places` are the addresses of the own tokens [members, clips, width], then for each
    image what `MAP` and so on say; `kept` is `Kept` as a tuple.
    """
    kept, members, copies = Kept(*kept), all_sizes[0], all_sizes[6]
    sizes = _sizes(one, all_sizes, kept)
    own, clips, width, zero = sizes.own, sizes.clips, sizes.heads * sizes.depth, one - one
    counts = carray(pointer(kept.counts, one), sizes.tokens)
    tokens, images = places[: sizes.own], places[sizes.own :].reshape(-1, ABOUT_IMAGE)
    whole, least = sizes.tokens * sizes.room, counts.dtype.type(eps)
    seen_rows = _rows(counts, width, sizes)  # and then what comes out
    drawn = np.zeros((sizes.heads * sizes.tokens**2, sizes.room), np.int16)
    desk_room = aligned(desk_lines(sizes), LINE // sizes.size, counts)
    seen = Matrix(address(seen_rows), whole, False)
    how = _weighing(one, kept, address(drawn), sizes, copies)
    desk = desk_in(address(desk_room), sizes, copies)
    for m in range(members):
        w_in, w_out, b_in, columns = _of_member(sizes, kept, m)
        if sizes.room > clips:
            carray(pointer(columns, one), PARTS * width * whole)[:] = 0
        x = _part(sizes, columns, 3, 0)
        _fetch(one, sizes, m, tokens, x.at)
        if copies > 0:
            _draw(sizes, members, kept.bits, m, drawn)
        shape = (3 * width, own * sizes.room, width)
        multiply(product, one, w_in, x, _part(sizes, columns, 0, 0), shape, zero)
        shape = (PARTS * width, clips, clips)
        for k in range(images.shape[0]):  # an image's projections are images of projections
            source, image = images[k, SOURCE], _part(sizes, columns, 0, own + k)
            turned = _map(sizes, images[k], m, True)
            multiply(product, one, _part(sizes, columns, 0, source), turned, image, shape, zero)
        attend(one, sizes, columns, b_in, how, desk, seen.at)
        layer, normed, deviations = _of_norm(sizes, kept, m)
        joined = Matrix(normed, whole, False)
        multiply(product, one, w_out, seen, joined, (width, whole, width), zero)
        made = (normed, deviations, seen.at)
        add_and_norm(one, sizes, x.at, layer, kept.counts, made, least)
        at = out_at + m * clips * sizes.tokens * width * sizes.size
        _to_clips(one, sizes, seen.at, sizes.tokens * width, at, sizes.room)
    return alive((seen_rows, desk_room)) + drawn.shape[0]  # their addresses were in use


@compiled
@no_type_check
def _images_back(product, one, sizes, m, images, columns, d_columns):
    """Add what comes from images to the gradients at own columns, and set those at the maps."""
    clips, own, rows = sizes.clips, sizes.own, PARTS * sizes.heads * sizes.depth
    for k in range(images.shape[0]):
        source, straight = images[k, SOURCE], _map(sizes, images[k], m, False)
        d_image = _part(sizes, d_columns, 0, own + k)
        if images[k, D_MAP] != 0:
            d_map = Matrix(images[k, D_MAP] + m * clips**2 * sizes.size, clips, False)
            before, shape = _part(sizes, columns, 0, source), (clips, clips, rows)
            multiply(product, one, _turned(d_image), before, d_map, shape, one - one)
        d_source = _part(sizes, d_columns, 0, source)
        multiply(product, one, d_image, straight, d_source, (rows, clips, clips), one)


@compiled_and_kept
@no_type_check
def backward(product, one, all_sizes, places, kept, gradients):
    """Set the gradients; `gradients` is `Gradients` as a tuple, the others as in `forward`.

    `places` begin with those at the own tokens; `sums` [3, members, width] are those at scale,
    shift and b_out.
    """
    kept, made, members, copies = Kept(*kept), Gradients(*gradients), all_sizes[0], all_sizes[6]
    sizes = _sizes(one, all_sizes, kept)
    width, zero, size = sizes.heads * sizes.depth, one - one, sizes.size
    counts = carray(pointer(kept.counts, one), sizes.tokens)
    tokens, images = places[: sizes.own], places[sizes.own :].reshape(-1, ABOUT_IMAGE)
    whole, owned = sizes.tokens * sizes.room, sizes.own * sizes.room
    rows, column_rows = _rows(counts, 2 * width, sizes), _rows(counts, PARTS * width, sizes)
    drawn = np.zeros((sizes.heads * sizes.tokens**2, sizes.room), np.int16)
    desk_room = aligned(desk_lines(sizes), LINE // size, counts)
    line_sums = aligned(3 * width, LINE // size, counts)
    d_columns = address(column_rows)
    seen, d_seen = _part(sizes, address(rows), 0, 0), _part(sizes, address(rows), 1, 0)
    how = _weighing(one, kept, address(drawn), sizes, copies)
    desk = desk_in(address(desk_room), sizes, copies)
    sums_of = carray(pointer(made.sums, one), (3, members, width))
    d_x = _part(sizes, d_columns, 3, 0)
    d_owned = _part(sizes, d_columns, 0, 0)
    for m in range(members):
        w_in, w_out, b_in, columns = _of_member(sizes, kept, m)
        layer, normed, deviations = _of_norm(sizes, kept, m)
        at = made.out + m * sizes.clips * sizes.tokens * width * size
        if sizes.room > sizes.clips:
            rows[:] = 0
        # The gradient at the outcome is done with before what is seen is wanted again.
        _to_columns(one, sizes, at, sizes.tokens * width, seen.at, sizes.room)
        given = (seen.at, normed, deviations)
        sums = (sums_of[0, m], sums_of[1, m], sums_of[2, m])
        add_and_norm_back(one, sizes, given, layer[1], kept.counts, d_x.at, (line_sums, sums))
        if copies > 0:
            _draw(sizes, members, kept.bits, m, drawn)
        multiply(product, one, _turned(w_out), d_x, d_seen, (width, whole, width), zero)
        d_b_in = carray(pointer(made.b_in + m * 3 * width * size, one), 3 * width)
        d_made = (d_seen.at, seen.at, d_columns, d_b_in)
        attend_back(one, sizes, columns, b_in, how, desk, d_made)
        d_w_out = Matrix(made.w_out + m * width**2 * size, width, False)
        multiply(product, one, d_x, _turned(seen), d_w_out, (width, width, whole), zero)
        _images_back(product, one, sizes, m, images, columns, d_columns)
        d_w_in = Matrix(made.w_in + m * 3 * width**2 * size, width, False)
        x, shape = _part(sizes, columns, 3, 0), (3 * width, width, owned)
        multiply(product, one, d_owned, _turned(x), d_w_in, shape, zero)
        multiply(product, one, _turned(w_in), d_owned, d_x, (width, owned, 3 * width), one)
        _hand_over(one, sizes, m, d_x.at, tokens)
    return alive((rows, column_rows, desk_room, line_sums)) + drawn.shape[0]
