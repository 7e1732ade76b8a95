"""irregular: what is unlike the days before it is told, once; rhythm, noise and new levels are not."""

from __future__ import annotations

import math
import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.pure.irregular import (
    DAY_MS,
    HISTORY_MS,
    MIN_HISTORY_WINDOWS,
    WEEK_MS,
    charge_anomalies,
)
from udfs.pure.price import to_decimal, to_units
from udfs.pure.windows import HOUR_MS, WINDOW_MS

MONDAY = 1_704_067_200_000  # 2024-01-01T00:00Z
DAY = 24


def irregular(costs_usd, hours=0.5, **options):
    """Periods of ``hours`` each, from MONDAY on, by their number; None = no charge."""
    length = int(hours * HOUR_MS)
    by_window, periods = {}, {}
    for i, cost in enumerate(costs_usd):
        if cost is None:
            continue
        start_ms = MONDAY + i * length
        windows = range(start_ms, start_ms + length, WINDOW_MS)
        for window_ms in windows:
            by_window[window_ms] = to_units(f"{cost:.12f}") // len(windows)
            periods[window_ms] = start_ms, start_ms + length
    rows = charge_anomalies("node-1", "cpu", "USD", by_window, periods, **options)
    found = {}
    for row in rows:
        found.setdefault((row["window_start"] - MONDAY) // length, []).append(row)
    return found


def rhythm(days, noise=0.0, weekend=1.0, seed=0):
    """Hourly costs with a daily rhythm of 1 to 4, lognormal noise and cheaper weekends."""
    draw = random.Random(seed)
    return [
        (1 + 0.6 * math.sin(2 * math.pi * (hour % DAY - 9) / DAY))
        * (weekend if hour // DAY % 7 >= 5 else 1)
        * math.exp(draw.gauss(0, noise))
        for hour in range(days * DAY)
    ]


# ---- without a season -------------------------------------------------------------------------


def test_a_bill_like_the_ones_before_it_is_regular():
    assert irregular([1.0, 1.1, 0.9] * 40) == {}


def test_a_bill_that_jumps_is_irregular_and_so_is_one_that_drops():
    found = irregular([1.0, 1.1, 0.9] * 10 + [2.0, 1.0, 0.0])
    assert list(found) == [30, 32]
    [row] = found[30]
    # a median of 30 values is itself uncertain, and their MAD a little small
    sigma = 1.4826 * 0.1 * (30 / 29.2) * math.sqrt(1 + math.pi / 60)
    assert row["anomaly_score"] == pytest.approx(1.0 / sigma)
    assert found[32][0]["anomaly_score"] < -6
    assert (row["billed_cost"], row["expected_cost"]) == (Decimal(2), Decimal(1))
    assert row["window_end"] - row["window_start"] == WINDOW_MS
    assert (row["resource_id"], row["dimension"]) == ("node-1", "cpu")
    assert row["billing_currency"] == "USD"


def test_a_flat_bill_must_change_by_more_than_its_floor():
    assert irregular([1.0] * 30 + [1.29]) == {}
    assert irregular([1.0] * 30 + [1.3])[30][0]["anomaly_score"] == pytest.approx(6.0)
    assert irregular([0.0] * 30 + [0.000005]) == {}
    assert list(irregular([0.0] * 30 + [0.01])) == [30]


def test_too_little_history_says_nothing():
    least = MIN_HISTORY_WINDOWS
    assert irregular([1.0] * (least - 1) + [9.0]) == {}
    assert list(irregular([1.0] * least + [9.0])) == [least]


def test_an_hour_in_two_windows_is_one_observation():
    assert irregular([1.0] * 11 + [9.0], hours=1) == {}  # 22 windows
    found = irregular([1.0] * 12 + [9.0], hours=1)
    assert list(found) == [12]
    first, second = found[12]
    assert second["window_start"] - first["window_start"] == WINDOW_MS
    assert first["anomaly_score"] == second["anomaly_score"]
    assert first["billed_cost"] == Decimal("4.5")
    # as two observations, the second would be half of what makes a new level
    assert list(irregular([1.0] * 12 + [9.0] * 3, hours=1)) == [12, 13, 14]


def test_only_the_windows_asked_for_are_told():
    costs_usd = [1.0] * 30 + [9.0, 1.0, 9.0]
    asked = [MONDAY + 32 * WINDOW_MS, MONDAY + 99 * WINDOW_MS]
    assert list(irregular(costs_usd, windows=asked)) == [32]


def test_money_of_an_irregular_bill_has_twelve_places():
    [row] = irregular([1.0] * 30 + [9.0])[30]
    assert row["billed_cost"] == to_decimal(9 * 10**12)
    assert str(row["expected_cost"]) == "1.000000000000"


# ---- season -----------------------------------------------------------------------------------


def test_a_daily_rhythm_gives_few_false_alarms():
    for noise, bound in ((0.05, 0.0005), (0.1, 0.001), (0.2, 0.003)):
        hours = alarms = 0
        for seed in range(10):
            costs_usd = rhythm(28, noise=noise, seed=seed)
            hours += len(costs_usd)
            alarms += len(irregular(costs_usd, hours=1))
        assert alarms <= bound * hours, (noise, alarms, hours)


@pytest.mark.parametrize("hour", [3, 15])  # the cheapest of the day and the most expensive
def test_a_doubled_hour_a_missing_charge_and_a_credit_are_found_at_any_time_of_the_day(hour):
    quiet = rhythm(10, noise=0.05, seed=5)
    assert irregular(quiet, hours=1) == {}
    at = 8 * DAY + hour
    for changed, sign in ((2 * quiet[at], 1), (None, -1), (-quiet[at], -1)):
        costs_usd = [*quiet[:at], changed, *quiet[at + 1 :]]
        found = irregular(costs_usd, hours=1)
        assert list(found) == [at], changed
        for row in found[at]:
            assert math.copysign(1, row["anomaly_score"]) == sign
            assert row["expected_cost"] == pytest.approx(Decimal(quiet[at] / 2), rel=Decimal("0.1"))
    assert irregular([*quiet[:at], None, *quiet[at + 1 :]], hours=1)[at][0]["billed_cost"] == 0


def test_a_cost_that_is_usual_at_another_time_of_the_day_is_irregular():
    costs_usd = rhythm(8)
    at = 7 * DAY + 3
    costs_usd[at] = costs_usd[at + 12]
    assert list(irregular(costs_usd, hours=1)) == [at]


def test_weekdays_and_weekends_are_no_news_after_two_weeks():
    found = irregular(rhythm(28, noise=0.05, weekend=0.4, seed=3), hours=1)
    # the first Saturday is; from then on days are compared with days of the same kind
    assert {hour // DAY for hour in found} == {5}
    assert len(found) <= 4


def test_what_comes_every_monday_is_regular_from_the_third_on():
    costs_usd = rhythm(28, noise=0.05)
    mondays = [week * 7 * DAY + 6 for week in range(4)]
    for at in mondays:
        costs_usd[at] *= 3
    assert list(irregular(costs_usd, hours=1)) == mondays[1:2]


def test_what_came_a_week_ago_alone_excuses_nothing():
    costs_usd = rhythm(22, noise=0.05)
    for at in (14 * DAY + 6, 21 * DAY + 6):
        costs_usd[at] *= 3
    assert list(irregular(costs_usd, hours=1)) == [14 * DAY + 6, 21 * DAY + 6]


def test_an_irregular_hour_does_not_make_the_next_day_irregular():
    costs_usd = rhythm(8, noise=0.05)
    costs_usd[6 * DAY + 10] *= 5
    assert list(irregular(costs_usd, hours=1)) == [6 * DAY + 10]


# ---- levels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda c: 2 * c, lambda c: c + 1.5, lambda c: 0.4 * c])
def test_a_new_level_is_told_for_four_hours_and_then_learnt(change):
    costs_usd = rhythm(12, noise=0.03, seed=2)
    at = 8 * DAY + 9
    found = irregular([*costs_usd[:at], *map(change, costs_usd[at:])], hours=1)
    assert list(found) == [at, at + 1, at + 2, at + 3]


def test_the_end_of_an_episode_is_no_news():
    costs_usd = rhythm(9, noise=0.03)
    at = 8 * DAY + 2
    for hour in range(at, at + 10):
        costs_usd[hour] *= 3
    assert list(irregular(costs_usd, hours=1)) == [at, at + 1, at + 2, at + 3]


def test_between_the_old_level_and_the_new_nothing_is_irregular():
    costs_usd = [1.0, 1.01, 0.99] * 3 * DAY
    at = 8 * DAY + 2
    for hour in range(at, at + 10):
        costs_usd[hour] *= 4
    costs_usd[at + 8] /= 2
    assert list(irregular(costs_usd, hours=1)) == [at, at + 1, at + 2, at + 3]


def test_a_resource_that_stops_is_no_news_at_the_end_and_told_four_times_in_between():
    costs_usd = rhythm(9)
    at = 6 * DAY
    stopped = [*costs_usd[:at], *[None] * DAY, *costs_usd[at + DAY :]]
    assert list(irregular(stopped, hours=1)) == [at, at + 1, at + 2, at + 3]
    assert irregular(costs_usd[:at], hours=1) == {}  # its bill may be yet to come


def test_machines_that_sleep_at_night_lack_no_charge():
    days = [[None] * 8 + [1.0] * 10 + [None] * 6] * 9
    hours = [cost for day in days for cost in day]
    assert irregular(hours, hours=1) == {}
    hours[7 * DAY + 12] = None
    assert list(irregular(hours, hours=1)) == [7 * DAY + 12]


# ---- other rows -------------------------------------------------------------------------------


def test_daily_rows_vary_by_day_not_by_window():
    days = [24.0, 25.0, 23.0, 24.5, 23.5, 24.2, 25.1]
    assert irregular(days, hours=24) == {}
    found = irregular([*days, 60.0, 24.0], hours=24)
    assert list(found) == [7]
    assert len(found[7]) == 48
    assert {row["anomaly_score"] for row in found[7]} == {found[7][0]["anomaly_score"]}
    assert 6 < found[7][0]["anomaly_score"] < 60


def test_few_daily_rows_say_nothing():
    assert irregular([24.0, 24.0, 60.0], hours=24) == {}
    assert list(irregular([24.0, 24.0, 24.0, 60.0], hours=24)) == [3]


def test_a_month_is_no_season():
    assert irregular([100.0] * 6 + [900.0], hours=30 * 24) == {}


def test_an_hourly_row_beside_a_monthly_one_is_judged_by_the_hour():
    costs, periods = {}, {}
    for hour, cost in enumerate(rhythm(8)):
        start_ms = MONDAY + hour * HOUR_MS
        for window_ms in (start_ms, start_ms + WINDOW_MS):
            costs[window_ms] = to_units(f"{cost + 0.1:.12f}")
            periods[window_ms] = start_ms, start_ms + HOUR_MS
    at = MONDAY + 7 * DAY_MS + 5 * HOUR_MS
    costs[at] *= 2
    costs[at + WINDOW_MS] *= 2
    rows = charge_anomalies("node-1", "cpu", "USD", costs, periods)
    assert [row["window_start"] for row in rows] == [at, at + WINDOW_MS]


def test_nothing_gives_nothing():
    assert charge_anomalies("node-1", "cpu", "USD", {}) == []
    assert charge_anomalies("node-1", "cpu", "USD", {MONDAY: 1}) == []


# ---- bounds -----------------------------------------------------------------------------------


def test_older_charges_than_the_history_change_nothing():
    draw = random.Random(7)
    hours = [
        None if draw.random() < 0.03 else cost * draw.choice([1] * 30 + [3])
        for cost in rhythm(50, noise=0.1, weekend=0.5, seed=7)
    ]
    last = MONDAY + 49 * DAY_MS
    asked = [last + i * WINDOW_MS for i in range(48)]
    whole = irregular(hours, hours=1, windows=asked)
    since = (last - HISTORY_MS - MONDAY) // HOUR_MS
    recent = [cost if hour >= since else None for hour, cost in enumerate(hours)]
    assert whole
    assert irregular(recent, hours=1, windows=asked) == whole
    assert HISTORY_MS == 3 * WEEK_MS


@pytest.mark.parametrize("hours", [1, 24])
def test_later_charges_change_nothing(hours):
    draw = random.Random(11)
    costs_usd = [draw.choice([1.0, 1.1, 1.2, 2.0]) * draw.choice([1] * 9 + [4]) for _ in range(120)]
    whole = irregular(costs_usd, hours=hours)
    assert whole
    for cut in range(20, 120):
        known = irregular(costs_usd[:cut], hours=hours)
        assert known == {number: rows for number, rows in whole.items() if number < cut}


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 400), st.integers(-(10**13), 10**13), max_size=200),
    st.sampled_from([1, 2, 48]),
    st.randoms(),
)
def test_any_bill_in_any_order_gives_finite_scores_and_the_same_rows(by_number, of_period, shuffle):
    costs = {MONDAY + i * WINDOW_MS: cost for i, cost in by_number.items()}
    length = of_period * WINDOW_MS
    periods = {ms: (ms - (ms - MONDAY) % length, ms - (ms - MONDAY) % length + length) for ms in costs}
    rows = charge_anomalies("node-1", "cpu", "USD", costs, periods)
    assert all(math.isfinite(row["anomaly_score"]) for row in rows)
    assert len({row["window_start"] for row in rows}) == len(rows)
    order = list(costs)
    shuffle.shuffle(order)
    shuffled = {ms: costs[ms] for ms in order}
    assert charge_anomalies("node-1", "cpu", "USD", shuffled, periods) == rows
    for window_ms in order[:3]:
        alone = charge_anomalies("node-1", "cpu", "USD", costs, periods, windows=[window_ms])
        assert alone == [row for row in rows if row["window_start"] == window_ms]
