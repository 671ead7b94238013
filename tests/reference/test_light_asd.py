"""Light-ASD's audio half gives the vectors of its reference implementation.

The checkpoint, ten real clips and their vectors (25 a second) of ../shared/weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nver.audio import Waveform
from nver.encoders.light_asd import LightASDEncoder

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def folder(shared_weights: Path) -> Path:
    return shared_weights / "light_asd"


@pytest.fixture(scope="module")
def clips(folder: Path) -> dict[str, tuple[Waveform, np.ndarray]]:
    """Return each clip with its reference vectors [frames, 128]."""
    with np.load(folder / "reference.npz") as file:
        names = [key.removeprefix("wav_") for key in file.files if key.startswith("wav_")]
        return {
            name: (
                Waveform(file[f"wav_{name}"].astype(np.float32) / 32768, 16000),
                file[f"emb_{name}"],
            )
            for name in names
        }


def test_the_reference_vectors_are_matched(folder: Path, clips):
    encoder = LightASDEncoder(folder)
    assert len(clips) == 10
    for waveform, expected in clips.values():
        with torch.inference_mode():
            found = encoder.forward(torch.from_numpy(encoder.frontend(waveform))[None])[0].numpy()
        assert found.shape == expected.shape
        error = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
        assert error.max() < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "mean+std"])
def test_the_embeddings_are_the_pooled_reference(folder: Path, clips, pooling: str):
    found = LightASDEncoder(folder, pooling=pooling).encode([clip for clip, _ in clips.values()])
    expected = np.stack(
        [np.concatenate([frames.mean(0), frames.std(0)]) for _, frames in clips.values()]
    )[:, : found.shape[1]]
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert error.max() < 1e-5


def test_a_clip_is_nearest_to_its_own_copies(folder: Path, clips):
    # A sanity check of the pretrained weights on these ten clips; it says nothing of emotions.
    encoder = LightASDEncoder(folder)
    waveforms = [waveform for waveform, _ in clips.values()]
    rng = np.random.default_rng(0)

    def noisy(clip: Waveform) -> Waveform:
        noise = 10 ** (-30 / 20) * clip.samples.std() * rng.standard_normal(clip.samples.shape)
        return Waveform(clip.samples + noise, clip.rate)

    copies = {
        "6 dB lower": [Waveform(clip.samples / 2, clip.rate) for clip in waveforms],
        "at 44.1 kHz": [clip.resample(44_100) for clip in waveforms],
        "noise 30 dB below": [noisy(clip) for clip in waveforms],
    }
    own = unit(encoder.encode(waveforms))
    for what, changed in copies.items():
        nearest = (unit(encoder.encode(changed)) @ own.T).argmax(axis=1)
        assert nearest.tolist() == list(range(10)), what


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
