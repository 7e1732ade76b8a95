"""What a simulated world promises: keyed draws, sound traces, counters, bills and a true truth."""

from __future__ import annotations

import csv
import gzip
import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from simulator import faults as fault_plan
from simulator import keyed, placement, requests, topology
from simulator.__main__ import main
from simulator.config import (
    ALL_KINDS,
    CACHE_LOSS,
    DEPENDENCY_FAILURE,
    INTERMITTENT_STALL,
    KINDS,
    LATENCY_SPIKE,
    MINUTE_MS,
    MIXES,
    N_PLUS_ONE,
    NOVEL_KINDS,
    QUEUE_BACKLOG,
    RELEASE_SHARES,
    RESOURCE_OVERUSE,
    RETRY_LOOP,
    SHORT_CIRCUIT,
    STORM_SHARES,
    SWALLOWED_EXCEPTION,
    Config,
    UsageError,
    parse,
)
from simulator.faults import Fault
from simulator.noise import Noise
from simulator.run import run
from simulator.world import World, build

SMALL = Config(seed=3, services=8, days=0.1, requests_per_day=10_000)


def lines(folder: Path) -> list[dict]:
    """All requests of a stream, in the order of files and lines."""
    return [orjson.loads(line) for path in sorted(folder.glob("*.jsonl.gz")) for line in gzip.open(path)]


def spans_of(output: Path) -> dict[str, list[dict]]:
    """Spans by trace, each with its service and resource attributes under ``resource``."""
    traces = defaultdict(list)
    for request in lines(output / "traces"):
        for entry in request["resourceSpans"]:
            resource = plain(entry["resource"]["attributes"])
            for scope in entry["scopeSpans"]:
                for span in scope["spans"]:
                    traces[span["traceId"]].append(span | {"resource": resource})
    return traces


def plain(attributes: list[dict]) -> dict[str, str]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in attributes}


def bill_of(output: Path) -> list[dict[str, str]]:
    return [
        row
        for path in sorted((output / "billing").glob("*.csv"))
        for row in csv.DictReader(path.open(encoding="utf-8"))
    ]


def billed(output: Path) -> Decimal:
    return sum(Decimal(row["EffectiveCost"]) for row in bill_of(output))


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    output = tmp_path_factory.mktemp("small")
    world = build(SMALL)
    run(world, output)
    return world, output


# ---- keyed randomness ---------------------------------------------------------------------------


def test_scalar_and_array_draws_are_the_same_numbers():
    values = [0, 1, 12345, 2**63, 2**64 - 1]
    array = keyed.mix_array(np.array(values, dtype=np.uint64))
    assert array.tolist() == [keyed.mix(value) for value in values]
    assert np.allclose(keyed.normal_array(array), [keyed.normal(int(h)) for h in array])
    assert keyed.unit_array(array).tolist() == [keyed.unit(int(h)) for h in array]


def test_normal_draws_are_standard_normal():
    draws = keyed.normal_array(keyed.mix_array(np.arange(100_000, dtype=np.uint64)))
    assert abs(draws.mean()) < 0.02
    assert abs(draws.std() - 1) < 0.02


def test_first_attempt_draws_agree_with_repeated_attempt_draws_of_path_zero():
    world = build(SMALL)
    endpoint = world.topology.endpoints[0]
    draws = world.draws[0]
    (key,), (rows,), _ = draws.batch(np.array([77], dtype=np.uint64))
    for site in endpoint.sites:
        assert draws.again(key, site.index, 0) == pytest.approx(rows[site.index], rel=1e-12)


def test_equal_arguments_give_equal_bytes_whatever_the_hash_seed(small, tmp_path):
    _, first = small
    again = tmp_path / "again"
    command = [
        sys.executable,
        "-m",
        "simulator",
        "--output",
        str(again),
        "--seed",
        str(SMALL.seed),
        "--services",
        str(SMALL.services),
        "--days",
        str(SMALL.days),
        "--requests-per-day",
        str(SMALL.requests_per_day),
    ]
    environment = os.environ | {"PYTHONHASHSEED": "4711"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert fingerprint(again) == fingerprint(first)


def test_each_seed_has_its_own_topology():
    graphs = set()
    for seed in range(6):
        shop = topology.build(Config(seed=seed), Noise(seed))
        graphs.add(
            tuple(
                (site.service.name, site.operation.name, round(site.operation.own_ms, 6))
                for endpoint in shop.endpoints
                for site in endpoint.sites
            )
        )
    assert len(graphs) == 6


# ---- topology -----------------------------------------------------------------------------------


@pytest.mark.parametrize("services", [3, 7, 20, 60, 200])
def test_every_service_is_reached_by_some_endpoint(services):
    shop = topology.build(Config(seed=1, services=services), Noise(1))
    reached = {site.service.name for endpoint in shop.endpoints for site in endpoint.sites}
    assert reached == {service.name for service in shop.services}
    assert len(reached) == services
    assert sum(endpoint.weight for endpoint in shop.endpoints) == pytest.approx(1)
    assert all(1 <= service.replicas <= 4 for service in shop.services)


@pytest.mark.parametrize("seed", range(6))
def test_traces_have_eight_to_fifteen_spans_on_average(seed):
    assert 8 <= build(Config(seed=seed)).spans_a_trace <= 15


# ---- telemetry ----------------------------------------------------------------------------------


def test_every_span_has_its_parent_and_starts_after_it(small):
    _, output = small
    for spans in spans_of(output).values():
        by_id = {span["spanId"]: span for span in spans}
        assert len(by_id) == len(spans)
        roots = [span for span in spans if not span["parentSpanId"]]
        assert len(roots) == 1
        for span in spans:
            start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
            assert start <= end
            if span["parentSpanId"]:
                assert int(by_id[span["parentSpanId"]]["startTimeUnixNano"]) <= start


def test_a_trace_is_spread_over_requests_and_a_request_holds_many_traces(small):
    _, output = small
    requests_of = defaultdict(set)
    widest = 0
    for number, request in enumerate(lines(output / "traces")):
        seen = {
            span["traceId"]
            for entry in request["resourceSpans"]
            for scope in entry["scopeSpans"]
            for span in scope["spans"]
        }
        widest = max(widest, len(seen))
        for trace_id in seen:
            requests_of[trace_id].add(number)
    assert widest > 5
    assert np.mean([len(numbers) for numbers in requests_of.values()]) > 1.2


def test_pods_are_tied_to_resources_of_the_bill(small):
    _, output = small
    resources = {row["ResourceId"] for row in bill_of(output)} - {""}
    for request in lines(output / "metrics"):
        for entry in request["resourceMetrics"]:
            found = plain(entry["resource"]["attributes"])
            assert (found.get("cloud.resource_id") or found["host.id"]) in resources


def test_logs_name_spans_that_exist(small):
    _, output = small
    traces = spans_of(output)
    count = 0
    for request in lines(output / "logs"):
        for entry in request["resourceLogs"]:
            for scope in entry["scopeLogs"]:
                for record in scope["logRecords"]:
                    ids = {span["spanId"] for span in traces[record["traceId"]]}
                    assert record["spanId"] in ids
                    count += 1
    assert count > 10


def series_of(output: Path) -> dict[tuple, list[tuple[int, int, int]]]:
    """(pod, metric, direction) -> [(time, start time, value)] of the integer counters."""
    series = defaultdict(list)
    for request in lines(output / "metrics"):
        for entry in request["resourceMetrics"]:
            pod = plain(entry["resource"]["attributes"])["k8s.pod.name"]
            for metric in entry["scopeMetrics"][0]["metrics"]:
                for point in metric.get("sum", {}).get("dataPoints", ()):
                    direction = plain(point.get("attributes", [])).get("direction", "")
                    value = float(point.get("asInt", point.get("asDouble")))
                    series[pod, metric["name"], direction].append(
                        (int(point["timeUnixNano"]), int(point["startTimeUnixNano"]), value)
                    )
    return series


def test_counters_only_fall_where_their_start_time_moves(monkeypatch, tmp_path):
    # Weeks' worth of deploys and restarts, so that some fall into two hours.
    monkeypatch.setattr(placement, "_DEPLOYS_PER_DAY", 4.0)
    monkeypatch.setattr(placement, "_RESTARTS_PER_DAY", 8.0)
    world = build(replace(SMALL, requests_per_day=1000, anomaly_rate=0))
    run(world, tmp_path)
    series = series_of(tmp_path)
    resets = 0
    for points in series.values():
        for (before, start, value), (time, next_start, next_value) in zip(points, points[1:]):
            assert next_start <= time
            if next_start == start:
                assert next_value >= value
            else:
                assert next_start > start
                if 2 * (time - next_start) < before - start:
                    assert next_value < value
                    resets += 1
    assert resets > 0
    assert len({pod for pod, *_ in series}) > world.topology.slot_count  # deploys


# ---- the bill -----------------------------------------------------------------------------------


@pytest.mark.parametrize("billing", ["metered", "machine", "mixed"])
def test_every_row_is_quantity_times_price(billing, tmp_path):
    run(build(replace(SMALL, billing=billing, days=0.05)), tmp_path)
    rows = [row for row in bill_of(tmp_path) if row["ResourceId"]]
    units = {row["ConsumedUnit"] for row in rows}
    metered = {"vCPU-Hours", "GB-Hours", "Operations", "GB"}
    machine = {"Hours"}
    expected = {"metered": metered, "machine": machine, "mixed": metered | machine}
    assert units == expected[billing]
    for row in rows:
        cost = Decimal(row["ConsumedQuantity"]) * Decimal(row["ListUnitPrice"])
        assert Decimal(row["EffectiveCost"]) == cost.quantize(Decimal("1e-12"))


def test_metered_quantity_is_the_usage_that_the_counters_show(tmp_path):
    config = replace(SMALL, billing="metered")
    run(build(config), tmp_path)
    operations = Decimal(0)
    for row in bill_of(tmp_path):
        operations += Decimal(row["ConsumedQuantity"]) if row["ConsumedUnit"] == "Operations" else 0
    shown = 0.0
    for (_, name, _), points in series_of(tmp_path).items():
        if name == "container.blockio.io_serviced_recursive":
            for (_, start, value), (_, next_start, next_value) in zip(points, points[1:]):
                shown += next_value - (value if start == next_start else 0)
    # The first point of a series says nothing of the minute before it.
    assert shown == pytest.approx(float(operations), rel=2.5 / config.minutes)


@pytest.mark.slow
def test_both_spellings_of_the_provider_and_all_providers_occur(tmp_path):
    seen = set()
    for seed in range(12):
        output = tmp_path / str(seed)
        run(build(Config(seed=seed, services=3, days=0.02, requests_per_day=100)), output)
        row = bill_of(output)[0]
        for column in ("ProviderName", "ServiceProviderName"):
            if column in row:
                seen.add(column)
                seen.add(row[column])
    assert seen == {"ProviderName", "ServiceProviderName", "AWS", "Google Cloud", "Microsoft"}


# ---- the truth ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["source", "novel"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_share_of_anomalous_traces_is_as_asked(seed, mix, tmp_path):
    config = Config(seed=seed, services=12, days=0.25, requests_per_day=12_000, mix=mix)
    run(build(config), tmp_path)
    labels = labels_of(tmp_path)
    rate = np.mean([row["is_anomalous"] for row in labels])
    assert rate == pytest.approx(config.anomaly_rate, rel=0.25)
    kinds = Counter(row["anomaly_kind"] for row in labels if row["is_anomalous"])
    assert set(kinds) == set(MIXES[mix])
    assert max(kinds.values()) < 3 * min(kinds.values())


def test_faults_keep_out_of_the_warm_up(small):
    world, output = small
    begin = world.config.start_ms + world.config.warm_up_minutes * 60_000
    faults = pq.read_table(output / "truth" / "faults.parquet").to_pylist()
    assert faults
    assert all(row["start_time"].timestamp() * 1000 >= begin for row in faults)
    assert all(row["start_time"] < row["end_time"] for row in faults)


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["source", "novel"])
def test_a_fault_changes_no_span_of_a_trace_it_does_not_touch(mix, small, tmp_path):
    world, output = small
    if mix == "novel":
        world, output = build(replace(SMALL, mix=mix, requests_per_day=30_000)), tmp_path / mix
        run(world, output)
    run(replace_faults(world, []), tmp_path / "quiet")
    labels = {row["trace_id"]: row for row in labels_of(output)}
    quiet, all_spans = spans_of(tmp_path / "quiet"), spans_of(output)
    assert quiet.keys() == all_spans.keys()
    changed = 0
    for trace_id, spans in all_spans.items():
        same = sorted(spans, key=span_id) == sorted(quiet[trace_id], key=span_id)
        if not labels[trace_id]["is_anomalous"]:
            assert same
        else:
            changed += not same
    assert changed > 0.5 * sum(row["is_anomalous"] for row in labels.values())


def span_id(span: dict) -> str:
    return span["spanId"]


def labels_of(output: Path) -> list[dict]:
    return pq.read_table(output / "truth" / "traces.parquet").to_pylist()


def replace_faults(world: World, faults: list[Fault]) -> World:
    return replace(world, faults=faults)


@pytest.mark.slow
@pytest.mark.parametrize("billing, mix", [("metered", "source"), ("machine", "source"), ("metered", "novel")])
def test_excess_cost_is_the_bill_less_the_bill_without_that_fault(billing, mix, tmp_path):
    config = replace(SMALL, seed=5, days=0.04, billing=billing, mix=mix, anomaly_rate=0.2)
    world = build(config)
    run(world, tmp_path / "all")
    whole = billed(tmp_path / "all")
    costs = defaultdict(Decimal)
    for row in pq.read_table(tmp_path / "all" / "truth" / "costs.parquet").to_pylist():
        costs[row["fault_id"]] += row["excess_cost"]
    moved = 0
    for fault in world.faults:
        without = tmp_path / fault.fault_id
        run(replace_faults(world, [other for other in world.faults if other is not fault]), without)
        difference = whole - billed(without)
        moved += difference != 0
        assert abs(costs[fault.fault_id] - difference) < Decimal("1e-9")
    assert moved > 0


def test_without_faults_nothing_is_anomalous_and_nothing_is_in_excess(tmp_path):
    run(build(replace(SMALL, days=0.05, anomaly_rate=0)), tmp_path)
    assert pq.read_table(tmp_path / "truth" / "faults.parquet").num_rows == 0
    assert pq.read_table(tmp_path / "truth" / "costs.parquet").num_rows == 0
    labels = pq.read_table(tmp_path / "truth" / "traces.parquet")
    assert not any(labels["is_anomalous"].to_pylist())


def test_no_key_value_or_message_tells_an_anomalous_trace(monkeypatch, tmp_path):
    # Natural errors are rare; with more of them, a small world shows every kind of them.
    monkeypatch.setattr(topology, "_ERROR_RATE_PER_CALL", 0.05)
    run(build(replace(SMALL, days=0.2)), tmp_path)
    labels = {
        row["trace_id"]: row["is_anomalous"] for row in pq.read_table(tmp_path / "truth" / "traces.parquet").to_pylist()
    }
    personal = {"user_agent.original", "enduser.id", "client.geo.country"}
    words = {True: set(), False: set()}
    for trace_id, spans in spans_of(tmp_path).items():
        into = words[labels[trace_id]]
        for span in spans:
            into |= {(key, value) for key, value in plain(span["attributes"]).items() if key not in personal}
            into |= {("resource", key) for key in span["resource"]}
            into |= {("name", span["name"]), ("kind", span["kind"])}
            into |= {("field", field) for field in span}
            into |= {("status", str(sorted(span["status"].items())))}
            into |= {("version", *map(span["resource"].get, ("service.name", "service.version")))}
    assert words[True] - words[False] == set()
    bodies = {True: set(), False: set()}
    for request in lines(tmp_path / "logs"):
        for entry in request["resourceLogs"]:
            for record in entry["scopeLogs"][0]["logRecords"]:
                text = record["body"]["stringValue"].rpartition(": ")[2]
                bodies[labels[record["traceId"]]].add((record["severityText"], text))
    assert bodies[True] - bodies[False] == set()


# ---- what faults do -----------------------------------------------------------------------------


def requests_with(kind: str, count: int = 20, **changes: object) -> list[tuple[requests.Request, requests.Request]]:
    """(without, with) pairs of requests that one drastic fault touches, over some services."""
    world = build(Config(seed=11, services=12, days=0.05, requests_per_day=1000))
    conditions = requests.Conditions(
        world.placement.pods,
        [service.replicas for service in world.topology.services],
        [1.0] * world.topology.slot_count,
    )
    pairs = []
    for service in world.topology.services:
        if not service.tier:
            continue
        targets = [
            step.target.service.index
            for operation in service.operations
            for step in operation.steps
            if step.transport == topology.HTTP
        ]
        if kind == RETRY_LOOP and not targets or kind == QUEUE_BACKLOG and not service.is_consumer:
            continue
        fault = Fault(
            **{
                "fault_id": "f",
                "key": 1,
                "kind": kind,
                "service": service.index,
                "start_ms": 0,
                "end_ms": 1e9,
                "severity": 4.0,
                "share": 1.0,
                "slot": None,
                "target": targets[0] if targets else None,
                "mode": fault_plan.NOVEL_MODES.get(kind),
                **changes,
            }
        )
        for endpoint in world.topology.endpoints:
            draws = world.draws[endpoint.index]
            keys, rows, _ = draws.batch(np.arange(count, dtype=np.uint64))
            for key, row in zip(keys, rows):
                common = (endpoint, draws, key, row, 0.0, conditions)
                touched = requests.Request(*common, {service.index: [fault]})
                if touched.touched:
                    pairs.append((requests.Request(*common, {}), touched))
    assert len(pairs) > 20
    return pairs


def work(request: requests.Request) -> np.ndarray:
    return np.sum([use[2:] for use in request.uses], axis=0)


def test_a_latency_spike_makes_requests_longer_and_leaves_their_shape():
    pairs = requests_with(LATENCY_SPIKE, mode=fault_plan.WORK, side_effect=0.2)
    longer = [slow.duration_ms > usual.duration_ms for usual, slow in pairs]
    assert np.mean(longer) > 0.4  # consumers of queues and parallel calls are not waited for
    assert all(work(slow)[0] > work(usual)[0] for usual, slow in pairs if len(slow.spans) == len(usual.spans))


def test_waiting_for_connections_costs_the_caller_more_than_the_culprit():
    plain_pairs = requests_with(LATENCY_SPIKE, mode=fault_plan.WORK)
    waiting = requests_with(LATENCY_SPIKE, mode=fault_plan.WORK, pool_wait=2.0)
    lost = [
        np.mean([slow.duration_ms - usual.duration_ms for usual, slow in pairs]) for pairs in (plain_pairs, waiting)
    ]
    assert lost[1] > 2 * lost[0]


def test_a_retry_loop_repeats_calls_and_the_callee_works_for_each():
    for usual, looping in requests_with(RETRY_LOOP, mode=fault_plan.REPEAT):
        assert len(looping.spans) > len(usual.spans)
        assert work(looping)[0] > work(usual)[0]
        assert max(span.path & 7 for span in looping.spans) >= 1


@pytest.mark.parametrize("dimension, mode", [(0, "cpu"), (1, "memory"), (2, "io"), (3, "network")])
def test_resource_overuse_can_leave_every_span_as_it_was(dimension, mode):
    for usual, heavy in requests_with(RESOURCE_OVERUSE, mode=mode):
        assert heavy.spans == usual.spans
        assert work(heavy)[dimension] > work(usual)[dimension]


@pytest.mark.parametrize("mode", [fault_plan.REFUSE, fault_plan.ERROR, fault_plan.HANG])
def test_a_failing_dependency_shows_as_errors_of_its_callers(mode):
    pairs = requests_with(DEPENDENCY_FAILURE, mode=mode, severity=1.0)
    failed = Counter(span.outcome for _, broken in pairs for span in broken.spans)
    expected = {
        fault_plan.REFUSE: requests.UNAVAILABLE,
        fault_plan.ERROR: requests.INTERNAL,
        fault_plan.HANG: requests.TIMEOUT,
    }[mode]
    assert failed[expected] > 0.5 * len(pairs)


def duration(span: requests.Span) -> float:
    return span.end_ms - span.start_ms


def test_a_short_circuit_leaves_calls_out_and_says_ok_fast():
    pairs = requests_with(SHORT_CIRCUIT, severity=0.6)
    for usual, short in pairs:
        assert len(short.spans) < len(usual.spans)
        assert short.duration_ms <= usual.duration_ms
        assert work(short)[0] < work(usual)[0]
        assert short.outcome == requests.OK
    assert np.mean([short.duration_ms < usual.duration_ms for usual, short in pairs]) > 0.4


def test_n_plus_one_makes_each_statement_again_one_after_the_other():
    for usual, many in requests_with(N_PLUS_ONE):
        (culprit,) = {fault.service for fault in many.touched}
        statements = defaultdict(list)
        for span in many.spans:
            if span.site.transport == topology.DB and span.site.service_index == culprit:
                statements[requests.parent_of(span), span.site].append(span)
        assert statements
        for spans in statements.values():
            assert 3 <= len(spans) <= 10
            for one, following in zip(spans, spans[1:]):
                assert following.start_ms == one.end_ms
                assert duration(following) != duration(one)  # each has draws of its own
        assert work(many)[2] > work(usual)[2]


def test_an_intermittent_stall_holds_up_some_calls_and_leaves_the_others():
    some, every = (requests_with(INTERMITTENT_STALL, severity=10.0, part=part, count=100) for part in (0.3, 1.0))
    for usual, stalled in some:
        assert any(duration(after) > 1.01 * duration(before) for before, after in zip(usual.spans, stalled.spans))
    assert 0.2 < len(some) / len(every) < 0.45


def test_a_swallowed_exception_leaves_a_log_and_no_error():
    pairs = requests_with(SWALLOWED_EXCEPTION, severity=1.0)
    shorter = 0
    for usual, silent in pairs:
        assert silent.swallowed
        (culprit,) = {fault.service for fault in silent.touched}
        assert {span.site.service_index for span in silent.swallowed} == {culprit}
        assert {span.outcome for span in silent.spans} == {requests.OK}
        shorter += len(silent.spans) < len(usual.spans)
    assert shorter > 0.3 * len(pairs)


def test_a_swallowed_exception_is_logged_as_an_error_on_a_span_without_status(tmp_path):
    run(build(replace(SMALL, faults={SWALLOWED_EXCEPTION: 1.0})), tmp_path)
    status = {span["spanId"]: span["status"] for spans in spans_of(tmp_path).values() for span in spans}
    told = defaultdict(list)
    for request in lines(tmp_path / "logs"):
        for entry in request["resourceLogs"]:
            for record in entry["scopeLogs"][0]["logRecords"]:
                if record["severityText"] == "ERROR":
                    told[record["traceId"]].append(status[record["spanId"]])
    touched = [row["trace_id"] for row in labels_of(tmp_path) if row["is_anomalous"]]
    assert len(touched) > 20
    assert all({} in told[trace_id] for trace_id in touched)
    assert all(trace_id in touched for trace_id, statuses in told.items() if {} in statuses)


def test_without_its_cache_a_service_asks_its_database_each_time_and_for_longer():
    more = 0
    for usual, lost in requests_with(CACHE_LOSS, severity=2.0):
        (culprit,) = {fault.service for fault in lost.touched}
        before, after = (
            {
                span[:2]: duration(span)
                for span in request.spans
                if span.site.transport == topology.DB and span.site.service_index == culprit
            }
            for request in (usual, lost)
        )
        assert before.keys() <= after.keys()
        assert all(1.3 < after[place] / before[place] < 2.5 for place in before)
        served = [span for span in lost.spans if span.role == requests.SERVER and span.site.service_index == culprit]
        assert len(after) == sum(child.transport == topology.DB for span in served for child in span.site.children)
        more += len(after) > len(before)
    assert more > 0


def test_a_queue_backlog_lengthens_the_wait_for_the_consumer_and_nothing_else():
    for usual, late in requests_with(QUEUE_BACKLOG, severity=20.0):
        (culprit,) = {fault.service for fault in late.touched}
        assert late.duration_ms == usual.duration_ms
        starts = [{span[:3]: span.start_ms for span in request.spans} for request in (usual, late)]
        for before, after in zip(usual.spans, late.spans):
            assert after[:3] == before[:3]
            assert duration(after) == pytest.approx(duration(before))
            if after.site.service_index == culprit and after.role == requests.SERVER:
                parent = requests.parent_of(after)
                gaps = [
                    start[after[:3]] - start[parent_key]
                    for start in starts
                    for parent_key in start
                    if (parent_key[0].index, *parent_key[1:]) == parent
                ]
                assert gaps[1] - gaps[0] > 5 * after.site.network_ms


@pytest.mark.parametrize("kind", NOVEL_KINDS)
def test_only_services_that_have_what_it_acts_on_get_a_novel_fault(kind):
    world = build(Config(seed=2, faults={kind: 1.0}))
    assert world.faults
    for fault in world.faults:
        service = world.topology.services[fault.service]
        steps = [step for operation in service.operations for step in operation.steps]
        queries = [step for step in steps if step.transport == topology.DB]
        assert fault.kind == kind
        assert {
            SHORT_CIRCUIT: steps,
            N_PLUS_ONE: queries,
            INTERMITTENT_STALL: True,
            SWALLOWED_EXCEPTION: True,
            CACHE_LOSS: any(step.probability < 1 for step in queries),
            QUEUE_BACKLOG: service.is_consumer,
        }[kind]


# ---- cases --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_storm_is_one_fault_that_lasts_and_touches_much(seed, tmp_path):
    config = replace(SMALL, seed=seed, case="storm", anomaly_rate=0)
    world = build(config)
    run(world, tmp_path)
    (fault,) = world.faults
    assert fault.kind in KINDS
    assert (fault.share, fault.slot) == (1.0, None)
    begin, end = (share * config.minutes * MINUTE_MS for share in STORM_SHARES)
    assert (fault.start_ms, fault.end_ms) == (begin, end)
    started = {
        trace_id: min(int(span["startTimeUnixNano"]) for span in spans) / 1e6 - config.start_ms
        for trace_id, spans in spans_of(tmp_path).items()
    }
    labels = labels_of(tmp_path)
    inside = [row["is_anomalous"] for row in labels if begin <= started[row["trace_id"]] < end]
    assert 0.05 < np.mean(inside) < 0.4
    assert sum(inside) == sum(row["is_anomalous"] for row in labels)
    assert pq.read_table(tmp_path / "truth" / "faults.parquet").num_rows == 1


def test_many_releases_at_once_change_pods_and_speed_and_are_no_anomaly(monkeypatch, tmp_path):
    monkeypatch.setattr(placement, "_DEPLOYS_PER_DAY", 0.0)
    monkeypatch.setattr(placement, "_RESTARTS_PER_DAY", 0.0)
    config = replace(SMALL, services=20, case="deploy")
    world = build(config)
    run(world, tmp_path)
    assert not any(row["is_anomalous"] for row in labels_of(tmp_path))
    for table in ("faults", "costs"):
        found = pq.read_table(tmp_path / "truth" / f"{table}.parquet")
        assert (found.num_rows, found.num_columns > 3) == (0, True)
    current = {pod.slot: pod for pod in world.placement.pods}
    released = defaultdict(set)
    for minute, pods in sorted(world.placement.changes.items()):
        for pod in pods:
            old, current[pod.slot] = current[pod.slot], pod
            assert (pod.name, pod.uid, pod.version) != (old.name, old.uid, old.version)
            factor = pod.slow / old.slow
            assert 0.6 <= factor <= 1.8
            assert pod.heavy / old.heavy == pytest.approx(factor)
            wave = max(begin for share in RELEASE_SHARES if (begin := round(share * config.minutes)) <= minute)
            assert minute < wave + pod.service.replicas  # a replica a minute
            released[wave, pod.service.name].add(pod.slot)
    waves = Counter(wave for wave, _ in released)
    assert sorted(waves.values()) == [4, 4]
    for (_, name), slots in released.items():
        service = next(found for found in world.topology.services if found.name == name)
        assert slots == set(service.slots)
    shown = {span["resource"]["k8s.pod.name"] for spans in spans_of(tmp_path).values() for span in spans}
    assert {pod.name for pods in world.placement.changes.values() for pod in pods} & shown


def test_a_case_leaves_the_topology_and_the_requests_as_they_are():
    usual, storm, deploy = (build(replace(SMALL, case=case)) for case in (None, "storm", "deploy"))
    for world in (storm, deploy):
        assert [service.name for service in world.topology.services] == [
            service.name for service in usual.topology.services
        ]
        assert np.array_equal(world.workload.rate, usual.workload.rate)
    assert not deploy.faults


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--seed", "1"], "--output"),
        (["--seed", "x"], "--seed"),
        (["--seed", "1", "--services", "2"], "--services 2 is outside of 3 to 200"),
        (["--seed", "1", "--days", "0"], "--days 0 is outside"),
        (["--seed", "1", "--anomaly-rate", "0.9"], "--anomaly-rate 0.9 is outside"),
        (["--seed", "1", "--faults", "gremlin=1"], "gremlin"),
        (["--seed", "1", "--faults", "retry_loop=x"], "retry_loop=x"),
        (["--seed", "1", "--noise", "loud"], "--noise loud is none of plain, wide"),
        (["--seed", "1", "--mix", "odd"], "--mix odd is none of source, faint, novel"),
        (["--seed", "1", "--case", "flood"], "--case flood is none of storm, deploy"),
        (["--seed", "1", "--case", "storm", "--days", "1", "--warm-up-hours", "12"], "storm's begin"),
        (
            ["--seed", "1", "--case", "storm", "--days", "0.1", "--services", "3", "--faults", "queue_backlog"],
            "no service can have a fault of queue_backlog",
        ),
        (["--seed", "1", "--billing", "free"], "--billing free"),
        (["--seed", "1", "--start", "noon"], "--start noon"),
        (["--seed", "1", "--output", "kafka://host:9092"], "kafka://host:9092"),
    ],
)
def test_wrong_use_exits_2_with_one_line(arguments, says, tmp_path, capsys):
    if says != "--output":
        arguments = ["--output", str(tmp_path / "out"), *arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_an_output_directory_that_is_not_empty_is_refused(tmp_path, capsys):
    (tmp_path / "precious").write_text("data")
    assert main(["--output", str(tmp_path), "--seed", "1"]) == 2
    assert "is not an empty directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_fault_mix_and_file_urls_are_understood(tmp_path):
    config, output = parse(
        [
            "--output",
            f"file://{tmp_path}/w",
            "--seed",
            "1",
            "--faults",
            "retry_loop=2,latency_spike",
            "--start",
            "2025-06-01T06:00+02:00",
        ]
    )
    assert config.weights == {"retry_loop": 2.0, "latency_spike": 1.0}
    assert config.start.isoformat() == "2025-06-01T04:00:00+00:00"
    assert output == tmp_path / "w"
    with pytest.raises(UsageError):
        parse(["--output", str(tmp_path), "--seed", "1", "--warm-up-hours", "999"])


@pytest.mark.parametrize(
    "arguments, kinds",
    [
        ([], KINDS),
        (["--mix", "faint"], KINDS),
        (["--mix", "novel"], NOVEL_KINDS),
        (["--faults", ",".join(ALL_KINDS)], ALL_KINDS),
    ],
)
def test_a_mix_names_its_kinds_in_equal_weights(arguments, kinds, tmp_path):
    config, _ = parse(["--output", str(tmp_path / "w"), "--seed", "1", *arguments])
    assert config.weights == dict.fromkeys(kinds, 1.0)


def test_it_tells_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    assert "25% of the time" in capsys.readouterr().out
