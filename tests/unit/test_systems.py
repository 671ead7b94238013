"""The table of systems: every entry trains, names are found, views are checked."""

from __future__ import annotations

import numpy as np
import pytest

from nver.errors import SettingsError, UnknownNameError
from nver.estimators import EmotionClassifier, FusionClassifier, ViewChoice
from nver.fusion import FUSIONS
from nver.schedule import LINEAR
from nver.systems import COUPLINGS, SYSTEMS, build, fit_many, get_system, space
from nver.training import TrainingSettings

TWO = {"spectral": slice(0, 6), "prosodic": slice(6, 14)}


def _build(name):
    spec = SYSTEMS[name]
    views = TWO if spec.kind == "fusion" else {"spectral": slice(0, 14)}
    return build(name, views, seed=1)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_trains_and_is_judged_by_its_rules(name):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((24, 14)), np.tile(["a", "b", "c"], 8)
    estimator = _build(name)
    if hasattr(estimator, "settings") and SYSTEMS[name].settings.get("head") not in LINEAR:
        estimator.set_params(settings=TrainingSettings(epochs=1, min_steps=0))
    estimator.fit(X, y, groups=np.repeat(np.arange(8), 3))
    for rule in SYSTEMS[name].rules:
        coupling = COUPLINGS[rule]
        probabilities = (
            estimator.predict_proba(X)
            if coupling is None
            else estimator.predict_proba(X, coupling=coupling)
        )
        assert probabilities.shape == (24, 3)


def test_the_table_is_the_papers_comparison():
    assert list(SYSTEMS) == [
        "lda", "logreg", "fcn", "cnn",
        "concat-lda", "concat-logreg", "best-lda", "best-fcn",
        "concat", "late", "transport", "attention", "mata", "mata-cnn",
    ]  # fmt: skip


def test_every_fusion_is_in_a_system():
    used = {spec.settings.get("fusion") for spec in SYSTEMS.values()}
    assert used - {None} == set(FUSIONS.names())


def test_only_coupled_systems_have_two_rules_and_are_reported_under_two_names():
    both = [name for name, spec in SYSTEMS.items() if len(spec.rules) == 2]
    assert both == ["transport", "mata", "mata-cnn"]
    spec = get_system("mata-cnn")
    assert [spec.reported_as(rule) for rule in spec.rules] == ["mata-cnn", "mata-cnn-transductive"]


def test_a_system_is_an_estimator_with_its_settings():
    assert isinstance(build("lda", {"a": slice(0, 3)}), EmotionClassifier)
    assert isinstance(build("concat-lda", TWO), EmotionClassifier)
    mata = build("mata-cnn", TWO, seed=7)
    assert isinstance(mata, FusionClassifier)
    assert (mata.fusion, mata.branch, mata.random_state, mata.views) == ("mata", "cnn", 7, TWO)


def test_what_chooses_its_encoder_is_told_which_there_are_and_is_not_tuned():
    best = build("best-fcn", TWO, seed=7)
    assert isinstance(best, ViewChoice)
    assert (best.head, best.views, best.random_state) == ("fcn", TWO, 7)
    assert space("best-fcn") == {}


def test_the_number_of_encoders_must_fit():
    with pytest.raises(SettingsError) as caught:
        build("fcn", TWO)
    assert str(caught.value) == ("System 'fcn' needs one encoder, got 2 (spectral, prosodic).")
    with pytest.raises(SettingsError, match="System 'mata' needs at least two encoders, got 1"):
        build("mata", {"spectral": slice(0, 3)})


def test_an_unknown_system_gets_the_nearest():
    with pytest.raises(UnknownNameError, match=r"^Unknown system 'matta'\. Did you mean 'mata'\?"):
        get_system("matta")


def _toy_part():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((24, 14)), np.tile(["a", "b", "c"], 8)
    return X, y, np.repeat(np.arange(8), 3)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if space(name)])
def test_choosing_what_a_system_has_anyway_changes_nothing(name):
    views = TWO if SYSTEMS[name].kind == "fusion" else {"spectral": slice(0, 14)}
    own, chosen = build(name, views), build(name, views, 0, space(name))
    kind = "cnn" if "cnn" in SYSTEMS[name].settings.values() else "fcn"
    recipe = TrainingSettings.convolutional() if kind == "cnn" else TrainingSettings()
    assert chosen.settings == recipe  # docs/recipe.md
    assert own.get_params() | {"settings": recipe} == chosen.get_params()


def test_what_is_chosen_is_what_is_trained():
    mata = build(
        "mata", TWO, 0, {"learning_rate": 0.002, "dropout": 0.25, "eps": 0.1, "width": 1.5}
    )
    assert (mata.eps, mata.fusion) == (0.1, "mata")
    assert mata.width == 1.5
    assert mata.settings == TrainingSettings(learning_rate=0.002, dropout=0.25)
    X, y, groups = _toy_part()
    one, other = (
        build("concat", TWO, 0, {"dropout": dropout}).fit(X, y, groups).predict_proba(X)
        for dropout in (0.1, 0.8)
    )
    assert abs(one - other).max() > 1e-3


def test_a_setting_that_a_system_lacks_is_refused():
    with pytest.raises(UnknownNameError, match="Unknown setting of 'concat' 'eps'"):
        build("concat", TWO, 0, {"eps": 0.1})
    with pytest.raises(UnknownNameError, match="Unknown setting of 'lda' 'dropout'"):
        build("lda", {"a": slice(0, 3)}, 0, {"dropout": 0.1})


def test_many_at_once_are_what_each_is_alone():
    X, y, groups = _toy_part()
    parts = [(X, y, groups), (X[3:], y[3:], groups[3:]), (X, y, None)]
    models = [build("concat", TWO, seed) for seed in range(3)]
    assert sorted(fit_many(models, parts)) == [0, 1, 2]
    for seed, (model, part) in enumerate(zip(models, parts, strict=True)):
        alone = build("concat", TWO, seed).fit(*part)
        np.testing.assert_allclose(
            model.predict_proba(X), alone.predict_proba(X), rtol=1e-3, atol=1e-4
        )
