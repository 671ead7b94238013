"""What the terminal says of calibration, perturbed clips and tuning."""

from __future__ import annotations

import pytest

from nver.report.findings import findings
from nver.report.trust import _sets
from unit.report.test_tables import CONCAT, FCN, LDA, MATA, TRANSDUCTIVE

NOTHING = {"settings": {"calibrate": False, "perturb": [], "tune": None}, "tuning": []}


def scores(**sections):
    return {"chance_uar": 0.25, "systems": [FCN, LDA, CONCAT, MATA, TRANSDUCTIVE], **sections}


def asked(tuning=(), **settings):
    return {"settings": NOTHING["settings"] | settings, "tuning": list(tuning)}


def about(system, **content):
    return {"name": system["name"], "encoders": system["encoders"], **content}


def joined(told, run):
    text = findings(told, run)
    assert all(len(line) <= 100 for line in text.splitlines())
    return " ".join(text.split())


def choice(system, fold, rate, uar=0.5):
    chosen = {} if rate is None else {"learning_rate": rate, "width": 1.0}
    return about(system, fold=fold, chosen=chosen, uar=rate and uar, default_uar=rate and 0.4)


def test_what_was_not_asked_for_is_not_told():
    told = scores(calibration=[about(MATA, raw={"ece": 0.1})], robustness=None)
    assert findings(told, NOTHING) == ""


def test_calibration_is_that_of_the_best_system_that_judges_a_clip_alone():
    sets = {
        "alpha": 0.1,
        "coverage": 0.944,
        "interval": {"value": 0.944, "low": 0.929, "high": 0.958},
        "mean_size": 3.04,
    }
    raw = {"ece": 0.16, "ece_by_chance": 0.03}
    entries = [
        about(TRANSDUCTIVE, raw={"ece": 0.5}),
        about(CONCAT, raw={"ece": 0.4}),
        about(MATA, raw=raw, scaled={"ece": 0.047}, conformal=sets),
    ]
    assert joined(scores(calibration=entries), asked(calibrate=True)) == (
        "Calibration of mata (a + b): its probabilities are off by 16.0 points on average (ECE; "
        "perfect calibration would show about 3.0 by chance), after temperature scaling by 4.7. "
        "Prediction sets that were asked to hold the true label for 90 % of the clips hold "
        "it for 94.4 % [92.9, 95.8], with 3.0 labels on average."
    )


def test_sets_of_all_labels_say_nothing():
    sets = {"alpha": 0.1, "coverage": 1.0, "mean_size": 4.0, "size_counts": [0, 0, 0, 0, 9]}
    void = "They hold every label, so these sets say nothing."
    told = scores(calibration=[about(MATA, raw={"ece": 0.16}, conformal=sets)])
    assert joined(told, asked(calibrate=True)).endswith(f"with 4.0 labels on average. {void}")
    assert _sets(sets).endswith(void)
    sets["size_counts"] = [0, 0, 0, 1, 8]
    assert void not in joined(told, asked(calibrate=True)) + _sets(sets)


def test_calibration_that_is_missing_says_why():
    entry = about(
        MATA,
        raw={"ece": 0.16},
        scaled=None,
        scaled_reason="There are no inner predictions of fold '1'.",
        conformal={"alpha": 0.2, "coverage": 0.8, "interval": {"low": None}, "mean_size": 2.0},
    )
    text = joined(scores(calibration=[entry]), asked(calibrate=True))
    assert "on average (ECE). Prediction sets" in text
    assert "for 80 % of the clips hold it for 80.0 %, with 2.0 labels" in text
    assert text.endswith("There are no inner predictions of fold '1'.")
    entry |= {"raw": None, "reason": "none are probabilities"}
    assert joined(scores(calibration=[entry]), asked(calibrate=True)) == (
        "Calibration: no system has probabilities that could be judged."
    )


def test_the_largest_drop_is_that_of_the_best_system():
    entries = [about(LDA, sentence="Largest drop: x."), about(CONCAT, sentence="Largest drop: y.")]
    run = asked(perturb=["gain:0"])
    assert joined(scores(robustness=entries), run) == (
        "Perturbed clips, concat-lda (a + b). Largest drop: y."
    )
    for none in (None, [about(MATA, sentence="")]):
        told = joined(scores(robustness=none), run)
        assert told == "Perturbed clips: no system has a score on them."


def test_tuning_names_the_settings_over_the_folds_and_the_time_of_the_search():
    tuning = [choice(FCN, "0", 0.1), choice(MATA, "0", 0.002, 0.6), choice(MATA, "1", 0.0005)]
    mata = MATA | {"seconds": 90.0, "search_seconds": 60.0}
    told = scores() | {"systems": [FCN, LDA, CONCAT, mata]}
    assert joined(told, asked([*tuning, choice(MATA, "2", None)], tune=8)) == (
        "Tuning, mata (a + b): settings were chosen in 2 of 3 folds (learning rate 0.0005 to "
        "0.002, width 1). Inside the training parts the UAR is 55.0 %, that of the untuned "
        "settings 40.0 %: both are optimistic, for the settings were chosen by it. Of its 1 min "
        "30 s the search took 1 min 0 s."
    )


def test_a_fold_that_kept_the_untuned_settings_has_chosen_none():
    tuning = [choice(MATA, "0", 0.002, 0.6), choice(MATA, "1", 0.0005, 0.4)]
    assert joined(scores(), asked(tuning, tune=8)).startswith(
        "Tuning, mata (a + b): settings were chosen in 1 of 2 folds (learning rate 0.002, width "
        "1); in 1 none of those tried was better than the untuned ones. Inside the training parts "
        "the UAR is 50.0 %, that of the untuned settings 40.0 %"
    )
    assert joined(scores(), asked(tuning[1:], tune=8)).startswith(
        "Tuning, mata (a + b): settings were chosen in 0 of 1 fold; in 1 none of those tried was "
        "better than the untuned ones. Inside"
    )


def test_chosen_layers_are_counted_over_the_folds():
    layers = [{"a": 7, "b": 0}, {"a": 11, "b": 0}, {"a": 7, "b": 0}]
    tuning = [choice(MATA, str(i), None) | {"layers": one} for i, one in enumerate(layers)]
    for entry, uar in zip(tuning, (0.6, 0.5, 0.4), strict=True):
        entry |= {"uar": uar, "default_uar": 0.4}
    says = joined(scores(), asked(tuning, tune=8))
    assert says.startswith(
        "Tuning, mata (a + b): settings were chosen in 2 of 3 folds; in 1 none of those tried was "
        "better than the untuned ones. Inside"
    )
    assert "chosen by it. Layer of a: 7 in 2 folds, 11 in 1 fold. Layer of b: 0 in 3 folds." in says


@pytest.mark.parametrize(
    ("tuning", "says"),
    [
        ((), "Tuning: none of these systems has settings to choose."),
        (
            [choice(MATA, "0", None), choice(MATA, "1", None)],
            (
                "Tuning, mata (a + b): settings were chosen in 0 of 2 folds; the training parts "
                "cannot be divided. It was trained as it is."
            ),
        ),
    ],
)
def test_tuning_that_chose_nothing_says_so(tuning, says):
    assert joined(scores(), asked(tuning, tune=8)) == says
