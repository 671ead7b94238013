"""The scores that are derived from the record."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from nver.errors import EvaluationError
from nver.predictions import ONE_SEED, TWO_SEEDS
from nver.scores import scores
from unit.test_predictions import LABELS, record


def table_of(predictions, **options):
    return scores(predictions, corpus="toy", folds="speaker", k=5, resamples=200, **options)


def test_scores_have_the_promised_structure():
    table = table_of(record())
    assert json.loads(json.dumps(table)) == table
    assert {key: table[key] for key in ("corpus", "folds", "k", "n_clips", "n_speakers")} == {
        "corpus": "toy",
        "folds": "speaker",
        "k": 5,
        "n_clips": 216,
        "n_speakers": 12,
    }
    assert table["labels"] == list(LABELS)
    assert table["chance_uar"] == pytest.approx(1 / 3)
    assert table["interval"]["unit"] == "speaker"
    assert table["interval"]["clusters"] == 12
    assert table["interval"]["caution"] == ONE_SEED
    (system,) = table["systems"]
    assert (system["name"], system["encoders"]) == ("mata", ["a", "b"])
    assert (system["seconds"], system["n_seeds"]) == (1.25, 1)
    assert list(system["per_class"]) == list(LABELS)
    for name in ("accuracy", "macro_f1", "uar"):
        assert 0 <= system[name]["low"] < system[name]["value"] < system[name]["high"] <= 1


def test_two_seeds_are_few_and_three_are_not():
    assert table_of(record(seeds=(0, 1)))["interval"]["caution"] == TWO_SEEDS
    assert table_of(record(seeds=(0, 1, 2)))["interval"]["caution"] == ""


def test_scores_equal_scikit_learn():
    predictions = record()
    frame = predictions.frame
    system = table_of(predictions)["systems"][0]
    truth, predicted = frame["label"], frame["predicted"]
    accuracy = sklearn_metrics.accuracy_score(truth, predicted)
    assert system["accuracy"]["value"] == pytest.approx(accuracy)
    uar = sklearn_metrics.balanced_accuracy_score(truth, predicted)
    assert system["uar"]["value"] == pytest.approx(uar)
    f1 = sklearn_metrics.f1_score(truth, predicted, average="macro")
    assert system["macro_f1"]["value"] == pytest.approx(f1)
    report = sklearn_metrics.classification_report(truth, predicted, output_dict=True)
    for label in LABELS:
        for ours, theirs in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
            ("support", "support"),
        ):
            assert system["per_class"][label][ours] == pytest.approx(report[label][theirs])


def test_seeds_are_averaged_and_clips_counted_once():
    predictions = record(seeds=(0, 1, 2))
    table = table_of(predictions)
    system = table["systems"][0]
    assert table["n_clips"] == 216
    assert system["n_seeds"] == 3
    assert system["per_class"]["sad"]["support"] == 72.0
    each = [
        sklearn_metrics.f1_score(rows["label"], rows["predicted"], average="macro")
        for _, rows in predictions.frame.groupby("seed")
    ]
    assert system["macro_f1"]["value"] == pytest.approx(np.mean(each))


def test_without_speakers_clips_are_the_units_and_it_says_so():
    everybody = tuple(f"{i:03d}" for i in range(12))
    table = table_of(record(unknown=everybody))
    assert table["n_speakers"] == 0
    assert (table["interval"]["unit"], table["interval"]["clusters"]) == ("clip", 216)
    assert "the clips name no speaker" in table["interval"]["caution"]
    table = table_of(record(unknown=("003",)))
    assert (table["interval"]["unit"], table["interval"]["clusters"]) == ("mixed", 11 + 18)


def test_one_speaker_gives_no_interval():
    table = table_of(record(speakers=1))
    uar = table["systems"][0]["uar"]
    assert uar["low"] is None
    assert uar["reason"] == "one speaker says nothing about others"
    assert 0 <= uar["value"] <= 1


def test_a_label_outside_the_classes_is_an_error():
    predictions = record()
    predictions.frame.loc[3, "predicted"] = "sat"
    with pytest.raises(EvaluationError, match=re.escape("'sat', which is none of: sad, happy")):
        table_of(predictions)
