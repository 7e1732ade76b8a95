"""collect, telemetry: one OTLP request, JSON or protobuf -> fragments by key, and rejects.

A record is one ``Export{Trace,Metrics,Logs}ServiceRequest``; its bytes tell the encoding. JSON is
read as emitters really write it, which is wider than the protobuf JSON mapping: ids in hex of
either case or in base64, 64-bit integers as strings or numbers, enums as integers or names, field
names in camelCase or snake_case, ``instrumentationLibrary*`` of OTLP before 0.15, unknown fields.
Protobuf (``otlp_proto``) is brought to the same structures: the same request gives the same
fragments by both. Nothing here raises on any bytes: what can't be used becomes a reject, the rest
of the request is used.

Sources: opentelemetry-proto 1.x (trace, metrics, logs, common, resource), OTLP/JSON encoding,
OpenTelemetry semantic conventions (resource, http, rpc, db, k8s, container, logs data model).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import zip_longest
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from udfs.pure import cost_center, names, otlp_proto, sampling
from udfs.pure.cache import cached
from udfs.pure.dimensions import CUMULATIVE, DELTA, DIMENSIONS, GAUGE
from udfs.pure.reject import Code, RejectedRecord, reject, shown
from udfs.pure.resources import NO_ALIASES, Resources
from udfs.pure.sampling import adjusted_count
from udfs.pure.windows import MAX_GAP_MS, UNKNOWN_SERVICE, USAGE_BUCKET_MS, bucket_start

SPANS, METRICS, LOGS = "otlp_spans", "otlp_metrics", "otlp_logs"

NS_PER_MS = 1_000_000

# A clock outside of this is a unit mistaken (s, ms or us for ns) or a clock never set.
MIN_TIME_NS = 946_684_800_000_000_000  # 2000-01-01
MAX_TIME_NS = 4_102_444_800_000_000_000  # 2100-01-01

# Span names are a dimension of the detector's state: ids are taken out and the rest is cut here.
OPERATION_MAX_CHARS = 200
# Longer ones are read each time: so the caches hold 30 MB and 20 MB at most.
OPERATION_CACHE_SIZE, OPERATION_CACHE_CHARS = 1 << 16, 256
RESOURCE_CACHE_SIZE, RESOURCE_CACHE_CHARS = 1 << 12, 4096

# Between the parts of a usage key and of a series' identity; no name in the field holds it.
SEPARATOR = "\x1f"

# A delta longer than a day is a total, not a measurement: it says nothing about a window.
MAX_DELTA_MS = 24 * 60 * 60 * 1000

# Attribute values nested deeper than this are cut off.
MAX_VALUE_DEPTH = 16

# A longer request is rejected unread: decoded, it would take some twenty times its size in memory.
# The Collector's Kafka exporter sends at most 1 MB, its OTLP receiver takes at most 4 MiB.
MAX_REQUEST_BYTES = 16 << 20
# Bytes of its start that its reject shows.
_SHOWN_BYTES = 2048


# ---- reading a request ----------------------------------------------------------------------

# Each usable request of a snake_case writer holds one of these. (Two, as each costs 0.1 us a span.)
_SNAKE_MARKS = (b'"scope_', b'_unix_nano"')
_SNAKE = re.compile(r"_([a-z])")


def _camel(node: object) -> object:
    """``node`` with the field names of snake_case writers in camelCase (keys of objects only)."""
    if type(node) is dict:
        return {_SNAKE.sub(lambda m: m[1].upper(), key): _camel(value) for key, value in node.items()}
    if type(node) is list:
        return [_camel(value) for value in node]
    return node


def _decode(line: bytes) -> object:
    """The line's JSON, field names in camelCase. ValueError: not JSON, or nested too deep."""
    try:
        decoded = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            decoded = _decode_leniently(line)
        except (ValueError, RecursionError):
            raise ValueError(str(error)) from None
    if any(mark in line for mark in _SNAKE_MARKS) or (type(decoded) is dict and any("_" in key for key in decoded)):
        try:
            return _camel(decoded)
        except RecursionError:
            raise ValueError("nested too deep") from None
    return decoded


def _decode_leniently(line: bytes) -> object:
    """JSON as some emitters write it: a bare NaN or Infinity becomes a string, and what is not
    UTF-8 or half of a UTF-16 pair (a string cut through an emoji) a replacement character."""

    def finite(number: str) -> float | str:
        return float(number) if math.isfinite(float(number)) else number

    text = line.decode("utf-8", "replace")
    decoded = json.loads(text, parse_constant=str, parse_float=finite)
    return orjson.loads(json.dumps(decoded, ensure_ascii=False).encode("utf-8", "replace"))


class _Signal(NamedTuple):
    """Where the records of one signal lie in a request; protobuf: reader of otlp_proto."""

    stream: str
    resources: str
    scopes: tuple[str, str]
    records: str
    protobuf: Callable[[bytes], Iterator[tuple[bytes, Iterator[Any]]]]


_TRACES = _Signal(
    SPANS,
    "resourceSpans",
    ("scopeSpans", "instrumentationLibrarySpans"),
    "spans",
    otlp_proto.read_spans,
)
_MEASURES = _Signal(
    METRICS,
    "resourceMetrics",
    ("scopeMetrics", "instrumentationLibraryMetrics"),
    "metrics",
    lambda record: otlp_proto.read_metrics(record, USAGE_METRICS),
)
_EVENTS = _Signal(
    LOGS,
    "resourceLogs",
    ("scopeLogs", "instrumentationLibraryLogs"),
    "logRecords",
    otlp_proto.read_logs,
)


def _objects(parent: dict, field: str, stream: str, rejects: list[str]) -> Iterator[dict]:
    """The objects under ``parent[field]``; whatever else stands there is rejected."""
    children = parent.get(field)
    if children is None:
        return
    if type(children) is not list:
        rejects.append(reject(stream, f"{field} is not an array", {field: children}))
        return
    for child in children:
        if type(child) is dict:
            yield child
        else:
            reason = f"an element of {field} is not an object"
            rejects.append(reject(stream, reason, {field: [child]}))


def _of_all(
    lines: Iterable[bytes], signal: _Signal, rejects: list[str], resources: Resources = NO_ALIASES
) -> Iterator[tuple[_Resource, Iterator[Any]]]:
    """The records of several requests, as of ``_records``."""
    for line in lines:
        yield from _records(line, signal, rejects, resources)


def _records(
    record: bytes, signal: _Signal, rejects: list[str], resources: Resources = NO_ALIASES
) -> Iterator[tuple[_Resource, Iterator[Any]]]:
    """(resource, its records) of a request, one pair for each resource and scope. Records are dicts as of OTLP/JSON;
    spans of a protobuf request are its messages.

    The first byte of a protobuf request is a newline to JSON, and its length may be "{" (123): what
    could be both is JSON if it can be read as such. A protobuf request never can, as no string of
    JSON holds the control characters that its tags are.
    """
    if len(record) > MAX_REQUEST_BYTES:
        reason = f"a request of {len(record)} bytes is longer than {MAX_REQUEST_BYTES}: send smaller batches"
        rejects.append(reject(signal.stream, reason, _excerpt(record), code=Code.TOO_LONG))
        return
    text = record.removeprefix(b"\xef\xbb\xbf").strip()
    if not text:
        return
    may_be_protobuf = record.startswith(otlp_proto.FIRST_BYTE)
    not_json = ""
    if not may_be_protobuf or text.startswith(b"{"):
        try:
            request = _decode(text)
        except ValueError as error:
            not_json = str(error)
        else:
            yield from _json_records(request, text, signal, rejects, resources)
            return
    if may_be_protobuf:
        try:
            entries = signal.protobuf(record)
        except otlp_proto.NotProtobuf as error:
            reason = f"{error}, nor in JSON ({not_json})" if not_json else str(error)
            shown_record = _excerpt(record, None if not_json else False)
            rejects.append(reject(signal.stream, reason, shown_record, code=Code.UNREADABLE))
            return
        for resource, records in entries:
            yield _resource_of_message((resource, resources)), records
        return
    reason = f"not a line of JSON ({not_json}): write one request a line"
    if not text.startswith(b"{"):
        reason += "; nor protobuf, which starts with byte 0x0a"
    rejects.append(reject(signal.stream, reason, _excerpt(text), code=Code.UNREADABLE))


def _excerpt(record: bytes, is_text: bool | None = None) -> bytes:
    """What a reject shows of a record: text as it is, else in base64; of what is too long to be read the start alone,
    with its length and digest. is_text: None = by the bytes."""
    if is_text is None:
        is_text = not _CONTROL_CHARACTERS.search(record[:MAX_REQUEST_BYTES])
    start = record if len(record) <= MAX_REQUEST_BYTES else record[:_SHOWN_BYTES]
    if not is_text:
        start = base64.b64encode(start)
    if len(record) <= MAX_REQUEST_BYTES:
        return start
    digest = hashlib.blake2b(record, digest_size=8).hexdigest()
    return start + f"... ({len(record)} bytes, blake2b {digest})".encode()


_CONTROL_CHARACTERS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _json_records(
    request: object, text: bytes, signal: _Signal, rejects: list[str], resources: Resources
) -> Iterator[tuple[_Resource, Iterator[dict]]]:
    if type(request) is not dict or signal.resources not in request:
        reason = f"not an OTLP request of this stream: no object with {signal.resources}"
        rejects.append(reject(signal.stream, reason, text, code=Code.UNREADABLE))
        return
    for entry in _objects(request, signal.resources, signal.stream, rejects):
        resource = _resource(entry.get("resource"), resources)
        for scopes in signal.scopes:
            for scope in _objects(entry, scopes, signal.stream, rejects):
                yield resource, _objects(scope, signal.records, signal.stream, rejects)


# ---- values ---------------------------------------------------------------------------------


def _integer(value: Any, field: str) -> int:
    """A 64-bit integer as number or string; absent is 0, as protobuf has it."""
    if type(value) is int:
        return value
    if value is None or value == "":
        return 0
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise RejectedRecord(f"{field} {shown(value)} is not an integer") from None


def _time_ns(value: object, field: str) -> int:
    """A time in ns since the epoch, in [2000, 2100)."""
    time_ns = value if type(value) is int else _integer(value, field)
    if MIN_TIME_NS <= time_ns < MAX_TIME_NS:
        return time_ns
    if time_ns == 0:
        raise RejectedRecord(f"{field} is missing")
    raise RejectedRecord(f"{field} {shown(value)} is outside of 2000 to 2100: give nanoseconds since 1970")


def _time_ms_or_none(*values: object) -> int | None:
    """The first of ``values`` that is a plausible time, in ms: the event time of a reject."""
    for value in values:
        try:
            return _time_ns(value, "time") // NS_PER_MS
        except RejectedRecord:
            continue
    return None


# Valid ids as nearly every emitter writes them: lower-case hex, not all zeros.
_is_span_id = re.compile(r"(?!0{16})[0-9a-f]{16}").fullmatch
_is_trace_id = re.compile(r"(?!0{32})[0-9a-f]{32}").fullmatch


def _hex_id(value: object, digits: int, field: str) -> str:
    """A trace id (32) or span id (16) in lower-case hex, from hex of either case or base64."""
    if value is None or value == "":
        raise RejectedRecord(f"{field} is missing")
    if type(value) is str:
        text = value.lower()
        if len(text) != digits:
            try:
                text = base64.b64decode(value.translate(_URL_SAFE), validate=True).hex()
            except ValueError:  # not base64 either: the check below says so
                pass
        if (_is_trace_id if digits == 32 else _is_span_id)(text):
            return text
        if text == "0" * digits:
            raise RejectedRecord(f"{field} is all zeros")
    raise RejectedRecord(f"{field} {shown(value)} is not {digits} hex digits")


_URL_SAFE = str.maketrans("-_", "+/")


def _span_id_or_empty(value: object, field: str) -> str:
    """A span id that may be absent: "" then, and for the all-zero id that some SDKs write."""
    if not value or (type(value) is str and not value.strip("0")):
        return ""
    return _hex_id(value, 16, field)


def _enum(value: object, numbers: dict[object, int]) -> int:
    """An enum as integer, digits or name; 0 (unspecified) for what is not known."""
    return numbers.get(value, 0) if type(value) in (int, str) else 0


def _numbers(prefix: str, names: Iterable[tuple[str, int]]) -> dict[object, int]:
    """Every way to write the values of an enum: 2, "2", "PREFIX_NAME" -> 2."""
    return {written: number for name, number in names for written in (number, str(number), f"{prefix}_{name}")}


def _plain(value: object, depth: int = 0) -> object:
    """An OTLP AnyValue as str, int, float, bool, list, dict or None; bytes stay base64."""
    if type(value) is not dict or depth > MAX_VALUE_DEPTH:
        return None
    for kind, content in value.items():
        if kind == "stringValue" or kind == "boolValue" or kind == "bytesValue":
            return content if type(content) in (str, bool) else None
        if kind == "intValue" or kind == "doubleValue":
            if type(content) is str or (type(content) is int and kind == "doubleValue"):
                try:  # the Collector writes the double 1.0 as 1
                    return int(content) if kind == "intValue" else float(content)
                except (ValueError, OverflowError):
                    return content
            return content if type(content) in (int, float) else None
        if kind == "arrayValue" or kind == "kvlistValue":
            values = content.get("values", []) if type(content) is dict else None
            if type(values) is not list:
                return None
            if kind == "arrayValue":
                return [_plain(item, depth + 1) for item in values]
            return {
                _text(item.get("key")): _plain(item.get("value"), depth + 1) for item in values if type(item) is dict
            }
    return None


def _text(value: object) -> str:
    """A plain value as text: itself, JSON for what is no string, "" for nothing."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # integers beyond 64 bits
        return repr(value)


def _attributes(pairs: object, wanted: frozenset[str] | None = None) -> dict[str, object]:
    """Attributes by key as plain values, only the ``wanted`` ones; malformed ones are ignored."""
    found: dict[str, object] = {}
    if type(pairs) is not list:
        return found
    for pair in pairs:
        try:
            key = pair["key"]
            if (wanted is None or key in wanted) and type(key) is str:
                found[key] = _plain(pair["value"])
        except (KeyError, TypeError):
            continue
    return found


# ---- resources ------------------------------------------------------------------------------


class _Resource(NamedTuple):
    """What of a resource's attributes ties work to a workload, a consumer and a billed resource."""

    service: str  # service.name, "namespace/name" where service.namespace is given, or ""
    pod_uid: str
    pod_name: str  # "namespace/pod", or the bare pod name; the container's id where no pod is named
    container: str
    resource_id: str
    version: str = ""  # service.version
    cost_center: str = ""  # service.instance.cost_center.id
    node: tuple[str, ...] = ()  # name and cores of a node of a group of machines, see ``Resources.node_of``

    @property
    def pod(self) -> str:
        """The consumer: pod uid, else pod name, else container id, else ""."""
        return self.pod_uid or self.pod_name

    @property
    def host(self) -> str:
        """The billed resource, and of a group of machines the node: who shares it shares a machine."""
        return SEPARATOR.join((self.resource_id, *self.node[:1]))

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes that are read as this resource: what a reject tells of the one that it came with."""
        told = {
            "service.name": self.service,
            "k8s.pod.uid": self.pod_uid,
            "k8s.pod.name": self.pod_name,
            "container.name": self.container,
            "cloud.resource_id": self.resource_id,
            cost_center.ATTRIBUTE: self.cost_center,
        }
        return {key: value for key, value in told.items() if value}


_RESOURCE_KEYS = frozenset(
    "service.name service.namespace service.version k8s.pod.uid k8s.pod.name k8s.namespace.name container.id"
    f" container.name k8s.container.name {cost_center.ATTRIBUTE}".split()
)


def _resource(resource: object, resources: Resources) -> _Resource:
    """The resource of a request's entry; a fleet's few resources recur in every request."""
    pairs = resource.get("attributes") if type(resource) is dict else None
    try:
        return _cached_resource((orjson.dumps(pairs), resources))
    except TypeError:  # nested deeper than orjson writes
        return _read_resource(pairs, resources)


def _length(key: tuple[bytes, Any]) -> int:
    return len(key[0])


@cached(RESOURCE_CACHE_SIZE, RESOURCE_CACHE_CHARS, _length)
def _cached_resource(key: tuple[bytes, Any]) -> _Resource:
    pairs, resources = key
    return _read_resource(orjson.loads(pairs), resources)


@cached(RESOURCE_CACHE_SIZE, RESOURCE_CACHE_CHARS, _length)
def _resource_of_message(key: tuple[bytes, Any]) -> _Resource:
    message, resources = key
    return _read_resource(otlp_proto.resource(message)["attributes"], resources)


def _read_resource(pairs: object, resources: Resources) -> _Resource:
    """docs/interface.md §1: the attributes that tie work to money, in their order of trust."""
    found = {
        key: names.workload(names.name(_text(value).replace(SEPARATOR, " ").strip()))
        for key, value in _attributes(pairs, _RESOURCE_KEYS | resources.attributes).items()
    }

    def first(*keys: str) -> str:
        return next((found[key] for key in keys if found.get(key)), "")

    service = found.get("service.name", "")
    pod_uid, pod_name = found.get("k8s.pod.uid", ""), found.get("k8s.pod.name", "")
    if not pod_uid and not pod_name:
        pod_name = found.get("container.id", "")
    resource_id = resources.billed_as(found)
    return _Resource(
        service=_qualified(found.get("service.namespace"), service),
        pod_uid=pod_uid,
        pod_name=_qualified(found.get("k8s.namespace.name"), pod_name) if found.get("k8s.pod.name") else pod_name,
        container=first("k8s.container.name", "container.name", "container.id"),
        resource_id=resource_id,
        version=found.get("service.version", ""),
        cost_center=found.get(cost_center.ATTRIBUTE, ""),
        node=resources.node_of(found, resource_id) or (),
    )


def _qualified(namespace: str | None, name: str) -> str:
    return f"{namespace}/{name}" if namespace and name else name


def merge_owner(one: bytes, other: bytes) -> bytes:
    """Two claims to one pod ([service, resource_id, and a cost centre if there is one]) as one: per field what
    they agree on, where "" claims nothing, else null. Associative and commutative: any order of records gives the
    same."""
    pairs = zip_longest(orjson.loads(one), orjson.loads(other), fillvalue="")
    return orjson.dumps([_agreed(a, b) for a, b in pairs])


def _agreed(one: str | None, other: str | None) -> str | None:
    if one == other or other == "":
        return one
    return other if one == "" else None


def _note_owner(pods: dict[str, bytes], resource: _Resource) -> None:
    """Enter who the resource's pod belongs to, under its uid and under its name."""
    if resource.service or resource.resource_id or resource.cost_center:
        cost_centers = [resource.cost_center] if resource.cost_center else []
        owner = orjson.dumps([resource.service, resource.resource_id, *cost_centers])
        for key in {resource.pod_uid, resource.pod_name} - {""}:
            pods[key] = merge_owner(pods[key], owner) if key in pods else owner


# ---- spans ----------------------------------------------------------------------------------

_SERVER, _CLIENT, _CONSUMER = 2, 3, 5
_KINDS = _numbers(
    "SPAN_KIND",
    [("INTERNAL", 1), ("SERVER", _SERVER), ("CLIENT", _CLIENT), ("PRODUCER", 4), ("CONSUMER", _CONSUMER)],
)
_STATUS_ERROR = 2
_STATUS_CODES = _numbers("STATUS_CODE", [("OK", 1), ("ERROR", _STATUS_ERROR)])

# Stable names first, then the ones that they replaced.
_HTTP_STATUS_KEY, _OLD_HTTP_STATUS_KEY = "http.response.status_code", "http.status_code"
_GRPC_STATUS_KEY = "rpc.grpc.status_code"
_PEER_KEYS = (
    "peer.service",
    "server.address",
    "net.peer.name",
    "rpc.service",
    "db.system.name",
    "db.system",
)
# Older HTTP clients name whom they call by the address of a page alone.
_URL_KEYS = ("url.full", "http.url")
_SPAN_KEYS: frozenset[str] = sampling.KEYS | {
    _HTTP_STATUS_KEY,
    _OLD_HTTP_STATUS_KEY,
    _GRPC_STATUS_KEY,
    *_PEER_KEYS,
    *_URL_KEYS,
}
_HTTP_SERVER_ERROR = 500

_OPERATION_IDS = re.compile(
    r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"  # uuid
    r"|(?<![0-9a-zA-Z])[0-9a-fA-F]{12,}(?![0-9a-zA-Z])"  # digests, object ids, container ids
    r"|(?<=/)[0-9]+(?=[/?#\s]|$)"  # numbers as whole path segments
)
_QUERY_STRING = re.compile(r"\?[^\s?]*=\S*")


@cached(OPERATION_CACHE_SIZE, OPERATION_CACHE_CHARS)
def operation_name(span_name: str) -> str:
    """The span's name without ids and query string, so that its cardinality stays bounded.

    >>> operation_name("GET /orders/4711/items?page=2")
    'GET /orders/{}/items'
    """
    return _OPERATION_IDS.sub("{}", _QUERY_STRING.sub("", span_name.replace("\x00", "")))[:OPERATION_MAX_CHARS]


def collect_spans(
    *lines: bytes, resources: Resources = NO_ALIASES, traits: Set[str] = frozenset()
) -> tuple[dict[str, bytes], dict[str, bytes], list[str]]:
    """Spans of requests, all that they say of a trace together: (fragments by trace id, owners by pod, rejects).

    traits: attributes of spans by which unit costs are told.

    A fragment is JSON ``["spans", [[service, pod, host, [span, ...], version], ...]]`` (the version of the
    service, where it tells one) with span =
    ``[span_id, parent_span_id or "", operation, kind 0..5, error 0|1, start_ns, end_ns, peer or
    ""]``, where a sampler says so how many spans it stands for (else 0, or nothing), and last, where it has any of
    ``traits``, these by name; ids in lower-case hex,
    ``unknown_service`` where the emitter names none, "" for unknown
    pods and hosts. An owner is JSON ``[service or "", resource_id or ""]``, null where the
    request's own resources contradict each other.
    """
    traces: dict[str, list] = {}
    pods: dict[str, bytes] = {}
    rejects: list[str] = []
    for resource, spans in _of_all(lines, _TRACES, rejects, resources):
        _note_owner(pods, resource)
        service = resource.service or UNKNOWN_SERVICE
        by_trace: dict[str, list] = {}  # trace id as written -> its spans of this resource
        for span in spans:
            raw_trace_id: Any
            try:
                if type(span) is dict:
                    row, raw_trace_id = _span(span, traits), span.get("traceId")
                else:
                    row, raw_trace_id = _span_of_message(span, traits), span.trace_id.hex()
                if type(raw_trace_id) is not str or raw_trace_id not in by_trace:
                    trace_id = _hex_id(raw_trace_id, 32, "traceId")
                    by_trace[raw_trace_id] = []
                    group = [service, resource.pod, resource.host, by_trace[raw_trace_id]]
                    if resource.version:
                        group.append(resource.version)
                    traces.setdefault(trace_id, []).append(group)
                by_trace[raw_trace_id].append(row)
            except RejectedRecord as error:
                span = span if type(span) is dict else otlp_proto.span(span, _SPAN_KEYS)
                event_time_ms = _time_ms_or_none(span.get("startTimeUnixNano"), span.get("endTimeUnixNano"))
                record = {"otel_service_name": service, "resource": resource.attributes, "span": span}
                rejects.append(reject(SPANS, error.reason, record, event_time_ms))
    return {t: orjson.dumps(["spans", groups]) for t, groups in traces.items()}, pods, rejects


def _span(span: dict, traits: Set[str] = frozenset()) -> list:
    """The packed span of ``collect_spans``."""
    get = span.get
    span_id = get("spanId")
    if type(span_id) is not str or not _is_span_id(span_id):
        span_id = _hex_id(span_id, 16, "spanId")
    parent_span_id = get("parentSpanId") or ""
    if parent_span_id and (type(parent_span_id) is not str or not _is_span_id(parent_span_id)):
        parent_span_id = _span_id_or_empty(parent_span_id, "parentSpanId")
    start_ns: Any = get("startTimeUnixNano")
    end_ns: Any = get("endTimeUnixNano")
    try:
        start_ns, end_ns = int(start_ns), int(end_ns)
        plausible = MIN_TIME_NS <= start_ns <= end_ns < MAX_TIME_NS
    except (TypeError, ValueError, OverflowError):
        plausible = False
    if not plausible:
        raise _implausible_times(start_ns, end_ns)
    kind = get("kind")
    if kind:
        kind = _enum(kind, _KINDS)
    status = get("status")
    error = status and (type(status) is dict and _enum(status.get("code"), _STATUS_CODES) == _STATUS_ERROR)
    operation = get("name")
    operation = operation_name(operation if type(operation) is str else _text(operation))
    pairs = get("attributes")
    found = _attributes(pairs, _SPAN_KEYS | traits if traits else _SPAN_KEYS) if pairs else {}
    state = get("traceState")
    return _row(span_id, parent_span_id, operation, kind or 0, bool(error), start_ns, end_ns, found, state, traits)


def _span_of_message(span: otlp_proto.Span, traits: Set[str] = frozenset()) -> list:
    """The same of a span in protobuf; what ``_span`` rejects, or has to look at twice, is left to it."""
    span_id, parent_span_id = span.span_id, span.parent_span_id
    start_ns, end_ns = span.start_time_unix_nano, span.end_time_unix_nano
    has_ids = len(span_id) == 8 and any(span_id) and (not parent_span_id or len(parent_span_id) == 8)
    if not has_ids or not MIN_TIME_NS <= start_ns <= end_ns < MAX_TIME_NS:
        return _span(otlp_proto.span(span, _SPAN_KEYS | traits), traits)
    found = {}
    for pair in span.attributes:
        key = pair.key
        if (key in _SPAN_KEYS or key in traits) and pair.HasField("value"):
            found[key] = _plain(otlp_proto.any_value(pair.value))
    return _row(
        span_id.hex(),
        parent_span_id.hex() if any(parent_span_id) else "",
        operation_name(span.name),
        _KINDS.get(span.kind, 0),
        span.status.code == _STATUS_ERROR,
        start_ns,
        end_ns,
        found,
        span.trace_state,
        traits,
    )


def _row(
    span_id: str, parent_span_id: str, operation: str, kind: int, is_error: bool, start_ns: int, end_ns: int,
    attributes: dict[str, object], trace_state: object, traits: Set[str],
) -> list:  # fmt: skip
    """The packed span; attributes: of _SPAN_KEYS and ``traits`` those that it has."""
    peer = ""
    if attributes:
        is_error = is_error or _failed(attributes)
        # A server's or consumer's own address and name stand under the same keys.
        if kind != _SERVER and kind != _CONSUMER:
            peer = next((_text(attributes[key]) for key in _PEER_KEYS if attributes.get(key)), "")
            if not peer and kind == _CLIENT:
                peer = next((_host(_text(attributes[key])) for key in _URL_KEYS if attributes.get(key)), "")
            peer = names.workload(names.name(peer))
    row = [span_id, parent_span_id, operation, kind, 1 if is_error else 0, start_ns, end_ns, peer]
    if attributes or trace_state:
        count = adjusted_count(trace_state, attributes)
        if count:
            row.append(count)
    if traits and attributes:
        found = {name: value for name in traits if (value := _trait(attributes.get(name)))}
        if found:
            row += [0.0] * (9 - len(row)) + [found]
    return row


def _host(url: str) -> str:
    """The host of an absolute URL; "" where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # of brackets that hold no IPv6 address
        return ""


def _trait(value: object) -> str:
    """As a table has it, "" = none: what looks like a name of ours says nothing."""
    text = "" if value is None else names.name(_text(value).strip())
    return "" if text.startswith("__") and text.endswith("__") else text


def _implausible_times(start: object, end: object) -> RejectedRecord:
    """The reason why a span's times can't be used."""
    try:
        start_ns = _time_ns(start, "startTimeUnixNano")
        end_ns = _time_ns(end, "endTimeUnixNano")
    except RejectedRecord as reason:
        return reason
    return RejectedRecord(f"endTimeUnixNano {end_ns} is before startTimeUnixNano {start_ns}: check the emitter's clock")


def _failed(attributes: dict[str, object]) -> bool:
    """Whether the protocol's own status says so: HTTP 5xx, or gRPC other than OK."""
    http = attributes.get(_HTTP_STATUS_KEY, attributes.get(_OLD_HTTP_STATUS_KEY, 0))
    return _number_or_zero(http) >= _HTTP_SERVER_ERROR or _number_or_zero(attributes.get(_GRPC_STATUS_KEY, 0)) != 0


def _number_or_zero(value: Any) -> float:
    try:
        return float(value)  # emitters write status codes as ints and as strings
    except (TypeError, ValueError, OverflowError):
        return 0.0


# ---- logs -----------------------------------------------------------------------------------

# Logs data model, "Mapping of SeverityNumber" and its appendix B for other systems' levels.
_SEVERITIES = {
    f"{level}{step or ''}": base + max(step - 1, 0)
    for base, level in (
        (1, "TRACE"),
        (5, "DEBUG"),
        (9, "INFO"),
        (13, "WARN"),
        (17, "ERROR"),
        (21, "FATAL"),
    )
    for step in (0, 2, 3, 4)
}
_SEVERITY_NUMBERS = _numbers("SEVERITY_NUMBER", _SEVERITIES.items())
_SEVERITY_TEXTS = _SEVERITIES | {
    "INFORMATION": 9,
    "NOTICE": 10,
    "WARNING": 13,
    "ERR": 17,
    "SEVERE": 17,
    "CRITICAL": 18,
    "CRIT": 18,
    "ALERT": 19,
    "EMERGENCY": 21,
    "EMERG": 21,
    "PANIC": 21,
}


def collect_logs(*lines: bytes) -> tuple[dict[str, bytes], list[str]]:
    """Log records of requests that belong to a trace: (fragments by trace id, rejects).

    A fragment is JSON ``["logs", [[service, span_id or "", severity_number 0..24, time_ns, crc32
    of the body], ...]]``. Records without trace context are rejected, once for each workload and
    severity: the reject's payload holds just these two.
    """
    traces: dict[str, list] = {}
    rejects: list[str] = []
    for resource, records in _of_all(lines, _EVENTS, rejects):
        service = resource.service or UNKNOWN_SERVICE
        for record in records:
            severity = _severity(record)
            if not record.get("traceId"):
                reason = (
                    "log record without trace context: let the logging library write traceId and"
                    " spanId (log correlation of the OpenTelemetry SDK) to have it counted"
                )
                payload = {"otel_service_name": service, "severity_number": severity}
                rejects.append(reject(LOGS, reason, payload, code=Code.NOT_USED))
                continue
            times = record.get("timeUnixNano"), record.get("observedTimeUnixNano")
            try:
                trace_id = _hex_id(record["traceId"], 32, "traceId")
                span_id = _span_id_or_empty(record.get("spanId"), "spanId")
                time_ns = _time_ns(
                    *(
                        (times[0], "timeUnixNano")
                        if _integer(times[0], "timeUnixNano")
                        else (times[1], "timeUnixNano (and observedTimeUnixNano)")
                    )
                )
            except RejectedRecord as error:
                record = {"otel_service_name": service, "resource": resource.attributes, "log_record": record}
                rejects.append(reject(LOGS, error.reason, record, _time_ms_or_none(*times)))
                continue
            body = zlib.crc32(_text(_plain(record.get("body"))).encode())
            traces.setdefault(trace_id, []).append([service, span_id, severity, time_ns, body])
    return {t: orjson.dumps(["logs", rows]) for t, rows in traces.items()}, sorted(set(rejects))


def _severity(record: dict) -> int:
    """SeverityNumber 0 (unknown) to 24, from the number or its name, else from the text."""
    number = _enum(record.get("severityNumber"), _SEVERITY_NUMBERS)
    return number or _SEVERITY_TEXTS.get(_text(record.get("severityText")).strip().upper(), 0)


# ---- metrics --------------------------------------------------------------------------------


class _UsageMetric(NamedTuple):
    """A metric of docs/interface.md §1, usage metrics."""

    dimension: str
    preference: int  # among the metrics of its dimension, 0 = best
    kind: str  # CUMULATIVE or GAUGE
    units: Mapping[str, float]  # unit as written -> factor to s, cores, bytes or operations


# Metrics of which not every point counts.
_CADVISOR_CPU = "container_cpu_usage_seconds_total"
_DCGM = ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_DEV_GPU_UTIL")
_GPU_USE = "hw.gpu.utilization"
_BLOCK_IO = "container.blockio.io_serviced_recursive"
_NETWORK_IO = "k8s.pod.network.io"

# Of these exporters, labels name the pod.
_SCRAPED = {_CADVISOR_CPU, *_DCGM}

USAGE_METRICS: dict[str, _UsageMetric] = {
    metric.name: _UsageMetric(dimension.name, preference, metric.kind, metric.units)
    for dimension in DIMENSIONS.values()
    for preference, metric in enumerate(dimension.metrics)
}

_TEMPORALITY_DELTA = 1
_TEMPORALITIES = _numbers("AGGREGATION_TEMPORALITY", [("DELTA", _TEMPORALITY_DELTA), ("CUMULATIVE", 2)])
# What a metric may carry its points in, as a reject names it.
_DATA = {"gauge", "sum", "histogram", "exponentialHistogram", "summary"}
_NO_RECORDED_VALUE = 1  # bit of NumberDataPoint.flags

_NOT_A_USAGE_METRIC = "metric not used: cost is allocated by " + ", ".join(sorted(USAGE_METRICS))


def collect_metrics(
    *lines: bytes, resources: Resources = NO_ALIASES
) -> tuple[dict[str, bytes], dict[str, bytes], list[str]]:
    """Usage points of requests: (fragments by usage key, owners by pod, rejects).

    A usage key is ``bucket_start_ms, pod_uid, pod_name, service, resource_id``, and of a node of a group of machines
    its name and cores (digits or ""), joined by SEPARATOR. A fragment is JSON ``[[dimension, preference, series, kind,
    start_ns or 0, time_ns, value], ...]``, value in s, cores, bytes or operations by dimension and kind. A point stands
    in the bucket of its time and in each neighbour no further than MAX_GAP_MS from it, a delta in every bucket that it
    touches: each bucket can be metered from its own fragments.

    A metric that is not of docs/interface.md §1 is rejected once for each name and unit.
    """
    points: dict[str, list] = {}
    pods: dict[str, bytes] = {}
    rejects: list[str] = []
    for resource, metrics in _of_all(lines, _MEASURES, rejects, resources):
        _note_owner(pods, resource)
        for metric in metrics:
            name, unit = _text(metric.get("name")), _text(metric.get("unit"))
            usage = USAGE_METRICS.get(name)
            if usage is None:
                record: dict[str, Any] = {"metric": name, "unit": unit}
                rejects.append(reject(METRICS, _NOT_A_USAGE_METRIC, record, code=Code.NOT_USED))
                continue
            try:
                kind, data_points = _data_points(metric, unit, usage, rejects)
            except RejectedRecord as error:
                record = {"metric": name, "unit": unit, "data": sorted(_DATA & metric.keys())}
                rejects.append(reject(METRICS, f"{name}: {error.reason}", record))
                continue
            for point in data_points:
                try:
                    _collect_point(point, name, usage, kind, usage.units[unit], resource, points)
                except RejectedRecord as error:
                    time_ms = _time_ms_or_none(point.get("timeUnixNano"))
                    record = {"metric": name, "unit": unit, "pod": resource.pod, "point": point}
                    record |= {"resource": resource.attributes, "kind": kind}
                    rejects.append(reject(METRICS, f"{name}: {error.reason}", record, time_ms))
                except _NoConsumer as error:
                    record = {
                        "metric": name,
                        "otel_service_name": resource.service or UNKNOWN_SERVICE,
                        "resource_id": resource.resource_id,
                    }
                    rejects.append(reject(METRICS, str(error), record, code=Code.NOT_USED))
    return {k: orjson.dumps(rows) for k, rows in points.items()}, pods, sorted(set(rejects))


class _NoConsumer(Exception):
    """A usage point that names neither pod nor container; it recurs every minute."""


def _data_points(metric: dict, unit: str, usage: _UsageMetric, rejects: list[str]) -> tuple[str, Iterator[dict]]:
    """(kind, data points) of a usage metric sent as sum or gauge.

    Prometheus receivers send counters as gauges, and an UpDownCounter is a cumulative sum whose
    value is a gauge's: what the metric is, not how it was sent, decides between "c" and "g".
    """
    if unit not in usage.units:
        known = ", ".join(filter(None, usage.units))
        raise RejectedRecord(f"unit {shown(unit)} is not known: use one of {known}")
    data = next((metric[form] for form in ("sum", "gauge") if type(metric.get(form)) is dict), None)
    if data is None:
        raise RejectedRecord("neither a sum nor a gauge")
    kind = usage.kind
    if _enum(data.get("aggregationTemporality"), _TEMPORALITIES) == _TEMPORALITY_DELTA:
        if kind == GAUGE:
            raise RejectedRecord("a delta sum of what is a level: send its current value")
        kind = DELTA
    return kind, _objects(data, "dataPoints", METRICS, rejects)


def _collect_point(
    point: dict,
    name: str,
    usage: _UsageMetric,
    kind: str,
    factor: float,
    resource: _Resource,
    points: dict[str, list],
) -> None:
    """Append one data point to the fragments of its buckets, or raise RejectedRecord."""
    if _integer(point.get("flags"), "flags") & _NO_RECORDED_VALUE:
        return
    attributes = {
        key.replace(SEPARATOR, " "): _text(value).replace(SEPARATOR, " ")
        for key, value in _attributes(point.get("attributes")).items()
    }
    if _is_duplicate_or_unbilled(name, attributes):
        return
    if name in _SCRAPED:
        # Labels name the consumer; the resource is then the exporter, and so may be what Prometheus calls its pod.
        pod, namespace, container = (
            attributes.get(f"exported_{label}") or attributes.get(label, "")
            for label in ("pod", "namespace", "container")
        )
        if pod:
            resource = _Resource(
                "", "", _qualified(namespace, pod), container, resource.resource_id, node=resource.node
            )
    if not resource.pod:
        raise _NoConsumer(
            f"{name} of no pod or container: add k8s.pod.uid, k8s.pod.name or container.id to the"
            " resource (the Collector's k8sattributes processor does)"
        )
    time_ns = _time_ns(point.get("timeUnixNano"), "timeUnixNano")
    start_ns = _start_ns(point.get("startTimeUnixNano"), kind, time_ns)
    series = SEPARATOR.join((name, resource.container, *(f"{key}={attributes[key]}" for key in sorted(attributes))))
    value = _value(point) * factor
    if not math.isfinite(value):
        raise RejectedRecord(f"value {value} is not finite")
    row = [usage.dimension, usage.preference, series, kind, start_ns, time_ns, value]
    first_ms = start_ns // NS_PER_MS if kind == DELTA else time_ns // NS_PER_MS
    for bucket_ms in _buckets(first_ms, time_ns // NS_PER_MS):
        key = SEPARATOR.join(
            (
                str(bucket_ms),
                resource.pod_uid,
                resource.pod_name,
                resource.service,
                resource.resource_id,
                *resource.node,
            )
        )
        points.setdefault(key, []).append(row)


def _is_duplicate_or_unbilled(name: str, attributes: dict[str, str]) -> bool:
    """Points that stand beside the ones that count: totals of them, and traffic nobody bills."""
    if name == _NETWORK_IO:
        direction = attributes.get("direction") or attributes.get("network.io.direction", "")
        if direction not in ("transmit", "receive"):
            raise RejectedRecord(f"direction {shown(direction)}: set it to transmit (billed) or receive (not)")
        return direction == "receive"
    if name == _BLOCK_IO:  # the kernel counts each operation as read|write, sync|async and total
        return attributes.get("operation", "read").lower() not in ("read", "write")
    if name == _CADVISOR_CPU:  # a pod's cgroup has no container label and sums its containers
        return bool(attributes.get("pod")) and not attributes.get("container")
    # A video engine of a device works beside its cores, and isn't billed.
    return name == _GPU_USE and attributes.get("hw.gpu.task", "general") != "general"


def _start_ns(value: object, kind: str, time_ns: int) -> int:
    """Start of what the point counts, 0 where a cumulative one does not say."""
    if kind == GAUGE or (kind == CUMULATIVE and _integer(value, "startTimeUnixNano") == 0):
        return 0
    start_ns = _time_ns(value, "startTimeUnixNano")
    if start_ns > time_ns or (kind == DELTA and start_ns == time_ns):
        raise RejectedRecord(f"startTimeUnixNano {start_ns} is not before timeUnixNano {time_ns}")
    if kind == DELTA and time_ns - start_ns > MAX_DELTA_MS * NS_PER_MS:
        raise RejectedRecord(
            f"a delta over {(time_ns - start_ns) // NS_PER_MS} ms is longer than {MAX_DELTA_MS} ms: export more often"
        )
    return start_ns


def _value(point: dict) -> float:
    """asDouble or asInt, finite and not negative."""
    raw: Any = point.get("asDouble", point.get("asInt"))
    try:
        value = float(raw)
    except (TypeError, ValueError, OverflowError):
        raise RejectedRecord(f"value {shown(raw)} is not a number") from None
    if not 0.0 <= value < math.inf:
        raise RejectedRecord(f"value {shown(raw)} is not finite and at least 0")
    return value


def _buckets(first_ms: int, last_ms: int) -> range:
    """Starts of the usage buckets that [first_ms, last_ms] touches or comes near to."""
    return range(bucket_start(first_ms - MAX_GAP_MS), bucket_start(last_ms + MAX_GAP_MS) + 1, USAGE_BUCKET_MS)
