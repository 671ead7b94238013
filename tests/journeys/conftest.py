from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from brief_training import train_briefly
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
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager]:
    """Return what prepares a journey.

    All share an NVER_HOME, so that each clip is encoded once, and their networks train for a few
    steps: what these learn is asked elsewhere.
    """
    home = tmp_path_factory.mktemp("home")

    @contextmanager
    def prepare() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NVER_HOME", str(home))
            patch.delenv("NVER_WEIGHTS", raising=False)
            train_briefly(patch)
            yield

    return prepare


@pytest.fixture(autouse=True)
def _prepared(prepared: Callable[[], AbstractContextManager]) -> Iterator[None]:
    with prepared():
        yield
