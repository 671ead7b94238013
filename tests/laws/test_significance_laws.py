"""What intervals and paired tests must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nver.metrics import METRICS
from nver.significance import cluster_bootstrap, holm, permutation_test

NAMES = st.sampled_from(sorted(METRICS))


@st.composite
def pairs(draw):
    """Return answers of two systems to the same clips: [clusters, seeds, classes, classes] each."""
    clusters, classes = draw(st.integers(2, 6)), draw(st.integers(2, 4))
    clips = draw(st.integers(1, 30))
    some = hnp.arrays(np.int64, clips, elements=st.integers(0, classes - 1))
    cluster = np.concatenate(
        [
            np.arange(clusters),
            draw(hnp.arrays(np.int64, clips, elements=st.integers(0, clusters - 1))),
        ]
    )
    truth = np.concatenate([np.zeros(clusters, dtype=np.int64), draw(some)])
    sides = []
    for _ in range(2):
        given_ = np.concatenate([np.zeros(clusters, dtype=np.int64), draw(some)])
        counts = np.zeros((clusters, 1, classes, classes), dtype=np.int64)
        np.add.at(counts, (cluster, 0, truth, given_), 1)
        sides.append(counts)
    return sides


@settings(max_examples=40, deadline=None)
@given(pairs(), NAMES, st.randoms(use_true_random=False))
def test_the_order_of_speakers_and_the_names_of_classes_do_not_matter(sides, name, chance):
    metric = METRICS[name]
    clusters, classes = len(sides[0]), sides[0].shape[-1]
    speakers = chance.sample(range(clusters), clusters)
    names = chance.sample(range(classes), classes)
    moved = [side[speakers][..., names, :][..., names] for side in sides]
    one, other = permutation_test(*sides, metric), permutation_test(*moved, metric)
    assert one.exact
    assert other.p == pytest.approx(one.p)
    assert other.difference == pytest.approx(one.difference)


@settings(max_examples=40, deadline=None)
@given(pairs(), NAMES)
def test_p_is_a_share_of_the_ways_and_that_of_the_systems_exchanged(sides, name):
    one = permutation_test(*sides, METRICS[name])
    other = permutation_test(*sides[::-1], METRICS[name])
    assert 1 / one.swaps <= one.p <= 1
    assert other.p == pytest.approx(one.p)
    assert other.difference == pytest.approx(-one.difference)


@settings(max_examples=40, deadline=None)
@given(pairs(), NAMES)
def test_an_interval_holds_its_value_and_stays_in_range(sides, name):
    interval = cluster_bootstrap(sides[0], METRICS[name], n=200)
    assert 0 <= interval.low <= interval.high <= 1
    if len(sides[0]) < 8:  # Student's interval is around the value
        assert interval.low <= interval.value <= interval.high


@given(hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(0, 1)))
def test_holm_keeps_the_order_and_never_helps(p):
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, p * max(1, len(p))) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()
