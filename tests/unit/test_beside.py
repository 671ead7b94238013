"""What a grid predicts beside its test clips: the clips of training parts, and perturbed ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from contracts.interrupted_grid import FOLDS, NAMES, SEEDS, TRAININGS, Systems, dataset
from nver.cross_validation import SystemRun, calibration_folds, cross_validate
from nver.splits import Fold, make_folds

RUNS = [SystemRun(name, ("a",)) for name in NAMES]
INNER = 3


@pytest.fixture
def data():
    return dataset()


@pytest.fixture
def folds(data):
    return make_folds("speaker", data.y, data.speakers, k=FOLDS)


@pytest.fixture
def evaluate(tmp_path, data, folds):
    """Return a function that cross-validates and says how often something was trained."""
    log = tmp_path / "log"

    def function(**options):
        log.write_text("")
        given = {"seeds": SEEDS, "jobs": 1, "systems": Systems(log, 0.0)}
        predictions = cross_validate(data, RUNS, folds, **given, **options)
        return predictions, len(log.read_text().splitlines())

    return function


def test_calibration_folds_divide_each_training_part_by_speaker(data, folds):
    inner, sentences = calibration_folds(data, folds)
    assert sentences == ()
    for fold in folds:
        parts = inner[fold.name]
        assert len(parts) == INNER
        assert sorted(np.concatenate([part.test for part in parts])) == fold.train.tolist()
        for part in parts:
            assert not set(data.speakers[part.train]) & set(data.speakers[part.test])
            assert not np.isin(np.union1d(part.train, part.test), fold.test).any()


def test_few_speakers_are_never_divided(data):
    few = np.flatnonzero(np.isin(data.speakers, ["s0", "s1", "s2"]))
    part = data.subset(few)
    folds = make_folds("loso", part.y, part.speakers)
    assert {len(parts) for parts in calibration_folds(part, folds)[0].values()} == {2}
    pair = data.subset(np.flatnonzero(np.isin(data.speakers, ["s0", "s1"])))
    inner, sentences = calibration_folds(pair, make_folds("loso", pair.y, pair.speakers))
    assert inner == {}
    assert "part of fold 's0', 's1' cannot be divided by speaker" in sentences[0]
    nobody = replace(pair, speakers=None)
    inner, sentences = calibration_folds(nobody, make_folds("random", nobody.y, None, k=2))
    assert (len(inner), sentences) == (2, ())


def test_inner_predictions_are_of_the_training_part_by_others(evaluate, data, folds):
    plain, _ = evaluate()
    inner = calibration_folds(data, folds)[0]
    predictions, trained = evaluate(inner=inner)
    assert trained == TRAININGS * (1 + INNER)
    assert predictions.frame.equals(plain.frame)
    assert [(e.name, e.encoders) for e in predictions.entries] == [
        (e.name, e.encoders) for e in plain.entries
    ]
    table = predictions.tables["inner"]
    assert list(table) == list(plain.frame)
    for (_, _, fold), rows in table.groupby(["system", "seed", "fold"]):
        train = next(one.train for one in folds if one.name == fold)
        assert sorted(rows["file"]) == [data.files[row] for row in train]
    assert len(table) == len(NAMES) * len(SEEDS) * sum(len(fold.train) for fold in folds)
    # They are what a grid of the inner folds alone predicts.
    outer = folds[1]
    alone = cross_validate(
        data, RUNS[:1], inner[outer.name], seeds=(0,), jobs=1, systems=Systems("/dev/null", 0.0)
    ).frame
    same = table[(table["system"] == "one") & (table["seed"] == 0) & (table["fold"] == outer.name)]
    columns = ["p_cry", "p_laugh", "p_sigh"]
    np.testing.assert_array_equal(
        same.sort_values("file")[columns], alone.sort_values("file")[columns]
    )


def test_inner_trainings_are_saved_like_others(evaluate, data, folds, tmp_path):
    inner = calibration_folds(data, folds)[0]
    evaluate(saved=tmp_path / "trainings")
    first, trained = evaluate(saved=tmp_path / "trainings", inner=inner)
    assert trained == TRAININGS * INNER
    again, trained = evaluate(saved=tmp_path / "trainings", inner=inner)
    assert trained == 0
    assert again.tables["inner"].equals(first.tables["inner"])


def test_inner_trainings_take_what_their_fold_chose(evaluate, data, folds, tmp_path):
    pytest.importorskip("optuna")
    tuned, _ = evaluate(tune=4, inner=calibration_folds(data, folds)[0])
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    last = lines[-TRAININGS * (1 + INNER) :]
    chosen = {f"{tuning.chosen['x']:.9f}" for tuning in tuned.tunings}
    assert {x for _, _, x, _ in last} == chosen
    assert len(chosen) > 1


def noisy(data, lost=()):
    X = data.X + np.random.default_rng(3).standard_normal(data.X.shape).astype(np.float32)
    X[list(lost)] = np.nan
    return X


def test_perturbed_clips_are_predicted_by_the_models_that_did_not_see_them(evaluate, data, folds):
    plain, _ = evaluate()
    found, trained = evaluate(perturbed={"same": data.X, "noise:5": noisy(data, lost=(4, 7))})
    assert trained == TRAININGS
    assert found.frame.equals(plain.frame)
    table = found.tables["perturbed"]
    assert list(table) == [*plain.frame, "perturbation"]
    same = table[table["perturbation"] == "same"].drop(columns="perturbation")
    noise = table[table["perturbation"] == "noise:5"]
    places = ["system", "seed", "fold", "file", "label", "speaker", "clip"]
    order = ["system", "seed", "file"]
    assert same.sort_values(order)[places].to_numpy().tolist() == (
        plain.frame.sort_values(order)[places].to_numpy().tolist()
    )
    assert len(same) - len(noise) == 2 * len(NAMES) * len(SEEDS)  # the two clips that failed
    assert not set(noise["file"]) & {data.files[4], data.files[7]}
    assert np.isfinite(noise[["p_cry", "p_laugh", "p_sigh"]]).all(axis=None)


def test_perturbed_predictions_are_found_again_while_they_are_the_same(evaluate, data, tmp_path):
    saved = tmp_path / "trainings"
    first, _ = evaluate(saved=saved, perturbed={"noise:5": noisy(data)})
    again, trained = evaluate(saved=saved, perturbed={"noise:5": noisy(data)})
    assert trained == 0
    assert again.tables["perturbed"].equals(first.tables["perturbed"])
    assert evaluate(saved=saved)[1] == 0  # without them, what there is will do
    assert evaluate(saved=saved, perturbed={"noise:5": noisy(data, lost=(3,))})[1] == TRAININGS
    assert evaluate(saved=saved, perturbed={"gain": noisy(data, lost=(3,))})[1] == TRAININGS


def test_a_clip_that_failed_everywhere_is_nowhere(evaluate, data):
    found, _ = evaluate(perturbed={"noise:5": np.full_like(data.X, np.nan)})
    assert "perturbed" not in found.tables


def test_only_folds_of_the_grid_are_perturbed(evaluate, data, folds):
    inner = {folds[0].name: calibration_folds(data, folds)[0][folds[0].name]}
    assert all(isinstance(part, Fold) for part in inner[folds[0].name])
    found, _ = evaluate(inner=inner, perturbed={"same": data.X})
    assert len(found.tables["perturbed"]) == len(found.frame)
    assert set(found.tables["inner"]["fold"]) == {folds[0].name}
