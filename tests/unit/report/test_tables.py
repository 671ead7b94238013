from __future__ import annotations

import math

import pytest

from nver.report.tables import (
    best,
    duration,
    far_below,
    groups,
    level_with_best,
    linear_rival,
    percent,
    ranked,
    shared_encoders,
    text_table,
)


def entry(name, encoders, uar, seconds=1.0):
    estimate = dict(zip(("value", "low", "high"), uar, strict=True))
    return {
        "name": name,
        "encoders": encoders,
        "uar": estimate,
        "accuracy": estimate,
        "macro_f1": estimate,
        "seconds": seconds,
    }


def scores(*entries):
    return {"chance_uar": 0.25, "systems": list(entries)}


FCN = entry("fcn", ["a"], (0.30, 0.25, 0.35))
LDA = entry("lda", ["a"], (0.40, 0.35, 0.45))
WEAK_LDA = entry("lda", ["b"], (0.28, 0.24, 0.33))
WEAK_FCN = entry("fcn", ["b"], (0.27, 0.23, 0.32))
CONCAT = entry("concat-lda", ["a", "b"], (0.50, 0.45, 0.55))
MATA = entry("mata", ["a", "b"], (0.52, 0.47, 0.57))
TRANSDUCTIVE = entry("mata-transductive", ["a", "b"], (0.60, 0.55, 0.65))
ALL = scores(FCN, LDA, WEAK_LDA, WEAK_FCN, CONCAT, MATA, TRANSDUCTIVE)


TABLE = f"""\
{"":46}UAR % [95 %]         accuracy % macro-F1 %        time

One encoder alone
  lda *                     a                  40.0 [35.0, 45.0]         40.0       40.0       1.0 s
  fcn !                     a                  30.0 [25.0, 35.0]         30.0       30.0       1.0 s

Fusion: a + b
  mata-transductive ~                          60.0 [55.0, 65.0]         60.0       60.0       1.0 s
  mata                                         52.0 [47.0, 57.0]         52.0       52.0       1.0 s

Chance: UAR 25.0 %
* linear baseline
~ transductive: its prediction for a clip depends on the other test clips
! its whole interval lies below the best linear baseline on the same encoders"""


def named(systems, name, encoders):
    return next(s for s in systems if (s.name, s.encoders) == (name, encoders))


def test_systems_are_sorted_by_uar_and_undefined_ones_come_last():
    undefined = entry("cnn", ["a"], (None, None, None))
    order = [system.name for system in ranked(scores(undefined, FCN, MATA, LDA))]
    assert order == ["mata", "lda", "fcn", "cnn"]


def test_of_equal_systems_the_one_with_fewer_encoders_comes_first():
    fused = entry("late", ["a", "b"], (0.4, 0.3, 0.5))
    assert [s.name for s in ranked(scores(fused, LDA))] == ["lda", "late"]


def test_single_encoders_and_fusions_are_groups():
    parts = groups(ranked(ALL))
    assert [heading for heading, _ in parts] == ["One encoder alone", "Fusion"]
    assert [len(members) for _, members in parts] == [4, 3]


def test_an_empty_group_has_no_heading():
    assert [heading for heading, _ in groups(ranked(scores(MATA)))] == ["Fusion"]


def test_a_transductive_system_is_never_best():
    top = best(ranked(ALL))
    assert top is not None
    assert top.name == "mata"


def test_there_is_no_best_of_undefined_systems():
    assert best(ranked(scores(entry("lda", ["a"], (None, None, None))))) is None


@pytest.mark.parametrize(
    ("name", "linear"),
    [("lda", True), ("logreg", True), ("concat-lda", True), ("mata", False), ("mata-cnn", False)],
)
def test_which_systems_are_linear(name, linear):
    system = ranked(scores(entry(name, ["a"], (0.3, 0.2, 0.4))))[0]
    assert system.linear is linear
    assert system.neural is not linear


def test_a_network_is_measured_against_the_linear_system_that_hears_no_more():
    systems = ranked(ALL)
    rival = linear_rival(named(systems, "fcn", ("b",)), systems)
    assert rival is not None
    assert rival.key == ("lda", "b")


def test_far_below_means_that_the_whole_interval_is_under_the_linear_value():
    systems = ranked(ALL)
    below = [system.key for system in systems if far_below(system, systems)]
    assert below == [("fcn", "a")]


@pytest.mark.parametrize("distinguishable", [False, True])
def test_what_cannot_be_told_from_the_best_is_not_far_below(distinguishable):
    pair = {"name": "fcn", "encoders": ["a"], "distinguishable": distinguishable}
    told = scores(FCN, LDA) | {"comparisons": {"pairs": [pair]}}
    text, systems = text_table(told), ranked(told)
    assert ("fcn !" in text, "fcn =" in text) == (distinguishable, not distinguishable)
    assert ("! its whole interval" in text) is distinguishable
    rival = far_below(named(systems, "fcn", ("a",)), systems, level_with_best(told))
    assert (rival is not None) is distinguishable


def test_a_network_at_the_linear_value_is_not_far_below():
    systems = ranked(scores(LDA, entry("fcn", ["a"], (0.35, 0.3, 0.40))))
    assert far_below(named(systems, "fcn", ("a",)), systems) is None


def test_nothing_is_far_below_without_an_interval():
    systems = ranked(scores(LDA, entry("fcn", ["a"], (0.1, None, None))))
    assert far_below(named(systems, "fcn", ("a",)), systems) is None


def test_encoders_are_shared_only_where_all_fusions_hear_the_same():
    assert shared_encoders(ranked(ALL)) == ("a", "b")
    assert shared_encoders(ranked(scores(MATA, entry("late", ["a", "c"], (0.4, 0.3, 0.5))))) == ()
    assert shared_encoders(ranked(scores(LDA))) == ()


def test_the_text_table():
    assert text_table(scores(FCN, LDA, MATA, TRANSDUCTIVE)) == TABLE


def test_the_text_table_fits_a_terminal_whatever_the_names():
    long = ["w" * 30, "x" * 50, "y" * 70, "z" * 120]
    wide = scores(
        entry("n" * 80, long, (1.0, 1.0, 1.0), 86_399.0),
        entry("lda", long[:1], (0.5, 0.4, 0.6), 3599.0),
        entry("late", long[:2], (0.5, 0.4, 0.6), None),
    )
    assert max(map(len, text_table(wide).splitlines())) <= 100


def test_the_text_table_needs_no_unicode():
    assert text_table(ALL).isascii()


def test_numbers_without_a_value_are_dashes():
    assert percent(math.nan) == "-"
    assert duration(math.nan) == "-"
    assert "- [-, -]" in text_table(scores(entry("lda", ["a"], (None, None, None))))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (9.96, "10 s"), (0.0, "0.0 s")],
)
def test_durations_round_to_units_that_exist(seconds, text):
    assert duration(seconds) == text


def test_the_text_table_warns_of_doubtful_intervals_and_names_failed_systems():
    doubtful = scores(LDA) | {
        "interval": {"level": 0.9, "caution": "it rests on 4 speakers"},
        "failures": [{"sentence": "System 'cnn' on a failed in fold '1', seed 0: it diverged"}],
    }
    text = text_table(doubtful)
    assert "UAR % [90 %]" in text
    assert text.splitlines()[-2:] == [
        "Intervals: it rests on 4 speakers",
        "System 'cnn' on a failed in fold '1', seed 0: it diverged",
    ]


def test_the_text_table_marks_what_cannot_be_told_from_the_best():
    pairs = [
        {"name": "lda", "encoders": ["a"], "distinguishable": False},
        {"name": "fcn", "encoders": ["a"], "distinguishable": True},
    ]
    table = scores(
        entry("mata", ["a", "b"], (0.5, 0.4, 0.6)),
        entry("lda", ["a"], (0.49, 0.4, 0.6)),
        entry("fcn", ["a"], (0.3, 0.2, 0.4)),
    ) | {"comparisons": {"pairs": pairs}}
    text = text_table(table)
    assert "  lda =*  " in text
    assert "fcn !" in text
    assert "= the paired test cannot tell it from the best system, mata (a + b)" in text
