"""`nver reproduce`: what is planned from what is here, what is said to be missing, what is left."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nver import cli
from nver.config import EncoderChoice
from nver.corpora.synthesis import synthesise
from nver.errors import SettingsError, UnknownNameError
from nver.report.joint import Chapter
from nver.reproduction import Chapters, Wanted, plan, planning, reproduce


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Return a folder with a corpus of three voices: ``data/bursts/metadata.csv``."""
    folder = tmp_path_factory.mktemp("place")
    clips = folder / "data" / "bursts"
    synthesise(clips, speakers=3, takes=2)
    return folder


@pytest.fixture(autouse=True)
def _empty_home(nver_home) -> None:
    """Nothing is fetched or encoded here before."""


def _bursts(place: Path) -> str:
    return str(place / "data" / "bursts" / "metadata.csv")


TWO = ("spectral", "prosodic")


def test_the_grid_is_every_encoder_every_pair_and_all_of_them(place, monkeypatch):
    monkeypatch.setattr(
        EncoderChoice,
        "load",
        lambda choice: SimpleNamespace(card=SimpleNamespace(name=choice.name)),
    )
    planned = plan(Wanted(corpora=(_bursts(place),), encoders=(*TWO, "byol-s")))
    assert planned.encoders == (*TWO, "byol-s")
    part = planned.parts[0]
    assert part.settings.pairs
    assert part.settings.recipe == "paper"
    single, fused = 3, 4
    assert part.trainings == 5 * (3 * single + 6 * fused)
    assert set(part.settings.systems) == set(planning.GRID)


def test_few_speakers_are_left_out_one_by_one(place):
    planned = plan(Wanted(corpora=(_bursts(place),), encoders=TWO))
    assert [part.protocol for part in planned.parts] == ["random", "loso"]
    assert [part.folder for part in planned.parts] == ["bursts-random", "bursts-loso"]
    assert planned.parts[1].trainings == 3 * (3 * 2 + 6)
    assert plan(Wanted(corpora=(_bursts(place),), encoders=TWO, k=3)).parts[1].protocol == "speaker"


def test_two_corpora_of_one_name_get_folders_and_sections_of_their_own(place, tmp_path):
    other = tmp_path / "bursts"
    synthesise(other, speakers=3, takes=2, seed=1)
    here = (_bursts(place), str(other / "metadata.csv"))
    parts = plan(Wanted(corpora=(*here, here[0]), encoders=TWO)).parts
    folders = ["bursts-random", "bursts-loso", "bursts-random-2", "bursts-loso-2"]
    assert [part.folder for part in parts] == folders
    assert [part.settings.corpus for part in parts] == [here[0], here[0], here[1], here[1]]
    assert [part.corpus for part in parts[::2]] == [f"bursts ({name})" for name in here]


def test_one_encoder_leaves_the_single_systems(place):
    part = plan(Wanted(corpora=(_bursts(place),), encoders=("spectral",), folds=("loso",))).parts[0]
    assert part.settings.systems == ("lda", "fcn", "cnn")
    assert not part.settings.pairs


def test_seeds_repeat_networks_and_not_linear_systems(place):
    wanted = Wanted(corpora=(_bursts(place),), encoders=("spectral",), folds=("loso",), seeds=4)
    assert plan(wanted).parts[0].trainings == 3 * (1 + 4 + 4)


def test_weights_beside_the_corpus_are_found(place, monkeypatch, nver_home):
    folder = place / "weights" / "byols_512"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    built = []

    def load(choice):
        built.append(choice)
        return SimpleNamespace(card=SimpleNamespace(name=choice.name))

    monkeypatch.setattr(EncoderChoice, "load", load)
    planned = plan(Wanted(corpora=(_bursts(place),), folds=("loso",)))
    assert planned.encoders == ("spectral", "prosodic", "byol-s")
    assert built[-1] == EncoderChoice("byol-s", str(folder))
    missing = {one.name: one.how for one in planned.missing}
    assert set(missing) == {"languagebind", "imagebind", "wavlm", "unispeech-sat", "wav2vec2"}
    assert "nver fetch imagebind" in missing["imagebind"]
    assert "CC BY-NC-SA 4.0" in missing["imagebind"]


def test_weights_that_cannot_be_read_are_no_encoder(place):
    folder = place / "broken" / "byols_512"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"no weights")
    wanted = Wanted(corpora=(_bursts(place),), folds=("loso",), weights=place / "broken")
    assert plan(wanted).encoders == TWO


def test_without_corpora_it_says_where_to_get_them(tmp_path):
    with pytest.raises(SettingsError) as caught:
        plan(Wanted(root=tmp_path))
    told = str(caught.value)
    for part in ("None of the paper's corpora is here", "--corpus MANIFEST", "JNV: 420 clips"):
        assert part in told
    assert "https://zenodo.org/record/4066235" in told
    assert str(tmp_path / "vivae") in told


def test_a_paper_that_is_not_here_gets_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'mata'"):
        plan(Wanted("mta"))


def test_a_folder_of_weights_that_is_none_is_refused(place, tmp_path):
    with pytest.raises(SettingsError, match="--weights: there is no folder"):
        plan(Wanted(corpora=(_bursts(place),), weights=tmp_path / "nowhere"))


FAILING = """
from nver.fusion import Fusion


class Failing(Fusion):
    \"\"\"Cannot be built.\"\"\"

    def __init__(self, shape):
        raise RuntimeError("no such luck")

    def join(self, latents, moved, batch):
        return latents[0]
"""


def test_runs_and_index_are_left_and_a_part_that_fails_does_not_stop_the_others(
    place, tmp_path, monkeypatch
):
    own = tmp_path / "own.py"
    own.write_text(FAILING, encoding="utf-8")
    monkeypatch.setattr(planning, "GRID", ("lda",))
    wanted = Wanted(
        corpora=(_bursts(place),), encoders=TWO, folds=("column:nothing", "loso"), jobs=1
    )
    said: list[str] = []
    planned = plan(wanted)
    parts = [
        replace(part, settings=replace(part.settings, systems=("lda", f"{own}:Failing")))
        for part in planned.parts
    ]
    done = reproduce(replace(planned, parts=tuple(parts)), tmp_path / "out", tell=said.append)
    assert done.systems_failed == 1
    assert "failed in fold" in said[-1]
    assert "no such luck" in said[-1]
    assert [bool(part.reason) for part in done.parts] == [True, False]
    assert "Unknown column 'nothing'" in done.undone[0]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"bursts-loso", "index.html", "index.md"}
    text = (tmp_path / "out" / "index.md").read_text(encoding="utf-8")
    assert "bursts-loso/report.html" in text
    assert "| lda | spectral |" in text
    assert said[0].startswith("[1/2] bursts, folds of the column 'nothing'")


@pytest.mark.parametrize(
    ("reason", "clips", "systems", "code"),
    [
        ("", 0, 0, cli.DONE),
        ("", 2, 0, cli.SOME_CLIPS_FAILED),
        ("", 2, 1, cli.SOME_SYSTEMS_FAILED),
        ("it leaks", 2, 1, cli.ERROR),
    ],
)
def test_a_script_sees_what_failed(
    reason, clips, systems, code, place, tmp_path, monkeypatch, capsys
):
    done = Chapters(
        tmp_path / "index.html", (Chapter("bursts", "loso", "bursts-loso", reason),), clips, systems
    )
    monkeypatch.setattr("nver.reproduction.reproduce", lambda *_: done)
    argv = ["reproduce", "mata", "--corpus", _bursts(place), "-e", "spectral"]
    assert cli.main([*argv, "--out", str(tmp_path)]) == code
    told = capsys.readouterr().err
    assert ("2 clips failed" in told) is (clips == 2)
    assert ("1 system failed" in told) is (systems == 1)


def test_a_dry_run_says_the_plan_and_does_nothing(place, tmp_path, capsys):
    argv = ["reproduce", "mata", "--corpus", _bursts(place), "-e", "spectral", "--dry-run"]
    assert cli.main([*argv, "--out", str(tmp_path / "out")]) == cli.DONE
    told = capsys.readouterr().out
    assert "Encoders: spectral" in told
    assert "bursts, leave one speaker out: 9 trainings, about a minute" in told
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def jnv(place) -> Path:
    """Return a root with a corpus in the layout of JNV: 4 speakers, 6 emotions, 2 clips of each."""
    root = place / "corpora"
    clips = sorted((place / "data" / "bursts").rglob("*.wav"))
    emotions = ("angry", "disgust", "fear", "happy", "sad", "surprise")
    names = [
        f"{speaker}_{emotion}_0{take}_R.wav"
        for speaker in ("F1", "F2", "M1", "M2")
        for emotion in emotions
        for take in range(2)
    ]
    for clip, name in zip(clips, names, strict=True):
        (root / "jnv" / name[:2]).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, root / "jnv" / name[:2] / name)
    return root


def test_a_corpus_of_the_paper_is_judged_twice_beside_its_published_figures(
    jnv, tmp_path, monkeypatch
):
    monkeypatch.setattr(planning, "GRID", ("lda",))
    planned = plan(Wanted(root=jnv, encoders=("spectral",), jobs=1))
    assert [part.protocol for part in planned.parts] == ["random", "loso"]
    assert [one.name for one in planned.missing] == ["ASVP-ESD (update)", "VIVAE", "CREMA-D"]
    done = reproduce(planned, tmp_path)
    assert not done.undone
    text = (tmp_path / "index.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| lda | spectral |"))
    assert row.count("[") == 2
    assert "MATA: 77.40 / 76.19" in text
    assert "**VIVAE**: 1085 clips, 94 MB, licence" in text
    told = json.loads((tmp_path / "jnv-loso" / "run.json").read_text(encoding="utf-8"))
    assert {row["corpus"] for row in told["published"]} == {"jnv"}
    assert told["settings"]["recipe"] == "paper"
