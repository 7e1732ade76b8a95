"""The measures of false alarms, against cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.evaluation import alarms as a


def test_alarms_on_a_service_are_one_incident_across_ten_quiet_minutes_and_two_across_eleven() -> None:
    found = a.incidents([1, 12, 24, 5, 12], ["cart", "cart", "cart", "web", "cart"])
    assert found == [a.Incident("cart", 1, 13, 3), a.Incident("cart", 24, 25, 1), a.Incident("web", 5, 6, 1)]


def test_an_incident_in_a_fault_of_its_own_service_is_not_false() -> None:
    runs = a.incidents([5, 40, 5], ["cart", "cart", "web"])
    assert a.false_incidents(runs, {"cart": [(5.5, 9.0)]}) == [runs[1], runs[2]]
    assert a.false_incidents(runs, {"cart": [(6.0, 40.0)]}) == runs


def test_false_incidents_are_counted_a_day_and_twenty_services() -> None:
    assert a.a_day(3, 360, 10) == 3 * 4 * 2
    assert math.isnan(a.a_day(0, 0, 10))


def test_precision_falls_with_prevalence() -> None:
    assert a.precision_at(0.01, 1.0, 0.01) == pytest.approx(0.01 / 0.0199)
    assert a.precision_at(0.10, 0.5, 0.0) == 1.0
    assert math.isnan(a.precision_at(0.10, 0.0, 0.0))


def test_average_precision_counts_equal_scores_as_one_step() -> None:
    true = np.array([True, False, True, False])
    assert a.average_precision(np.array([4.0, 3.0, 2.0, 1.0]), true) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert a.average_precision(np.zeros(4), true) == 0.5
    assert math.isnan(a.average_precision(np.zeros(4), np.zeros(4, bool)))


def test_recall_at_a_rate_flags_no_more_than_that_of_the_others() -> None:
    scores = np.array([9.0, 5.0, 1.0, *range(10)])
    true = np.array([True] * 3 + [False] * 10)
    assert a.recall_at(0.0, scores, true) == 0.0  # the highest of the others is 9, too
    assert a.recall_at(0.1, scores, true) == pytest.approx(1 / 3)
    assert a.recall_at(0.5, scores, true) == pytest.approx(2 / 3)
    assert a.recall_at(1.0, scores, true) == 1.0


def traffic(flagged: dict[int, int], minutes: int = 60, traces: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """So many traces a minute, of which the first ones are flagged in some minutes."""
    times = np.repeat(np.arange(minutes), traces)
    flags = np.concatenate([np.arange(traces) < flagged.get(minute, 0) for minute in range(minutes)])
    return times, flags


def test_it_is_quiet_after_the_last_stretch_with_more_than_a_percent() -> None:
    times, flags = traffic({12: 50, 13: 50, 14: 6, 40: 5})
    assert a.minutes_to_quiet(times, flags, 10) == 5.0  # 5 of 500 at minute 40 are no more than a percent
    assert a.minutes_to_quiet(times, flags, 15) == 0.0
    assert a.minutes_to_quiet(*traffic({58: 50}), 10) == math.inf
    assert a.minutes_to_quiet(*traffic({58: 50}), 10, until=50) == 0.0
    assert math.isnan(a.minutes_to_quiet(times, flags, 60))


def test_minutes_without_traces_are_no_time() -> None:
    times, flags = traffic({12: 50, 13: 50})
    times = np.where(times > 12, times + 100, times)
    assert a.minutes_to_quiet(times, flags, 10) == 4.0
    assert a.longest_locked(times, flags) == 2


def test_a_timeline_shows_a_single_flag_and_a_gap() -> None:
    times = np.array([0] * 100 + [2] * 2)
    flags = np.array([True] + [False] * 99 + [True] * 2)
    assert a.timeline(times, flags) == "▁ █"
    assert a.timeline(times[1:100], flags[1:100]) == "·"
    assert len(a.timeline(*traffic({}, minutes=1000, traces=1))) <= 48
