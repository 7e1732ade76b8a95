"""A cost has one cost centre: the user's, else what telemetry says, else what the bill's tags say, else none."""

from __future__ import annotations

import json
from decimal import Decimal

import pandas as pd
import pytest

from tests.literal import NOON_MS, cpu_gauge, resource, span, span_request
from tests.unit.test_attribute import HOUR, charge, rows_of
from tests.unit.test_follow import QUIET_MS, TEN, WINDOW_MS, window
from tests.unit.test_rank import allocation, incident, rank
from tests.unit.test_unit_cost import allocation as spent
from udfs.meter import own, owner
from udfs.pure.attribute import Consumer, cost_centers_of, packed, resource_rows, unpacked
from udfs.pure.cost_center import ATTRIBUTE, CostCenters, of_tags, one_of
from udfs.pure.follow import incident as incident_of
from udfs.pure.otlp import collect_metrics, collect_spans
from udfs.pure.unit_cost import unit_costs
from udfs.pure.windows import IDLE, UNALLOCATED

TAGGED = {"tags": {"CostCenter": "infra"}}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"CostCenter": "4711"}, "4711"),
        ({"user:cost-centre": "4711", "team": "x"}, "4711"),
        ({"example.com/cost_center_id": "4711"}, "4711"),
        ({"CostCenter": "4711", "cost center": "4711"}, "4711"),
        ({"CostCenter": "4711", "cost center": "4712"}, None),
        ({"CostCenter": None, "cost_center": ""}, None),
        ({"CostCenterOwner": "ann", "team": "x"}, None),
        ({}, None),
    ],
)
def test_tags_name_a_cost_centre_in_any_spelling(tags, expected):
    assert of_tags(tags) == expected


def test_of_the_users_mapping_the_first_that_fits_counts():
    mapping = CostCenters((("shop", ("shop/*", "pay")), ("all", ("*",))))
    assert [mapping.of(name) for name in ("shop/cart", "pay", "payment", IDLE)] == ["shop", "shop", "all", "all"]
    assert CostCenters().of("pay") is None


def test_several_that_differ_are_none():
    assert (one_of(["a", None, "a"]), one_of(["a", "b"]), one_of([None, ""]), one_of([])) == ("a", None, None, None)


# ---- allocations ----------------------------------------------------------------------------


def centers(rows):
    return {row["otel_service_name"]: row["cost_center"] for row in rows}


def test_telemetry_goes_before_the_bill_and_the_user_before_both():
    used = {HOUR: {"cpu": 1.0}}
    consumers = [("cart", used, "4711"), ("search", used), ("", used)]
    rows = resource_rows("node-1", consumers, [charge("0.8", identity="a", version="", **TAGGED)])[HOUR]
    assert centers(rows) == {"cart": "4711", "search": "infra", UNALLOCATED: "infra"}
    assert centers(unpacked(packed(rows))) == centers(rows)
    mapped = unpacked(packed(rows, CostCenters((("shop", ("c*",)),))))
    assert centers(mapped) == {"cart": "shop", "search": "infra", UNALLOCATED: "infra"}
    assert sum(Decimal(row["allocated_cost"]) for row in mapped) == Decimal("0.4")


def test_each_window_has_what_was_told_in_it():
    """And no other: a window that waits no more stays as it is."""
    told = [
        Consumer("cart", {0: {}, 1: {}}, "4711"),
        Consumer("cart", {1: {}, 2: {}}, "4712"),
        Consumer("cart", {2: {}}),
        Consumer("search", {"1": {}}, "9"),
        Consumer("", {1: {}}, "9"),
    ]
    expected = {0: {"cart": "4711"}, 1: {"search": "9"}, 2: {"cart": "4712"}}
    assert cost_centers_of(told) == cost_centers_of(told[::-1]) == expected


def test_charges_that_differ_name_none():
    bill = [charge("0.8", **TAGGED), charge("0.2", tags={"cost_center": "other"}), charge("0.1")]
    assert centers(rows_of({"cpu": {"cart": 1.0}}, *bill)) == {"cart": None}
    assert centers(rows_of({"cpu": {"cart": 1.0}}, *bill[::2])) == {"cart": "infra"}


def test_what_an_earlier_release_sent_has_none():
    before = b'[{"resource_id":"r","services":[["cart",1.0,1.0,"0.4"]]}]'
    assert unpacked(before) == [
        {"resource_id": "r", "otel_service_name": "cart", "usage": 1.0, "share": 1.0, "allocated_cost": "0.4",
         "cost_center": None}
    ]  # fmt: skip
    assert unpacked(b'[{"resource_id":"r"}]') == [{"resource_id": "r", "cost_center": None}]


# ---- what rests on them -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "expected"), [(["4711"], "4711"), (["4711", None], "4711"), (["4711", "4712"], None), ([None], None)]
)
def test_what_rests_on_allocations_has_theirs_where_they_agree(told, expected):
    rows = [
        allocation("cart", "1", resource_id=f"node-{n}", cost_center=center) for n, center in enumerate(told)
    ] + [allocation("other", "1", cost_center="9")]  # fmt: skip
    assert rank([incident("cart", 4.0, 6.0)], rows)[0]["cost_center"] == expected
    rows = [spent("cart", "1", resource_id=f"node-{n}", cost_center=center) for n, center in enumerate(told)]
    found = unit_costs(TEN, [], [*rows, spent("other", "1", cost_center="9")])
    assert centers(found) == {"cart": expected, "other": "9"}
    run = [window(TEN + n * WINDOW_MS, 0, 30, cost_center=center) for n, center in enumerate(told)]
    assert incident_of(run, 0, QUIET_MS)["cost_center"] == expected


def test_a_culprit_to_which_nothing_is_allocated_has_none():
    [row] = rank([incident("cart", 4.0)], [allocation("other", "1", cost_center="9")])
    assert row["cost_center"] is None


# ---- telemetry ------------------------------------------------------------------------------


def test_a_resource_tells_its_cost_centre_to_its_pod():
    more = {ATTRIBUTE: " 4711 "}
    of = resource("cart", "cart-1", "node-1", more=more)
    spans = collect_spans(json.dumps(span_request((of, [span(1, 1, None, NOON_MS, 5)]))).encode())[1]
    metrics = collect_metrics(json.dumps(cpu_gauge(of, [(NOON_MS, 1.0)])).encode())[1]
    assert spans == metrics == {"shop/cart-1": b'["cart","node-1","4711"]'}
    nothing_else = resource(None, "cart-1", None, more=more)
    _, pods, _ = collect_metrics(json.dumps(cpu_gauge(nothing_else, [(NOON_MS, 1.0)])).encode())
    assert pods == {"shop/cart-1": b'["","","4711"]'}


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([b'["cart","n"]'], ("cart", "n", None)),
        ([b'["cart","n"]', b'["","","4711"]'], ("cart", "n", "4711")),
        ([b'["cart","n","4711"]', b'["cart","n","4712"]'], ("cart", "n", None)),
        ([b'["cart","n",null]', b'["cart","n","4712"]'], ("cart", "n", None)),
    ],
)
def test_a_pod_s_cost_centre_is_what_all_claims_agree_on(claims, expected):
    assert owner(claims) == owner(claims[::-1]) == expected


def test_usage_carries_it_to_where_costs_are_allocated():
    names, pods, usage = (pd.Series([text, text]) for text in ("cart", "cart-1", '{"windows":{}}'))
    found = own._func(names, pods, usage, pd.Series(["4711", ""]))
    assert list(found) == ['["cart","cart-1",{"windows":{}},"4711"]', '["cart","cart-1",{"windows":{}}]']
