"""The table of systems: every entry trains, names are found, views are checked."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from brief_training import train_briefly
from nver import listings, registry
from nver.errors import SettingsError, UnknownNameError
from nver.estimators import EmotionClassifier, FusionClassifier, ViewChoice
from nver.fusion import FUSIONS
from nver.schedule import LINEAR
from nver.systems import COUPLINGS, SYSTEMS, build, fit_many, get_system, other_fusions, space
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


OWN = """
import torch
from nver.fusion import Fusion
from nver.heads import Classifier


class {name}(Fusion):
    '''A sum.

    More of it.'''

    def __init__(self, shape):
        super().__init__(shape, shape.branches())
        self.classifier = Classifier(shape.branch_width, shape.classes, shape.dropout, shape.hidden)

    def join(self, latents, moved, batch):
        return self.classifier(sum(latents), batch)


class Coupled({name}):
    couples = True


class Unfinished(Fusion):
    pass


number = 3
"""


def test_a_fusion_in_a_file_is_a_system(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN.format(name="Sum"), encoding="utf-8")
    spec = get_system(f"{file}:Sum")
    assert (spec.kind, spec.summary, spec.rules) == ("fusion", "A sum", ("",))
    assert get_system(f"{file}:Coupled").rules == ("inductive", "transductive")
    assert set(space(f"{file}:Sum")) == {"learning_rate", "dropout", "width"}
    X, y, groups = _toy_part()
    short = TrainingSettings(epochs=2, min_steps=0)
    models = [build(spec.name, TWO, seed).set_params(settings=short) for seed in (0, 1, 1)]
    alone = models.pop().fit(X, y, groups)
    assert sorted(fit_many(models, [(X, y, groups)] * 2)) == [0, 1]
    assert type(alone.network_) is type(models[1].network_)
    np.testing.assert_allclose(models[1].predict_proba(X), alone.predict_proba(X), atol=1e-4)
    file.write_text(OWN.format(name="Sum") + "# another version", encoding="utf-8")
    assert get_system(f"{file}:Sum").code != spec.code


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("{file}:Unfinished", SettingsError, r"Fusion '.*own\.py:Unfinished' lacks join\."),
        ("{file}:number", SettingsError, "must name a class or function, 'number' is a int"),
        ("{file}:Classifier", SettingsError, "must be a class derived from nver.fusion.Fusion"),
        ("{file}:Summ", UnknownNameError, r"class of own\.py 'Summ'\. Did you mean 'Sum'\?"),
        ("{file}", SettingsError, r"named FILE\.py:CLASS, '.*own\.py' has no class"),
        ("{file}.py:Sum", SettingsError, r"there is no file .*own\.py\.py"),
        ("mata-transductive", UnknownNameError, "second row of the system 'mata'.* -s mata"),
    ],
)
def test_what_is_no_system_says_so(tmp_path, name, error, said):
    file = tmp_path / "own.py"
    file.write_text(OWN.format(name="Sum"), encoding="utf-8")
    with pytest.raises(error, match=said):
        get_system(name.format(file=file))


def test_fusions_of_other_packages_are_listed_and_evaluated(tmp_path, monkeypatch):
    (tmp_path / "other_fusions.py").write_text(OWN.format(name="Sum"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    points = EntryPoints(
        EntryPoint(name, f"other_fusions:{target}", "nver.fusions")
        for name, target in (("sum", "Sum"), ("coupled-sum", "Coupled"), ("gone", "Gone"))
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    assert other_fusions() == ("coupled-sum", "gone", "sum")
    *own, coupled, coupled_too, gone, last = listings.systems()
    assert {row["name"] for row in own} >= {*SYSTEMS, "mata-transductive"}
    assert coupled_too["name"] == "coupled-sum-transductive"
    assert (coupled["summary"], last["summary"]) == ("a fusion", "A sum")
    assert "cannot be loaded: AttributeError" in gone["reason"]
    assert get_system("sum").code
    model = build("sum", TWO, 1).set_params(settings=TrainingSettings(epochs=1, min_steps=0))
    X, y, groups = _toy_part()
    assert model.fit(X, y, groups).predict_proba(X).shape == (24, 3)
    with pytest.raises(UnknownNameError, match="Did you mean 'sum'"):
        get_system("summ")


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


def test_what_is_chosen_is_what_is_trained(monkeypatch):
    mata = build(
        "mata", TWO, 0, {"learning_rate": 0.002, "dropout": 0.25, "eps": 0.1, "width": 1.5}
    )
    assert (mata.eps, mata.fusion) == (0.1, "mata")
    assert mata.width == 1.5
    assert mata.settings == TrainingSettings(learning_rate=0.002, dropout=0.25)
    train_briefly(monkeypatch)
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


def test_many_at_once_are_what_each_is_alone(monkeypatch):
    train_briefly(monkeypatch)
    X, y, groups = _toy_part()
    parts = [(X, y, groups), (X[3:], y[3:], groups[3:]), (X, y, None)]
    models = [build("concat", TWO, seed) for seed in range(3)]
    assert sorted(fit_many(models, parts)) == [0, 1, 2]
    for seed, (model, part) in enumerate(zip(models, parts, strict=True)):
        alone = build("concat", TWO, seed).fit(*part)
        np.testing.assert_allclose(
            model.predict_proba(X), alone.predict_proba(X), rtol=1e-3, atol=1e-4
        )
