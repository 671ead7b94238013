"""The maps between the clips of small batches on a CPU: costs, plans and all from one call.

In training a plan of 32 x 32 takes less time than the torch operations around it: the checks, the
arrays of costs, potentials and errors, one by one. Here all lies in one block of memory, and one
compiled loop goes from latents to maps. What it computes is `normalised_cost` and `sinkhorn` of
`nver.transport`, which serve wherever this does not (`fits`).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nver.fusion import loops
from nver.heads.loops import run
from nver.scaling import fused
from nver.scaling.choice import choose
from nver.scaling.compiled import tape_words
from nver.scaling.problem import CHECK_EVERY

LINE = 64
"""Bytes of a cache line, at which every array starts."""
ONE = {torch.float32: np.float32(1), torch.float64: np.float64(1)}


def fits(x: Tensor, y: Tensor, eps: float, iterations: int, tolerance: float) -> bool:
    """Return whether `maps` can do it: on a CPU, by `fused`, and too little for several threads."""
    return (
        x.is_cpu
        and x.dim() == 3
        and x.shape == y.shape
        and 0 < x.shape[0] * x.shape[1] ** 2 * iterations < 2 * fused.WORK_PER_THREAD
        and 0 < eps < math.inf
        and tolerance >= 0
        and x.dtype in ONE
        and choose(x) is fused
        and loops_work(x.dtype)
    )


def maps(
    x: Float[Tensor, "members clips width"],
    y: Float[Tensor, "members clips width"],
    eps: float,
    iterations: int,
    tolerance: float,
) -> Float[Tensor, "members clips clips"]:
    """Return the clips' number times the plans between equally weighted clips, without a gradient.

    See `nver.transport.sinkhorn`; `fits` says whether it can be called so.
    """
    members, clips, width = x.shape
    starts, words = _places(members, clips, x.itemsize)
    x, y, out = x.contiguous(), y.contiguous(), x.new_empty(members, clips, clips)
    room = torch.empty(starts[-1] // 8, dtype=torch.float64)
    sizes = (members, clips, width, words)
    settings = (1 / eps, int(iterations), float(tolerance), CHECK_EVERY)
    given = (x.data_ptr(), y.data_ptr(), out.data_ptr(), room.data_ptr())
    loops.maps(sizes, settings, ONE[x.dtype], given, starts)
    return out


@cache
def _places(members: int, clips: int, size: int) -> tuple[tuple[int, ...], int]:
    """Return where cost, weights, potentials, error, iterations and tapes start; a tape's words."""
    words = tape_words(clips, clips, 1, size)
    points = members * clips * size
    lengths = (points * clips, points, points, points, members * size, members * 8)
    starts = [0]
    for length in (*lengths, members * words * 8):
        starts.append(starts[-1] + -(-length // LINE) * LINE)
    return tuple(starts), words


@cache
def loops_work(dtype: torch.dtype) -> bool:
    """Return whether the compiled loop runs here."""

    def once() -> None:
        one = torch.ones(1, 1, 1, dtype=dtype)
        maps(one, one, 1.0, 1, 0.0)

    return run("Plans of batches", once)
