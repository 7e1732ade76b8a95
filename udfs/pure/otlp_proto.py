"""collect, telemetry: OTLP requests in protobuf -> the structures that OTLP/JSON decodes to.

A request comes out as (resource, records) pairs, one for each resource and scope: the resource as the bytes of its
message, for ``resource``, since a fleet's few recur in every request; spans as their messages, for ``span``, as there
are so many of them. Everything else is in the dicts of OTLP/JSON, in camelCase, with ids as lower-case hex, 64-bit
integers and enums as numbers, bytes as base64 and doubles that aren't finite as the strings of the protobuf JSON
mapping. Only the fields that ``udfs.pure.otlp`` reads are there: to convert the rest would cost more than to parse it.

Strings that aren't UTF-8 are read with replacement characters, as of JSON: the Collector passes them on unchecked, and
one of them must not take the other thousands of records of its request with it.

Sources: opentelemetry-proto 1.x (collector/{trace,metrics,logs}/v1), protobuf encoding.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

# The first byte of a request in protobuf: field 1, length-delimited.
FIRST_BYTE = b"\n"

# The parser's own bound; a request has 8 levels above its attributes' values, each level of which takes two.
MAX_DEPTH = 100

Entries = Iterator[tuple[bytes, Iterator[dict]]]


class NotProtobuf(ValueError):
    """Bytes that are no request of the stream; the message says what they are or where they break."""


def read_spans(record: bytes) -> Iterator[tuple[bytes, Iterator[Span]]]:
    """(resource, spans) of an ExportTraceServiceRequest. Raises NotProtobuf, before the first pair."""
    request = _parse("otlp_spans", record)
    return (
        (entry.resource.SerializeToString(), iter(scope.spans))
        for entry in request.resource_spans
        for scope in entry.scope_spans
    )


def read_metrics(record: bytes, names: Collection[str]) -> Entries:
    """(resource, metrics) of an ExportMetricsServiceRequest; data points of the named metrics only.

    Raises NotProtobuf, before the first pair.
    """
    request = _parse("otlp_metrics", record)
    return (
        (entry.resource.SerializeToString(), (_metric(metric, names) for metric in scope.metrics))
        for entry in request.resource_metrics
        for scope in entry.scope_metrics
    )


def read_logs(record: bytes) -> Entries:
    """(resource, log records) of an ExportLogsServiceRequest. Raises NotProtobuf, before the first pair."""
    request = _parse("otlp_logs", record)
    return (
        (entry.resource.SerializeToString(), map(_log, scope.log_records))
        for entry in request.resource_logs
        for scope in entry.scope_logs
    )


# ---- records --------------------------------------------------------------------------------


def resource(message: bytes) -> dict:
    """A resource as OTLP/JSON has it."""
    return {"attributes": _pairs(Resource.FromString(message).attributes)}


def span(message: Span, attribute_keys: Collection[str]) -> dict:
    """A span as OTLP/JSON has it, with the named attributes only."""
    found = {
        "traceId": message.trace_id.hex(),
        "spanId": message.span_id.hex(),
        "parentSpanId": message.parent_span_id.hex(),
        "name": message.name,
        "kind": message.kind,
        "startTimeUnixNano": message.start_time_unix_nano,
        "endTimeUnixNano": message.end_time_unix_nano,
    }
    if message.trace_state:
        found["traceState"] = message.trace_state
    pairs = [_pair(pair) for pair in message.attributes if pair.key in attribute_keys]
    if pairs:
        found["attributes"] = pairs
    if code := message.status.code:
        found["status"] = {"code": code}
    return found


def _log(record: Message) -> dict:
    return {
        "timeUnixNano": record.time_unix_nano,
        "observedTimeUnixNano": record.observed_time_unix_nano,
        "severityNumber": record.severity_number,
        "severityText": record.severity_text,
        "traceId": record.trace_id.hex(),
        "spanId": record.span_id.hex(),
        "body": any_value(record.body),
    }


_FORMS = {"exponential_histogram": "exponentialHistogram"}


def _metric(metric: Message, names: Collection[str]) -> dict:
    found: dict[str, object] = {"name": metric.name, "unit": metric.unit}
    form = metric.WhichOneof("data")
    if form == "sum" or form == "gauge":
        data = getattr(metric, form)
        points = data.data_points if metric.name in names else ()
        found[form] = {
            "dataPoints": [_point(point) for point in points],
            "aggregationTemporality": data.aggregation_temporality if form == "sum" else 0,
        }
    elif form:
        found[_FORMS.get(form, form)] = {}
    return found


def _point(point: Message) -> dict:
    found = {
        "attributes": _pairs(point.attributes),
        "startTimeUnixNano": point.start_time_unix_nano,
        "timeUnixNano": point.time_unix_nano,
        "flags": point.flags,
    }
    kind = point.WhichOneof("value")
    if kind == "as_double":
        found["asDouble"] = _double(point.as_double)
    elif kind:
        found["asInt"] = point.as_int
    return found


# ---- values ---------------------------------------------------------------------------------


def _pairs(pairs: Collection[Message]) -> list[dict]:
    return [_pair(pair) for pair in pairs]


def _pair(pair: Message) -> dict:
    value = any_value(pair.value)
    return {"key": pair.key, "value": value} if value or pair.HasField("value") else {"key": pair.key}


def any_value(value: Message) -> dict:
    """An AnyValue as OTLP/JSON has it; {} for none and for kinds that JSON doesn't know."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return {"stringValue": value.string_value}
    if kind == "int_value":
        return {"intValue": value.int_value}
    if kind == "double_value":
        return {"doubleValue": _double(value.double_value)}
    if kind == "bool_value":
        return {"boolValue": value.bool_value}
    if kind == "bytes_value":
        return {"bytesValue": base64.b64encode(value.bytes_value).decode()}
    if kind == "array_value":
        return {"arrayValue": {"values": [any_value(item) for item in value.array_value.values]}}
    if kind == "kvlist_value":
        return {"kvlistValue": {"values": _pairs(value.kvlist_value.values)}}
    return {}


def _double(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"


# ---- bytes ----------------------------------------------------------------------------------


class _Stream(NamedTuple):
    """The requests of one stream; is_like: whether a record has what those of no other stream have."""

    request: type[Message]
    records: Callable[[Message], Iterator[Message]]
    is_like: Callable[[Message], bool]


_STREAMS = {
    "otlp_spans": _Stream(
        ExportTraceServiceRequest,
        lambda request: (r for e in request.resource_spans for s in e.scope_spans for r in s.spans),
        lambda span: len(span.trace_id) == 16 and len(span.span_id) == 8,
    ),
    "otlp_metrics": _Stream(
        ExportMetricsServiceRequest,
        lambda request: (r for e in request.resource_metrics for s in e.scope_metrics for r in s.metrics),
        lambda metric: bool(metric.name and metric.WhichOneof("data")),
    ),
    "otlp_logs": _Stream(
        ExportLogsServiceRequest,
        lambda request: (r for e in request.resource_logs for s in e.scope_logs for r in s.log_records),
        lambda log: bool(log.time_unix_nano or log.observed_time_unix_nano),
    ),
}


def _parse(stream: str, record: bytes) -> Message:
    """The stream's request. Protobuf doesn't say what it is: a request of another stream parses, too, as one of
    unlikely records and unknown fields."""
    request, records, is_like = _STREAMS[stream]
    message = _parsed(request, record)
    if message is not None and any(map(is_like, records(message))):
        return message
    for other, (its_request, its_records, is_like_it) in _STREAMS.items():
        if other != stream:
            its_message = _parsed(its_request, record)
            if its_message is not None and any(map(is_like_it, its_records(its_message))):
                raise NotProtobuf(f"an {its_request.DESCRIPTOR.name}: send it to {other}, not to {stream}")
    if message is None:
        raise NotProtobuf(f"not an {request.DESCRIPTOR.name} in protobuf: {_what_breaks(record)}")
    return message


def _parsed(request: type[Message], record: bytes) -> Message | None:
    try:
        return request.FromString(record)
    except DecodeError:
        pass
    # Either bytes that aren't the message, or a string in it that isn't UTF-8: the parser doesn't say.
    try:
        return request.FromString(_with_replacements(request, record))
    except DecodeError:
        return None


def _with_replacements(request: type[Message], record: bytes) -> bytes:
    """The request with every string in UTF-8. Raises DecodeError."""
    message = _unchecked(request.DESCRIPTOR.full_name).FromString(record)
    strings = _strings(request.DESCRIPTOR.file)

    def repair(node: Message) -> None:
        own = strings.get(node.DESCRIPTOR.full_name, ())
        for field, content in node.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                for child in content if field.label == FieldDescriptor.LABEL_REPEATED else (content,):
                    repair(child)
            elif field.name in own:
                if field.label == FieldDescriptor.LABEL_REPEATED:
                    content[:] = [text.decode("utf-8", "replace").encode() for text in content]
                else:
                    setattr(node, field.name, content.decode("utf-8", "replace").encode())

    repair(message)
    return message.SerializeToString()


@cache
def _unchecked(request_name: str) -> type[Message]:
    """The request's class with all strings declared as bytes, which aren't checked."""
    pool = descriptor_pool.DescriptorPool()
    for request in (ExportTraceServiceRequest, ExportMetricsServiceRequest, ExportLogsServiceRequest):
        for file in _files(request.DESCRIPTOR.file):
            copy = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
            for message in _messages(copy.message_type):
                for field in message.field:
                    if field.type == field.TYPE_STRING:
                        field.type = field.TYPE_BYTES
            pool.Add(copy)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(request_name))


@cache
def _strings(file: FileDescriptor) -> dict[str, frozenset[str]]:
    """Full name of a message -> its fields of type string, of all files that ``file`` needs."""
    found: dict[str, frozenset[str]] = {}

    def enter(messages: Collection, prefix: str) -> None:
        for message in messages:
            name = f"{prefix}.{message.name}"
            found[name] = frozenset(field.name for field in message.field if field.type == field.TYPE_STRING)
            enter(message.nested_type, name)

    for one in _files(file):
        enter(descriptor_pb2.FileDescriptorProto.FromString(one.serialized_pb).message_type, one.package)
    return found


def _files(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """A file after those that it imports."""
    for imported in file.dependencies:
        yield from _files(imported)
    yield file


def _messages(messages: Collection) -> Iterator:
    for message in messages:
        yield message
        yield from _messages(message.nested_type)


def _what_breaks(record: bytes) -> str:
    """Which of the request's entries can't be parsed, or where the bytes end too soon."""
    at = number = 0
    size = len(record)
    while at < size:
        if record[at : at + 1] != FIRST_BYTE:
            return f"byte {at} of {size} starts no entry: corrupt"
        length, begin = _varint(record, at + 1)
        if begin > size:
            return f"entry {number} at byte {at} ends within its length: truncated at byte {size}"
        if begin + length > size:
            there = size - begin
            return f"entry {number} at byte {at} is {length} bytes long and {there} are there: truncated or corrupt"
        at, number = begin + length, number + 1
    return f"all {number} entries are whole, but not what is in them: corrupt, or values nested deeper than {MAX_DEPTH}"


def _varint(record: bytes, at: int) -> tuple[int, int]:
    """(number, position after it); a position beyond the end where the number doesn't end."""
    number = 0
    for place, byte in enumerate(record[at : at + 10]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    return number, len(record) + 1
