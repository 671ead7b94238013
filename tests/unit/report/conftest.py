from __future__ import annotations

import json
from pathlib import Path

import pytest

from contracts.full_record import enrich
from nver.report.record import read_record
from unit.report.fake_run import FakeRun


@pytest.fixture
def fake() -> FakeRun:
    """Return a run that went well."""
    return FakeRun()


@pytest.fixture
def run_folder(fake: FakeRun, tmp_path: Path) -> Path:
    """Return the folder of a run that went well."""
    return fake.write(tmp_path / "run")


@pytest.fixture
def full(fake, tmp_path):
    """Return what writes a run that recorded everything and reads it, with scores changed."""

    def read(change=lambda scores, run: None):
        folder = enrich(fake.write(tmp_path / "run"))
        files = [folder / name for name in ("scores.json", "run.json")]
        contents = [json.loads(file.read_text()) for file in files]
        change(*contents)
        for file, content in zip(files, contents, strict=True):
            file.write_text(json.dumps(content))
        return read_record(folder)

    return read
