"""Cross-validation with systems made for the purpose: nothing leaks, and nothing is lost."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from nver import systems as table_of_systems
from nver.cross_validation import Predictions, SystemRun, cross_validate
from nver.errors import EvaluationError, SettingsError, UnknownNameError
from nver.scores import scores
from nver.splits import Fold, make_folds
from unit.toy_systems import LABELS, Centroids, NotANumber, Systems, run, toy, validate


def test_every_clip_is_predicted_once_per_system_and_seed(data, folds):
    predictions = validate(data, run("lda", "seeded"), folds, seeds=(0, 1, 2))
    frame = predictions.frame
    counts = frame.groupby(["system", "seed"])["file"].agg(["size", "nunique"])
    assert counts.loc["lda"].to_numpy().tolist() == [[72, 72]]  # linear: one seed
    assert counts.loc["seeded"].to_numpy().tolist() == [[72, 72]] * 3
    assert list(frame.columns) == [
        *("clip", "file", "speaker", "label", "system", "encoders", "seed", "fold", "predicted"),
        *("p_sad", "p_happy", "p_angry"),
    ]
    assert set(frame["encoders"]) == {"one+two"}
    rows = {
        file: (digest, speaker, label)
        for file, digest, speaker, label in zip(
            data.files, data.digests, data.speakers, data.y, strict=True
        )
    }
    for row in frame.itertuples():
        assert rows[row.file] == (row.clip, row.speaker, row.label)


def test_predictions_are_those_of_the_fold_that_left_the_clip_out(data, folds):
    frame = validate(data, run("lda"), folds).frame
    fold = folds[1]
    model = Centroids({}, 0).fit(data.X[fold.train], data.y[fold.train])
    expected = model.predict_proba(data.X[fold.test])
    rows = frame[frame["fold"] == "1"]
    assert rows["file"].tolist() == [data.files[i] for i in fold.test]
    order = [model.classes_.tolist().index(label) for label in LABELS]
    given = rows[[f"p_{label}" for label in LABELS]].to_numpy()
    np.testing.assert_allclose(given, expected[:, order], atol=1e-6)
    assert rows["predicted"].tolist() == [LABELS[i] for i in given.argmax(axis=1)]


def test_systems_get_training_clips_and_their_speakers_only(data, folds):
    systems = Systems()
    validate(data, run("lda", encoders=("two",)), folds, systems=systems)
    for model in systems.built:
        assert model.views == {"two": slice(0, 2)}
        assert model.fitted_rows.shape == (48, 2)
        fold = next(f for f in folds if set(data.speakers[f.train]) == set(model.groups))
        np.testing.assert_array_equal(model.fitted_rows, data.X[fold.train][:, 3:])


def test_encoders_come_in_the_asked_order(data, folds):
    systems = Systems()
    validate(data, run("lda", encoders=("two", "one")), folds[:1], systems=systems)
    model = systems.built[0]
    assert model.views == {"two": slice(0, 2), "one": slice(2, 5)}
    np.testing.assert_array_equal(model.fitted_rows, data.X[folds[0].train][:, [3, 4, 0, 1, 2]])


def test_two_rules_are_one_training(data, folds):
    systems = Systems()
    predictions = validate(data, run("coupled"), folds, systems=systems)
    assert len(systems.built) == len(folds)
    assert [entry.name for entry in predictions.entries] == ["coupled", "coupled-transductive"]
    inductive, transductive = (predictions.of(entry) for entry in predictions.entries)
    assert len(inductive) == len(transductive) == len(data)
    alone = validate(data, run("lda"), folds).frame
    np.testing.assert_array_equal(inductive["p_sad"], alone["p_sad"])
    assert (inductive["p_sad"].to_numpy() != transductive["p_sad"].to_numpy()).any()


def test_transductive_batches_do_not_follow_the_order_of_the_corpus(data, folds):
    # Neighbours in the corpus share their label; a rule that averages them must not profit.
    predictions = validate(data, run("coupled"), folds)
    one, other = scores(predictions, corpus="toy", folds="speaker", k=3)["systems"]
    assert other["uar"]["value"] < one["uar"]["value"]


def test_a_class_missing_in_training_gets_probability_zero(data):
    rare = np.flatnonzero(data.y == "angry")
    part = data.subset(np.concatenate([np.flatnonzero(data.y != "angry"), rare[:2]]))
    test = np.flatnonzero((part.y == "angry") | (part.speakers == "s5"))
    fold = Fold("x", np.setdiff1d(np.arange(len(part)), test), test)
    frame = validate(part, run("lda"), [fold]).frame
    assert (frame["p_angry"] == 0.0).all()
    assert "angry" not in set(frame["predicted"])


def test_a_failing_system_is_absent_and_says_why_and_the_others_finish(data):
    folds = make_folds("loso", data.y, data.speakers)
    systems = Systems()
    predictions = validate(data, run("lda", "failing", "nan"), folds, systems=systems)
    assert [entry.name for entry in predictions.entries] == ["lda"]
    assert set(predictions.frame["system"]) == {"lda"}
    failing, nan = predictions.failures
    assert failing.sentence() == (
        "System 'failing' on one+two failed in fold 's3', seed 0: "
        "ValueError: the cost is not finite"
    )
    assert "Traceback" in failing.traceback
    assert nan.reason == (
        "EvaluationError: it returned probabilities that are NaN, infinite or negative"
    )
    # It is not trained again once it has failed.
    assert sum(isinstance(model, NotANumber) for model in systems.built) == 1
    table = scores(predictions, corpus="toy", folds="loso", k=6)
    assert [entry["name"] for entry in table["failures"]] == ["failing", "nan"]
    assert "traceback" not in table["failures"][0]


def test_where_every_system_fails_it_is_an_error(data, folds):
    message = (
        "No system could be evaluated. System 'nan' on one+two failed in fold '2', seed 0: "
        "EvaluationError: it returned probabilities that are NaN"
    )
    with pytest.raises(EvaluationError, match=re.escape(message)):
        validate(data, run("nan"), folds)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((24, 2), 0.5), "it returned probabilities [24, 2], expected [24, 3]"),
        (np.full((24, 3), 0.5), "it returned probabilities that do not add up to 1"),
    ],
)
def test_what_is_no_probability_is_a_failure(data, folds, given, message):
    systems = Systems(bad=type("Bad", (Centroids,), {"predict_proba": lambda self, X: given}))
    predictions = validate(data, run("lda", "bad"), folds, systems=systems)
    assert predictions.failures[0].reason == f"EvaluationError: {message}"


def test_warnings_become_notes(data, folds):
    predictions = validate(data, run("warning"), folds)
    assert [note.sentence() for note in predictions.notes] == [
        "System 'warning' on one+two (3 times): UserWarning: did not converge"
    ]


def test_progress_counts_every_training(data, folds):
    seen = []
    validate(data, run("lda", "nan"), folds, progress=lambda *args: seen.append(args))
    assert seen[0] == ("trainings", 0, 6)
    assert seen[-1] == ("trainings", 6, 6)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_unknown_speakers_are_passed_on_as_none(data, folds):
    systems = Systems()
    some = np.where(np.arange(len(data)) == 0, None, data.speakers)
    predictions = validate(replace(data, speakers=some), run("lda"), folds, systems=systems)
    assert predictions.frame["speaker"].isna().sum() == 1
    assert predictions.unit() == "mixed"
    predictions = validate(replace(data, speakers=None), run("lda"), folds, systems=systems)
    assert systems.built[-1].groups is None
    assert predictions.unit() == "clip"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"runs": []}, SettingsError, "at least one system, fold and seed, got 0, 3 and 1"),
        ({"seeds": ()}, SettingsError, "at least one system, fold and seed, got 1, 3 and 0"),
        ({"jobs": 0}, SettingsError, "Expected at least one process, got 0."),
        ({"runs": run("mta")}, UnknownNameError, "Unknown system 'mta'."),
        (
            {"runs": run("lda", encoders=("on",))},
            UnknownNameError,
            "Unknown view 'on'. Did you mean 'one'?",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_training(data, folds, options, error, message):
    arguments = {"runs": run("lda"), **options}
    with pytest.raises(error, match=re.escape(message)):
        validate(data, arguments.pop("runs"), folds, **arguments)


def test_a_device_that_is_not_there_is_refused(data, folds, monkeypatch):
    with pytest.raises(SettingsError, match="'cpu' or 'cuda', got 'tpu'"):
        validate(data, run("lda"), folds, device="tpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"finds no CUDA device here\. Use --device cpu"):
        validate(data, run("lda"), folds, device="cuda")


def test_on_a_gpu_every_system_is_one_pack_and_knows_it(data, folds, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    packs = []

    class OnGpu(Systems):
        def build(self, name, views, seed, device="cpu"):
            assert device == "cuda"
            return super().build(name, views, seed)

        def fit_many(self, models, parts):
            packs.append(len(models))
            for model, (X, y, groups) in zip(models, parts, strict=True):
                model.fit(X, y, groups=groups)
            yield from range(len(models))

    options = {"seeds": (0, 1), "jobs": 8, "device": "cuda", "systems": OnGpu()}
    found = validate(data, run("seeded", "coupled"), folds, **options)
    assert packs == [6, 6]
    assert found.frame.equals(validate(data, run("seeded", "coupled"), folds, seeds=(0, 1)).frame)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_scores(data, folds):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    runs = [SystemRun("fcn", ("one",)), SystemRun("mata", ("one", "two"))]
    options = {"seeds": (0, 1), "systems": table_of_systems}
    cpu = validate(data, runs, folds, **options).frame
    gpu = validate(data, runs, folds, device="cuda", **options).frame
    columns = [f"p_{label}" for label in LABELS]
    np.testing.assert_allclose(gpu[columns], cpu[columns], atol=0.02)
    assert (gpu["predicted"] == cpu["predicted"]).mean() > 0.98


def test_a_clip_that_is_tested_twice_is_an_error(data, folds):
    message = "Expected folds that test every clip at most once, but '0"
    with pytest.raises(EvaluationError, match=re.escape(message)):
        validate(data, run("lda"), [*folds, folds[0]])


def test_labels_without_meaning_are_predicted_at_chance():
    # Whatever looks at the test part while training would lift this above chance.
    data = toy(clips_per_class=10, speakers=20)
    mixed = replace(data, y=np.random.default_rng(1).permutation(data.y))
    folds = make_folds("speaker", mixed.y, mixed.speakers, k=5)
    predictions = cross_validate(mixed, [SystemRun("lda", ("one",))], folds, jobs=1)
    uar = scores(predictions, corpus="toy", folds="speaker", k=5)["systems"][0]["uar"]
    assert abs(uar["value"] - 1 / 3) < 0.07  # 600 clips: standard error .02


def test_the_record_survives_the_disk(data, folds, tmp_path):
    predictions = validate(data, run("lda", "coupled", "nan", "warning"), folds)
    path = tmp_path / "run" / "predictions.parquet"
    predictions.to_parquet(path)
    again = Predictions.from_parquet(path)
    assert [p.name for p in path.parent.iterdir()] == ["predictions.parquet"]
    for name in predictions.frame.columns:
        assert again.frame[name].tolist() == predictions.frame[name].tolist()
    assert again.labels == predictions.labels
    assert again.entries == predictions.entries
    assert again.failures == predictions.failures
    assert again.notes == predictions.notes
