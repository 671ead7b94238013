"""Whether products are done in tiles of wide vectors."""

import pytest

from nver.scaling import tiles

numba = pytest.importorskip("numba")


@pytest.mark.parametrize(
    ("features", "wide"), [("", False), ("+avx2,-avx512f", False), ("+avx2,+avx512f", True)]
)
def test_tiles_are_for_what_numba_compiles_for_not_for_the_machine(monkeypatch, features, wide):
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    assert tiles._wide_registers() is wide


def test_switching_avx_off_switches_tiles_off(monkeypatch):
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    monkeypatch.setattr(numba.config, "ENABLE_AVX", 0)
    assert not tiles._wide_registers()
