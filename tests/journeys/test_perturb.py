"""`nver evaluate --perturb`: the same models on perturbed clips, through every door."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from nver import cli
from nver.perturbation import PERTURBATIONS


def _evaluate(manifest: Path, out: Path, *perturb: str) -> int:
    asked = [part for name in perturb for part in ("--perturb", name)]
    fixed = ["-e", "spectral", "-s", "lda", "--folds", "column:fold", "--jobs", "1"]
    return cli.main(["evaluate", str(manifest), *fixed, "--out", str(out), *asked])


@pytest.fixture(scope="session")
def finished(bursts, prepared, tmp_path_factory) -> Path:
    """Return a run with three perturbations."""
    out = tmp_path_factory.mktemp("runs") / "perturbed"
    with prepared():
        assert _evaluate(bursts, out, "noise:-20", "telephone", "gain:0") == cli.DONE
    return out


def test_the_same_models_predict_the_perturbed_clips(finished: Path) -> None:
    clean = pd.read_parquet(finished / "predictions.parquet")
    perturbed = pd.read_parquet(finished / "perturbed.parquet")
    assert list(perturbed.columns) == [*clean.columns, "perturbation"]
    assert set(perturbed["perturbation"]) == {"noise:-20", "telephone", "gain:0"}
    for name, rows in perturbed.groupby("perturbation"):
        assert (rows["file"].to_numpy() == clean["file"].to_numpy()).all()
        assert (rows["fold"].to_numpy() == clean["fold"].to_numpy()).all()
        same = np.allclose(rows.filter(like="p_"), clean.filter(like="p_"), atol=1e-3)
        assert same == (name == "gain:0")  # no gain changes nothing, everything else does


def test_noise_above_the_clip_costs_more_than_a_telephone_and_no_gain_costs_nothing(
    finished: Path,
) -> None:
    (told,) = json.loads((finished / "scores.json").read_text())["robustness"]
    drops = {part["name"]: part["drop"]["value"] for part in told["perturbations"]}
    assert list(drops) == ["noise:-20", "telephone", "gain:0"]
    assert drops["noise:-20"] > 0.15
    assert drops["gain:0"] == pytest.approx(0, abs=1e-9)
    assert "noise, SNR -20 dB" in told["sentence"]


def test_the_terminal_names_the_largest_drop(
    bursts: Path, finished: Path, tmp_path: Path, capsys
) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))  # nothing is trained again
    assert _evaluate(bursts, copy, "noise:-20", "telephone", "gain:0") == cli.DONE
    (told,) = json.loads((finished / "scores.json").read_text())["robustness"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"Perturbed clips, lda (spectral). {told['sentence']}" in said


def test_the_run_says_what_was_done(finished: Path) -> None:
    run = json.loads((finished / "run.json").read_text())
    assert run["settings"]["perturb"] == ["noise:-20", "telephone", "gain:0"]
    counts = run["extraction"]["perturbed"]
    assert counts == {name: {"encoded": 48, "reused": 0} for name in run["settings"]["perturb"]}


def test_a_clip_that_fails_under_a_perturbation_is_listed_and_the_run_goes_on(
    bursts: Path, tmp_path: Path, monkeypatch
) -> None:
    files = pd.read_csv(bursts)["file"]
    lengths = {file: soundfile.info(bursts.parent / file).frames for file in files}
    longest = max(lengths.values())
    lost = {file for file, frames in lengths.items() if frames == longest}

    def swallow(waveform, value, rng):
        return waveform.samples * (waveform.samples.shape[1] < longest)

    monkeypatch.setitem(vars(PERTURBATIONS["clipping"]), "effect", swallow)
    assert _evaluate(bursts, tmp_path / "run", "clipping:3") == cli.SOME_CLIPS_FAILED
    with (tmp_path / "run" / "failures.csv").open() as file:
        failures = list(csv.DictReader(file))
    assert {(row["file"], row["stage"]) for row in failures} == {
        (file, "perturb clipping:3") for file in lost
    }
    perturbed = pd.read_parquet(tmp_path / "run" / "perturbed.parquet")
    assert set(perturbed["file"]) == set(pd.read_csv(bursts)["file"]) - lost
    assert len(pd.read_parquet(tmp_path / "run" / "predictions.parquet")) == 48


def test_an_unknown_perturbation_is_refused_before_anything_is_encoded(
    bursts: Path, tmp_path: Path, capsys
) -> None:
    assert _evaluate(bursts, tmp_path / "run", "nois:5") == cli.ERROR
    told = capsys.readouterr().err
    assert "Unknown perturbation 'nois'. Did you mean 'noise'?" in told
    assert not (tmp_path / "run").exists()
