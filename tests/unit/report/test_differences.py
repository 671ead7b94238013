"""What the page says of which system is better, and of published figures."""

from __future__ import annotations

from nver.report.record import read_record
from nver.report.results import pairs, published, result_table
from nver.report.summary import summarise
from nver.report.verdicts import comparisons

MINUS = "\u2212"


def test_systems_that_cannot_be_told_from_the_best_are_marked(full):
    def change(scores, run):
        told = scores["comparisons"]["pairs"]
        for pair in told:
            pair["distinguishable"] = pair["name"] != "concat-lda"

    record = full(change)
    rows = [row for _, rows in result_table(record, comparisons(record.scores)) for row in rows]
    assert [row.system.name for row in rows if row.level] == ["concat-lda"]
    assert [row.system.name for row in rows if row.best] == ["mata"]


def test_differences_are_signed_from_the_best(full):
    def change(scores, run):
        scores["comparisons"]["pairs"] = [
            {
                "name": "lda",
                "encoders": ["spectral"],
                "difference": 0.06,
                "low": 0.01,
                "high": 0.11,
                "p": 0.0004,
                "p_corrected": 0.0312,
                "effect": 0.7,
                "effect_name": "d",
                "distinguishable": True,
                "mcnemar": None,
            }
        ]

    record = full(change)
    (pair,) = pairs(record, comparisons(record.scores))
    assert (pair.difference, pair.interval) == (f"{MINUS}6.0", f"{MINUS}11.0 to {MINUS}1.0")
    assert (pair.effect, pair.p, pair.p_corrected, pair.mcnemar) == (
        f"{MINUS}0.70",
        "< .001",
        ".031",
        "",
    )
    assert not pair.level


def test_the_summary_speaks_of_the_paired_test_where_there_is_one(full):
    points = {point.topic: point.text for point in summarise(full())}
    assert "A difference in UAR under 1.8 points would mostly go unnoticed" in points["Differences"]
    assert "the paired test finds a difference (corrected p" in points["Fusion"]
    assert "intervals overlap" not in " ".join(points.values())


def test_a_small_p_whose_interval_holds_zero_is_no_difference(full):
    def change(scores, run):
        for pair in scores["comparisons"]["pairs"]:
            pair |= {"p_corrected": 0.012, "low": -0.01, "distinguishable": False}

    told = {point.topic: point.text for point in summarise(full(change))}["Fusion"]
    assert "finds a difference (corrected p .012), but its interval" in told
    assert "holds zero: they cannot be told apart." in told


def test_the_summary_says_how_much_of_the_ece_is_chance(full):
    def change(scores, run):
        for entry in scores["calibration"]:
            entry["raw"] |= {"ece": 0.12, "ece_by_chance": 0.034}

    told = {point.topic: point.text for point in summarise(full(change))}["Confidence"]
    assert (
        "off by 12.0 points on average (ECE; perfect calibration would show about 3.4 by " in told
    )
    without = {point.topic: point.text for point in summarise(full())}["Confidence"]
    assert "on average (ECE)" in without


def test_effect_sizes_of_two_kinds_are_both_named(full):
    def change(scores, run):
        first, *rest = scores["comparisons"]["pairs"]
        first["effect_name"] = "Cohen's g"
        for pair in rest:
            pair |= {"effect_name": "d_z over clips", "mcnemar": None}
        scores["comparisons"]["pairs"] = [*rest, first]

    named = comparisons(full(change).scores).effect_name
    assert named == "Cohen's g where McNemar's test is, else d_z over clips"
    assert comparisons(full().scores).effect_name == "Cohen's d over speakers"


def test_the_summary_without_these_sections_is_silent(fake, tmp_path):
    topics = {point.topic for point in summarise(read_record(fake.write(tmp_path / "run")))}
    assert not topics & {"Differences", "Confidence", "Robustness", "Worst groups"}


def test_no_difference_at_all_is_said(full):
    def change(scores, run):
        for pair in scores["comparisons"]["pairs"]:
            pair["distinguishable"] = True

    points = {point.topic: point.text for point in summarise(full(change))}
    assert points["Differences"].startswith(
        "The best system can be told from each of 4 other systems."
    )


def test_published_figures_stand_once_with_their_protocol(full):
    def change(scores, run):
        scores["published"] = run["published"][:1]

    rows = published(full(change))
    assert [row["accuracy"] for row in rows] == ["75.1", "69.1"]
    assert rows[1]["macro_f1"] == "-"
    assert rows[0]["protocol"] == "5-fold, speakers in training and test"


def test_a_published_figure_stands_beside_its_system(full):
    def change(scores, run):
        run["published"][0] |= {"name": "mata", "encoders": ["prosodic", "spectral"]}
        run["published"][0]["status"] = "quoted; not checked"

    record = full(change)
    rows = [row for _, rows in result_table(record, comparisons(record.scores)) for row in rows]
    beside = {row.system.name: [cell[3] for cell in row.cells] for row in rows}
    assert beside.pop("mata") == ["", "75.1", "74.6"]
    assert {text for texts in beside.values() for text in texts} == {""}
    assert published(record)[0]["status"] == "quoted; not checked"
