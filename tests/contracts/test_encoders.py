"""Every encoder of the table keeps the contract of `nver.encoders.base`."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.contracts.encoder_options import ENCODER_OPTIONS

from nver.audio import Waveform
from nver.encoders import CATALOGUE, ENCODERS, Encoder, load_encoder
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


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Encoder]:
    """Return a function that builds an encoder of the table on a tiny random checkpoint."""
    root = tmp_path_factory.mktemp("checkpoints")
    options = {}

    def built(name: str) -> Encoder:
        if name not in options:
            options[name] = ENCODER_OPTIONS[name](root / name)
        return load_encoder(name, **options[name])

    return built


@pytest.mark.parametrize("name", tuple(ENCODERS.table))
def test_an_encoder_of_the_table_conforms(name: str, load):
    check_encoder(load(name)).raise_if_failed()


@pytest.mark.parametrize("name", tuple(ENCODERS.table))
def test_batches_are_exact(name: str, load):
    """Single = shuffled = sorted batch, for clips of 0.1 to 15 s of which no two are as long."""
    encoder = load(name)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    seconds = np.concatenate([[0.1, 15.0], np.exp(rng.uniform(np.log(0.1), np.log(4.0), 6))])
    clips = [
        Waveform(
            rng.uniform(0.01, 0.5) * rng.standard_normal(round(length * 16_000)) + 0.02, 16_000
        )
        for length in seconds
    ]
    alone = np.concatenate([encoder.encode([clip]) for clip in clips])
    for order in (rng.permutation(8), np.argsort(-seconds)):
        found = encoder.encode([clips[index] for index in order])
        errors = np.abs(found - alone[order]).max(axis=1) / np.abs(alone[order]).max(axis=1)
        assert errors.max() <= 1e-5
    assert np.ptp(alone, axis=0).max() > 1e-3 * np.abs(alone).max()


def test_no_encoder_of_the_table_is_left_out():
    assert set(ENCODER_OPTIONS) == set(ENCODERS.table), (
        "give every encoder of the table its options in contracts/encoder_options.py"
    )


@pytest.mark.parametrize("name", tuple(ENCODERS.table))
def test_two_instances_agree(name: str, load):
    assert load(name).card.fingerprint == load(name).card.fingerprint


def test_every_encoder_of_the_table_is_in_the_catalogue():
    assert tuple(CATALOGUE) == tuple(ENCODERS.table)
    for name, entry in CATALOGUE.items():
        assert entry.summary, name
        assert entry.licence, name


@pytest.mark.parametrize("name", tuple(ENCODERS.table))
def test_the_catalogue_agrees_with_the_card(name: str, load):
    entry, card = CATALOGUE[name], load(name).card
    assert (entry.rate, entry.modality) == (card.rate, card.modality)
    if entry.modality == "weight-free":
        assert (entry.dim, entry.licence) == (str(card.dim), card.licence)


def test_every_encoder_of_the_table_is_under_the_independence_contract():
    settings = Path(__file__).parents[2] / "pyproject.toml"
    for target in ENCODERS.table.values():
        assert f'"{target.partition(":")[0]}"' in settings.read_text(encoding="utf-8")
