from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nver.progress import Expectation, Progress, TimedProgress

POSITIVE = st.floats(0.01, 1e4)
TASKS = st.lists(st.tuples(st.sampled_from("abc"), POSITIVE), min_size=1, max_size=20)


def test_before_anything_is_measured_nothing_is_promised():
    expected = Expectation()
    assert expected.left([("a", 3.0)], processes=2) is None
    assert expected.seconds("a", 3.0) == 3.0  # only to compare with others


@given(TASKS, st.dictionaries(st.sampled_from("abc"), POSITIVE, min_size=1))
def test_where_seconds_are_proportional_to_costs_it_is_exact(tasks, rates):
    expected = Expectation()
    for kind, rate in rates.items():
        for cost in (1.0, 7.0):
            expected.learn(kind, cost, rate * cost)
    known = [(kind, cost) for kind, cost in tasks if kind in rates]
    truth = [rates[kind] * cost for kind, cost in known]
    assert expected.left(known, processes=1) == pytest.approx(sum(truth))


@given(TASKS, st.integers(1, 8))
def test_no_less_than_an_even_share_or_the_longest_task(tasks, processes):
    expected = Expectation()
    expected.learn("a", 2.0, 5.0)
    left = expected.left(tasks, processes)
    each = [expected.seconds(*task) for task in tasks]
    assert left == pytest.approx(max(max(each), sum(each) / processes))
    assert expected.left(tasks, processes + 1) <= left


def test_a_kind_is_measured_by_itself_as_soon_as_it_can_be():
    expected = Expectation()
    expected.learn("fcn", 5.0, 1.0)
    assert expected.seconds("cnn", 20.0) == pytest.approx(4.0)
    expected.learn("cnn", 20.0, 30.0)
    assert expected.seconds("cnn", 20.0) == pytest.approx(30.0)
    assert expected.seconds("fcn", 5.0) == pytest.approx(1.0)


def test_when_nothing_is_left_no_time_is():
    expected = Expectation()
    expected.learn("fcn", 5.0, 1.0)
    assert expected.left([], processes=2) == 0.0


def test_who_does_not_ask_for_the_time_is_not_told():
    assert isinstance(print, Progress)
    assert not isinstance(print, TimedProgress)
