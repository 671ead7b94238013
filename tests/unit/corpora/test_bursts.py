"""The recipes of the synthetic bursts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from nver.corpora.bursts import BURSTS, Burst, perform
from nver.corpora.synthesis import make_voice
from nver.corpora.vocal_tract import CONTROL_RATE, Gesture

BY_NAME = {burst.vocalisation: burst for burst in BURSTS}


def pure(name: str, takes: int = 20, strength: float = 0.9) -> Sequence[Gesture]:
    recipe = BY_NAME[name].recipe
    return [recipe(np.random.default_rng(take), strength, 1.0) for take in range(takes)]


def mean(name: str, contour: str, strength: float = 0.9) -> float:
    takes = pure(name, strength=strength)
    return float(np.mean([getattr(gesture, contour).mean() for gesture in takes]))


@pytest.mark.parametrize("burst", BURSTS, ids=lambda burst: burst.vocalisation)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_contours_are_equally_long_finite_and_in_range(burst: Burst, strength: float) -> None:
    for take in range(10):
        rng = np.random.default_rng(take)
        gesture = perform(burst, make_voice(take), strength, rng)
        contours = vars(gesture)
        assert {contour.shape for contour in contours.values()} == {gesture.pitch.shape}
        assert all(np.isfinite(contour).all() for contour in contours.values())
        assert 0.2 < gesture.pitch.size / CONTROL_RATE < 3
        assert gesture.pitch.min() > 0.2
        assert gesture.pitch.max() < 8
        for name in ("voicing", "noise", "mouth", "roughness"):
            assert contours[name].min() >= 0
        assert max(gesture.voicing.max(), gesture.noise.max()) > 0.05
        assert max(gesture.mouth.max(), gesture.roughness.max()) <= 1


def test_bursts_are_named_once_and_their_kin_exist() -> None:
    assert len(BY_NAME) == len({burst.emotion for burst in BURSTS}) == len(BURSTS) == 8
    for burst in BURSTS:
        assert set(burst.kin) <= set(BY_NAME) - {burst.vocalisation}


def test_the_recipes_are_what_their_names_say() -> None:
    assert mean("scream", "pitch") > 1.5 * mean("growl", "pitch")
    assert mean("growl", "roughness") > 2 * mean("moan", "roughness")
    assert mean("sigh", "noise") > 2 * mean("moan", "noise")
    assert mean("moan", "mouth") < 0.5 * mean("scream", "mouth")
    assert mean("gasp", "noise") > mean("gasp", "noise", strength=0.1)


def test_a_laugh_is_a_train_of_calls() -> None:
    for gesture in pure("laugh"):
        loud = gesture.voicing > 0.35 * gesture.voicing.max()
        starts = np.flatnonzero(loud[1:] & ~loud[:-1])
        assert starts.size >= 1
        gaps = np.diff(starts) / CONTROL_RATE
        assert np.all((gaps > 0.14) & (gaps < 0.36))


def test_takes_differ_and_repeat_with_their_seed() -> None:
    voice = make_voice(0)
    first, again, other = (
        perform(BY_NAME["cry"], voice, 0.7, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.pitch, again.pitch)
    assert first.pitch.shape != other.pitch.shape or not np.allclose(first.pitch, other.pitch)
