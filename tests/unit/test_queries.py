"""sql/queries: what analysts ask of the tables, against numbers worked out by hand, on DuckDB."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.environment import SQL
from tests.unit.literal_tables import write
from udfs.pure.resources import kind

QUERIES = SQL / "queries"
BUDGETS = pa.schema(
    {
        "otel_service_name": pa.string(),
        "month": pa.date32(),
        "amount": pa.decimal128(28, 12),
        "billing_currency": pa.string(),
    }
)


def at(day, hour=0, minute=0, month=4):
    """2024, UTC; April begins on a Monday and has 30 days."""
    return datetime(2024, month, day, hour, minute, tzinfo=UTC)


def ask(folder: Path, query: str, edit=lambda sql: sql, budgets=(), **tables):
    """The rows of a query over the given tables, as dicts; money as Decimal."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for table in ("cost_allocations", "ranked_anomalies"):
            write(folder, table, tables.get(table, ()))
        pq.write_table(pa.Table.from_pylist(list(budgets), BUDGETS), folder / "budgets.parquet")
        for path in folder.glob("*.parquet"):
            connection.execute(f"create view {path.stem} as from read_parquet('{path}')")
        cursor = connection.execute(edit((QUERIES / f"{query}.sql").read_text(encoding="utf-8")))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def cost(when, service, amount, currency="USD", status="billed", **columns):
    return {
        "window_start": when,
        "resource_id": "node-1",
        "dimension": "cpu",
        "otel_service_name": service,
        "usage": 1.0,
        "total_usage": 1.0,
        "share": 1.0,
        "resource_cost": amount,
        "allocated_cost": amount,
        "billing_currency": currency,
        "cost_status": status,
        **columns,
    }


def budget(service, amount, currency="USD", month=4):
    return {
        "otel_service_name": service,
        "month": date(2024, month, 1),
        "amount": Decimal(amount),
        "billing_currency": currency,
    }


def element(dimension, allocated, usage=1.0, total=1.0, resource_cost=None, resource="node-1"):
    return {
        "AllocatedRatio": usage / total,
        "UsageUnit": "Units",
        "UsageQuantity": usage,
        "x_AllocatedCost": allocated,
        "x_Charges": [],
        "x_CostStatus": "billed",
        "x_Dimension": dimension,
        "x_Rate": None,
        "x_ResourceId": resource,
        "x_ResourceCost": resource_cost or allocated,
        "x_TotalUsage": total,
    }


def ranked(
    when,
    culprit,
    elements,
    excess=(),
    rank=1,
    kind="latency_spike",
    traces=3,
    mean=2.0,
    currency="USD",
    is_priced=True,
    **columns,
):
    """A row whose figures follow from its elements and excess, [(dimension, cost[, price basis]), ...]."""
    excess = [(*each, "metered")[:3] for each in excess]
    attributed = sum((Decimal(e["x_AllocatedCost"]) for e in elements), Decimal("0.000000000000"))
    excess_cost, billed = (
        sum((Decimal(c) for _, c, basis in excess if basis in bases), Decimal(0)) if is_priced else None
        for bases in (("metered", "pool", "capacity"), ("metered", "pool"))
    )
    alpha = mean * math.log2(1 + traces)
    score = math.copysign(alpha * math.log1p(abs(float(attributed))), attributed)
    explanation = {
        "Elements": elements,
        "x_AnomalousTraces": traces,
        "x_AnomalyScore": alpha,
        "x_AttributedCost": str(attributed),
        "x_CostWeightedScore": score,
        "x_ExcessUsage": [
            {
                "x_Dimension": d,
                "x_Cost": c,
                "x_PriceBasis": basis,
                "x_ExcessQuantity": 2.0,
                "x_UnitRate": str(Decimal(c) / 2),
            }
            for d, c, basis in excess
        ],
        "x_MeanTraceScore": mean,
    }
    return {
        "anomaly_id": f"{when:%Y-%m-%dT%H:%M:%SZ}/{culprit}/{currency}",
        "window_start": when,
        "window_end": when + timedelta(minutes=30),
        "otel_service_name": culprit,
        "rank": rank,
        "cost_weighted_score": score,
        "anomaly_score": alpha,
        "threshold": 1.0,
        "anomalous_traces": traces,
        "total_traces": 10,
        "attributed_cost": attributed,
        "excess_cost": excess_cost,
        "billed_excess_cost": billed,
        "billing_currency": currency,
        "cost_status": "billed",
        "anomaly_kind": kind,
        "affected_services": [],
        "exemplar_trace_ids": [f"trace of {culprit} at {when:%H:%M}"],
        "explanation": json.dumps(explanation),
        **columns,
    }


def columns(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("path", sorted(QUERIES.glob("*.sql")), ids=lambda path: path.stem)
def test_every_query_tells_its_grain_is_one_statement_and_bears_empty_tables(tmp_path, path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("-- ") and "\n-- Grain: " in text and "Run on " in text
    assert text.count(";\n") == 1 and text.endswith(";\n")
    assert ask(tmp_path, path.stem) == []


# ---- month_to_date_by_service -----------------------------------------------------------------


def test_the_rest_of_the_month_costs_what_the_completed_days_did(tmp_path):
    rows = ask(
        tmp_path,
        "month_to_date_by_service",
        cost_allocations=[
            *(cost(at(day), "cart", "1") for day in (1, 2, 3)),
            cost(at(3, 8), "checkout", "3"),  # a day without cost is one of 0
            cost(at(4, 11, 30), "cart", "0.6", status="provisional"),
            cost(at(2), "cart", "7", "EUR"),
        ],
        budgets=[budget("cart", "30"), budget("checkout", "29.5"), budget("ghost", "5"), budget("cart", "1", month=3)],
    )
    # 3 days at 1 USD; what is left are half of the 4th and 26 days
    assert columns(
        rows,
        "otel_service_name",
        "billing_currency",
        "cost_to_date",
        "projected_cost",
        "budget",
        "projected_over_budget",
        "verdict",
    ) == [
        ("cart", "EUR", 7, rows[0]["projected_cost"], None, None, None),
        ("cart", "USD", Decimal("3.6"), Decimal("30.1"), 30, Decimal("0.1"), "over"),
        ("checkout", "USD", 3, Decimal("29.5"), Decimal("29.5"), 0, "under"),
        ("ghost", "USD", 0, 0, 5, -5, "under"),
    ]
    assert float(rows[0]["projected_cost"]) == pytest.approx(7 + 26.5 * 7 / 3, abs=1e-9)
    for row in rows:
        assert (row["month"], row["as_of"]) == (date(2024, 4, 1), at(4, 12))
        assert row["share_of_month_elapsed"] == pytest.approx(3.5 / 30)
        assert (row["completed_days"], row["projected_by"]) == (3, "mean of completed days")


def test_from_two_weeks_on_weekdays_and_weekends_are_projected_apart(tmp_path):
    days = [cost(at(day), "cart", "1" if day in (6, 7, 13, 14) else "2") for day in range(1, 15)]
    [row] = ask(
        tmp_path,
        "month_to_date_by_service",
        cost_allocations=[*days, cost(at(14, 23, 30), "cart", "0")],
    )
    # left from Monday the 15th to Tuesday the 30th: 12 weekdays and 4 days of weekends
    assert (row["cost_to_date"], row["projected_cost"]) == (24, 24 + 12 * 2 + 4)
    assert (row["completed_days"], row["projected_by"]) == (14, "mean of each weekday")


def test_on_the_first_day_the_month_goes_on_as_it_began(tmp_path):
    allocations = [cost(at(1, 6), "cart", "0.3"), cost(at(1, 11, 30), "cart", "0.2")]
    [row] = ask(tmp_path, "month_to_date_by_service", cost_allocations=allocations)
    assert (row["completed_days"], row["projected_by"]) == (0, "share of the month")
    assert float(row["projected_cost"]) == pytest.approx(0.5 * 60)


def test_at_the_end_of_the_month_nothing_is_projected_and_days_of_earlier_months_count(tmp_path):
    march = [cost(at(day, month=3), "cart", "2") for day in range(30, 32)]
    april = [cost(at(1, 11, 30), "cart", "1")]
    [row] = ask(tmp_path, "month_to_date_by_service", cost_allocations=[*march, *april])
    assert (row["cost_to_date"], row["completed_days"]) == (1, 2)
    assert row["projected_cost"] == 1 + Decimal("29.5") * 2
    [row] = ask(tmp_path, "month_to_date_by_service", cost_allocations=[cost(at(30, 23, 30), "cart", "1")])
    assert (row["cost_to_date"], row["projected_cost"]) == (1, 1)
    assert row["share_of_month_elapsed"] == 1


# ---- anomalies --------------------------------------------------------------------------------


def test_recurring_anomalies_sum_by_culprit_and_kind(tmp_path):
    one = [element("cpu", "0.5")]
    rows = ask(
        tmp_path,
        "recurring_anomalies",
        cost_allocations=[cost(at(1), "cart", "1"), cost(at(5, 23, 30), "cart", "1")],  # 5 days
        ranked_anomalies=[
            ranked(at(1, 10), "cart", one, [("cpu", "0.2")]),
            ranked(at(1, 10, 30), "cart", one, [("cpu", "0.1")]),
            ranked(at(3, 10), "cart", one, [("cpu", "-0.05")], projected_monthly_cost="1.5"),
            ranked(at(3, 10), "pay", one, kind="retry_loop", is_priced=False),
        ],
    )
    cart, pay = rows
    assert (cart["otel_service_name"], cart["anomaly_kind"]) == ("cart", "latency_spike")
    assert (cart["occurrences"], cart["windows"], cart["days"]) == (2, 3, 2)
    assert (cart["attributed_to_date"], cart["excess_to_date"]) == (Decimal("1.5"), Decimal("0.25"))
    assert float(cart["excess_per_30_days"]) == pytest.approx(1.5)  # 0.25 in 5 days
    assert (cart["windows_without_excess"], cart["projected_monthly_cost"]) == (0, Decimal("1.5"))
    assert (pay["excess_to_date"], pay["excess_per_30_days"]) == (None, None)
    assert (pay["windows_without_excess"], pay["projected_monthly_cost"]) == (1, None)


WHAT_IF = [
    ranked(at(1), "cart", [element("cpu", "3"), element("network", "1")], [("cpu", "0.3"), ("network", "0.1")], rank=1),
    ranked(at(1), "pay", [element("network", "2")], [("network", "0.25")], rank=2, kind="retry_loop"),
    ranked(at(1), "ship", [element("cpu", "9")], rank=3, is_priced=False),
]


def scenario(ranked_by="excess", network="1.0", retry_loop="1.0"):
    def edit(sql):
        changed = (
            sql.replace("('network', 2.0)", f"('network', {network})")
            .replace("('retry_loop', 1.0)", f"('retry_loop', {retry_loop})")
            .replace("values ('excess')\n", f"values ('{ranked_by}')\n")
        )
        return changed

    return edit


def test_a_scenario_that_changes_nothing_ranks_as_the_job_did(tmp_path):
    rows = ask(tmp_path, "what_if", scenario(), ranked_anomalies=WHAT_IF)
    assert columns(rows, "otel_service_name", "old_rank", "new_rank") == [("cart", 1, 1), ("pay", 2, 2), ("ship", 3, 3)]
    for row in rows:
        assert row["old_attributed_cost"] == row["new_attributed_cost"]
        assert row["old_excess_cost"] == row["new_excess_cost"]


def test_other_prices_and_severities_change_ranks(tmp_path):
    # as it stands in the file: the network at twice its price
    rows = ask(tmp_path, "what_if", ranked_anomalies=WHAT_IF)
    assert columns(rows, "otel_service_name", "new_rank", "new_excess_cost") == [
        ("cart", 1, Decimal("0.5")),
        ("pay", 2, Decimal("0.5")),
        ("ship", 3, None),
    ]
    rows = ask(tmp_path, "what_if", scenario(network="3.0"), ranked_anomalies=WHAT_IF)
    assert columns(rows, "otel_service_name", "old_rank", "new_rank", "new_attributed_cost", "new_excess_cost") == [
        ("pay", 2, 1, 6, Decimal("0.75")),
        ("cart", 1, 2, 6, Decimal("0.6")),
        ("ship", 3, 3, 9, None),
    ]
    rows = ask(tmp_path, "what_if", scenario(retry_loop="2.0"), ranked_anomalies=WHAT_IF)
    assert columns(rows, "otel_service_name", "new_rank") == [("pay", 1), ("cart", 2), ("ship", 3)]


def test_what_if_ranks_by_what_is_on_the_bill_too(tmp_path):
    """cart's machines are paid for anyway."""
    rows = [WHAT_IF[0] | {"explanation": WHAT_IF[0]["explanation"].replace("metered", "capacity")}, *WHAT_IF[1:]]
    found = ask(tmp_path, "what_if", scenario("billed_excess"), ranked_anomalies=rows)
    assert columns(found, "otel_service_name", "new_rank") == [("pay", 1), ("ship", 2), ("cart", 3)]
    assert {row["old_excess_cost"] == row["new_excess_cost"] for row in found} == {True}


def test_what_if_ranks_by_the_score_too(tmp_path):
    rows = ask(tmp_path, "what_if", scenario("score"), ranked_anomalies=WHAT_IF)
    assert columns(rows, "otel_service_name", "new_rank") == [("ship", 1), ("cart", 2), ("pay", 3)]
    scores = {row["otel_service_name"]: row["new_score"] for row in rows}
    assert scores == pytest.approx({row["otel_service_name"]: row["cost_weighted_score"] for row in WHAT_IF})
    rows = ask(tmp_path, "what_if", scenario("score", retry_loop="5.0"), ranked_anomalies=WHAT_IF)
    assert columns(rows, "otel_service_name", "new_rank") == [("pay", 1), ("ship", 2), ("cart", 3)]


def test_the_day_s_anomalies_are_summed_and_the_dearest_is_first(tmp_path):
    one = [element("cpu", "0.5")]
    rows = ask(
        tmp_path,
        "top_anomalies_of_the_day",
        ranked_anomalies=[
            ranked(at(1, 23, 30), "cart", one, [("cpu", "99")]),
            ranked(at(2, 10), "cart", one, [("cpu", "0.2")]),
            ranked(at(2, 11), "cart", one, [("cpu", "0.2")], traces=7, cost_status="provisional"),
            ranked(at(2, 11), "pay", one, [("cpu", "0.3")]),
            ranked(at(2, 11), "ship", one, is_priced=False),
            ranked(at(2, 11), "pay", one, [("cpu", "0.1")], currency="EUR"),
            *(ranked(at(2, 12), f"s{i:02}", one, [("cpu", "-1")]) for i in range(9)),
        ],
    )
    assert columns(rows[:3], "billing_currency", "place", "otel_service_name", "excess_cost") == [
        ("EUR", 1, "pay", Decimal("0.1")),
        ("USD", 1, "cart", Decimal("0.4")),
        ("USD", 2, "pay", Decimal("0.3")),
    ]
    cart = rows[1]
    assert (cart["day"], cart["windows"], cart["anomalous_traces"]) == (date(2024, 4, 2), 2, 10)
    assert (cart["trace_id"], cart["provisional_windows"]) == ("trace of cart at 11:00", 1)
    assert len(rows) == 1 + 10
    assert "ship" not in columns(rows, "otel_service_name")  # unknown excess comes last


def test_every_row_follows_from_its_explanation_and_one_that_does_not_is_listed(tmp_path):
    thirds = [
        element("cpu", "0.333333333334", 1.0, 3.0, "1.000000000000"),
        element("memory", "-0.100000000000", 7e11 / 3, 7e11, "-0.300000000000"),
    ]
    idle = element("cpu", "0.250000000000", 1.0, 2.0, "0.500000000000") | {
        "UsageQuantity": 0.0,
        "x_TotalUsage": 7.0,
    }  # a part of what is idle, in equal parts
    sound = [
        ranked(at(1), "cart", thirds, traces=1, mean=3.7),
        ranked(at(1), "pay", [idle]),
        ranked(at(1), "free", []),
        ranked(at(1), "next to nothing", [element("io", "0.000000030820")], traces=400, mean=9.0),
        ranked(at(1), "credit", [element("io", "-5.000000000000")]),
        ranked(at(1), "used", [], [("cpu", "3.000000000001", "capacity"), ("cpu", "0.5", "pool"), ("io", "-0.25")]),
        ranked(at(1), "of an earlier release", [], [("cpu", "3")], billed_excess_cost=None),
    ]
    assert ask(tmp_path, "recompute", ranked_anomalies=sound) == []
    wrong = [
        sound[0] | {"attributed_cost": sound[0]["attributed_cost"] + Decimal("1e-12")},
        sound[1] | {"cost_weighted_score": sound[1]["cost_weighted_score"] * 1.000001},
        ranked(at(1), "ratio", [element("cpu", "0.5", 1.0, 3.0, "1.0")]),
        ranked(at(1), "sign", [element("cpu", "-5")], cost_weighted_score=1.0),
        ranked(at(1), "the bill", [], [("cpu", "3", "capacity")], billed_excess_cost=Decimal(3)),
        ranked(at(1), "the price", [], [("cpu", "3")]),
    ]
    wrong[-1]["explanation"] = wrong[-1]["explanation"].replace('"x_UnitRate": "1.5"', '"x_UnitRate": "1.4"')
    rows = ask(tmp_path, "recompute", ranked_anomalies=wrong)
    found = [row["anomaly_id"].split("/")[1] for row in rows]
    assert found == ["cart", "pay", "ratio", "sign", "the bill", "the price"]


# ---- costs ------------------------------------------------------------------------------------


def test_a_day_is_compared_with_the_same_hours_of_the_day_before(tmp_path):
    rows = ask(
        tmp_path,
        "cost_by_service_against_the_day_before",
        cost_allocations=[
            cost(at(1, 9), "cart", "50"),  # two days before
            cost(at(2, 9), "cart", "1"),
            cost(at(2, 10), "cart", "1"),
            cost(at(2, 10, 30), "cart", "50"),  # later than today has come
            cost(at(3, 9), "cart", "2"),
            cost(at(3, 10), "cart", "1", status="provisional"),
            cost(at(2, 9), "gone", "0.5"),
            cost(at(3, 9), "new", "0.25"),
            cost(at(3, 9), "cart", "4", "EUR"),
        ],
    )
    assert columns(
        rows,
        "otel_service_name",
        "billing_currency",
        "cost",
        "cost_the_day_before",
        "difference",
        "change",
        "provisional_cost",
    ) == [
        ("cart", "EUR", 4, 0, 4, None, 0),
        ("cart", "USD", 3, 2, 1, 0.5, 1),
        ("gone", "USD", 0, Decimal("0.5"), Decimal("-0.5"), -1.0, 0),
        ("new", "USD", Decimal("0.25"), 0, Decimal("0.25"), None, 0),
    ]
    assert {row["day"] for row in rows} == {date(2024, 4, 3)}


def test_unallocated_cost_tells_why(tmp_path):
    nothing = {"usage": None, "total_usage": None}
    rows = ask(
        tmp_path,
        "unallocated_cost",
        cost_allocations=[
            cost(at(1), "cart", "4.5"),
            cost(at(1), "__system__", "0.5"),
            cost(at(1), "__idle__", "2", usage=0.0, total_usage=0.0),
            cost(at(1, 1), "__idle__", "1", usage=0.0, total_usage=0.0),
            cost(at(1), "__unallocated__", "0.5", resource_id="__no_resource__", **nothing),
            cost(at(1), "__unallocated__", "1.25", dimension="io", **nothing),
            cost(at(1), "__unallocated__", "0.25"),
            cost(at(2), "__unallocated__", "1", "EUR"),
        ],
    )
    assert columns(rows, "day", "resource_id", "dimension", "reason", "windows", "cost", "share_of_day") == [
        (date(2024, 4, 2), "node-1", "cpu", "unknown workload", 1, 1, 1.0),
        (date(2024, 4, 1), "node-1", "cpu", "idle", 2, 3, 0.3),
        (date(2024, 4, 1), "node-1", "io", "unmetered", 1, Decimal("1.25"), 0.125),
        (date(2024, 4, 1), "__no_resource__", "cpu", "no resource", 1, Decimal("0.5"), 0.05),
        (date(2024, 4, 1), "node-1", "cpu", "system", 1, Decimal("0.5"), 0.05),
        (date(2024, 4, 1), "node-1", "cpu", "unknown workload", 1, Decimal("0.25"), 0.025),
    ]


@pytest.mark.parametrize(
    "resource_id",
    [
        "arn:aws:eks:us-east-1:123456789012:cluster/my-cluster",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c",
        "//container.googleapis.com/projects/p/locations/l/clusters/c",
        "arn:aws:elasticloadbalancing:us-west-2:123456789012:loadbalancer/net/a/50dc6c495c0c9188",
        "//compute.googleapis.com/projects/p/global/forwardingRules/r",
        "nat-05dba92075d71c408",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPAddresses/i",
        "vol-049df61146c4d7901",
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d",
        "ocid1.bootvolume.oc1.phx.abuw4",
    ],
)
def test_what_all_workloads_share_is_unallocated_for_its_kind(tmp_path, resource_id):
    nothing = {"usage": None, "total_usage": None, "resource_id": resource_id}
    [row] = ask(tmp_path, "unallocated_cost", cost_allocations=[cost(at(1), "__unallocated__", "1", **nothing)])
    assert row["reason"] == kind(resource_id) != ""


def test_late_bills_are_listed_with_their_age_and_corrections_with_them(tmp_path):
    rows = ask(
        tmp_path,
        "late_bills",
        cost_allocations=[
            cost(at(1, 9), "cart", "1", status="provisional"),
            cost(at(1, 9), "pay", "2", status="provisional", dimension="memory"),
            cost(at(1, 8), "cart", "1", status="corrected"),
            cost(at(1, 8, 30), "cart", "1"),
            cost(at(1, 11, 30), "cart", "1", status="provisional", resource_id="node-2"),
        ],
    )
    assert columns(rows, "cost_status", "window_start", "resource_id", "age_hours", "dimensions", "cost") == [
        ("provisional", at(1, 9), "node-1", 2.5, 2, 3),
        ("provisional", at(1, 11, 30), "node-2", 0, 1, 1),
        ("corrected", at(1, 8), "node-1", 3.5, 1, 1),
    ]
