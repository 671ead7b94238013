"""The record: refused where it is none, and the same from disk."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nver.errors import EvaluationError
from nver.predictions import (
    Predictions,
    SystemEntry,
    SystemFailure,
    SystemNote,
    SystemTuning,
)

LABELS = ("sad", "happy", "angry")


def record(seeds=(0,), speakers=12, system="mata", unknown=()):
    """Return predictions of 6 clips of each class by each speaker, right in about 60 %."""
    rng = np.random.default_rng(0)
    tables = []
    for seed in seeds:
        label = np.tile(np.repeat(LABELS, 6), speakers)
        speaker = np.repeat([f"{i:03d}" for i in range(speakers)], 18).astype(object)
        speaker[[i for i, name in enumerate(speaker) if name in unknown]] = None
        right = rng.random(len(label)) < 0.6
        predicted = np.where(right, label, rng.choice(LABELS, len(label)))
        tables.append(
            pd.DataFrame(
                {
                    "clip": [f"{i:064x}" for i in range(len(label))],
                    "file": [f"{i}.wav" for i in range(len(label))],
                    "speaker": speaker.tolist(),
                    "label": label,
                    "system": system,
                    "encoders": "a+b",
                    "seed": seed,
                    "fold": "0",
                    "predicted": predicted,
                }
                | {f"p_{name}": np.float32(1 / 3) for name in LABELS}
            )
        )
    frame = pd.concat(tables, ignore_index=True)
    return Predictions(frame, LABELS, (SystemEntry(system, ("a", "b"), 1.25),))


def test_confusions_count_every_row_once():
    predictions = record(seeds=(0, 1))
    counts = predictions.confusions(predictions.entries[0])
    assert counts.shape == (12, 2, 3, 3)
    np.testing.assert_array_equal(counts.sum(axis=3), 6)


def test_a_frame_of_other_systems_is_refused():
    predictions = record()
    with pytest.raises(EvaluationError, match=re.escape("disagree about 'lda' on a+b")):
        Predictions(predictions.frame, LABELS, (SystemEntry("lda", ("a", "b"), 0.0),))
    with pytest.raises(EvaluationError, match="Predictions lack the columns p_sad"):
        Predictions(predictions.frame.drop(columns="p_sad"), LABELS, predictions.entries)


def test_the_record_comes_back_from_disk(tmp_path):
    predictions = record(unknown=("001",))
    failure = SystemFailure("cnn", ("a",), "3", 0, "ValueError: no", "Traceback ...")
    note = SystemNote("mata", ("a", "b"), "did not converge", 2)
    predictions = Predictions(predictions.frame, LABELS, predictions.entries, (failure,), (note,))
    path = tmp_path / "run" / "predictions.parquet"
    predictions.to_parquet(path)
    predictions.to_parquet(path)  # over an earlier one
    assert [file.name for file in path.parent.iterdir()] == ["predictions.parquet"]
    again = Predictions.from_parquet(path)
    assert (again.labels, again.entries) == (predictions.labels, predictions.entries)
    assert (again.failures, again.notes) == ((failure,), (note,))
    pd.testing.assert_frame_equal(again.frame, predictions.frame)
    assert again.frame["seed"].dtype == np.int64
    assert again.frame["p_sad"].dtype == np.float32
    assert again.frame["speaker"].isna().sum() == 18


def test_what_was_tuned_comes_back_from_disk(tmp_path):
    found = SystemTuning(
        "lda", ("a",), "0", {"eps": 0.1}, 0.5, 0.25, 8, 3, "4 folds by speaker", {"a": 7}
    )
    nothing = SystemTuning("lda", ("a",), "1", {}, math.nan, math.nan, 0, 0, "cannot be divided")
    predictions = replace(record(), tunings=(found, nothing))
    predictions.to_parquet(tmp_path / "predictions.parquet")
    again = Predictions.from_parquet(tmp_path / "predictions.parquet").tunings
    assert again[0] == found
    assert math.isnan(again[1].uar)
    assert again[1].to_dict() == nothing.to_dict()
    assert nothing.to_dict()["uar"] is None
    assert found.to_dict()["chosen"] == {"eps": 0.1}


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path):
    predictions = record()
    predictions.frame["seed"] = "many"
    with pytest.raises(Exception, match="many"):
        predictions.to_parquet(tmp_path / "predictions.parquet")
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match=r"Expected predictions at .*, found no file there"):
        Predictions.from_parquet(tmp_path / "none.parquet")
    text = tmp_path / "text.parquet"
    text.write_text("file,label\n")
    foreign = tmp_path / "foreign.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(foreign)
    for path in (text, foreign):
        with pytest.raises(EvaluationError, match="holds no predictions of nver"):
            Predictions.from_parquet(path)


def test_a_later_format_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "predictions.parquet"
    monkeypatch.setattr("nver.predictions.FORMAT", "nver predictions 9")
    record().to_parquet(path)
    monkeypatch.undo()
    message = (
        "is written as 'nver predictions 9'; this version reads 'nver predictions 1'. "
        "Read it with the version of nver that wrote it."
    )
    with pytest.raises(EvaluationError, match=re.escape(message)):
        Predictions.from_parquet(path)
