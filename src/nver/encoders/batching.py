"""Which clips may share one forward pass without changing each other's embedding.

Padding a clip to the length of its neighbours changes most networks' output (zeros leak in through
convolutions, normalisation and pooling). Clips of equal length need no padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def equal_shapes(inputs: Sequence[np.ndarray], most: int) -> list[list[int]]:
    """Return groups of indices whose inputs have equal shapes, in order of first appearance.

    Parameters
    ----------
    inputs : sequence of ndarray
        The last axis is time.
    most : int
        A group's clips together hold at most so many time steps (at least one clip): bounds memory.

    Examples
    --------
    >>> equal_shapes([np.zeros(4), np.zeros(3), np.zeros(4), np.zeros(4)], most=8)
    [[0, 2], [3], [1]]
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, array in enumerate(inputs):
        by_shape.setdefault(array.shape, []).append(index)
    groups = []
    for shape, indices in by_shape.items():
        size = max(1, most // max(1, shape[-1]))
        groups += [indices[first : first + size] for first in range(0, len(indices), size)]
    return groups
