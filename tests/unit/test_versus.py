"""`nver compare`: which systems are picked, what is said, and how two runs stand to each other."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nver import cli
from nver.comparison import CHOSEN, CHOSEN_PAIR, STEP_DOWN
from nver.errors import EvaluationError, SettingsError, UnfinishedRunError, UnknownNameError
from nver.predictions import Predictions, SystemEntry
from nver.versus import SAME_RECORD, _signed, find, versus

LABELS = ("cry", "laugh", "scream")
RIGHT = {
    ("lda", "a"): 0.5,
    ("lda", "b"): 0.9,
    ("mata", "a+b"): 0.88,
    ("mata-transductive", "a+b"): 0.95,
}


def _record(right, clips: int = 240, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = np.arange(clips) % 3
    parts = []
    for (name, encoders), share in right.items():
        hit = rng.random(clips) < share
        told = np.where(hit, truth, (truth + 1) % 3)
        frame = pd.DataFrame(
            {
                "clip": [f"{i:04d}" for i in range(clips)],
                "file": [f"{i:04d}.wav" for i in range(clips)],
                "speaker": [f"s{i // 12:02d}" for i in range(clips)],
                "label": [LABELS[t] for t in truth],
                "system": name,
                "encoders": encoders,
                "seed": 0,
                "fold": [str(i // 12 % 5) for i in range(clips)],
                "predicted": [LABELS[t] for t in told],
            }
        )
        for place, label in enumerate(LABELS):
            frame[f"p_{label}"] = np.where(told == place, 0.8, 0.1).astype(np.float32)
        parts.append(frame)
    entries = tuple(SystemEntry(name, tuple(e.split("+")), 1.0) for name, e in right)
    return Predictions(pd.concat(parts, ignore_index=True), LABELS, entries)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return two run folders of the same clips; the second is a weaker lda on b, and mata."""
    folder = tmp_path_factory.mktemp("runs")
    _record(RIGHT).to_parquet(folder / "one" / "predictions.parquet")
    weaker = {("lda", "b"): 0.6, ("mata", "a+b"): 0.88}
    _record(weaker, seed=1).to_parquet(folder / "two" / "predictions.parquet")
    return folder / "one", folder / "two"


def _pairs(found):
    return [
        (pair.first.name, pair.first.joined, pair.second.name, pair.second.joined)
        for pair in found.pairs
    ]


def test_one_run_is_the_best_against_all_others(runs):
    found = versus(runs[0])
    assert _pairs(found) == [
        ("lda", "b", "lda", "a"),
        ("lda", "b", "mata", "a+b"),
        ("lda", "b", "mata-transductive", "a+b"),
    ]
    marks = {(pair.second.name, pair.second.joined): pair.distinguishable for pair in found.pairs}
    assert marks["lda", "a"]
    assert not marks["mata", "a+b"]
    assert all(pair.caution.endswith(CHOSEN) for pair in found.pairs)


def test_two_picked_systems_stand_against_each_other(runs):
    found = versus(runs[0], picked=["mata@b+a", "lda@a"])
    assert _pairs(found) == [("mata", "a+b", "lda", "a")]
    assert found.text().startswith("mata (a+b) is ")
    assert found.to_dict()["correction"] is None


def test_one_picked_system_is_the_reference(runs):
    found = versus(runs[0], picked=["mata"])
    assert {pair.first.name for pair in found.pairs} == {"mata"}
    assert len(found.pairs) == 3
    assert not any(CHOSEN in pair.caution for pair in found.pairs)
    assert found.to_dict()["correction"] == versus(runs[0]).to_dict()["correction"] == STEP_DOWN
    assert f"not distinguishable after {STEP_DOWN} correction" in " ".join(found.text().split())


def test_two_runs_are_compared_by_their_best_and_what_both_have(runs):
    found = versus(*runs)
    assert _pairs(found) == [
        ("lda", "b", "mata", "a+b"),
        ("lda", "b", "lda", "b"),
        ("mata", "a+b", "mata", "a+b"),
    ]
    assert found.pairs[1].distinguishable
    assert found.pairs[1].p_corrected >= found.pairs[1].test.p
    assert [CHOSEN_PAIR in pair.caution for pair in found.pairs] == [True, False, False]
    assert f"Note: {CHOSEN_PAIR}." in " ".join(found.text().split())
    assert re.search(r"^. mata \(a \+ b\) \d\d\.\d, against the same  ", found.text(), re.MULTILINE)
    assert _pairs(versus(*runs, ["mata"])) == [("mata", "a+b", "mata", "a+b")]
    assert _pairs(versus(*runs, ["lda@a", "lda"])) == [("lda", "a", "lda", "b")]


def test_the_table_fits_a_terminal_and_marks_what_is_alike(runs):
    lines = versus(runs[0]).text().splitlines()
    assert lines[0].startswith("lda (b), UAR ")
    assert max(map(len, lines)) <= 100
    assert next(line[0] for line in lines if line[2:].startswith("mata")) == "="
    assert any("= marks the" in line for line in lines)
    scores = [float(line[48:54]) for line in lines[3:6]]
    assert scores == sorted(scores, reverse=True)
    assert any(line.startswith("Note: ") for line in lines)


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0004, "0.0"), (0.0, "0.0"), (-0.0006, "-0.1"), (0.1234, "+12.3")]
)
def test_a_difference_that_rounds_to_zero_has_no_sign(value, text):
    assert _signed(value) == text


def test_a_lone_pair_says_whether_its_p_was_corrected(runs, tmp_path):
    _record({("mata", "a+b"): 0.88}, seed=1).to_parquet(tmp_path / "predictions.parquet")
    chosen, picked = versus(runs[0], tmp_path), versus(runs[0], tmp_path, ["mata"])
    for found, correction in ((chosen, STEP_DOWN), (picked, None)):
        found = replace(found, pairs=found.pairs[:1])
        told = found.to_dict()
        assert (told["correction"], told["pairs"][0]["correction"]) == (correction, correction)
        assert ("corrected p = " in " ".join(found.text().split())) == (correction is not None)


def test_a_p_beside_its_threshold_is_printed_to_the_side_of_it(runs):
    found = versus(runs[0])
    close = [replace(found.pairs[0], p_corrected=p) for p in (0.0502, 0.0481, 0.00004)]
    table = replace(found, pairs=tuple(close)).text()
    for pair, text in zip(close, ("0.0502", "0.048", "< 0.0001"), strict=True):
        assert f" {text}\n" in table
        said = text if text.startswith("<") else f"= {text}"
        assert f", corrected p {said})" in pair.sentence()


def test_runs_of_other_clips_are_refused(runs, tmp_path):
    _record(RIGHT, clips=120).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(EvaluationError):
        versus(runs[0], tmp_path)


def test_a_name_that_is_unknown_or_fits_several_says_what_there_is(runs):
    record, folder = _record(RIGHT), Path("runs/one")
    with pytest.raises(UnknownNameError, match=r"of 'runs/one'.* Did you mean 'mata'"):
        find(record, "mtaa", folder)
    several = r"'lda' fits several systems of 'runs/one'\. Choose one of: lda@a"
    with pytest.raises(SettingsError, match=several):
        find(record, "lda", folder)
    with pytest.raises(UnknownNameError, match=r"Known: lda, \w+"):
        find(record, "foo", folder)
    with pytest.raises(SettingsError, match="'mata@a' is no system of 'runs/one'"):
        find(record, "mata@a", folder)
    with pytest.raises(SettingsError, match=f"'lda' fits several systems of '{runs[0]}'"):
        versus(runs[1], runs[0], ["lda"])
    with pytest.raises(SettingsError, match="at most two systems"):
        versus(runs[0], picked=["lda@a", "lda@b", "mata"])


def test_a_system_is_not_compared_with_itself(runs):
    twice = r"Expected two systems, got mata \(a\+b\) twice\. Pick another one with -s"
    with pytest.raises(SettingsError, match=twice):
        versus(runs[0], picked=["mata", "mata@b+a"])


def test_two_runs_of_the_same_predictions_say_so(runs, tmp_path):
    _record(RIGHT).to_parquet(tmp_path / "predictions.parquet")
    for other in (runs[0], tmp_path):
        found = versus(runs[0], other, ["mata"])
        assert f"Note: {SAME_RECORD}." in found.text()
        assert found.pairs[0].caution.startswith(SAME_RECORD)
    assert f"Note: {SAME_RECORD}." in versus(runs[0], tmp_path).text()
    assert SAME_RECORD not in versus(*runs).text()


def test_an_unfinished_run_is_told_how_to_finish(tmp_path):
    with pytest.raises(UnfinishedRunError) as told:
        versus(tmp_path)
    assert str(told.value) == (
        f"'{tmp_path}' is not a finished run: it lacks predictions.parquet. "
        f"Finish it: nver evaluate CORPUS -e ENCODER --out {tmp_path}"
    )


def test_what_is_no_folder_is_no_run(tmp_path, capsys):
    for command in ("report", "compare"):
        assert cli.main([command, str(tmp_path / "nowhere")]) == cli.ERROR
        assert "nowhere' is no run folder: there is no such folder." in capsys.readouterr().err


def test_a_table_whose_p_and_intervals_differ_says_that_it_takes_both(runs):
    found = versus(runs[0])
    both = "It takes both to tell two apart: a corrected p of at most 0.05, and an interval"
    agreeing = replace(found, pairs=tuple(pair for pair in found.pairs if not pair.at_odds))
    assert both not in " ".join(agreeing.text().split())
    odd = replace(found.pairs[0], p_corrected=0.06)
    told = replace(found, pairs=(odd, *found.pairs[1:])).text()
    assert both in " ".join(told.split())


def test_a_run_of_one_system_has_nothing_to_compare(tmp_path):
    _record({("lda", "a"): 0.5}).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(SettingsError, match="has one system"):
        versus(tmp_path)


def test_the_command_prints_a_table_or_json(runs, capsys):
    assert cli.main(["compare", str(runs[0])]) == cli.DONE
    assert "p corr." in capsys.readouterr().out
    assert cli.main(["compare", *map(str, runs), "-s", "mata", "--json"]) == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == [str(run) for run in runs]
    assert told["pairs"][0]["first"]["name"] == "mata"
    assert cli.main(["compare", str(runs[0]), "nowhere"]) == cli.ERROR
    assert "'nowhere' is no run folder" in capsys.readouterr().err


def test_the_folder_of_a_grid_names_its_runs(runs, tmp_path):
    for name in ("clips-random", "clips-speaker"):
        (tmp_path / name).mkdir()
        _record(RIGHT).to_parquet(tmp_path / name / "predictions.parquet")
    (tmp_path / "index.html").touch()
    with pytest.raises(SettingsError, match="several runs, name one: clips-random, clips-speaker"):
        versus(tmp_path)
