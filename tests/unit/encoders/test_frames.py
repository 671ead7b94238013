from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from nver.encoders.frames import (
    BLOCK,
    cosines,
    decibels,
    frames,
    mel_means,
    normalised,
    power_spectra,
    unit_window,
)


def noise(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def test_normalised_takes_offset_and_level_away_and_tells_the_peak():
    sound = noise(1000)
    found, peak = normalised(np.float32(0.25) * sound + np.float32(3))
    centred = sound - sound.mean()
    assert peak == pytest.approx(0.25 * np.abs(centred).max(), rel=1e-5)
    np.testing.assert_allclose(found, centred / np.abs(centred).max(), atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_a_constant_clip_becomes_zeros(level):
    found, peak = normalised(np.full(400, level, dtype=np.float32))
    assert not found.any()
    assert peak == 0


def test_frames_are_whole_and_a_short_clip_has_one():
    assert frames(np.arange(1000, dtype=np.float32), 400, 160).shape == (4, 400)
    short = frames(np.ones(10, dtype=np.float32), 400)
    assert short.shape == (1, 400)
    assert short.sum() == 10


def test_white_noise_has_its_variance_in_every_bin():
    power = np.concatenate(list(power_spectra(noise(160_000), 400, 257)))
    np.testing.assert_allclose(power[:, 1:-1].mean(axis=0), 1.0, atol=0.2)
    assert power[:, 1:-1].mean() == pytest.approx(1.0, abs=0.01)


def test_blocks_join_to_all_frames():
    blocks = list(power_spectra(noise(160 * (2 * BLOCK + 7) + 400), 400, 257))
    assert [len(block) for block in blocks] == [BLOCK, BLOCK, 8]


def test_the_window_has_unit_energy():
    assert np.sum(unit_window(400).astype(np.float64) ** 2) == pytest.approx(1.0, abs=1e-6)


def test_mel_bands_average():
    np.testing.assert_allclose(np.ones(257) @ mel_means(40, 257), 1.0, atol=1e-5)


def test_cosines_are_the_orthonormal_transform_of_scipy():
    contour = np.random.default_rng(1).standard_normal(50)
    np.testing.assert_allclose(
        cosines(50, 50) @ contour, fft.dct(contour, norm="ortho"), atol=1e-12
    )


def test_shared_tables_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        cosines(3, 10)[0, 0] = 1.0


def test_decibels_have_a_floor_under_the_loudest_and_an_absolute_one():
    power = np.array([1.0, 1e-3, 0.0])
    np.testing.assert_allclose(decibels(power), [0.0, -30.0, -100.0])
    np.testing.assert_allclose(decibels(power, 20.0), [0.0, -20.0, -20.0])
