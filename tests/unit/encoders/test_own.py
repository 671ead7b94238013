"""Encoders that are in no table, and what the catalogue makes of a name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.contracts.encoder_options import ENCODER_OPTIONS

from nver import Waveform, cli
from nver.encoders import catalogue, load_encoder
from nver.encoders.own import TYPES
from nver.errors import (
    CheckpointError,
    EncoderError,
    MissingExtraError,
    SettingsError,
    UnknownNameError,
)

pytestmark = pytest.mark.usefixtures("nver_home")

FLAT = """
import numpy as np
from nver.encoders import Encoder, EncoderCard


class Level(Encoder):
    def __init__(self, columns=2):
        self.columns = columns

    @property
    def card(self):
        return EncoderCard(
            name="level", summary="level", dim=self.columns, rate=16_000, modality="weight-free",
            pooling="mean", licence="Apache-2.0", citation="none", revision="1",
        )

    def features(self, samples):
        return samples

    def embed(self, inputs):
        rows = [[np.abs(x).mean(), x.std()] + [0] * (self.columns - 2) for x in inputs]
        return np.array(rows, dtype=np.float32)


class Leaky(Level):
    def embed(self, inputs):
        return super().embed(inputs) + np.float32(max(map(len, inputs)))


class Short(Level):
    def embed(self, inputs):
        return super().embed(inputs)[:, 1:]


numbers = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FLAT, encoding="utf-8")
    return path


def test_a_class_in_a_file_is_an_encoder(file: Path):
    encoder = load_encoder(f"{file}:Level", columns=4)
    assert encoder.encode([Waveform(np.ones(16_000), 16_000)]).shape == (1, 4)


def test_the_command_line_checks_it(file: Path, capsys):
    assert cli.main(["encoders", "--check", f"{file}:Level"]) == cli.DONE
    assert "ok   alone_as_in_batch" in capsys.readouterr().out
    assert cli.main(["encoders", "--check", f"{file}:Leaky", "--json"]) == cli.ERROR
    report = json.loads(capsys.readouterr().out)
    assert not report["passed"]
    failed = {row["name"] for row in report["checks"] if not row["passed"]}
    assert "alone_as_in_batch" in failed


def noises(folder: Path) -> None:
    """Write two clips, of two classes."""
    import soundfile

    for index, label in enumerate("ab"):
        (folder / label).mkdir()
        sound = np.random.default_rng(index).uniform(-0.5, 0.5, 16_000)
        soundfile.write(folder / label / "x.wav", sound, 16_000)


@pytest.mark.parametrize("command", ["embed", "evaluate"])
def test_an_encoder_that_fails_on_every_clip_is_blamed_and_not_the_clips(
    file: Path, tmp_path: Path, capsys, command: str
):
    noises(tmp_path)
    (tmp_path / "b" / "y.wav").write_bytes(b"no sound")
    out = ["--out", str(tmp_path / "run")] if command == "evaluate" else []
    own = f"{file}:Short,columns=3"
    argv = [command, str(tmp_path), "-e", "spectral", "-e", own, *out]
    assert cli.main(argv) == cli.ERROR
    said = capsys.readouterr().err
    assert f"Encoder '{own}' fails on every clip: 2 tried; the first, a/x.wav: " in said
    assert said.rstrip().endswith(f"Check it: nver encoders --check {own}")
    assert "Mend these files" not in said


def test_an_encoder_that_fails_on_some_clips_is_not_blamed(file: Path, tmp_path: Path, capsys):
    noises(tmp_path)
    text = file.read_text(encoding="utf-8").replace("[:, 1:]", "[:, int(len(inputs[0]) < 9_000):]")
    file.write_text(text, encoding="utf-8")
    import soundfile

    soundfile.write(tmp_path / "b" / "short.wav", np.linspace(-0.5, 0.5, 8_000), 16_000)
    assert (
        cli.main(["embed", str(tmp_path), "-e", f"{file}:Short", "--json"]) == cli.SOME_CLIPS_FAILED
    )
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert failure["file"] == "b/short.wav"


def test_a_corpus_is_embedded_with_it(file: Path, tmp_path: Path, capsys):
    noises(tmp_path)
    command = ["embed", str(tmp_path), "-e", f"{file}:Level,columns=3", "--json"]
    assert cli.main(command) == cli.DONE
    assert json.loads(capsys.readouterr().out)["encoded"] == 2


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("absent.py:Level", EncoderError, "there is no file"),
        ("{file}:Levle", UnknownNameError, "Did you mean 'Level'?"),
        ("{file}:Level", SettingsError, "takes columns; got an unexpected keyword"),
        ("{broken}:Level", EncoderError, "cannot be run: ZeroDivisionError"),
    ],
)
def test_what_is_no_encoder_is_said(file: Path, tmp_path: Path, name, error, message):
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0", encoding="utf-8")
    options = {"rows": 3} if error is SettingsError else {}
    with pytest.raises(error, match=message):
        load_encoder(name.format(file=file, broken=broken), **options)


def test_something_else_in_a_file_is_refused(file: Path):
    with pytest.raises(EncoderError, match=r"must name a class or function, 'numbers' is a int"):
        load_encoder(f"{file}:numbers")


@pytest.mark.parametrize("name", ["whisper", "w2v-bert", "ast", "clap", "pe-audio", "hubert"])
def test_any_known_network_is_read_by_its_type(name: str, tmp_path: Path):
    checkpoint = ENCODER_OPTIONS[name](tmp_path)["checkpoint"]
    kind = json.loads((checkpoint / "config.json").read_text())["model_type"]
    found = load_encoder(f"hf:{checkpoint}", alias="x").card
    expected = load_encoder(TYPES[kind], checkpoint=checkpoint, alias="x").card
    assert found.fingerprint == expected.fingerprint


def test_an_unknown_network_is_said(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "wisper"}', encoding="utf-8")
    with pytest.raises(EncoderError, match=r"says 'wisper'. The nearest one is 'whisper'"):
        load_encoder(f"hf:{tmp_path}")
    with pytest.raises(CheckpointError, match=r"takes a hub id .* 'nowhere' is neither"):
        load_encoder("hf:nowhere")
    with pytest.raises(CheckpointError, match="'org/name' would have to be downloaded"):
        load_encoder("hf:org/name")
    with pytest.raises(SettingsError, match="names its checkpoint"):
        load_encoder("hf:org/name", checkpoint="else")


def test_a_foreign_family_is_refused(tmp_path: Path):
    checkpoint = ENCODER_OPTIONS["hubert"](tmp_path)["checkpoint"]
    with pytest.raises(EncoderError, match=r"'wavlm' reads model_type wavlm; .* says 'hubert'\.$"):
        load_encoder("wavlm", checkpoint=checkpoint)


def test_names_find_their_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert catalogue.checkpoint_of("wavlm", None) == "microsoft/wavlm-base"
    assert catalogue.checkpoint_of("wavlm", "large") == "microsoft/wavlm-large"
    assert catalogue.checkpoint_of("wavlm", "org/other") == "org/other"
    assert catalogue.checkpoint_of("imagebind", None) is None
    monkeypatch.setenv("NVER_WEIGHTS", str(tmp_path))
    (tmp_path / "wavlm-base").mkdir()
    (tmp_path / "wavlm-base" / "model.safetensors").touch()
    assert catalogue.checkpoint_of("wavlm", None) == tmp_path / "wavlm-base"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large").mkdir()
    assert catalogue.checkpoint_of("wavlm", "large") == "large"


@pytest.mark.parametrize(
    ("name", "checkpoint", "licence"),
    [
        ("imagebind", "anything", "CC BY-NC-SA 4.0 (non-commercial)"),
        ("mms", "/models/tuned", "CC BY-NC 4.0 (non-commercial)"),
        ("speech", "facebook/mms-300m@main", "CC BY-NC 4.0 (non-commercial)"),
        ("wav2vec2", "/models/wav2vec2-base/", "Apache-2.0"),
        ("wav2vec2", "/models/tuned", catalogue.PAGE),
        ("unheard-of", "x/y", catalogue.PAGE),
    ],
)
def test_licences_are_those_that_are_known(name: str, checkpoint: str, licence: str):
    assert catalogue.licence_of(name, checkpoint) == licence


def test_the_listing_builds_and_downloads_nothing(tmp_path: Path, capsys, monkeypatch):
    from nver.encoders import ENCODERS

    def refused(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(type(ENCODERS), "load", lambda self, name: refused(name))
    weights = tmp_path / "nver_home" / "weights" / "imagebind"
    weights.mkdir(parents=True)
    (weights / "tower.safetensors").touch()
    assert cli.main(["encoders", "--json"]) == cli.DONE
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["imagebind"]["available"]
    assert rows["imagebind"]["checkpoint"] == str(weights)
    assert rows["spectral"]["available"]
    assert not rows["languagebind"]["available"]
    assert "nver fetch languagebind" in rows["languagebind"]["reason"]
    assert "-e byol-s=CHECKPOINT" in rows["byol-s"]["reason"]


def test_an_encoder_is_described_with_its_options(capsys):
    assert cli.main(["encoders"]) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(catalogue.CATALOGUE)
    assert cli.main(["encoders", "wavlm"]) == cli.DONE
    told = " ".join(capsys.readouterr().out.split())  # however wide the terminal is
    assert "large microsoft/wavlm-large" in told
    assert "pooling mean" in told
    assert cli.main(["encoders", "wavlmm"]) == cli.ERROR


def test_a_changed_file_never_meets_old_embeddings(file: Path):
    before = load_encoder(f"{file}:Level")
    file.write_text(FLAT.replace("x.std()", "x.max()"), encoding="utf-8")
    after = load_encoder(f"{file}:Level")
    assert before.card.fingerprint != after.card.fingerprint
    assert before.card.name == after.card.name


def test_an_incomplete_class_is_told_what_it_lacks(tmp_path: Path):
    path = tmp_path / "half.py"
    path.write_text(FLAT.replace("def embed", "def embedd"), encoding="utf-8")
    with pytest.raises(EncoderError, match=r"Level' lacks embed: a class needs card, features and"):
        load_encoder(f"{path}:Level")
    with pytest.raises(SettingsError, match=r"named FILE.py:CLASS, '.*half\.py' has no class"):
        load_encoder(str(path))


def test_fetch_says_where_weights_are(tmp_path: Path, capsys):
    checkpoint = ENCODER_OPTIONS["imagebind"](tmp_path)["checkpoint"]
    assert cli.main(["fetch", f"imagebind={checkpoint}", "--json"]) == cli.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["already"]
    assert "non-commercial" in found["licence"]
    assert cli.main(["fetch", f"imagebind={checkpoint}"]) == cli.DONE
    assert "imagebind" in capsys.readouterr().out
    assert cli.main(["fetch", "imagebnid"]) == cli.ERROR
    assert "Did you mean 'imagebind'?" in capsys.readouterr().err
    assert cli.main(["fetch", "vivae"]) == cli.ERROR
    assert "'vivae' is a corpus, and only weights are fetched" in capsys.readouterr().err
    assert cli.main(["fetch", "spectral"]) == cli.ERROR
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_extra_names_the_encoder_that_needs_it(monkeypatch):
    def refuse(name, checkpoint):
        raise MissingExtraError("This needs the package 'x'.")

    monkeypatch.setattr("nver.encoders.checkpoint_of", refuse)
    with pytest.raises(MissingExtraError, match=r"Encoder 'wavlm': This needs the package 'x'\."):
        load_encoder("wavlm")
