"""A planted leak, end to end: the command names it and refuses, or goes on and tells."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import nver
from nver import cli
from nver.errors import SplitError
from nver.experiment import split


@pytest.fixture(scope="module")
def planted(bursts: Path) -> Path:
    """Return a folder with two manifests: a speaker, and a recording, on both sides of a fold."""
    rows = bursts.read_text(encoding="utf-8").splitlines()
    shared = [*rows[:-1], rows[-1].rsplit(",", 1)[0] + ",s01"]
    (bursts.parent / "speaker.csv").write_text("\n".join(shared) + "\n", encoding="utf-8")
    file, label, _, _ = rows[1].split(",")
    shutil.copyfile(bursts.parent / file, bursts.parent / "again.wav")
    copied = [*rows, f"again.wav,{label},s02,s02"]
    (bursts.parent / "copy.csv").write_text("\n".join(copied) + "\n", encoding="utf-8")
    both = [*shared, f"again.wav,{label},s02,s02"]
    (bursts.parent / "both.csv").write_text("\n".join(both) + "\n", encoding="utf-8")
    return bursts.parent


def _arguments(manifest: Path, out: Path, *more: str) -> list[str]:
    fixed = ["-e", "spectral", "-s", "lda", "--folds", "column:fold", "--jobs", "1"]
    return ["evaluate", str(manifest), *fixed, *more, "--out", str(out)]


@pytest.mark.parametrize(
    ("manifest", "named"),
    [
        ("speaker.csv", ("share 1 speaker", "'s03' has", "in fold 's01'")),
        ("copy.csv", ("Identical audio is on both sides of a fold", "again.wav")),
    ],
)
def test_a_leak_is_named_and_refused_in_one_line(
    planted, tmp_path, capsys, manifest, named
) -> None:
    assert cli.main(_arguments(planted / manifest, tmp_path / "run")) == cli.ERROR
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    for part in (*named, "--allow-leak"):
        assert part in line
    assert not (tmp_path / "run").exists()


def test_with_allow_leak_the_run_goes_on_and_tells(planted, tmp_path) -> None:
    command = _arguments(planted / "both.csv", tmp_path / "run", "--allow-leak")
    done = subprocess.run(
        [sys.executable, "-m", "nver.cli", *command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Both sides of a fold share 1 speaker" in done.stdout
    assert "again.wav" in done.stdout
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Report: ")]
    assert max(map(len, lines)) <= 100
    told = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert not told["leakage"]["clean"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "again.wav" in page
    assert "Both sides of a fold share 1 speaker" in page


def test_a_split_says_what_codes_alone_reach(bursts) -> None:
    dataset = nver.embed(bursts, ["spectral"])
    division = split(dataset, nver.Settings(str(bursts), ("spectral",), folds="published"))
    assert [fold.name for fold in division.folds] == ["s01", "s02", "s03"]
    told = division.identity.to_dict()
    assert told["columns"] == ["speaker"]
    assert told["uar"]["value"] == told["chance_uar"] == 1 / 8
    assert not told["alarm"]


def test_a_split_that_nobody_published_does_not_exist(bursts) -> None:
    dataset = replace(nver.embed(bursts, ["spectral"]), published_split="")
    with pytest.raises(SplitError, match="no split was published with this corpus"):
        split(dataset, nver.Settings(str(bursts), ("spectral",), folds="published"))


def test_one_division_tests_its_test_part_alone(bursts, tmp_path) -> None:
    rows = bursts.read_text(encoding="utf-8").splitlines()
    part = {"s01": "train", "s02": "dev", "s03": "test"}
    rows = [f"{row},{part.get(row.split(',')[-1], 'split')}" for row in rows]
    manifest = bursts.parent / "division.csv"
    text = "\n".join(row.replace("speaker,fold,", "speaker,day,") for row in rows)
    manifest.write_text(f"{text}\n", encoding="utf-8")
    settings = nver.Settings(
        str(manifest), ("spectral",), systems=("lda",), folds="published", jobs=1
    )
    run = nver.evaluate(settings, tmp_path / "run")
    assert (run.scores["folds"], run.scores["k"], run.scores["n_clips"]) == ("published", 1, 16)
    assert run.scores["n_speakers"] == 1
