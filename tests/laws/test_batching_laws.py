"""Grouping clips for a forward pass: every clip once, and no group beyond its bounds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nver.encoders.batching import equal_shapes, similar_lengths

LENGTHS = st.lists(st.integers(1, 50), max_size=30)


def clips(lengths: list[int]) -> list[np.ndarray]:
    return [np.zeros((2, length)) for length in lengths]


@given(LENGTHS, st.integers(1, 100))
def test_equal_shapes_partition_the_clips(lengths: list[int], most: int):
    groups = equal_shapes(clips(lengths), most)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len({lengths[index] for index in group}) == 1
        assert len(group) == 1 or sum(lengths[index] for index in group) <= most


@given(LENGTHS, st.integers(1, 200), st.floats(0.0, 1.0))
def test_similar_lengths_partition_the_clips(lengths: list[int], most: int, padding: float):
    groups = similar_lengths(clips(lengths), most, padding)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        inside = [lengths[index] for index in group]
        assert len(group) == 1 or len(group) * max(inside) <= most
        assert min(inside) >= (1 - padding) * max(inside)
