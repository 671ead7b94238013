"""Encoders on a GPU: the vectors of the CPU, and every batch exact."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from tests.contracts.encoder_options import ENCODER_OPTIONS

from nver.audio import Waveform
from nver.encoders import ENCODERS, load_encoder

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("nver_home")]


def _clips(rate=16_000):
    rng = np.random.default_rng(0)
    return [
        Waveform(rng.uniform(0.02, 0.4) * rng.standard_normal(round(seconds * rate)) + 0.01, rate)
        for seconds in (0.1, 6.0, 0.4, 2.3, 1.1, 3.0)
    ]


def _apart(found, expected):
    return (np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max()


@pytest.mark.parametrize("name", tuple(ENCODERS.table))
def test_an_encoder_gives_on_a_gpu_what_it_gives_on_the_cpu(name, tmp_path):
    if "device" not in inspect.signature(ENCODERS.load(name)).parameters:
        pytest.skip("runs on the CPU only")
    options = ENCODER_OPTIONS[name](tmp_path)
    there = load_encoder(name, **options, device="cuda")
    clips = _clips()
    found = there.encode(clips)
    assert _apart(found, load_encoder(name, **options).encode(clips)) <= 1e-4
    alone = np.concatenate([there.encode([clip]) for clip in clips])
    assert _apart(found, alone) <= 1e-5
    order = np.random.default_rng(1).permutation(len(clips))
    assert _apart(there.encode([clips[index] for index in order]), found[order]) <= 1e-5
