"""AdamW for the weights of wide dense layers, whose gradient is never written as a whole.

It is G^T X, of the gradient G at the layer's sums and the layer's inputs X (`nver.heads.layers`
keeps both where it is asked to). With convolutions before it such a layer has millions of weights
and a step is memory traffic: a few rows of the gradient at a time stay in the cache until they have
moved their weights.
"""

# ruff: noqa: ANN001, ANN202 - numba takes the types from the calls

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from nver.heads.loops import run
from nver.scaling.compiled import compiled_and_kept

WIDE = 2**20
"""Weights of a layer from which on this is faster than torch's fused kernel."""
AT_ONCE = 2**18
"""Entries of the gradient that are made at once."""


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
    left = torch.cat([g for g, _ in factors]).mT.contiguous()
    right = torch.cat([x for _, x in factors]) if len(factors) > 1 else factors[0][1]
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


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loop runs here."""

    def once() -> None:
        one = torch.ones(1, 1, dtype=dtype)
        given = one.clone(), one.clone(), one.clone()
        move_weights(*given, [(one, one)], Move(1, 0, 0, 1, 0, 1))

    return run("AdamW of wide layers", once)
