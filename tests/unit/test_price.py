"""price: a charge's cost lands in windows and dimensions, every last decimal of it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.pure.price import (
    apportion,
    cost_by_window,
    integer_weights,
    standing,
    to_decimal,
    to_units,
)
from udfs.pure.windows import HOUR_MS, WINDOW_MS

HOUR = 400_000 * HOUR_MS
DAY_MS = 24 * HOUR_MS


def charge(cost, start_ms=HOUR, end_ms=HOUR + HOUR_MS, parts=(("cpu", "1"),)):
    return {"cost": cost, "start_ms": start_ms, "end_ms": end_ms, "parts": parts}


def test_an_hour_is_two_halves_and_the_earlier_window_takes_the_odd_unit():
    assert cost_by_window(charge("0.000000000003")) == {
        HOUR: {"cpu": 2},
        HOUR + WINDOW_MS: {"cpu": 1},
    }


def test_a_credit_is_split_like_the_charge_that_it_takes_back():
    cost = cost_by_window(charge("0.340000000001", parts=[["memory", "0.3"], ["cpu", "0.7"]]))
    credit = cost_by_window(charge("-0.340000000001", parts=[["memory", "0.3"], ["cpu", "0.7"]]))
    assert credit == {ms: {d: -units for d, units in at.items()} for ms, at in cost.items()}


def test_a_whole_machine_is_split_by_weight():
    at = cost_by_window(charge("0.4", parts=[["memory", "1"], ["cpu", "3"]]))
    assert at[HOUR] == {"cpu": 150_000_000_000, "memory": 50_000_000_000}


def test_parts_of_the_same_dimension_are_one():
    at = cost_by_window(charge("0.4", parts=[["cpu", "1"], ["memory", "1"], ["cpu", "2"]]))
    assert at[HOUR] == {"cpu": 150_000_000_000, "memory": 50_000_000_000}


def test_equal_remainders_go_to_the_first_dimension_by_name():
    instant = {"start_ms": HOUR, "end_ms": HOUR + WINDOW_MS}
    assert cost_by_window(charge("1e-12", parts=[["memory", "1"], ["cpu", "1"]], **instant)) == {
        HOUR: {"cpu": 1, "memory": 0}
    }


def test_an_unaligned_period_is_split_by_overlap_and_its_end_is_exclusive():
    at = cost_by_window(charge("6", HOUR + 1_200_000, HOUR + 2 * WINDOW_MS + 1_200_000))
    assert {(ms - HOUR) // WINDOW_MS: to_decimal(units["cpu"]) for ms, units in at.items()} == {
        0: 1,
        1: 3,
        2: 2,
    }


def test_a_period_of_no_length_belongs_to_the_window_that_holds_it():
    assert cost_by_window(charge("5", HOUR + 7, HOUR + 7)) == {HOUR: {"cpu": 5 * 10**12}}


def test_a_free_charge_still_says_which_windows_are_billed():
    assert cost_by_window(charge("0")) == {HOUR: {"cpu": 0}, HOUR + WINDOW_MS: {"cpu": 0}}


def test_a_day_has_48_windows():
    at = cost_by_window(charge("1", HOUR, HOUR + DAY_MS))
    assert len(at) == 48
    assert {units["cpu"] for units in at.values()} == {20_833_333_333, 20_833_333_334}


def test_a_period_that_ends_before_it_starts_is_refused_with_both_times():
    with pytest.raises(ValueError, match=f"{HOUR - 1}.*{HOUR}"):
        cost_by_window(charge("1", HOUR, HOUR - 1))


def test_parts_without_weight_are_refused():
    with pytest.raises(ValueError, match="cpu"):
        cost_by_window(charge("1", parts=[["cpu", "0"]]))


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("0.34", 340_000_000_000),
        ("1.5E-7", 150_000),
        ("14.97651418586", 14_976_514_185_860),
        ("0.0000000000005", 0),
        ("0.0000000000015", 2),
        ("-0.0000000000015", -2),
        ("1234567890123456.123456789012", 1234567890123456123456789012),
        ("1234567890.1234567890125000000000000001", 1234567890123456789013),
    ],
)
def test_money_is_read_to_the_twelfth_place(text, units):
    assert to_units(text) == units


def test_money_is_written_with_twelve_places_and_never_rounded():
    assert to_decimal(10**30 + 7) == Decimal("1000000000000000000.000000000007")
    assert to_decimal(1).as_tuple().exponent == -12


def test_shares_of_usage_are_not_rounded_before_they_are_compared():
    # 0.1 + 0.2 is not 0.3 in floats: the weights keep the difference
    assert integer_weights({"a": 0.25, "b": 3.0}) == {"a": 1, "b": 12}
    assert apportion(3, integer_weights({"a": 0.1 + 0.2, "b": 0.3})) == {"a": 2, "b": 1}


# ---- what stands ------------------------------------------------------------------------------


def told(key, cost="1", identity="i", version="0 a", charge_class=None):
    return {"key": key, "cost": cost, "identity": identity, "version": version,
            "charge_class": charge_class}  # fmt: skip


def stands(*charges):
    """{key: whether an earlier version had another cost}, the same in any order and repetition."""
    found = standing(charges)
    assert standing([*charges, *charges][::-1]) == found
    return {charge["key"]: charge["is_restated"] for charge in found}


def test_a_later_snapshot_takes_the_place_of_an_earlier_one():
    assert stands(told("a", "1"), told("b", "2", version="0 b")) == {"b": True}
    assert stands(told("a", "1"), told("b", "2", identity="j", version="0 b")) == {
        "a": False, "b": False,
    }  # fmt: skip


def test_all_rows_of_one_version_stand_and_one_that_comes_twice_counts_once():
    assert stands(told("a", "1"), told("b", "2"), told("a", "1")) == {"a": False, "b": False}


def test_the_versions_are_compared_as_a_whole():
    """0.4 and 0.6 of two tiers are 1 of one; so is the same cost told again."""
    new = told("c", "1.0", version="0 b")
    assert stands(told("a", "0.4"), told("b", "0.6"), new) == {"c": False}
    assert stands(told("a", "0.4"), new) == {"c": True}
    assert stands(new, told("x", "9", version="0 a"), told("y", "1", version="0 c")) == {"y": True}


def test_a_correction_replaces_nothing_and_counts_once():
    reversal = told("r", "-1", version="", charge_class="Correction")
    rebook = told("n", "1.5", version="", charge_class="Correction")
    later = told("b", "1", version="0 b")
    assert stands(told("a"), reversal, rebook, later) == {"b": False, "n": False, "r": False}


MONEY = st.decimals(-(10**9), 10**9, places=12)
DIMENSIONS = st.sampled_from(["cpu", "memory", "io", "network"])
WEIGHTS = st.dictionaries(DIMENSIONS, st.integers(1, 10**6), min_size=1)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(MONEY, WEIGHTS, st.integers(0, DAY_MS), st.integers(0, 2 * DAY_MS), st.randoms())
def test_windows_and_parts_sum_to_the_cost_in_any_order(cost, weights, offset, length, shuffle):
    parts = [[dimension, str(weight / 1000)] for dimension, weight in weights.items()]
    start = HOUR + offset
    at = cost_by_window(charge(str(cost), start, start + length, parts))
    assert sum(units for parts_at in at.values() for units in parts_at.values()) == to_units(cost)
    shuffle.shuffle(parts)
    assert cost_by_window(charge(str(cost), start, start + length, parts)) == at


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.integers(-(10**28), 10**28), st.lists(st.floats(0, 1e15), min_size=1, max_size=20))
def test_no_share_is_off_by_a_unit(total, weights):
    by_name = {f"s{i}": weight for i, weight in enumerate(weights)}
    exact = integer_weights(by_name)
    whole = sum(exact.values())
    if not whole:
        return
    parts = apportion(total, exact)
    assert sum(parts.values()) == total
    for name, part in parts.items():
        assert abs(part * whole - total * exact[name]) < whole
