from __future__ import annotations

from pathlib import Path

import pytest

from nver.corpora.synthesis import synthesise


@pytest.fixture(scope="session")
def bursts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest of 48 synthetic bursts: 8 labels, 3 speakers, 2 takes."""
    folder = tmp_path_factory.mktemp("bursts")
    synthesise(folder / "clips", speakers=3, takes=2)
    return _manifest(folder)


def _manifest(folder: Path) -> Path:
    rows = ["file,label,speaker,fold"]
    for path in sorted((folder / "clips").rglob("*.wav")):
        speaker, label, _ = path.stem.split("_")
        rows.append(f"{path.relative_to(folder).as_posix()},{label},{speaker},{speaker}")
    manifest = folder / "bursts.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an NVER_HOME that the journeys share, so that each clip is encoded once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVER_HOME", str(shared_home))
    monkeypatch.delenv("NVER_WEIGHTS", raising=False)
