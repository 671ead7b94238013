"""scores.json from a run folder: all sections, the same bytes, old folders too."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from nver.analysis import analyse, rescore
from nver.comparison import Effort
from nver.errors import EvaluationError
from nver.predictions import Predictions, SystemEntry

LABELS = ("anger", "fear", "joy")
QUICK = Effort(resamples=100, swaps=99)


@pytest.fixture
def run(tmp_path):
    """Return a run folder of two systems, ten speakers, five folds."""
    rng = np.random.default_rng(0)
    label = np.tile(np.repeat(LABELS, 4), 10)
    tables, entries = [], []
    for name, share in (("lda", 0.8), ("fcn", 0.5)):
        entries.append(SystemEntry(name, ("a",), 1.0))
        right = rng.random(len(label)) < share
        chances = rng.dirichlet(np.ones(3), len(label)).astype(np.float32)
        predicted = np.where(right, label, np.roll(label, 4))
        swap = np.argmax(chances, axis=1)
        wanted = np.array([LABELS.index(one) for one in predicted])
        rows = np.arange(len(label))
        chances[rows, swap], chances[rows, wanted] = chances[rows, wanted], chances[rows, swap]
        table = {
            "clip": [f"{i:064x}" for i in rows],
            "file": [f"{i}.wav" for i in rows],
            "speaker": [f"s{i // 12}" for i in rows],
            "label": label,
            "system": name,
            "encoders": "a",
            "seed": 0,
            "fold": (rows // 12 % 5).astype(str),
            "predicted": predicted,
        }
        table |= {f"p_{one}": chances[:, i] for i, one in enumerate(LABELS)}
        tables.append(pd.DataFrame(table))
    frame = pd.concat(tables, ignore_index=True)
    Predictions(frame, LABELS, tuple(entries)).to_parquet(tmp_path / "predictions.parquet")
    run = {"corpus": {"name": "toy"}, "settings": {"folds": "speaker"}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    return tmp_path


def test_every_section_is_there_and_plain(run):
    told = analyse(run, effort=QUICK)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["corpus"], told["folds"], told["k"], told["n_speakers"]) == (
        "toy",
        "speaker",
        5,
        10,
    )
    assert told["comparisons"]["reference"]["name"] == "lda"
    for section in ("systems", "disaggregated", "calibration"):
        assert [entry["name"] for entry in told[section]] == ["lda", "fcn"]


def test_facts_of_the_clips_are_used_where_they_are(run):
    assert "sex" not in analyse(run, effort=QUICK)["disaggregated"][0]["by"]
    rows = np.arange(120)
    files = [f"{i}.wav" for i in rows]
    pd.DataFrame({"file": files, "sex": rows // 12 % 2}).to_parquet(run / "clips.parquet")
    assert len(analyse(run, effort=QUICK)["disaggregated"][0]["by"]["sex"]) == 2


def test_the_same_folder_gives_the_same_bytes(run):
    rescore(run, effort=QUICK)
    first = (run / "scores.json").read_bytes()
    (run / "scores.json").unlink()
    told = rescore(run, effort=QUICK)
    assert (run / "scores.json").read_bytes() == first
    assert json.loads(first) == told
    assert sorted(path.name for path in run.iterdir()) == [
        "predictions.parquet",
        "run.json",
        "scores.json",
    ]


def test_what_is_no_run_is_an_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        EvaluationError, match=re.escape("is not a finished run: it lacks run.json")
    ):
        analyse(tmp_path / "empty")
    with pytest.raises(EvaluationError, match="is no run folder: there is no such folder"):
        analyse(tmp_path / "nowhere")
    (run / "clips.parquet").write_text("no table")
    with pytest.raises(EvaluationError, match=re.escape("clips.parquet' cannot be read")):
        analyse(run, effort=QUICK)
    (run / "run.json").write_text('{"corpus": "toy"}')
    with pytest.raises(EvaluationError, match=re.escape("run.json' is not what nver writes")):
        rescore(run)
