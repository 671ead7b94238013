from __future__ import annotations

from pathlib import Path

import pytest

from unit.report.fake_run import FakeRun


@pytest.fixture
def fake() -> FakeRun:
    """Return a run that went well."""
    return FakeRun()


@pytest.fixture
def run_folder(fake: FakeRun, tmp_path: Path) -> Path:
    """Return the folder of a run that went well."""
    return fake.write(tmp_path / "run")
