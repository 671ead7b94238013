"""The calibration section against what its parts say, on records with a known temperature."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nver.calibration import Temperature, fit_temperature, log_loss, reliability
from nver.confidence import NO_INNER, calibration
from nver.conformal import prediction_sets
from nver.errors import SettingsError
from nver.predictions import Predictions, SystemEntry

LABELS = ("anger", "fear", "joy")
COLUMNS = [f"p_{label}" for label in LABELS]
FCN = SystemEntry("fcn", ("spectral",), 1.0)
MATA = SystemEntry("mata", ("spectral", "prosodic"), 2.0)


def rows(seed, entry, fold, *, clips=120, model_seed=0, temperature=0.5, speakers=6):
    """Predictions of one fold: too sure by `temperature`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(clips, 3))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (true.cumsum(1) > rng.random((clips, 1))).argmax(1)
    said = np.exp(logits / temperature)
    said = (said / said.sum(1, keepdims=True)).astype(np.float32)
    names = np.array(LABELS, dtype=object)
    table = {
        "clip": [f"{fold}{index}" for index in range(clips)],
        "file": [f"{fold}/{index}.wav" for index in range(clips)],
        "speaker": [f"{fold}-{index % speakers}" for index in range(clips)],
        "label": names[truth],
        "system": entry.name,
        "encoders": entry.joined,
        "seed": model_seed,
        "fold": fold,
        "predicted": names[said.argmax(1)],
    }
    return pd.DataFrame(table | {name: said[:, i] for i, name in enumerate(COLUMNS)})


def joined(*frames):
    return pd.concat(frames, ignore_index=True)


def parts(frame):
    truth = frame["label"].map(LABELS.index).to_numpy(dtype=np.int64)
    return frame[COLUMNS].to_numpy(dtype=np.float64), truth


@pytest.fixture
def record():
    """One system that is too sure in fold a, and not sure enough in fold b; two seeds."""
    tested = [
        rows(fold * 10 + seed, FCN, "ab"[fold], model_seed=seed, temperature=(0.5, 2.0)[fold])
        for fold in (0, 1)
        for seed in (0, 1)
    ]
    return Predictions(joined(*tested), LABELS, (FCN,))


@pytest.fixture
def inner():
    """Return the inner predictions of that system."""
    return joined(
        *(
            rows(100 + fold * 10 + seed, FCN, "ab"[fold], clips=400, model_seed=seed)
            if fold == 0
            else rows(100 + 10 + seed, FCN, "b", clips=400, model_seed=seed, temperature=2.0)
            for fold in (0, 1)
            for seed in (0, 1)
        )
    )


def test_raw_scores_are_of_all_folds_and_seeds_together(record):
    (section,) = calibration(record)
    probabilities, truth = parts(record.frame)
    assert (section["name"], section["encoders"]) == ("fcn", ["spectral"])
    raw = section["raw"]
    assert raw["ece"] == pytest.approx(reliability(probabilities, truth).ece, abs=1e-6)
    assert raw["log_loss"] == pytest.approx(log_loss(probabilities, truth).mean(), abs=1e-6)
    assert sum(row["n"] for row in raw["reliability"]) == 480
    assert section["coverage"][-1] == {
        "coverage": 1.0,
        "accuracy": pytest.approx((record.frame["label"] == record.frame["predicted"]).mean()),
    }
    interval = raw["intervals"]["brier"]
    assert interval["value"] == pytest.approx(raw["brier"])
    assert interval["low"] < interval["value"] < interval["high"]


def test_scores_rest_on_speakers(record):
    wide = calibration(record)[0]["raw"]["intervals"]["brier"]
    alone = record.frame.assign(speaker=None)
    narrow = calibration(Predictions(alone, LABELS, (FCN,)))[0]["raw"]["intervals"]["brier"]
    assert wide["value"] == pytest.approx(narrow["value"])
    assert wide["low"] != narrow["low"]


def test_without_inner_predictions_the_rest_is_there(record):
    (section,) = calibration(record)
    assert section["scaled"] is section["conformal"] is None
    assert section["scaled_reason"] == section["conformal_reason"] == NO_INNER
    assert "--calibrate" in NO_INNER


def test_each_fold_has_its_temperature_of_its_inner_predictions(record, inner):
    scaled = calibration(record, inner)[0]["scaled"]
    frame, changed = record.frame, []
    for fold in "ab":
        fitted = fit_temperature(*parts(inner[inner["fold"] == fold]))
        assert scaled["temperatures"][fold] == pytest.approx(fitted.value, rel=1e-5)
        changed.append(fitted(parts(frame[frame["fold"] == fold])[0]))
    assert scaled["temperatures"]["a"] > 1.5 > 0.7 > scaled["temperatures"]["b"]
    mean = np.mean(list(scaled["temperatures"].values()))
    assert scaled["temperature"] == pytest.approx(mean)
    expected = log_loss(np.vstack(changed), parts(frame)[1])
    assert scaled["log_loss"] == pytest.approx(expected.mean(), rel=1e-5)
    assert scaled["at_limit"] == []


def test_inner_predictions_that_rule_out_the_truth_are_counted_and_left_out(record, inner):
    before = calibration(record, inner)[0]["scaled"]
    blind = inner.head(5).assign(label="joy", p_anger=0.75, p_fear=0.25, p_joy=0.0)
    after = calibration(record, joined(inner, blind))[0]["scaled"]
    assert (before["left_out"], after["left_out"]) == (0, 5)
    assert before["temperatures"] == after["temperatures"]


def test_scaling_mends_what_was_wrong(record, inner):
    section = calibration(record, inner)[0]
    for name in ("log_loss", "brier", "classwise_ece"):
        assert section["scaled"][name] < section["raw"][name]


def test_the_test_part_is_never_fitted_on(record, inner):
    # Other truths in the test part: other scores, the same temperatures and sets.
    pytest.importorskip("mapie")
    turned = record.frame.assign(label=np.roll(record.frame["label"].to_numpy(), 7))
    before, after = (
        calibration(Predictions(frame, LABELS, (FCN,)), inner)[0]
        for frame in (record.frame, turned)
    )
    assert before["scaled"]["temperatures"] == after["scaled"]["temperatures"]
    assert before["scaled"]["ece"] != after["scaled"]["ece"]
    assert before["conformal"]["size_counts"] == after["conformal"]["size_counts"]
    assert before["conformal"]["coverage"] > after["conformal"]["coverage"]


def test_sets_are_those_of_each_fold_and_seed(record, inner):
    pytest.importorskip("mapie")
    conformal = calibration(record, inner, alpha=0.2)[0]["conformal"]
    hit, sizes = [], []
    for fold in "ab":
        for seed in (0, 1):
            known, tested = (
                frame[(frame["fold"] == fold) & (frame["seed"] == seed)]
                for frame in (inner, record.frame)
            )
            said, truth = parts(tested)
            sets = prediction_sets(*parts(known), said, 0.2)
            hit += sets[np.arange(len(sets)), truth].tolist()
            sizes += sets.sum(1).tolist()
    assert conformal["alpha"] == 0.2
    assert conformal["coverage"] == conformal["interval"]["value"] == pytest.approx(np.mean(hit))
    assert conformal["mean_size"] == pytest.approx(np.mean(sizes))
    assert conformal["size_counts"] == np.bincount(sizes, minlength=4).tolist()
    assert conformal["empty"] == pytest.approx(sizes.count(0) / 480)
    assert conformal["singletons"] == pytest.approx(sizes.count(1) / 480)
    single = [right for right, size in zip(hit, sizes, strict=True) if size == 1]
    assert conformal["singleton_accuracy"] == pytest.approx(np.mean(single))
    share = record.frame["label"].value_counts(normalize=True)
    by_class = sum(share[label] * value for label, value in conformal["coverage_by_class"].items())
    assert by_class == pytest.approx(conformal["coverage"])
    assert conformal["interval"]["low"] < 0.8 < conformal["interval"]["high"]
    assert conformal["method"].startswith("split conformal, least ambiguous sets (MAPIE ")


def test_inner_predictions_may_be_a_file(record, inner, tmp_path):
    path = tmp_path / "inner.parquet"
    joined(rows(5, MATA, "a"), inner).to_parquet(path)
    (read,) = calibration(record, path)
    (held,) = calibration(record, inner)
    assert json.dumps(read) == json.dumps(held)


def test_a_file_that_holds_none_is_a_reason(record, tmp_path):
    path = tmp_path / "inner.parquet"
    path.write_bytes(b"no parquet")
    (section,) = calibration(record, path)
    assert section["raw"]["ece"] > 0
    assert re.search("holds no inner predictions .ArrowInvalid.", section["scaled_reason"])


def test_inner_predictions_of_other_labels_are_a_reason(record, inner):
    (section,) = calibration(record, inner.rename(columns={"p_joy": "p_glee"}))
    assert section["scaled_reason"] == "The inner predictions lack the columns p_joy."


def test_the_section_is_plain_json_and_the_same_twice(record, inner):
    once, twice = (json.dumps(calibration(record, inner), allow_nan=False) for _ in range(2))
    assert once == twice


def test_every_number_stands_in_the_docs(record, inner):
    pytest.importorskip("mapie")
    (section,) = calibration(record, inner)
    page = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")
    keys = {*section["raw"], *section["conformal"], "coverage", "aurc", "scaled"}
    keys |= {"at_limit", "left_out"}
    missing = {key for key in keys if f"`{key}`" not in page}
    assert missing == {"method", "caution"}


def test_systems_do_not_touch_each_other(record, inner):
    both = Predictions(joined(rows(5, MATA, "a"), record.frame), LABELS, (FCN, MATA))
    first, second = calibration(both, inner)
    assert first == calibration(record, inner)[0]
    assert second["name"] == "mata"
    assert second["raw"]["ece"] > 0
    assert second["scaled"] is None
    expected = "There are no inner predictions of the system 'mata' on spectral+prosodic."
    assert second["scaled_reason"] == second["conformal_reason"] == expected


def test_a_fold_or_seed_without_inner_predictions_is_named(record, inner):
    pytest.importorskip("mapie")
    (section,) = calibration(record, inner[inner["fold"] == "a"])
    assert section["scaled"] is None
    assert section["scaled_reason"] == "There are no inner predictions of fold 'b'."
    (section,) = calibration(record, inner[inner["seed"] == 0])
    assert section["scaled"]["temperature"] > 0
    assert section["conformal_reason"] == "There are no inner predictions of fold 'a', seed 1."


def test_too_few_inner_clips_for_sets_leave_the_temperature(record, inner):
    pytest.importorskip("mapie")
    few = inner.groupby(["fold", "seed"]).head(8)
    (section,) = calibration(record, few)
    assert section["scaled"]["temperature"] > 0
    assert "Expected at least 11 calibration clips" in section["conformal_reason"]


def test_without_the_extra_only_the_sets_are_missing(record, inner, monkeypatch):
    monkeypatch.setitem(sys.modules, "mapie", None)
    (section,) = calibration(record, inner)
    assert section["scaled"]["temperature"] > 0
    assert section["conformal"] is None
    assert "pip install 'nver[stats]'" in section["conformal_reason"]


def test_what_is_no_probability_has_a_reason_and_no_number(record):
    frame = record.frame.copy()
    frame.loc[3, "p_joy"] = np.nan
    both = Predictions(joined(frame, rows(5, MATA, "a")), LABELS, (FCN, MATA))
    broken, sound = calibration(both)
    assert broken["raw"] is broken["aurc"] is broken["scaled"] is broken["conformal"] is None
    assert re.search("Expected probabilities that are not negative .* for clip 3", broken["reason"])
    assert sound["raw"]["ece"] > 0


def test_an_unknown_label_is_named(record):
    frame = record.frame.assign(label="rage")
    (section,) = calibration(Predictions(frame, LABELS, (FCN,)))
    expected = "The predictions hold the label 'rage', which is none of: anger, fear, joy."
    assert section["reason"] == expected


def test_one_clip_has_no_interval_and_says_why(record):
    (section,) = calibration(Predictions(record.frame.head(1), LABELS, (FCN,)))
    assert section["raw"]["intervals"]["brier"]["low"] is None
    assert section["raw"]["intervals"]["brier"]["reason"] == "one speaker says nothing about others"
    assert len(section["coverage"]) == 1


def test_a_wrong_error_rate_is_refused(record):
    with pytest.raises(SettingsError, match="Expected an error rate between 0 and 1, got 10"):
        calibration(record, alpha=10)


def test_the_temperature_is_at_its_limit_for_a_system_that_is_never_wrong(record, inner):
    probabilities, _ = parts(inner)
    right = inner.assign(label=np.array(LABELS, dtype=object)[probabilities.argmax(1)])
    scaled = calibration(record, right)[0]["scaled"]
    assert scaled["at_limit"] == ["a", "b"]
    assert Temperature(scaled["temperatures"]["a"], 1)(probabilities).max() <= 1


def test_intervals_stay_within_the_range_of_what_they_are_of(inner):
    tested = [
        rows(fold * 10 + seed, FCN, "ab"[fold], clips=20, model_seed=seed, speakers=2)
        for fold in (0, 1)
        for seed in (0, 1)
    ]
    (entry,) = calibration(Predictions(joined(*tested), LABELS, (FCN,)), inner, alpha=0.1)
    found = entry["conformal"]["interval"]
    assert 0 <= found["low"] <= entry["conformal"]["coverage"] <= found["high"] == 1
    assert all(ends["low"] >= 0 for ends in entry["raw"]["intervals"].values())


def test_sets_that_hold_every_truth_leave_room_for_other_speakers(record, inner):
    # Inner clips whose truth had a probability of 0: only the sets of all labels keep the promise.
    pytest.importorskip("mapie")
    lost = inner.assign(**dict(zip(COLUMNS, (1.0, 0.0, 0.0), strict=True)), label="joy")
    conformal = calibration(record, lost)[0]["conformal"]
    assert conformal["size_counts"] == [0, 0, 0, 480]
    interval = conformal["interval"]
    assert (interval["value"], interval["high"]) == (1.0, 1.0)
    assert interval["low"] == pytest.approx(0.025 ** (1 / 12))  # Clopper and Pearson, 12 speakers
