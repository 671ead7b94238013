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


def similar_lengths(
    inputs: Sequence[np.ndarray], most: int, padding: float, cores: int = 0, least: int = 0
) -> list[list[int]]:
    """Return groups of indices of similar length, for networks that are exact under padding.

    Parameters
    ----------
    inputs : sequence of ndarray
        The last axis is time.
    most : int
        A padded group holds at most so many time steps (at least one clip).
    padding : float
        The shortest of a group is at least ``1 - padding`` times as long as its longest.
    cores, least : int
        Where several cores share the groups, a group holds at most half of what a core has left
        to do, but `least` may always be: the cores then end at about the same time.

    Returns
    -------
    list of list of int
        The longest clips first.

    Examples
    --------
    >>> clips = [np.zeros(10), np.zeros(4), np.zeros(9), np.zeros(10)]
    >>> similar_lengths(clips, most=30, padding=0.2)
    [[0, 3, 2], [1]]
    >>> similar_lengths(clips, most=30, padding=0.2, cores=2, least=10)
    [[0], [3], [2], [1]]
    """
    lengths = [array.shape[-1] for array in inputs]
    left = sum(lengths)
    groups: list[list[int]] = []
    bound = 0
    for index in sorted(range(len(inputs)), key=lambda index: -lengths[index]):
        longest = lengths[groups[-1][0]] if groups else 0
        fits = groups and (len(groups[-1]) + 1) * longest <= bound
        if fits and lengths[index] >= (1 - padding) * longest:
            groups[-1].append(index)
        else:
            bound = most if cores < 1 else max(least, min(most, left // (2 * cores)))
            groups.append([index])
        left -= lengths[index]
    return groups
