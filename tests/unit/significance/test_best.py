"""The confidence set of a table: two systems, every way of swapping by hand, luck, laws."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from nver.errors import EvaluationError
from nver.metrics import METRICS
from nver.significance import confidence_set, permutation_test
from unit.significance.tables import table

UAR = METRICS["uar"]


def set_of(systems, reference=0, rivals=None, **options):
    rivals = np.ones(len(systems), dtype=bool) if rivals is None else np.array(rivals)
    return confidence_set(systems, UAR, reference=reference, rivals=rivals, **options)


def by_hand(systems, reference, rivals):
    """Return p from every way of swapping, one system and one pair after the other."""
    truth = systems[0].sum(axis=(0, 1, 3))
    worth = np.array([np.einsum("csii->ci", s) @ (1 / truth) / len(truth) for s in systems])

    def statistic(signs, one, other):
        gaps = worth[one] - worth[other]
        return abs((signs * gaps).sum()) / np.sqrt((gaps**2).sum())

    ways = list(itertools.product((1, -1), repeat=worth.shape[1]))
    others = [place for place in range(len(systems)) if place != reference]
    seen = {place: statistic(np.ones(worth.shape[1]), reference, place) for place in others}
    p, last = np.ones(len(systems)), 0.0
    left = sorted(others, key=lambda place: -seen[place])
    while left:
        pairs = [
            (one, other)
            for one, other in itertools.combinations([reference, *left], 2)
            if one == reference or rivals[one] or rivals[other]
        ]
        largest = [max(statistic(np.array(way), *pair) for pair in pairs) for way in ways]
        last = max(last, np.mean(np.array(largest) >= seen[left[0]] - 1e-9))
        p[left.pop(0)] = last
    return p


@pytest.mark.parametrize(("clusters", "exact"), [(9, True), (40, False)])
def test_two_systems_are_the_permutation_test(clusters, exact):
    systems = table(clusters, (0.1, 0.0), clusters)
    alone = permutation_test(*systems, UAR, n=999, seed=3)
    found = set_of(systems, n=999, seed=3)
    assert found.exact == alone.exact == exact
    assert found.swaps == alone.swaps
    assert found.p.tolist() == [1.0, alone.p]
    assert 0.01 < alone.p < 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rivals", [(True,) * 4, (True, True, False, False), (False,) * 4])
def test_p_is_that_of_every_way_of_swapping(seed, rivals):
    systems = table(seed, (0.15, 0.1, 0.0, -0.2))
    found = set_of(systems, 0, rivals)
    assert found.exact
    np.testing.assert_allclose(found.p, by_hand(systems, 0, rivals), atol=1e-12)


def test_the_more_rivals_the_larger_is_p():
    systems = table(5, (0.15, 0.0, 0.0, 0.0, 0.0, 0.0), clusters=10)
    alone = [permutation_test(systems[0], other, UAR).p for other in systems[1:]]
    named = set_of(systems, rivals=[False] * 6).p[1:]
    chosen = set_of(systems).p[1:]
    assert (named >= alone).all()
    assert (chosen >= named).all()
    assert (chosen > named).any()


def test_the_order_of_the_systems_does_not_matter():
    systems = table(6, (0.2, 0.1, 0.05, 0.0), clusters=10, seeds=3, luck=0.02)
    order = [2, 0, 3, 1]
    found = set_of(systems).p
    moved = set_of([systems[place] for place in order], reference=1).p
    np.testing.assert_allclose(moved, found[order])


def test_one_clearly_better_system_is_told_from_equals_and_not_from_its_copy():
    systems = table(7, (0.45, 0.0, 0.0, 0.0), clusters=20)
    found = set_of([*systems, systems[0]], n=999)
    assert (found.p[1:4] < 0.01).all()
    assert found.p[4] == 1.0
    assert not found.exact
    assert found.p.tolist() == set_of([*systems, systems[0]], n=999).p.tolist()


def test_systems_that_answer_alike_cannot_be_told_apart():
    systems = table(8, (0.0,)) * 3
    assert set_of(systems).p.tolist() == [1.0] * 3


def test_lucky_trainings_are_allowed_for():
    systems = table(9, (0.2, 0.0, 0.0), clusters=12, seeds=3, luck=0.1)
    mean = [counts.sum(axis=1, keepdims=True) for counts in systems]  # as if it were one training
    assert (set_of(systems).p[1:] > set_of(mean).p[1:]).all()


def test_seeds_that_agree_by_chance_are_not_trusted_among_others_that_do_not():
    calm, steady = table(10, (0.12, 0.0), clusters=10, seeds=3, luck=0.0)
    wild = table(10, (0.12, 0.0, 0.0, 0.0), clusters=10, seeds=3, luck=0.3)[2:]
    beside_wild = set_of([calm, steady, *wild], rivals=[False] * 4).p[1]
    beside_calm = set_of([calm, steady], rivals=[False] * 2).p[1]
    assert beside_wild > beside_calm


def test_trainings_that_all_answer_alike_are_one():
    one, other = table(11, (0.12, 0.0), clusters=10)
    thrice = np.repeat(other, 3, axis=1)
    assert set_of([one, thrice]).p.tolist() == set_of([one, other]).p.tolist()


def test_one_cluster_tells_nothing_apart():
    assert set_of(table(12, (0.3, 0.0, -0.3), clusters=1, seeds=2)).p.tolist() == [1.0] * 3


def test_what_cannot_be_tested_is_an_error():
    systems = table(13, (0.1, 0.0))
    with pytest.raises(EvaluationError, match="at least one random way of swapping, got 0"):
        set_of(systems, n=0)
    with pytest.raises(EvaluationError, match="linear in the hits, got Macro-F1"):
        confidence_set(
            systems, METRICS["macro_f1"], reference=0, rivals=np.array([True, True]), n=9
        )
    message = "Expected the same clips on both sides, got 7 and 6 clusters of 3 and 3 classes."
    with pytest.raises(EvaluationError, match=re.escape(message)):
        set_of([systems[0], systems[1][1:]])
