from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import find_peaks

from nver.encoders.contours import (
    FRAME_RATE,
    active,
    deltas,
    loudness,
    modulation,
    modulation_spectrum,
    moments,
    peaks,
    quantiles,
    runs,
    span,
    spread,
    trend,
    weighted,
)


def swing(hertz, seconds=2.0):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * FRAME_RATE)) / FRAME_RATE)


def test_quantiles_are_numpys():
    values = np.random.default_rng(0).standard_normal((3, 17))
    levels = (0.0, 0.1, 0.5, 0.93, 1.0)
    np.testing.assert_allclose(quantiles(values, levels), np.quantile(values, levels, axis=1))


def test_moments_are_named_after_their_contours():
    found = moments(["a", "b"], np.array([[1.0, 3.0], [2.0, 2.0]]), (0.5,))
    assert found == {
        "a_mean": 2.0,
        "b_mean": 2.0,
        "a_sd": 1.0,
        "b_sd": 0.0,
        "a_q50": 2.0,
        "b_q50": 2.0,
    }


def test_a_measure_that_is_nowhere_defined_has_its_neutral_value():
    assert spread("f0", np.empty(0), empty=-3.0, levels=(0.5,)) == {
        "f0_mean": -3.0,
        "f0_sd": 0.0,
        "f0_q50": -3.0,
    }


def test_equal_weights_give_plain_moments():
    values = np.random.default_rng(0).standard_normal((2, 9))
    assert weighted(["a", "b"], values, np.full(9, 1 / 9)) == pytest.approx(
        moments(["a", "b"], values)
    )


def test_loudness_counts_silent_frames_for_nothing_and_ten_decibels_for_two():
    weights = loudness(np.array([1.0, 0.1, 0.0]))
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] / weights[1] == pytest.approx(10**0.3)
    assert weights[2] / weights[0] < 2e-3


def test_trend_of_a_ramp():
    found = trend("x", np.linspace(-2.0, 4.0, 100))
    assert found["x_slope"] == pytest.approx(6.0)
    assert found["x_end_less_begin"] == pytest.approx(6.0)
    assert (found["x_time_of_min"], found["x_time_of_max"]) == (0.0, 1.0)
    assert found["x_rising"] == 1.0
    assert found["x_dct1"] < 0  # the first cosine falls
    assert found["x_dct2"] == pytest.approx(0.0, abs=1e-12)


def test_trend_does_not_depend_on_the_frame_count():
    time = np.linspace(0.0, 1.0, 2001)
    curve = np.sin(5 * time) + time
    short, long = trend("x", curve[::20]), trend("x", curve[::4])
    for name in ("x_slope", "x_dct1", "x_dct3", "x_time_of_max"):
        assert short[name] == pytest.approx(long[name], abs=0.03)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_contours_have_finite_functionals(count):
    contour = np.arange(count, dtype=float)
    found = trend("x", contour) | modulation("x", contour, (0.5, 5.0, 50.0))
    assert np.isfinite(list(found.values())).all()


@pytest.mark.parametrize("hertz", [2.5, 5.0, 11.0])
def test_the_modulation_of_a_swing_is_at_its_frequency(hertz):
    frequency, power = modulation_spectrum(swing(hertz) + 7.0)
    assert frequency[power.argmax()] == pytest.approx(hertz, abs=0.1)


def test_modulation_bands_are_named_in_hertz():
    found = modulation("energy", swing(5.0), (2.0, 4.0, 6.0, 10.0))
    assert list(found) == ["energy_mod_2-4hz", "energy_mod_4-6hz", "energy_mod_6-10hz"]
    assert max(found, key=lambda name: found[name]) == "energy_mod_4-6hz"


def test_deltas_of_a_line_are_its_slope():
    line = 0.5 * np.arange(20.0)[None]
    np.testing.assert_allclose(deltas(line)[:, 2:-2], 0.5)


def test_active_span_and_runs():
    on = active(np.array([-60.0, -3.0, -40.0, 0.0, -24.0, -26.0]))
    np.testing.assert_array_equal(on, [False, True, False, True, True, False])
    assert span(on) == (1, 5)
    first, after = runs(on)
    np.testing.assert_array_equal(first, [1, 3])
    np.testing.assert_array_equal(after, [2, 5])


def test_peaks_are_those_of_scipy():
    rng = np.random.default_rng(3)
    contour = np.cumsum(rng.standard_normal(300))
    low = contour.min() - 1000.0
    expected, facts = find_peaks(np.concatenate([[low], contour, [low]]), prominence=1.5)
    places, heights = peaks(contour, 1.5)
    np.testing.assert_array_equal(places, expected - 1)
    lesser = places != contour.argmax()  # scipy measures the highest against the padding
    np.testing.assert_allclose(heights[lesser], facts["prominences"][lesser])
    assert heights[~lesser] == pytest.approx(contour.max() - contour.min())


def test_a_flat_contour_has_no_peak():
    assert peaks(np.zeros(10), 3.0)[0].size == 0
