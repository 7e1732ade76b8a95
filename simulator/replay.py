"""Recorded or simulated telemetry as Kafka messages on a schedule, encoded before its clock starts.

    plan = Plan(Path("world"), encoding="protobuf", speed=60)
    with encode(plan, start_ms=now) as messages:
        for message in messages: ...     # ascending by message.due_s

A request is due when it was exported: at the latest time in it. With ``batch_s`` its spans and log records leave as
they end instead, as from a batch processor: what ended within so many seconds is a request, due at their end. A charge
is due ``billing_delay_h`` hours after its period's end. All times, those of charges too, are shifted by one whole
multiple of ``shift_unit_min``, an hour by default: the last event of the telemetry lies at most that long before
the moment at which it is sent, and none lies in the future: traces stay whole, windows and charge periods stay aligned.
Ids stay. What can't be read is sent as it is: that, too, was recorded.

Sources: opentelemetry-proto 1.x (OTLP/JSON and protobuf), the Collector's Kafka exporter (no key by default; with
partition_traces_by_id a message a trace, its key the hex id).
"""

from __future__ import annotations

import base64
import csv
import gzip
import math
import mmap
import re
import tempfile
import zlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message as Protobuf
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SPANS, METRICS, LOGS, CHARGES = "otlp_spans", "otlp_metrics", "otlp_logs", "focus_charges"
FOLDERS = {SPANS: "traces", METRICS: "metrics", LOGS: "logs", CHARGES: "billing"}

_HOUR_MS, _MINUTE_MS = 3_600_000, 60_000
_NS_PER_MS = 1_000_000

# Times of 2000 to 2100 in ns have 18 or 19 digits; zero and broken ones are left alone.
_TIME = re.compile(rb'("(?:start_?|end_?|observed_?)?[tT]ime_?[uU]nix_?[nN]ano"\s*:\s*"?)([1-9][0-9]{17,18})(?![0-9])')
_SPAN = re.compile(rb'"start_?[tT]ime_?[uU]nix_?[nN]ano"')
_TRACE_ID = re.compile(rb'("trace_?[iI]d"\s*:\s*")([0-9a-fA-F]{8})(?=[0-9a-fA-F]{24}")')


class UnusableInput(ValueError):
    """A directory that nothing can be replayed from; the message is one line."""


@dataclass(frozen=True)
class Plan:
    """What to replay and how fast.

    source: a directory with traces/, metrics/, logs/, billing/, any of them
    encoding: "json" | "protobuf", of telemetry; charges are JSON
    key: "none" | "trace_id": a message a trace for spans and logs, with the hex id as its key
    speed: multiple of real time; rate: spans a second in its stead, math.inf = as fast as it goes
    billing_delay_h: hours of event time by which a charge follows its period's end
    batch_s: how long an exporter collects spans and log records that end, in seconds of the replay; None = requests
        stay as they were recorded
    shift: whether times are moved to now
    shift_unit_min: by a whole number of so many minutes; windows and charge periods stay aligned to the hour at 60
    loops: how often all of it is sent, each time later and with trace ids of its own, so that no trace is sent twice
    limit_s: nothing is encoded that would be due later than so many seconds after the start; None = all
    max_bytes: a longer request of telemetry is sent in parts, as brokers take no longer messages; a Collector's
        exporter has the same limit
    """

    source: Path
    encoding: str = "protobuf"
    key: str = "none"
    speed: float = 1.0
    rate: float | None = None
    billing_delay_h: float = 6.0
    batch_s: float | None = None
    shift: bool = True
    shift_unit_min: int = 60
    loops: int = 1
    limit_s: float | None = None
    max_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        for ok, what in (
            (self.encoding in ("json", "protobuf"), f"encoding {self.encoding!r}: use json or protobuf"),
            (self.key in ("none", "trace_id"), f"key {self.key!r}: use none or trace_id"),
            (self.speed > 0, f"speed {self.speed}: use a number above 0"),
            (self.rate is None or self.rate > 0, f"rate {self.rate}: use a number of spans a second above 0"),
            (self.billing_delay_h >= 0, f"billing delay {self.billing_delay_h}: use hours of at least 0"),
            (self.batch_s is None or self.batch_s > 0, f"batch {self.batch_s}: use seconds above 0"),
            (self.batch_s is None or self.rate is None, "batch and rate: spans leave as they end by a speed alone"),
            (self.shift_unit_min >= 1, f"shift unit {self.shift_unit_min}: use at least 1 minute"),
            (self.loops >= 1, f"loops {self.loops}: use at least 1"),
            (self.max_bytes >= 1, f"max bytes {self.max_bytes}: use at least 1"),
        ):
            if not ok:
                raise ValueError(what)


class Message(NamedTuple):
    """due_s: seconds after the start; spans: how many are in it."""

    due_s: float
    topic: str
    key: bytes | None
    value: bytes
    spans: int


# ---- schedule -------------------------------------------------------------------------------


class _Line(NamedTuple):
    """One line of a file, as the first reading leaves it."""

    due_ms: int  # event time as recorded
    begin_ms: int  # the earliest time in it; 0 = none
    topic: str
    file: int
    number: int  # in its file
    spans: int


@dataclass(frozen=True)
class Schedule:
    """When each line is due: ``lines`` in order, ``due_s`` of them for each loop one after the other."""

    files: list[Path]
    lines: list[_Line]
    due_s: array
    first_ms: int  # of the telemetry, else of the charges
    last_ms: int
    loop_ms: int  # event time between two loops
    duration_s: float  # until the last telemetry is due

    def shift_ms(self, start_ms: int, unit_ms: int = _HOUR_MS) -> int:
        """What to add to event times, a multiple of ``unit_ms``, for a replay that starts at ``start_ms`` (UTC,
        epoch)."""
        last_ms = self.last_ms + (len(self.due_s) // max(len(self.lines), 1) - 1) * self.loop_ms
        return (start_ms + int(self.duration_s * 1000) - last_ms) // unit_ms * unit_ms


def schedule(plan: Plan) -> Schedule:
    """Read all times, decide when each line is due. Raises UnusableInput."""
    if not plan.source.is_dir():
        raise UnusableInput(f"{plan.source}: not a directory")
    files: list[Path] = []
    lines: list[_Line] = []
    for topic, folder in FOLDERS.items():
        for path in sorted((plan.source / folder).glob("*")):
            if path.name.endswith((".csv", ".csv.gz", ".parquet") if topic == CHARGES else (".jsonl", ".jsonl.gz")):
                files.append(path)
                try:
                    lines += _scan(topic, path, len(files) - 1, plan)
                except (OSError, EOFError, ValueError) as error:
                    raise UnusableInput(f"{path}: can't be read: {' '.join(str(error).split())}") from error
    telemetry = [line.due_ms for line in lines if line.topic != CHARGES and line.due_ms]
    known = telemetry or [line.due_ms for line in lines if line.due_ms]
    if not known:
        raise UnusableInput(f"{plan.source}: no request and no charge in {', '.join(FOLDERS.values())}")
    first_ms, last_ms = min(known), max(known)
    if plan.batch_s is not None:
        first_ms = min([first_ms, *(line.begin_ms for line in lines if line.topic in _BATCHED and line.begin_ms)])
    # What bears no time comes first; what is due at the same time comes in the order of the files.
    lines = sorted((line if line.due_ms else line._replace(due_ms=first_ms) for line in lines), key=lambda x: x.due_ms)
    unit_ms = _HOUR_MS if any(line.topic == CHARGES for line in lines) else 60_000
    loop_ms = ((last_ms - first_ms) // unit_ms + 1) * unit_ms
    due_s, duration_s, spans = array("d"), 0.0, 0
    for loop in range(plan.loops):
        for line in lines:
            if plan.rate is None:
                due = (line.due_ms + loop * loop_ms - first_ms) / 1000 / plan.speed
            else:
                due = spans / plan.rate
                spans += line.spans
            due_s.append(max(due, 0.0))
            if line.topic != CHARGES:
                duration_s = max(duration_s, due_s[-1])
    return Schedule(files, lines, due_s, first_ms, last_ms, loop_ms, duration_s)


def _scan(topic: str, path: Path, file: int, plan: Plan) -> Iterator[_Line]:
    if topic == CHARGES:
        delay_ms = int(plan.billing_delay_h * _HOUR_MS)
        for number, row in enumerate(_rows(path)):
            end = next((_moment(cell) for name, cell in row.items() if name.casefold() == "chargeperiodend"), None)
            yield _Line(_epoch_ms(end) + delay_ms if end else 0, 0, topic, file, number, 0)
        return
    due_ms = 0
    for number, line in enumerate(_lines(path)):
        times = [int(match[2]) // _NS_PER_MS for match in _TIME.finditer(line)]
        due_ms = max(times, default=0) or due_ms
        if line.strip():
            spans = len(_SPAN.findall(line)) if topic == SPANS else 0
            yield _Line(due_ms, min(times, default=0), topic, file, number, spans)


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\r\n")


# ---- messages -------------------------------------------------------------------------------


class Messages:
    """Encoded messages in the order in which they are due, in a spool file without a name."""

    def __init__(self) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="replay-")
        self._entries: list[tuple[float, int, str, bytes | None, int, int, int]] = []
        self._size = 0
        self._map: mmap.mmap | None = None

    def __enter__(self) -> Messages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, order: int, message: Message) -> None:
        """Append a message; ``order`` decides between those that are due at the same time."""
        due_s, topic, key, value, spans = message
        self._file.write(value)
        self._entries.append((due_s, order, topic, key, spans, self._size, len(value)))
        self._size += len(value)

    def finish(self) -> None:
        """Sort, and open for reading."""
        self._entries.sort(key=lambda entry: entry[:2])
        self._file.flush()
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self._size else None

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> Message:
        due_s, _, topic, key, spans, at, size = self._entries[number]
        return Message(due_s, topic, key, self._map[at : at + size] if self._map else b"", spans)

    def due_s(self, number: int) -> float:
        """When a message is due, without reading it."""
        return self._entries[number][0]

    @property
    def bytes(self) -> int:
        return self._size

    @property
    def topics(self) -> set[str]:
        return {entry[2] for entry in self._entries}

    @property
    def spans(self) -> int:
        return sum(entry[4] for entry in self._entries)

    def close(self) -> None:
        """Give the spool file back."""
        if self._map:
            self._map.close()
        self._file.close()


class Feed:
    """The messages, each handed out once: users take the next one, however many they are and however fast."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._next = 0

    def next_due_s(self) -> float | None:
        """When the next message is due, None after the last."""
        return self._messages.due_s(self._next) if self._next < len(self._messages) else None

    def take(self) -> Message | None:
        """The next message, None after the last."""
        if self._next >= len(self._messages):
            return None
        self._next += 1
        return self._messages[self._next - 1]

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has been taken."""
        return self._next == 0


def encode(plan: Plan, start_ms: int) -> Messages:
    """All messages of the plan, for a replay that starts at ``start_ms`` (UTC, epoch). Raises UnusableInput."""
    planned = schedule(plan)
    shift_ms = planned.shift_ms(start_ms, plan.shift_unit_min * _MINUTE_MS) if plan.shift else 0
    limit_s = math.inf if plan.limit_s is None else plan.limit_s
    count = len(planned.lines)
    wanted: dict[int, dict[int, list[int]]] = {}  # file -> line -> places in the schedule
    for place, due_s in enumerate(planned.due_s):
        line = planned.lines[place % count]
        is_batched = plan.batch_s is not None and line.topic in _BATCHED
        if due_s - ((line.due_ms - line.begin_ms) / 1000 / plan.speed if is_batched else 0) <= limit_s:
            wanted.setdefault(line.file, {}).setdefault(line.number, []).append(place)
    messages = Messages()
    for file, numbers in wanted.items():
        path = planned.files[file]
        topic = next(topic for topic, folder in FOLDERS.items() if path.parent.name == folder)
        contents: Iterator[Any] = _rows(path) if topic == CHARGES else _lines(path)
        for number, content in enumerate(contents):
            for place in numbers.get(number, ()):
                loop, later_ms = place // count, shift_ms + place // count * planned.loop_ms
                for due_s, request in _requests(planned, plan, place, topic, content):
                    pieces: list[tuple[bytes | None, bytes, int]]
                    if due_s > limit_s:
                        continue
                    if topic == CHARGES:
                        pieces = [(None, charge(request, later_ms), 0)]
                    else:
                        pieces = telemetry(topic, request, plan, later_ms, loop)
                    for key, value, spans in pieces:
                        messages.add(place, Message(due_s, topic, key, value, spans))
    messages.finish()
    return messages


def _requests(planned: Schedule, plan: Plan, place: int, topic: str, content: Any) -> Iterator[tuple[float, Any]]:
    """(when it is due, line of a file or row of a bill) of a place in the schedule."""
    due_s = planned.due_s[place]
    if plan.batch_s is None or topic not in _BATCHED:
        yield due_s, content
        return
    first_ms = planned.first_ms - place // len(planned.lines) * planned.loop_ms
    for leaves_ms, request in _as_they_end(topic, content, plan.batch_s * 1000 * plan.speed):
        yield (due_s if leaves_ms is None else (leaves_ms - first_ms) / 1000 / plan.speed), request


def telemetry(
    topic: str, line: bytes, plan: Plan, shift_ms: int, loop: int = 0
) -> list[tuple[bytes | None, bytes, int]]:
    """[(key, value, spans), ...] of one request; several where each trace is a message of its own or it is too long."""
    if shift_ms:
        shift_ns = shift_ms * _NS_PER_MS
        line = _TIME.sub(lambda match: match[1] + b"%d" % (int(match[2]) + shift_ns), line)
    if loop:
        line = _TRACE_ID.sub(lambda match: match[1] + b"%08x" % (int(match[2], 16) ^ loop), line)
    spans = len(_SPAN.findall(line)) if topic == SPANS else 0
    if plan.encoding == "json" and plan.key == "none" and len(line) <= plan.max_bytes:
        return [(None, line, spans)]
    try:
        request = orjson.loads(line)
        is_whole = plan.key == "none" or topic == METRICS
        parts = [(None, request, spans)] if is_whole else _by_trace(topic, request)
        write = orjson.dumps if plan.encoding == "json" else _WRITERS[topic]
        return [
            (key, value, count)
            for key, part, spans in parts
            for value, count in _within(plan.max_bytes, topic, part, spans, write)
        ]
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, json_format.Error):
        return [(None, line, spans)]


_PLACES = {
    SPANS: ("resourceSpans", "scopeSpans", "spans"),
    METRICS: ("resourceMetrics", "scopeMetrics", "metrics"),
    LOGS: ("resourceLogs", "scopeLogs", "logRecords"),
}


# What leaves as it ends, and when that is; usage is read at its own times.
_BATCHED = {SPANS: ("endTimeUnixNano",), LOGS: ("timeUnixNano", "observedTimeUnixNano")}


def _as_they_end(topic: str, line: bytes, batch_ms: float) -> list[tuple[float | None, bytes]]:
    """[(when it leaves, in ms of event time as recorded, request), ...], ascending: what ended within ``batch_ms``
    leaves at their end. Each exporter, that of the line's first resource, has a clock of its own. A line that can't be
    read, or bears no times, leaves as it is, (None, line)."""
    try:
        request = orjson.loads(line)
        top, scopes, records = _PLACES[topic]
        phase_ms = zlib.crc32(orjson.dumps(request[top][0].get("resource"))) % 1000 / 1000 * batch_ms
        batches: defaultdict[int, list[dict]] = defaultdict(list)
        for entry in request[top]:
            of_entry: defaultdict[int, list[dict]] = defaultdict(list)
            for scope in entry[scopes]:
                of_scope: defaultdict[int, list[dict]] = defaultdict(list)
                for record in scope[records]:
                    end_ns = next(filter(None, (int(record.get(name) or 0) for name in _BATCHED[topic])))
                    of_scope[int((end_ns / _NS_PER_MS - phase_ms) // batch_ms)].append(record)
                for number, own in of_scope.items():
                    of_entry[number].append({**scope, records: own})
            for number, own in of_entry.items():
                batches[number].append({**entry, scopes: own})
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, StopIteration):
        return [(None, line)]
    return [
        ((number + 1) * batch_ms + phase_ms, orjson.dumps({**request, top: entries}))
        for number, entries in sorted(batches.items())
    ]


def _by_trace(topic: str, request: dict) -> list[tuple[bytes | None, dict, int]]:
    """The request split as the Collector's batchpersignal does: a resource's records of one trace at a time."""
    top, scopes, records = _PLACES[topic]
    parts: list[tuple[bytes | None, dict, int]] = []
    for entry in request[top]:
        traces: dict[str, list[dict]] = {}
        for scope in entry[scopes]:
            split: dict[str, list[dict]] = {}
            for record in scope[records]:
                split.setdefault(record.get("traceId") or "", []).append(record)
            for trace_id, own in split.items():
                traces.setdefault(trace_id, []).append({**scope, records: own})
        for trace_id, own in traces.items():
            spans = sum(len(scope[records]) for scope in own) if topic == SPANS else 0
            parts.append((trace_id.lower().encode() or None, {top: [{**entry, scopes: own}]}, spans))
    return parts


def _within(
    max_bytes: int, topic: str, request: dict, spans: int, write: Callable[[dict], bytes]
) -> Iterator[tuple[bytes, int]]:
    """(value, spans) of the request, halved until none is too long; a record on its own stays as it is."""
    value = write(request)
    halves = _halves(request, _PLACES[topic]) if len(value) > max_bytes else None
    if not halves:
        yield value, spans
        return
    for half in halves:
        own = len(_SPAN.findall(orjson.dumps(half))) if topic == SPANS else 0
        yield from _within(max_bytes, topic, half, own, write)


def _halves(part: dict, places: tuple[str, ...]) -> list[dict] | None:
    """Two of the kind of ``part``, that hold half of what it holds each; None of one record."""
    if not places:
        return None
    entries = part[places[0]]
    if len(entries) > 1:
        middle = len(entries) // 2
        parts = [entries[:middle], entries[middle:]]
    else:
        parts = [[half] for entry in entries for half in _halves(entry, places[1:]) or ()]
    return [{**part, places[0]: half} for half in parts] or None


# ---- charges --------------------------------------------------------------------------------

# Columns that hold a time, beside the four of FOCUS.
_EXPORT_TIMES = ("x_snapshottime", "x_exporttime", "x_lastupdated")


def _rows(path: Path) -> Iterator[dict[str, object]]:
    """Rows of a bill by column name. ValueError, OSError: what can't be read."""
    if path.name.endswith(".parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
        return
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rt", encoding="utf-8-sig", newline="") as lines:
        try:
            yield from csv.DictReader(lines, restkey="")
        except csv.Error as error:
            raise ValueError(str(error)) from error


def charge(row: dict[str, object], shift_ms: int) -> bytes:
    """A FOCUS row as one JSON object, keys = its columns, its times shifted; empty cells are null."""
    shift = timedelta(milliseconds=shift_ms)
    cells: dict[str, object] = {}
    for name, cell in row.items():
        moment = None
        if name.casefold().endswith(("periodstart", "periodend")) or name.casefold() in _EXPORT_TIMES:
            moment = _moment(cell)
        if moment is not None:
            cells[name] = (moment + shift).isoformat().replace("+00:00", "Z")
        else:
            cells[name] = None if cell == "" else cell
    return orjson.dumps(cells, default=str)


def _moment(cell: object) -> datetime | None:
    """A cell as a moment in UTC, None where it is none."""
    if isinstance(cell, str):
        try:
            cell = datetime.fromisoformat(cell.strip().removesuffix(" UTC"))
        except ValueError:
            return None
    if not isinstance(cell, datetime):
        return None
    return cell.replace(tzinfo=UTC) if cell.tzinfo is None else cell.astimezone(UTC)


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


# ---- protobuf -------------------------------------------------------------------------------

_ANY = {"stringValue": "string_value", "boolValue": "bool_value"}


def _put_value(value: dict, into: Protobuf) -> None:
    """An AnyValue of OTLP/JSON."""
    for kind, content in value.items():
        if kind == "intValue":
            into.int_value = int(content)
        elif kind == "doubleValue":
            into.double_value = float(content)
        elif kind == "bytesValue":
            into.bytes_value = base64.b64decode(content)
        elif kind == "arrayValue":
            into.array_value.SetInParent()
            for item in content.get("values", ()):
                _put_value(item, into.array_value.values.add())
        elif kind == "kvlistValue":
            into.kvlist_value.SetInParent()
            _put_pairs(content.get("values", ()), into.kvlist_value.values)
        else:
            setattr(into, _ANY[kind], content)


def _put_pairs(pairs: list[dict], into: Any) -> None:
    for pair in pairs:
        added = into.add(key=pair["key"])
        if "value" in pair:
            added.value.SetInParent()
            _put_value(pair["value"], added.value)


def _put_entries(request: dict, places: tuple[str, str, str], entries: Any, put: Callable) -> None:
    """Resources and scopes, which all signals share; ``put`` adds a scope's records."""
    top, scopes, records = places
    for entry in request[top]:
        added = entries.add(schema_url=entry.get("schemaUrl", ""))
        if "resource" in entry:
            added.resource.SetInParent()
            _put_pairs(entry["resource"].get("attributes", ()), added.resource.attributes)
        own = getattr(added, _snake(scopes))
        for scope in entry.get(scopes) or entry.get(f"instrumentationLibrary{scopes[5:]}") or ():
            part = own.add(schema_url=scope.get("schemaUrl", ""))
            about = scope.get("scope") or scope.get("instrumentationLibrary")
            if about is not None:
                part.scope.name, part.scope.version = about.get("name", ""), about.get("version", "")
                _put_pairs(about.get("attributes", ()), part.scope.attributes)
            into = getattr(part, _snake(records))
            for record in scope.get(records, ()):
                put(record, into)


def _snake(name: str) -> str:
    return re.sub("([A-Z])", lambda match: "_" + match[1].lower(), name)


def _enum(value: Any, message: Protobuf, field: str) -> int:
    """An enum as a number, from number, digits or name."""
    if isinstance(value, str) and not value.isdigit():
        return message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_name[value].number
    return int(value or 0)


def _id(value: str | None) -> bytes:
    return bytes.fromhex(value) if value else b""


def _put_span(span: dict, into: Any) -> None:
    get = span.get
    added = into.add(
        trace_id=_id(get("traceId")), span_id=_id(get("spanId")), parent_span_id=_id(get("parentSpanId")),
        name=get("name", ""), trace_state=get("traceState", ""), flags=int(get("flags", 0)),
        start_time_unix_nano=int(get("startTimeUnixNano", 0)), end_time_unix_nano=int(get("endTimeUnixNano", 0)),
        dropped_attributes_count=int(get("droppedAttributesCount", 0)),
    )  # fmt: skip
    added.kind = _enum(get("kind"), added, "kind")
    _put_pairs(get("attributes", ()), added.attributes)
    if status := get("status"):
        added.status.message = status.get("message", "")
        added.status.code = _enum(status.get("code"), added.status, "code")
    for event in get("events", ()):
        one = added.events.add(name=event.get("name", ""), time_unix_nano=int(event.get("timeUnixNano", 0)))
        _put_pairs(event.get("attributes", ()), one.attributes)
    for link in get("links", ()):
        one = added.links.add(trace_id=_id(link.get("traceId")), span_id=_id(link.get("spanId")))
        _put_pairs(link.get("attributes", ()), one.attributes)


def _put_metric(metric: dict, into: Any) -> None:
    form = next((form for form in ("gauge", "sum") if form in metric), None)
    if form is None:  # rare, and of many fields; ids stand in exemplars alone
        json_format.ParseDict(metric, into.add(), ignore_unknown_fields=True)
        return
    added = into.add(
        name=metric.get("name", ""), unit=metric.get("unit", ""), description=metric.get("description", "")
    )
    data = getattr(added, form)
    data.SetInParent()
    if form == "sum":
        data.is_monotonic = metric[form].get("isMonotonic", False)
        data.aggregation_temporality = _enum(
            metric[form].get("aggregationTemporality"), data, "aggregation_temporality"
        )
    for point in metric[form].get("dataPoints", ()):
        one = data.data_points.add(
            time_unix_nano=int(point.get("timeUnixNano", 0)),
            start_time_unix_nano=int(point.get("startTimeUnixNano", 0)),
            flags=int(point.get("flags", 0)),
        )
        _put_pairs(point.get("attributes", ()), one.attributes)
        if "asDouble" in point:
            one.as_double = float(point["asDouble"])
        elif "asInt" in point:
            one.as_int = int(point["asInt"])


def _put_log(record: dict, into: Any) -> None:
    get = record.get
    added = into.add(
        time_unix_nano=int(get("timeUnixNano", 0)), observed_time_unix_nano=int(get("observedTimeUnixNano", 0)),
        severity_text=get("severityText", ""), trace_id=_id(get("traceId")), span_id=_id(get("spanId")),
        flags=int(get("flags", 0)), event_name=get("eventName", ""),
    )  # fmt: skip
    added.severity_number = _enum(get("severityNumber"), added, "severity_number")
    _put_pairs(get("attributes", ()), added.attributes)
    if get("body") is not None:
        added.body.SetInParent()
        _put_value(record["body"], added.body)


def _spans(request: dict) -> bytes:
    message = ExportTraceServiceRequest()
    _put_entries(request, ("resourceSpans", "scopeSpans", "spans"), message.resource_spans, _put_span)
    return message.SerializeToString()


def _metrics(request: dict) -> bytes:
    message = ExportMetricsServiceRequest()
    _put_entries(request, ("resourceMetrics", "scopeMetrics", "metrics"), message.resource_metrics, _put_metric)
    return message.SerializeToString()


def _logs(request: dict) -> bytes:
    message = ExportLogsServiceRequest()
    _put_entries(request, ("resourceLogs", "scopeLogs", "logRecords"), message.resource_logs, _put_log)
    return message.SerializeToString()


_WRITERS = {SPANS: _spans, METRICS: _metrics, LOGS: _logs}
