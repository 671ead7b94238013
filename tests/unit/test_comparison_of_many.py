"""One system against all others: of one record and of two; luck and choice are allowed for."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from nver.comparison import (
    CHOSEN,
    CHOSEN_PAIR,
    against,
    best,
    between,
    compare,
    comparisons,
)
from nver.predictions import SystemEntry
from unit.drawn_records import LABELS, QUICK, record, with_luck


def test_the_table_is_of_everything_against_the_best_that_judges_clips_alone():
    shares = {"lda": 0.55, "mata": 0.7, "mata-transductive": 0.9, "late": 0.66}
    predictions = record(shares, seeds=(0, 1, 2, 3), speakers=30)
    table = comparisons(predictions, effort=QUICK)
    assert json.loads(json.dumps(table)) == table
    assert best(predictions).name == table["reference"]["name"] == "mata"
    assert [pair["name"] for pair in table["pairs"]] == ["lda", "mata-transductive", "late"]
    assert table["pairs"][1]["difference"] < 0
    assert [pair["distinguishable"] for pair in table["pairs"]][:2] == [True, True]
    singles = [pair["p"] for pair in table["pairs"]]
    assert all(pair["p_corrected"] >= p for pair, p in zip(table["pairs"], singles, strict=True))
    assert table["detectable"] == sorted(pair["detectable"] for pair in table["pairs"])[1]
    assert table["caution"] == CHOSEN
    assert "bootstrap over speakers" in table["method"]


def test_one_system_has_nothing_to_be_compared_with():
    table = comparisons(record({"lda": 0.5}))
    assert (table["pairs"], table["detectable"], table["caution"]) == ([], None, "")


def test_eight_speakers_are_enough_for_a_long_table():
    # Of 256 ways of swapping, one and its mirror image are as extreme, however many systems.
    shares = {"mata": 0.95} | {f"s{i}": 0.3 for i in range(8)}
    predictions = record(shares, speakers=8)
    for pairs in (
        against(predictions, predictions.entries[0], effort=QUICK),
        against(predictions, predictions.entries[0], chosen=True, effort=QUICK),
    ):
        assert all(pair.distinguishable for pair in pairs)
        assert min(pair.p_corrected for pair in pairs) == 2 / 2**8
        assert all(pair.detectable > 0 for pair in pairs)


def test_among_many_equals_the_luckiest_is_not_called_better():
    # Only if it had been named beforehand could the luckiest be told from another.
    predictions = record({f"s{i}": 0.6 for i in range(12)}, speakers=30)
    reference = best(predictions)
    named = against(predictions, reference, effort=QUICK)
    chosen = against(predictions, reference, chosen=True, effort=QUICK)
    assert any(pair.distinguishable for pair in named)
    assert not any(pair.distinguishable for pair in chosen)
    assert [pair.test for pair in chosen] == [pair.test for pair in named]
    assert all(pair.caution.endswith(CHOSEN) for pair in chosen)
    assert not any(CHOSEN in pair.caution for pair in named)


def test_lucky_trainings_are_allowed_for_where_the_reference_was_named():
    # Twelve equal systems of three trainings each, which differ by luck.
    predictions = with_luck({f"s{i}": 0.6 for i in range(12)}, spread=0.04)
    pairs = against(predictions, predictions.entries[0], effort=QUICK)
    # Swaps of speakers know nothing of luck, nor does a correction of their p for the number; and
    # the trainings of one system agreed by chance, so that its interval is too narrow as well.
    ends = [(pair.difference.low, pair.difference.high) for pair in pairs]
    outside = [not low <= 0 <= high for low, high in ends]
    alone = [len(pairs) * pair.test.p <= 0.05 for pair in pairs]
    assert any(map(all, zip(alone, outside, strict=True)))
    assert not any(pair.distinguishable for pair in pairs)
    assert all(pair.p_corrected > pair.test.p for pair in pairs)


def test_two_systems_of_one_seed_are_a_single_test():
    predictions = record({"mata": 0.62, "lda": 0.55})
    one, other = predictions.entries
    single = compare(predictions, one, predictions, other, effort=QUICK)
    assert 0.001 < single.p_corrected < 0.9
    for chosen in (False, True):
        (pair,) = against(predictions, one, chosen=chosen, effort=QUICK)
        assert pair.outcome() == single.outcome()


def test_the_best_of_many_in_one_record_is_not_called_better_than_the_only_one_of_another():
    many = record({f"s{i}": 0.6 for i in range(20)}, speakers=30, draw=2)
    one = record({"s0": 0.6}, speakers=30, draw=6)
    couples = [(best(many), one.entries[0]), (many.entries[0], one.entries[0])]
    pairs = between(many, one, couples, effort=QUICK)
    assert pairs[0].test.p * 2 < 0.05  # what a correction for two tests would say
    assert not pairs[0].distinguishable
    assert pairs[0].caution.endswith(CHOSEN_PAIR)
    assert CHOSEN_PAIR not in pairs[1].caution
    assert pairs[1].p_corrected == pytest.approx(pairs[1].test.p, abs=0.03)  # alone of its kind


def test_the_choice_of_a_best_that_scored_lower_costs_nothing():
    many = record({f"s{i}": 0.5 for i in range(8)}, speakers=30)
    one = record({"s0": 0.63}, speakers=30, draw=1)
    (lower,) = between(many, one, [(best(many), one.entries[0])], effort=QUICK)
    (higher,) = between(one, many, [(one.entries[0], best(many))], effort=QUICK)
    assert lower.difference.value < 0 < higher.difference.value
    for pair in (lower, higher):
        assert 0.001 < pair.test.p < 0.2
        assert pair.p_corrected == pytest.approx(pair.test.p, abs=0.03)


def test_between_two_records_each_system_is_judged_among_its_kind():
    before, after = (
        record({"a": 0.5, "b": share, "c-transductive": 0.9}, speakers=20, draw=draw)
        for share, draw in ((0.7, 3), (0.85, 4))
    )
    moved = replace(after, frame=after.frame.sample(frac=1, random_state=0))
    couples = [
        (before.entries[1], after.entries[1]),
        *zip(before.entries, after.entries, strict=True),
    ]
    pairs = between(before, moved, couples, effort=QUICK)
    assert [pair.distinguishable for pair in pairs] == [True, False, True, False]
    assert pairs[0].difference == pairs[2].difference
    assert all(pair.p_corrected >= pair.test.p for pair in pairs)


def test_two_records_of_one_system_each_are_a_single_test():
    many, one = record({"mata": 0.6}, draw=1), record({"mata": 0.65}, draw=2)
    couple = (many.entries[0], one.entries[0])
    single = compare(many, couple[0], one, couple[1], effort=QUICK)
    assert between(many, one, [couple], effort=QUICK) == (single,)


def test_a_transductive_system_is_no_rival_but_compared():
    shares = {"mata": 0.6, "lda": 0.5, "mata-transductive": 0.9}
    predictions = record(shares, speakers=20)
    pairs = against(predictions, predictions.entries[0], chosen=True, effort=QUICK)
    assert pairs[1].difference.value < 0
    assert pairs[1].distinguishable


def test_nan_is_no_score():
    assert best(record({"mata-transductive": 0.5})) is None
    assert comparisons(record({"mata-transductive": 0.5})) is None
    assert not math.isnan(
        against(record({"a": 0.5, "b": 0.5}), SystemEntry("a", ("a", "b"), 1.0))[0].p_corrected
    )


@pytest.mark.parametrize("names", [True, False])  # with and without clusters that are alike
def test_which_record_is_named_first_only_turns_the_sign(names):
    before = record({"a": 0.58, "b": 0.55, "c": 0.5}, names=names, seeds=(0, 1), draw=3)
    after = record({"d": 0.5, "a": 0.55, "b": 0.62}, names=names, seeds=(0, 1, 2), draw=4)
    moved = after.frame.sample(frac=1, random_state=0).reset_index(drop=True)
    after = replace(after, frame=moved, labels=LABELS[::-1])
    couples = [
        (best(before), best(after)),
        *zip(before.entries[:2], after.entries[1:], strict=True),
    ]
    turned = [couple[::-1] for couple in (couples[0], *couples[:0:-1])]
    found = between(before, after, couples, effort=QUICK)
    mirrored = between(after, before, turned, effort=QUICK)
    for one, other in zip(found, (mirrored[0], *mirrored[:0:-1]), strict=True):
        assert 0.001 < one.test.p < 1
        assert other.test == replace(one.test, difference=-one.test.difference)
        assert other.p_corrected == one.p_corrected
        ends = (-other.difference.high, -other.difference.low)
        assert ends == pytest.approx((one.difference.low, one.difference.high), abs=1e-12)
