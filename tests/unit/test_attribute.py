"""attribute: a resource's cost goes to who used it, and not a unit of it is lost or made up."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyflink.common import RowKind

from tests.unit.keyed_stage import Stage, by_kind
from udfs.attribute import REMEMBERED_MS, Attribute
from udfs.pure.attribute import Known, allocate_window, resource_rows, sum_usage
from udfs.pure.price import cost_by_window, to_units
from udfs.pure.rates import BookPrice, Prices
from udfs.pure.windows import HOUR_MS, IDLE, NO_RESOURCE, SYSTEM, UNALLOCATED, WINDOW_MS

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


def test_a_charge_whose_time_the_provider_has_yet_to_complete_counts_and_is_provisional():
    usage = {"cpu": {"cart": 1.0, "checkout": 1.0}}
    complete, incomplete = charge("0.8"), charge("0.2", is_incomplete=True)
    correction = charge("-0.1", charge_class="Correction")
    for charges, status, cost in (
        ([complete], "billed", "0.200000000000"),
        ([incomplete], "provisional", "0.050000000000"),
        ([complete, incomplete], "provisional", "0.250000000000"),
        ([incomplete, correction], "provisional", "0.025000000000"),
        ([complete, correction], "corrected", "0.175000000000"),
    ):
        rows = rows_of(usage, *charges)
        assert {row["cost_status"] for row in rows} == {status}
        assert costs(rows) == {"cart": cost, "checkout": cost}
        assert len(rows[0]["charges"]) == len(charges) and rows[0]["rate"] is None
    # Another resource's, dimension's or hour's says nothing of it.
    later = charge("0.2", hour=1, is_incomplete=True)
    assert {row["cost_status"] for row in rows_of(usage, complete, later)} == {"billed"}


def test_the_last_decimal_goes_to_the_largest_remainder_and_equal_ones_to_the_first_name():
    thirds = {"cpu": {"b": 1.0, "a": 1.0, "c": 1.0}}
    assert [row["allocated_cost"] for row in rows_of(thirds, charge("0.000000000008"))] == [
        Decimal("2e-12"),
        Decimal("1e-12"),
        Decimal("1e-12"),
    ]
    uneven = {"cpu": {"a": 1.0, "b": 2.0}}
    assert [row["allocated_cost"] for row in rows_of(uneven, charge("0.000000000002"))] == [0, Decimal("1e-12")]


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


@pytest.mark.parametrize(("resource_id", "dimension"), [(NO_RESOURCE, "cpu"), ("node-1", "other")])
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
        ("cpu", "EUR", "billed"),
        ("cpu", "USD", "corrected"),
        ("memory", "USD", "billed"),
    ]


def test_currencies_are_never_added():
    rows = rows_of({"cpu": {"cart": 1.0}}, charge("0.8"), charge("0.6", currency="EUR"))
    assert [(str(row["allocated_cost"]), row["billing_currency"]) for row in rows] == [
        ("0.300000000000", "EUR"),
        ("0.400000000000", "USD"),
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
        HOUR + i * WINDOW_MS: {dimension: {service: amount}} for i, amount in enumerate(amounts) if amount is not None
    }


def test_before_the_bill_metered_usage_costs_what_it_cost_last_time():
    # 0.8 USD for 10 + 30 core-seconds in the charge's hour: 0.02 USD each, in both its windows
    rows = rows_of({**using(10.0, 30.0), LATER: {"cpu": {"cart": 5.0, "": 5.0}}}, charge("0.8"), window=LATER)
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


# ---- restated ---------------------------------------------------------------------------------


def delivered(cost, version="0 a", hour=0, **columns):
    """An hour's charge as collect makes it: of one identity whatever it costs."""
    return charge(cost, hour, **{
        "key": f"{hour}/{cost}/{columns.get('charge_class')}", "identity": f"i{hour}",
        "version": "" if columns.get("charge_class") else version, **columns,
    })  # fmt: skip


def all_rows(usage, *charges, **more):
    """Rows of each window of node-1; usage of cart, in cpu."""
    return resource_rows("node-1", [("cart", usage)], charges, **more)


def test_a_later_snapshot_of_a_charge_restates_its_windows():
    first, same, other = delivered("0.8"), delivered("0.8", "0 b"), delivered("0.6", "0 c")
    for charges, status, cost in (
        ([first], "billed", "0.400000000000"),
        ([first, same], "billed", "0.400000000000"),
        ([first, same, other], "corrected", "0.300000000000"),
        ([other, first], "corrected", "0.300000000000"),
    ):
        [row] = all_rows({HOUR: {"cpu": 1.0}}, *charges)[HOUR]
        assert (row["cost_status"], str(row["allocated_cost"])) == (status, cost)


def test_reversal_and_rebook_are_added_to_what_they_correct():
    rows = all_rows(
        {HOUR: {"cpu": 1.0}},
        delivered("0.8"),
        delivered("-0.8", charge_class="Correction"),
        delivered("0.5", charge_class="Correction"),
    )
    assert costs(rows[HOUR]) == {"cart": "0.250000000000"}
    assert rows[HOUR][0]["cost_status"] == "corrected"
    assert len(rows[HOUR][0]["charges"]) == 3


# ---- idle -------------------------------------------------------------------------------------

# Eight cores for an hour: 14,400 core-seconds a window.
MACHINE = {"per": "hour", "consumed_unit": "Hours", "consumed_quantity": "1", "machine": {"cpu": "8"}}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("proportional", {"cart": "0.3", "checkout": "0.1"}),
        ("none", {"cart": "0.15", "checkout": "0.05", IDLE: "0.2"}),
        ("even", {"cart": "0.25", "checkout": "0.15"}),
    ],
)
def test_who_bears_what_nobody_used(policy, expected):
    used = [("cart", {HOUR: {"cpu": 5400.0}}), ("checkout", {HOUR: {"cpu": 1800.0}})]
    rows = resource_rows("node-1", used, [delivered("0.8", **MACHINE)], idle_policy=policy)[HOUR]
    assert {row["otel_service_name"]: row["allocated_cost"] for row in rows} == {
        name: Decimal(cost) for name, cost in expected.items()
    }
    assert {(r["idle_policy"], r["idle_share"], r["capacity"]) for r in rows} == {(policy, 0.5, 14400.0)}
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert {row["total_usage"] for row in rows} == {7200.0}
    # 0.4 for 14,400 core-seconds, whoever bears what nobody used
    assert {row["marginal_rate"] for row in rows} == {"0.00002777777777777777777777777778"}


def test_the_clusters_own_pods_bear_what_they_use_and_no_equal_part_of_the_idle():
    used = [("cart", {HOUR: {"cpu": 5400.0}}), (SYSTEM, {HOUR: {"cpu": 1800.0}})]
    rows = resource_rows("node-1", used, [delivered("0.8", **MACHINE)], idle_policy="even")[HOUR]
    assert costs(rows) == {SYSTEM: "0.050000000000", "cart": "0.350000000000"}


def test_without_a_capacity_no_idle_part_is_known():
    for policy in ("proportional", "none", "even"):
        [row] = all_rows({HOUR: {"cpu": 1.0}}, delivered("0.8", per="hour"), idle_policy=policy)[HOUR]
        assert (row["allocated_cost"], row["idle_share"]) == (Decimal("0.4"), None)


def test_more_used_than_paid_for_leaves_nothing_idle():
    [row] = all_rows({HOUR: {"cpu": 99999.0}}, delivered("0.8", **MACHINE), idle_policy="none")[HOUR]
    assert (row["otel_service_name"], row["idle_share"]) == ("cart", 0.0)


def test_a_metered_quantity_is_the_capacity():
    """Two vCPU hours are 3,600 core-seconds a window."""
    rows = all_rows({HOUR: {"cpu": 900.0}}, delivered("0.8"), idle_policy="none")[HOUR]
    assert costs(rows) == {IDLE: "0.300000000000", "cart": "0.100000000000"}


def test_skus_of_one_machine_add_up_and_a_reversal_takes_capacity_back():
    half = MACHINE | {"consumed_quantity": "0.5"}
    twice = [delivered("0.4", identity="a", key="a", **half), delivered("0.4", identity="b", key="b", **half)]
    rows = all_rows({HOUR: {"cpu": 7200.0}}, *twice)[HOUR]
    assert (rows[0]["capacity"], rows[0]["idle_share"]) == (14400.0, 0.5)
    gone = delivered("-0.4", key="c", charge_class="Correction", **half | {"consumed_quantity": "-0.5"})
    [row] = all_rows({HOUR: {"cpu": 7200.0}}, *twice, gone)[HOUR]
    assert (row["capacity"], row["idle_share"]) == (7200.0, 0.0)


def test_the_idle_part_is_not_spread_over_who_is_unknown():
    used = [("", {HOUR: {"cpu": 7200.0}})]
    rows = resource_rows("node-1", used, [delivered("0.8", **MACHINE)], idle_policy="even")[HOUR]
    assert costs(rows) == {IDLE: "0.200000000000", UNALLOCATED: "0.200000000000"}


def test_before_the_bill_the_last_machine_tells_the_capacity():
    usage = {HOUR: {"cpu": 1.0}, LATER: {"cpu": 7200.0}}
    rows = all_rows(usage, delivered("0.8", **MACHINE), idle_policy="none")[LATER]
    assert costs(rows) == {IDLE: "0.200000000000", "cart": "0.200000000000"}
    assert {row["cost_status"] for row in rows} == {"provisional"}


# ---- the price of one more unit -------------------------------------------------------------------

# An 8-core machine at 0.34 USD an hour, all of it cpu's: a core-second is 0.34 / 8 / 3600.
CORE_SECOND = Decimal("0.34") / 8 / 3600


def price_of_more(rows):
    """(basis, rate) of the rows, which have it in common."""
    [found] = {(row["marginal_basis"], row["marginal_rate"]) for row in rows}
    return found[0], found[1] and Decimal(found[1])


@pytest.mark.parametrize("policy", ["proportional", "none", "even"])
@pytest.mark.parametrize("used", [0.03, 0.30, 0.80, 1.00])
def test_use_of_a_machine_costs_its_capacity_price_however_full_it_is(used, policy):
    half, quarter = used * 14400 * 0.75, used * 14400 * 0.25
    consumers = [("cart", {HOUR: {"cpu": half}, LATER: {"cpu": half}}), ("checkout", {HOUR: {"cpu": quarter}})]
    rows = resource_rows("node-1", consumers, [delivered("0.34", **MACHINE)], idle_policy=policy)
    for window in (HOUR, LATER):  # billed, and at the rate of that bill
        basis, rate = price_of_more(rows[window])
        assert basis == "capacity"
        assert abs(rate / CORE_SECOND - 1) < Decimal("1e-20")
    assert sum(row["allocated_cost"] for row in rows[HOUR]) == Decimal("0.17")


def test_a_daily_bill_of_a_machine_has_the_same_price():
    day = delivered("8.16", hours=24, **MACHINE | {"consumed_quantity": "24"})
    rows = all_rows({HOUR: {"cpu": 432.0}, HOUR + 9 * HOUR_MS: {"cpu": 14400.0}}, day)
    for window in (HOUR, HOUR + 9 * HOUR_MS):
        basis, rate = price_of_more(rows[window])
        assert (basis, round(rate / CORE_SECOND, 12)) == ("capacity", 1)


def test_what_is_charged_by_the_unit_costs_its_unit_price():
    """Two vCPU hours for 0.8, all of them used, unevenly in the hour; operations, of which the bill counts fewer."""
    rows = all_rows({HOUR: {"cpu": 5400.0}, HOUR + WINDOW_MS: {"cpu": 1800.0}}, delivered("0.8"))
    for window in (HOUR, HOUR + WINDOW_MS):
        assert price_of_more(rows[window]) == ("metered", round(Decimal("0.8") / 7200, 31))
    io = delivered("0.8", parts=[["io", "1"]], consumed_unit="Operations", consumed_quantity="10")
    assert price_of_more(all_rows({HOUR: {"io": 100.0}}, io)[HOUR]) == ("metered", Decimal("0.004"))
    later = all_rows({HOUR: {"io": 100.0}, LATER: {"io": 7.0}}, io)[LATER]
    assert price_of_more(later) == ("metered", Decimal("0.004"))


@pytest.mark.parametrize("hours", [1, 24])
def test_an_hours_or_a_days_units_have_one_price_whenever_they_were_used(hours):
    """Ninety in the first window and ten in the next, then none; they are what is charged."""
    io = delivered("4.8", hours=hours, parts=[["io", "1"]], consumed_unit="Operations", consumed_quantity="100")
    windows = [HOUR + at * WINDOW_MS for at in range(2 * hours)]
    rows = all_rows({ms: {"io": used} for ms, used in zip(windows, [90.0, 10.0] + [0.0] * 46)}, io)
    assert {price_of_more(rows[ms]) for ms in windows[:2]} == {("metered", Decimal("0.048"))}
    # The cost of a window stays an even part of the charge's.
    costs_of_windows = {sum(row["allocated_cost"] for row in rows[ms]) for ms in windows}
    assert costs_of_windows == {Decimal("4.8") / len(windows)}


def test_a_unit_fee_of_no_length_is_of_its_window():
    fee = delivered("1", hours=0, parts=[["io", "1"]], consumed_unit="Operations", consumed_quantity="4")
    assert price_of_more(all_rows({HOUR: {"io": 4.0}}, fee)[HOUR]) == ("metered", Decimal("0.25"))


def test_cores_of_a_machine_that_are_charged_by_the_unit_are_paid_for_used_or_not():
    cores = delivered("0.34", consumed_quantity="8", is_provisioned=True)
    for window in (HOUR, LATER):
        rows = all_rows({HOUR: {"cpu": 432.0}, LATER: {"cpu": 432.0}}, cores)[window]
        basis, rate = price_of_more(rows)
        assert (basis, round(rate / CORE_SECOND, 12)) == ("capacity", 1)


def test_a_correction_and_a_licence_have_no_size_and_change_the_price():
    more = (
        delivered("0.17", key="c", charge_class="Correction", consumed_quantity=None, consumed_unit=None),
        delivered("0.34", key="l", identity="l", is_licence=True, **MACHINE),
    )
    basis, rate = price_of_more(all_rows({HOUR: {"cpu": 432.0}}, delivered("0.34", **MACHINE), *more)[HOUR])
    assert (basis, round(rate / CORE_SECOND, 12)) == ("capacity", Decimal("2.5"))


UNSIZED = {"per": "hour", "consumed_unit": "Hours", "consumed_quantity": "1"}


@pytest.mark.parametrize("window", [HOUR, LATER])
def test_without_a_size_a_list_price_counts_and_else_cost_over_usage_which_is_told(window):
    usage = {HOUR: {"cpu": 432.0}, LATER: {"cpu": 432.0}}

    def price(*book, card=()):
        return price_of_more(all_rows(usage, delivered("0.34", **UNSIZED), prices=Prices(card, book))[window])

    assert price() == ("used_share", round(Decimal("0.17") / 432, 31))
    assert price(BookPrice("cpu", "0.036", "vCPU-Hours", "USD")) == ("list", Decimal("0.00001"))
    assert price(BookPrice("cpu", "0.036", "vCPU-Hours", "EUR"))[0] == "used_share"
    of_sku = {"sku_id": "SKU-1", "currency": "USD", "dimension": "cpu", "per": "window", "resources": 1,
              "list": "0.18", "capacity": "14400", "rates": []}  # fmt: skip
    assert price(card=(of_sku,)) == ("list", Decimal("0.0000125"))
    assert price(card=(of_sku | {"capacity": None},))[0] == "used_share"


def test_a_size_that_is_missing_for_a_part_is_missing():
    charges = delivered("0.34", **MACHINE), delivered("0.1", identity="b", key="b", **UNSIZED)
    assert price_of_more(all_rows({HOUR: {"cpu": 432.0}}, *charges)[HOUR])[0] == "used_share"


def test_a_machine_that_no_bill_names_costs_what_its_skus_machines_do():
    card = Prices(({"sku_id": "SKU-1", "currency": "USD", "dimension": "cpu", "per": "window", "resources": 1,
                    "list": "0.5", "capacity": "14400", "rates": [[HOUR, "0.17"]]},))  # fmt: skip
    for policy in ("proportional", "none", "even"):
        rows = all_rows({LATER: {"cpu": 432.0}}, prices=card, idle_policy=policy)[LATER]
        basis, rate = price_of_more(rows)
        assert (basis, round(rate / CORE_SECOND, 12)) == ("capacity", 1)
        assert sum(row["allocated_cost"] for row in rows) == Decimal("0.17")


def test_a_resource_that_the_price_book_alone_prices_has_its_price():
    book = Prices((), (BookPrice("cpu", "0.036", "vCPU-Hours", "USD"), BookPrice("io", "2", "Operations", "USD")))
    rows = all_rows({HOUR: {"cpu": 10.0, "io": 1.0}}, prices=book)[HOUR]
    assert [price_of_more([row]) for row in rows] == [("list", Decimal("0.00001")), ("metered", 2)]


def pool(machines, hour=0, cost="0.34"):
    """So many of the machines in an hour."""
    each = MACHINE | {"consumed_quantity": machines}
    return delivered(str(Decimal(cost) * Decimal(machines)), hour=hour, **each)


@pytest.mark.parametrize(
    ("hours", "used", "expected"),
    [
        (["3", "3"], 0.6, ("capacity", 1)),  # as many as before
        (["2", "3"], 0.6, ("pool", Decimal("0.6"))),  # one came
        (["4", "3"], 0.6, ("pool", Decimal("0.6"))),  # one went
        (["3", "2.5"], 0.8, ("pool", Decimal("0.8"))),
        (["3.5"], 0.6, ("pool", Decimal("0.6"))),
        (["3"], 0.6, ("capacity", 1)),  # nobody knows what was before
        (["2", "3"], 1.2, ("pool", 1)),
        (["2", "3"], 0.4, ("capacity", 1)),  # no machine is added to an empty pool
        (["0.5", "1"], 0.6, ("capacity", 1)),  # one that was started
        (["0.25", "0.75"], 0.6, ("capacity", 1)),
    ],
)
def test_a_pool_whose_machines_come_and_go_costs_as_much_more_as_it_is_less_than_full(hours, used, expected):
    last = HOUR + (len(hours) - 1) * HOUR_MS
    of_half = {"cpu": used * 14400 * float(hours[-1])}
    usage = {last: of_half, last + WINDOW_MS: of_half, LATER + 2 * HOUR_MS: {"cpu": 9.0}}
    rows = all_rows(usage, *(pool(machines, hour) for hour, machines in enumerate(hours)))
    for window in usage:  # billed, and at the rate of that bill
        basis, rate = price_of_more(rows[window])
        assert (basis, round(CORE_SECOND / rate, 12)) == expected


def test_a_pool_grows_with_its_fullest_dimension():
    """Machines are three quarters full of memory, and come for that: they cost the memory, and cpu is to spare."""
    each = MACHINE | {"machine": {"cpu": "8", "memory": "100"}, "parts": [["cpu", "0.5"], ["memory", "0.5"]]}
    charges = [pool(n, hour) | each | {"consumed_quantity": n} for hour, n in enumerate(("2", "3"))]
    used = {"cpu": 0.3 * 3 * 14400, "memory": 0.75 * 3 * 180_000}
    usage = {HOUR + HOUR_MS: used, HOUR + HOUR_MS + WINDOW_MS: used, LATER: {"cpu": 1.0, "memory": 1.0}}
    rows = all_rows(usage, *charges)
    for window in usage:
        cpu, memory = rows[window]
        assert price_of_more([cpu]) == ("pool", 0)
        assert (memory["marginal_basis"], cpu["marginal_basis"]) == ("pool", "pool")
        assert round(Decimal(memory["marginal_rate"]) * Decimal(used["memory"]), 12) == Decimal("0.51")


def test_machines_of_several_sizes_are_no_pool():
    small = pool("2", 1) | {"key": "small", "identity": "small", "machine": {"cpu": "2"}}
    rows = all_rows({HOUR + HOUR_MS: {"cpu": 30_000.0}}, pool("1"), pool("2", 1), small)[HOUR + HOUR_MS]
    assert price_of_more(rows)[0] == "capacity"


# ---- rates of others --------------------------------------------------------------------------

CARD = Prices(({"sku_id": "SKU-1", "currency": "USD", "dimension": "cpu", "per": "usage",
                "resources": 1, "list": "0.5", "rates": [[HOUR, "0.25"]]},))  # fmt: skip


def test_the_own_bill_comes_before_that_of_the_sku():
    usage = {HOUR: {"cpu": 1.0}, HOUR + WINDOW_MS: {"cpu": 1.0}, LATER: {"cpu": 2.0}}
    [row] = all_rows(usage, delivered("0.8"), prices=CARD)[LATER]
    assert (row["rate"]["source"], row["allocated_cost"]) == ("resource", Decimal("0.8"))


def test_a_later_bill_says_which_sku_a_resource_is():
    usage = {HOUR + WINDOW_MS: {"cpu": 2.0}}
    rows = all_rows(usage, delivered("0.8", hour=3), prices=CARD)
    [row] = rows[HOUR + WINDOW_MS]
    assert (row["rate"]["source"], row["rate"]["sku_known_by"]) == ("sku", "charges")
    assert (row["allocated_cost"], row["cost_status"]) == (Decimal("0.5"), "provisional")
    [row] = all_rows({HOUR: {"cpu": 2.0}}, delivered("0.8", hour=3), prices=CARD)[HOUR]
    assert (row["rate"]["source"], row["allocated_cost"]) == ("list_price", Decimal(1))


def test_a_resource_without_any_bill_is_priced_by_the_book_or_a_guess():
    book = Prices(CARD.card, (BookPrice("cpu", "3600", "vCPU-Hours", "EUR"),))
    [row] = all_rows({HOUR: {"cpu": 2.0}}, prices=book)[HOUR]
    assert (row["rate"]["source"], row["billing_currency"]) == ("price_book", "EUR")
    assert row["allocated_cost"] == 2
    [row] = all_rows({LATER: {"cpu": 2.0}}, prices=CARD)[LATER]
    assert (row["rate"]["sku_known_by"], row["allocated_cost"]) == ("only", Decimal("0.5"))
    assert all_rows({LATER: {"memory": 2.0}}, prices=CARD) == {}


def test_what_forgotten_windows_knew_is_still_known():
    earlier = all_rows({HOUR: {"cpu": 1.0}, LATER: {"cpu": 2.0}}, delivered("0.8"))[LATER][0]
    known = Known(frozenset(["memory"]), {"cpu": {"USD": earlier["rate"]}})
    rows = all_rows({LATER: {"cpu": 2.0}}, delivered("1", hour=5, parts=[["memory", "1"]]), known=known)
    assert rows[LATER][0]["allocated_cost"] == earlier["allocated_cost"]
    assert rows[HOUR + 5 * HOUR_MS][0]["otel_service_name"] == IDLE


# ---- in a stream ------------------------------------------------------------------------------


def stage(wait_ms=None, emit_every_ms=10_000):
    return Stage(Attribute(wait_ms, emit_every_ms), "node-1")


def feed_usage(it, window_ms, used, of=RowKind.INSERT):
    it.feed("usage", f"{window_ms}\x1fpod", ["cart", "pod", {"windows": {window_ms: {"cpu": used}}}], of)


def pass_to(it, window_ms):
    """Usage of three windows in a row: after a gap, so many have to agree."""
    for back in (2, 1, 0):
        feed_usage(it, window_ms - back * WINDOW_MS, 1.0)


def feed_charge(it, each):
    it.feed("charge", f"{each['key']}/{each['version']}", each)


def test_only_windows_that_changed_are_sent_and_as_often_as_asked():
    it = stage()
    feed_usage(it, HOUR, 1.0)
    it.now_ms = 3_000
    feed_charge(it, delivered("0.8"))
    assert it.timers == {10_000} and it.sent == []
    assert list(by_kind(it.fire(), "allocations")) == [HOUR, HOUR + WINDOW_MS]
    feed_charge(it, delivered("0.8"))
    assert it.fire() == {}
    feed_usage(it, HOUR, 1.0, RowKind.UPDATE_BEFORE)
    feed_usage(it, HOUR, 2.0, RowKind.UPDATE_AFTER)
    [(window_ms, [row])] = by_kind(it.fire(), "allocations").items()
    assert (window_ms, row["usage"]) == (HOUR, 2.0)
    assert it.end() == it.rows and len(it.sent) == 3


def test_a_window_that_loses_its_rows_is_sent_empty_once():
    it = stage()
    feed_usage(it, HOUR, 1.0)
    feed_usage(it, LATER, 1.0)
    feed_charge(it, delivered("0.8"))
    assert LATER in by_kind(it.fire(), "allocations")
    feed_usage(it, LATER, 1.0, RowKind.DELETE)
    assert by_kind(it.fire(), "allocations") == {LATER: []}
    assert it.end().keys() == {("allocations", ms, "node-1") for ms in (HOUR, HOUR + WINDOW_MS)}


def test_a_bounded_input_is_sent_at_its_end_alone():
    it = Stage(Attribute(), "node-1")
    feed_usage(it, HOUR, 1.0)
    feed_charge(it, delivered("0.8"))
    assert it.timers == set() and it.sent == []
    feed_charge(it, delivered("0.8", hour=-9999))  # nothing is late
    assert len(by_kind(it.end(), "allocations")) == 4


def test_what_was_paid_for_before_is_known_after_its_window_is_closed():
    """A machine came in the second hour; half of that hour is still open when the hour before it is forgotten."""
    it = stage(wait_ms=2 * HOUR_MS)
    for each in (pool("2", 0), pool("3", 1)):
        feed_charge(it, each)
    half_open = HOUR + 3 * WINDOW_MS
    sent = []
    for window in range(10):
        feed_usage(it, HOUR + window * WINDOW_MS, 0.6 * 3 * 14400)
        sent += [rows for window_ms, rows in by_kind(it.fire(), "allocations").items() if window_ms == half_open]
    assert sent[-1][0]["marginal_basis"] == "pool"
    assert len(sent) == 2  # idle, and used


def test_a_charge_for_a_closed_window_is_told_and_nothing_else_changes():
    it = stage(wait_ms=2 * HOUR_MS)
    for hour in range(8):
        for half in (0, WINDOW_MS):
            feed_usage(it, HOUR + hour * HOUR_MS + half, 1.0)
    feed_charge(it, delivered("0.8"))
    feed_charge(it, delivered("0.8", hour=5))
    before = by_kind(it.fire(), "allocations")
    assert len(before) == 16  # nothing was closed before it was sent
    late = delivered("0.6", "0 b", hour=1)
    feed_charge(it, late)
    feed_charge(it, late)
    [(key, told)] = [(key, told) for key, told in it.rows.items() if key[0] == "late_charges"]
    assert key == ("late_charges", late["start_ms"], f"{late['key']}/0 b")
    assert told["stream"] == "focus_charges" and told["event_time_ms"] == late["start_ms"]
    assert "set billing.corrections to 7 h or more" in told["reason"]
    assert it.end() == it.rows  # the closed windows stand as they were sent


def test_a_closed_window_stands_though_a_charge_that_reaches_into_it_is_still_held():
    it = stage(wait_ms=2 * HOUR_MS)
    feed_charge(it, delivered("2.4", hours=12))
    for window in range(20):
        feed_usage(it, HOUR + window * WINDOW_MS, 1.0)
    it.fire()
    feed_usage(it, HOUR + 10 * HOUR_MS, 1.0)
    it.fire()
    rows = by_kind(it.rows, "allocations")
    assert {row["otel_service_name"] for ms in sorted(rows)[:21] for row in rows[ms]} == {"cart"}
    assert sum(Decimal(row["allocated_cost"]) for [row] in rows.values()) == Decimal("2.4")


def test_a_charge_that_was_counted_is_not_late_when_it_is_told_again():
    it = stage(wait_ms=2 * HOUR_MS)
    feed_charge(it, delivered("0.8"))
    pass_to(it, HOUR + 9 * HOUR_MS)
    it.fire()
    feed_charge(it, delivered("0.8", "0 next day"))
    assert not by_kind(it.rows, "late_charges")
    pass_to(it, HOUR + REMEMBERED_MS + 2 * HOUR_MS)
    it.fire()
    feed_charge(it, delivered("0.8", "0 next year"))
    assert by_kind(it.rows, "late_charges")


def test_usage_of_a_closed_window_is_told_unless_it_is_taken_back():
    it = stage(wait_ms=2 * HOUR_MS)
    feed_usage(it, HOUR, 1.0)
    pass_to(it, LATER)
    it.fire()
    feed_usage(it, HOUR, 1.0, RowKind.UPDATE_BEFORE)
    assert not by_kind(it.rows, "late_usage")
    feed_usage(it, HOUR, 3.0, RowKind.UPDATE_AFTER)
    [told] = by_kind(it.rows, "late_usage").values()
    assert told["stream"] == "otlp_metrics" and "set billing.wait higher" in told["reason"]


def test_state_is_bounded_and_rates_outlive_what_is_forgotten():
    it = stage(wait_ms=2 * HOUR_MS)
    sizes = []
    for hour in range(300):
        for half in (0, WINDOW_MS):
            feed_usage(it, HOUR + hour * HOUR_MS + half, 10.0)
        if hour < 200:
            feed_charge(it, delivered("0.8", hour=hour))
        it.fire()
        sizes.append(it.size())
    assert sizes[150]["usage"] == sizes[190]["usage"] <= 6
    assert sizes[150]["charge"] == sizes[190]["charge"] <= 4
    assert sizes[150]["sent_allocations"] == sizes[190]["sent_allocations"] <= 6
    rows = by_kind(it.rows, "allocations")
    assert len(rows) == 600
    [newest] = rows[max(rows)]
    assert (newest["cost_status"], Decimal(newest["allocated_cost"])) == ("provisional", Decimal("0.4"))
    assert newest["rate"]["charges"][0]["key"] == "199/0.8/None"


# ---- what is ahead of the others ----------------------------------------------------------------

DAY_MS = 24 * HOUR_MS
YEAR_MS = 365 * DAY_MS


def usage_ahead(it, by_ms):
    feed_usage(it, HOUR + 10 * HOUR_MS + by_ms, 1.0)


def charge_ahead(it, by_ms):
    feed_charge(it, delivered("5", hour=10 + by_ms // HOUR_MS))


def a_day(wrong, by_ms, place, clock_ms=0, wait_ms=2 * HOUR_MS):
    """24 hours of usage, charged at 1 an hour two hours later; and at one of them something from a wrong clock."""
    it = stage(wait_ms)
    for hour in range(26):
        it.now_ms = clock_ms and clock_ms + hour * HOUR_MS
        if hour == place:
            wrong(it, by_ms)
        if hour < 24:
            for half in (0, WINDOW_MS):
                feed_usage(it, HOUR + hour * HOUR_MS + half, 10.0)
        if hour >= 2:
            feed_charge(it, delivered("1", f"{hour}", hour=hour - 2))
        it.fire()
    return it


def charged(it):
    """What was allocated in the day itself."""
    rows = [row for ms, of in by_kind(it.rows, "allocations").items() if ms < HOUR + DAY_MS for row in of]
    assert {row["cost_status"] for row in rows} == {"billed"}
    return sum(Decimal(row["allocated_cost"]) for row in rows)


@pytest.mark.parametrize("clock_ms", [0, HOUR, HOUR + 5 * YEAR_MS])
@pytest.mark.parametrize("place", [0, 1, 7, 25])
@pytest.mark.parametrize("by_ms", [DAY_MS, 40 * DAY_MS, YEAR_MS])
@pytest.mark.parametrize("wrong", [usage_ahead, charge_ahead])
def test_what_is_ahead_of_the_others_closes_nothing(wrong, by_ms, place, clock_ms):
    """Where the clock is that time's, and where it says nothing: old data that is read again."""
    it = a_day(wrong, by_ms, place, clock_ms)
    assert not by_kind(it.rows, "late_charges") and not by_kind(it.rows, "late_usage")
    assert charged(it) == 24


@pytest.mark.parametrize("wrong, kind", [(usage_ahead, "ahead_usage"), (charge_ahead, "ahead_charges")])
def test_what_is_ahead_of_the_clock_is_rejected(wrong, kind):
    it = a_day(wrong, YEAR_MS, 7, clock_ms=HOUR)
    [told] = by_kind(it.rows, kind).values()
    assert "correct" in told["reason"] and told["event_time_ms"] == HOUR + 10 * HOUR_MS + YEAR_MS
    assert not [ms for ms, rows in by_kind(it.rows, "allocations").items() if rows and ms > HOUR + 2 * DAY_MS]


@pytest.mark.parametrize("wrong, kind", [(usage_ahead, "ahead_usage"), (charge_ahead, "ahead_charges")])
def test_a_bounded_input_rejects_the_same(wrong, kind):
    streamed = a_day(wrong, YEAR_MS, 7, clock_ms=HOUR)
    it = Stage(Attribute(), "node-1")
    it.now_ms = HOUR + DAY_MS
    wrong(it, YEAR_MS)
    for hour in range(24):
        for half in (0, WINDOW_MS):
            feed_usage(it, HOUR + hour * HOUR_MS + half, 10.0)
        feed_charge(it, delivered("1", f"{hour + 2}", hour=hour))
    it.end()
    assert by_kind(it.rows, kind) == by_kind(streamed.rows, kind)
    assert charged(it) == charged(streamed) == 24


def test_a_reject_is_taken_back_once_the_clock_has_come_so_far():
    it = a_day(charge_ahead, 2 * DAY_MS, 7, clock_ms=HOUR)
    assert len(by_kind(it.rows, "ahead_charges")) == 1
    it.now_ms = HOUR + 4 * DAY_MS
    feed_usage(it, HOUR + DAY_MS, 1.0)
    it.fire()
    assert list(by_kind(it.rows, "ahead_charges").values()) == [None]
    assert sum(
        Decimal(row["allocated_cost"])
        for rows in by_kind(it.rows, "allocations").values()
        for row in rows
        if row["cost_status"] == "billed"
    ) == 29  # fmt: skip


def test_what_is_charged_ahead_by_right_closes_nothing_and_is_no_error():
    """A year's commitment, paid by the month, and this month's fee."""

    def committed(it, by_ms):
        for month in range(12):
            fee = delivered("0.1", hour=10 + month * 730, hours=730, identity=f"fee {month}", key=f"fee {month}")
            feed_charge(it, fee | {"charge_category": "Purchase"})

    it = a_day(committed, 0, 3, clock_ms=HOUR)
    assert not by_kind(it.rows, "late_charges") and not by_kind(it.rows, "ahead_charges")
    billed = [row for of in by_kind(it.rows, "allocations").values() for row in of if row["cost_status"] == "billed"]
    assert sum(Decimal(row["allocated_cost"]) for row in billed) == Decimal("25.2")


def test_a_host_with_a_wrong_clock_closes_nothing_that_the_clock_has_not_reached():
    """All usage of its pods is a year ahead, from the first on."""
    it = stage(wait_ms=2 * HOUR_MS)
    for hour in range(24):
        it.now_ms = HOUR + hour * HOUR_MS
        feed_usage(it, HOUR + hour * HOUR_MS + YEAR_MS, 10.0)
        feed_charge(it, delivered("1", hour=hour - 1))
        it.fire()
    assert not by_kind(it.rows, "late_charges")


def test_after_a_gap_windows_close_again():
    it = stage(wait_ms=2 * HOUR_MS)
    for hour in [*range(5), *range(400, 410)]:
        for half in (0, WINDOW_MS):
            feed_usage(it, HOUR + hour * HOUR_MS + half, 10.0)
        it.fire()
    assert it.size()["usage"] <= 6


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
        parts=st.sampled_from([[["cpu", "1"]], [["cpu", "0.7"], ["memory", "0.3"]], [["io", "1"]], [["other", "1"]]]),
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
        assert charged == sum(to_units(row["allocated_cost"]) for row in settled if row["billing_currency"] == currency)
    allocated = defaultdict(int)
    for row in rows:
        key = row["window_start"], row["dimension"], row["billing_currency"]
        allocated[key, row["resource_cost"]] += to_units(row["allocated_cost"])
    assert all(to_units(cost) == units for (_, cost), units in allocated.items())

    keys = [(r["window_start"], r["dimension"], r["otel_service_name"], r["billing_currency"]) for r in rows]
    assert len(keys) == len(set(keys))

    for each in charges:
        shuffle.shuffle(each["parts"])
    shuffle.shuffle(parts)
    shuffle.shuffle(charges)
    assert everything(parts, charges) == rows
