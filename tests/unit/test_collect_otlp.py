"""collect, telemetry: what of OTLP/JSON is used, what is rejected, and that nothing is lost."""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.pure import otlp
from udfs.pure.otlp import collect_logs, collect_metrics, collect_spans, merge_owner, operation_name
from udfs.pure.reject import PAYLOAD_MAX_CHARS, Code, reject
from udfs.pure.windows import MAX_GAP_MS, USAGE_BUCKET_MS, bucket_start

TRACE, SPAN, PARENT = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174", "eee19b7ec3c1b173"
START, END = 1_544_712_660_000_000_000, 1_544_712_661_000_000_000
NOON_MS = 1_700_000_000_000 // USAGE_BUCKET_MS * USAGE_BUCKET_MS + USAGE_BUCKET_MS // 2
NOON = NOON_MS * 1_000_000  # in the middle of a bucket, far from its neighbours


def attributes(**pairs: object) -> list[dict]:
    """Attributes from keywords, "." written as "__"."""
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    return [{"key": key.replace("__", "."), "value": {kinds[type(value)]: value}} for key, value in pairs.items()]


def span(**changes: object) -> dict:
    fields = {
        "traceId": TRACE,
        "spanId": SPAN,
        "parentSpanId": PARENT,
        "name": "GET /cart",
        "kind": 2,
        "startTimeUnixNano": str(START),
        "endTimeUnixNano": str(END),
    }
    fields |= changes
    return {key: value for key, value in fields.items() if value is not ...}


def request(signal: str, records: list, resource: list | None = None) -> bytes:
    top, scope, leaf = {
        "traces": ("resourceSpans", "scopeSpans", "spans"),
        "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
        "logs": ("resourceLogs", "scopeLogs", "logRecords"),
    }[signal]
    return orjson.dumps({top: [{"resource": {"attributes": resource or []}, scope: [{leaf: records}]}]})


def spans_of(line: bytes) -> dict[str, list]:
    """trace_id -> [[service, pod, resource_id, [span, ...]], ...], and no reject."""
    fragments, _, rejects = collect_spans(line)
    assert rejects == []
    decoded = {trace_id: orjson.loads(fragment) for trace_id, fragment in fragments.items()}
    assert all(tag == "spans" for tag, _ in decoded.values())
    return {trace_id: groups for trace_id, (_, groups) in decoded.items()}


def only_reject(rejects: list[str]) -> dict:
    assert len(rejects) == 1, rejects
    rejected = orjson.loads(rejects[0])
    assert set(rejected) == {"stream", "reason", "payload", "event_time_ms", "code"}
    assert rejected["code"] in set(Code)
    return rejected


# ---- spans ----------------------------------------------------------------------------------


def test_a_span_comes_out_with_every_field_in_its_place():
    resource = attributes(
        service__name="cart",
        k8s__pod__uid="u-1",
        k8s__pod__name="cart-1",
        k8s__namespace__name="shop",
        k8s__node__name="node-1",
    )
    line = request("traces", [span(kind=3, attributes=attributes(peer__service="redis"))], resource)
    assert spans_of(line) == {
        TRACE: [["cart", "u-1", "node-1", [[SPAN, PARENT, "GET /cart", 3, 0, START, END, "redis"]]]]
    }
    owner = orjson.dumps(["cart", "node-1"])
    assert collect_spans(line)[1] == {"u-1": owner, "shop/cart-1": owner}


@pytest.mark.parametrize(
    ("kind", "pairs", "peer"),
    [
        (3, {"http__url": "http://cart.shop:8080/items?id=1"}, "cart.shop"),
        (3, {"url__full": "https://Pay.example/"}, "pay.example"),
        (3, {"url__full": "https://a/", "server__address": "b"}, "b"),
        (3, {"http__url": "/items"}, ""),
        (3, {"http__url": "http://[::1"}, ""),
        (3, {"http__url": 7}, ""),
        (2, {"http__url": "http://cart:8080/items"}, ""),  # a server's own
    ],
)
def test_an_older_http_client_names_its_callee_by_the_url(kind: int, pairs: dict[str, object], peer: str) -> None:
    line = request("traces", [span(kind=kind, attributes=attributes(**pairs))])
    assert spans_of(line)[TRACE][0][3][0][7] == peer


TRACE_64 = base64.b64encode(bytes.fromhex(TRACE)).decode()
SPAN_64 = base64.urlsafe_b64encode(bytes.fromhex(SPAN)).decode()


@pytest.mark.parametrize(
    ("changes", "position", "expected"),
    [
        ({"spanId": SPAN.upper(), "traceId": TRACE.upper()}, 0, SPAN),
        ({"spanId": SPAN_64, "traceId": TRACE_64}, 0, SPAN),
        ({"parentSpanId": ...}, 1, ""),
        ({"parentSpanId": ""}, 1, ""),
        ({"parentSpanId": None}, 1, ""),
        ({"parentSpanId": "0" * 16}, 1, ""),
        ({"parentSpanId": PARENT.upper()}, 1, PARENT),
        ({"name": ...}, 2, ""),
        ({"name": 7}, 2, "7"),
        ({"kind": ...}, 3, 0),
        ({"kind": "SPAN_KIND_CLIENT"}, 3, 3),
        ({"kind": "5"}, 3, 5),
        ({"kind": 17}, 3, 0),
        ({"kind": {"a": 1}}, 3, 0),
        ({"status": {"code": 2}}, 4, 1),
        ({"status": {"code": "STATUS_CODE_ERROR"}}, 4, 1),
        ({"status": {"code": 1}}, 4, 0),
        ({"status": {}}, 4, 0),
        ({"status": "bad"}, 4, 0),
        ({"attributes": attributes(http__response__status_code=503)}, 4, 1),
        ({"attributes": attributes(http__status_code="500")}, 4, 1),
        ({"attributes": attributes(http__status_code=404)}, 4, 0),
        ({"attributes": attributes(rpc__grpc__status_code=14)}, 4, 1),
        ({"attributes": attributes(rpc__grpc__status_code=0)}, 4, 0),
        ({"startTimeUnixNano": START}, 5, START),
        ({"endTimeUnixNano": str(START)}, 6, START),
        ({"kind": 3, "attributes": attributes(server__address="db", db__system="x")}, 7, "db"),
        ({"kind": 3, "attributes": attributes(db__system="postgresql")}, 7, "postgresql"),
        ({"kind": 3, "attributes": attributes(rpc__service="shop.Cart")}, 7, "shop.Cart"),
        ({"kind": 2, "attributes": attributes(server__address="me")}, 7, ""),
        ({"attributes": [None, {}, {"key": 1}, {"key": [], "value": 3}, 5]}, 7, ""),
        ({"links": [{}], "flags": 256, "unknownField": {"a": [1]}}, 0, SPAN),
    ],
)
def test_spans_are_read_as_emitters_write_them(changes, position, expected):
    [[_, _, _, [packed]]] = spans_of(request("traces", [span(**changes)]))[TRACE]
    assert packed[position] == expected


@pytest.mark.parametrize(
    ("changes", "reason", "event_time_ms"),
    [
        ({"endTimeUnixNano": START - 1}, "endTimeUnixNano 1544712659999999999 is before", True),
        ({"startTimeUnixNano": ...}, "startTimeUnixNano is missing", END // 10**6),
        ({"startTimeUnixNano": "0"}, "startTimeUnixNano is missing", END // 10**6),
        ({"endTimeUnixNano": None}, "endTimeUnixNano is missing", True),
        ({"endTimeUnixNano": "soon"}, "endTimeUnixNano 'soon' is not an integer", True),
        (
            {"startTimeUnixNano": 1544712660},
            "startTimeUnixNano 1544712660 is outside of 2000",
            END // 10**6,
        ),
        ({"endTimeUnixNano": 2**62}, "endTimeUnixNano 4611686018427387904 is outside", True),
        ({"traceId": ...}, "traceId is missing", True),
        ({"traceId": "0" * 32}, "traceId is all zeros", True),
        ({"traceId": "abc"}, "traceId 'abc' is not 32 hex digits", True),
        ({"traceId": [TRACE]}, "traceId", True),
        ({"spanId": ""}, "spanId is missing", True),
        ({"spanId": "0" * 16}, "spanId is all zeros", True),
        ({"spanId": "x" * 16}, "spanId 'xxxxxxxxxxxxxxxx' is not 16 hex digits", True),
        ({"spanId": 12}, "spanId 12 is not 16 hex digits", True),
        ({"parentSpanId": "nobody"}, "parentSpanId 'nobody' is not 16 hex digits", True),
    ],
)
def test_a_bad_span_is_rejected_and_the_rest_of_its_request_used(changes, reason, event_time_ms):
    resource = attributes(service__name="cart")
    fragments, _, rejects = collect_spans(request("traces", [span(**changes), span()], resource))
    assert orjson.loads(fragments[TRACE])[1][0][3] == [[SPAN, PARENT, "GET /cart", 2, 0, START, END, ""]]
    rejected = only_reject(rejects)
    assert rejected["stream"] == "otlp_spans"
    assert reason in rejected["reason"]
    expected = START // 10**6 if event_time_ms is True else event_time_ms
    assert rejected["event_time_ms"] == expected
    payload = orjson.loads(rejected["payload"])
    assert payload == {"otel_service_name": "cart", "resource": {"service.name": "cart"}, "span": span(**changes)}


@pytest.mark.parametrize(
    ("resource", "service", "pod", "resource_id"),
    [
        (attributes(), "unknown_service", "", ""),
        (attributes(service__name="a", service__namespace="ns"), "ns/a", "", ""),
        (attributes(k8s__pod__name="p", k8s__namespace__name="n"), "unknown_service", "n/p", ""),
        (attributes(k8s__pod__name="p"), "unknown_service", "p", ""),
        (
            attributes(container__id="c0ffee", k8s__namespace__name="n"),
            "unknown_service",
            "c0ffee",
            "",
        ),
        (attributes(k8s__node__name="n", host__id="h"), "unknown_service", "", "h"),
        (attributes(host__id="h", cloud__resource_id="/vm/1"), "unknown_service", "", "/vm/1"),
        (attributes(service__name=42), "42", "", ""),
    ],
)
def test_resources_tie_spans_to_workload_consumer_and_bill(resource, service, pod, resource_id):
    [group] = spans_of(request("traces", [span()], resource))[TRACE]
    assert group[:3] == [service, pod, resource_id]


def test_many_traces_and_resources_in_one_request_are_kept_apart():
    other = "a" * 32
    two = [
        {
            "resource": {"attributes": attributes(service__name=name)},
            "scopeSpans": [
                {"spans": [span(), span(traceId=other)]},
                {"spans": [span(spanId="b" * 16)]},
            ],
        }
        for name in ("cart", "shop")
    ]
    found = spans_of(orjson.dumps({"resourceSpans": two}))
    count = {trace: sorted((group[0], len(group[3])) for group in groups) for trace, groups in found.items()}
    assert count[other] == [("cart", 1), ("shop", 1)]
    assert sum(n for _, n in count[TRACE]) == 4


def test_older_and_snake_case_requests_give_the_same_spans():
    line = request("traces", [span()], attributes(service__name="cart"))
    old = line.replace(b"scopeSpans", b"instrumentationLibrarySpans")
    snake = line
    for camel, written in [
        (b"resourceSpans", b"resource_spans"),
        (b"scopeSpans", b"scope_spans"),
        (b"traceId", b"trace_id"),
        (b"parentSpanId", b"parent_span_id"),
        (b"spanId", b"span_id"),
        (b"startTimeUnixNano", b"start_time_unix_nano"),
        (b"stringValue", b"string_value"),
        (b"endTimeUnixNano", b"end_time_unix_nano"),
    ]:
        snake = snake.replace(camel, written)
    assert spans_of(line) == spans_of(old) == spans_of(snake)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"  \r\n",
        b'{"resourceSpans":[]}',
        b'{"resource_spans":[]}',
        b'{"resourceSpans":null}',
        b'{"resourceSpans":[{"resource":{},"scopeSpans":[{"spans":[]}]}]}',
        b'\xef\xbb\xbf{"resourceSpans":[{}]}',
    ],
)
def test_nothing_in_is_nothing_out(line):
    assert collect_spans(line) == ({}, {}, [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not a line of JSON"),
        (b"\xff\xfe", "not a line of JSON"),
        (b"[" * 5000, "not a line of JSON"),
        (b"[]", "no object with resourceSpans"),
        (b"7", "no object with resourceSpans"),
        (b'"resourceSpans"', "no object with resourceSpans"),
        (b"{}", "no object with resourceSpans"),
        (b'{"resourceMetrics":[]}', "no object with resourceSpans"),
        (b'{"resourceSpans":5}', "resourceSpans is not an array"),
        (b'{"resourceSpans":["x"]}', "an element of resourceSpans is not an object"),
        (b'{"resourceSpans":[{"scopeSpans":{}}]}', "scopeSpans is not an array"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[null]}]}]}', "an element of spans"),
    ],
)
def test_an_unusable_line_is_one_reject(line, reason):
    fragments, pods, rejects = collect_spans(line)
    assert (fragments, pods) == ({}, {})
    rejected = only_reject(rejects)
    assert reason in rejected["reason"]
    assert rejected["event_time_ms"] is None


def test_a_payload_is_whole():
    line = b'{"resourceSpans": [' + b"x" * 10_000
    rejected = only_reject(collect_spans(line)[2])
    assert (rejected["payload"], rejected["code"]) == (line.decode(), "unreadable")


def test_what_is_longer_than_any_request_is_cut_but_stays_different():
    payloads = {reject("otlp_spans", "why", b"x" * PAYLOAD_MAX_CHARS + end) for end in (b"a", b"b")}
    assert len(payloads) == 2
    for payload in payloads:
        payload = orjson.loads(payload)["payload"]
        assert len(payload) == PAYLOAD_MAX_CHARS and f"{PAYLOAD_MAX_CHARS + 1} characters" in payload


def test_what_only_careless_writers_call_json_is_read():
    line = request("traces", [span(name="NAME")])
    for name, expected in [
        (rb'"cut \ud83d"', "cut ?"),
        (b'"caf\xe9"', "caf\ufffd"),
        (b"NaN", "NaN"),
        (rb'"\\\\ud83d\udc00"', "\\\\ud83d?"),
        (b"1e999", "1e999"),
    ]:
        [[_, _, _, [packed]]] = spans_of(line.replace(b'"NAME"', name))[TRACE]
        assert packed[2] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GET /users/123", "GET /users/{}"),
        ("GET /users/123/orders/4?page=2&x=1", "GET /users/{}/orders/{}"),
        ("/v2/items", "/v2/items"),
        ("order 9F1C2B3A-0000-4000-8000-1234567890ab done", "order {} done"),
        ("/blob/5b8efff798038103d269b633813fc60c", "/blob/{}"),
        ("SELECT ts.trip2 WHERE id = ?", "SELECT ts.trip2 WHERE id = ?"),
        ("hipstershop.CartService/GetCart", "hipstershop.CartService/GetCart"),
        ("x" * 500, "x" * 200),
    ],
)
def test_operation_names_lose_their_ids(name, expected):
    assert operation_name(name) == expected


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(["", "r", "s"])), min_size=1))
@settings(derandomize=True, max_examples=50)
def test_owners_merge_the_same_in_any_order(owners):
    def merged(entries: list) -> bytes:
        result = orjson.dumps(entries[0])
        for entry in entries[1:]:
            result = merge_owner(result, orjson.dumps(entry))
        return result

    assert merged(owners) == merged(owners[::-1]) == merged(sorted(owners) * 2)


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        (["a", "n"], ["a", "n"], ["a", "n"]),
        (["a", ""], ["", "n"], ["a", "n"]),
        (["a", "n"], ["b", "n"], [None, "n"]),
        ([None, "n"], ["a", ""], [None, "n"]),
        ([None, ""], ["", ""], [None, ""]),
        (["a", "n"], ["a", "n", "c"], ["a", "n", "c"]),
        (["a", "n", "b"], ["a", "n", "c"], ["a", "n", None]),
    ],
)
def test_owners_that_contradict_each_other_are_unknown(one, other, merged):
    claims = orjson.dumps(one), orjson.dumps(other)
    assert orjson.loads(merge_owner(*claims)) == orjson.loads(merge_owner(*claims[::-1])) == merged


def test_two_workloads_in_one_pod_leave_its_owner_unknown():
    resources = [
        {
            "resource": {"attributes": attributes(service__name=name, k8s__pod__name="p")},
            "scopeSpans": [{"spans": []}],
        }
        for name in ("cart", "envoy", "cart")
    ]
    assert collect_spans(orjson.dumps({"resourceSpans": resources}))[1] == {"p": b'[null,""]'}


# ---- metrics --------------------------------------------------------------------------------

POD = attributes(service__name="cart", k8s__pod__uid="u-1", k8s__pod__name="cart-1",
                 k8s__namespace__name="shop", k8s__node__name="node-1")  # fmt: skip


def metric(name: str, form: str = "gauge", unit: str = "", temporality: object = 2, **changes) -> dict:
    point = {"timeUnixNano": str(NOON), "asDouble": 1.5} | changes
    point = {key: value for key, value in point.items() if value is not ...}
    data: dict = {"dataPoints": [point]}
    if form == "sum":
        data |= {"aggregationTemporality": temporality, "isMonotonic": True}
    return {"name": name, "unit": unit, form: data}


def points_of(metrics: list, resource: list = POD) -> list:
    """The points of the bucket of NOON, and no reject; keys are checked by the tests of keys."""
    fragments, _, rejects = collect_metrics(request("metrics", metrics, resource))
    assert rejects == []
    return [row for fragment in fragments.values() for row in orjson.loads(fragment)]


@pytest.mark.parametrize(
    ("sent", "dimension", "preference", "kind", "start_ns", "value"),
    [
        (
            metric("container.cpu.time", "sum", "s", startTimeUnixNano=NOON - 9),
            "cpu", 0, "c", NOON - 9, 1.5,
        ),
        (metric("k8s.pod.cpu.time", "sum", "ms"), "cpu", 1, "c", 0, 0.0015),
        (
            metric("k8s.pod.cpu.time", "sum", "ns", asDouble=..., asInt="2000"),
            "cpu", 1, "c", 0, 2e-6,
        ),
        (metric("k8s.pod.cpu.time", "gauge", "s"), "cpu", 1, "c", 0, 1.5),
        (metric("container_cpu_usage_seconds_total", "sum"), "cpu", 2, "c", 0, 1.5),
        (metric("container.cpu.usage", unit="{cpu}"), "cpu", 3, "g", 0, 1.5),
        (metric("k8s.pod.cpu.usage", unit="1", startTimeUnixNano="5"), "cpu", 4, "g", 0, 1.5),
        (
            metric("container.memory.working_set", unit="By", asDouble=..., asInt=7),
            "memory", 0, "g", 0, 7.0,
        ),
        (metric("k8s.pod.memory.working_set", unit="MiBy"), "memory", 1, "g", 0, 1.5 * 2**20),
        (metric("container.memory.usage", "sum", "By"), "memory", 2, "g", 0, 1.5),
        (metric("k8s.pod.memory.usage", unit="KiBy"), "memory", 3, "g", 0, 1536.0),
        (
            metric("container.blockio.io_serviced_recursive", "sum", "{operations}"),
            "io", 0, "c", 0, 1.5,
        ),
        (
            metric("k8s.pod.network.io", "sum", "By", attributes=attributes(direction="transmit")),
            "network", 0, "c", 0, 1.5,
        ),
        (
            metric("k8s.pod.cpu.time", "sum", "s", "AGGREGATION_TEMPORALITY_DELTA",
                   startTimeUnixNano=NOON - 10**9),
            "cpu", 1, "d", NOON - 10**9, 1.5,
        ),
    ],
)  # fmt: skip
def test_usage_points_carry_dimension_preference_kind_and_base_units(
    sent, dimension, preference, kind, start_ns, value
):
    [row] = points_of([sent])
    assert row[:2] == [dimension, preference]
    assert row[3:] == [kind, start_ns, NOON, pytest.approx(value)]


@pytest.mark.parametrize(
    "sent",
    [
        metric("k8s.pod.network.io", "sum", "By", attributes=attributes(direction="receive")),
        metric("k8s.pod.cpu.time", "sum", "s", flags=1, asDouble=...),
        metric(
            "container.blockio.io_serviced_recursive",
            "sum",
            attributes=attributes(operation="total"),
        ),
        metric(
            "container.blockio.io_serviced_recursive",
            "sum",
            attributes=attributes(operation="Sync"),
        ),
        metric("container_cpu_usage_seconds_total", "sum", attributes=attributes(pod="p", container="")),
        {"name": "k8s.pod.cpu.time", "unit": "s", "sum": {"dataPoints": []}},
        {"name": "k8s.pod.cpu.time", "unit": "s", "sum": {}},
    ],
)
def test_points_that_repeat_others_or_are_not_billed_are_passed_over(sent):
    assert collect_metrics(request("metrics", [sent], POD))[::2] == ({}, [])


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (metric("k8s.pod.cpu.usage", asDouble=-1), "value -1 is not finite and at least 0"),
        (metric("k8s.pod.cpu.usage", asDouble="NaN"), "value 'NaN' is not finite"),
        (metric("k8s.pod.cpu.usage", asDouble="Infinity"), "value 'Infinity' is not finite"),
        (metric("k8s.pod.cpu.usage", asDouble=...), "value None is not a number"),
        (metric("k8s.pod.memory.usage", unit="GiBy", asDouble=1e308), "value inf is not finite"),
        (metric("k8s.pod.cpu.usage", timeUnixNano=...), "timeUnixNano is missing"),
        (metric("k8s.pod.cpu.usage", timeUnixNano=5), "timeUnixNano 5 is outside of 2000 to 2100"),
        (metric("k8s.pod.cpu.usage", flags="x"), "flags 'x' is not an integer"),
        (metric("k8s.pod.cpu.time", "sum", "s", 1), "startTimeUnixNano is missing"),
        (
            metric("k8s.pod.cpu.time", "sum", "s", 1, startTimeUnixNano=NOON),
            "is not before timeUnixNano",
        ),
        (
            metric("k8s.pod.cpu.time", "sum", "s", startTimeUnixNano=NOON + 1),
            "is not before timeUnixNano",
        ),
        (
            metric("k8s.pod.cpu.time", "sum", "s", 1, startTimeUnixNano=NOON - 2 * 86_400 * 10**9),
            "a delta over 172800000 ms is longer than 86400000 ms",
        ),
        (metric("k8s.pod.memory.usage", "sum", "By", 1), "a delta sum of what is a level"),
        (metric("k8s.pod.cpu.time", "histogram", "s"), "neither a sum nor a gauge"),
        (
            metric("k8s.pod.cpu.time", "sum", "fortnights"),
            "unit 'fortnights' is not known: use one of s",
        ),
        (metric("k8s.pod.network.io", "sum", "By"), "direction '': set it to transmit"),
        ({"name": "k8s.pod.cpu.time", "gauge": {"dataPoints": [3]}}, "an element of dataPoints"),
    ],
)
def test_a_bad_point_is_rejected_and_the_rest_used(sent, reason):
    good = metric("k8s.pod.memory.working_set", unit="By")
    fragments, _, rejects = collect_metrics(request("metrics", [sent, good], POD))
    assert [len(orjson.loads(fragment)) for fragment in fragments.values()] == [1]
    rejected = only_reject(rejects)
    assert rejected["stream"] == "otlp_metrics"
    assert reason in rejected["reason"]


def test_other_metrics_recur_as_one_and_the_same_reject():
    sent = [metric("my.counter", "sum", "1", asDouble=value) for value in (1, 2)]
    rejected = only_reject(collect_metrics(request("metrics", sent, POD))[2])
    assert orjson.loads(rejected["payload"]) == {"metric": "my.counter", "unit": "1"}
    assert rejected["event_time_ms"] is None
    assert "container.cpu.time" in rejected["reason"]


@pytest.mark.parametrize(
    ("resource", "consumer"),
    [
        (POD, ["u-1", "shop/cart-1", "cart", "node-1"]),
        (attributes(k8s__pod__name="p"), ["", "p", "", ""]),
        (attributes(container__id="c0ffee", host__id="h"), ["", "c0ffee", "", "h"]),
        (attributes(k8s__node__name="node-1"), None),
        (attributes(service__name="cart", host__id="h"), None),
    ],
)
def test_usage_keys_name_bucket_and_consumer(resource, consumer):
    sent = [metric("container.memory.usage", unit="By")] * 2
    fragments, _, rejects = collect_metrics(request("metrics", sent, resource))
    if consumer is None:
        assert fragments == {}
        rejected = only_reject(rejects)
        assert "k8sattributes" in rejected["reason"]
        assert rejected["event_time_ms"] is None
    else:
        assert list(fragments) == ["\x1f".join([str(bucket_start(NOON_MS)), *consumer])]


def test_labels_of_cadvisor_name_the_consumer_not_the_scraped_kubelet():
    labels = attributes(namespace="shop", pod="cart-1", container="cart", cpu="total")
    kubelet = attributes(service__name="kubelet", k8s__node__name="node-1")
    sent = metric("container_cpu_usage_seconds_total", "sum", attributes=labels)
    [key] = collect_metrics(request("metrics", [sent], kubelet))[0]
    assert key.split("\x1f")[1:] == ["", "shop/cart-1", "", "node-1"]


@pytest.mark.parametrize(
    ("name", "unit", "value"),
    [
        ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "", 0.5),
        ("DCGM_FI_DEV_GPU_UTIL", "", 0.005),
        ("DCGM_FI_DEV_GPU_UTIL", "%", 0.005),
    ],
)
@pytest.mark.parametrize("prefix", ["", "exported_"])
def test_labels_of_dcgm_name_the_pod_that_has_the_gpu(name: str, unit: str, value: float, prefix: str):
    labels = {f"{prefix}namespace": "ml", f"{prefix}pod": "train-1", f"{prefix}container": "main"}
    own = {"pod": "dcgm-exporter-x", "namespace": "monitoring"} if prefix else {}
    sent = metric(name, unit=unit, asDouble=0.5, attributes=attributes(UUID="GPU-1", **own, **labels))
    fragments = collect_metrics(request("metrics", [sent], attributes(k8s__node__name="node-1")))[0]
    [key] = fragments
    assert key.split("\x1f")[1:] == ["", "ml/train-1", "", "node-1"]
    [point] = orjson.loads(fragments[key])
    assert (point[0], point[3], point[6]) == ("gpu", "g", value)


def test_each_gpu_of_a_pod_is_a_series_of_its_own():
    sent = [
        metric("hw.gpu.utilization", unit="1", asDouble=0.5, attributes=attributes(hw__id=id_)) for id_ in ("a", "b")
    ]
    assert len({row[2] for row in points_of(sent, POD)}) == 2


def test_the_video_engines_of_a_gpu_are_no_use_of_its_cores():
    """OpenTelemetry's hw.gpu.task: general, encoder or decoder, or nothing."""
    shares = {"general": 0.6, "encoder": 0.2, "decoder": 0.1}
    sent = [
        metric("hw.gpu.utilization", unit="1", asDouble=share, attributes=attributes(hw__id="a", hw__gpu__task=task))
        for task, share in shares.items()
    ]
    assert [row[6] for row in points_of(sent, POD)] == [0.6]


def test_a_gpu_that_no_pod_has_is_told():
    sent = metric("DCGM_FI_DEV_GPU_UTIL", attributes=attributes(UUID="GPU-1", Hostname="n"))
    _, _, rejects = collect_metrics(request("metrics", [sent], attributes(k8s__node__name="node-1")))
    assert "of no pod or container" in rejects[0]


def test_a_series_is_a_metric_of_a_container_with_its_attributes_in_any_order():
    def series(container: str, **pairs: object) -> str:
        resource = POD + attributes(k8s__container__name=container)
        sent = metric("container.cpu.time", "sum", "s", attributes=attributes(**pairs))
        [row] = points_of([sent], resource)
        return row[2]

    assert series("app", state="user", cpu=1) == series("app", cpu=1, state="user")
    assert len({series("app", cpu=1), series("app", cpu=2), series("sidecar", cpu=1)}) == 3


@pytest.mark.parametrize(
    ("offset_ms", "buckets"),
    [
        (0, [-1, 0]),
        (MAX_GAP_MS - 1, [-1, 0]),
        (MAX_GAP_MS, [0]),
        (USAGE_BUCKET_MS - MAX_GAP_MS - 1, [0]),
        (USAGE_BUCKET_MS - MAX_GAP_MS, [0, 1]),
        (USAGE_BUCKET_MS - 1, [0, 1]),
    ],
)
def test_a_point_stands_in_its_bucket_and_the_near_neighbour(offset_ms, buckets):
    first_ms = bucket_start(NOON_MS)
    sent = metric("k8s.pod.cpu.time", "sum", "s", timeUnixNano=(first_ms + offset_ms) * 10**6)
    fragments = collect_metrics(request("metrics", [sent], POD))[0]
    starts = [int(key.split("\x1f")[0]) for key in fragments]
    assert starts == [first_ms + n * USAGE_BUCKET_MS for n in buckets]
    assert len(set(fragments.values())) == 1


def test_a_delta_stands_in_every_bucket_that_it_touches():
    start = NOON - 3 * USAGE_BUCKET_MS * 10**6
    sent = metric("k8s.pod.cpu.time", "sum", "s", 1, startTimeUnixNano=start)
    assert len(collect_metrics(request("metrics", [sent], POD))[0]) == 4


# ---- logs -----------------------------------------------------------------------------------


def log(**changes: object) -> dict:
    fields = {
        "timeUnixNano": str(START),
        "severityNumber": 17,
        "traceId": TRACE,
        "spanId": SPAN,
        "body": {"stringValue": "boom"},
    } | changes
    return {key: value for key, value in fields.items() if value is not ...}


@pytest.mark.parametrize(
    ("changes", "position", "expected"),
    [
        ({}, 0, "cart"),
        ({"traceId": TRACE.upper(), "spanId": SPAN.upper()}, 1, SPAN),
        ({"spanId": ...}, 1, ""),
        ({}, 2, 17),
        ({"severityNumber": "SEVERITY_NUMBER_WARN2"}, 2, 14),
        ({"severityNumber": "21"}, 2, 21),
        ({"severityNumber": ..., "severityText": "Warning"}, 2, 13),
        ({"severityNumber": 0, "severityText": "error"}, 2, 17),
        ({"severityNumber": 99, "severityText": "?"}, 2, 0),
        ({}, 3, START),
        ({"timeUnixNano": 0, "observedTimeUnixNano": END}, 3, END),
        ({}, 4, zlib.crc32(b"boom")),
        ({"body": ...}, 4, 0),
        (
            {"body": {"kvlistValue": {"values": [{"key": "b", "value": {"intValue": "1"}},
                                                 {"key": "a", "value": {"boolValue": True}}]}}},
            4, zlib.crc32(b'{"a":true,"b":1}'),
        ),
        ({"body": {"arrayValue": {"values": [{"doubleValue": 0.5}, {"bytesValue": "AA=="}, {}]}}},
         4, zlib.crc32(b'[0.5,"AA==",null]')),
    ],
)  # fmt: skip
def test_logs_of_a_trace_are_counted(changes, position, expected):
    line = request("logs", [log(**changes)], attributes(service__name="cart"))
    fragments, rejects = collect_logs(line)
    assert rejects == []
    tag, [row] = orjson.loads(fragments[TRACE])
    assert (tag, row[position]) == ("logs", expected)


def test_values_nested_deeper_than_sixteen_are_cut():
    def body_crc(levels: int) -> int:
        body: dict = {"intValue": 1}
        for _ in range(levels):
            body = {"arrayValue": {"values": [body]}}
        return orjson.loads(collect_logs(request("logs", [log(body=body)]))[0][TRACE])[1][0][4]

    assert body_crc(16) == zlib.crc32(b"[" * 16 + b"1" + b"]" * 16)
    assert body_crc(17) == body_crc(60) == zlib.crc32(b"[" * 17 + b"null" + b"]" * 17)


@pytest.mark.parametrize(
    ("changes", "reason", "event_time_ms"),
    [
        ({"traceId": "xyz"}, "traceId 'xyz' is not 32 hex digits", START // 10**6),
        ({"spanId": "xyz"}, "spanId 'xyz' is not 16 hex digits", START // 10**6),
        ({"timeUnixNano": ...}, "(and observedTimeUnixNano) is missing", None),
        ({"timeUnixNano": "x"}, "timeUnixNano 'x' is not an integer", None),
    ],
)
def test_a_bad_log_record_is_rejected_and_the_rest_used(changes, reason, event_time_ms):
    fragments, rejects = collect_logs(request("logs", [log(**changes), log()]))
    assert len(orjson.loads(fragments[TRACE])[1]) == 1
    rejected = only_reject(rejects)
    assert reason in rejected["reason"]
    assert rejected["event_time_ms"] == event_time_ms


def test_logs_without_trace_recur_as_one_reject_for_each_severity():
    records = [log(traceId=..., timeUnixNano=START + n, severityNumber=9) for n in range(5)]
    fragments, rejects = collect_logs(request("logs", records, attributes(service__name="cart")))
    assert fragments == {}
    rejected = only_reject(rejects)
    assert orjson.loads(rejected["payload"]) == {"otel_service_name": "cart", "severity_number": 9}
    assert "log correlation" in rejected["reason"]
    assert rejected["event_time_ms"] is None


# ---- any bytes ------------------------------------------------------------------------------

FIELDS = sorted(
    "resourceSpans resourceMetrics resourceLogs resource attributes scopeSpans scopeMetrics"
    " scopeLogs spans metrics logRecords traceId spanId parentSpanId name kind status code"
    " startTimeUnixNano endTimeUnixNano timeUnixNano observedTimeUnixNano key value stringValue"
    " intValue doubleValue boolValue arrayValue kvlistValue values bytesValue sum gauge dataPoints"
    " asInt asDouble flags"
    " aggregationTemporality severityNumber severityText body unit trace_id scope_spans".split()
)
VALUES = st.sampled_from([TRACE, SPAN, str(START), START, "cart", "s", *sorted(otlp.USAGE_METRICS)])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | VALUES
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=25,
)
GOOD_LINES = [
    request("traces", [span(attributes=attributes(http__status_code=500, peer__service="x"))], POD),
    request(
        "metrics",
        [metric(n, "sum", "", 1, startTimeUnixNano=NOON - 9) for n in otlp.USAGE_METRICS],
        POD,
    ),
    request("logs", [log()], POD),
]
COLLECTORS = {
    "otlp_spans": collect_spans,
    "otlp_metrics": collect_metrics,
    "otlp_logs": collect_logs,
}


def assert_all_is_bytes_or_rejects(line: bytes) -> None:
    for stream, collect in COLLECTORS.items():
        fragments, *pods, rejects = collect(line)
        for table in (fragments, *pods):
            for key, value in table.items():
                assert type(key) is str and key and type(value) is bytes
                orjson.loads(value)
        for rejected in map(orjson.loads, rejects):
            assert rejected["stream"] == stream
            assert rejected["reason"] and rejected["payload"] and rejected["code"] in set(Code)


def replace_somewhere(data, node, replacement):
    """``node`` with one part of it, chosen by hypothesis, replaced."""
    if isinstance(node, dict) and node and data.draw(st.booleans() | st.just(True)):
        key = data.draw(st.sampled_from(sorted(node)))
        return node | {key: replace_somewhere(data, node[key], replacement)}
    if isinstance(node, list) and node and data.draw(st.booleans() | st.just(True)):
        at = data.draw(st.integers(0, len(node) - 1))
        return [*node[:at], replace_somewhere(data, node[at], replacement), *node[at + 1 :]]
    return replacement


@given(st.data(), st.sampled_from(GOOD_LINES), JSON)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_no_structure_raises(data, line, replacement):
    mutated = replace_somewhere(data, orjson.loads(line), replacement)
    assert_all_is_bytes_or_rejects(json.dumps(mutated).encode())


@given(st.sampled_from(GOOD_LINES), st.integers(0, 2000), st.binary(max_size=6), st.integers(0, 6))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_no_bytes_raise(line, at, inserted, removed):
    at %= len(line)
    assert_all_is_bytes_or_rejects(line[:at] + inserted + line[at + removed :])


@pytest.mark.parametrize("depth", [200, 300, 990, 1020, 100_000])
@pytest.mark.parametrize("field", [b'"name"', b'"attributes"', b'"body"', b'"x_unix_nano"', b'"spanId"'])
def test_no_depth_raises(depth, field):
    for line in GOOD_LINES:
        for deep in (b"[" * depth + b"]" * depth, b'{"value":' * depth + b"1" + b"}" * depth):
            assert_all_is_bytes_or_rejects(line.replace(b'"name"', field + b":" + deep + b',"name"', 1))
            assert_all_is_bytes_or_rejects(line.replace(b'"body":{', field + b":" + deep + b',"body":{'))


# ---- real data ------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["train-ticket", "online-boutique"])
def test_real_telemetry_is_used_to_the_last_record(shared_data, world):
    def lines(folder: str, every: int) -> Iterator[bytes]:
        for path in sorted((shared_data / world / folder).glob("*.jsonl.gz"))[::every]:
            with gzip.open(path) as file:
                yield from file

    for line in lines("traces", every=16):
        fragments, _, rejects = collect_spans(line)
        groups = [group for f in fragments.values() for group in orjson.loads(f)[1]]
        assert rejects == []
        assert sum(len(group[3]) for group in groups) == line.count(b'"spanId":') > 0
    for line in lines("metrics", every=2):
        fragments, _, rejects = collect_metrics(line)
        times = {row[5] for f in fragments.values() for row in orjson.loads(f)}
        assert rejects == []
        assert times == {int(time) for time in re.findall(rb'"timeUnixNano":"(\d+)"', line)}


def test_the_protocols_own_examples_are_used_or_rejected(shared_data):
    def line(name: str) -> bytes:
        return orjson.dumps(orjson.loads((shared_data / "otlp-examples" / name).read_bytes()))

    assert list(collect_spans(line("trace.json"))[0]) == [TRACE]
    assert list(collect_logs(line("logs.json"))[0]) == [TRACE]
    assert len(collect_logs(line("events.json"))[1]) == 1
    assert len(collect_metrics(line("metrics.json"))[2]) == 4


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets beside the repository; the tests that need them are skipped without."""
    path = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data at {path}: what it would show is not tested here")
    return path
