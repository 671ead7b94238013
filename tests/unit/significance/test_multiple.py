"""Tests in one table: single pairs, every way of swapping by hand, pairs that were not chosen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nver.errors import EvaluationError
from nver.metrics import METRICS
from nver.significance import confidence_set, permutation_test, step_down
from unit.significance.tables import table

UAR = METRICS["uar"]


def by_hand(systems, pairs, beside):
    """Return p from every way of swapping, one pair after the other."""
    truth = systems[0].sum(axis=(0, 1, 3))
    worth = np.array([np.einsum("csii->ci", s) @ (1 / truth) / len(truth) for s in systems])
    gaps = {pair: worth[pair[0]] - worth[pair[1]] for pair in (*pairs, *beside)}

    def statistic(signs, pair):
        return abs((signs * gaps[pair]).sum()) / np.sqrt((gaps[pair] ** 2).sum())

    ways = [np.array(way) for way in itertools.product((1, -1), repeat=worth.shape[1])]
    seen = {pair: statistic(ways[0], pair) for pair in pairs}
    left, p, last = sorted(pairs, key=lambda pair: -seen[pair]), {}, 0.0
    while left:
        largest = [max(statistic(way, pair) for pair in (*left, *beside)) for way in ways]
        last = p[left[0]] = max(last, np.mean(np.array(largest) >= seen[left[0]] - 1e-9))
        left.pop(0)
    return [p[pair] for pair in pairs]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("beside", [[], [(0, 2), (1, 3), (0, 3)]])
def test_p_is_that_of_every_way_of_swapping(seed, beside):
    systems = table(seed, (0.2, 0.1, 0.0, -0.1, 0.0))
    pairs = [(0, 1), (2, 3), (4, 0)]
    found = step_down(systems, UAR, pairs, beside=beside)
    np.testing.assert_allclose(found, by_hand(systems, pairs, beside), atol=1e-12)


@pytest.mark.parametrize("clusters", [9, 40])
def test_a_single_pair_of_one_seed_is_the_permutation_test(clusters):
    systems = table(clusters, (0.1, 0.0), clusters)
    alone = permutation_test(*systems, UAR, n=999, seed=3)
    assert step_down(systems, UAR, [(0, 1)], n=999, seed=3).tolist() == [alone.p]
    assert 0.01 < alone.p < 0.9


@pytest.mark.parametrize("clusters", [9, 40])
def test_pairs_with_one_system_are_its_table_where_it_was_named(clusters):
    systems = table(5, (0.1, 0.0, 0.05, -0.05), clusters, seeds=3, luck=0.05)
    found = step_down(systems, UAR, [(0, 1), (0, 2), (0, 3)], n=999, seed=3)
    named = confidence_set(systems, UAR, reference=0, rivals=np.zeros(4, dtype=bool), n=999, seed=3)
    assert found.tolist() == named.p[1:].tolist()
    assert len(set(found)) > 1


def test_lucky_trainings_are_allowed_for():
    systems = table(9, (0.2, 0.0, 0.1, 0.0), clusters=12, seeds=3, luck=0.1)
    mean = [counts.sum(axis=1, keepdims=True) for counts in systems]  # as if it were one training
    pairs = [(0, 1), (2, 3)]
    assert (step_down(systems, UAR, pairs) > step_down(mean, UAR, pairs)).all()


def test_no_pairs_no_p_and_no_clips_no_score():
    systems = table(10, (0.2, 0.0))
    assert step_down(systems, UAR, []).tolist() == []
    nothing = [np.zeros_like(counts) for counts in systems]
    assert np.isnan(step_down(nothing, UAR, [(0, 1)])).tolist() == [True]
    with pytest.raises(EvaluationError, match="at least one random way of swapping, got 0"):
        step_down(systems, UAR, [(0, 1)], n=0)
