"""collect, telemetry: protobuf gives what JSON gives, and bytes tell which of them they are."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.unit import test_collect_otlp as literal
from tests.unit.test_collect_otlp import NOON, POD, TRACE, attributes, log, metric, only_reject, request, span
from udfs.pure import otlp, otlp_proto
from udfs.pure.otlp import MAX_REQUEST_BYTES, collect_logs, collect_metrics, collect_spans

REQUESTS = {
    "traces": (ExportTraceServiceRequest, collect_spans),
    "metrics": (ExportMetricsServiceRequest, collect_metrics),
    "logs": (ExportLogsServiceRequest, collect_logs),
}
_IDS = ("traceId", "spanId", "parentSpanId")


def protobuf(signal: str, line: bytes) -> bytes:
    """The protobuf request of a JSON one, by the library's own parser (which takes ids in base64 alone).

    ParseError or another ValueError or TypeError: JSON that no protobuf request corresponds to.
    """

    def with_base64(node: object) -> object:
        if isinstance(node, dict):
            return {
                key: base64.b64encode(bytes.fromhex(value)).decode()
                if key in _IDS and isinstance(value, str)
                else with_base64(value)
                for key, value in node.items()
            }
        return [with_base64(child) for child in node] if isinstance(node, list) else node

    message = json_format.ParseDict(with_base64(orjson.loads(line)), REQUESTS[signal][0](), ignore_unknown_fields=True)
    return message.SerializeToString()


def cases(test: Callable) -> list[tuple]:
    """The literal cases of a test of the JSON path."""
    [mark] = [mark for mark in test.pytestmark if mark.name == "parametrize"]
    return [case if isinstance(case, tuple) else (case,) for case in mark.args[1]]


def literal_requests() -> Iterator[tuple[str, bytes]]:
    for test in (
        literal.test_spans_are_read_as_emitters_write_them,
        literal.test_a_bad_span_is_rejected_and_the_rest_of_its_request_used,
    ):
        for changes, *_ in cases(test):
            yield "traces", request("traces", [span(**changes), span(traceId="a" * 32)], POD)
    for resource, *_ in cases(literal.test_resources_tie_spans_to_workload_consumer_and_bill):
        yield "traces", request("traces", [span()], resource)
    for test in (
        literal.test_usage_points_carry_dimension_preference_kind_and_base_units,
        literal.test_points_that_repeat_others_or_are_not_billed_are_passed_over,
        literal.test_a_bad_point_is_rejected_and_the_rest_used,
    ):
        for sent, *_ in cases(test):
            yield "metrics", request("metrics", [sent, metric("other", "histogram")], POD)
    for resource, *_ in cases(literal.test_usage_keys_name_bucket_and_consumer):
        yield "metrics", request("metrics", [metric("container.memory.usage", unit="By")], resource)
    for test in (
        literal.test_logs_of_a_trace_are_counted,
        literal.test_a_bad_log_record_is_rejected_and_the_rest_used,
    ):
        for changes, *_ in cases(test):
            yield "logs", request("logs", [log(**changes), log(traceId="")], POD)
    yield from zip(("traces", "metrics", "logs"), literal.GOOD_LINES)


def without_payloads(rejects: list[str]) -> list[tuple]:
    """(reason, event time) of rejects. Payloads show a record as it was written: numbers or texts."""
    rows = map(orjson.loads, rejects)
    return sorted((row["reason"].replace("value -1.0 ", "value -1 "), str(row["event_time_ms"])) for row in rows)


def assert_same(signal: str, line: bytes, record: bytes) -> None:
    collect = REQUESTS[signal][1]
    *tables, rejects = collect(line)
    *tables_of_protobuf, rejects_of_protobuf = collect(record)
    assert tables_of_protobuf == tables
    assert without_payloads(rejects_of_protobuf) == without_payloads(rejects)


def test_literal_requests_give_the_same_by_both_encodings() -> None:
    compared = {"traces": 0, "metrics": 0, "logs": 0}
    for signal, line in literal_requests():
        try:
            record = protobuf(signal, line)
        except (json_format.ParseError, ValueError, TypeError):
            continue  # JSON alone can say that: a number as a name, an id of letters
        if b'"name":7' in line or b'"severityNumber":"21"' in line or b'"kind":"5"' in line:
            continue
        assert_same(signal, line, record)
        compared[signal] += 1
    assert compared["traces"] >= 35 and compared["metrics"] >= 35 and compared["logs"] >= 14, compared


@pytest.mark.parametrize(("name", "signal"), [
    ("trace.json", "traces"), ("metrics.json", "metrics"), ("logs.json", "logs"), ("events.json", "logs"),
])  # fmt: skip
def test_the_protocols_own_examples_give_the_same_by_both_encodings(name: str, signal: str) -> None:
    path = Path(__file__).resolve().parents[3] / "shared" / "data" / "otlp-examples" / name
    if not path.is_file():
        pytest.skip(f"no OTLP example at {path}")
    line = orjson.dumps(orjson.loads(path.read_bytes()))
    assert_same(signal, line, protobuf(signal, line))


ANY_VALUES = [
    {"stringValue": "x"}, {"stringValue": ""}, {"intValue": str(-(2**63))}, {"doubleValue": 1}, {"doubleValue": 1e300},
    {"doubleValue": "NaN"}, {"doubleValue": "-Infinity"}, {"boolValue": False}, {"bytesValue": "AP8="},
    {"arrayValue": {}}, {"arrayValue": {"values": [{"doubleValue": 3}, {}]}}, {"kvlistValue": {}}, {},
    {"kvlistValue": {"values": [{"key": "k", "value": {"arrayValue": {"values": [{"intValue": 7}]}}}]}},
]  # fmt: skip


@pytest.mark.parametrize("value", ANY_VALUES)
def test_values_of_every_kind_are_the_same_by_both_encodings(value: dict) -> None:
    logs = request("logs", [log(body=value)], [{"key": "service.name", "value": value}])
    pairs = [{"key": "state", "value": value}]
    metrics = request("metrics", [metric("k8s.pod.cpu.time", "sum", "s", attributes=pairs)], POD)
    pairs = [{"key": key, "value": value} for key in ("peer.service", "http.status_code", "rpc.grpc.status_code")]
    without = [{"key": "http.response.status_code"}, *attributes(http__status_code=500)]
    traces = request("traces", [span(kind=3, attributes=pairs), span(kind=2, attributes=without)], POD)
    assert_same("logs", logs, protobuf("logs", logs))
    assert_same("metrics", metrics, protobuf("metrics", metrics))
    assert_same("traces", traces, protobuf("traces", traces))


# ---- which encoding -------------------------------------------------------------------------


def test_a_protobuf_request_as_long_as_a_brace_is_no_json() -> None:
    """Its first bytes are a newline and "{": 0x0a is the tag, 0x7b the length."""
    for size in range(200):
        record = protobuf("traces", request("traces", [span(name="x" * size)]))
        if record[1:2] == b"{":
            break
    assert record.startswith(b"\n{")
    assert list(collect_spans(record)[0]) == [TRACE]


@pytest.mark.parametrize("before", [b"\n", b"\n\n  ", b"\r\n\t", b"\xef\xbb\xbf"])
def test_json_after_blanks_is_no_protobuf(before: bytes) -> None:
    line = request("traces", [span()])
    assert collect_spans(before + line) == collect_spans(line)


@pytest.mark.parametrize(
    ("record", "reason", "payload"),
    [
        (b"\n\x05ab", "5 bytes long and 2 are there: truncated", base64.b64encode(b"\n\x05ab")),
        (b"\n\xff", "ends within its length: truncated", base64.b64encode(b"\n\xff")),
        (b"\n\x01\x0a\x07", "byte 3 of 4 starts no entry: corrupt", base64.b64encode(b"\n\x01\x0a\x07")),
        (b"\n\x02\x0a\x07", "all 1 entries are whole, but not what is in them: corrupt", b"CgIKBw=="),
        (b'\n{"resourceSpans":', "nor in JSON (unexpected end of data", b'\n{"resourceSpans":'),
        (b"\x1f\x8b\x08\x00", "nor protobuf, which starts with byte 0x0a", b"H4sIAA=="),
    ],
)  # fmt: skip
def test_what_is_neither_is_one_reject_in_base64(record: bytes, reason: str, payload: bytes) -> None:
    fragments, pods, rejects = collect_spans(record)
    rejected = only_reject(rejects)
    assert (fragments, pods, rejected["payload"]) == ({}, {}, payload.decode())
    assert reason in rejected["reason"]


def test_a_truncated_request_is_one_reject_whose_payload_is_whole() -> None:
    record = protobuf("traces", request("traces", [span()] * 500))[:-1]
    rejected = only_reject(collect_spans(record)[2])
    assert "truncated" in rejected["reason"]
    assert (rejected["code"], rejected["payload"]) == ("unreadable", base64.b64encode(record).decode())


@pytest.mark.parametrize("first", [b"\n", b"{"])
def test_a_record_over_the_bound_is_rejected_unread(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_decode", None)
    monkeypatch.setattr(otlp_proto, "_parse", None)
    rejected = only_reject(collect_spans(first + bytes(MAX_REQUEST_BYTES))[2])
    assert f"{MAX_REQUEST_BYTES + 1} bytes is longer than {MAX_REQUEST_BYTES}" in rejected["reason"]
    assert rejected["code"] == "too_long" and len(rejected["payload"]) <= 4096


@pytest.mark.parametrize("signal", REQUESTS)
@pytest.mark.parametrize("topic", REQUESTS)
def test_a_request_on_the_wrong_topic_is_one_reject_that_names_the_right_one(signal: str, topic: str) -> None:
    line = dict(zip(REQUESTS, literal.GOOD_LINES))[signal]
    *tables, rejects = REQUESTS[topic][1](protobuf(signal, line))
    if signal == topic:
        assert tables[0] and "send it to" not in "".join(rejects)
    else:
        stream = {"traces": "otlp_spans", "metrics": "otlp_metrics", "logs": "otlp_logs"}
        rejected = only_reject(rejects)
        assert f"send it to {stream[signal]}, not to {stream[topic]}" in rejected["reason"]
        assert not any(tables)


# ---- what protobuf alone can hold -----------------------------------------------------------


def test_strings_that_are_not_utf8_are_read_as_those_of_json_are() -> None:
    line = request("traces", [span(name="cafXX", attributes=attributes(peer__service="X"), kind=3)], POD)
    broken = line.replace(b"cafXX", b"caf\xe9!")
    record = protobuf("traces", line).replace(b"cafXX", b"caf\xe9!")
    assert_same("traces", broken, record)
    [[_, _, _, [packed]]] = orjson.loads(collect_spans(record)[0][TRACE])[1]
    assert packed[2] == "caf\ufffd!"


def test_lists_of_strings_that_are_not_utf8_spoil_nothing() -> None:
    message = ExportTraceServiceRequest.FromString(protobuf("traces", request("traces", [span()], POD)))
    message.resource_spans[0].resource.entity_refs.add(type="pod", id_keys=["k8s.pod.uid", "XX"])
    record = message.SerializeToString().replace(b"XX", b"\xff\xfe")
    assert collect_spans(record) == collect_spans(request("traces", [span()], POD))


def test_many_resources_and_scopes_are_read() -> None:
    scopes = [{"spans": [span(spanId=f"{number + 1:016x}")]} for number in range(3)]
    entries = [
        {"resource": {"attributes": attributes(service__name=name)}, "scopeSpans": scopes} for name in ("a", "b")
    ]
    line = orjson.dumps({"resourceSpans": entries})
    assert_same("traces", line, protobuf("traces", line))


def test_the_rest_of_a_request_with_a_bad_record_is_used() -> None:
    line = request("traces", [span(spanId="ab"), span(), span(endTimeUnixNano=5)])
    fragments, _, rejects = collect_spans(protobuf("traces", line))
    assert len(orjson.loads(fragments[TRACE])[1][0][3]) == 1
    assert [orjson.loads(rejected)["reason"][:27] for rejected in rejects] == [
        "spanId 'ab' is not 16 hex d", "endTimeUnixNano 5 is outsid",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_point_that_is_no_finite_number_is_rejected(value: float) -> None:
    message = ExportMetricsServiceRequest.FromString(
        protobuf("metrics", request("metrics", [metric("k8s.pod.cpu.usage")], POD))
    )
    message.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0].as_double = value
    rejected = only_reject(collect_metrics(message.SerializeToString())[2])
    assert "is not finite and at least 0" in rejected["reason"]
    assert rejected["event_time_ms"] == NOON // 10**6


@pytest.mark.parametrize("levels", [10, 40, 60, 5000])
def test_values_nested_to_any_depth_are_used_or_one_reject(levels: int) -> None:
    value = b"\x0a\x01x"  # stringValue "x"
    for _ in range(levels):
        value = b"\x0a" + _length(value) + value  # values[0] of an array
        value = b"\x2a" + _length(value) + value  # arrayValue
    body = b"\x2a" + _length(value) + value
    message = ExportLogsServiceRequest()
    record = message.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=NOON)
    record.trace_id = bytes.fromhex(TRACE)
    scope = record.SerializeToString() + body
    for tag in (b"\x12", b"\x12", b"\x0a"):
        scope = tag + _length(scope) + scope
    fragments, rejects = collect_logs(scope)
    if levels <= 40:
        assert list(fragments) == [TRACE] and not rejects
    else:
        assert not fragments and "nested deeper than 100" in only_reject(rejects)["reason"]


def _length(content: bytes) -> bytes:
    size, found = len(content), b""
    while size > 0x7F:
        found, size = found + bytes([size & 0x7F | 0x80]), size >> 7
    return found + bytes([size])
