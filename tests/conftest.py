"""What every test may ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

# Many small networks: threads that wait for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test asks a hub; those of downloads serve one themselves.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Laws are tried on the same examples each time, however slow the machine is; `make test-all` tries
# others (--hypothesis-profile search).
settings.register_profile(
    "search", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("fixed", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("fixed")

SHARED = Path(os.environ.get("NVER_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def _folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {name}/ of the shared folder beside the checkout (or $NVER_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def _noise_of_its_own() -> None:
    """Let no test's numbers depend on how often those before it drew from PyTorch's generator."""
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(0)


@pytest.fixture
def nver_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty NVER_HOME of this test's own."""
    folder = tmp_path / "nver_home"
    monkeypatch.setenv("NVER_HOME", str(folder))
    monkeypatch.delenv("NVER_WEIGHTS", raising=False)
    return folder


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave arguments' shapes unchecked: for thousands of small calls like those of other tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def in_tritons_interpreter() -> Callable[[Callable[[], None]], None]:
    """Return what passes if a test does where Triton's programs are interpreted on a CPU.

    The test runs in a process of its own: Triton looks at the variable when it is imported.
    """
    pytest.importorskip("triton")

    def run(test: Callable[[], None]) -> None:
        name = f"{test.__code__.co_filename}::{test.__name__}"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", name]
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert "1 passed" in done.stdout, done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real clips, or skip."""
    return _folder("data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Return the folder of small real checkpoints, or skip."""
    return _folder("weights")


@pytest.fixture(scope="session")
def shared_parity() -> Path:
    """Return the folder of reference inputs and outputs, or skip."""
    return _folder("parity")
