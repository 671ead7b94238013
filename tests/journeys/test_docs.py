"""The examples of the documentation run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import nver
from nver import cli
from nver.perturbation import PERTURBATIONS
from nver.protocols import PROTOCOLS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def _blocks(page: str) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def test_add_an_encoder(capsys) -> None:
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(_blocks("add-an-encoder.md"), "add-an-encoder.md", "exec"), names)  # noqa: S102
    assert names["Loudness"]().card.dim == 5


def test_add_a_fusion(bursts, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my_fusion.py"
    file.write_text(_blocks("add-a-fusion.md"), encoding="utf-8")
    own, out = "my_fusion.py:Gated", str(tmp_path / "run")
    command = [
        "evaluate",
        str(bursts),
        "-e",
        "spectral",
        "-e",
        "prosodic",
        "--folds",
        "column:fold",
    ]
    command += ["-s", own, "-s", "concat-lda", "--seeds", "1", "--jobs", "1", "--out", out]
    assert cli.main(command) == cli.DONE
    assert cli.main(["compare", out, "-s", own, "-s", "concat-lda"]) == cli.DONE
    told = " ".join(capsys.readouterr().out.split())
    assert f"{own} (spectral+prosodic) " in told
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    (entry,) = (entry for entry in run["systems"] if entry["name"] == own)
    assert entry["summary"] == "A weighted mean of the branches; the weights are the clip's own"


def test_from_python(tmp_path, monkeypatch) -> None:
    from nver.corpora import synthesis

    whole = synthesis.synthesise
    monkeypatch.setattr(
        synthesis, "synthesise", lambda folder, **_: whole(folder, speakers=5, takes=1)
    )
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)  # no processes for quick systems
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NVER_HOME", str(tmp_path / "home"))
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(_blocks("python.md"), "python.md", "exec"), names)  # noqa: S102
    assert names["run"].scores["systems"]
    assert isinstance(names["dataset"], nver.EmbeddingDataset)


def test_calibration_from_python(capsys) -> None:
    pytest.importorskip("mapie")
    exec(compile(_blocks("calibration.md"), "calibration.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.splitlines() == ["0.15", "[0.75 0.25]", "[ True  True]"]


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_every_page_is_in_the_contents(page: str) -> None:
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    assert page == "index.md" or f"\n{page.removesuffix('.md')}\n" in contents


def test_every_protocol_stands_in_the_docs_with_its_warning() -> None:
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    for protocol in PROTOCOLS.values():
        assert f"| `{protocol.name}` | {protocol.summary} | {protocol.warning} |" in page


def test_every_perturbation_stands_in_the_docs_with_its_range() -> None:
    page = (DOCS / "robustness.md").read_text(encoding="utf-8")
    for kind in PERTURBATIONS.values():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{kind.name}"))
        if kind.value is not None:
            assert line.startswith(f"| `{kind.name}:{kind.unit}` |")
            assert line.endswith(f"| {kind.low:g} to {kind.high:g}, usually {kind.value:g} |")
