"""From the simulator to the ranking: whole worlds through the real job."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from html import escape
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.report.page import write_report
from tests.lengths import LENGTHS
from tests.reshuffle import reshuffle
from tests.services import ROOT
from tests.simulated import simulate

Simulated = Callable[[int, str], tuple[Path, dict[str, pa.Table]]]

SEED = LENGTHS.seeds[0]


@pytest.fixture(scope="session")
def simulated(job, tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """The world of a seed and a kind of bill, and its tables, made once for all tests."""

    @cache
    def read(seed: int, billing: str) -> tuple[Path, dict[str, pa.Table]]:
        world = simulate(tmp_path_factory.mktemp("simulated") / "world", seed, billing)
        return world, job(world, "parallelism.default=1")

    return read


def _unconserved(tables: dict[str, pa.Table], world: Path) -> list[tuple]:
    """(resource, hour), or day without a resource, of which allocations and charges differ."""
    allocations = tables["cost_allocations"]  # noqa: F841 (read by duckdb)
    return duckdb.sql(
        f"""
        with charged as (
            select
                coalesce(nullif(ResourceId, ''), '__no_resource__') as resource_id,
                date_trunc(if(ResourceId = '' or ResourceId is null, 'day', 'hour'),
                    ChargePeriodStart::timestamptz) as since,
                sum(EffectiveCost::decimal(28, 12)) as cost
            from read_csv('{world}/billing/*.csv', all_varchar = true)
            group by all
        ),
        allocated as (
            select
                resource_id,
                date_trunc(if(resource_id = '__no_resource__', 'day', 'hour'), window_start) as since,
                sum(allocated_cost) as cost
            from allocations
            group by all
        )
        select resource_id, since, charged.cost, allocated.cost
        from charged full join allocated using (resource_id, since)
        where charged.cost is distinct from allocated.cost
        union all
        select resource_id, window_start, any_value(resource_cost), sum(allocated_cost)
        from allocations
        group by resource_id, window_start, dimension, billing_currency
        having any_value(resource_cost) <> sum(allocated_cost)
        """
    ).fetchall()


@pytest.mark.long
@pytest.mark.parametrize("seed", LENGTHS.seeds)
@pytest.mark.parametrize("billing", ["metered", "machine", "mixed"])
def test_allocations_are_the_bill_and_verdicts_are_mostly_right(simulated: Simulated, billing: str, seed: int) -> None:
    world, tables = simulated(seed, billing)

    assert _unconserved(tables, world) == []
    assert tables["rejected_records"].num_rows == 0
    truth = duckdb.sql(f"select * from '{world}/truth/traces.parquet'").to_arrow_table()
    verdicts = tables["trace_verdicts"]  # noqa: F841 (read by duckdb)
    ((traces, true, flagged, both),) = duckdb.sql(
        """
        select count(*), count_if(truth.is_anomalous), count_if(verdicts.is_anomalous),
            count_if(truth.is_anomalous and verdicts.is_anomalous)
        from truth join verdicts using (trace_id)
        """
    ).fetchall()
    assert traces == truth.num_rows
    assert both / flagged > 0.6 and both / true > 0.6, (true, flagged, both)


def test_each_ranked_row_can_be_recomputed_from_its_explanation(simulated: Simulated) -> None:
    _, tables = simulated(SEED, "mixed")
    ranked_anomalies = tables["ranked_anomalies"]  # noqa: F841 (read by duckdb)
    query = (ROOT / "sql/queries/recompute.sql").read_text(encoding="utf-8")
    assert duckdb.sql(query).fetchall() == []
    ranked = tables["ranked_anomalies"].to_pylist()
    assert ranked
    by_window = defaultdict(list)
    for row in ranked:
        told = json.loads(row["explanation"], parse_float=str)
        cost = sum((Decimal(e["x_AllocatedCost"]) for e in told["Elements"]), Decimal(0))
        assert cost == row["attributed_cost"]
        for element in told["Elements"]:
            if element["x_CostStatus"] != "provisional":
                charges = sum(Decimal(c["cost_in_window"]) for c in element["x_Charges"])
                assert charges == Decimal(element["x_ResourceCost"])
            share = Decimal(element["AllocatedRatio"])
            # Of a pool it is by node, whose use the explanation doesn't tell.
            if element.get("x_DividedBy") not in ("cores", "even"):
                by_use = Decimal(element["UsageQuantity"]) / Decimal(element["x_TotalUsage"])
                assert abs(share - by_use) < Decimal("1e-12"), element
                share = by_use
            error = abs(Decimal(element["x_ResourceCost"]) * share - Decimal(element["x_AllocatedCost"]))
            assert error < Decimal("1e-12"), element
        alpha = float(told["x_MeanTraceScore"]) * math.log2(1 + int(told["x_AnomalousTraces"]))
        assert row["anomaly_score"] == pytest.approx(alpha, rel=1e-12)
        used = told["x_ExcessUsage"]
        excess = sum((Decimal(e["x_Cost"]) for e in used), Decimal(0))
        assert excess == row["excess_cost"]
        for element in used:
            product = Decimal(element["x_ExcessQuantity"]) * Decimal(element["x_UnitRate"])
            assert abs(product - Decimal(element["x_Cost"])) < Decimal("1e-12"), element
        score = alpha * math.log1p(float(cost))
        assert row["cost_weighted_score"] == pytest.approx(score, rel=1e-12)
        by_window[row["window_start"], row["billing_currency"]].append(row)
    for rows in by_window.values():
        in_order = sorted(rows, key=lambda row: row["rank"])
        assert [row["rank"] for row in in_order] == list(range(1, len(rows) + 1))
        costs = [row["excess_cost"] for row in in_order]
        assert costs == sorted(costs, reverse=True)


def test_the_report_shows_each_incident_with_its_trace_and_its_sum(simulated: Simulated, tmp_path: Path) -> None:
    world, tables = simulated(SEED, "mixed")
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    write_report(tmp_path, world, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    incidents = tables["incidents"].to_pylist()
    assert incidents and page.count("Call tree of the exemplary trace") == len(incidents)
    for incident in incidents:
        assert escape(incident["evidence"]) in page and incident["exemplar_trace_ids"][0] in page
    # Every sum is that of its incident, and every incident has its windows.
    assert "they sum to" not in page and "are others" not in page and "Of no incident" not in page


def test_other_files_and_parallelism_give_the_same_tables(job, simulated: Simulated, tmp_path: Path) -> None:
    world, reference = simulated(SEED, "mixed")
    reshuffle(world, tmp_path / "reshuffled")
    reshuffled = job(tmp_path / "reshuffled", "parallelism.default=2")
    for name in ("ranked_anomalies", "trace_verdicts", "cost_allocations", "charge_anomalies"):
        assert reshuffled[name].equals(reference[name]), name
