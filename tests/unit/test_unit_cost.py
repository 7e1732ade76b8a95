"""What a request costs: every unit of a window's allocations goes to a kind of request, or says why not."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal

import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pyflink.common import Row, RowKind

from tests.unit.keyed_stage import Stage
from tests.unit.test_case import WARM
from tests.unit.test_detect import minute
from udfs.attribute import ALLOCATIONS
from udfs.judge import INCIDENTS, REQUESTS, Judge, case_rows
from udfs.pure.assemble import SEPARATOR, assemble, unpack
from udfs.pure.attribute import packed
from udfs.pure.case import Case, as_it_is
from udfs.pure.detect import LAG_MINUTES, Detector
from udfs.pure.otlp import collect_spans
from udfs.pure.unit_cost import (
    CALLS,
    NONE,
    OTHER,
    UNTRACED,
    VALUES_MOST,
    demand,
    unit_costs,
    unit_costs_by_attribute,
)
from udfs.rank import UNIT_COSTS, Rank

WINDOW_MS = 1_741_000_000_000 // 1_800_000 * 1_800_000
GET, BUY = f"front{SEPARATOR}GET /", f"front{SEPARATOR}POST /buy"


def allocation(service: str, cost: str, dimension: str = "cpu", **more: object) -> dict:
    return {
        "window_start": WINDOW_MS,
        "resource_id": "node",
        "dimension": dimension,
        "otel_service_name": service,
        "usage": 1.0,
        "share": 1.0,
        "allocated_cost": Decimal(cost),
        "billing_currency": "USD",
        "cost_status": "billed",
        "cost_center": None,
    } | more


def asked(requests: dict[str, int], **work: dict[str, dict[str, float]]) -> dict:
    return {"requests": requests, "work": work}


def by_key(rows: list[dict]) -> dict[tuple[str, str, str], dict]:
    return {(row["otel_service_name"], row["root_service_name"], row["root_operation"]): row for row in rows}


def test_a_service_s_cost_goes_to_the_requests_by_the_usage_that_they_cause() -> None:
    demands = [
        asked({GET: 30, BUY: 5}, pay={BUY: {"cpu": 9.0, CALLS: 5}, GET: {"cpu": 1.0, CALLS: 30}}),
        asked({GET: 10, BUY: 5}, pay={BUY: {"cpu": 9.0, CALLS: 5}, GET: {"cpu": 1.0, CALLS: 10}}),
    ]
    found = by_key(unit_costs(WINDOW_MS, demands, [allocation("pay", "10")]))
    assert found["pay", "front", "POST /buy"]["cost"] == Decimal("9.000000000000")
    assert found["pay", "front", "POST /buy"]["requests"] == 10
    assert found["pay", "front", "POST /buy"]["cost_per_request"] == Decimal("0.900000000000")
    assert found["pay", "front", "GET /"]["cost_per_request"] == Decimal("0.025000000000")


def test_without_known_usage_calls_tell() -> None:
    demands = [asked({GET: 3, BUY: 1}, pay={GET: {"cpu": 0.0, CALLS: 3}, BUY: {"cpu": 0.0, CALLS: 1}})]
    rows = unit_costs(WINDOW_MS, demands, [allocation("pay", "4"), allocation("pay", "8", "other")])
    found = by_key(rows)
    assert found["pay", "front", "GET /"]["cost"] == 9 and found["pay", "front", "POST /buy"]["cost"] == 3


def test_what_no_request_caused_keeps_a_name_of_its_own() -> None:
    rows = unit_costs(
        WINDOW_MS,
        [asked({GET: 1}, pay={GET: {"cpu": 1.0, CALLS: 1}})],
        [allocation("batch", "2"), allocation("__idle__", "3"), allocation("__unallocated__", "-1")],
    )
    found = by_key(rows)
    assert found["batch", UNTRACED, ""]["cost"] == 2
    assert found["__idle__", "__idle__", ""]["cost"] == 3
    assert found["__unallocated__", "__unallocated__", ""]["cost"] == -1
    assert all(row["requests"] is None and row["cost_per_request"] is None for row in rows)


def test_a_sum_is_provisional_as_long_as_a_part_of_it_is() -> None:
    demands = [asked({GET: 1}, pay={GET: {"cpu": 1.0, "memory": 1.0, CALLS: 1}})]
    statuses = {}
    for status in ("provisional", "corrected"):
        rows = [allocation("pay", "1"), allocation("pay", "1", "memory", cost_status=status)]
        [row] = unit_costs(WINDOW_MS, demands, rows)
        statuses[status] = row["cost_status"]
    assert statuses == {"provisional": "provisional", "corrected": "corrected"}


names = st.sampled_from(["pay", "cart", "batch", "__idle__", "__unallocated__", "__system__"])
money = st.decimals(-1000, 1000, places=12)


@given(
    st.lists(st.tuples(names, st.sampled_from(["cpu", "io", "other"]), st.sampled_from(["USD", "EUR"]), money)),
    st.lists(st.tuples(st.sampled_from(["pay", "cart"]), st.sampled_from([GET, BUY]), st.floats(0, 1e9))),
)
def test_the_costs_of_a_window_sum_to_its_allocations(charged: list, worked: list) -> None:
    demands = [asked({kind: 1}, **{service: {kind: {"cpu": used, CALLS: 1.0}}}) for service, kind, used in worked]
    rows = unit_costs(
        WINDOW_MS, demands, [allocation(s, str(cost), d, billing_currency=c) for s, d, c, cost in charged]
    )
    expected: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for service, _, currency, cost in charged:
        expected[service, currency] += cost
    found: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in rows:
        found[row["otel_service_name"], row["billing_currency"]] += row["cost"]
    assert found == expected
    # In whatever order minutes come.
    assert unit_costs(WINDOW_MS, demands[::-1], [
        allocation(s, str(cost), d, billing_currency=c) for s, d, c, cost in charged[::-1]
    ]) == rows  # fmt: skip


TRAITS = ("tenant.id", "feature")

# ---- by attribute ----------------------------------------------------------------------------


@given(
    st.lists(st.tuples(names, st.sampled_from(["cpu", "io", "other"]), st.sampled_from(["USD", "EUR"]), money)),
    st.lists(st.tuples(st.sampled_from(["pay", "cart"]), st.integers(0, 600), st.floats(0, 1e9))),
    st.randoms(use_true_random=False),
)
def test_for_each_attribute_the_costs_of_its_values_sum_to_the_allocations(charged: list, worked: list, draw) -> None:
    demands = [
        {"traits": {
            "tenant.id": asked({f"t{tenant}": 1.5}, **{service: {f"t{tenant}": {"cpu": used, CALLS: 1.0}}}),
            "feature": asked({NONE: 1.5}, **{service: {NONE: {"cpu": used, CALLS: 1.0}}}),
        }}
        for service, tenant, used in worked
    ]  # fmt: skip
    allocations = [allocation(s, str(cost), d, billing_currency=c) for s, d, c, cost in charged]
    rows = unit_costs_by_attribute(WINDOW_MS, TRAITS, demands, allocations)
    expected: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for service, _, currency, cost in charged:
        expected[service, currency] += cost
    for name in TRAITS:
        found: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for row in rows:
            if row["attribute_name"] == name:
                found[row["otel_service_name"], row["billing_currency"]] += row["cost"]
        assert found == expected
    assert len({row["attribute_value"] for row in rows if row["attribute_value"][0] == "t"}) <= VALUES_MOST
    draw.shuffle(demands)
    draw.shuffle(allocations)
    assert unit_costs_by_attribute(WINDOW_MS, TRAITS, demands, allocations) == rows


def test_the_values_beyond_those_that_most_requests_have_are_one() -> None:
    count = VALUES_MOST + 3
    work = {f"t{n:03}": {"cpu": 1.0, CALLS: 1.0} for n in range(count)}
    requests = {f"t{n:03}": count - n for n in range(count)}
    demands = [{"traits": {"tenant.id": asked(requests, pay=work)}}]
    rows = unit_costs_by_attribute(WINDOW_MS, TRAITS[:1], demands, [allocation("pay", str(count))])
    assert len(rows) == VALUES_MOST + 1
    [other] = [row for row in rows if row["attribute_value"] == OTHER]
    assert (other["requests"], other["cost"]) == (1 + 2 + 3, 3)


# ---- what a minute's case says ---------------------------------------------------------------


@pytest.fixture(scope="module")
def case() -> Case:
    """Of a minute in which all is well."""
    detector = Detector(tell=as_it_is)
    found = [case for number in range(WARM + LAG_MINUTES + 1) for case in detector.step(*minute(number))]
    return next(case for case in found if case.is_final and case.minute_ms == minute(WARM)[0])


def test_a_minute_tells_its_requests_and_what_each_asked_of_whom(case: Case) -> None:
    told = demand(case)
    assert sum(told["requests"].values()) == len(case.trace_ids)
    calls = {
        service: sum(usage[CALLS] for usage in by_kind.values()) for service, by_kind in told["work"].items()
    }  # fmt: skip
    assert sum(calls.values()) == case.work.times.sum()
    assert set(told["work"]) <= set(case.services)
    assert any(usage["cpu"] > 0 for by_kind in told["work"].values() for usage in by_kind.values())


def test_a_sampled_minute_tells_what_all_would_have(case: Case) -> None:
    sampled = demand(replace(case, weight=case.weight * 10))
    whole = demand(case)
    assert sampled["requests"] == {kind: 10 * count for kind, count in whole["requests"].items()}
    for service, by_kind in whole["work"].items():
        for kind, usage in by_kind.items():
            assert sampled["work"][service][kind] == pytest.approx({of: 10 * used for of, used in usage.items()})


def test_the_parts_of_a_minute_ask_for_what_the_whole_asks(case: Case) -> None:
    rows = [allocation(service, "1") for service in case.services]
    whole = unit_costs(WINDOW_MS, [demand(case)], rows)
    parts = unit_costs(WINDOW_MS, map(demand, case.parts(spans_most=60)), rows)
    for found, expected in zip(parts, whole, strict=True):
        # A sum of products is rounded by how it is cut.
        assert found | {"cost": 0, "cost_per_request": 0} == expected | {"cost": 0, "cost_per_request": 0}
        assert abs(found["cost"] - expected["cost"]) <= Decimal("1e-9")


def test_a_minute_tells_what_each_value_asked_and_who_has_none(case: Case) -> None:
    traits = [{"tenant.id": "a"} if n % 3 else {} for n in range(len(case.trace_ids))]
    told = demand(replace(case, traits=traits), ["tenant.id", "feature"])
    with_a = sum(bool(of) for of in traits)
    assert told["traits"]["tenant.id"]["requests"] == {"a": with_a, NONE: len(traits) - with_a}
    assert told["traits"]["feature"]["requests"] == {NONE: len(traits)}
    for service, by_kind in told["work"].items():
        by_value = told["traits"]["tenant.id"]["work"][service]
        for dimension in ("cpu", CALLS):
            assert sum(of[dimension] for of in by_value.values()) == pytest.approx(
                sum(of[dimension] for of in by_kind.values())
            )
    assert "traits" not in demand(case)


def test_the_root_s_word_counts_else_the_greatest() -> None:
    def span(span_id: str, parent: str, *more: object) -> list:
        start = WINDOW_MS * 10**6
        return [span_id, parent, "op", 2, 0, start, start + 10**6, "", *more]

    def traits(*spans: list) -> dict:
        found = set()
        for order in (spans, spans[::-1]):
            groups = [["s", "p", "", [row]] for row in order]
            found.add(assemble("t", [orjson.dumps(["spans", groups])])[1])
        assert len(found) == 1
        return dict(unpack(found.pop()).traits)

    child = span("b", "a", 0.0, {"tenant.id": "z", "feature": "f"})
    assert traits(span("a", "", 2.0, {"tenant.id": "m"}), child) == {"tenant.id": "m", "feature": "f"}
    assert traits(span("a", ""), child, span("c", "a", 0.0, {"tenant.id": "y"}))["tenant.id"] == "z"
    assert traits(span("a", ""), span("b", "a")) == {}


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_listed_attributes_are_read_as_text_and_no_others(form: str) -> None:
    start_ns = WINDOW_MS * 10**6
    pairs = [
        {"key": "tenant.id", "value": {"intValue": "7"}}, {"key": "feature", "value": {"stringValue": "__idle__"}},
        {"key": "user", "value": {"stringValue": "x"}},
    ]  # fmt: skip
    span = {"traceId": "ab" * 16, "spanId": "cd" * 8, "name": "op", "startTimeUnixNano": str(start_ns),
            "endTimeUnixNano": str(start_ns + 1), "attributes": pairs}  # fmt: skip
    request = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    line = orjson.dumps(request)
    if form == "protobuf":
        for name in ("traceId", "spanId"):
            span[name] = base64.b64encode(bytes.fromhex(span[name]))
        line = json_format.Parse(
            orjson.dumps(request, default=bytes.decode), ExportTraceServiceRequest()
        ).SerializeToString()
    [fragment] = collect_spans(line, traits=frozenset({"tenant.id", "feature"}))[0].values()
    [[_, _, _, [row]]] = orjson.loads(fragment)[1]
    assert row[8:] == [0.0, {"tenant.id": "7"}]
    [fragment] = collect_spans(line)[0].values()
    assert len(orjson.loads(fragment)[1][0][3][0]) == 8


# ---- the stages ------------------------------------------------------------------------------


def test_a_window_s_unit_costs_are_sent_as_they_change(case: Case) -> None:
    judge, rank = Judge(None), Rank("excess", emit_every_ms=1_000)
    judges, stage = Stage(judge, ""), Stage(rank, WINDOW_MS)  # type: ignore[arg-type]
    [row] = case_rows(case, is_open=False)
    judged = {out[0]: out for out in judge.process_element(row, judges)}
    service = next(iter(orjson.loads(judged[REQUESTS][3])["work"]))
    billed = [packed([allocation(service, cost)]) for cost in ("5", "7")]

    def take(kind: str, payload: bytes, change: RowKind = RowKind.INSERT) -> None:
        row = Row(kind, WINDOW_MS, str(WINDOW_MS), payload)
        row.set_row_kind(change)
        assert list(rank.process_element(row, stage)) == []

    def costs(sent: dict) -> list[Decimal]:
        return [sum(Decimal(row["cost"]) for row in rows) for (kind, *_), rows in sent.items() if kind == UNIT_COSTS]

    take(REQUESTS, judged[REQUESTS][3])
    take(ALLOCATIONS, billed[0])
    assert costs(stage.fire()) == [5]
    take(INCIDENTS, judged[INCIDENTS][3])
    assert costs(stage.fire()) == []
    take(ALLOCATIONS, billed[0], RowKind.UPDATE_BEFORE)
    take(ALLOCATIONS, billed[1], RowKind.UPDATE_AFTER)
    assert costs(stage.fire()) == [7]
    take(ALLOCATIONS, billed[1], RowKind.DELETE)
    assert costs(stage.fire()) == [0]


def test_an_open_minute_asks_for_nothing_yet(case: Case) -> None:
    judge = Judge(None, is_endless=True)
    stage = Stage(judge, "")
    [row] = case_rows(case, is_open=True)
    assert REQUESTS not in {out[0] for out in judge.process_element(row, stage)}
