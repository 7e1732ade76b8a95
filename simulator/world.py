"""A world from its config: build it, run it minute by minute, write what it emits and the truth.

Memory holds one chunk of requests, open minutes and hours, and the faults: nothing grows with the
number of spans.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from faker import Faker

from simulator import faults as fault_plan
from simulator import placement, topology, workload
from simulator.charges import Ledger
from simulator.config import MINUTE_MS, MINUTES_PER_DAY, MINUTES_PER_HOUR, Config
from simulator.emit import HourlyLines, MetricWriter, Resources, SpanWriter
from simulator.faults import Fault, Visits
from simulator.keyed import key_of
from simulator.requests import SERVER, Draws, Request
from simulator.topology import DB, Endpoint
from simulator.usage import CPU, IO, MEMORY, TRANSMIT, UsageMeter

# Draws of this many requests are made at once.
_CHUNK_REQUESTS = 2000

# Requests without faults that tell how a world behaves before it runs; their ids lie beyond all.
_SAMPLE_REQUESTS = 1500
_SAMPLE_FIRST_ID = 1 << 60

# Traces are head-sampled: one recorded request stands for many, so that a shop with 50,000 traces a
# day keeps some machines busy. How many follows from what the work of an average service is to be:
# cores, bytes, operations and bytes sent a second.
_MEAN_CORES = 0.35
_MEAN_MEMORY = 0.6e9
_MEAN_IO_A_SECOND = 20.0
_MEAN_BYTES_A_SECOND = 40_000.0

_TIME = pa.timestamp("ms", "UTC")
_TRACES_SCHEMA = pa.schema([
    ("trace_id", pa.string()), ("is_anomalous", pa.bool_()), ("fault_id", pa.string()),
    ("culprit_service_name", pa.string()), ("anomaly_kind", pa.string()),
])
_FAULTS_SCHEMA = pa.schema([
    ("fault_id", pa.string()), ("otel_service_name", pa.string()), ("anomaly_kind", pa.string()),
    ("start_time", _TIME), ("end_time", _TIME), ("severity", pa.float64()),
])
_COSTS_SCHEMA = pa.schema([
    ("fault_id", pa.string()), ("window_start", _TIME), ("otel_service_name", pa.string()),
    ("excess_cost", pa.decimal128(28, 12)),
])


@dataclass
class World:
    """All that is fixed before the first request arrives."""

    config: Config
    namespace: str
    topology: topology.Topology
    workload: workload.Workload
    placement: placement.Placement
    draws: list[Draws]  # by endpoint
    faults: list[Fault]
    spans_a_trace: float  # mean over the sample


@dataclass(frozen=True)
class Tally:
    """What a run amounted to."""

    requests: int
    anomalous: int
    spans: int
    faults: int
    billed: Decimal
    excess: Decimal


def build(config: Config) -> World:
    """Draw a world: a function of the config."""
    shop = topology.build(config)
    faker = Faker("en_US")
    faker.seed_instance(key_of(config.seed, "shop"))
    namespace = faker.domain_word().lower()
    asked = workload.build(config, shop)
    where = placement.build(config, shop, namespace)
    draws = [Draws(config.seed, endpoint) for endpoint in shop.endpoints]
    world = World(config, namespace, shop, asked, where, draws, [], 0.0)
    visits = _explore(world)
    world.faults = fault_plan.plan(config, shop, asked.rate, visits)
    return world


def _explore(world: World) -> list[Visits]:
    """Run the sample: scale the operations' appetite, and tell where requests go."""
    ids = np.arange(_SAMPLE_REQUESTS, dtype=np.uint64) + np.uint64(_SAMPLE_FIRST_ID)
    shares = (np.arange(_SAMPLE_REQUESTS) + 0.5) / _SAMPLE_REQUESTS
    endpoints = np.searchsorted(world.workload.endpoint_edges, shares)
    slowdown = [1.0] * len(world.topology.services)
    sums = np.zeros(5)
    visits, spans = [], 0
    for endpoint in world.topology.endpoints:
        draws = world.draws[endpoint.index]
        keys, rows, _ = draws.batch(ids[endpoints == endpoint.index])
        for key, row in zip(keys, rows):
            request = Request(endpoint, draws, key, row, 0.0, slowdown, world.placement.pods, {})
            sums += np.sum([use[2:] for use in request.uses], axis=0)
            spans += len(request.spans)
            visits.append(_visits(request))
    world.spans_a_trace = spans / _SAMPLE_REQUESTS
    _scale(world, sums / _SAMPLE_REQUESTS)
    return visits


def _visits(request: Request) -> Visits:
    called = [span.site for span in request.spans if span.site.parent]
    return Visits(
        slots=Counter(span.slot for span in request.spans if span.role == SERVER),
        calls=frozenset(
            (site.parent.service_index, site.service_index) for site in called
            if site.transport != DB
        ),
        queries=frozenset(span.slot for span in request.spans if span.site.transport == DB),
    )


def _scale(world: World, mean: np.ndarray) -> None:
    """Bring the mean work of a request to what keeps an average service as busy as it should be."""
    services = len(world.topology.services)
    seconds = MINUTES_PER_DAY * 60 / world.config.requests_per_day
    cpu = _MEAN_CORES * services * seconds * 1e6 / mean[CPU]
    memory = _MEAN_MEMORY * services * seconds * 1e3 / mean[MEMORY]
    io = _MEAN_IO_A_SECOND * services * seconds / mean[IO]
    network = _MEAN_BYTES_A_SECOND * services * seconds / mean[TRANSMIT]
    for service in world.topology.services:
        for operation in service.operations:
            operation.cpu_us *= cpu
            operation.memory_bytes *= memory
            operation.io_operations *= io
            operation.request_bytes *= network
            operation.response_bytes *= network


def run(
    world: World, output: Path, progress: Callable[[float, int, int], None] = lambda *_: None
) -> Tally:
    """Run a world and write all of it below ``output``.

    progress: called each simulated hour with (share done, requests so far, spans so far).
    """
    config = world.config
    with ExitStack() as stack:
        traces, logs, metrics = (
            stack.enter_context(HourlyLines(output / name)) for name in ("traces", "logs", "metrics")
        )
        resources = Resources(config, world.placement)
        meter = UsageMeter(config.seed, world.topology)
        spans = SpanWriter(config, world.topology, world.placement, resources, traces, logs)
        points = MetricWriter(config, world.placement, resources, metrics, meter.idle(0).tolist())
        ledger = Ledger(config, world.placement, world.namespace)
        bill = Bill(output / "billing", config, ledger)
        (output / "truth").mkdir(parents=True, exist_ok=True)
        labels = stack.enter_context(
            pq.ParquetWriter(output / "truth" / "traces.parquet", _TRACES_SCHEMA)
        )
        pods = list(world.placement.pods)
        requests = anomalous = 0
        for minute, arrivals in _minutes(world):
            for pod in world.placement.changes.get(minute, ()):
                pods[pod.slot] = pod
                points.restart(pod)
            rows = [
                _handle(world, minute, arrival, pods, slowdown, faults, meter, spans)
                for slowdown, faults in [(
                    world.workload.slowdown(world.topology, minute), _active(world.faults, minute)
                )]
                for arrival in arrivals
            ]
            requests += len(rows)
            anomalous += sum(row[1] for row in rows)
            if rows:
                labels.write_table(pa.table(
                    [list(column) for column in zip(*rows)], schema=_TRACES_SCHEMA
                ))
            usage, deltas = meter.close(minute)
            points.write(minute, pods, usage)
            ledger.add(minute, pods, usage, deltas)
            spans.flush((minute + 1) * MINUTE_MS)
            if (minute + 1) % MINUTES_PER_HOUR == 0 or minute + 1 == config.minutes:
                bill.close_hour(minute // MINUTES_PER_HOUR)
                progress((minute + 1) / config.minutes, requests, spans.span_count)
        spans.flush(float("inf"))
    _write_faults(world, output)
    _write_costs(world, ledger, output)
    return Tally(
        requests, anomalous, spans.span_count, len(world.faults), bill.total,
        sum(ledger.excess.values(), Decimal(0)),
    )
