"""Intervals: what they are of, when there is none, and that speakers count."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from nver.errors import EvaluationError
from nver.metrics import METRICS, accuracy, macro_f1, uar
from nver.significance import (
    Interval,
    cluster_bootstrap,
    cluster_bootstraps,
    paired_difference,
    ratio_bootstrap,
)


def speakers(seed, clusters=20, classes=3, spread=0.3, clips=6):
    """Return confusion matrices of speakers whose share of right clips differs by `spread`."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((clusters, classes, classes), dtype=np.int64)
    for speaker in counts:
        skill = np.clip(0.6 + spread * rng.standard_normal(), 0.02, 0.98)
        for truth in range(classes):
            share = np.full(classes, (1 - skill) / (classes - 1))
            share[truth] = skill
            speaker[truth] = rng.multinomial(clips, share)
    return counts


def test_the_value_is_the_score_of_all_clips_and_lies_inside():
    counts = speakers(0)
    for metric in (accuracy, macro_f1, uar):
        interval = cluster_bootstrap(counts, metric)
        assert interval.value == pytest.approx(float(metric(counts.sum(0))))
        assert 0 <= interval.low < interval.value < interval.high <= 1
        assert (interval.clusters, interval.unit, interval.level) == (20, "speaker", 0.95)
        assert interval.caution == ""


def test_the_same_seed_gives_the_same_interval():
    counts = speakers(1)
    assert cluster_bootstrap(counts, uar, seed=3) == cluster_bootstrap(counts, uar, seed=3)
    assert cluster_bootstrap(counts, uar, seed=3) != cluster_bootstrap(counts, uar, seed=4)


def test_it_equals_drawing_speakers_one_by_one():
    # An independent, slow bootstrap: draw indices, add, score; then the expanded percentiles.
    from scipy import stats

    counts = speakers(2, clusters=12)
    rng = np.random.default_rng(99)
    draws = [float(uar(counts[rng.integers(0, 12, 12)].sum(0))) for _ in range(4000)]
    tail = stats.norm.cdf(math.sqrt(12 / 11) * stats.t.ppf(0.025, 11))
    expected = np.quantile(draws, [tail, 1 - tail])
    interval = cluster_bootstrap(counts, uar, n=4000)
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=0.012)


def test_clips_as_clusters_give_the_normal_interval_of_a_share():
    clips = np.zeros((3000, 2, 2), dtype=np.int64)
    clips[:2100, 0, 0] = 1
    clips[2100:, 0, 1] = 1
    interval = cluster_bootstrap(clips, accuracy, n=20_000, unit="clip")
    half = 1.96 * math.sqrt(0.7 * 0.3 / 3000)
    np.testing.assert_allclose([interval.low, interval.high], [0.7 - half, 0.7 + half], atol=1.5e-3)
    assert interval.caution == (
        "the clips name no speaker and were taken as independent, which is too narrow if speakers "
        "repeat"
    )


def test_speakers_that_differ_widen_the_interval():
    counts = speakers(3, spread=0.3)
    clips = [
        np.eye(9, dtype=np.int64)[cell].reshape(3, 3)
        for cell, times in enumerate(counts.sum(0).ravel())
        for _ in range(times)
    ]
    by_speaker = cluster_bootstrap(counts, uar)
    by_clip = cluster_bootstrap(np.stack(clips), uar, unit="clip")
    assert by_clip.value == by_speaker.value
    assert by_speaker.high - by_speaker.low > 1.5 * (by_clip.high - by_clip.low)


def test_seeds_are_averaged_and_resampled_together():
    counts = np.stack([speakers(4), speakers(5)], axis=1)
    interval = cluster_bootstrap(counts, macro_f1)
    expected = (macro_f1(counts[:, 0].sum(0)) + macro_f1(counts[:, 1].sum(0))) / 2
    assert interval.value == pytest.approx(float(expected))
    twice = np.stack([speakers(4), speakers(4)], axis=1)
    alone = cluster_bootstrap(speakers(4), macro_f1)
    both = cluster_bootstrap(twice, macro_f1)
    np.testing.assert_allclose([both.low, both.high], [alone.low, alone.high], atol=1e-12)


def test_one_speaker_has_no_interval_and_says_why():
    interval = cluster_bootstrap(speakers(6, clusters=1), uar)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.reason == interval.caution == "one speaker says nothing about others"
    assert interval.to_dict() == {
        "value": interval.value,
        "low": None,
        "high": None,
        "reason": "one speaker says nothing about others",
    }


def test_few_speakers_carry_a_caution():
    interval = cluster_bootstrap(speakers(7, clusters=4), uar)
    assert interval.caution == "it rests on 4 speakers, too few for its width to be trusted"
    mixed = Interval(0.5, 0.4, 0.6, 0.95, 100, "mixed")
    assert mixed.caution.startswith("some clips name no speaker")


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        (np.zeros((0, 2, 2)), {}, "Expected at least one cluster of clips to resample, got none."),
        (
            np.stack([np.eye(2), np.zeros((2, 2))]),
            {},
            "Expected clips in every cluster, but cluster 1 has none. Leave it out.",
        ),
        (
            np.ones((2, 2, 2)),
            {"level": 95.0},
            "Expected at least one resample and a level between 0 and 1, got 2000 and 95.0.",
        ),
    ],
)
def test_what_cannot_be_resampled_is_an_error(counts, options, message):
    with pytest.raises(EvaluationError, match=re.escape(message)):
        cluster_bootstrap(counts, uar, **options)


def test_a_wider_level_is_wider():
    counts = speakers(8)
    narrow, wide = (cluster_bootstrap(counts, uar, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_intervals_cover_the_truth_in_simulated_corpora():
    # Speakers' skills are uniform in [0.2, 0.9], so the true UAR is .55. Of 300 corpora, 95 %
    # intervals miss 15 on average; the bounds are four standard errors of that count wide.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        skill = rng.uniform(0.2, 0.9, size=(15, 1))
        right = rng.binomial(4, np.broadcast_to(skill, (15, 3)))
        counts = np.zeros((15, 3, 3), dtype=np.int64)
        counts[:, [0, 1, 2], [0, 1, 2]] = right
        counts[:, [0, 1, 2], [1, 2, 0]] = 4 - right
        interval = cluster_bootstrap(counts, uar, n=500)
        covered += interval.low <= 0.55 <= interval.high
    assert 270 <= covered <= 297


def test_several_systems_drawn_at_once_are_as_if_drawn_alone():
    one, other = np.stack([speakers(9), speakers(10)], axis=1), speakers(11)
    together = cluster_bootstraps([one, other, one[:5]], METRICS["uar"], n=300)
    alone = [cluster_bootstrap(counts, METRICS["uar"], n=300) for counts in (one, other, one[:5])]
    for joint, single in zip(together, alone, strict=True):
        assert joint.to_dict() == pytest.approx(single.to_dict())
        assert joint.seeds == single.seeds


def test_a_metric_and_its_function_give_the_same_interval():
    for counts in (speakers(12), np.stack([speakers(13), speakers(14)], axis=1)):
        for name, function in (("uar", uar), ("accuracy", accuracy), ("macro_f1", macro_f1)):
            fast = cluster_bootstrap(counts, METRICS[name], n=300)
            assert fast.to_dict() == pytest.approx(
                cluster_bootstrap(counts, function, n=300).to_dict()
            )


def test_seeds_that_differ_widen_the_interval_and_those_that_do_not_leave_it():
    rng = np.random.default_rng(15)
    shares = [0.45, 0.6, 0.75]
    seeds = np.zeros((40, 3, 2, 2), dtype=np.int64)
    for place, share in enumerate(shares):
        right = rng.binomial(20, share, size=(40, 2))
        seeds[:, place, [0, 1], [0, 1]] = right
        seeds[:, place, [0, 1], [1, 0]] = 20 - right
    interval = cluster_bootstrap(seeds, METRICS["uar"])
    # Student's interval of three means .45, .6 and .75, which is all but the whole of it.
    half = 4.303 * 0.15 / math.sqrt(3)
    assert interval.high - interval.value == pytest.approx(half, rel=0.1)
    assert interval.error == pytest.approx(0.15 / math.sqrt(3), rel=0.1)
    assert interval.seeds == 3
    one = cluster_bootstrap(seeds[:, :1], METRICS["uar"])
    same = cluster_bootstrap(np.repeat(seeds[:, :1], 3, axis=1), METRICS["uar"])
    np.testing.assert_allclose([same.low, same.high], [one.low, one.high], atol=1e-12)


def test_the_interval_stays_in_the_range_of_the_score():
    rng = np.random.default_rng(16)
    seeds = np.zeros((12, 2, 2, 2), dtype=np.int64)
    for place, share in enumerate((0.7, 1.0)):
        right = rng.binomial(20, share, size=(12, 2))
        seeds[:, place, [0, 1], [0, 1]] = right
        seeds[:, place, [0, 1], [1, 0]] = 20 - right
    assert cluster_bootstrap(seeds, METRICS["uar"]).high == 1.0


@pytest.mark.parametrize("clusters", [2, 5, 75])
@pytest.mark.parametrize("right", [0, 4])
def test_where_every_speaker_is_at_the_end_it_is_that_of_clopper_and_pearson(clusters, right):
    from scipy import stats

    counts = np.tile(np.array([[right, 4 - right], [4 - right, right]]), (clusters, 1, 1))
    interval = cluster_bootstrap(counts, METRICS["uar"], n=50)
    exact = stats.binomtest(clusters if right else 0, clusters).proportion_ci(method="exact")
    np.testing.assert_allclose([interval.low, interval.high], exact, atol=1e-12)
    share = ratio_bootstrap(np.full(clusters, right), np.full(clusters, 4), n=50)
    np.testing.assert_allclose([share.low, share.high], exact, atol=1e-12)
    same = paired_difference(counts, counts, METRICS["uar"], n=50)
    assert (same.low, same.high) == (0.0, 0.0)


def test_a_ratio_is_resampled_by_clusters():
    from scipy import stats

    rng = np.random.default_rng(17)
    wholes = rng.integers(3, 9, size=60)
    parts = rng.binomial(wholes, 0.7)
    interval = ratio_bootstrap(parts, wholes, n=5000)
    expected = stats.bootstrap(
        (parts, wholes),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=5000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=0.01)
    with pytest.raises(EvaluationError, match="Expected clips in every cluster of both"):
        ratio_bootstrap(parts, wholes - 3)


def test_with_few_speakers_it_is_no_narrower_than_students():
    from scipy import stats

    # One class, equally many clips: the score is a mean over speakers.
    right = np.array([3, 9, 5, 7])
    counts = np.zeros((4, 2, 2), dtype=np.int64)
    counts[:, 0, 0], counts[:, 0, 1] = right, 12 - right
    interval = cluster_bootstrap(counts, METRICS["uar"], n=20_000)
    half = stats.t.ppf(0.975, 3) * stats.sem(right / 12)
    np.testing.assert_allclose(
        [interval.low, interval.high], [interval.value - half, interval.value + half], atol=0.01
    )
