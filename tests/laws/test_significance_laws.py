"""What intervals and paired tests must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nver.metrics import METRICS
from nver.significance import cluster_bootstrap, permutation_test, step_down

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


@settings(max_examples=40)
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


@settings(max_examples=40)
@given(pairs(), NAMES)
def test_p_is_a_share_of_the_ways_and_that_of_the_systems_exchanged(sides, name):
    one = permutation_test(*sides, METRICS[name])
    other = permutation_test(*sides[::-1], METRICS[name])
    assert 1 / one.swaps <= one.p <= 1
    assert other.p == pytest.approx(one.p)
    assert other.difference == pytest.approx(-one.difference)


@settings(max_examples=40)
@given(pairs(), NAMES)
def test_an_interval_holds_its_value_and_stays_in_range(sides, name):
    interval = cluster_bootstrap(sides[0], METRICS[name], n=200)
    assert 0 <= interval.low <= interval.high <= 1
    if len(sides[0]) < 8:  # Student's interval is around the value
        assert interval.low <= interval.value <= interval.high


@settings(max_examples=40)
@given(pairs(), pairs(), st.randoms(use_true_random=False))
def test_more_tests_never_help_and_their_order_does_not_matter(some, more, chance):
    if some[0].shape != more[0].shape or (some[0].sum(axis=-1) != more[0].sum(axis=-1)).any():
        more = some[::-1]  # of other clips
    systems = [*some, *more]
    told = [(0, 1), (2, 3), (0, 3), (2, 1)]
    metric = METRICS["uar"]
    alone = [permutation_test(systems[a], systems[b], metric).p for a, b in told]
    found = step_down(systems, metric, told)
    assert (found >= np.array(alone) - 1e-12).all()
    assert (step_down(systems, metric, told, beside=[(1, 3)]) >= found - 1e-12).all()
    order = chance.sample(range(4), 4)
    turned = [told[place][:: chance.choice((1, -1))] for place in order]
    np.testing.assert_allclose(step_down(systems, metric, turned), found[order], atol=1e-12)


@pytest.mark.parametrize("clusters", [40, 4000])  # of as many kinds, and of few
def test_random_swaps_do_not_hang_on_the_order_of_the_systems(clusters):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, clusters)
    systems = [np.zeros((clusters, seeds, 3, 3), dtype=np.int64) for seeds in (1, 3, 2, 3)]
    for place, system in enumerate(systems):
        for seed in range(system.shape[1]):
            right = rng.random(clusters) < 0.6 + 0.01 * place
            answer = np.where(right, truth, rng.integers(0, 3, clusters))
            system[np.arange(clusters), seed, truth, answer] = 1
    pairs, order = [(0, 1), (1, 2), (3, 0)], [2, 0, 3, 1]
    moved = [systems[place] for place in order]
    renamed = [(order.index(two), order.index(one)) for one, two in pairs]
    found = step_down(systems, METRICS["uar"], pairs, n=999)
    assert (found < 1).any()
    assert step_down(moved, METRICS["uar"], renamed, n=999).tolist() == found.tolist()
