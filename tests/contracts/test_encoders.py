"""Every encoder of the table keeps the contract of `nver.encoders.base`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contracts.checkpoints import ENCODER_OPTIONS

from nver.encoders import ENCODERS, load_encoder
from nver.encoders.conformance import check_encoder

pytestmark = pytest.mark.usefixtures("nver_home")  # audio towers are kept there


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks on several threads wait for each other longer than they compute."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", tuple(ENCODERS.table))
def test_an_encoder_of_the_table_conforms(name, tmp_path):
    encoder = load_encoder(name, **ENCODER_OPTIONS[name](tmp_path))
    check_encoder(encoder).raise_if_failed()


def test_no_encoder_of_the_table_is_left_out():
    assert set(ENCODER_OPTIONS) == set(ENCODERS.table), (
        "give every encoder of the table its options in contracts/checkpoints.py"
    )


@pytest.mark.parametrize("name", tuple(ENCODERS.table))
def test_two_instances_agree(name, tmp_path):
    options = ENCODER_OPTIONS[name](tmp_path)
    first, second = (load_encoder(name, **options).card for _ in range(2))
    assert first.fingerprint == second.fingerprint


def test_every_encoder_of_the_table_is_under_the_independence_contract():
    settings = Path(__file__).parents[2] / "pyproject.toml"
    for target in ENCODERS.table.values():
        assert f'"{target.partition(":")[0]}"' in settings.read_text(encoding="utf-8")
