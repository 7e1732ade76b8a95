"""Telemetry as emitters write it: OTLP/JSON, one export request a line, gzip, a file an hour.

Each pod's SDK hands its ended spans to the Collector on its node, and that Collector exports what
came within a flush interval. So a request holds parts of many traces, and a trace is spread over
many requests. JSON is written by hand: it is the inner loop of a world of millions of spans.

Sources: opentelemetry-proto 1.x (OTLP/JSON), semantic conventions for HTTP, messaging, database,
Kubernetes, cloud and host.
"""

from __future__ import annotations

import gzip
import random
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import orjson
from faker import Faker

from simulator.config import MINUTE_MS, Config
from simulator.instrumentation import PEER_KEYS, Instrumentation
from simulator.keyed import key_of, mix, unit
from simulator.noise import Noise
from simulator.placement import MACHINE, Placement, Pod
from simulator.requests import (
    CLIENT,
    INTERNAL,
    NOT_FOUND,
    OK,
    SERVER,
    TIMEOUT,
    UNAVAILABLE,
    UPSTREAM,
    Request,
    Span,
    parent_of,
    span_id,
)
from simulator.topology import DB, QUEUE, ROOT, Endpoint, Site, Topology
from simulator.usage import CPU, DIMENSIONS, IO, MEMORY, RECEIVE, TRANSMIT, MinuteUsage

_NS_PER_MS = 1_000_000
_HOUR_MS = 3_600_000

# gzip's fastest level: telemetry is repetitive, the higher ones cost more time than they save.
_GZIP_LEVEL = 1
_BUFFER_BYTES = 1 << 20

# How often a node's Collector exports spans and logs.
_FLUSH_MS = 30_000

# Kinds of spans in OTLP, by (role, transport).
_KINDS = {
    (SERVER, ROOT): 2,
    (SERVER, "http"): 2,
    (SERVER, QUEUE): 5,
    (CLIENT, "http"): 3,
    (CLIENT, QUEUE): 4,
    (CLIENT, DB): 3,
}
_INTERNAL_KIND = 1
_KIND_NAMES = {
    1: "SPAN_KIND_INTERNAL",
    2: "SPAN_KIND_SERVER",
    3: "SPAN_KIND_CLIENT",
    4: "SPAN_KIND_PRODUCER",
    5: "SPAN_KIND_CONSUMER",
}
_SERVER_STATUS = {OK: 200, INTERNAL: 500, UPSTREAM: 502, NOT_FOUND: 404}
_ERROR_TYPE = {UNAVAILABLE: "connection_refused", TIMEOUT: "timeout"}
_MESSAGES = {
    INTERNAL: "internal server error",
    UPSTREAM: "bad gateway",
    UNAVAILABLE: "connect: connection refused",
    TIMEOUT: "deadline exceeded",
    NOT_FOUND: "not found",
}
_DATABASE_MESSAGE = "deadlock detected, transaction aborted"

# Words of the shop's logs, by level: what services say anyhow. (number, text, body)
_CHATTER = (
    (9, "INFO", "request handled"),
    (9, "INFO", "cache refreshed"),
    (9, "INFO", "connection pool resized"),
    (13, "WARN", "deprecated field in payload ignored"),
    (13, "WARN", "clock drift corrected"),
)
_CHATTER_RATE = 0.03  # of the requests

_CPU_METRICS = (
    ("container.cpu.time", True),
    ("k8s.pod.cpu.time", True),
    ("container.cpu.usage", False),
    ("k8s.pod.cpu.usage", False),
)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def inner_id(own_id: str) -> str:
    """The id of the internal span below a span."""
    return f"{mix(int(own_id, 16)):016x}"


def _attribute(key: str, value: str | int) -> str:
    if isinstance(value, int):
        return f'{{"key":"{key}","value":{{"intValue":"{value}"}}}}'
    return f'{{"key":"{key}","value":{{"stringValue":{_json(value)}}}}}'


class HourlyLines:
    """Lines in gzip files named by the hour they belong to; hours come in ascending order."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._hour: int | None = None
        self._file: gzip.GzipFile | None = None
        self._raw: BinaryIO | None = None
        self._buffer: list[str] = []
        self._buffered = 0

    def __enter__(self) -> HourlyLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, time_ms: int, line: str) -> None:
        """Append one line to the file of the hour that holds ``time_ms`` (UTC)."""
        hour = time_ms // _HOUR_MS
        if hour != self._hour:
            self.close()
            self._hour = hour
            name = datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H.jsonl.gz")
            # No name and no time in the header: equal worlds are equal bytes.
            self._raw = raw = (self._folder / name).open("wb")
            self._file = gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0)
        self._buffer.append(line)
        self._buffered += len(line)
        if self._buffered > _BUFFER_BYTES:
            self._drain()

    def _drain(self) -> None:
        self._buffer.append("")
        if self._file:
            self._file.write("\n".join(self._buffer).encode())
        self._buffer.clear()
        self._buffered = 0

    def close(self) -> None:
        """Finish the open file, if any."""
        if self._file and self._raw:
            self._drain()
            self._file.close()
            self._raw.close()
            self._file = None


class Resources:
    """The OTLP resource of each pod, as JSON."""

    def __init__(self, config: Config, placement: Placement) -> None:
        rng = random.Random(f"resources/{config.seed}")
        self._placement = placement
        # Detectors of resources differ in what they know of a node.
        self._names_host = rng.random() < 0.5
        self._has_uid = rng.random() < 0.85
        self._known: dict[tuple[str, str], str] = {}

    def of(self, pod: Pod) -> str:
        """``{"attributes":[...]}`` of a pod."""
        found = self._known.get((pod.uid, pod.version))
        if found is None:
            found = self._known[pod.uid, pod.version] = self._build(pod)
        return found

    def _build(self, pod: Pod) -> str:
        node = pod.node
        attributes: dict[str, str] = {
            "service.name": pod.service.name,
            "service.version": pod.version,
            "telemetry.sdk.language": pod.service.language,
            "cloud.provider": self._placement.provider,
            "cloud.region": self._placement.region,
            "k8s.cluster.name": self._placement.cluster,
            "k8s.namespace.name": pod.namespace,
            "k8s.deployment.name": pod.service.name,
            "k8s.pod.name": pod.name,
            "k8s.node.name": node.name,
        }
        if self._has_uid:
            attributes["k8s.pod.uid"] = pod.uid
        if node.billed.kind == MACHINE:
            attributes["cloud.resource_id"] = node.billed.resource_id
            attributes["host.id"] = node.host_id
        else:
            key = "host.id" if self._names_host else "cloud.resource_id"
            attributes[key] = node.billed.resource_id
        pairs = ",".join(_attribute(key, value) for key, value in attributes.items())
        return f'{{"attributes":[{pairs}]}}'


class _Batches:
    """What ended in a flush interval, by node and pod, until no earlier end can come any more."""

    def __init__(self, nodes: dict[str, int]) -> None:
        self._nodes = nodes
        self._open: dict[int, dict[str, dict[str, tuple[Pod, list[str]]]]] = {}

    def add(self, time_ms: float, pod: Pod, record: str) -> None:
        interval = int(time_ms // _FLUSH_MS)
        by_node = self._open.get(interval)
        if by_node is None:
            by_node = self._open[interval] = defaultdict(dict)
        by_pod = by_node[pod.node.name]
        entry = by_pod.get(pod.uid)
        if entry is None:
            entry = by_pod[pod.uid] = (pod, [])
        entry[1].append(record)

    def ready(self, until_ms: float) -> list[tuple[int, list[tuple[Pod, list[str]]]]]:
        """(time of export in ms, [(pod, records)]) of intervals that end by ``until_ms``."""
        done = sorted(number for number in self._open if (number + 1) * _FLUSH_MS <= until_ms)
        return [
            ((number + 1) * _FLUSH_MS, list(by_pod.values()))
            for number in done
            for _, by_pod in sorted(self._open.pop(number).items(), key=self._order)
        ]

    def _order(self, item: tuple[str, dict]) -> int:
        return self._nodes[item[0]]


class SpanWriter:
    """Spans to ``traces/``, logs about them to ``logs/``."""

    def __init__(
        self,
        config: Config,
        noise: Noise,
        topology: Topology,
        placement: Placement,
        resources: Resources,
        traces: HourlyLines,
        logs: HourlyLines,
    ) -> None:
        rng = random.Random(f"emit/{config.seed}")
        self._traces, self._logs = traces, logs
        self._resources = resources
        self._seed = config.seed
        self._start_ms = config.start_ms
        self._start_ns = config.start_ms * _NS_PER_MS
        order = {node.name: number for number, node in enumerate(placement.nodes)}
        self._spans, self._records = _Batches(order), _Batches(order)
        # Emitters differ from world to world.
        self._enum_names = rng.random() < 0.3
        self._how = Instrumentation(noise, topology, rng.choice(PEER_KEYS))
        self._bare_clients = rng.random() < 0.25  # client spans named by the method alone
        faker = Faker("en_US")
        faker.seed_instance(key_of(config.seed, "people"))
        self._agents = [_json(faker.user_agent()) for _ in range(100)]
        self._people = [(_json(faker.user_name()), _json(faker.country_code())) for _ in range(400)]
        self._domain = faker.domain_name()
        self._heads: dict[tuple[int, int, int], str] = {}
        self._tails: dict[tuple[int, int, int, int], str] = {}
        self.span_count = 0

    def write(
        self,
        endpoint: Endpoint,
        request: Request,
        key: int,
        hexes: str,
        arrival_ms: float,
        pods: list[Pod],
    ) -> int:
        """All spans of one request that are emitted, and its logs; how many these spans are.

        arrival_ms: since the world's start.
        """
        trace_id = hexes[:32]
        first_ns = self._start_ns + int(arrival_ms * _NS_PER_MS)
        number, how, count = endpoint.index, self._how, 0
        for span in request.spans:
            site, path, role, slot, start, end, outcome = span
            if not how.emits(number, site, role):
                continue
            own_id = span_id(key, hexes, site.index, path, role)
            if how.loses(own_id):
                continue
            count += 1
            pod = pods[slot]
            style = how.styles[pod.service.index]
            parent_id, links = self._ancestry(endpoint, span, key, hexes, own_id)
            head = self._heads.get((number, site.index, role)) or self._head(number, site, role)
            tail = self._tails.get((number, site.index, role, outcome)) or self._tail(number, site, role, outcome)
            details = "" if site.parent else self._details(key)
            here_ns = first_ns + pod.node.clock_error_ns(arrival_ms)
            start_ns, end_ns = here_ns + int(start * _NS_PER_MS), here_ns + int(end * _NS_PER_MS)
            self._spans.add(
                arrival_ms + end,
                pod,
                (
                    f'{{"traceId":"{trace_id}","spanId":"{own_id}","parentSpanId":"{parent_id}",{head}'
                    f'"startTimeUnixNano":"{start_ns - start_ns % style.tick_ns}",'
                    f'"endTimeUnixNano":"{end_ns - end_ns % style.tick_ns}",{links}'
                    f'"attributes":[{details}{tail}}}'
                ),
            )
            if role == SERVER and (inner := how.inner.get(site.operation)):
                count += 1
                begin_ns = start_ns + int((end_ns - start_ns) * inner.begin)
                ready_ns = start_ns + int((end_ns - start_ns) * inner.end)
                kind = self._kind(_INTERNAL_KIND) if style.has_kinds else ""
                self._spans.add(
                    arrival_ms + end,
                    pod,
                    (
                        f'{{"traceId":"{trace_id}","spanId":"{inner_id(own_id)}","parentSpanId":"{own_id}",'
                        f'"name":"{inner.name}",{kind}'
                        f'"startTimeUnixNano":"{begin_ns - begin_ns % style.tick_ns}",'
                        f'"endTimeUnixNano":"{ready_ns - ready_ns % style.tick_ns}",'
                        f'"attributes":[],"status":{{}}}}'
                    ),
                )
            if outcome and outcome != NOT_FOUND:
                self._log_failure(span, trace_id, own_id, arrival_ms + end, pod)
        for span in request.swallowed:
            if how.emits(number, span.site, span.role):
                own_id = span_id(key, hexes, span.site.index, span.path, span.role)
                self._log_failure(span, trace_id, own_id, arrival_ms + span.end_ms, pods[span.slot])
        self.span_count += count
        chance = unit(mix(key ^ self._seed))
        if count and chance < _CHATTER_RATE:
            self._chat(endpoint, request, key, hexes, arrival_ms, pods, chance / _CHATTER_RATE)
        return count

    def _ancestry(self, endpoint: Endpoint, span: Span, key: int, hexes: str, own_id: str) -> tuple[str, str]:
        """(id of the parent, links as JSON) of a span: the nearest span above it that is emitted."""
        how, site, links = self._how, span.site, ""
        parent = parent_of(span)
        while parent and not how.emits(endpoint.index, above := endpoint.sites[parent[0]], parent[2]):
            parent = parent_of(span._replace(site=above, path=parent[1], role=parent[2]))
        if not parent:
            return "", ""
        parent_id = span_id(key, hexes, *parent)
        if parent[2] == SERVER:
            inner = how.inner.get(endpoint.sites[parent[0]].operation)
            if inner and inner.holds_calls:
                parent_id = inner_id(parent_id)
        if how.orphans(own_id):
            parent_id = inner_id(inner_id(own_id))  # an id that no span has
        if span.role == SERVER and site.transport == QUEUE:
            style = how.styles[site.service_index]
            if style.has_links:
                links = f'"links":[{{"traceId":"{hexes[:32]}","spanId":"{parent_id}"}}],'
            if not style.has_parents:
                parent_id = ""
        return parent_id, links

    def flush(self, until_ms: float) -> None:
        """Export what no later request can add to. until_ms: since the world's start."""
        for batches, lines, kind, scope, records in (
            (self._spans, self._traces, "resourceSpans", "scopeSpans", "spans"),
            (self._records, self._logs, "resourceLogs", "scopeLogs", "logRecords"),
        ):
            for time_ms, entries in batches.ready(until_ms):
                parts = ",".join(
                    f'{{"resource":{self._resources.of(pod)},"{scope}":[{{"scope":{{"name":'
                    f'"shop.{pod.service.language}.instrumentation","version":"1.9.0"}},'
                    f'"{records}":[{",".join(written)}]}}]}}'
                    for pod, written in entries
                )
                lines.write(self._start_ms + time_ms - _FLUSH_MS, f'{{"{kind}":[{parts}]}}')

    # ---- parts of a span that repeat ---------------------------------------------------------

    def _head(self, number: int, site: Site, role: int) -> str:
        operation = site.operation
        if site.transport == DB:
            name = operation.name
        elif site.transport == QUEUE:
            name = f"{operation.name} {'process' if role == SERVER else 'publish'}"
        elif role == CLIENT and self._bare_clients:
            name = operation.method
        else:
            name = f"{operation.method} {operation.name}"
        kind = self._kind(_KINDS[role, site.transport]) if self._how.style(site, role).has_kinds else ""
        head = self._heads[number, site.index, role] = f'"name":{_json(name)},{kind}'
        return head

    def _kind(self, kind: int) -> str:
        return f'"kind":"{_KIND_NAMES[kind]}",' if self._enum_names else f'"kind":{kind},'

    def _tail(self, number: int, site: Site, role: int, outcome: int) -> str:
        operation = site.operation
        peer = site.service.name
        style = self._how.style(site, role)
        # A client's error is none of the server's.
        is_error = style.has_statuses and bool(outcome) and (outcome, role) != (NOT_FOUND, SERVER)
        if site.transport == DB:
            pairs = [
                _attribute("db.system", site.service.database or ""),
                _attribute("db.namespace", site.service.noun),
                _attribute("db.operation.name", operation.method),
                _attribute("server.address", f"{site.service.database}-{site.service.name}"),
            ]
        elif site.transport == QUEUE:
            pairs = [
                _attribute("messaging.system", "kafka"),
                _attribute("messaging.destination.name", operation.name),
                _attribute("messaging.operation.type", "process" if role == SERVER else "send"),
            ]
            if role == CLIENT:
                pairs.append(_attribute("peer.service", peer))
        else:
            pairs = [_attribute("http.request.method", operation.method)]
            if role == SERVER:
                pairs.append(_attribute("http.route", operation.name))
            else:
                pairs.append(_attribute(style.peer_key, peer))
            if outcome in _SERVER_STATUS and style.has_statuses:
                pairs.append(_attribute("http.response.status_code", _SERVER_STATUS[outcome]))
        message = _DATABASE_MESSAGE if site.transport == DB else _MESSAGES.get(outcome, "")
        if is_error:
            pairs.append(_attribute("error.type", self._error_type(site, outcome)))
            code = '"STATUS_CODE_ERROR"' if self._enum_names else 2
            status = f'{{"code":{code},"message":{_json(message)}}}'
        else:
            status = "{}"
        tail = f'{",".join(pairs)}],"status":{status}'
        self._tails[number, site.index, role, outcome] = tail
        return tail

    @staticmethod
    def _error_type(site: Site, outcome: int) -> str:
        if site.transport == DB:
            return "deadlock"
        return _ERROR_TYPE.get(outcome) or str(_SERVER_STATUS[outcome])

    def _details(self, key: int) -> str:
        """What only the first span of a request knows: who asks, with what."""
        draw = mix(key ^ 0xD)
        agent = self._agents[draw % len(self._agents)]
        user, country = self._people[(draw >> 16) % len(self._people)]
        return (
            f'{{"key":"user_agent.original","value":{{"stringValue":{agent}}}}},'
            f'{{"key":"enduser.id","value":{{"stringValue":{user}}}}},'
            f'{{"key":"client.geo.country","value":{{"stringValue":{country}}}}},'
            f'{{"key":"server.address","value":{{"stringValue":"www.{self._domain}"}}}},'
        )

    # ---- logs --------------------------------------------------------------------------------

    def _log_failure(self, span: Span, trace_id: str, own_id: str, time_ms: float, pod: Pod) -> None:
        site = span.site
        message = _DATABASE_MESSAGE if site.transport == DB else _MESSAGES[span.outcome]
        whom = f"call to {site.service.name}" if span.role == CLIENT else site.operation.name
        self._log(17, "ERROR", f"{whom}: {message}", trace_id, own_id, time_ms, pod)

    def _chat(
        self,
        endpoint: Endpoint,
        request: Request,
        key: int,
        hexes: str,
        arrival_ms: float,
        pods: list[Pod],
        draw: float,
    ) -> None:
        emits = self._how.emits
        served = [span for span in request.spans if span.role == SERVER and emits(endpoint.index, span.site, SERVER)]
        site, path, role, slot, start, *_ = served[int(draw * len(served))]
        level, text, body = _CHATTER[mix(key) % len(_CHATTER)]
        own_id = span_id(key, hexes, site.index, path, role)
        self._log(level, text, body, hexes[:32], own_id, arrival_ms + start, pods[slot])

    def _log(
        self,
        number: int,
        text: str,
        body: str,
        trace_id: str,
        own_id: str,
        time_ms: float,
        pod: Pod,
    ) -> None:
        time_ns = self._start_ns + int(time_ms * _NS_PER_MS)
        shown = f'"SEVERITY_NUMBER_{text}"' if self._enum_names else number
        self._records.add(
            time_ms,
            pod,
            (
                f'{{"timeUnixNano":"{time_ns}","observedTimeUnixNano":"{time_ns}",'
                f'"severityNumber":{shown},"severityText":"{text}",'
                f'"body":{{"stringValue":{_json(body)}}},"traceId":"{trace_id}","spanId":"{own_id}"}}'
            ),
        )


class MetricWriter:
    """Pods' usage to ``metrics/``: one export request a node and interval."""

    def __init__(
        self,
        config: Config,
        placement: Placement,
        resources: Resources,
        lines: HourlyLines,
        idle: list[list[int]],
    ) -> None:
        """idle: usage of a minute by dimension and slot, for what counters show at the start."""
        rng = random.Random(f"metrics/{config.seed}")
        self._lines = lines
        self._resources = resources
        self._start_ms = config.start_ms
        self._end_ms = config.start_ms + config.minutes * MINUTE_MS
        self._interval = config.metrics_interval_s // 60
        self._cpu_metric, self._cpu_is_counter = rng.choice(_CPU_METRICS)
        self._memory_metric = rng.choice(("k8s.pod.memory.working_set", "container.memory.working_set"))
        self._numbers_as_text = rng.random() < 0.8  # 64-bit integers are strings in proto3 JSON
        self._nodes = {node.name: (number, rng.randrange(3000)) for number, node in enumerate(placement.nodes)}
        slots = len(placement.pods)
        self._totals = [
            [idle[dimension][slot] * -placement.pods[slot].started_minute for slot in range(slots)]
            for dimension in range(DIMENSIONS)
        ]
        self._recent = [[0] * slots for _ in range(2)]  # cpu, memory since the last export

    def restart(self, pod: Pod) -> None:
        """A pod is replaced or starts anew: its counters are at zero."""
        for totals in self._totals:
            totals[pod.slot] = 0
        for recent in self._recent:
            recent[pod.slot] = 0

    def write(self, minute: int, pods: list[Pod], usage: MinuteUsage) -> None:
        """Count a minute's usage; at the end of an interval, export one point of every series."""
        for totals, added in zip(self._totals, usage):
            for slot, value in enumerate(added):
                totals[slot] += value
        for recent, dimension in zip(self._recent, (CPU, MEMORY)):
            for slot, value in enumerate(usage[dimension]):
                recent[slot] += value
        if (minute + 1) % self._interval:
            return
        by_node: dict[str, list[Pod]] = defaultdict(list)
        for pod in pods:
            if pod.is_running:
                by_node[pod.node.name].append(pod)
        now_ms = self._start_ms + (minute + 1) * MINUTE_MS
        for name in sorted(by_node, key=self._nodes.__getitem__):
            # Each node's agent has its own phase within the first seconds of the minute; nothing is
            # measured beyond the end of the world, since nothing is billed there.
            time_ns = min(now_ms + self._nodes[name][1], self._end_ms) * _NS_PER_MS
            parts = ",".join(self._pod(pod, minute, time_ns) for pod in by_node[name])
            self._lines.write(now_ms - MINUTE_MS, f'{{"resourceMetrics":[{parts}]}}')
        for recent in self._recent:
            recent[:] = [0] * len(recent)

    def _pod(self, pod: Pod, minute: int, time_ns: int) -> str:
        slot = pod.slot
        start_ns = (self._start_ms + pod.started_minute * MINUTE_MS) * _NS_PER_MS
        since = f'"startTimeUnixNano":"{start_ns}","timeUnixNano":"{time_ns}"'
        at = f'"timeUnixNano":"{time_ns}"'
        elapsed_ms = min(self._interval, minute + 1 - pod.started_minute) * MINUTE_MS
        quote = '"' if self._numbers_as_text else ""
        if self._cpu_is_counter:
            cpu = (
                f'{{"name":"{self._cpu_metric}","unit":"s","sum":{{"aggregationTemporality":2,'
                f'"isMonotonic":true,"dataPoints":[{{{since},'
                f'"asDouble":{self._totals[CPU][slot] / 1e6!r}}}]}}}}'
            )
        else:
            cpu = (
                f'{{"name":"{self._cpu_metric}","unit":"{{cpu}}","gauge":{{"dataPoints":[{{{at},'
                f'"asDouble":{self._recent[0][slot] / (elapsed_ms * 1e3)!r}}}]}}}}'
            )
        memory = round(self._recent[1][slot] / elapsed_ms)
        counter = f'"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[{{{since}'
        direction = '"attributes":[{"key":"direction","value":{"stringValue":"'
        return (
            f'{{"resource":{self._resources.of(pod)},"scopeMetrics":[{{"scope":{{"name":'
            f'"kubeletstatsreceiver","version":"0.119.0"}},"metrics":[{cpu},'
            f'{{"name":"{self._memory_metric}","unit":"By","gauge":{{"dataPoints":[{{{at},'
            f'"asInt":{quote}{memory}{quote}}}]}}}},'
            f'{{"name":"container.blockio.io_serviced_recursive","unit":"{{operations}}",'
            f'"sum":{{{counter},"asInt":{quote}{self._totals[IO][slot]}{quote}}}]}}}},'
            f'{{"name":"k8s.pod.network.io","unit":"By","sum":{{"aggregationTemporality":2,'
            f'"isMonotonic":true,"dataPoints":[{{{direction}receive"}}}}],{since},'
            f'"asInt":{quote}{self._totals[RECEIVE][slot]}{quote}}},'
            f'{{{direction}transmit"}}}}],{since},'
            f'"asInt":{quote}{self._totals[TRANSMIT][slot]}{quote}}}]}}}}'
            f"]}}]}}"
        )
