"""The classifiers: scikit-learn's contract, labels, speakers, and predictions clip by clip."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from nver.errors import SettingsError, UnknownNameError
from nver.estimators import EmotionClassifier, FusionClassifier, ViewChoice, column_views
from nver.fusion import BatchCoupling
from nver.training import TrainingSettings

QUICK = TrainingSettings(epochs=16, min_steps=0)
VIEWS = {"one": slice(0, 12), "other": slice(12, 22)}

HEADS = ("lda", "logreg", "fcn", "cnn")
FUSIONS = ("concat", "late", "transport", "attention", "mata")


def _clips(per_class=12, seed=0):
    """Return clips of three classes, six speakers, with labels that are words."""
    rng = np.random.default_rng(seed)
    names = np.array(["anger", "fear", "joy"])
    codes = np.tile(np.arange(3), per_class)
    centres = 2 * rng.standard_normal((3, 22))
    X = centres[codes] + rng.standard_normal((len(codes), 22))
    speakers = np.array([f"s{i % 6}" for i in range(len(codes))], dtype=object)
    return X, names[codes], speakers


@pytest.mark.parametrize(
    "estimator",
    [*(EmotionClassifier(h, QUICK) for h in HEADS)]
    + [FusionClassifier(f, views=VIEWS, settings=QUICK) for f in FUSIONS],
    ids=[*HEADS, *FUSIONS],
)
def test_words_go_in_and_words_come_out(estimator):
    X, y, speakers = _clips()
    fitted = estimator.fit(X, y, groups=speakers)
    assert fitted.classes_.tolist() == ["anger", "fear", "joy"]
    probabilities = fitted.predict_proba(X)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert fitted.predict(X).tolist() == fitted.classes_[probabilities.argmax(axis=1)].tolist()
    assert float((fitted.predict(X) == y).mean()) > 0.8


@pytest.mark.parametrize("coupling", ["companions", "map"])
@pytest.mark.parametrize("fusion", ["transport", "mata"])
@pytest.mark.parametrize("branch", ["fcn", "cnn"])
def test_an_inductive_prediction_is_a_function_of_the_clip_alone(fusion, coupling, branch):
    X, y, _ = _clips()
    model = FusionClassifier(fusion, branch, VIEWS, coupling, settings=QUICK).fit(X, y)
    test = _clips(seed=3)[0]
    together = model.predict_proba(test)
    order = np.random.default_rng(0).permutation(len(test))
    np.testing.assert_allclose(model.predict_proba(test[order]), together[order], atol=1e-10)
    alone = np.vstack([model.predict_proba(clip[None]) for clip in test])
    np.testing.assert_allclose(alone, together, atol=1e-10)
    np.testing.assert_array_equal(model.predict_proba(test), together)


def test_the_papers_rule_depends_on_the_other_clips():
    X, y, _ = _clips()
    model = FusionClassifier("mata", views=VIEWS, settings=QUICK).fit(X, y)
    together = model.predict_proba(X, coupling="batch")
    alone = np.vstack([model.predict_proba(clip[None], coupling="batch") for clip in X])
    assert np.abs(alone - together).max() > 1e-4
    np.testing.assert_allclose(
        FusionClassifier("mata", views=VIEWS, settings=QUICK, coupling="batch")
        .fit(X, y)
        .predict_proba(X),
        together,
    )


def test_the_papers_rule_couples_batches_of_32_in_the_given_order():
    X, y, _ = _clips(per_class=20)
    model = FusionClassifier("mata", views=VIEWS, settings=QUICK).fit(X, y)
    parts = [model.predict_proba(X[start : start + 32], "batch") for start in (0, 32)]
    np.testing.assert_allclose(model.predict_proba(X, "batch"), np.vstack(parts))


def test_the_seed_decides_everything():
    X, y, _ = _clips()
    first, again, other = (
        FusionClassifier("mata", views=VIEWS, settings=QUICK, random_state=s).fit(X, y)
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))
    assert np.abs(first.predict_proba(X) - other.predict_proba(X)).max() > 1e-4


def test_the_unit_of_a_column_does_not_matter():
    """Inputs are scaled inside fit."""
    X, y, _ = _clips()
    scale = 10.0 ** np.arange(-3, 19) / 1e6
    plain = EmotionClassifier("fcn", QUICK).fit(X, y).predict_proba(X)
    scaled = EmotionClassifier("fcn", QUICK).fit(X * scale, y).predict_proba(X * scale)
    np.testing.assert_allclose(plain, scaled, atol=1e-3)


def test_a_constant_column_is_harmless():
    X, y, _ = _clips()
    X[:, 3] = 7.0
    for head in HEADS:
        assert np.isfinite(EmotionClassifier(head, QUICK).fit(X, y).predict_proba(X)).all()


@pytest.mark.parametrize("head", ["logreg", "fcn", "cnn"])
def test_one_clip_per_class_is_enough_to_fit(head):
    X, y, _ = _clips(per_class=1)
    assert set(EmotionClassifier(head, QUICK).fit(X, y).predict(X)) <= set(y)


def test_one_clip_per_class_is_enough_to_fuse():
    X, y, _ = _clips(per_class=1)
    model = FusionClassifier("mata", views=VIEWS, settings=QUICK).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()


def test_speakers_decide_what_is_held_out():
    X, y, speakers = _clips()
    paper = TrainingSettings.paper()
    with_them = EmotionClassifier("fcn", paper).fit(X, y, groups=speakers)
    without = EmotionClassifier("fcn", paper).fit(X, y)
    assert with_them.history_.validation_loss != without.history_.validation_loss


def test_clips_without_a_speaker_are_each_their_own():
    X, y, _ = _clips()
    unknown = [None] * len(y)
    model = EmotionClassifier("fcn", TrainingSettings.paper()).fit(X, y, groups=unknown)
    assert model.history_.note == ""


def test_it_works_in_a_pipeline_and_a_grid_search_over_speakers():
    X, y, speakers = _clips()
    search = GridSearchCV(
        make_pipeline(FunctionTransformer(), FusionClassifier("concat", views=VIEWS)),
        {
            "fusionclassifier__fusion": ["concat", "late"],
            "fusionclassifier__settings": [QUICK],
        },
        cv=GroupKFold(2),
    )
    search.fit(X, y, groups=speakers)
    assert search.best_score_ > 0.5
    copy = clone(search.best_estimator_)
    assert cross_val_predict(copy, X, y, groups=speakers, cv=GroupKFold(2)).shape == y.shape


def test_a_fitted_model_survives_being_copied_to_another_process():
    joblib = pytest.importorskip("joblib")
    X, y, _ = _clips()
    model = FusionClassifier("mata", views=VIEWS, settings=QUICK).fit(X, y)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    np.testing.assert_array_equal(joblib.load(file).predict_proba(X), model.predict_proba(X))


def test_nan_is_refused():
    X, y, _ = _clips()
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        EmotionClassifier().fit(X, y)


def test_one_class_is_refused():
    X, _, _ = _clips()
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class: 'joy'"):
        EmotionClassifier().fit(X, ["joy"] * len(X))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (EmotionClassifier("fnc"), "Unknown head 'fnc'. Did you mean 'fcn'?"),
        (FusionClassifier("matta"), "Unknown fusion 'matta'. Did you mean 'mata'?"),
        (FusionClassifier(coupling="companion"), "Did you mean 'companions'?"),
        (FusionClassifier(branch="rnn"), "A branch is 'fcn' or 'cnn', got 'rnn'."),
    ],
    ids=repr,
)
def test_unknown_names_get_the_nearest(estimator, message):
    X, y, _ = _clips()
    with pytest.raises((UnknownNameError, SettingsError)) as caught:
        estimator.fit(X, y)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("views", "columns", "expected"),
    [
        (None, 7, (slice(0, 3), slice(3, 7))),
        (None, 1, (slice(0, 1), slice(0, 1))),
        ({"a": slice(0, 2), "b": slice(2, None)}, 5, (slice(0, 2), slice(2, 5))),
    ],
)
def test_views_are_resolved(views, columns, expected):
    assert column_views(views, columns) == expected


@pytest.mark.parametrize("view", [slice(0, 9), slice(2, 2), slice(0, 4, 2)])
def test_views_that_do_not_fit_are_refused(view):
    with pytest.raises(SettingsError) as caught:
        column_views({"a": view, "b": slice(0, 2)}, 5)
    assert str(caught.value) == (
        f"View 'a' must be a non-empty range of the 5 columns of X, got {view}."
    )


def test_a_class_with_one_clip_is_learned_in_silence():
    X, y, _ = _clips()
    y[0] = "pain"
    model = EmotionClassifier("lda").fit(X, y)  # a warning would be an error here
    assert np.isfinite(model.predict_proba(X)).all()
    assert model.predict(X[:1]) == "pain"


def test_example_plans_are_those_of_the_papers_rule():
    X, y, _ = _clips()
    views = {"b": slice(0, 4), "a": slice(4, 8), "c": slice(8, 22)}
    model = FusionClassifier("transport", views=views, settings=QUICK).fit(X, y)
    plans = model.plans(X[:10])
    assert list(plans) == [("b", "a"), ("b", "c"), ("a", "c")]
    for plan in plans.values():
        np.testing.assert_allclose(plan.sum(axis=0), 0.1, atol=1e-4)
        np.testing.assert_allclose(plan.sum(axis=1), 0.1, atol=1e-4)
    latents = model.network_.latents(torch.from_numpy(model.scaler_.transform(X[:10])))
    moved = BatchCoupling(model.network_.shape.transport).move(latents)
    image = 10 * plans["b", "c"] @ latents[2].detach().numpy()
    np.testing.assert_allclose(image, moved[0, 2].detach().numpy(), atol=1e-9)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(("width", "branch", "hidden"), [(0.5, 64, 64), (1.0, 120, 128)])
def test_the_width_is_that_of_every_dense_layer(fusion, width, branch, hidden):
    X, y, _ = _clips()
    settings = TrainingSettings(epochs=1, min_steps=0)
    model = FusionClassifier(fusion, views=VIEWS, settings=settings, width=width).fit(X, y)
    sizes = {name: tuple(p.shape) for name, p in model.network_.named_parameters()}
    assert hidden in next(s for n, s in sizes.items() if ".hidden." in n)
    if fusion != "late":
        assert branch in next(s for n, s in sizes.items() if n.startswith("branches.0"))
    assert np.isfinite(model.predict_proba(X)).all()


def test_a_head_has_a_width_and_nothing_is_refused():
    X, y, _ = _clips()
    settings = TrainingSettings(epochs=1, min_steps=0)
    model = EmotionClassifier("fcn", settings=settings, width=0.25).fit(X, y)
    assert any(32 in p.shape for p in model.network_.parameters())
    for estimator in (EmotionClassifier("fcn", width=0), FusionClassifier(width=float("nan"))):
        with pytest.raises(SettingsError, match="width must be a finite number above 0, got"):
            estimator.fit(X, y)


def _one_good_view(seed=0):
    """Return clips whose second view says the class, and whose first says the speaker."""
    rng = np.random.default_rng(seed)
    codes, people = np.tile(np.arange(3), 20), np.repeat(np.arange(6), 10)
    first = rng.standard_normal((60, 12)) + 4 * rng.standard_normal((6, 12))[people]
    second = rng.standard_normal((60, 10)) + 2 * rng.standard_normal((3, 10))[codes]
    labels = np.array(["anger", "fear", "joy"])[codes]
    return np.hstack([first, second]), labels, np.array([f"s{i}" for i in people], dtype=object)


@pytest.mark.parametrize("head", ["lda", "fcn"])
def test_the_view_is_chosen_inside_the_training_part(head):
    X, y, speakers = _one_good_view()
    model = ViewChoice(head, views=VIEWS).fit(X, y, speakers)
    assert model.view_ == "other"
    assert model.uar_["one"] < 0.6 < model.uar_["other"] <= 1
    alone = EmotionClassifier(head).fit(X[:, 12:], y, speakers)
    np.testing.assert_array_equal(model.predict_proba(X), alone.predict_proba(X[:, 12:]))
    assert model.predict(X).tolist() == alone.predict(X[:, 12:]).tolist()
    assert model.said_ == ("'other' was chosen inside the training part",)
    assert hasattr(model, "history_") == (head == "fcn")
    changed = X.copy()
    changed[:, :12] += 100  # what was not chosen plays no part
    np.testing.assert_array_equal(model.predict_proba(changed), model.predict_proba(X))


@pytest.mark.parametrize("groups", [None, ["s"] * 60, [None] * 60, ["s", "t"] * 30])
def test_a_view_is_chosen_whatever_is_known_of_speakers(groups):
    X, y, _ = _one_good_view()
    assert ViewChoice(views=VIEWS).fit(X, y, groups).view_ == "other"


def test_a_view_is_chosen_among_few_clips():
    X, y, _ = _one_good_view()
    rows = [0, 1, 2, 3, 4]  # an inner training part has three clips of three classes
    assert ViewChoice(views=VIEWS).fit(X[rows], y[rows]).view_ in VIEWS


def test_of_equal_views_the_first_is_taken():
    X, y, _ = _one_good_view()
    twice = {"a": slice(12, 22), "b": slice(12, 22)}
    assert ViewChoice(views=twice).fit(X, y).view_ == "a"


def test_without_transport_there_are_no_plans():
    X, y, _ = _clips()
    assert FusionClassifier("concat", views=VIEWS, settings=QUICK).fit(X, y).plans(X) == {}
