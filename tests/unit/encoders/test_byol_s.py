"""BYOL-S on a random checkpoint: shapes, options, fingerprints, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.contracts.checkpoints import write_byol_s

from nver.audio import Waveform
from nver.encoders import load_encoder
from nver.encoders.byol_s import ByolSEncoder
from nver.errors import CheckpointError, SettingsError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byol_s(tmp_path_factory.mktemp("weights") / "byols_512")


def noise(samples: int, seed: int = 0) -> Waveform:
    rng = np.random.default_rng(seed)
    return Waveform(0.1 * rng.standard_normal(samples).astype(np.float32), 16000)


def test_the_card_says_what_it_is(folder: Path):
    card = load_encoder("byol-s", checkpoint=folder).card
    assert (card.name, card.dim, card.rate, card.licence) == ("byol-s", 512, 16000, "MIT")
    assert card.parameters == 600_192
    assert card.min_seconds == pytest.approx(0.07)
    assert card.download_bytes == (folder / "model.safetensors").stat().st_size
    assert card.facts["mean"] == "-6.9"


def test_it_is_found_by_its_folder_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NVER_WEIGHTS", str(folder.parent))
    assert load_encoder("byol-s").card == load_encoder("byol-s", checkpoint=folder).card


def test_without_a_checkpoint_it_says_what_to_pass(nver_home: Path):
    with pytest.raises(
        CheckpointError, match=r"looked for a folder byol-s or byols_512 in .*-e by"
    ):
        load_encoder("byol-s")


def test_the_input_is_normalised(folder: Path):
    plain = ByolSEncoder(folder, mean=0.0, std=1.0).frontend(noise(16000))
    assert plain.shape == (64, 101)
    shifted = ByolSEncoder(folder, mean=-5.0, std=2.0).frontend(noise(16000))
    np.testing.assert_allclose(shifted, (plain + 5.0) / 2.0, rtol=1e-6)


def test_short_clips_are_padded_to_eight_frames(folder: Path):
    encoder = ByolSEncoder(folder)
    assert encoder.frontend(noise(1)).shape == (64, 8)
    assert np.isfinite(encoder.encode([noise(1), noise(600)])).all()


def test_clips_do_not_change_each_other(folder: Path):
    encoder = ByolSEncoder(folder)
    clips = [noise(n, seed) for seed, n in enumerate((16000, 16000, 9000, 40000, 16000, 1000))]
    together = encoder.encode(clips)
    alone = np.concatenate([encoder.encode([clip]) for clip in clips])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6 * np.abs(alone).max())
    assert np.ptp(together, axis=0).max() > 0.01


def test_the_fingerprint_follows_what_changes_the_numbers(folder: Path, tmp_path: Path):
    encoders = [
        ByolSEncoder(folder),
        ByolSEncoder(folder, mean=-6.0),
        ByolSEncoder(folder, std=4.0),
        ByolSEncoder(write_byol_s(tmp_path, seed=1)),
    ]
    assert len({encoder.card.fingerprint for encoder in encoders}) == len(encoders)
    assert ByolSEncoder(folder).card.fingerprint == encoders[0].card.fingerprint


def test_a_std_of_zero_is_refused(folder: Path):
    with pytest.raises(SettingsError, match=r"The std of 'byol-s' must be positive, it is 0\.0\."):
        ByolSEncoder(folder, std=0.0)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path):
    path = write_byol_s(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    tensors["fc.6.bias"] = tensors.pop("fc.3.bias")
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=r"1 missing \(fc.3.bias\), 1 unexpected \(fc.6.bias\)"
    ):
        ByolSEncoder(tmp_path)
