"""Run a world: minute by minute, hour by hour to disk, with the truth beside it.

Memory holds a chunk of requests, the minutes and hours that are open, and the faults: nothing
grows with the number of spans.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simulator.charges import Ledger
from simulator.config import MINUTE_MS, MINUTES_PER_HOUR, Config
from simulator.emit import HourlyLines, MetricWriter, Resources, SpanWriter
from simulator.faults import Fault
from simulator.requests import Conditions, Request
from simulator.topology import Endpoint
from simulator.usage import UsageMeter
from simulator.weather import BatchJobs, Weather
from simulator.world import World

# Draws of about this many requests are made at once, in whole minutes.
_CHUNK_REQUESTS = 2000

_HOURS_PER_DAY = 24

_TIME = pa.timestamp("ms", "UTC")
_TRACES_SCHEMA = pa.schema(
    [
        ("trace_id", pa.string()),
        ("is_anomalous", pa.bool_()),
        ("fault_id", pa.string()),
        ("culprit_service_name", pa.string()),
        ("anomaly_kind", pa.string()),
    ]
)
_FAULTS_SCHEMA = pa.schema(
    [
        ("fault_id", pa.string()),
        ("otel_service_name", pa.string()),
        ("anomaly_kind", pa.string()),
        ("start_time", _TIME),
        ("end_time", _TIME),
        ("severity", pa.float64()),
    ]
)
_COSTS_SCHEMA = pa.schema(
    [
        ("fault_id", pa.string()),
        ("window_start", _TIME),
        ("otel_service_name", pa.string()),
        ("excess_cost", pa.decimal128(28, 12)),
    ]
)

# What stands where a request's draws were used, or are not there yet.
_NO_DRAWS: tuple[int, list[list[float]], str] = (0, [], "")

# called with (share of the time done, requests so far, spans so far)
Progress = Callable[[float, int, int], None]


@dataclass(frozen=True)
class Tally:
    """What a run amounted to. Money in USD."""

    requests: int
    anomalous: int
    spans: int
    faults: int
    billed_cost: Decimal
    excess_cost: Decimal


@dataclass(frozen=True)
class _Arrival:
    """A request before it runs, with its draws."""

    endpoint: Endpoint
    arrival_ms: float  # since the world's start
    key: int
    rows: list[list[float]]
    hexes: str


def run(world: World, output: Path, progress: Progress = lambda *_: None) -> Tally:
    """Run ``world`` and write all of it below ``output``; ``progress`` is called every hour."""
    with ExitStack() as stack:
        running = _Run(world, output, stack)
        for minute, arrivals in _minutes(world):
            running.minute(minute, arrivals)
            if (minute + 1) % MINUTES_PER_HOUR == 0 or minute + 1 == world.config.minutes:
                running.close_hour(minute // MINUTES_PER_HOUR)
                progress((minute + 1) / world.config.minutes, running.requests, running.spans.span_count)
        running.spans.flush(float("inf"))
    _write_faults(world, output)
    _write_costs(world, running.ledger, output)
    return Tally(
        requests=running.requests,
        anomalous=running.anomalous,
        spans=running.spans.span_count,
        faults=len(world.faults),
        billed_cost=running.bill.total,
        excess_cost=sum(running.ledger.excess.values(), Decimal(0)),
    )


class _Run:
    """The open ends of a run: writers, meters, the pods of the minute."""

    def __init__(self, world: World, output: Path, stack: ExitStack) -> None:
        config = world.config
        traces, logs, metrics = (
            stack.enter_context(HourlyLines(output / name)) for name in ("traces", "logs", "metrics")
        )
        resources = Resources(config, world.placement)
        self._world = world
        self._pods = list(world.placement.pods)
        batches = BatchJobs(world.noise, world.topology)
        self._weather = Weather(world.noise, len(world.placement.nodes), batches)
        self._meter = UsageMeter(world.noise, world.topology, batches)
        self._metrics = MetricWriter(config, world.placement, resources, metrics, self._meter.idle(0).tolist())
        self._numbers = {fault: number for number, fault in enumerate(world.faults)}
        self._labels = Labels(output / "truth", stack)
        self.spans = SpanWriter(config, world.noise, world.topology, world.placement, resources, traces, logs)
        self.ledger = Ledger(config, world.placement, world.namespace)
        self.bill = Bill(output / "billing", config, self.ledger)
        self.requests = 0
        self.anomalous = 0

    def minute(self, minute: int, arrivals: Sequence[_Arrival]) -> None:
        """All that happens in a minute."""
        world, pods = self._world, self._pods
        for pod in world.placement.changes.get(minute, ()):
            pods[pod.slot] = pod
            self._metrics.restart(pod)
        conditions = self._conditions(minute)
        begin, end = minute * MINUTE_MS, (minute + 1) * MINUTE_MS
        active = [f for f in world.faults if f.start_ms < end and f.end_ms > begin]
        for arrival in arrivals:
            self._request(arrival, conditions, active)
        usage, deltas = self._meter.close(minute, pods)
        self._metrics.write(minute, pods, usage)
        self.ledger.add(minute, pods, usage, deltas)
        self.spans.flush(end)

    def _conditions(self, minute: int) -> Conditions:
        """What requests meet in a minute: the load expected, and the weather."""
        topology, pods = self._world.topology, self._pods
        replicas = [sum(pods[slot].is_running for slot in service.slots) for service in topology.services]
        of_services = self._world.workload.slowdown(topology, minute, replicas)
        weather = self._weather.slowdown(minute, pods).tolist()
        slowdown = [of_services[pod.service.index] * own for pod, own in zip(pods, weather)]
        return Conditions(pods, replicas, slowdown)

    def close_hour(self, hour: int) -> None:
        """Bill the hour, and write the labels of its traces."""
        self.bill.write(hour)
        self._labels.flush()

    def _request(self, arrival: _Arrival, conditions: Conditions, active: Sequence[Fault]) -> None:
        def handle(faults: Sequence[Fault]) -> Request:
            by_service: dict[int, list[Fault]] = {}
            for fault in faults:
                by_service.setdefault(fault.service, []).append(fault)
            return Request(
                arrival.endpoint,
                self._world.draws[arrival.endpoint.index],
                arrival.key,
                arrival.rows,
                arrival.arrival_ms,
                conditions,
                by_service,
            )

        chosen = [
            fault
            for fault in active
            if fault.start_ms <= arrival.arrival_ms < fault.end_ms and fault.chooses(arrival.key)
        ]
        request = handle(chosen)
        self._meter.add(request.uses)
        is_shown = self._is_kept(arrival) and self.spans.write(
            arrival.endpoint, request, arrival.key, arrival.hexes, arrival.arrival_ms, self._pods
        )
        # Of several faults the one without which the whole request's time would change most.
        culprit, largest = None, -1.0
        for fault in request.touched:
            without = handle([other for other in chosen if other is not fault])
            self._meter.blame(self._numbers[fault], request.uses, without.uses)
            change = abs(request.duration_ms - without.duration_ms)
            if change > largest:
                culprit, largest = fault, change
        if not is_shown:
            return
        self.requests += 1
        self.anomalous += culprit is not None
        self._labels.add(
            arrival.hexes[:32],
            culprit,
            self._world.topology.services[culprit.service].name if culprit else None,
        )

    def _is_kept(self, arrival: _Arrival) -> bool:
        """Whether the sampler at the trace's head keeps it: by the last 56 bits of its id."""
        return int(arrival.hexes[18:32], 16) * self._world.noise.sampled_one_in < 1 << 56


def _minutes(world: World) -> Iterator[tuple[int, list[_Arrival]]]:
    """Every minute with its requests in order of arrival."""
    chunk: list[tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]] = []
    count = 0
    for minute in range(world.config.minutes):
        arrivals = world.workload.arrivals(minute)
        chunk.append((minute, arrivals))
        count += len(arrivals[0])
        if count >= _CHUNK_REQUESTS or minute + 1 == world.config.minutes:
            yield from _with_draws(world, chunk)
            chunk, count = [], 0


def _with_draws(
    world: World, chunk: list[tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]]
) -> Iterator[tuple[int, list[_Arrival]]]:
    """The minutes of a chunk; draws are made for an endpoint's requests at once."""
    ids = np.concatenate([arrivals[0] for _, arrivals in chunk])
    endpoints = np.concatenate([arrivals[2] for _, arrivals in chunk])
    drawn: list[tuple[int, list[list[float]], str]] = [_NO_DRAWS] * len(ids)
    for endpoint in world.topology.endpoints:
        places = np.flatnonzero(endpoints == endpoint.index)
        if len(places):
            batch = world.draws[endpoint.index].batch(ids[places])
            for place, key, rows, hexes in zip(places.tolist(), *batch):
                drawn[place] = key, rows, hexes
    position = 0
    for minute, (_, offsets, indices) in chunk:
        arrivals = []
        for offset, index in zip(offsets.tolist(), indices.tolist()):
            arrivals.append(_Arrival(world.topology.endpoints[index], minute * MINUTE_MS + offset, *drawn[position]))
            drawn[position] = _NO_DRAWS
            position += 1
        yield minute, arrivals


class Bill:
    """FOCUS rows to ``billing/``, a CSV file a day."""

    def __init__(self, folder: Path, config: Config, ledger: Ledger) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._config = config
        self._ledger = ledger
        self.total = Decimal(0)  # billed so far

    def write(self, hour: int) -> None:
        """Append the rows of an hour; with the first hour of a day, those of the day."""
        day, hour_of_day = divmod(hour, _HOURS_PER_DAY)
        rows = self._ledger.close_hour(hour)
        if not hour_of_day:
            rows = [*self._ledger.daily_rows(day), *rows]
        date = (self._config.start + timedelta(days=day)).strftime("%Y-%m-%d")
        path = self._folder / f"{date}.csv"
        with path.open("w" if not hour_of_day else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._ledger.columns, lineterminator="\n")
            if not hour_of_day:
                writer.writeheader()
            writer.writerows(rows)
        self.total += sum(Decimal(row["BilledCost"]) for row in rows)


class Labels:
    """``traces.parquet``, a row group an hour."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = stack.enter_context(pq.ParquetWriter(folder / "traces.parquet", _TRACES_SCHEMA))
        self._rows: list[tuple] = []

    def add(self, trace_id: str, fault: Fault | None, culprit: str | None) -> None:
        """The label of one trace; fault is None where nothing touched it."""
        fault_id, kind = (fault.fault_id, fault.kind) if fault else (None, None)
        self._rows.append((trace_id, fault is not None, fault_id, culprit, kind))

    def flush(self) -> None:
        """Write what has come since the last time."""
        if self._rows:
            columns = [list(column) for column in zip(*self._rows)]
            self._writer.write_table(pa.table(columns, schema=_TRACES_SCHEMA))
            self._rows.clear()


def _write_faults(world: World, output: Path) -> None:
    services = world.topology.services
    start_ms = world.config.start_ms
    rows = [
        (
            fault.fault_id,
            services[fault.service].name,
            fault.kind,
            start_ms + int(fault.start_ms),
            start_ms + int(fault.end_ms),
            fault.severity,
        )
        for fault in world.faults
    ]
    _write_table(rows, _FAULTS_SCHEMA, output / "truth" / "faults.parquet")


def _write_costs(world: World, ledger: Ledger, output: Path) -> None:
    """Excess costs, ascending by (fault, window), under the culprit's name; without zeros."""
    services = world.topology.services
    place = _COSTS_SCHEMA.field("excess_cost").type.scale
    rows = [
        (
            world.faults[fault].fault_id,
            world.config.start_ms + window * MINUTE_MS,
            services[world.faults[fault].service].name,
            rounded,
        )
        for (fault, window), cost in sorted(ledger.excess.items())
        if (rounded := round(cost, place))
    ]
    _write_table(rows, _COSTS_SCHEMA, output / "truth" / "costs.parquet")


def _write_table(rows: Sequence[tuple], schema: pa.Schema, path: Path) -> None:
    columns = [list(column) for column in zip(*rows)] or [[] for _ in schema]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema)]
    pq.write_table(pa.table(arrays, schema=schema), path)
