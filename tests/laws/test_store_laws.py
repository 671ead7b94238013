"""The store against a dict: whatever is appended, by whichever of two writers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nver.encoders.base import EncoderCard
from nver.store import EmbeddingStore

CARD = EncoderCard(
    name="law",
    summary="Numbers.",
    dim=2,
    rate=8000,
    modality="weight-free",
    pooling="none",
    licence="Apache-2.0",
    citation="Nobody",
    revision="1",
)
APPENDS = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 20), max_size=8)), min_size=1, max_size=8
)


def vector(number: int) -> list[float]:
    return [number, number**2 / 7]


@given(APPENDS, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_a_table_is_a_dict(appends, random):
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddingStore(Path(folder))
        writers = {False: store.open(CARD), True: store.open(CARD)}
        expected = {}
        for second, numbers in appends:
            keys = [f"{number:064x}" for number in numbers]
            vectors = np.array([vector(number) for number in numbers], np.float32).reshape(-1, 2)
            writers[second].append(keys, vectors)
            expected |= dict(zip(keys, vectors, strict=True))
        for table in (*writers.values(), store.open(CARD)):
            assert table.keys() == set(expected)
            keys = [*expected, *expected]
            random.shuffle(keys)
            wanted = np.array([expected[key] for key in keys], np.float32).reshape(-1, 2)
            np.testing.assert_array_equal(table.get(keys), wanted)
