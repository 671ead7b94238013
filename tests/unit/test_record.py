"""The tables beside the predictions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nver.dataset import EmbeddingDataset
from nver.jobs import Curve, ExamplePlans, Job, Outcome, SystemRun
from nver.record import CLIP_COLUMNS, CURVE_COLUMNS, PLAN_COLUMNS, clips, record
from nver.schedule import Ledger
from nver.splits import Fold

RUN = SystemRun("mata", ("a", "b"))
LINEAR = SystemRun("lda", ("a",))
FOLD = Fold("0", np.array([2, 3]), np.array([0, 1]))
TABLE = SimpleNamespace(
    get_system=lambda name: SimpleNamespace(rules=("",), reported_as=lambda rule: name)
)


@pytest.fixture
def dataset():
    objects = {
        "sex": ["f", None, "m", "f"],
        "age": [31, None, 40.5, 22],
        "path": ["x", "x", "y", "y"],
        "mixed": ["1", 2, None, 3.5],
    }
    return EmbeddingDataset(
        X=np.arange(8, dtype=np.float32).reshape(4, 2),
        views={"a": slice(0, 1), "b": slice(1, 2)},
        y=np.array(["joy", "fear", "joy", "fear"]),
        speakers=np.array(["s1", None, "s2", "s3"], dtype=object),
        files=("j0", "f0", "j1", "f1"),
        digests=tuple("wxyz"),
        labels=("fear", "joy"),
        seconds=np.array([0.5, 1.0, 1.5, 2.0]),
        columns={name: np.array(values, dtype=object) for name, values in objects.items()},
    )


def tables(dataset, *outcomes):
    """Return the tables of trainings of alternating systems."""
    jobs = [
        Job(number, run, ("",), FOLD, number)
        for number, run in zip(range(len(outcomes)), [RUN, LINEAR] * 9, strict=False)
    ]
    ledger = Ledger("trainings", jobs, {}, None, 1)
    ledger.add(outcomes)
    runs = list(dict.fromkeys(job.run for job in jobs))
    return record(dataset, runs, ledger, None, TABLE).tables


def outcome(number, **more):
    given = np.full((2, 2), 0.5, dtype=np.float32)
    return Outcome(number, {"": given}, {"": 1.0}, (), **more)


def test_clips_say_what_the_corpus_knows(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = clips(dataset, {file: Path("clips") / f"{file}.wav" for file in dataset.files})
    assert list(table) == [*CLIP_COLUMNS, "sex", "age", "fact_path", "mixed"]
    assert table["clip"].tolist() == list("wxyz")
    assert table["path"].tolist()[0] == str(tmp_path / "clips/j0.wav")
    assert table["speaker"].fillna("?").tolist() == ["s1", "?", "s2", "s3"]
    assert table["seconds"].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert table["age"].dtype == np.float64
    assert np.isnan(table["age"][1])
    assert table["mixed"].fillna("?").tolist() == ["1", "2", "?", "3.5"]
    table.to_parquet(tmp_path / "clips.parquet", index=False)
    again = pd.read_parquet(tmp_path / "clips.parquet")
    pd.testing.assert_frame_equal(again, table)


def test_a_curve_has_a_row_per_epoch(dataset):
    stopped = outcome(0, curve=Curve((3.0, 2.0), (2.5, 2.25)))
    curves = tables(dataset, stopped, outcome(1), outcome(2, curve=Curve((1.0,), ())))["curves"]
    assert list(curves) == list(CURVE_COLUMNS)
    assert curves["system"].tolist() == ["mata"] * 3
    assert curves["encoders"].tolist() == ["a+b"] * 3
    assert curves["seed"].tolist() == [0, 0, 2]
    assert curves["epoch"].tolist() == [0, 1, 0]
    assert curves["training_loss"].tolist() == [3.0, 2.0, 1.0]
    assert curves["validation_loss"].tolist()[:2] == [2.5, 2.25]
    assert np.isnan(curves["validation_loss"].tolist()[2])


def test_a_plan_has_a_row_per_pair_of_clips(dataset):
    mass = np.array([[0.5, 0.125], [0.0, 0.375]], dtype=np.float32)
    plans = tables(
        dataset, outcome(0, examples=ExamplePlans(np.array([1, 0]), {("a", "b"): mass}))
    )["plans"]
    assert list(plans) == list(PLAN_COLUMNS)
    rows = plans[["source_file", "target_file", "source_label", "target_label", "mass"]]
    assert rows.to_numpy().tolist() == [
        ["f0", "f0", "fear", "fear", 0.5],
        ["f0", "j0", "fear", "joy", 0.125],
        ["j0", "f0", "joy", "fear", 0.0],
        ["j0", "j0", "joy", "joy", 0.375],
    ]
    assert plans["mass"].sum() == 1


def test_empty_tables_keep_their_columns(dataset, tmp_path):
    made = tables(dataset, outcome(0))
    assert list(made["curves"]) == list(CURVE_COLUMNS)
    assert list(made["plans"]) == list(PLAN_COLUMNS)
    assert made["plans"]["mass"].dtype == np.float32
