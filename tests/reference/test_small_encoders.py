"""BYOL-S and EfficientAT mn04 give the embeddings of their reference implementations.

The checkpoints, clips and embeddings of ../shared/weights: ten real clips each, already at the
network's rate. What may differ is rounding: a relative 1e-5 of the largest value, as the law says.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nver.audio import Waveform
from nver.encoders import load_encoder

CASES = {
    "byol-s": ("byol-s", "byols_512", {}, "emb_"),
    "mn04": ("efficientat-mn04", "efficientat_mn04", {}, "emb_"),
    "mn04 features.11": (
        "efficientat-mn04",
        "efficientat_mn04",
        {"layer": "features.11"},
        "l11_",
    ),
}


@pytest.mark.weights
@pytest.mark.parametrize("case", CASES)
def test_the_reference_embeddings_are_matched(case: str, shared_weights: Path):
    name, folder, options, prefix = CASES[case]
    encoder = load_encoder(name, checkpoint=shared_weights / folder, **options)
    with np.load(shared_weights / folder / "reference.npz") as reference:
        clips = [key.removeprefix("wav_") for key in reference.files if key.startswith("wav_")]
        waveforms = [
            Waveform(reference[f"wav_{clip}"].astype(np.float32) / 32768, encoder.card.rate)
            for clip in clips
        ]
        expected = np.stack([reference[prefix + clip] for clip in clips])
    assert len(clips) == 10
    found = encoder.encode(waveforms)
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert error.max() < 1e-5
