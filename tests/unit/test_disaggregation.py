"""Groups: which there are, what they score, and what is said of the lowest."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from nver.disaggregation import disaggregated
from nver.predictions import Predictions, SystemEntry

LABELS = ("anger", "fear", "joy")
SPEAKERS = 20


def record(seeds=(0, 1), speakers=True):
    """Return predictions of 6 clips a class by each speaker; clips of odd speakers are harder."""
    rng = np.random.default_rng(0)
    label = np.tile(np.repeat(LABELS, 6), SPEAKERS)
    who = np.repeat(np.arange(SPEAKERS), 18)
    tables = []
    for seed in seeds:
        right = rng.random(len(label)) < np.where(who % 2, 0.4, 0.8)
        wrong = np.roll(LABELS, 1)[[LABELS.index(one) for one in label]]
        tables.append(
            pd.DataFrame(
                {
                    "clip": [f"{i:064x}" for i in range(len(label))],
                    "file": [f"{i}.wav" for i in range(len(label))],
                    "speaker": [f"s{i:02d}" if speakers else None for i in who],
                    "label": label,
                    "system": "lda",
                    "encoders": "a",
                    "seed": seed,
                    "fold": (who % 5).astype(str),
                    "predicted": np.where(right, label, wrong),
                }
                | {f"p_{one}": np.float32(1 / 3) for one in LABELS}
            )
        )
    frame = pd.concat(tables, ignore_index=True)
    return Predictions(frame, LABELS, (SystemEntry("lda", ("a",), 1.0),))


def facts(predictions):
    """Return clips.parquet's columns for the record, shuffled."""
    clips = predictions.frame.drop_duplicates("file")[["clip", "file", "label", "speaker"]].copy()
    number = np.arange(len(clips))
    who = number // 18
    clips["path"] = "/x/" + clips["file"]
    clips["seconds"] = 0.5 + number % 7 + number / 1000
    clips["sex"] = np.where(who % 2, "female", "male")
    clips["age"] = (20.0 + 3 * (who % 2) + who % 3).astype(float)
    clips["actor_age"] = [str(20 + i) for i in who]
    clips["take"] = [str(i % 18) for i in number]
    clips["duration"] = clips["seconds"] * 1000
    clips["intensity"] = np.where(number % 3 == 0, "high", None)
    clips.loc[number % 3 == 1, "intensity"] = "low"
    clips["code"] = clips["label"].str[0]
    clips["comment"] = [f"clip {i}" for i in number]
    clips["language"] = "none"
    clips["fold"] = (who % 5).astype(str)
    return clips.sample(frac=1, random_state=1)


@pytest.fixture(scope="module")
def told():
    predictions = record()
    (system,) = disaggregated(predictions, facts(predictions))
    return system


def test_facts_with_few_values_divide_and_others_do_not(told):
    assert list(told["by"]) == [
        "class",
        "seconds",
        "sex",
        "age",
        "actor_age",
        "intensity",
        "speaker",
    ]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert [group["value"] for group in told["by"]["age"]] == ["20", "21", "22", "23", "24", "25"]
    bands = told["by"]["seconds"]
    assert [group["n_clips"] for group in bands] == [90] * 4
    assert bands[0]["value"].startswith("0.5 to ")
    ages = [group["value"] for group in told["by"]["actor_age"]]
    assert ages == ["20 to 24", "25 to 29", "30 to 34", "35 to 39"]
    intensity = told["by"]["intensity"]
    assert [(group["value"], group["n_clips"]) for group in intensity] == [
        ("high", 120),
        ("low", 120),
    ]
    assert len(told["by"]["speaker"]) == SPEAKERS


def test_measured_numbers_are_bands_however_few_they_are():
    predictions = record()
    clips = facts(predictions)
    clips["loudness"] = -20.0 - (np.arange(len(clips)) % 6) / 4
    clips["rating"] = (np.arange(len(clips)) % 3) / 2
    (system,) = disaggregated(predictions, clips)
    assert system["by"]["loudness"][0]["value"].startswith("-21.2 to ")
    assert [group["value"] for group in system["by"]["rating"]] == ["0 to 0.5", "1"]


def test_seconds_are_bands_even_where_they_are_whole_or_few():
    predictions = record()
    clips = facts(predictions)
    for values in ((1.0, 2.0, 3.0), (1.86, 1.97067, 1.96)):
        clips["seconds"] = np.resize(values, len(clips))
        (system,) = disaggregated(predictions, clips)
        assert len(system["by"]["seconds"]) == 2
        assert " to " in system["by"]["seconds"][0]["value"]
    clips["seconds"] = np.where(np.arange(len(clips)) < 5, 1.97067, 1.86)
    (system,) = disaggregated(predictions, clips)
    assert "seconds" not in system["by"]


@pytest.mark.parametrize("tiny", ["clips", "speakers"])
def test_a_group_of_next_to_nothing_is_in_the_table_and_not_named(tiny):
    predictions = record()
    clips = facts(predictions)
    tables = predictions.frame.copy()
    # All wrong: 9 clips of 9 speakers, or 36 clips of 2.
    number = clips["file"].str.removesuffix(".wav").astype(int)
    odd = (number % 18 == 0) & (number < 162) if tiny == "clips" else number < 36
    clips["room"] = np.where(odd, "tiny", clips["sex"])
    lost = tables["file"].isin(clips["file"][odd])
    wrong = np.roll(LABELS, 1)[[LABELS.index(one) for one in tables["label"]]]
    tables["predicted"] = np.where(lost, wrong, tables["predicted"])
    (system,) = disaggregated(Predictions(tables, LABELS, predictions.entries), clips)
    (group,) = (group for group in system["by"]["room"] if group["value"] == "tiny")
    assert group["score"] == 0
    (sentence,) = (text for text in system["worst"] if text.startswith("Lowest by room"))
    assert sentence.startswith("Lowest by room: female, ")
    assert "highest: male" in sentence
    assert any(text.startswith("Lowest by speaker") for text in system["worst"])


def test_a_group_scores_what_scikit_learn_says(told):
    predictions = record()
    clips = facts(predictions)
    rows = predictions.frame.merge(clips[["file", "sex"]], on="file")
    for group in told["by"]["sex"]:
        part = rows[rows["sex"] == group["value"]]
        each = [
            sklearn_metrics.balanced_accuracy_score(some["label"], some["predicted"])
            for _, some in part.groupby("seed")
        ]
        assert group["score"] == pytest.approx(np.mean(each))
        assert (group["n_clips"], group["n_speakers"], group["n_classes"]) == (180, 10, 3)
        assert group["metric"] == "uar"
        assert group["low"] < group["score"] < group["high"]
    for group in told["by"]["class"]:
        part = rows[rows["label"] == group["value"]]
        assert group["score"] == pytest.approx((part["label"] == part["predicted"]).mean())
        assert (group["metric"], group["n_classes"]) == ("recall", 1)


def test_one_speaker_has_a_score_and_no_interval(told):
    for group in told["by"]["speaker"]:
        assert group["n_speakers"] == 1
        assert group["low"] is group["high"] is None
        assert group["reason"] == "one speaker says nothing about others"


def test_the_planted_group_is_named_lowest(told):
    (sentence,) = (text for text in told["worst"] if text.startswith("Lowest by sex"))
    low, high = told["by"]["sex"]
    assert sentence == (
        f"Lowest by sex: female, UAR {100 * low['score']:.1f} % ({100 * low['low']:.1f} to "
        f"{100 * low['high']:.1f}), 180 clips of 10 speakers; highest: male, "
        f"{100 * high['score']:.1f} %."
    )
    (few,) = (text for text in told["worst"] if text.startswith("Lowest by age"))
    assert "so few speakers say little" in few
    groups = sum(len(group) for group in told["by"].values())
    assert told["caution"].startswith(f"{groups} groups were looked at")


def test_without_facts_there_are_classes_and_speakers():
    (system,) = disaggregated(record())
    assert list(system["by"]) == ["class", "speaker"]
    (nameless,) = disaggregated(record(speakers=False))
    assert list(nameless["by"]) == ["class"]
    assert nameless["by"]["class"][0]["n_speakers"] == 0


def test_a_clip_without_facts_is_in_no_group_of_them():
    predictions = record()
    clips = facts(predictions)
    (system,) = disaggregated(predictions, clips[clips["file"] != "0.wav"])
    assert sum(group["n_clips"] for group in system["by"]["sex"]) == 359
    assert not any(math.isnan(group["score"]) for group in system["by"]["sex"])
