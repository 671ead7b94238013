"""Two systems compared: of one record and of two, in words and in numbers."""

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
    against,
    compare,
)
from nver.errors import EvaluationError
from nver.predictions import ONE_SEED, TWO_SEEDS, Predictions, SystemEntry
from unit.drawn_records import LABELS, QUICK, record, with_luck


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


def test_equal_scores_are_called_the_same():
    predictions = record({"mata": 0.8, "lda": 0.5})
    one, _ = predictions.entries
    found = compare(predictions, one, predictions, one, effort=QUICK)
    assert "have the same UAR (95 % interval 0.0 to 0.0" in found.sentence()
