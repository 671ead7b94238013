from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from contracts.full_record import enrich
from nver.errors import NverError
from nver.report.record import NEEDED, read_record


def rewrite(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def refused(folder, message):
    with pytest.raises(NverError, match=re.escape(message)):
        read_record(folder)


def test_a_run_folder_is_read(run_folder):
    record = read_record(run_folder)
    assert [system.name for system in record.systems] == [
        *("mata-transductive", "mata", "concat-lda", "lda", "fcn")
    ]
    assert len(record.clips()) == 72
    assert record.supports() == [24, 24, 24]
    assert record.seeds == 1
    assert record.chance == pytest.approx(1 / 3)
    assert set(record.digests) == set(NEEDED)


def test_the_confusion_matrix_is_that_of_one_system(run_folder):
    record = read_record(run_folder)
    rows = pd.read_parquet(run_folder / "predictions.parquet").query("system == 'fcn'")
    expected = pd.crosstab(rows["label"], rows["predicted"]).loc[record.labels, record.labels]
    assert record.confusions[record.systems[-1]].tolist() == expected.to_numpy().tolist()


def test_seeds_are_added_and_clips_are_not_counted_twice(fake, tmp_path):
    fake.systems = fake.systems[:1]
    fake.write(tmp_path)
    once = pd.read_parquet(tmp_path / "predictions.parquet")
    pd.concat([once, once.assign(seed=1)]).to_parquet(tmp_path / "predictions.parquet")
    record = read_record(tmp_path)
    assert record.seeds == 2
    assert record.confusions[record.systems[0]].sum() == 144
    assert record.supports() == [24, 24, 24]


def test_identical_recordings_are_two_clips(fake, tmp_path):
    fake.write(tmp_path)
    rows = pd.read_parquet(tmp_path / "predictions.parquet").assign(clip="same")
    rows.to_parquet(tmp_path / "predictions.parquet")
    assert len(read_record(tmp_path).clips()) == 72


def test_a_run_without_maps_is_read(fake, tmp_path):
    fake.projection = False
    assert read_record(fake.write(tmp_path)).projection is None


def test_what_a_run_may_record_is_read(fake, tmp_path):
    bare = read_record(fake.write(tmp_path / "run"))
    assert (bare.places, bare.curves, bare.plans) == (None, None, None)
    assert bare.run["identity"] == {}
    full = read_record(enrich(tmp_path / "run"))
    assert len(full.places) == 72
    assert set(full.curves["system"]) == {"fcn", "mata", "mata-transductive"}
    assert set(full.plans["source"]) == {"spectral", "prosodic"}


@pytest.mark.parametrize("name", ["clips.parquet", "curves.parquet", "plans.parquet"])
def test_what_a_run_may_record_is_checked(run_folder, name):
    pd.DataFrame({"file": ["a"]}).to_parquet(run_folder / name)
    with pytest.raises(NverError, match=f"{name}' is not what nver writes: it lacks the columns"):
        read_record(run_folder)


@pytest.mark.parametrize("section", ["disaggregated", "calibration", "robustness"])
def test_what_is_absent_may_be_null(fake, tmp_path, section):
    fake.scores[section] = None
    assert read_record(fake.write(tmp_path)).scores[section] == []


def test_sections_of_another_make_are_refused(fake, tmp_path):
    fake.scores["robustness"] = [{"name": "lda"}]
    refused(
        fake.write(tmp_path),
        f"'{tmp_path / 'scores.json'}' is not what nver writes: expected name and encoders and "
        "clean and perturbations in every entry of 'robustness'. Run `nver evaluate` again, into "
        "an empty folder.",
    )


def test_speakers_in_one_fold_each_are_not_divided(run_folder):
    assert read_record(run_folder).divided_speakers() == 0


def test_speakers_in_several_folds_are_counted(run_folder):
    path = run_folder / "predictions.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows["file"].isin(["01/joy_0.wav", "03/joy_0.wav"]), "fold"] = "0"
    rows.to_parquet(path)
    assert read_record(run_folder).divided_speakers() == 2


def test_speakers_whom_the_leakage_check_found_are_counted_too(fake, tmp_path):
    shared = [{"fold": fold, "speaker": "09", "test": 1, "train": 2} for fold in "01"]
    fake.run["leakage"] = {"clean": False, "shared_speakers": shared}
    assert read_record(fake.write(tmp_path)).divided_speakers() == 1


@pytest.mark.parametrize("unknown", [["05"], [f"{i:02d}" for i in range(6)]])
def test_where_speakers_are_unknown_nobody_can_say(run_folder, unknown):
    path = run_folder / "predictions.parquet"
    rows = pd.read_parquet(path)
    rows["speaker"] = rows["speaker"].where(~rows["speaker"].isin(unknown), None)
    rows.to_parquet(path)
    assert read_record(run_folder).divided_speakers() is None


# what is no run folder


def test_a_missing_folder_is_refused(tmp_path):
    refused(
        tmp_path / "no",
        f"Expected a run folder, but '{tmp_path / 'no'}' is none. "
        "Make one: nver evaluate CORPUS -e ENCODER --out RUN",
    )


def test_missing_files_are_named(run_folder):
    (run_folder / "scores.json").unlink()
    (run_folder / "failures.csv").unlink()
    refused(
        run_folder,
        f"'{run_folder}' is not a finished run: it lacks scores.json, failures.csv. "
        f"Finish it: nver evaluate CORPUS -e ENCODER --out {run_folder}",
    )


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("run.json", "{", "it cannot be read as JSON"),
        ("run.json", "[]", "expected a JSON object"),
        ("run.json", "{}", "expected 'settings' (dict)"),
        ("scores.json", '{"corpus": 3}', "expected 'corpus' (str)"),
        ("predictions.parquet", "PAR1", "it cannot be read as Parquet"),
        ("projection.parquet", "no", "it cannot be read as Parquet"),
        ("failures.csv", "a,b\n", "it lacks the columns file, stage, reason"),
        ("failures.csv", "", "it lacks the columns file, stage, reason"),
    ],
)
def test_foreign_files_are_refused(run_folder, name, content, problem):
    (run_folder / name).write_text(content)
    refused(run_folder, f"'{run_folder / name}' is not what nver writes: {problem}")


def test_text_that_is_not_utf8_is_refused(run_folder):
    (run_folder / "run.json").write_bytes(b"\xff\xfe\x00")
    refused(run_folder, "run.json' is not what nver writes: it cannot be read as JSON")


def test_a_foreign_parquet_file_is_refused(run_folder):
    pd.DataFrame({"file": ["a"], "label": ["b"]}).to_parquet(run_folder / "predictions.parquet")
    refused(run_folder, "it lacks the columns speaker, system, encoders, seed, fold, predicted")


@pytest.mark.parametrize(
    "systems", [[{"name": "lda"}], [{"name": "lda", "encoders": ["a"], "uar": 3}], ["lda"]]
)
def test_systems_that_are_not_scored_are_refused(run_folder, systems):
    rewrite(run_folder / "scores.json", systems=systems)
    refused(run_folder, "scores.json' is not what nver writes: an entry of 'systems'")


def test_a_run_without_systems_is_refused(run_folder):
    rewrite(run_folder / "scores.json", systems=[])
    refused(run_folder, "'systems' is empty")


def test_extras_of_the_wrong_kind_are_refused(run_folder):
    rewrite(run_folder / "run.json", warnings="none")
    refused(run_folder, "expected 'warnings' to be a list")


@pytest.mark.parametrize("row", ["spectral", {"name": "spectral"}])
def test_rows_of_the_wrong_kind_are_refused(run_folder, row):
    rewrite(run_folder / "run.json", encoders=[row])
    refused(run_folder, "expected name and licence in every entry of 'encoders'")


def test_scores_of_another_run_are_refused(run_folder):
    path = run_folder / "predictions.parquet"
    pd.read_parquet(path).query("system != 'mata'").to_parquet(path)
    refused(
        run_folder,
        f"predictions.parquet and scores.json of '{run_folder}' are from different runs: only one "
        "has system 'mata' on 'spectral+prosodic'. Run `nver evaluate` again, into an empty "
        "folder.",
    )


@pytest.mark.parametrize("name", ["predictions.parquet", "projection.parquet"])
def test_labels_of_another_run_are_refused(run_folder, name):
    rewrite(run_folder / "scores.json", labels=["anger", "fear"])
    if name == "projection.parquet":
        path = run_folder / "predictions.parquet"
        rows = pd.read_parquet(path)
        rows[["label", "predicted"]] = "fear"
        rows.to_parquet(path)
    refused(
        run_folder,
        "are from different runs: the label 'joy' is not among the scored ones.",
    )


def test_failures_may_hold_anything(fake, tmp_path):
    fake.failures = [('a,"b"\n<c>.wav', "decode", "it, broke"), ("x.wav", "silent", "")]
    found = read_record(fake.write(tmp_path)).failures
    assert [(f.file, f.stage, f.reason) for f in found] == fake.failures
