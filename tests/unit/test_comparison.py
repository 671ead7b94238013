"""Comparisons of systems: of one record and of two, in words and in numbers."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from nver.comparison import (
    CHOSEN,
    CHOSEN_PAIR,
    Effort,
    against,
    best,
    between,
    compare,
    comparisons,
)
from nver.errors import EvaluationError
from nver.predictions import ONE_SEED, TWO_SEEDS, Predictions, SystemEntry

LABELS = ("sad", "happy", "angry")
QUICK = Effort(resamples=400, swaps=999)


def record(shares, speakers=12, seeds=(0,), names=True, draw=0):
    """Return predictions of 4 clips of each class by each speaker.

    `shares` says how often a system is right, by its name; a transductive one is a system as well.
    """
    rng = np.random.default_rng(draw)
    label = np.tile(np.repeat(LABELS, 4), speakers)
    who = np.repeat([f"{i:03d}" for i in range(speakers)], 12).astype(object)
    tables, entries = [], []
    for name, share in shares.items():
        entries.append(SystemEntry(name, ("a", "b"), 1.0))
        for seed in seeds:
            right = rng.random(len(label)) < share
            wrong = np.roll(LABELS, 1)[[LABELS.index(one) for one in label]]
            tables.append(
                pd.DataFrame(
                    {
                        "clip": [f"{i:064x}" for i in range(len(label))],
                        "file": [f"{i}.wav" for i in range(len(label))],
                        "speaker": who.tolist() if names else [None] * len(label),
                        "label": label,
                        "system": name,
                        "encoders": "a+b",
                        "seed": seed,
                        "fold": (np.arange(len(label)) // 12 % 3).astype(str),
                        "predicted": np.where(right, label, wrong),
                    }
                    | {f"p_{one}": np.float32(1 / 3) for one in LABELS}
                )
            )
    return Predictions(pd.concat(tables, ignore_index=True), LABELS, tuple(entries))


def uar_of(predictions, name):
    rows = predictions.frame[predictions.frame["system"] == name]
    return sklearn_metrics.balanced_accuracy_score(rows["label"], rows["predicted"])


def test_a_clear_difference_is_found_and_said():
    predictions = record({"mata": 0.8, "lda": 0.5})
    one, other = predictions.entries
    found = compare(predictions, one, predictions, other, effort=QUICK)
    assert found.scores == pytest.approx((uar_of(predictions, "mata"), uar_of(predictions, "lda")))
    assert found.difference.value == pytest.approx(found.scores[0] - found.scores[1])
    assert found.distinguishable
    assert found.to_dict()["alpha"] == 0.05
    assert 0 < found.detectable < found.difference.value
    assert found.effect > 0.8
    assert found.effect_name == "d_z over speakers"
    assert found.mcnemar is None
    assert re.fullmatch(
        r"mata \(a\+b\) is \d+\.\d points of UAR above lda \(a\+b\) \(95 % interval \d+\.\d to "
        r"\d+\.\d, p = 0\.00\d\d\): the two are distinguishable\.",
        found.sentence(),
    )
    turned = compare(predictions, other, predictions, one, effort=QUICK).sentence()
    assert "lda (a+b) is " in turned
    assert "below mata (a+b) (95 % interval" in turned
    assert "interval -" not in turned


def test_no_difference_is_said_with_what_could_have_been_seen():
    predictions = record({"mata": 0.6, "lda": 0.6})
    one, other = predictions.entries
    found = compare(predictions, one, predictions, other, effort=QUICK)
    assert not found.distinguishable
    assert found.sentence().endswith(
        f"not distinguishable. These clips would show a difference of "
        f"{found.detectable * 100:.1f} points in four of five cases."
    )
    assert found.caution == ONE_SEED


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


def test_two_records_of_the_same_clips_in_another_order():
    predictions = record({"mata": 0.8}, draw=1)
    other = record({"mata": 0.6}, draw=2)
    shuffled = replace(other, frame=other.frame.sample(frac=1, random_state=0))
    relabelled = replace(shuffled, labels=LABELS[::-1])
    together = pd.concat([predictions.frame, other.frame.assign(system="lda")], ignore_index=True)
    entries = (predictions.entries[0], SystemEntry("lda", ("a", "b"), 1.0))
    same = Predictions(together, LABELS, entries)
    expected = compare(same, entries[0], same, entries[1], effort=QUICK)
    for second in (other, shuffled, relabelled):
        found = compare(predictions, entries[0], second, second.entries[0], effort=QUICK)
        assert found.outcome() == pytest.approx(expected.outcome(), abs=1e-12)
        assert found.test.p == expected.test.p
        assert found.sentence().startswith("mata (a+b) of the first run is ")
        assert " above mata (a+b) of the second (95 % interval" in found.sentence()
        assert found.caution == ONE_SEED


def test_other_folds_are_a_caution():
    predictions = record({"mata": 0.8})
    renamed = replace(
        predictions, frame=predictions.frame.assign(fold="x" + predictions.frame["fold"])
    )
    moved = replace(predictions, frame=predictions.frame.assign(fold="0"))
    entry = predictions.entries[0]
    assert compare(predictions, entry, renamed, entry, effort=QUICK).caution == ONE_SEED
    caution = compare(predictions, entry, moved, entry, effort=QUICK).caution
    assert caution.startswith("the two runs have other folds")


def test_speakers_known_to_one_record_are_enough():
    named, nameless = record({"mata": 0.8}), record({"mata": 0.6}, names=False, draw=3)
    entry = named.entries[0]
    for first, second in ((named, nameless), (nameless, named)):
        found = compare(first, entry, second, entry, effort=QUICK)
        assert (found.difference.unit, found.difference.clusters) == ("speaker", 12)


def test_where_one_record_knows_some_speakers_they_count():
    nameless, partly = record({"mata": 0.8}, names=False), record({"mata": 0.6}, draw=3)
    known = partly.frame["speaker"].where(partly.frame["speaker"] != "001", None)
    partly = replace(partly, frame=partly.frame.assign(speaker=known))
    entry = nameless.entries[0]
    for first, second in ((nameless, partly), (partly, nameless)):
        assert compare(first, entry, second, entry, effort=QUICK).difference.unit == "mixed"


def test_answers_that_are_all_the_same_detect_nothing():
    predictions = record({"mata": 0.6})
    entry = predictions.entries[0]
    same = compare(predictions, entry, predictions, entry, effort=QUICK)
    assert math.isnan(same.detectable)
    assert same.sentence().endswith("p = 1.00): the two are not distinguishable.")


def test_independent_clips_have_mcnemar_too():
    predictions = record({"mata": 0.8, "lda": 0.5}, names=False)
    one, other = predictions.entries
    found = compare(predictions, one, predictions, other, effort=QUICK)
    assert found.mcnemar.p < 0.001
    assert found.effect_name == "Cohen's g"
    assert 0.15 < found.effect < 0.5
    assert "the clips name no speaker" in found.caution
    seeds = record({"mata": 0.8, "lda": 0.5}, names=False, seeds=(0, 1))
    assert compare(seeds, one, seeds, other, effort=QUICK).mcnemar is None


def test_with_few_speakers_nothing_can_be_found_and_it_says_so():
    predictions = record({"mata": 0.95, "lda": 0.3}, speakers=4)
    one, other = predictions.entries
    found = compare(predictions, one, predictions, other, effort=QUICK)
    assert found.test.exact
    assert found.test.p == 0.125
    assert not found.distinguishable
    assert "with 4 speakers no p can be below 0.125" in found.caution
    assert math.isnan(found.detectable)
    assert found.sentence().endswith(
        "the two are not distinguishable. No difference, however large, could be shown here."
    )


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


def test_with_few_seeds_less_is_detected_than_the_interval_is_wide():
    for seeds in ((0, 1), (0, 1, 2)):
        predictions = with_luck({"mata": 0.6, "lda": 0.6}, spread=0.06, seeds=seeds)
        one, other = predictions.entries
        found = compare(predictions, one, predictions, other, effort=QUICK)
        interval = found.difference
        half = (interval.high - interval.low) / 2
        assert interval.seeds == len(seeds)
        assert found.detectable > half + 0.84 * interval.error  # z_.8, below t_.8
        assert (TWO_SEEDS in found.caution) == (len(seeds) == 2)
        assert ONE_SEED not in found.caution


def test_two_trainings_of_linear_systems_are_no_caution():
    predictions = record({"lda": 0.6, "concat-lda": 0.6}, seeds=(0, 1))
    one, other = predictions.entries
    assert compare(predictions, one, predictions, other, effort=QUICK).caution == ""


def test_where_p_and_interval_say_otherwise_the_sentence_says_why():
    predictions = record({"mata": 0.8, "lda": 0.5}, seeds=(0, 1, 2))
    one, other = predictions.entries
    found = compare(predictions, one, predictions, other, effort=QUICK)
    assert found.at_odds == ""
    lucky = replace(found, difference=replace(found.difference, low=-0.1))
    assert (
        "not distinguishable (the interval, which also knows of the seeds, holds zero). These"
        in (lucky.sentence())
    )
    single = replace(lucky, difference=replace(lucky.difference, seeds=1))
    assert single.at_odds == "the interval holds zero"
    unsure = replace(found, p_corrected=0.06)
    assert "(the interval leaves out zero, but p is above 0.05). These" in unsure.sentence()
    both = replace(lucky, p_corrected=0.06)
    assert both.at_odds == ""


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


def with_luck(shares, spread, seeds=(0, 1, 2)):
    """Return the predictions of trainings of each system, each of another true share."""
    rng = np.random.default_rng(21)
    parts = [
        record(
            {name: share + rng.normal(0, spread) for name, share in shares.items()},
            seeds=(seed,),
            speakers=40,
            draw=100 + seed,
        )
        for seed in seeds
    ]
    frames = pd.concat([part.frame for part in parts], ignore_index=True)
    return replace(parts[0], frame=frames)


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


def test_one_speaker_cannot_be_compared():
    predictions = record({"mata": 0.95, "lda": 0.3}, speakers=1)
    one, other = predictions.entries
    found = compare(predictions, one, predictions, other, effort=QUICK)
    assert found.sentence() == (
        "mata (a+b) and lda (a+b) cannot be compared: one speaker says nothing about others."
    )
    outcome = found.outcome()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
    assert outcome["low"] is outcome["effect"] is outcome["detectable"] is None


def test_what_cannot_be_compared_is_an_error():
    predictions = record({"mata": 0.8})
    entry = predictions.entries[0]
    rows = predictions.frame
    fewer = replace(predictions, frame=rows[rows["file"] != "3.wav"])
    message = (
        "Expected two runs of the same clips, but 143 clips are in both, 1 only in the first and 0 "
        "only in the second. Evaluate both systems on the same corpus."
    )
    with pytest.raises(EvaluationError, match=re.escape(message)):
        compare(predictions, entry, fewer, entry)
    other = replace(predictions, frame=rows.assign(label=np.roll(rows["label"], 4)))
    with pytest.raises(EvaluationError, match="144 of 144 clips are labelled otherwise"):
        compare(predictions, entry, other, entry)
    with pytest.raises(EvaluationError, match=re.escape("holds no system 'lda' on a+b")):
        compare(predictions, entry, predictions, SystemEntry("lda", ("a", "b"), 1.0))
    with pytest.raises(EvaluationError, match="Expected one of the metrics"):
        compare(predictions, entry, predictions, entry, metric="f1")
    two = record({"mata": 0.8, "lda": 0.5})
    gap = two.frame[(two.frame["system"] == "mata") | (two.frame["file"] != "3.wav")]
    broken = replace(two, frame=gap)
    with pytest.raises(EvaluationError, match="0 lack an answer of the first and 1 of the second"):
        against(broken, broken.entries[0])


def test_nan_is_no_score():
    assert best(record({"mata-transductive": 0.5})) is None
    assert comparisons(record({"mata-transductive": 0.5})) is None
    assert not math.isnan(
        against(record({"a": 0.5, "b": 0.5}), SystemEntry("a", ("a", "b"), 1.0))[0].p_corrected
    )


def test_equal_scores_are_called_the_same():
    predictions = record({"mata": 0.8, "lda": 0.5})
    one, _ = predictions.entries
    found = compare(predictions, one, predictions, one, effort=QUICK)
    assert "have the same UAR (95 % interval 0.0 to 0.0" in found.sentence()


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
