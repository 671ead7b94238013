"""What intervals and tests promise, kept in simulated corpora whose truth is known.

Seeds are fixed, so a test gives the same count each time. Each bound is the promise plus the
sampling error of that many corpora (three standard errors of a binomial share): 500 corpora at .95
have a standard error of .0097.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from bench.simulated_corpora import counts, true_uar

from nver.metrics import METRICS
from nver.significance import (
    cluster_bootstrap,
    confidence_set,
    paired_difference,
    permutation_test,
)

pytestmark = pytest.mark.usefixtures("unchecked_shapes")
UAR = METRICS["uar"]
CORPORA = 500
TABLES = 200


def within(share, low, high, corpora=CORPORA):
    """Return whether a share lies between two promised ones, up to sampling error."""
    lowest, highest = (
        bound + sign * 3 * math.sqrt(bound * (1 - bound) / corpora)
        for bound, sign in ((low, -1), (high, 1))
    )
    return lowest <= share <= highest


@pytest.mark.parametrize(
    ("speakers", "classes", "seeds", "luck"),
    [(4, 6, 1, 0.0), (20, 6, 1, 0.0), (40, 12, 1, 0.0), (20, 6, 3, 0.1)],
)
def test_intervals_cover_the_truth(speakers, classes, seeds, luck):
    truth = true_uar(luck, draws=400_000)
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(CORPORA):
        (table,) = counts(rng, speakers, classes, seeds, luck)
        interval = cluster_bootstrap(table, UAR, n=300, seed=seed)
        covered += interval.low <= truth <= interval.high
    assert within(covered / CORPORA, 0.93, 0.97)


@pytest.mark.parametrize("speakers", [8, 20, 40])
def test_equally_good_systems_are_rarely_told_apart(speakers):
    rng = np.random.default_rng(1)
    found = 0
    for seed in range(CORPORA):
        one, other = counts(rng, speakers, 6, 1, systems=2)
        found += permutation_test(one, other, UAR, n=499, seed=seed).p <= 0.05
    assert within(found / CORPORA, 0.03, 0.06)


def test_without_the_seeds_variance_lucky_trainings_look_like_better_systems():
    # Three seeds each of two equal systems whose trainings differ: swapping speakers knows nothing
    # of that, the interval does, and both must agree for a difference to be called one.
    rng = np.random.default_rng(2)
    found = np.zeros(2)
    for seed in range(200):
        one, other = counts(rng, 40, 6, 3, 0.15, systems=2)
        p = permutation_test(one, other, UAR, n=499, seed=seed).p
        interval = paired_difference(one, other, UAR, n=300, seed=seed)
        found += [p <= 0.05, p <= 0.05 and not interval.low <= 0 <= interval.high]
    alone, both = found / 200
    assert alone > 0.15
    assert within(both, 0.0, 0.06, corpora=200)


@pytest.mark.parametrize(("speakers", "systems"), [(10, 4), (20, 8)])
def test_a_table_of_equals_rarely_marks_one_as_worse_than_its_best(speakers, systems):
    assert within(marked(speakers, systems, 1, 0.0), 0.02, 0.06, TABLES)


def test_nor_do_lucky_trainings_where_there_are_several():
    assert within(marked(40, 8, 3, 0.1), 0.0, 0.05, TABLES)


def test_nor_do_lucky_trainings_against_a_system_that_was_named():
    assert within(marked(40, 8, 3, 0.1, named=True), 0.0, 0.05, TABLES)


def marked(speakers, systems, seeds, luck, *, named=False):
    """Return how often a system of a table of equals is told from its best, or from its first."""
    rng, found = np.random.default_rng(3), 0
    for seed in range(TABLES):
        tables = list(counts(rng, speakers, 6, seeds, luck, systems=systems))
        scores = [float(UAR(table.sum(axis=0)).mean()) for table in tables]
        reference = 0 if named else int(np.argmax(scores))
        rivals = np.full(systems, not named)
        told = confidence_set(tables, UAR, reference=reference, rivals=rivals, n=299, seed=seed)
        found += bool((told.p <= 0.05).any())
    return found / TABLES
