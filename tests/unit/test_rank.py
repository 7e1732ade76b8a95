"""rank: the order in which to deal with a window's anomalies, and why."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.pure.attribute import allocate_window
from udfs.pure.contract import TABLES
from udfs.pure.price import cost_by_window
from udfs.pure.rank import BILLED_EXCESS, EXCESS, EXCESS_SCORE, ORDERS, SCORE, rank_window
from udfs.pure.windows import HOUR_MS, UNALLOCATED, WINDOW_MS

HOUR = 400_000 * HOUR_MS


def incident(culprit, *scores, threshold=3.0, kind="latency", affected=None, exemplars=None, **columns):
    return {
        "otel_service_name": culprit,
        "anomalous_traces": len(scores),
        "scores": list(scores),
        "threshold": threshold,
        "kinds": {kind: len(scores)},
        "affected": affected or {},
        "exemplars": exemplars or [[score, f"{culprit}-{score}"] for score in scores],
        "operations": {},
        "model_versions": {"usual-1": len(scores)},
        "excess_usage": {},
        "unexplained_usage": {},
        "recurrence": [1, 100],
        **columns,
    }


def allocation(service, cost, currency="USD", status="billed", resource_id="node-1", **columns):
    is_billed = status != "provisional"
    return {
        "window_start": HOUR,
        "resource_id": resource_id,
        "dimension": "cpu",
        "otel_service_name": service,
        "usage": 1.0,
        "total_usage": 2.0,
        "share": 0.5,
        "resource_cost": Decimal(cost) * 2,
        "allocated_cost": Decimal(cost),
        "billing_currency": currency,
        "cost_status": status,
        "cost_center": None,
        "charges": [],
        "rate": None,
        "marginal_rate": None,
        "marginal_basis": None,
        "idle_policy": "proportional",
        "idle_share": None,
        "charge_period_end": HOUR + HOUR_MS if is_billed else None,
        **columns,
    }


def rank(incidents, allocations=(), traces=(), minutes=None, order=SCORE):
    return rank_window(HOUR, minutes or [incidents], traces, allocations, order)


def order(rows):
    return [(row["billing_currency"], row["rank"], row["otel_service_name"]) for row in rows]


def test_one_row_has_every_column_of_the_interface():
    [row] = rank([incident("cart", 4.0, 6.0)], [allocation("cart", "1.5")], [{"cart": 10}, {"cart": 20}])
    assert row.keys() == set(TABLES["ranked_anomalies"].names)
    assert row["window_start"] == HOUR
    assert row["window_end"] == HOUR + WINDOW_MS
    assert row["anomaly_score"] == 5.0 * math.log2(3)
    assert row["cost_weighted_score"] == row["anomaly_score"] * math.log1p(1.5)
    assert row["attributed_cost"] == Decimal("1.5")
    assert str(row["attributed_cost"]) == "1.500000000000"
    assert (row["anomalous_traces"], row["total_traces"], row["threshold"]) == (2, 30, 3.0)
    assert (row["excess_cost"], row["billed_excess_cost"], row["projected_monthly_cost"]) == (0, 0, 0)
    assert row["anomaly_id"] == "2015-08-19T16:00:00Z/cart/USD"
    assert (row["rank"], row["model_version"]) == (1, "usual-1")


def test_one_trace_leaves_its_score_as_it_is():
    [row] = rank([incident("cart", 4.25)])
    assert row["anomaly_score"] == 4.25


def test_cost_and_severity_rank_together():
    rows = rank(
        [incident("loud", 9.0), incident("dear", 4.0), incident("cheap", 4.0)],
        [allocation("loud", "1"), allocation("dear", "2"), allocation("cheap", "0.01")],
    )
    assert order(rows) == [("USD", 1, "loud"), ("USD", 2, "dear"), ("USD", 3, "cheap")]


def test_equal_scores_are_ranked_by_cost_then_severity_then_name():
    # with nothing allocated, S is 0 whatever alpha is
    rows = rank([incident("b", 4.0), incident("a", 4.0), incident("z", 9.0)], [allocation("other", "1")])
    assert [row["otel_service_name"] for row in rows] == ["z", "a", "b"]
    # what no float tells apart
    nearly = [allocation("a", "1e15"), allocation("b", "1000000000000000.000000000001")]
    rows = rank([incident("a", 4.0), incident("b", 4.0)], nearly)
    assert rows[0]["cost_weighted_score"] == rows[1]["cost_weighted_score"]
    assert [row["otel_service_name"] for row in rows] == ["b", "a"]


def test_currencies_are_ranked_apart():
    rows = rank(
        [incident("cart", 4.0), incident("checkout", 4.0)],
        [
            allocation("cart", "1"),
            allocation("cart", "1.5", "EUR"),
            allocation("checkout", "2"),
        ],
    )
    assert order(rows) == [("EUR", 1, "cart"), ("USD", 1, "checkout"), ("USD", 2, "cart")]
    assert [row["attributed_cost"] for row in rows] == [Decimal("1.5"), 2, 1]


def test_a_culprit_without_cost_has_a_row_in_each_currency_of_the_bill():
    rows = rank([incident("cart", 4.0)], [allocation("x", "1"), allocation("x", "1", "EUR")])
    assert order(rows) == [("EUR", 1, "cart"), ("USD", 1, "cart")]
    assert {(row["attributed_cost"], row["cost_status"]) for row in rows} == {(0, "billed")}


def test_without_any_bill_the_currency_is_none_and_the_row_provisional():
    [row] = rank([incident("cart", 4.0)])
    assert (row["billing_currency"], row["cost_status"]) == ("XXX", "provisional")
    assert (row["attributed_cost"], row["cost_weighted_score"]) == (0, 0.0)
    assert row["updated_at"] == HOUR + WINDOW_MS


def test_a_credit_counts_against_and_never_breaks_the_logarithm():
    rows = rank(
        [incident("cart", 4.0), incident("checkout", 4.0)],
        [allocation("cart", "-3"), allocation("checkout", "0")],
    )
    assert order(rows) == [("USD", 1, "checkout"), ("USD", 2, "cart")]
    assert rows[1]["cost_weighted_score"] == -4.0 * math.log1p(3)


def test_minutes_of_a_window_are_merged_by_culprit():
    minutes = [
        [
            incident("cart", 4.0, 5.0, threshold=3.0, kind="error", affected={"web": 2, "cart": 2}),
            incident("checkout", 9.0),
        ],
        [],
        [incident("cart", 9.0, threshold=6.0, affected={"api": 1, "web": 1, "db": 2})],
    ]
    cart, checkout = rank(None, minutes=minutes)
    assert cart["anomaly_score"] == 6.0 * math.log2(4)
    assert cart["threshold"] == 4.0  # what the three traces had to exceed: 3, 3 and 6
    assert cart["anomaly_kind"] == "error"
    assert cart["affected_services"] == ["web", "db", "api"]
    assert cart["exemplar_trace_ids"] == ["cart-9.0", "cart-5.0", "cart-4.0"]
    assert checkout["anomalous_traces"] == 1
    assert rank(None, minutes=minutes[::-1]) == [cart, checkout]


def test_the_kinds_tie_goes_to_the_first_name():
    [row] = rank([incident("cart", 4.0, kind="latency"), incident("cart", 4.0, kind="error")])
    assert row["anomaly_kind"] == "error"


def test_five_exemplars_the_best_of_all_minutes_each_once():
    best = [[7.0, "g"], [7.0, "f"], [5.5, "d"], [5.0, "e"], [3.0, "c"]]
    more = [[9.0, "z"], [6.0, "e"]]
    both = [incident("cart", 7.0, exemplars=best), incident("cart", 9.0, exemplars=more)]
    for incidents in (both, both[::-1]):
        [row] = rank(incidents)
        assert row["exemplar_trace_ids"] == ["z", "f", "g", "e", "d"]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["billed", "billed"], "billed"),
        (["billed", "corrected"], "corrected"),
        (["provisional", "corrected"], "provisional"),
    ],
)
def test_a_row_is_as_settled_as_the_least_settled_cost_it_rests_on(statuses, expected):
    allocations = [allocation("cart", "1", status=status, resource_id=f"node-{i}") for i, status in enumerate(statuses)]
    allocations.append(allocation("checkout", "1", status="provisional"))
    [row] = rank([incident("cart", 4.0)], allocations)
    assert row["cost_status"] == expected


def test_updated_at_is_the_event_time_that_the_row_is_known_at():
    before_the_bill = allocation("cart", "1", status="provisional")
    [row] = rank([incident("cart", 4.0)], [before_the_bill])
    assert row["updated_at"] == HOUR + WINDOW_MS
    [row] = rank([incident("cart", 4.0)], [before_the_bill, allocation("cart", "1")])
    assert row["updated_at"] == HOUR + HOUR_MS


# ---- excess -----------------------------------------------------------------------------------


def dear(service, rate, usage=1.0, basis="metered", **columns):
    return allocation(service, "1", usage=usage, marginal_rate=rate, marginal_basis=basis, **columns)


def excess_of(row):
    """[(service, dimension, basis, quantity, rate, cost), ...] of the explanation."""
    names = ("x_OtelServiceName", "x_Dimension", "x_PriceBasis", "x_ExcessQuantity", "x_UnitRate", "x_Cost")
    return [tuple(element[name] for name in names) for element in json.loads(row["explanation"])["x_ExcessUsage"]]


def test_excess_is_usage_beyond_the_usual_at_the_price_of_one_more_unit():
    """0.5 more of cart's cpu at 2, and 4 fewer of tax's, which runs on two nodes at 1 and at 3."""
    used = {"cart": {"cpu": 0.5, "memory": 7.0}, "tax": {"cpu": -4.0}, "nowhere": {"cpu": 1.0}}
    [row] = rank(
        [incident("cart", 4.0, excess_usage=used)],
        [dear("cart", "2"), dear("tax", "1", usage=3.0), dear("tax", "3", resource_id="node-2")],
    )
    assert row["excess_cost"] == Decimal("0.5") * 2 - 4 * Decimal("1.5")
    told = {(e["x_OtelServiceName"], e["x_UnitRate"]): e["x_Cost"] for e in
            json.loads(row["explanation"])["x_ExcessUsage"]}  # fmt: skip
    assert {key: Decimal(cost) for key, cost in told.items()} == {("cart", "2"): 1, ("tax", "1.5"): -6}


def test_use_that_no_work_explains_counts_where_it_is_no_noise():
    def excess(used, variance):
        unexplained = {"cpu": [used / 2, variance / 2]}
        minutes = [[incident("cart", 4.0, unexplained_usage=unexplained)]] * 2
        [row] = rank(None, [dear("cart", "2")], minutes=minutes)
        return row["excess_cost"]

    assert (excess(3.0, 1.0), excess(1.9, 1.0), excess(-3.0, 1.0)) == (6, 0, -6)


def test_what_the_rank_is_by_can_be_chosen():
    """loud costs most anyway, dear's anomaly costs most, and grave is worst by both together."""
    incidents = [
        incident("loud", 9.0),
        incident("dear", 1.0, excess_usage={"dear": {"cpu": 5.0}}),
        incident("grave", 6.0, excess_usage={"grave": {"cpu": 4.0}}),
    ]
    allocations = [
        allocation("loud", "9", marginal_rate="1", marginal_basis="metered"),
        dear("dear", "1", basis="capacity"), dear("grave", "1"),
    ]  # fmt: skip
    first = {order: rank(incidents, allocations, order=order)[0]["otel_service_name"]
             for order in (SCORE, EXCESS, EXCESS_SCORE, BILLED_EXCESS)}  # fmt: skip
    assert first == {SCORE: "loud", EXCESS: "dear", EXCESS_SCORE: "grave", BILLED_EXCESS: "grave"}


@pytest.mark.parametrize(
    ("basis", "billed"), [("metered", 1), ("pool", 1), ("capacity", 0), ("list", 0), ("used_share", 0)]
)
def test_the_bill_changes_where_more_use_is_more_money(basis, billed):
    [row] = rank([incident("cart", 4.0, excess_usage={"cart": {"cpu": 0.5}})], [dear("cart", "2", basis=basis)])
    assert (row["excess_cost"], row["billed_excess_cost"]) == (1, billed)
    assert excess_of(row) == [("cart", "cpu", basis, 0.5, "2", "1.000000000000")]
    why = json.loads(row["explanation"])
    assert (Decimal(why["x_ExcessCost"]), Decimal(why["x_BilledExcessCost"])) == (1, billed)


def test_of_several_resources_each_bears_excess_as_it_bears_use():
    rows = [dear("cart", "2"), dear("cart", "8", usage=3.0, basis="capacity", resource_id="node-2")]
    [row] = rank([incident("cart", 4.0, excess_usage={"cart": {"cpu": 4.0}})], rows)
    assert excess_of(row) == [
        ("cart", "cpu", "capacity", 3.0, "8", "24.000000000000"),
        ("cart", "cpu", "metered", 1.0, "2", "2.000000000000"),
    ]
    assert (row["excess_cost"], row["billed_excess_cost"]) == (26, 2)


def test_allocations_that_an_earlier_release_left_in_state_are_priced():
    old = {name: value for name, value in dear("cart", "2").items() if not name.startswith("marginal")}
    [row] = rank([incident("cart", 4.0, excess_usage={"cart": {"cpu": 0.5}})], [old | {"unit_rate": "2"}])
    assert excess_of(row) == [("cart", "cpu", "used_share", 0.5, "2", "1.000000000000")]


# An 8-core machine at 0.34 USD an hour, all of it cpu's: a core-hour of capacity costs 0.0425.
NODE = {"per": "hour", "consumed_unit": "Hours", "consumed_quantity": "1", "machine": {"cpu": "8"}}


@pytest.mark.parametrize("policy", ["proportional", "none", "even"])
@pytest.mark.parametrize("used", [0.03, 0.30, 0.80, 1.00])
def test_excess_on_a_machine_is_worth_its_capacity_and_changes_no_bill(used, policy):
    """A quarter of the use is beyond the usual, by two services; the machine costs 0.17 in W however much is used."""
    whole = used * 8 * 1800
    usage = {HOUR: {"cpu": {"cart": 0.7 * whole, "web": 0.2 * whole, "": 0.1 * whole}}}
    node = charge("m", "0.34", [["cpu", "1"]], per="hour") | NODE
    bill = {window_ms: [(node, parts)] for window_ms, parts in cost_by_window(node).items()}
    rows = allocate_window("node-1", HOUR, usage, bill, {"cpu"}, idle_policy=policy)
    assert sum(row["allocated_cost"] for row in rows) == Decimal("0.17")
    beyond = {"cart": {"cpu": 0.2 * whole}, "web": {"cpu": 0.05 * whole}}
    [row] = rank([incident("cart", 4.0, excess_usage=beyond)], orjson.loads(orjson.dumps(rows, default=str)))
    assert float(row["excess_cost"]) == pytest.approx(0.25 * whole * 0.0425 / 3600, rel=1e-9)
    assert row["billed_excess_cost"] == 0
    assert {basis for _, _, basis, *_ in excess_of(row)} == {"capacity"}


def nodes(*hours, used=0.8, of_memory=0.3, sku="SKU-1", idle_policy="proportional"):
    """Rows of 8-core machines with 0.3 of their cost in memory, each a resource that so many hours are charged of."""
    rows = []
    for number, part in enumerate(hours):
        cost, quantity = str(Decimal("0.34") * Decimal(str(part))), str(part)
        node = charge("m", cost, [["cpu", "0.7"], ["memory", "0.3"]], per="hour") | NODE
        node |= {"consumed_quantity": quantity, "machine": {"cpu": "8", "memory": "100"}, "sku_id": sku}
        of = {"cpu": {"cart": used * part * 8 * 1800}, "memory": {"cart": of_memory * part * 100 * 1800}}
        bill = {window_ms: [(node, parts)] for window_ms, parts in cost_by_window(node).items()}
        rows += allocate_window(f"{sku}/{number}", HOUR, {HOUR: of}, bill, set(of), idle_policy=idle_policy)
    return orjson.loads(orjson.dumps(rows, default=str))


def price_of_cart(rows):
    """{dimension: (basis, price of a core-second or byte-second in capacity prices)} of its excess."""
    used = {"cart": {"cpu": 3.0, "memory": 5.0}}
    [row] = rank([incident("cart", 4.0, excess_usage=used)], rows)
    capacity = {"cpu": Decimal("0.7"), "memory": Decimal("0.3")}
    size = {"cpu": 8, "memory": 100}
    return {
        dimension: (
            basis,
            round(float(Decimal(rate) / (capacity[dimension] * Decimal("0.34") / 3600 / size[dimension])), 9),
        )
        for _, dimension, basis, _, rate, _ in excess_of(row)
    }


POOLED = {"cpu": ("pool", round(1 / 0.7 / 0.8, 9)), "memory": ("pool", 0.0)}
PAID_FOR = {"cpu": ("capacity", 1.0), "memory": ("capacity", 1.0)}


@pytest.mark.parametrize(
    ("hours", "used", "expected"),
    [
        ((1, 1, 0.5), 0.8, POOLED),  # one came or went
        ((1, 0.3, 0.3), 0.8, POOLED),
        ((1, 1, 1), 0.8, PAID_FOR),  # as many all the hour
        ((1, 1, 0.999), 0.8, PAID_FOR),  # a rounded hour
        ((1, 0.4, 0.6), 0.8, PAID_FOR),  # one took the place of another
        ((0.5,), 0.8, PAID_FOR),  # a machine by itself
        ((1, 1, 0.5), 0.4, PAID_FOR),  # nobody adds to what is nearly empty
    ],
)
@pytest.mark.parametrize("policy", ["proportional", "none"])
def test_machines_told_one_by_one_are_a_pool_where_their_number_follows_the_use(hours, used, expected, policy):
    assert price_of_cart(nodes(*hours, used=used, idle_policy=policy)) == expected


@pytest.mark.parametrize("of_memory", [0.9, 1.1])
def test_machines_that_give_more_than_is_paid_for_are_a_pool_of_what_is_fullest(of_memory):
    """As of a group that is billed as one: what is used beyond what is paid for makes a unit no cheaper."""
    full = {"cpu": ("pool", round(1 / 0.7, 9)), "memory": ("pool", 0.0)}
    assert price_of_cart(nodes(1, 1, 0.5, used=1.2, of_memory=of_memory)) == full


def test_machines_of_another_sku_are_another_pool():
    assert price_of_cart(nodes(1, 1) + nodes(0.5, sku="SKU-2")) == PAID_FOR


def test_before_the_bill_a_pool_is_what_it_was_by_its_rates():
    rows = [row | {"charges": [], "rate": {"charges": row["charges"]}} for row in nodes(1, 1, 0.5)]
    assert price_of_cart(rows) == POOLED


def test_a_pool_is_on_the_bill():
    [row] = rank([incident("cart", 4.0, excess_usage={"cart": {"cpu": 3.0}})], nodes(1, 1, 0.5))
    assert row["billed_excess_cost"] == row["excess_cost"] > 0


def test_without_any_price_no_excess_is_known():
    [row] = rank([incident("cart", 4.0, excess_usage={"cart": {"cpu": 1.0}})])
    assert (row["excess_cost"], row["billed_excess_cost"], row["projected_monthly_cost"]) == (None, None, None)


def test_a_month_of_it_costs_what_a_minute_of_it_does_as_often_as_it_comes():
    """Two minutes cost 4; it came in 30 of 1,440 minutes so far: 900 of a month's."""
    minutes = [[incident("cart", 4.0, excess_usage={"cart": {"cpu": 1.0}}, recurrence=[n, 1440])] for n in (29, 30)]
    [row] = rank(None, [dear("cart", "2")], minutes=minutes)
    assert (row["excess_cost"], row["projected_monthly_cost"]) == (4, 4 // 2 * 900)


@pytest.mark.parametrize("by", ORDERS)
def test_the_explanation_says_what_the_rank_is_by(by):
    [row] = rank([incident("cart", 4.0)], order=by)
    assert json.loads(row["explanation"])["x_RankedBy"] == by


# ---- the explanation --------------------------------------------------------------------------


def charge(key, cost, parts, hour=0, per="unit"):
    return {
        "key": key,
        "parts": parts,
        "per": per,
        "start_ms": HOUR + hour * HOUR_MS,
        "end_ms": HOUR + (hour + 1) * HOUR_MS,
        "cost": cost,
        "currency": "USD",
        "sku_id": "SKU-1",
        "focus_service_name": "Amazon Elastic Compute Cloud",
        "charge_class": None,
        "list_unit_price": "0.17",
        "consumed_quantity": "2",
        "consumed_unit": "vCPU-Hours",
    }


def a_bill_in_part_provisional():
    """Rows of two resources: one billed for a machine, one still at its rate of two hours ago."""
    usage = {
        HOUR - 2 * HOUR_MS: {"memory": {"cart": 2.5e12, "": 1e12}},
        HOUR: {
            "cpu": {"cart": 31.4, "web": 17.3, "": 0.7},
            "memory": {"cart": 3.1e12, "web": 7e11},
        },
    }
    machine = charge("m", "0.444", [["cpu", "0.7"], ["memory", "0.3"]], per="hour")
    extra = charge("x", "0.000012345678901", [["cpu", "1"]])
    metered = charge("u", "0.31000000001", [["memory", "1"]], hour=-2)
    rows = []
    for resource_id, charges in (("node-1", [machine, extra]), ("node-2", [metered])):
        bill = {}
        for each in charges:
            for window_ms, parts in cost_by_window(each).items():
                bill.setdefault(window_ms, []).append((each, parts))
        rows += allocate_window(resource_id, HOUR, usage, bill, {"cpu", "memory"})
    return orjson.loads(orjson.dumps(rows, default=str))  # as the job hands them on


def test_ten_lines_recompute_cost_and_score_from_the_explanation():
    [row] = rank([incident("cart", 4.5, 5.25, 7.0)], a_bill_in_part_provisional())
    assert row["cost_status"] == "provisional"

    why = json.loads(row["explanation"], parse_float=Decimal)
    cost = Decimal(0)
    for e in why["Elements"]:
        resource_cost = sum((Decimal(c["cost_in_window"]) for c in e["x_Charges"]), Decimal(0))
        if e["x_Rate"]:
            rate = e["x_Rate"]
            of_usage = Decimal(rate["cost_per_usage"] or 0) * e["x_TotalUsage"]
            resource_cost += round(Decimal(rate["cost_per_window"]) + of_usage, 12)
        assert resource_cost == Decimal(e["x_ResourceCost"])
        exact = e["UsageQuantity"] / e["x_TotalUsage"] * resource_cost
        assert abs(exact - Decimal(e["x_AllocatedCost"])) < Decimal("1e-12")
        assert abs(e["AllocatedRatio"] - e["UsageQuantity"] / e["x_TotalUsage"]) < Decimal("1e-15")
        cost += Decimal(e["x_AllocatedCost"])
    assert cost == Decimal(why["x_AttributedCost"]) == row["attributed_cost"]

    alpha = float(why["x_MeanTraceScore"]) * math.log2(1 + why["x_AnomalousTraces"])
    assert alpha == float(why["x_AnomalyScore"]) == row["anomaly_score"]
    score = alpha * math.log1p(cost)
    assert score == float(why["x_CostWeightedScore"]) == row["cost_weighted_score"]
    assert float(why["x_Threshold"]) == row["threshold"]


def test_elements_are_of_the_shape_of_focus_allocated_method_details():
    [row] = rank([incident("cart", 4.5)], a_bill_in_part_provisional())
    why = json.loads(row["explanation"])
    assert [(e["x_ResourceId"], e["x_Dimension"], e["UsageUnit"]) for e in why["Elements"]] == [
        ("node-1", "cpu", "Core-Seconds"),
        ("node-1", "memory", "Byte-Seconds"),
        ("node-2", "memory", "Byte-Seconds"),
    ]
    assert [c["key"] for c in why["Elements"][0]["x_Charges"]] == ["m", "x"]
    for keys in (why, *why["Elements"]):
        assert all(
            key in ("Elements", "AllocatedRatio", "UsageUnit", "UsageQuantity") or key.startswith("x_") for key in keys
        )
    assert all(list(keys) == sorted(keys) for keys in (why, *why["Elements"]))
    assert '": ' not in row["explanation"]


MINUTES = st.lists(
    st.lists(
        st.builds(
            lambda culprit, scores, kind, affected: incident(culprit, *scores, kind=kind, affected=affected),
            st.sampled_from("abc"),
            st.lists(st.floats(3, 50), min_size=1, max_size=8),
            st.sampled_from(["latency", "error"]),
            st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9)),
        ),
        max_size=3,
    ),
    max_size=6,
)
ALLOCATIONS = st.lists(
    st.builds(
        allocation,
        st.sampled_from(["a", "b", "d", UNALLOCATED]),
        st.decimals(-100, 1000, places=12).map(str),
        st.sampled_from(["USD", "EUR"]),
        st.sampled_from(["billed", "provisional", "corrected"]),
    ),
    max_size=12,
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(MINUTES, ALLOCATIONS, st.randoms())
def test_any_order_of_minutes_and_allocations_gives_the_same_rows(minutes, allocations, shuffle):
    for i, each in enumerate(allocations):
        each["resource_id"] = f"node-{i}"
    traces = [{"a": i, "b": 1} for i in range(len(minutes))]
    rows = rank_window(HOUR, minutes, traces, allocations, SCORE)

    assert len({row["anomaly_id"] for row in rows}) == len(rows)
    for currency in {row["billing_currency"] for row in rows}:
        ranked = [row for row in rows if row["billing_currency"] == currency]
        assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
        scores = [row["cost_weighted_score"] for row in ranked]
        assert scores == sorted(scores, reverse=True)
    for row in rows:
        assert row["anomaly_score"] >= row["threshold"]

    for each in minutes:
        shuffle.shuffle(each)
    for each in (minutes, traces, allocations):
        shuffle.shuffle(each)
    assert rank_window(HOUR, minutes, traces, allocations, SCORE) == rows
