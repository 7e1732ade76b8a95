"""A service.name that the tables keep for what has no service counts as none: in shares, in ranks, in verdicts."""

from __future__ import annotations

import json
from collections import defaultdict

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.literal import HOUR_MS, MINUTE_MS, NOON_MS, charge, cpu_gauge, resource, span, span_request
from tests.unit.keyed_stage import Stage, by_kind
from tests.unit.test_rank import incident
from udfs.attribute import ALLOCATIONS, Attribute
from udfs.pure.assemble import assemble
from udfs.pure.attribute import IDLE_POLICIES, resource_rows
from udfs.pure.detect import Detector
from udfs.pure.focus import collect_charge
from udfs.pure.meter import meter
from udfs.pure.names import RESERVED
from udfs.pure.otlp import SEPARATOR, collect_logs, collect_metrics, collect_spans
from udfs.pure.price import to_units
from udfs.pure.rank import rank_window
from udfs.pure.windows import IDLE, NO_RESOURCE, SYSTEM, UNALLOCATED, UNKNOWN_SERVICE

NAMES = [*sorted(RESERVED), "", " ", " __idle__ ", "__idle__\x00"]


def encoded(request: dict) -> bytes:
    return json.dumps(request).encode()


def test_these_names_are_reserved():
    assert {UNALLOCATED, IDLE, SYSTEM, NO_RESOURCE} == RESERVED


@pytest.mark.parametrize("name", NAMES)
def test_a_reserved_name_is_as_none(name):
    def spans(otel_service_name):
        owner = resource(otel_service_name, "pod-1", "node-1")
        return collect_spans(encoded(span_request((owner, [span(1, 1, None, NOON_MS, 5)]))))

    def usage(otel_service_name):
        owner = resource(otel_service_name, "pod-1", "node-1")
        return collect_metrics(encoded(cpu_gauge(owner, [(NOON_MS, 1.0), (NOON_MS + MINUTE_MS, 1.0)])))

    def logs(otel_service_name):
        record = {"traceId": f"{1:032x}", "spanId": "", "severityNumber": 17, "timeUnixNano": str(NOON_MS * 10**6)}
        group = {"resource": resource(otel_service_name), "scopeLogs": [{"logRecords": [record]}]}
        return collect_logs(encoded({"resourceLogs": [group]}))

    for collected in (spans, usage, logs):
        assert collected(name) == collected(None) != collected("cart")


@pytest.mark.parametrize("name", NAMES)
def test_a_namespace_makes_no_name_of_it(name):
    owner = resource(name)
    owner["attributes"].append({"key": "service.namespace", "value": {"stringValue": "shop"}})
    fragments, _, _ = collect_spans(encoded(span_request((owner, [span(1, 1, None, NOON_MS, 5)]))))
    (fragment,) = map(orjson.loads, fragments.values())
    assert fragment[1][0][0] == UNKNOWN_SERVICE


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_callee_of_such_a_name_is_not_known(name):
    def called(peer):
        attributes = [{"key": "peer.service", "value": {"stringValue": peer}}]
        call = span(1, 1, None, NOON_MS, 5, kind=3, attributes=attributes)
        return collect_spans(encoded(span_request((resource("cart"), [call]))))

    assert called(name) == called("") != called("pay")


@pytest.mark.parametrize("name", NAMES)
def test_its_trace_gets_a_verdict(name):
    request = span_request(
        (resource("cart", "pod-1"), [span(1, 1, None, NOON_MS, 9)]),
        (resource(name, "pod-2"), [span(1, 2, 1, NOON_MS + 1, 5)]),
    )
    fragments, _, rejects = collect_spans(encoded(request))
    ((trace_id, fragment),) = fragments.items()
    _, packed = assemble(trace_id, [fragment])
    (result,) = Detector().step(NOON_MS, [packed], {})
    assert not rejects
    assert [verdict["trace_id"] for verdict in result.verdicts] == [trace_id]


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_resource_of_such_a_name_is_none(name):
    usage, pods, _ = collect_metrics(encoded(cpu_gauge(resource("cart", "pod-1", name), [(NOON_MS, 1.0)])))
    assert {key.split(SEPARATOR)[4] for key in usage} == {""}
    assert orjson.loads(pods["shop/pod-1"]) == ["cart", ""]


def test_a_bill_that_says_no_resource_in_our_words_says_none():
    of_nothing, ours = (
        collect_charge(charge(resource_id, NOON_MS, NOON_MS + HOUR_MS, "1")) for resource_id in ("", NO_RESOURCE)
    )
    assert of_nothing["parts"] == ours["parts"] == [["other", "1"]]
    assert of_nothing["resource_id"] == ours["resource_id"] == NO_RESOURCE
    assert of_nothing["identity"] == ours["identity"]


USERS = st.lists(
    st.tuples(st.sampled_from([*NAMES, "cart", "pay"]), st.floats(0, 4, allow_subnormal=False)), min_size=1, max_size=8
)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(users=USERS, policy=st.sampled_from(IDLE_POLICIES))
def test_usage_under_reserved_names_is_unallocated_and_no_money_is_lost(users, policy):
    """From the bytes to the ranks: one pod for each user, a node of 16 cores, and any of the names as the culprit."""
    stage = Stage(Attribute(None, None, (), policy), "node-1")
    used = defaultdict(float)
    for number, (name, cores) in enumerate(users):
        owner = resource(name, f"pod-{number}", "node-1")
        points = [(NOON_MS + minute * MINUTE_MS, cores) for minute in range(31)]
        fragments, _, rejects = collect_metrics(encoded(cpu_gauge(owner, points)))
        assert not rejects
        for consumer, fragment in fragments.items():
            bucket, _, _, otel_service_name, resource_id = consumer.split(SEPARATOR)
            metered = meter(int(bucket), [fragment])
            assert resource_id == "node-1"
            stage.feed("usage", consumer, [otel_service_name, f"pod-{number}", metered])
        used[name if name in ("cart", "pay") else UNALLOCATED] += cores
    bill = collect_charge(
        charge("node-1", NOON_MS, NOON_MS + HOUR_MS, "7.000000000001", "Hours")
        | {"SkuPriceDetails": '{"CoreCount": 64, "MemorySize": 256}'}
    )
    support = collect_charge(charge("node-1", NOON_MS, NOON_MS + HOUR_MS, "1", "Months"))
    assert support["parts"] == [["other", "1"]]
    for each in (bill, support):
        stage.feed("charge", each["key"], each)
    windows = by_kind(stage.end(), ALLOCATIONS)
    rows = [row for of_window in windows.values() for row in of_window]
    assert sum(to_units(row["allocated_cost"]) for row in rows) == 8_000_000_000_001
    of_cpu = [row for row in windows[NOON_MS] if row["dimension"] == "cpu"]
    if any(used.values()):
        assert {row["otel_service_name"] for row in of_cpu} - {IDLE} == used.keys()
    for row in of_cpu:
        if row["otel_service_name"] in used:
            assert row["usage"] == pytest.approx(used[row["otel_service_name"]] * 1800, abs=1e-6)
    culprits = [incident(name, 4.0) for name in {UNALLOCATED, IDLE, UNKNOWN_SERVICE, *used}]
    ranked = rank_window(NOON_MS, [culprits], [], windows[NOON_MS])
    assert [row["rank"] for row in ranked] == list(range(1, len(culprits) + 1))


@pytest.mark.parametrize("policy", IDLE_POLICIES)
@pytest.mark.parametrize("name", sorted(RESERVED - {SYSTEM}))
def test_shares_add_what_is_kept_under_such_a_name_to_the_unallocated(name, policy):
    """As a state of before may hold it."""
    usage = {NOON_MS: {"cpu": 600.0}}
    users = [("", usage), (name, usage), ("cart", usage)]
    bill = [collect_charge(charge("node-1", NOON_MS, NOON_MS + HOUR_MS, "3"))]
    rows = resource_rows("node-1", users, bill, idle_policy=policy)[NOON_MS]
    by_name = {row["otel_service_name"]: row for row in rows}
    assert by_name[UNALLOCATED]["usage"] == 1200.0
    assert by_name["cart"]["usage"] == 600.0
    assert sum(to_units(row["allocated_cost"]) for row in rows) == 1_500_000_000_000
    assert by_name[UNALLOCATED]["share"] == pytest.approx(2 * by_name["cart"]["share"]) or policy == "even"
