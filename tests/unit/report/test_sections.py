"""What the page's sections say, from a run that recorded everything."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from nver.report import write_report
from nver.report.audit import audit
from nver.report.breakdown import MANY, _division, breakdowns
from nver.report.coupling import Plan, plan_svg, plans
from nver.report.emotions import emotions, recalls_of
from nver.report.learning import learning_curves, summary
from nver.report.origin import provenance, tuning, without_folders
from nver.report.scatter import neighbours
from nver.report.stress import stress
from nver.report.summary import summarise
from nver.report.trust import accuracy_at, trusts
from unit.report.fake_run import predictions

MINUS = "\u2212"


def plan(mass, labels):
    files = tuple(f"{i}.wav" for i in range(len(labels)))
    return Plan("mata", "a+b", "a", "b", files, tuple(labels), np.asarray(mass, dtype=float))


# -- each emotion


def test_recalls_have_the_intervals_of_their_class(full):
    def change(scores, run):
        for entry in scores["disaggregated"]:
            rows = [{"value": label, "low": 0.25, "high": 0.75} for label in ("anger", "fear")]
            entry["by"]["class"] = rows

    record = full(change)
    system = record.systems[0]
    anger, fear, joy = recalls_of(record, system)
    assert (anger.low, fear.high) == (0.25, 0.75)
    assert math.isnan(joy.low)
    counts = record.confusions[system]
    assert anger.value == counts[0, 0] / counts[0].sum()


def test_a_label_that_is_always_recognised_has_no_interval(fake, full):
    rows = predictions(fake.systems)
    fake.predictions = rows.assign(predicted=rows["label"])

    def change(scores, run):
        for entry in scores["disaggregated"]:
            entry["by"]["class"] = [{"value": "anger", "low": 1.0, "high": 1.0}]

    record = full(change)
    anger = recalls_of(record, record.systems[0])[0]
    assert anger.value == 1
    assert math.isnan(anger.low)


def test_each_emotion_names_what_it_is_taken_for(full):
    record = full()
    system = record.systems[0]
    counts = record.confusions[system]
    for place, emotion in enumerate(emotions(record, system)):
        others = counts[place].copy()
        others[place] = 0
        assert emotion.taken_for.startswith(record.labels[others.argmax()])
        assert emotion.recall == f"{100 * counts[place, place] / counts[place].sum():.1f}"


# -- plans, curves, maps


def test_a_plan_says_how_much_stays_within_its_label():
    one = plan([[0.25, 0.0, 0.0, 0.25], [0.0, 0.25, 0.25, 0.0]] + [[0] * 4] * 2, "aabb")
    assert one.same == 0.5
    assert one.own == 0.5
    assert one.by_chance == 0.5
    np.testing.assert_allclose(one.shares()[:2], [[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]])
    assert [text for text, _, _ in one.by_label()[0][1]] == ["50", "50"]


def test_a_transposed_plan_is_another_plan(full):
    record = full()
    first, second = plans(record)[:2]
    rows = record.plans[record.plans["system"] == first.system]
    cell = rows[(rows["source"] == first.source) & (rows["source_file"] == first.files[2])]
    mass = cell.set_index("target_file")["mass"]
    np.testing.assert_allclose(first.mass[2], mass[list(first.files)])
    assert (second.source, second.target) == (first.target, first.source)


def test_a_plan_is_ordered_by_label_and_drawn(full):
    record = full()
    one = plans(record)[0]
    order = [record.labels.index(label) for label in one.labels]
    assert order == sorted(order)
    assert one.mass.sum() == pytest.approx(1)
    drawn = plan_svg(one)
    assert f'data-n="{len(one.files)}"' in drawn
    assert drawn.count('fill="none"') == 2


def test_curves_go_on_while_half_of_the_trainings_do():
    rows = pd.DataFrame(
        {
            "epoch": [0, 1, 2, 3, 0, 1, 0],
            "training_loss": [4.0, 3.0, 2.0, 1.0, 2.0, 1.0, 3.0],
            "validation_loss": [None] * 7,
        }
    )
    table = summary(rows, "training_loss")
    assert table["mean"].tolist() == [3.0, 2.0]
    assert table["low"].tolist() == [2.0, 1.0]
    assert table["high"].tolist() == [4.0, 3.0]
    assert summary(rows, "validation_loss").empty


def test_curves_of_networks_alone(full):
    curves = learning_curves(full(), most=2)
    assert [curve.system.name for curve in curves] == ["mata-transductive", "mata"]
    assert all(curve.trainings == 5 for curve in curves)
    assert all(curve.svg.count('class="line') == 2 for curve in curves)


def test_nearest_neighbours_on_a_map():
    points = np.array([[0, 0], [0, 0.1], [5, 5], [5, 5.1]])
    assert neighbours(points, ["a", "a", "b", "b"]) == (1.0, pytest.approx(1 / 3))
    assert neighbours(points, ["a", "b", "a", "b"]) == (0.0, pytest.approx(1 / 3))
    assert neighbours(np.zeros((2, 2)), ["a", "a"]) == (1.0, 1.0)
    assert all(math.isnan(value) for value in neighbours(points[:1], ["a"]))


# -- confidence, robustness, groups


def test_confidence_of_every_system(full):
    first = trusts(full())[0]
    assert first.raw == ("13.0", "0.720", "1.620")
    assert first.scaled == ("3.0", "0.620", "1.520")
    assert first.temperature == "1.70"
    assert first.sets.startswith(
        "Asked to hold the true label for 90 % of the clips, the sets hold it for 90.3 % (interval "
        "88.0 to 92.0)."
    )
    assert first.sizes[3] == (3, 240, 100.0)


def test_confidence_without_scaling_and_sets(full):
    def change(scores, run):
        for entry in scores["calibration"]:
            entry["scaled"] = entry["conformal"] = None
            entry["raw"]["ece"] = None

    first = trusts(full(change))[0]
    assert first.raw[0] == "-"
    assert (first.scaled, first.temperature, first.sets, first.sizes) == ((), "", "", [])


def test_accuracy_at_a_coverage():
    assert accuracy_at([(0.1, 0.9), (0.5, 0.7), (1.0, 0.5)], 0.55) == 0.7
    assert math.isnan(accuracy_at([], 0.5))


def test_losses_are_signed_and_sure_ones_marked(full):
    table = stress(full())
    assert table.titles[0] == "Noise at 20 dB"
    losses = dict(zip(table.titles, table.rows[0][2], strict=True))
    assert losses["Noise at 0 dB"].drop == f"{MINUS}20.0"
    assert losses["Noise at 0 dB"].sure
    assert not losses["MP3 at 32 kbit/s"].sure
    assert losses["6 dB quieter"].drop == "+0.1"


def test_many_groups_are_summed_up(full):
    def change(scores, run):
        rows = scores["disaggregated"][0]["by"]["speaker"]
        scores["disaggregated"][0]["by"]["speaker"] = [
            rows[0] | {"value": f"s{i}", "score": i / 100} for i in range(40)
        ]

    record = full(change)
    divisions = [d for one in breakdowns(record, 9) for d in one.divisions if d.by == "speaker"]
    (many,) = [division for division in divisions if division.spread]
    assert [group.value for group in many.groups] == [f"s{i}" for i in range(MANY)]
    assert "from 0.0 to 39.0 %" in many.spread
    assert "median 19.5 %" in many.spread


@pytest.mark.parametrize(
    ("metrics", "title"), [(("recall", "uar"), "UAR"), (("recall", "recall"), "Recall")]
)
def test_a_division_is_of_recalls_only_where_each_group_has_one_class(metrics, title):
    rows = [{"value": str(i), "metric": metric, "score": 0.5} for i, metric in enumerate(metrics)]
    assert _division("sex", rows).metric == title


def test_a_column_with_one_value_is_no_division(full):
    assert "sex" not in [d.by for one in breakdowns(full(), 9) for d in one.divisions]


# -- audit and origin


def test_the_audit_lists_what_leaks(full):
    shared = [
        {"fold": "0", "speaker": f"s{i}", "test": 2, "train": 3, "more": "x"} for i in range(25)
    ]

    def change(scores, run):
        run["leakage"] |= {"clean": False, "shared_speakers": shared, "threshold": 0.98}
        run["leakage"]["counts"] = {"0": {"speakers": 25, "identical": 0, "near_identical": 1}}

    found = audit(full(change))
    assert found.folds == (("0", 25, 0, 1),)
    assert found.threshold == "0.98"
    (listing,) = found.listings
    assert listing.heading == "Speakers on both sides"
    assert listing.rows[0] == ("0", "s0", "2", "3")
    assert (len(listing.rows), listing.more) == (20, 5)
    assert [one.columns for one in found.identity] == ["speaker, session", "speaker", "session"]


def test_tuning_is_told_fold_by_fold(full):
    rows = tuning(full())
    assert rows[0][2:] == ("0", "learning rate 0.0012, dropout 0.31", "45.0", "44.0")
    assert len(rows) == 3 * 2

    def layered(scores, run):
        run["tuning"][0]["layers"] = {"wavlm": 7}
        run["tuning"][1] |= {"layers": {"wavlm": 12, "ast": 0}, "chosen": {}}

    rows = tuning(full(layered))
    assert rows[0][3] == "layer 7 of wavlm, learning rate 0.0012, dropout 0.31"
    assert rows[1][3] == "layer 12 of wavlm, layer 0 of ast"


def test_clips_that_a_perturbation_lost_are_told(full):
    def some(scores, run):
        run["extraction"]["perturbed"] = {"noise-20": {}, "shift:1": {}}
        for entry in scores["robustness"]:
            entry["perturbations"][0]["n_clips"] = 70

    assert stress(full(some)).missing == (
        "Noise at 20 dB: 70 of 72 clips; the change is that of these clips alone.",
        "shift:1: no clip could be perturbed and encoded; the failed clips say why.",
    )
    assert stress(full()).missing == ()

    def all_lost(scores, run):
        run["extraction"]["perturbed"] = {"shift:1": {}}
        scores["robustness"] = []

    record = full(all_lost)
    assert stress(record).titles == ()
    page = write_report(record.folder).read_text(encoding="utf-8")
    assert "shift:1: no clip could be perturbed" in page
    assert "Robustness of every system" not in page


def test_paths_can_be_left_out(full):
    def change(scores, run):
        run["command"] = "nver evaluate /home/ann/corpora/m.csv --root ~/x/y --out ../runs/a"
        run["settings"]["root"] = "C:\\Users\\ann\\clips"

    record = full(change)
    rows = dict(provenance(record, paths=False))
    assert rows["Command"] == "nver evaluate m.csv --root y --out a"
    assert "ann" not in str(rows)
    assert "ann" in str(dict(provenance(record)))
    assert without_folders("2026-01-02T03:04:05+00:00, 5/6") == "2026-01-02T03:04:05+00:00, 5/6"


def test_a_caution_is_said_once(full):
    def change(scores, run):
        scores["interval"] = {"level": 0.95, "caution": "it rests on 5 speakers"}
        scores["comparisons"]["caution"] = "it rests on 5 speakers; no p can be below .06"

    points = {point.topic: point for point in summarise(full(change))}
    assert points["Intervals"].text == "What to know of every interval: it rests on 5 speakers."
    assert points["Differences"].text.endswith("on this corpus. No p can be below .06.")
    assert points["Differences"].alarm
