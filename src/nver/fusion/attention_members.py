"""Attention among few tokens with its matrix products, one member after the other, for the CPU.

Numba compiles it. For the way back a member keeps the projections and what the LayerNorm saw.
Weights are computed again, in the cache; to write them, and to read them when the other members
have passed, takes longer.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba takes the types from the calls

from __future__ import annotations

import math
from typing import NamedTuple, no_type_check

import numpy as np

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
from nver.scaling.compiled import address, aligned, carray, compiled, compiled_and_kept, pointer

MAP, TURNED, SOURCE, D_MAP = range(4)
"""What is said of an image: the address of T, whether it lies transposed, of which token it is the
image, and where the gradient at T goes, or 0."""


class Kept(NamedTuple):
    """Addresses, forward and back: of weights, of what decides the dropout, and of what is kept.

    The shapes: w_in [members, 3 width, width]; b_in [members, 3 width]; w_out [members, width,
    width]; b_out, scale, shift [members, width]; counts [tokens]; bits int16 [members, clips, heads
    tokens tokens]; levels int16 [copies, tokens]; shares [tokens]; projected [members, 3 width,
    tokens room]; normed [members, tokens, room, width]; deviations, of which it is one over
    [members, tokens, room].
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
    projected: int
    normed: int
    deviations: int


class Views(NamedTuple):
    """The arrays of `Kept` that loops go through; shares [tokens] has the numbers' type."""

    b_out: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    counts: np.ndarray
    bits: np.ndarray
    shares: np.ndarray
    normed: np.ndarray
    deviations: np.ndarray


class Gradients(NamedTuple):
    """Addresses of gradients: what is given at the outcome, then those that are set."""

    out: int
    w_in: int
    b_in: int
    w_out: int
    sums: int


class Room(NamedTuple):
    """What one member after the other uses.

    Parameters
    ----------
    x : [tokens, room, width]
        All tokens.
    seen : [width, tokens room]
    drawn : int16 [heads tokens tokens, room]
    desk : lines
    """

    x: np.ndarray
    seen: np.ndarray
    drawn: np.ndarray
    desk: np.ndarray


@compiled
@no_type_check
def _view(one, all_sizes, kept):
    """Return `Sizes`, and `Views` of what is kept; `all_sizes` as in `forward`."""
    members, tokens, own, clips, depth, heads, copies = all_sizes
    counts = carray(pointer(kept.counts, one), tokens)
    lanes, width = LINE // counts.itemsize, heads * depth
    room = (clips + lanes - 1) // lanes * lanes
    sizes = Sizes(tokens, own, clips, room, depth, heads, counts.itemsize)
    pairs = (members, clips if copies > 0 else 0, heads * tokens**2)
    views = Views(
        carray(pointer(kept.b_out, one), (members, width)),
        carray(pointer(kept.scale, one), (members, width)),
        carray(pointer(kept.shift, one), (members, width)),
        counts,
        carray(pointer(kept.bits, np.int16(0)), pairs),
        carray(pointer(kept.shares, one), tokens),
        carray(pointer(kept.normed, one), (members, tokens, room, width)),
        carray(pointer(kept.deviations, one), (members, tokens, room)),
    )
    return sizes, views


@compiled
@no_type_check
def _new_room(sizes, like):
    """Return it, with zeros where there are no clips; `like` has the numbers' type."""
    tokens, width, lanes = sizes.tokens, sizes.heads * sizes.depth, LINE // sizes.size
    x = aligned(tokens * sizes.room, width, like)
    drawn = np.zeros((sizes.heads * tokens**2, sizes.room), np.int16)
    if sizes.room > sizes.clips:
        x[:] = 0
    seen = aligned(width, tokens * sizes.room, like)
    x = x.reshape(tokens, sizes.room, width)
    return Room(x, seen, drawn, aligned(desk_lines(sizes), lanes, like))


@compiled
@no_type_check
def _fetch(one, sizes, m, tokens_at, bits, room):
    """Bring a member's own tokens and its bits into the room."""
    width = sizes.heads * sizes.depth
    for k in range(sizes.own):
        x = carray(pointer(tokens_at[k], one), (m + 1, sizes.clips, width))[m]
        for c in range(sizes.clips):
            for w in range(width):
                room.x[k, c, w] = x[c, w]
    for c in range(bits.shape[0]):
        for pair in range(bits.shape[1]):
            room.drawn[pair, c] = bits[c, pair]


@compiled
@no_type_check
def _map(sizes, image, m, back):
    """Return a member's T, or its transpose."""
    at = image[MAP] + m * sizes.clips**2 * sizes.size
    return Matrix(at, sizes.clips, (image[TURNED] == 1) != back)


@compiled
@no_type_check
def _token(sizes, rows, k):
    """Return a token's rows of an array [tokens, room, width]."""
    width = sizes.heads * sizes.depth
    return Matrix(address(rows) + k * sizes.room * width * sizes.size, width, False)


@compiled
@no_type_check
def _columns(sizes, projected, k):
    """Return a token's columns of an array [3 width, tokens room]."""
    at = projected + k * sizes.room * sizes.size
    return Matrix(at, sizes.tokens * sizes.room, False)


@compiled
@no_type_check
def _project(product, one, sizes, m, w_in, images, projected, room):
    """Set the projections of own tokens, and of their images: these are images of projections."""
    width, clips, own, zero = sizes.heads * sizes.depth, sizes.clips, sizes.own, one - one
    if sizes.room > clips:
        carray(pointer(projected, one), 3 * width * sizes.tokens * sizes.room)[:] = 0
    x, out = Matrix(address(room.x), width, True), _columns(sizes, projected, 0)
    multiply(product, one, w_in, x, out, (3 * width, own * sizes.room, width), zero)
    for k in range(images.shape[0]):
        source = _columns(sizes, projected, images[k, SOURCE])
        out = _columns(sizes, projected, own + k)
        turned = _map(sizes, images[k], m, True)
        multiply(product, one, source, turned, out, (3 * width, clips, clips), zero)


@compiled_and_kept
@no_type_check
def forward(product, one, all_sizes, tokens_at, images, kept, out_at, eps):
    """Set out [members, clips, tokens width]: see `nver.fusion.attention_core.attend`.

    `product` is a `product_address`, `one` is 1 in the numbers' type. `all_sizes` are members,
    tokens, own tokens, clips, depth, heads, and copies (0: nothing is dropped). `tokens_at` are the
    addresses of the own tokens [members, clips, width]; `images` [images, 4] what `MAP` and so on
    say; `kept` is `Kept` as a tuple.
    """
    kept, members, copies = Kept(*kept), all_sizes[0], all_sizes[6]
    sizes, views = _view(one, all_sizes, kept)
    tokens, clips, width, zero = sizes.tokens, sizes.clips, sizes.heads * sizes.depth, one - one
    out = carray(pointer(out_at, one), (members, clips, tokens * width))
    room = _new_room(sizes, views.counts)
    how = _weighing(kept, room, sizes, copies, views.shares)
    desk = desk_in(address(room.desk), sizes, copies)
    for m in range(members):
        w_in, w_out, b_in, projected = _of_member(sizes, kept, m)
        _fetch(one, sizes, m, tokens_at, views.bits[m], room)
        _project(product, one, sizes, m, w_in, images, projected, room)
        for k in range(tokens - sizes.own):
            source = _token(sizes, room.x, images[k, SOURCE])
            image = _token(sizes, room.x, sizes.own + k)
            straight = _map(sizes, images[k], m, False)
            multiply(product, one, straight, source, image, (clips, width, clips), zero)
        attend(one, sizes, projected, b_in, how, desk, address(room.seen))
        seen = Matrix(address(room.seen), tokens * sizes.room, True)
        joined = _token(sizes, views.normed[m], 0)
        w_out = Matrix(w_out.at, width, True)
        multiply(product, one, seen, w_out, joined, (tokens * sizes.room, width, width), zero)
        layer, normed = (views.b_out[m], views.scale[m], views.shift[m]), views.normed[m]
        add_and_norm(room.x, normed, layer, views.counts, eps, out[m], views.deviations[m])


@compiled
@no_type_check
def _weighing(kept, room, sizes, copies, shares):
    scale = shares.dtype.type(1 / math.sqrt(sizes.depth))
    return Weighing(kept.counts, scale, address(room.drawn), kept.levels, copies, shares)


@compiled
@no_type_check
def _of_member(sizes, kept, m):
    """Return a member's weights, the address of its bias, and of its projections."""
    width, size = sizes.heads * sizes.depth, sizes.size
    return (
        Matrix(kept.w_in + m * 3 * width**2 * size, width, False),
        Matrix(kept.w_out + m * width**2 * size, width, False),
        kept.b_in + m * 3 * width * size,
        kept.projected + m * 3 * width * sizes.tokens * sizes.room * size,
    )


@compiled
@no_type_check
def _images_back(product, one, sizes, m, images, projected, room, given):
    """Add what comes from images to the gradients at own tokens, and set those at the maps.

    `given` are the gradients at the projections and at all tokens.
    """
    width, clips, own = sizes.heads * sizes.depth, sizes.clips, sizes.own
    d_projected, d_tokens = given
    for k in range(images.shape[0]):
        source, straight = images[k, SOURCE], _map(sizes, images[k], m, False)
        d_image = _columns(sizes, address(d_projected), own + k)
        d_token = _token(sizes, d_tokens, own + k)
        if images[k, D_MAP] != 0:
            d_map = Matrix(images[k, D_MAP] + m * clips**2 * sizes.size, clips, False)
            before = _columns(sizes, projected, source)
            turned = Matrix(d_image.at, d_image.columns, True)
            multiply(product, one, turned, before, d_map, (clips, clips, 3 * width), one - one)
            x = Matrix(_token(sizes, room.x, source).at, width, True)
            multiply(product, one, d_token, x, d_map, (clips, clips, width), one)
        d_source = _columns(sizes, address(d_projected), source)
        multiply(product, one, d_image, straight, d_source, (3 * width, clips, clips), one)
        turned, d_source = _map(sizes, images[k], m, True), _token(sizes, d_tokens, source)
        multiply(product, one, turned, d_token, d_source, (clips, width, clips), one)


@compiled
@no_type_check
def _own_back(product, one, sizes, weights, room, given, d_w_in):
    """Set the gradient at w_in, and add what comes through it to that at own tokens."""
    width, rows = sizes.heads * sizes.depth, sizes.own * sizes.room
    d_projected, d_tokens = given
    owned = _columns(sizes, address(d_projected), 0)
    x, out = Matrix(address(room.x), width, False), Matrix(d_w_in, width, False)
    multiply(product, one, owned, x, out, (3 * width, width, rows), one - one)
    turned, d_x = Matrix(owned.at, owned.columns, True), _token(sizes, d_tokens, 0)
    multiply(product, one, turned, weights, d_x, (rows, width, 3 * width), one)


@compiled
@no_type_check
def _hand_over(one, sizes, m, x, tokens_at):
    """Write a member's own tokens to where they are wanted."""
    width = sizes.heads * sizes.depth
    for k in range(sizes.own):
        out = carray(pointer(tokens_at[k], one), (m + 1, sizes.clips, width))[m]
        for c in range(sizes.clips):
            for w in range(width):
                out[c, w] = x[k, c, w]


@compiled_and_kept
@no_type_check
def backward(product, one, all_sizes, tokens_at, images, kept, gradients, d_tokens_at):
    """Set the gradients; `gradients` is `Gradients` as a tuple, the others as in `forward`.

    `d_tokens_at` are the addresses of those at the own tokens. `sums` [members, 3, width] are those
    at scale, shift and b_out.
    """
    kept, made, members, copies = Kept(*kept), Gradients(*gradients), all_sizes[0], all_sizes[6]
    sizes, views = _view(one, all_sizes, kept)
    tokens, clips, width = sizes.tokens, sizes.clips, sizes.heads * sizes.depth
    zero, size, n = one - one, sizes.size, tokens * sizes.room
    out = carray(pointer(made.out, one), (members, clips, tokens * width))
    d_b_in = carray(pointer(made.b_in, one), (members, 3 * width))
    sums = carray(pointer(made.sums, one), (members, 3, width))
    room, d_room = _new_room(sizes, views.counts), _new_room(sizes, views.counts)
    d_projected = aligned(3 * width, n, views.counts)
    how = _weighing(kept, room, sizes, copies, views.shares)
    desk = desk_in(address(room.desk), sizes, copies)
    given = (d_projected, d_room.x)
    d_seen, seen = address(d_room.seen), address(room.seen)
    for m in range(members):
        w_in, w_out, b_in, projected = _of_member(sizes, kept, m)
        seen_by_norm = (views.scale[m], views.normed[m], views.deviations[m])
        add_and_norm_back(out[m], views.counts, seen_by_norm, d_room.x, sums[m])
        if sizes.room > clips:  # what a member left there may be NaN
            d_room.x[:, clips:] = 0
        _fetch(one, sizes, m, tokens_at, views.bits[m], room)
        d_joined = Matrix(address(d_room.x), width, True)
        w_out = Matrix(w_out.at, width, True)
        multiply(product, one, w_out, d_joined, Matrix(d_seen, n, False), (width, n, width), zero)
        d_made = (d_seen, seen, address(d_projected), d_b_in[m])
        attend_back(one, sizes, projected, b_in, how, desk, d_made)
        d_w_out = Matrix(made.w_out + m * width**2 * size, width, False)
        seen_by_clip = Matrix(seen, n, True)
        multiply(product, one, d_joined, seen_by_clip, d_w_out, (width, width, n), zero)
        _images_back(product, one, sizes, m, images, projected, room, given)
        d_w_in = made.w_in + m * 3 * width**2 * size
        _own_back(product, one, sizes, w_in, room, given, d_w_in)
        _hand_over(one, sizes, m, d_room.x, d_tokens_at)
