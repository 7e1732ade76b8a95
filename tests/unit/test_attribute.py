"""attribute: a resource's cost goes to who used it, and not a unit of it is lost or made up."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.pure.attribute import (
    HISTORY_MS,
    MIN_HISTORY_WINDOWS,
    allocate_window,
    charge_anomalies,
    sum_usage,
)
from udfs.pure.price import cost_by_window, to_decimal, to_units
from udfs.pure.windows import HOUR_MS, IDLE, NO_RESOURCE, UNALLOCATED, WINDOW_MS

HOUR = 400_000 * HOUR_MS
LATER = HOUR + 3 * HOUR_MS
ALL = ("cpu", "memory", "io", "network")


def charge(cost, hour=0, hours=1, **columns):
    """An hourly charge of one vCPU price, ``hour`` hours after HOUR."""
    start_ms = HOUR + int(hour * HOUR_MS)
    return {
        "key": f"{hour}/{cost}",
        "parts": [["cpu", "1"]],
        "per": "unit",
        "start_ms": start_ms,
        "end_ms": start_ms + int(hours * HOUR_MS),
        "cost": cost,
        "currency": "USD",
        "sku_id": "SKU-1",
        "focus_service_name": "Amazon Elastic Compute Cloud",
        "charge_class": None,
        "list_unit_price": "0.17",
        "consumed_quantity": "2",
        "consumed_unit": "vCPU-Hours",
        **columns,
    }


def bill_of(*charges):
    bill = defaultdict(list)
    for each in charges:
        for window_ms, parts in cost_by_window(each).items():
            bill[window_ms].append((each, parts))
    return dict(bill)


def rows_of(usage, *charges, window=HOUR, resource_id="node-1", metered=None):
    """usage: {window_start_ms: {dimension: {service: u}}}, or that of HOUR alone."""
    if not all(isinstance(key, int) for key in usage):
        usage = {HOUR: usage}
    if metered is None:
        metered = {dimension for of_window in usage.values() for dimension in of_window}
    return allocate_window(resource_id, window, usage, bill_of(*charges), metered)


def costs(rows):
    return {row["otel_service_name"]: str(row["allocated_cost"]) for row in rows}


def test_a_charge_is_split_by_usage():
    rows = rows_of({"cpu": {"cart": 3.0, "checkout": 1.0}}, charge("0.8"))
    assert costs(rows) == {"cart": "0.300000000000", "checkout": "0.100000000000"}
    cart = rows[0]
    assert (cart["usage"], cart["total_usage"], cart["share"]) == (3.0, 4.0, 0.75)
    assert cart["resource_cost"] == Decimal("0.4")
    assert (cart["cost_status"], cart["billing_currency"]) == ("billed", "USD")
    assert (cart["window_start"], cart["resource_id"], cart["dimension"]) == (HOUR, "node-1", "cpu")


def test_the_last_decimal_goes_to_the_largest_remainder_and_equal_ones_to_the_first_name():
    thirds = {"cpu": {"b": 1.0, "a": 1.0, "c": 1.0}}
    assert [row["allocated_cost"] for row in rows_of(thirds, charge("0.000000000008"))] == [
        Decimal("2e-12"), Decimal("1e-12"), Decimal("1e-12")
    ]
    uneven = {"cpu": {"a": 1.0, "b": 2.0}}
    assert [row["allocated_cost"] for row in rows_of(uneven, charge("0.000000000002"))] == [
        0, Decimal("1e-12")
    ]


def test_usage_of_no_known_service_counts_and_its_share_is_unallocated():
    rows = rows_of({"cpu": {"cart": 1.0, "": 3.0}}, charge("0.8"))
    assert costs(rows) == {UNALLOCATED: "0.300000000000", "cart": "0.100000000000"}
    assert rows[0]["usage"] == 3.0


def test_a_metered_resource_that_nobody_used_is_idle():
    never_in_this_window = rows_of({HOUR + WINDOW_MS: {"cpu": {"cart": 1.0}}}, charge("0.8"))
    measured_as_zero = rows_of({"cpu": {"cart": 0.0, "": 0.0}}, charge("0.8"))
    for rows in (never_in_this_window, measured_as_zero):
        assert costs(rows) == {IDLE: "0.400000000000"}
        assert (rows[0]["usage"], rows[0]["total_usage"], rows[0]["share"]) == (0.0, 0.0, 1.0)


def test_a_dimension_without_any_telemetry_is_unallocated():
    rows = rows_of({"memory": {"cart": 1.0}}, charge("0.8"))
    assert costs(rows) == {UNALLOCATED: "0.400000000000"}
    assert (rows[0]["usage"], rows[0]["total_usage"]) == (None, None)


@pytest.mark.parametrize(
    ("resource_id", "dimension"), [(NO_RESOURCE, "cpu"), ("node-1", "other")]
)
def test_what_no_usage_can_explain_is_unallocated(resource_id, dimension):
    rows = rows_of(
        {dimension: {"cart": 1.0}},
        charge("0.8", parts=[[dimension, "1"]]),
        resource_id=resource_id,
    )
    assert costs(rows) == {UNALLOCATED: "0.400000000000"}


def test_charges_of_one_dimension_are_added_and_each_is_shown():
    rows = rows_of({"cpu": {"cart": 1.0}}, charge("0.8"), charge("-0.2", key="a credit"))
    assert costs(rows) == {"cart": "0.300000000000"}
    assert [(c["key"], c["cost"], c["cost_in_window"]) for c in rows[0]["charges"]] == [
        ("0/0.8", "0.8", "0.400000000000"),
        ("a credit", "-0.2", "-0.100000000000"),
    ]
    assert rows[0]["charges"][0]["charge_period_end"] == "2015-08-19T17:00:00Z"
    assert rows[0]["charge_period_end"] == HOUR + HOUR_MS


def test_a_correction_marks_the_dimension_and_currency_that_it_restates():
    rows = rows_of(
        {"cpu": {"cart": 1.0}, "memory": {"cart": 1.0}},
        charge("0.8"),
        charge("0.4", parts=[["memory", "1"]]),
        charge("-0.1", charge_class="Correction"),
        charge("0.3", currency="EUR"),
    )
    assert [(r["dimension"], r["billing_currency"], r["cost_status"]) for r in rows] == [
        ("cpu", "EUR", "billed"), ("cpu", "USD", "corrected"), ("memory", "USD", "billed")
    ]


def test_currencies_are_never_added():
    rows = rows_of({"cpu": {"cart": 1.0}}, charge("0.8"), charge("0.6", currency="EUR"))
    assert [(str(row["allocated_cost"]), row["billing_currency"]) for row in rows] == [
        ("0.300000000000", "EUR"), ("0.400000000000", "USD")
    ]


def test_usage_of_a_services_consumers_adds_up_to_the_same_bits_in_any_order():
    parts = [("cpu", "cart", 1e16), ("cpu", "cart", 1.0), ("cpu", "cart", 1.0), ("io", "", 2.0)]
    assert sum_usage(parts) == {"cpu": {"cart": 1e16 + 2.0}, "io": {"": 2.0}}
    assert sum_usage(parts[::-1]) == sum_usage(parts)


def test_a_bill_that_is_there_is_not_topped_up_with_a_rate():
    usage = {**using(10.0, 10.0), LATER: {"cpu": {"cart": 10.0}}}
    rows = rows_of(usage, charge("0.8"), charge("0.2", 3), window=LATER)
    assert costs(rows) == {"cart": "0.100000000000"}


# ---- provisional ------------------------------------------------------------------------------

def using(*amounts, service="cart", dimension="cpu"):
    """Usage of consecutive windows from HOUR on; None = no telemetry."""
    return {
        HOUR + i * WINDOW_MS: {dimension: {service: amount}}
        for i, amount in enumerate(amounts)
        if amount is not None
    }


def test_before_the_bill_metered_usage_costs_what_it_cost_last_time():
    # 0.8 USD for 10 + 30 core-seconds in the charge's hour: 0.02 USD each, in both its windows
    rows = rows_of({**using(10.0, 30.0), LATER: {"cpu": {"cart": 5.0, "": 5.0}}}, charge("0.8"),
                   window=LATER)
    assert costs(rows) == {UNALLOCATED: "0.100000000000", "cart": "0.100000000000"}
    assert {row["cost_status"] for row in rows} == {"provisional"}
    assert rows[0]["charges"] == []
    assert Decimal(rows[0]["rate"]["cost_per_usage"]) == Decimal("0.02")
    assert rows[0]["rate"]["charges"][0]["key"] == "0/0.8"
    assert rows[0]["charge_period_end"] is None


def test_before_the_bill_a_machine_costs_what_its_last_window_cost():
    machine = charge("0.8", per="hour")
    for used, who in ((7.0, "cart"), (0.0, IDLE)):
        rows = rows_of({**using(10.0, 30.0), LATER: {"cpu": {"cart": used}}}, machine, window=LATER)
        assert costs(rows) == {who: "0.400000000000"}
        assert rows[0]["rate"]["cost_per_usage"] is None


def test_a_machine_its_licence_and_a_metered_extra_are_priced_together():
    parts = [charge("0.8", per="hour"), charge("0.2", per="hour"), charge("0.4", key="burst")]
    usage = {**using(10.0, 10.0), LATER: {"cpu": {"cart": 5.0}}}
    rows = rows_of(usage, *parts, window=LATER)
    assert costs(rows) == {"cart": "0.600000000000"}
    assert rows_of(usage, *parts[::-1], window=LATER) == rows


def test_the_latest_earlier_bill_counts_whatever_came_last():
    charges = [charge("0.2", 0), charge("0.6", 1), charge("9", 4, per="hour")]
    usage = {**using(*[10.0] * 6), LATER: {"cpu": {"cart": 10.0}}}
    for arrival in (charges, charges[::-1]):
        assert costs(rows_of(usage, *arrival, window=LATER)) == {"cart": "0.300000000000"}


def test_a_bill_that_gives_no_rate_is_passed_over():
    earlier = charge("0.2", 0)
    usage = {**using(10.0, 10.0, 0.0, 0.0), LATER: {"cpu": {"cart": 10.0}}}
    for no_rate in (
        charge("0.6", 1),  # metered, and nothing was used
        charge("-0.6", 1, per="hour"),  # a credit
        charge("0.6", 1, parts=[["memory", "1"]]),  # another dimension
    ):
        assert costs(rows_of(usage, earlier, no_rate, window=LATER)) == {"cart": "0.100000000000"}


def test_a_rate_takes_cost_and_usage_of_the_same_time():
    # telemetry began in the second half of the charge's hour: half the cost, all the usage
    usage = {**using(None, 10.0), LATER: {"cpu": {"cart": 10.0}}}
    rows = rows_of(usage, charge("0.8"), window=LATER)
    assert costs(rows) == {"cart": "0.400000000000"}


def test_usage_counts_for_a_rate_as_far_as_the_charge_period_reaches():
    # from quarter past to quarter past: half of the first and of the last window, 40 in all
    usage = {**using(10.0, 30.0, 10.0), LATER: {"cpu": {"cart": 10.0}}}
    assert costs(rows_of(usage, charge("0.8", 0.25), window=LATER)) == {"cart": "0.200000000000"}


def test_a_rate_is_good_to_the_last_decimal():
    a_third = {**using(3.0), LATER: {"cpu": {"cart": 3.0}}}
    rows = rows_of(a_third, charge("1000000", hours=0.5), window=LATER)
    assert costs(rows) == {"cart": "1000000.000000000000"}
    # a tenth as it is printed, not the float nearest to it
    a_tenth = {**using(1.0), LATER: {"cpu": {"cart": 0.1}}}
    rows = rows_of(a_tenth, charge("1000000", hours=0.5), window=LATER)
    assert costs(rows) == {"cart": "100000.000000000000"}


def test_without_an_earlier_bill_there_is_no_row_yet():
    assert rows_of(using(10.0), charge("0.8", 1)) == []
    assert rows_of(using(10.0)) == []


def test_without_usage_there_is_no_row_before_the_bill():
    assert rows_of(using(10.0, 10.0), charge("0.8"), window=LATER) == []


def test_a_provisional_cost_follows_from_its_rate_and_usage_to_the_last_decimal():
    used = {"memory": {"a": 0.1, "b": 7e11 / 3}}
    usage = {**using(1.7e9, 2.9e9, dimension="memory"), LATER: used}
    rows = rows_of(usage, charge("0.123456789", parts=[["memory", "1"]]), window=LATER)
    rate, total_usage = rows[0]["rate"], Decimal(str(rows[0]["total_usage"]))
    cost = Decimal(rate["cost_per_window"]) + Decimal(rate["cost_per_usage"]) * total_usage
    assert rows[0]["resource_cost"] == round(cost, 12)
    assert sum(row["allocated_cost"] for row in rows) == rows[0]["resource_cost"]


# ---- whatever comes in ------------------------------------------------------------------------

SERVICES = st.sampled_from(["", "cart", "checkout", "payment"])
USAGE_PARTS = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.sampled_from(ALL),
        SERVICES,
        st.one_of(st.just(0.0), st.floats(1e-9, 1e15)),
    ),
    max_size=30,
)
CHARGES = st.lists(
    st.builds(
        charge,
        cost=st.decimals(-100, 100, places=11).map(str),
        hour=st.sampled_from([0, 0.25, 1, 2]),
        hours=st.sampled_from([0, 0.5, 1, 3]),
        key=st.uuids().map(str),
        parts=st.sampled_from(
            [[["cpu", "1"]], [["cpu", "0.7"], ["memory", "0.3"]], [["io", "1"]], [["other", "1"]]]
        ),
        per=st.sampled_from(["hour", "unit"]),
        currency=st.sampled_from(["USD", "EUR"]),
        charge_class=st.sampled_from([None, "Correction"]),
    ),
    max_size=12,
)


def everything(parts, charges):
    """All rows of the resource, from parts of usage and charges in the order given."""
    by_window = defaultdict(list)
    for window, *part in parts:
        by_window[HOUR + window * WINDOW_MS].append(tuple(part))
    usage = {window_ms: sum_usage(part) for window_ms, part in by_window.items()}
    bill = bill_of(*charges)
    metered = {dimension for _, dimension, _, _ in parts}
    return [
        row
        for window_ms in sorted(usage.keys() | bill.keys())
        for row in allocate_window("node-1", window_ms, usage, bill, metered)
    ]


@settings(derandomize=True, max_examples=150, deadline=None)
@given(USAGE_PARTS, CHARGES, st.randoms())
def test_allocated_idle_and_unallocated_are_what_was_charged(parts, charges, shuffle):
    rows = everything(parts, charges)
    settled = [row for row in rows if row["cost_status"] != "provisional"]
    for currency in ("USD", "EUR"):
        charged = sum(to_units(each["cost"]) for each in charges if each["currency"] == currency)
        assert charged == sum(
            to_units(row["allocated_cost"])
            for row in settled
            if row["billing_currency"] == currency
        )
    allocated = defaultdict(int)
    for row in rows:
        key = row["window_start"], row["dimension"], row["billing_currency"]
        allocated[key, row["resource_cost"]] += to_units(row["allocated_cost"])
    assert all(to_units(cost) == units for (_, cost), units in allocated.items())

    keys = [(r["window_start"], r["dimension"], r["otel_service_name"], r["billing_currency"])
            for r in rows]
    assert len(keys) == len(set(keys))

    for each in charges:
        shuffle.shuffle(each["parts"])
    shuffle.shuffle(parts)
    shuffle.shuffle(charges)
    assert everything(parts, charges) == rows


# ---- charge_anomalies -------------------------------------------------------------------------


def irregular(costs_usd, **options):
    by_window = {
        HOUR + i * WINDOW_MS: to_units(str(cost))
        for i, cost in enumerate(costs_usd)
        if cost is not None
    }
    rows = charge_anomalies("node-1", "cpu", "USD", by_window, **options)
    return {(row["window_start"] - HOUR) // WINDOW_MS: row for row in rows}


def test_a_bill_like_the_ones_before_it_is_regular():
    assert irregular([1.0, 1.1, 0.9] * 40) == {}


def test_a_bill_that_jumps_is_irregular_and_so_is_one_that_drops():
    found = irregular([1.0, 1.1, 0.9] * 10 + [2.0, 1.0, 0.1])
    assert list(found) == [30, 32]
    row = found[30]
    assert row["anomaly_score"] == pytest.approx(1.0 / (1.4826 * 0.1))
    assert found[32]["anomaly_score"] < -6
    assert (row["billed_cost"], row["expected_cost"]) == (Decimal(2), Decimal(1))
    assert row["window_end"] - row["window_start"] == WINDOW_MS
    assert (row["resource_id"], row["dimension"]) == ("node-1", "cpu")
    assert row["billing_currency"] == "USD"


def test_a_flat_bill_must_change_by_more_than_its_floor():
    assert irregular([1.0] * 30 + [1.29]) == {}
    assert irregular([1.0] * 30 + [1.3])[30]["anomaly_score"] == pytest.approx(6.0)
    assert irregular([0.0] * 30 + [0.000005]) == {}
    assert list(irregular([0.0] * 30 + [0.01])) == [30]


def test_too_little_history_says_nothing():
    least = MIN_HISTORY_WINDOWS
    assert irregular([1.0] * (least - 1) + [9.0]) == {}
    assert list(irregular([1.0] * least + [9.0])) == [least]


def test_history_ends_seven_days_back_and_before_the_window_itself():
    week = HISTORY_MS // WINDOW_MS
    quiet = [1.0] * 24 + [None] * (week - 24)
    assert list(irregular(quiet + [9.0])) == [week]
    assert irregular([None, *quiet[1:], 9.0]) == {}  # 23 windows, none of them its own
    assert irregular([*quiet, None, 9.0]) == {}  # the first of the 24 is too old by now


def test_only_the_windows_asked_for_are_judged():
    costs_usd = [1.0] * 30 + [9.0, 1.0, 9.0]
    asked = [HOUR + 32 * WINDOW_MS, HOUR + 99 * WINDOW_MS]
    assert list(irregular(costs_usd, windows=asked)) == [32]


def test_money_of_an_irregular_bill_has_twelve_places():
    row = irregular([1.0] * 30 + [9.0])[30]
    assert row["billed_cost"] == to_decimal(9 * 10**12)
    assert str(row["expected_cost"]) == "1.000000000000"
