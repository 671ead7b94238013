"""What a person does: encode, evaluate, read; by the command line and from Python."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nver
from nver import cli
from nver.report import write_report

SYSTEMS = ("lda", "concat-lda", "mata")
ENCODERS = ("-e", "spectral", "-e", "prosodic")


def _evaluate(manifest: Path, out: Path, *more: str) -> int:
    systems = [part for name in SYSTEMS for part in ("-s", name)]
    fixed = [str(manifest), *ENCODERS, *systems, "--out", str(out), "--jobs", "1"]
    return cli.main(["evaluate", *fixed, *more])


@pytest.fixture(scope="session")
def finished(bursts, prepared, tmp_path_factory) -> Path:
    """Return a finished run with the manifest's folds."""
    out = tmp_path_factory.mktemp("runs") / "first"
    with prepared():
        assert _evaluate(bursts, out, "--folds", "column:fold") == cli.DONE
    return out


def test_a_run_leaves_the_promised_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "predictions.parquet",
        "scores.json",
        "run.json",
        "failures.csv",
        "projection.parquet",
        "clips.parquet",
        "curves.parquet",
        "plans.parquet",
        "report.html",
        "figures",
        "trainings",
    }


def test_predictions_are_the_record(finished: Path) -> None:
    frame = pd.read_parquet(finished / "predictions.parquet")
    scores = json.loads((finished / "scores.json").read_text())
    first = ["clip", "file", "speaker", "label", "system", "encoders", "seed", "fold", "predicted"]
    probabilities = [f"p_{label}" for label in scores["labels"]]
    assert list(frame.columns) == first + probabilities
    np.testing.assert_allclose(frame[probabilities].sum(axis=1), 1, atol=1e-5)
    assert (frame["speaker"] == frame["fold"]).all()
    for _, rows in frame.groupby(["system", "encoders", "seed"]):
        assert len(rows) == rows["file"].nunique() == 48


def test_clips_curves_and_plans_are_recorded(finished: Path) -> None:
    frame = pd.read_parquet(finished / "predictions.parquet")
    clips = pd.read_parquet(finished / "clips.parquet")
    assert set(clips["clip"]) == set(frame["clip"])
    assert all(Path(path).is_file() for path in clips["path"])
    assert clips["seconds"].between(0.1, 10).all()
    assert "fold" in clips.columns
    curves = pd.read_parquet(finished / "curves.parquet")
    assert set(curves["system"]) == {"mata"}
    assert set(curves["fold"]) == set(frame["fold"])
    assert curves["validation_loss"].isna().all()  # the default recipe does not stop early
    plans = pd.read_parquet(finished / "plans.parquet")
    assert set(plans["fold"]) == {frame["fold"].iloc[0]}
    assert (set(plans["source"]), set(plans["target"])) == ({"spectral"}, {"prosodic"})
    assert plans["mass"].sum() == pytest.approx(1, abs=1e-4)
    assert len(plans) == plans["source_file"].nunique() ** 2


def test_scores_follow_from_the_record(finished: Path) -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    frame = pd.read_parquet(finished / "predictions.parquet")
    scores = json.loads((finished / "scores.json").read_text())
    assert (scores["n_clips"], scores["n_speakers"], scores["k"]) == (48, 3, 3)
    assert scores["chance_uar"] == 1 / 8
    for entry in scores["systems"]:
        encoders = "+".join(entry["encoders"])
        rows = frame[(frame["system"] == entry["name"]) & (frame["encoders"] == encoders)]
        truth, told = rows["label"], rows["predicted"]
        assert entry["uar"]["value"] == pytest.approx(balanced_accuracy_score(truth, told))
        assert entry["accuracy"]["value"] == pytest.approx(accuracy_score(truth, told))
        macro = f1_score(truth, told, average="macro", labels=scores["labels"], zero_division=0)
        assert entry["macro_f1"]["value"] == pytest.approx(macro)
        assert 0 <= entry["uar"]["low"] <= entry["uar"]["value"] <= entry["uar"]["high"] <= 1


def test_systems_are_compared_and_groups_told_apart(finished: Path) -> None:
    scores = json.loads((finished / "scores.json").read_text())
    compared = scores["comparisons"]
    assert len(compared["pairs"]) == len(scores["systems"]) - 1 == 4
    assert compared["reference"]["name"] != "mata-transductive"
    assert not any(pair["distinguishable"] for pair in compared["pairs"])
    assert "with 3 speakers no p can be below 0.25" in compared["caution"]
    for section in ("disaggregated", "calibration"):
        assert len(scores[section]) == len(scores["systems"])
    assert {"class", "speaker"} <= set(scores["disaggregated"][0]["by"])
    assert scores["robustness"] is None


def test_every_system_ran_on_its_encoders(finished: Path) -> None:
    scores = json.loads((finished / "scores.json").read_text())
    ran = {(entry["name"], *entry["encoders"]) for entry in scores["systems"]}
    assert ran == {
        ("lda", "spectral"),
        ("lda", "prosodic"),
        ("concat-lda", "spectral", "prosodic"),
        ("mata", "spectral", "prosodic"),
        ("mata-transductive", "spectral", "prosodic"),
    }


def test_a_run_says_where_it_comes_from(finished: Path) -> None:
    run = json.loads((finished / "run.json").read_text())
    assert run["settings"]["folds"] == "column:fold"
    assert [card["name"] for card in run["encoders"]] == ["spectral", "prosodic"]
    assert run["libraries"]["torch"]
    assert run["leakage"]["clean"]
    assert run["hardware"]["cores"] >= 1
    assert run["seconds"] > 0


def test_a_second_run_encodes_nothing_and_scores_the_same(bursts, finished, tmp_path) -> None:
    settings = nver.Settings(
        str(bursts), ("spectral", "prosodic"), systems=SYSTEMS, folds="column:fold", jobs=1
    )
    run = nver.evaluate(settings, tmp_path / "second")
    told = json.loads((run.folder / "run.json").read_text())
    assert told["extraction"]["encoded"] == 0
    first = json.loads((finished / "scores.json").read_text())
    for entry, other in zip(run.scores["systems"], first["systems"], strict=True):
        assert entry | {"seconds": 0} == other | {"seconds": 0}


def test_the_same_command_again_trains_nothing(bursts, finished, tmp_path, monkeypatch) -> None:
    from nver import estimators

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    trained = []
    fit = estimators.EmotionClassifier.fit
    monkeypatch.setattr(
        estimators.EmotionClassifier,
        "fit",
        lambda *args, **more: trained.append(args) or fit(*args, **more),
    )
    assert _evaluate(bursts, copy, "--folds", "column:fold") == cli.DONE
    assert trained == []
    for name in ("predictions.parquet", "scores.json"):
        assert (copy / name).read_bytes() == (finished / name).read_bytes()
    # What is missing, and nothing else, is trained: here one fold of one system.
    shutil.copytree(finished / "trainings", tmp_path / "stopped" / "trainings")
    about = {
        path: json.loads(np.load(path)["about"].tobytes())
        for path in (tmp_path / "stopped" / "trainings").iterdir()
    }
    next(path for path, facts in about.items() if facts.get("system") == "lda").unlink()
    assert _evaluate(bursts, tmp_path / "stopped", "--folds", "column:fold") == cli.DONE
    assert len(trained) == 1
    again = pd.read_parquet(tmp_path / "stopped" / "predictions.parquet")
    assert again.equals(pd.read_parquet(finished / "predictions.parquet"))


DEEP = """
from dataclasses import replace

import numpy as np

from nver.encoders.prosodic import ProsodicEncoder


class Deep(ProsodicEncoder):
    # Layer 0 hears something; layer 1, the last, is noise.

    @property
    def card(self):
        card = super().card
        return replace(card, name="deep", dim=2 * card.dim, layers=2)

    def embed(self, inputs):
        heard = super().embed(inputs)
        return np.concatenate([heard, np.sin(1e4 * heard)], axis=1)
"""


def test_tuned_settings_and_layers_are_recorded_fold_by_fold_and_told(
    bursts, tmp_path, capsys
) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "deep.py").write_text(DEEP)
    encoder = f"{tmp_path / 'deep.py'}:Deep"
    argv = ["evaluate", str(bursts), "-e", encoder, "-s", "fcn", "-s", "lda", "--tune", "2"]
    more = ["--folds", "column:fold", "--jobs", "1", "--out", str(tmp_path / "run")]
    assert cli.main([*argv, *more]) == cli.DONE
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Of its \d[\w. ]+ the search took \d[\w. ]+\.", said)
    assert "Calibration" not in said
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["settings"]["tune"] == 2
    places = [(entry["name"], *entry["encoders"], entry["fold"]) for entry in told["tuning"]]
    folds = ("s01", "s02", "s03")
    assert places == [(name, "deep", fold) for name in ("fcn", "lda") for fold in folds]
    for entry in told["tuning"]:
        tuned = {"learning_rate", "dropout", "width"} if entry["name"] == "fcn" else set()
        assert set(entry["chosen"]) == tuned
        assert entry["layers"] == {"deep": 0} or entry["name"] == "lda"
        assert (entry["uar"] > entry["default_uar"]) == (entry["layers"] == {"deep": 0})
        assert entry["inner"] == "2 folds by speaker"
        assert entry["trials"] == 2
    (best,) = re.findall(r"Tuning, (fcn|lda) \(deep\)", said)
    changed = sum(e["layers"] == {"deep": 0} for e in told["tuning"] if e["name"] == best)
    assert f"Tuning, {best} (deep): settings were chosen in {changed} of 3 folds" in said
    assert ("none of those tried was better than the untuned ones" in said) is (changed < 3)
    assert f"Layer of deep: 0 in {changed} fold" in said
    assert "layer 0 of deep, learning rate" in (tmp_path / "run" / "report.html").read_text()


def test_inner_predictions_are_recorded_where_asked_for(bursts, tmp_path, capsys) -> None:
    settings = nver.Settings(
        str(bursts), ("prosodic",), systems=("lda",), folds="column:fold", jobs=1
    )
    argv = ["evaluate", str(bursts), "-e", "prosodic", "-s", "lda", "--folds", "column:fold"]
    more = ["--jobs", "1", "--calibrate", "--out", str(tmp_path / "run")]
    assert cli.main([*argv, *more]) == cli.DONE
    said = " ".join(capsys.readouterr().out.split())
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    (found,) = scores["calibration"]
    assert (
        "Calibration of lda (prosodic): its probabilities are off by "
        f"{100 * found['raw']['ece']:.1f} points on average (ECE; perfect calibration would show "
        f"about {100 * found['raw']['ece_by_chance']:.1f} by chance), after temperature scaling by "
        f"{100 * found['scaled']['ece']:.1f}."
    ) in said
    inner = pd.read_parquet(tmp_path / "run" / "inner.parquet")
    assert len(inner) == 2 * 48
    assert (inner["speaker"] != inner["fold"]).all()  # a fold is named after its test speaker
    nver.evaluate(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "inner.parquet").exists()


def test_the_report_is_rebuilt_from_the_record_alone(finished, tmp_path, capsys) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    write_report(copy)  # the page names the clips' places relative to its own
    page = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    shutil.rmtree(copy / "figures")
    assert cli.main(["report", str(copy)]) == cli.DONE
    assert (copy / "report.html").read_bytes() == page


def test_bad_clips_are_listed_and_the_run_goes_on(bursts, tmp_path, capsys) -> None:
    rows = bursts.read_text(encoding="utf-8").splitlines()
    (bursts.parent / "clips" / "empty.wav").write_bytes(b"")
    manifest = bursts.parent / "with_bad.csv"
    bad = ["clips/empty.wav,laugh,s01,s01", "clips/nowhere.wav,laugh,s01,s01"]
    manifest.write_text("\n".join([*rows, *bad]) + "\n", encoding="utf-8")
    fixed = ["-e", "spectral", "-s", "lda", "--folds", "loso", "--jobs", "1"]
    code = cli.main(["evaluate", str(manifest), *fixed, "--out", str(tmp_path / "run")])
    assert code == cli.SOME_CLIPS_FAILED
    with (tmp_path / "run" / "failures.csv").open(newline="", encoding="utf-8") as file:
        failures = {row["file"]: row for row in csv.DictReader(file)}
    assert set(failures) == {"clips/empty.wav", "clips/nowhere.wav"}
    assert failures["clips/empty.wav"]["reason"]
    assert "2 clips failed" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["n_clips"] == 48


def test_embed_tells_what_it_did(bursts, capsys) -> None:
    assert cli.main(["embed", str(bursts), "-e", "spectral", "--json"]) == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["clips"] == 48
    assert told["encoded"] + told["reused"] == 48


def test_python_gets_the_same_embeddings(bursts) -> None:
    dataset = nver.embed(bursts, ["spectral", "prosodic"])
    corpus = nver.load_corpus(bursts)
    clip = corpus.clips[7]
    from nver.audio import load

    alone = nver.load_encoder("spectral").encode([load(clip.path)])
    row = dataset.files.index(clip.file)
    np.testing.assert_allclose(dataset.view("spectral")[row], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--folds", "column:fld"), "Did you mean 'fold'?"),
        (("--folds", "speker"), "Did you mean 'speaker'?"),
        (("-s", "mta"), "Did you mean 'mata'?"),
        (("-k", "7"), "--folds loso"),
        (("--seeds", "1", "-e", "prosodc"), "Did you mean 'prosodic'?"),
    ],
)
def test_a_mistake_is_one_clear_line(bursts, tmp_path, capsys, more, expected) -> None:
    argv = ["evaluate", str(bursts), "-e", "spectral", "-s", "lda", "--out", str(tmp_path), *more]
    assert cli.main(argv) == cli.ERROR
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert expected in told[0]


def test_a_command_that_fails_leaves_an_earlier_run_as_it_was(bursts, finished, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert _evaluate(bursts, copy, "--folds", "column:nothing") == cli.ERROR
    assert _evaluate(bursts, copy, "-s", "mta") == cli.ERROR
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_missing_speaker_does_not_turn_folds_random(bursts, tmp_path, capsys) -> None:
    manifest = bursts.parent / "one_unknown.csv"
    text = bursts.read_text(encoding="utf-8")
    manifest.write_text(text.replace(",s01,s01", ",,s01", 1), encoding="utf-8")
    assert _evaluate(manifest, tmp_path / "run") == cli.ERROR
    assert "1 of 48 clips have none" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_files_is_not_touched(bursts, tmp_path, capsys) -> None:
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    assert _evaluate(bursts, tmp_path) == cli.ERROR
    assert "holds files that are no run (thesis.tex)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_fusion_of_one_encoder_is_refused_before_any_work(bursts, tmp_path, capsys) -> None:
    argv = ["evaluate", str(bursts), "-e", "spectral", "-s", "mata", "--out", str(tmp_path / "r")]
    assert cli.main(argv) == cli.ERROR
    assert "fuses at least two encoders" in capsys.readouterr().err
