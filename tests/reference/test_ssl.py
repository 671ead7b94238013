"""Dasheng, EAT and BEATs give what their reference implementations give.

The outputs of ``data/``, made by make_ssl_references.py with drawn weights on drawn clips: the
network's input, every state of the tiny networks, the embeddings of three durations, and those of
the published sizes. What may differ is rounding: 1e-5 of the largest value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.contracts.checkpoints import write_checkpoint
from tests.contracts.checkpoints_ssl import (
    BEATS_CONFIG,
    BEATS_FULL,
    EAT_CONFIG,
    FULL,
    beats_tensors,
    burst,
    dasheng_tensors,
    eat_tensors,
    save_wrapped,
    write_beats,
    write_dasheng,
    write_eat,
)

from nver.audio import Waveform
from nver.encoders.beats import BEATsEncoder
from nver.encoders.dasheng import DashengEncoder
from nver.encoders.eat import EATEncoder

DATA = Path(__file__).parent / "data"
ENCODERS: dict[str, Any] = {
    "dasheng": (DashengEncoder, write_dasheng),
    "eat": (EATEncoder, write_eat),
    "beats": (BEATsEncoder, write_beats),
}
MEANS = [
    ("dasheng", 0.4, "mean", {}),
    ("dasheng", 2.7, "mean", {}),
    ("dasheng", 11.5, "mean", {}),
    ("dasheng", 11.5, "padded", {"last": "padded"}),
    ("eat", 0.4, "mean", {"pooling": "mean"}),
    ("eat", 0.4, "cls", {}),
    ("eat", 0.4, "cls of 1024", {"frames": 1024}),
    ("eat", 2.7, "mean", {"pooling": "mean"}),
    ("eat", 2.7, "cls", {}),
    ("eat", 2.7, "cls of 1024", {"frames": 1024}),
    ("beats", 0.4, "mean", {}),
    ("beats", 2.7, "mean", {}),
    ("beats", 11.5, "mean", {}),
]


def clip(seconds: float) -> Waveform:
    return Waveform(burst(seconds), 16_000)


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


def far(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ssl")
    return {name: write(folder / name) for name, (_, write) in ENCODERS.items()}


@pytest.mark.parametrize(("name", "seconds", "kind", "options"), MEANS)
def test_the_embeddings(checkpoints, name: str, seconds: float, kind: str, options: dict):
    encoder = ENCODERS[name][0](checkpoints[name], **options)
    found = encoder.encode([clip(seconds)])[0]
    assert far(found, reference(name)[f"{seconds}/{kind}"]) < 1e-5


@pytest.mark.parametrize("name", ENCODERS)
def test_the_networks_input(checkpoints, name: str):
    expected = reference(name)["0.4/input"]
    encoder = ENCODERS[name][0](checkpoints[name])
    found = encoder.frontend(clip(0.4))
    if name == "eat":
        (window,) = encoder.windows(found)
        found = window.spectrogram
    assert far(found, expected) < 1e-4  # near the logarithm's floor the reference rounds as much
    assert np.abs(found - expected).mean() < 1e-5


@pytest.mark.parametrize("name", ENCODERS)
def test_every_state(checkpoints, name: str):
    states = reference(name)["0.4/states"]
    assert len(states) == 3
    patches = states[:, 1:] if name == "eat" else states
    encoder = ENCODERS[name][0](checkpoints[name], layer="all", pooling="mean+std")
    expected = np.concatenate([[s.mean(0), s.std(0)] for s in patches])
    found = encoder.encode([clip(0.4)])[0].reshape(expected.shape)
    for number, (own, theirs) in enumerate(zip(found, expected, strict=True)):
        assert far(own, theirs) < 1e-5, number


def test_beats_with_the_norms_first(tmp_path: Path):
    config = BEATS_CONFIG | {"layer_norm_first": True, "deep_norm": False}
    path = save_wrapped(tmp_path / "first.pt", beats_tensors(), "cfg", config)
    found = BEATsEncoder(path).encode([clip(2.7)])[0]
    assert far(found, reference("beats")["norms first"]) < 1e-5


@pytest.mark.slow
def test_dasheng_base(tmp_path: Path):
    path = tmp_path / "dasheng.safetensors"
    save_file(dasheng_tensors(FULL), path)
    encoder = DashengEncoder(path)
    assert (encoder.card.dim, encoder.card.parameters) == (768, reference("dasheng")["parameters"])
    assert far(encoder.encode([clip(0.4)])[0], reference("dasheng")["full"]) < 1e-5


@pytest.mark.slow
def test_eat_base(tmp_path: Path):
    config = EAT_CONFIG | FULL
    encoder = EATEncoder(write_checkpoint(tmp_path, config, eat_tensors(config)))
    assert (encoder.card.dim, encoder.card.parameters) == (768, reference("eat")["parameters"])
    assert far(encoder.encode([clip(0.4)])[0], reference("eat")["full"]) < 1e-5


@pytest.mark.slow
def test_beats_iter3(tmp_path: Path):
    path = save_wrapped(tmp_path / "beats.pt", beats_tensors(BEATS_FULL), "cfg", BEATS_FULL)
    encoder = BEATsEncoder(path)
    assert (encoder.card.dim, encoder.card.parameters) == (768, reference("beats")["parameters"])
    assert far(encoder.encode([clip(2.7)])[0], reference("beats")["full"]) < 1e-5
