"""The benchmark beside other systems: what the peers compute, on inputs small enough to be worked out by hand."""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import duckdb
import orjson
import pandas as pd
import pytest

from tests.benchmarks import peers
from tests.benchmarks.arms import duck, frames, shared
from tests.benchmarks.measure import measure
from tests.simulated import simulate
from udfs.pure.attribute import resource_rows
from udfs.pure.focus import collect_charges
from udfs.pure.offline import meter_consumers
from udfs.pure.windows import IDLE, UNALLOCATED

T0 = 1_767_571_200_000_000_000  # 2026-01-05T00:00Z
SECOND, MINUTE = 10**9, 60 * 10**9
MS = 10**6

Arm = Callable[[pd.DataFrame, pd.DataFrame, pd.DataFrame], dict[str, pd.DataFrame]]


def by_pandas(spans: pd.DataFrame, points: pd.DataFrame, bill: pd.DataFrame) -> dict[str, pd.DataFrame]:
    judged, operations = frames.verdicts(spans)
    return {"verdicts": judged, "operations": operations, "allocations": frames.allocations(points, bill)}


def by_sql(spans: pd.DataFrame, points: pd.DataFrame, bill: pd.DataFrame) -> dict[str, pd.DataFrame]:
    with duckdb.connect() as connection:
        connection.execute("create temp table spans as select distinct * from spans")
        connection.execute("create temp table points as select * from points")
        connection.execute("create temp table bill as select * from bill")
        duck.create_views(connection, shared.VERDICT_VIEWS | shared.ALLOCATION_VIEWS)
        return {table: connection.execute(f"select * from {table}").df() for table in shared.TABLES}


@pytest.fixture(params=[by_pandas, by_sql], ids=["pandas", "sql"])
def arm(request: pytest.FixtureRequest) -> Arm:
    return request.param


def span(trace: str, start_ns: int, took_ns: int, name: str = "GET /", own: str = "root", parent: str = "") -> tuple:
    return trace, own, parent, "shop", name, T0 + start_ns, T0 + start_ns + took_ns


def spans_of(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=shared.SPAN_COLUMNS)


def point(
    service: str, minute: float, value: float, dimension: str = "cpu", kind: str = "g", start: float = 0
) -> tuple:
    start_ns = T0 + int(start * MINUTE) if kind == "c" else 0
    return "node", service, service, dimension, 0, dimension, kind, start_ns, T0 + int(minute * MINUTE), value


def points_of(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows or [point("shop", 0, 0.0)], columns=shared.POINT_COLUMNS)


def bill_of(*rows: tuple[str, float]) -> pd.DataFrame:
    rows = tuple((T0, "node", dimension, "USD", cost) for dimension, cost in rows or (("cpu", 1.0),))
    return pd.DataFrame(rows, columns=shared.BILL_COLUMNS)


def verdict(tables: dict[str, pd.DataFrame], trace: str) -> dict:
    (found,) = tables["verdicts"].query("trace_id == @trace").to_dict("records")
    return found


USUAL = [span(f"usual {n}", n * SECOND, MS) for n in range(shared.MIN_SPANS)]


def test_a_trace_is_judged_by_the_minutes_before_its_own(arm: Arm) -> None:
    slow = span("slow", MINUTE, 2 * MS)
    tables = arm(spans_of(*USUAL, slow, span("same", MINUTE + SECOND, MS)), points_of(), bill_of())
    found = verdict(tables, "slow")
    assert found["is_anomalous"] and found["culprit"] == "shop"
    assert found["score"] == pytest.approx(math.log(2) / shared.MIN_SD)
    assert not verdict(tables, "same")["is_anomalous"]
    # In the minute of all others it is one of those that say what is usual.
    tables = arm(spans_of(*USUAL, span("slow", 59 * SECOND, 2 * MS)), points_of(), bill_of())
    assert verdict(tables, "slow")["score"] == 0.0


def test_an_operation_is_judged_once_enough_of_it_is_known(arm: Arm) -> None:
    slow = span("slow", MINUTE, 2 * MS)
    assert not verdict(arm(spans_of(*USUAL[1:], slow), points_of(), bill_of()), "slow")["is_anomalous"]


def test_a_span_is_judged_by_its_own_time_and_counts_once(arm: Arm) -> None:
    root = span("waits", MINUTE, 3 * MS)
    child = span("waits", MINUTE, 2 * MS, name="query", own="child", parent="root")
    tables = arm(spans_of(*USUAL, root, child, child), points_of(), bill_of())
    found = verdict(tables, "waits")
    assert found["span_count"] == 2
    assert found["score"] == pytest.approx(0.0, abs=1e-9)
    assert dict(zip(tables["operations"]["name"], tables["operations"]["span_count"])) == {
        "GET /": len(USUAL) + 1,
        "query": 1,
    }


def test_the_bill_is_allocated_by_usage(arm: Arm) -> None:
    # Of a: a core, from minute 20 on none, falling in a straight line until minute 40. Of b: 1,200 core-seconds
    # counted since minute 10, the second point a reset.
    points = points_of(
        point("a", 0, 1.0), point("a", 20, 1.0), point("a", 40, 0.0),
        point("b", 20, 1000.0, kind="c", start=10), point("b", 25, 200.0, kind="c"),
        point("a", 0, 0.0, "memory"), point("a", 10, 0.0, "memory"),
    )  # fmt: skip
    bill = bill_of(("cpu", 10.0), ("memory", 3.0), ("other", 2.0))
    bill.loc[len(bill)] = (T0 + shared.WINDOW_NS, "node", "cpu", "USD", 4.0)
    allocated = arm(spans_of(*USUAL), points, bill)["allocations"]
    assert set(allocated["currency"]) == {"USD"}
    of_a = 1200 + 600 * 0.75
    by_key = allocated.set_index(["window_ns", "dimension", "service"])["allocated_cost"]
    assert by_key[T0 + shared.WINDOW_NS].to_dict() == {("cpu", "a"): 4.0}
    assert by_key[T0].to_dict() == pytest.approx({
        ("cpu", "a"): 10 * of_a / (of_a + 1200),
        ("cpu", "b"): 10 * 1200 / (of_a + 1200),
        ("memory", IDLE): 3.0,
        ("other", UNALLOCATED): 2.0,
    })  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("peers") / "world", seed=7, billing="mixed")


def allocated_by_the_job(directory: Path) -> pd.DataFrame:
    """What the job's stages make of the bill, without the engine."""
    consumers, charges = defaultdict(list), defaultdict(list)
    for consumer in meter_consumers(directory, {}):
        consumers[consumer.resource_id].append((consumer.service, consumer.usage["windows"]))
    for path in (directory / "billing").iterdir():
        for _, charge in collect_charges(path):
            charges[charge["resource_id"]].append(charge)
    found = [
        (
            row["window_start"] * MS,
            row["resource_id"],
            row["dimension"],
            row["billing_currency"],
            row["otel_service_name"],
            float(row["allocated_cost"]),
        )
        for resource in charges
        for rows in resource_rows(resource, consumers[resource], charges[resource]).values()
        for row in rows
        if row["cost_status"] != "provisional"
    ]
    return pd.DataFrame(found, columns=[*peers.ALLOCATION, "allocated_cost"])


def test_peers_allocate_as_the_job_does(arm: Arm, world: Path) -> None:
    bill = pd.DataFrame(shared.bill(world), columns=shared.BILL_COLUMNS)
    allocated = arm(spans_of(*USUAL), pd.DataFrame(shared.points(world)), bill)["allocations"]
    assert len(allocated) > 100
    assert peers.differences({"allocations": allocated_by_the_job(world)}, {"allocations": allocated}) == []


def attribute(key: str, value: str) -> dict:
    return {"key": key, "value": {"stringValue": value}}


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """An input directory of two requests of spans, one of metrics and an empty bill."""
    resource = {"attributes": [attribute("service.name", "cart"), attribute("service.namespace", "shop"),
                               attribute("k8s.pod.name", "cart-1"), attribute("host.id", "node")]}  # fmt: skip
    span = {"traceId": "a" * 32, "spanId": "b" * 16, "name": "GET /", "kind": 2,
            "startTimeUnixNano": str(T0), "endTimeUnixNano": str(T0 + MS)}  # fmt: skip
    child = span | {"spanId": "c" * 16, "parentSpanId": "b" * 16}
    traces = [
        {"resourceSpans": [{"resource": holder, "scopeSpans": [{"scope": {}, "spans": [each]}]}]}
        for holder, each in ((resource, span), ({}, child))
    ]
    at = {"timeUnixNano": str(T0)}
    received, sent = (
        {"attributes": [attribute("direction", way)], **at, "asInt": "7"} for way in ("receive", "transmit")
    )
    metrics = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [
        {"name": "k8s.pod.cpu.usage", "unit": "{cpu}", "gauge": {"dataPoints": [{**at, "asDouble": 0.5}]}},
        {"name": "k8s.pod.network.io", "unit": "By", "sum": {"dataPoints": [received, sent]}},
        {"name": "queue.length", "unit": "1", "gauge": {"dataPoints": [{**at, "asInt": "1"}]}},
    ]}]}]}  # fmt: skip
    for stream, lines in (("traces", traces), ("metrics", [metrics])):
        (tmp_path / stream).mkdir()
        with gzip.open(tmp_path / stream / "0.jsonl.gz", "wb") as file:
            file.writelines(orjson.dumps(line) + b"\n" for line in lines)
    return tmp_path


def test_python_and_sql_decode_the_same(recorded: Path) -> None:
    with duckdb.connect() as connection:
        duck.decode(connection, recorded)
        decoded = {table: connection.execute(f"select * from {table}").df() for table in ("spans", "points")}
    spans = pd.DataFrame(shared.spans(recorded))
    assert [*spans["service"]] == ["shop/cart", "unknown_service"]
    assert [*spans["parent_span_id"]] == ["", "b" * 16]
    by_id = decoded["spans"].sort_values("span_id").reset_index(drop=True)
    pd.testing.assert_frame_equal(by_id[[*shared.SPAN_COLUMNS]], spans, check_dtype=False)

    points = pd.DataFrame(shared.points(recorded))
    assert [*points["dimension"]] == ["cpu", "network"] and [*points["value"]] == [0.5, 7.0]
    assert [*points["resource_id"]] == ["node", "node"]
    columns = [column for column in shared.POINT_COLUMNS if column not in ("series", "pod")]  # names, spelt freely
    by_dimension = decoded["points"].sort_values("dimension").reset_index(drop=True)
    pd.testing.assert_frame_equal(by_dimension[columns], points[columns], check_dtype=False)


def test_the_start_is_one_request_of_each_stream(recorded: Path, tmp_path: Path) -> None:
    peers.one_request(recorded, tmp_path / "first")
    assert len(shared.spans(tmp_path / "first")["trace_id"]) == 1
    assert len(shared.points(tmp_path / "first")["value"]) == 2


def test_differences_between_answers_are_named() -> None:
    costs = pd.DataFrame([(T0, "node", "cpu", "USD", "a", 1.0)], columns=[*peers.ALLOCATION, "allocated_cost"])
    judged = pd.DataFrame({"trace_id": ["t"], "span_count": [3], "is_anomalous": [True], "culprit": [None]})
    one = {"verdicts": judged, "allocations": costs}
    assert peers.differences(one, one) == []
    nearly = costs.assign(allocated_cost=1.0 + 1e-9)
    # The job counts spans, and judges otherwise.
    assert peers.differences(one, {"verdicts": judged[["trace_id", "span_count"]], "allocations": nearly}) == []
    (told,) = peers.differences(one, {"verdicts": judged, "allocations": costs.assign(allocated_cost=1.01)})
    assert told.startswith("allocations: allocated_cost differs in 1 rows")
    (told,) = peers.differences(one, {"verdicts": judged.assign(trace_id="u"), "allocations": costs})
    assert told == "verdicts: 1 and 1 rows, 2 of them in one only"
    (told,) = peers.differences(one, {"verdicts": judged.assign(is_anomalous=False), "allocations": costs})
    assert "is_anomalous differs" in told


def test_a_peer_whose_packages_are_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "pandas", ("frames", ("pandas", "no_such_package")))
    assert peers.missing("floor", sys.executable) is None
    told = peers.missing("pandas", sys.executable)
    assert told and "no_such_package" in told and "--group bench" in told


def test_cpu_time_counts_what_a_command_starts() -> None:
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    starter = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    run = measure([sys.executable, "-c", starter])
    assert run.status == 0 and run.cpu_s >= 0.5 and run.peak_bytes > 0


def test_the_measured_command_keeps_its_status(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.benchmarks.measure", "--json", str(tmp_path / "run.json")]
    run = measure([*words, sys.executable, "-c", "raise SystemExit(3)"])
    assert run.status == 3
    assert json.loads((tmp_path / "run.json").read_text())["status"] == 3
