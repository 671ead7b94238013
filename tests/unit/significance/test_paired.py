"""Paired tests against scipy and statsmodels, and by what they must be."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from nver.errors import EvaluationError
from nver.metrics import METRICS
from nver.significance import (
    McNemar,
    cohens_g,
    detectable_difference,
    mcnemar,
    paired_difference,
    paired_differences,
    permutation_test,
    standardised_difference,
)

NAMES = ("accuracy", "macro_f1", "uar")


def pair(seed, clusters=8, classes=3, clips=5, seeds=1, lift=0.15):
    """Return counts of two systems on the same clips; the first is right more often by `lift`."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, clips + 1, size=(clusters, classes))
    sides = []
    for skill in (0.5 + lift, 0.5):
        counts = np.zeros((clusters, seeds, classes, classes), dtype=np.int64)
        for place in np.ndindex(clusters, seeds, classes):
            share = np.full(classes, (1 - skill) / (classes - 1))
            share[place[-1]] = skill
            counts[place] = rng.multinomial(sizes[place[0], place[-1]], share)
        sides.append(counts)
    return sides


def swapped_p(first, second, metric, n=np.inf, seed=0):
    """Return scipy's p for swapping the systems of each cluster."""
    both = np.concatenate([first, second])

    def difference(ours, theirs):
        sides = [both[np.asarray(side, dtype=int)].sum(0) for side in (ours, theirs)]
        return float(metric(sides[0]).mean() - metric(sides[1]).mean())

    places = np.arange(len(first))
    found = stats.permutation_test(
        (places, places + len(first)),
        difference,
        permutation_type="samples",
        vectorized=False,
        n_resamples=n,
        rng=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seeds", [1, 3])
def test_few_clusters_are_swapped_in_all_ways_as_scipy_does(name, seeds):
    first, second = pair(1, seeds=seeds)
    difference, p = swapped_p(first, second, METRICS[name])
    test = permutation_test(first, second, METRICS[name])
    assert test.exact
    assert test.swaps == 2**test.discordant <= 256
    assert test.difference == pytest.approx(difference)
    assert test.p == pytest.approx(p, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_many_clusters_are_swapped_at_random(name):
    first, second = pair(2, clusters=40, clips=2, lift=0.1)
    test = permutation_test(first, second, METRICS[name], n=9999)
    assert not test.exact
    _, p = swapped_p(first, second, METRICS[name], n=2000)
    spread = 5 * math.sqrt(p * (1 - p) * (1 / 2000 + 1 / 9999))
    assert test.p == pytest.approx(p, abs=spread)


def test_a_linear_score_by_its_short_way_equals_the_long_one():
    from dataclasses import replace

    first, second = pair(3, clusters=10, seeds=2)
    for name in ("accuracy", "uar"):
        short = permutation_test(first, second, METRICS[name])
        long = permutation_test(first, second, replace(METRICS[name], linear=False))
        assert short.p == pytest.approx(long.p)
        assert short.difference == pytest.approx(long.difference)


def test_other_numbers_of_seeds_are_compared_by_their_means():
    first, second = pair(4, seeds=3)
    alone = second[:, :1]
    test = permutation_test(first, alone, METRICS["uar"])
    repeated = permutation_test(first, np.repeat(alone, 3, axis=1), METRICS["uar"])
    assert test == repeated


def test_the_order_of_the_systems_turns_the_sign_only():
    first, second = pair(5, clusters=30)
    one = permutation_test(first, second, METRICS["uar"])
    other = permutation_test(second, first, METRICS["uar"])
    assert other.difference == pytest.approx(-one.difference)
    assert other.p == pytest.approx(one.p, abs=0.02)
    there = paired_difference(first, second, METRICS["uar"])
    back = paired_difference(second, first, METRICS["uar"])
    np.testing.assert_allclose([there.low, there.high], [-back.high, -back.low], atol=1e-12)


def test_a_system_against_itself_is_no_difference():
    first, _ = pair(6)
    test = permutation_test(first, first, METRICS["macro_f1"])
    assert (test.difference, test.p, test.discordant) == (0.0, 1.0, 0)
    interval = paired_difference(first, first, METRICS["uar"])
    assert (interval.low, interval.value, interval.high) == (0.0, 0.0, 0.0)
    assert math.isnan(standardised_difference(first, first, METRICS["uar"]))


def test_a_random_p_is_never_zero():
    classes = np.eye(3, dtype=np.int64)
    first, second = np.stack([classes] * 40), np.stack([np.roll(classes, 1, axis=1)] * 40)
    assert permutation_test(first, second, METRICS["uar"], n=99).p == 1 / 100


def test_the_paired_interval_is_narrower_than_that_of_unpaired_systems():
    # Speakers who are easy for one system are easy for the other: only the pairing knows.
    rng = np.random.default_rng(7)
    skill = rng.uniform(0.2, 0.9, size=(40, 1))
    right = [rng.binomial(6, np.broadcast_to(skill, (40, 3))) for _ in range(2)]
    sides = []
    for hits in right:
        counts = np.zeros((40, 3, 3), dtype=np.int64)
        counts[:, [0, 1, 2], [0, 1, 2]] = hits
        counts[:, [0, 1, 2], [1, 2, 0]] = 6 - hits
        sides.append(counts)
    paired = paired_difference(*sides, METRICS["uar"])
    unpaired = paired_difference(sides[0], rng.permutation(sides[1]), METRICS["uar"])
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)


def test_the_paired_interval_is_that_of_scipy_where_a_mean_is_compared():
    # One clip of one class for each cluster: the difference is a mean of -1, 0 and 1.
    rng = np.random.default_rng(8)
    sides = []
    for share in (0.7, 0.6):
        right = rng.random(400) < share
        counts = np.zeros((400, 2, 2), dtype=np.int64)
        counts[np.arange(400), 0, np.where(right, 0, 1)] = 1
        sides.append(counts)
    each = sides[0][:, 0, 0] - sides[1][:, 0, 0]
    expected = stats.bootstrap(
        (each,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(0)
    ).confidence_interval
    interval = paired_difference(*sides, METRICS["accuracy"], n=9999)
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=0.006)
    assert interval.error == pytest.approx(stats.sem(each), rel=0.05)
    effect = standardised_difference(*sides, METRICS["accuracy"])
    assert effect == pytest.approx(each.mean() / each.std(ddof=1))


@pytest.mark.parametrize("shares", [(0.7, 0.6), (0.5, 0.5), (1.0, 1.0)])
def test_mcnemar_equals_statsmodels(shares):
    rng = np.random.default_rng(9)
    first, second = (rng.random(120) < share for share in shares)
    table = [
        [(first & second).sum(), (first & ~second).sum()],
        [(~first & second).sum(), (~first & ~second).sum()],
    ]
    test = mcnemar(first, second)
    assert (test.b, test.c) == (table[0][1], table[1][0])
    expected = reference_mcnemar(table, exact=True).pvalue if test.b + test.c else 1.0
    assert test.p == pytest.approx(min(1.0, expected))


def test_cohens_g_is_the_lead_in_the_discordant_clips():
    assert cohens_g(McNemar(30, 10, 0.0)) == 0.25
    assert math.isnan(cohens_g(McNemar(0, 0, 1.0)))


def test_the_detectable_difference_has_the_power_that_it_says():
    # The exact power of a t test of mean delta, spread 1, 30 clusters: non-central t.
    delta = detectable_difference(1 / math.sqrt(30), 30)
    critical, shift = stats.t.ppf(0.975, 29), delta * math.sqrt(30)
    power = stats.nct.sf(critical, 29, shift) + stats.nct.cdf(-critical, 29, shift)
    assert power == pytest.approx(0.8, abs=0.01)
    assert math.isnan(detectable_difference(math.nan, 30))
    assert math.isnan(detectable_difference(0.1, 1))


def test_the_detectable_difference_leaves_zero_out_of_a_wide_interval_in_four_of_five_cases():
    delta = detectable_difference(0.05, 30, half_width=0.142)
    estimates = delta + 0.05 * np.random.default_rng(0).standard_t(29, 100_000)
    assert np.mean(estimates - 0.142 > 0) == pytest.approx(0.8, abs=0.005)
    narrow = detectable_difference(0.05, 30)
    assert detectable_difference(0.05, 30, half_width=0.05) == narrow < delta


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[1:], "Expected the same clips on both sides, got 8 and 7 clusters"),
        (
            lambda a: np.concatenate([a[:1] + 1, a[1:]]),
            "Expected the same clips on both sides and in every seed, but 1 of 8 clusters differ",
        ),
    ],
)
def test_other_clips_are_refused(change, message):
    first, second = pair(11)
    for judge in (permutation_test, paired_difference, standardised_difference):
        with pytest.raises(EvaluationError, match=re.escape(message)):
            judge(first, change(second), METRICS["uar"])
    with pytest.raises(EvaluationError, match="got 3 and 2"):
        mcnemar(np.ones(3, dtype=bool), np.ones(2, dtype=bool))


def test_several_differences_drawn_at_once_are_as_if_drawn_alone():
    (first, second), (third, _) = pair(12, clusters=20, seeds=3), pair(12, clusters=20, lift=0.3)
    together = paired_differences(first, [second, third], METRICS["macro_f1"], n=200)
    for joint, other in zip(together, (second, third), strict=True):
        single = paired_difference(first, other, METRICS["macro_f1"], n=200)
        assert joint.to_dict() == pytest.approx(single.to_dict())
        assert joint.error == pytest.approx(single.error)


def test_answers_of_the_same_models_have_the_seeds_variance_of_their_difference():
    # Seeds that are 0.2 apart, for both sides alike: their difference does not know the seed.
    rng = np.random.default_rng(13)
    sides = []
    for loss in (0.0, 0.1):
        counts = np.zeros((60, 3, 2, 2), dtype=np.int64)
        for place, share in enumerate((0.4, 0.6, 0.8)):
            right = rng.binomial(30, share - loss, size=(60, 2))
            counts[:, place, [0, 1], [0, 1]] = right
            counts[:, place, [0, 1], [1, 0]] = 30 - right
        sides.append(counts)
    apart = paired_difference(*sides, METRICS["uar"])
    same = paired_difference(*sides, METRICS["uar"], same_seeds=True)
    assert same.high - same.low < 0.1 * (apart.high - apart.low)
    with pytest.raises(EvaluationError, match="Expected the same seeds on both sides, got 3 and 2"):
        paired_difference(sides[0], sides[1][:, :2], METRICS["uar"], same_seeds=True)
