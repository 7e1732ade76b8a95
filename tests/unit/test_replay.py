"""Load replay: what is sent when, that it is all of it, once, and whole."""

from __future__ import annotations

import csv
import gzip
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from simulator import replay
from simulator.replay import CHARGES, LOGS, METRICS, SPANS, Feed, Message, Plan, UnusableInput, encode, schedule
from udfs.pure.focus_record import collect_charge_record
from udfs.pure.otlp import collect_logs, collect_metrics, collect_spans

ROOT = Path(__file__).resolve().parents[2]
HOUR_MS, MINUTE_MS = 3_600_000, 60_000
FIRST_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
NOW_MS = 1_800_000_000_000 // HOUR_MS * HOUR_MS + 7 * MINUTE_MS
COLLECT = {SPANS: collect_spans, METRICS: collect_metrics, LOGS: collect_logs}
POD = {"attributes": [{"key": "service.name", "value": {"stringValue": "cart"}},
                      {"key": "k8s.pod.name", "value": {"stringValue": "cart-1"}}]}  # fmt: skip


def ns(time_ms: int) -> str:
    return str(time_ms * 1_000_000)


def spans_line(minute: int, traces: int = 2) -> dict:
    """Two spans of each trace that end in a minute; the second half a second before its end."""
    at = FIRST_MS + minute * MINUTE_MS
    spans = [
        {
            "traceId": f"{minute * 100 + trace + 1:032x}", "spanId": f"{number + 1:016x}", "parentSpanId": "",
            "name": "GET /cart", "kind": "SPAN_KIND_CLIENT" if number else 2,
            "startTimeUnixNano": ns(at - 500), "endTimeUnixNano": ns(at - 10 * number),
            "attributes": [{"key": "peer.service", "value": {"stringValue": "db \u00e9"}},
                           {"key": "n", "value": {"intValue": "3"}}, {"key": "x", "value": {"doubleValue": 1.5}}],
            "events": [{"timeUnixNano": ns(at - 20), "name": "retry"}], "status": {"code": "STATUS_CODE_ERROR"},
        }
        for trace in range(traces)
        for number in range(2)
    ]  # fmt: skip
    scope = {"scope": {"name": "shop", "version": "1"}, "spans": spans}
    return {"resourceSpans": [{"resource": POD, "scopeSpans": [scope]}]}


def metrics_line(minute: int) -> dict:
    at = ns(FIRST_MS + minute * MINUTE_MS)
    metrics = [
        {"name": "k8s.pod.cpu.time", "unit": "s",
         "sum": {"isMonotonic": True, "aggregationTemporality": 2,
                 "dataPoints": [{"timeUnixNano": at, "startTimeUnixNano": ns(FIRST_MS), "asDouble": 2.5 + minute}]}},
        {"name": "k8s.pod.memory.working_set", "unit": "By",
         "gauge": {"dataPoints": [{"timeUnixNano": at, "asInt": "7"}]}},
        {"name": "http.server.duration", "unit": "s",
         "histogram": {"aggregationTemporality": 1, "dataPoints": [{"timeUnixNano": at, "count": "1", "sum": 0.5}]}},
    ]  # fmt: skip
    return {"resourceMetrics": [{"resource": POD, "scopeMetrics": [{"metrics": metrics}]}]}


def logs_line(minute: int) -> dict:
    record = {"timeUnixNano": ns(FIRST_MS + minute * MINUTE_MS), "severityNumber": 17, "severityText": "ERROR",
              "traceId": f"{minute * 100 + 1:032x}", "spanId": f"{1:016x}",
              "body": {"kvlistValue": {"values": [{"key": "a", "value": {"boolValue": True}}]}}}  # fmt: skip
    return {"resourceLogs": [{"resource": POD, "scopeLogs": [{"logRecords": [record]}]}]}


def charge_row(hour: int) -> dict:
    def moment(ms: int) -> str:
        return replay._moment("1970-01-01").fromtimestamp(ms / 1000, replay.UTC).isoformat().replace("+00:00", "Z")

    return {
        "ResourceId": "i-1", "ChargePeriodStart": moment(FIRST_MS + hour * HOUR_MS),
        "ChargePeriodEnd": moment(FIRST_MS + (hour + 1) * HOUR_MS), "BilledCost": "0.123456789012",
        "BillingCurrency": "USD", "ConsumedUnit": "Hours", "ServiceCategory": "Compute",
        "Tags": '{"a": "b"}', "SkuId": "",
    }  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Three hours: requests in files that aren't in order, a bill an hour."""
    minutes = [m for m in range(1, 180, 10)]
    for folder, line in (("traces", spans_line), ("metrics", metrics_line), ("logs", logs_line)):
        (tmp_path / folder).mkdir()
        halves = [minutes[1::2], minutes[::2]]
        for number, own in enumerate(halves):
            with gzip.open(tmp_path / folder / f"{number}.jsonl.gz", "wb") as file:
                file.write(b"".join(orjson.dumps(line(minute)) + b"\n" for minute in reversed(own)))
    (tmp_path / "billing").mkdir()
    rows = [charge_row(hour) for hour in range(3)]
    with (tmp_path / "billing" / "bill.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def messages_of(plan: Plan, start_ms: int = NOW_MS) -> list[Message]:
    with encode(plan, start_ms) as messages:
        return [messages[number] for number in range(len(messages))]


def latest_ms(message: Message) -> int:
    return max(int(match[2]) for match in replay._TIME.finditer(message.value)) // 1_000_000


# ---- what -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
@pytest.mark.parametrize("key", ["none", "trace_id"])
def test_a_request_that_no_broker_would_take_is_sent_in_parts(world: Path, encoding: str, key: str) -> None:
    whole = [m for m in messages_of(Plan(world, encoding, key)) if m.topic == SPANS]
    longest = max(len(m.value) for m in whole) * 2 // 3
    parts = [m for m in messages_of(Plan(world, encoding, key, max_bytes=longest)) if m.topic == SPANS]
    assert len(parts) > len(whole)
    assert all(m.spans == 1 or len(m.value) <= longest for m in parts)
    assert sum(m.spans for m in parts) == sum(m.spans for m in whole) == 72
    # Two spans of a trace are in its fragments, together or apart.
    found, expected = ([COLLECT[SPANS](m.value) for m in messages] for messages in (parts, whole))
    assert {trace for one in found for trace in one[0]} == {trace for one in expected for trace in one[0]}
    assert {m.due_s for m in parts} == {m.due_s for m in whole}
    assert not any(one[-1] for one in found)


# ---- when -----------------------------------------------------------------------------------


def test_messages_are_due_by_their_latest_time_at_the_chosen_speed(world: Path) -> None:
    messages = messages_of(Plan(world, "json", speed=60, shift=False))
    spans = [message for message in messages if message.topic == SPANS]
    assert [message.due_s for message in messages] == sorted(message.due_s for message in messages)
    first_ms = latest_ms(spans[0])
    assert [message.due_s for message in spans] == pytest.approx([10.0 * n for n in range(18)])
    assert all(message.due_s == pytest.approx((latest_ms(message) - first_ms) / 60_000) for message in spans)


def test_messages_are_due_at_the_chosen_rate_of_spans(world: Path) -> None:
    spans = [message for message in messages_of(Plan(world, rate=8)) if message.topic == SPANS]
    assert [message.due_s for message in spans] == [n * 4 / 8 for n in range(18)]  # four spans a request
    assert {message.due_s for message in messages_of(Plan(world, rate=math.inf))} == {0.0}


@pytest.mark.parametrize("delay_h", [0, 1, 6])
def test_bills_follow_by_hours_of_event_time(world: Path, delay_h: float) -> None:
    charges = [m for m in messages_of(Plan(world, speed=60, billing_delay_h=delay_h)) if m.topic == CHARGES]
    ends_ms = [(hour + 1) * HOUR_MS + delay_h * HOUR_MS for hour in range(3)]
    assert [message.due_s for message in charges] == pytest.approx([(end - MINUTE_MS) / 60_000 for end in ends_ms])


def test_nothing_is_encoded_that_would_come_after_the_end(world: Path) -> None:
    messages = messages_of(Plan(world, speed=60, limit_s=30))
    assert max(message.due_s for message in messages) == pytest.approx(30)
    assert len(messages) == 4 * 3


# ---- spans as they end ----------------------------------------------------------------------


def span_line(ends_ms: list[int]) -> dict:
    """A span a trace, each of which ends so long after the world's start, and has lasted for 40 ms."""
    spans = [
        {"traceId": f"{number + 1:032x}", "spanId": f"{1:016x}", "name": "GET /cart",
         "startTimeUnixNano": ns(FIRST_MS + end - 40), "endTimeUnixNano": ns(FIRST_MS + end)}
        for number, end in enumerate(ends_ms)
    ]  # fmt: skip
    return {"resourceSpans": [{"resource": POD, "scopeSpans": [{"scope": {"name": "shop"}, "spans": spans}]}]}


def ends_of(message: Message) -> list[int]:
    """In ms since the world's start."""
    return [int(end) // 1_000_000 - FIRST_MS for end in re.findall(rb'"endTimeUnixNano":"(\d+)"', message.value)]


@pytest.mark.parametrize(("batch_s", "speed"), [(1.0, 1.0), (0.2, 1.0), (1.0, 10.0)])
def test_a_span_leaves_within_a_batch_of_its_own_end(tmp_path: Path, batch_s: float, speed: float) -> None:
    ends_ms = [40, 90, 700, 1_200, 4_000, 4_010, 29_990, 15_000]
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "a.jsonl").write_bytes(orjson.dumps(span_line(ends_ms)) + b"\n")
    messages = messages_of(Plan(tmp_path, "json", batch_s=batch_s, speed=speed, shift=False))
    assert sorted(end for message in messages for end in ends_of(message)) == sorted(ends_ms)
    assert len(messages) > 2 and sum(message.spans for message in messages) == len(ends_ms)
    for message in messages:
        waits_s = [message.due_s - end / 1000 / speed for end in ends_of(message)]
        # The first span starts at 0, and no span leaves before its end.
        assert 0 <= min(waits_s) and max(waits_s) <= batch_s


def test_logs_leave_as_they_come_and_usage_and_bills_at_their_own_times(world: Path) -> None:
    whole, parts = (messages_of(Plan(world, "json", batch_s=batch_s, shift=False)) for batch_s in (None, 0.25))
    for topic in (LOGS, METRICS, CHARGES):
        ones, others = ([m for m in messages if m.topic == topic] for messages in (whole, parts))
        late_s = [other.due_s - one.due_s for one, other in zip(ones, others, strict=True)]
        # The clock begins with the first span's start, and a log record waits for its batch.
        assert all(0.5 - 1e-6 <= late <= 0.5 + (0.25 if topic == LOGS else 0) + 1e-6 for late in late_s)
        assert [one.value for one in ones] == [other.value for other in others]


def test_spans_as_they_end_hold_all_spans_once_whatever_the_loops_and_the_end(world: Path) -> None:
    traces = [trace for m in messages_of(Plan(world, batch_s=0.005, loops=2)) if m.topic == SPANS
              for trace in collect_spans(m.value)[0]]  # fmt: skip
    assert len(traces) == 2 * 2 * 36 and len(set(traces)) == 2 * 36  # a trace's two spans end apart
    some = [m for m in messages_of(Plan(world, batch_s=0.005, limit_s=0.4999)) if m.topic == SPANS]
    # The second span of the first trace ends .49 s after the start, and the root .5 s after it.
    assert [m.spans for m in some] == [2]


def test_a_line_that_cannot_be_read_leaves_as_it_is_with_spans_that_leave_as_they_end(world: Path) -> None:
    (world / "traces" / "broken.jsonl").write_bytes(b'{"resourceSpans":[{"scopeSpans":7}]}\nno json\n\n')
    values = [message.value for message in messages_of(Plan(world, batch_s=1.0)) if message.topic == SPANS]
    assert b"no json" in values and b'{"resourceSpans":[{"scopeSpans":7}]}' in values
    assert len(values) == 20


# ---- shift ----------------------------------------------------------------------------------


def test_times_are_moved_by_the_unit_that_is_asked_for(world: Path) -> None:
    moved, still = (messages_of(Plan(world, "json", shift=shift, shift_unit_min=1)) for shift in (True, False))
    assert (latest_ms(moved[0]) - latest_ms(still[0])) % MINUTE_MS == 0
    lead_ms = [latest_ms(m) - (NOW_MS + m.due_s * 1000) for m in moved if m.topic != CHARGES]
    assert max(lead_ms) <= 0 and lead_ms[-1] > -MINUTE_MS


@pytest.mark.parametrize(("speed", "rate"), [(1, None), (60, None), (1, 36.0), (1, math.inf)])
def test_all_times_are_moved_to_now_by_one_offset_of_whole_hours(world: Path, speed: float, rate: float | None) -> None:
    plan = Plan(world, "json", speed=speed, rate=rate)
    moved = messages_of(plan)
    still = messages_of(Plan(world, "json", speed=speed, rate=rate, shift=False))
    offset_ms = latest_ms(moved[0]) - latest_ms(still[0])
    assert offset_ms % HOUR_MS == 0
    for one, other in zip(moved, still, strict=True):
        if one.topic == CHARGES:
            cells, recorded = orjson.loads(one.value), orjson.loads(other.value)
            for name in ("ChargePeriodStart", "ChargePeriodEnd"):
                shifted = replay._moment(recorded.pop(name)) + replay.timedelta(milliseconds=offset_ms)
                assert replay._moment(cells.pop(name)) == shifted
            assert cells == recorded
        else:
            times = [int(match[2]) for match in replay._TIME.finditer(one.value)]
            recorded = [int(match[2]) for match in replay._TIME.finditer(other.value)]
            assert times == [time + offset_ms * 1_000_000 for time in recorded]
            assert replay._TIME.sub(b"", one.value) == replay._TIME.sub(b"", other.value)  # ids stay, as all else
    # The last request is about now, and none is of the future.
    telemetry = [message for message in moved if message.topic != CHARGES]
    lead_ms = [latest_ms(message) - (NOW_MS + message.due_s * 1000) for message in telemetry]
    assert max(lead_ms) <= 0 and lead_ms[-1] > -HOUR_MS


def test_unshifted_requests_are_sent_as_they_were_recorded(world: Path) -> None:
    sent = sorted(message.value for message in messages_of(Plan(world, "json", shift=False)) if message.topic == SPANS)
    recorded = [line for path in (world / "traces").iterdir() for line in gzip.open(path).read().splitlines()]
    assert sent == sorted(recorded)


def test_loops_are_later_and_of_traces_of_their_own(world: Path) -> None:
    once, thrice = messages_of(Plan(world)), messages_of(Plan(world, loops=3))
    assert len(thrice) == 3 * len(once)
    traces = [trace for message in thrice if message.topic == SPANS for trace in collect_spans(message.value)[0]]
    assert len(set(traces)) == len(traces) == 3 * 36
    logs = [trace for message in thrice if message.topic == LOGS for trace in collect_logs(message.value)[0]]
    assert set(logs) <= set(traces)
    charges = {message.value for message in thrice if message.topic == CHARGES}
    assert len(charges) == 9


# ---- all of it, once ------------------------------------------------------------------------


@pytest.mark.parametrize("users", [1, 3, 50])
def test_shares_of_users_add_up_to_all_messages_once(world: Path, users: int) -> None:
    with encode(Plan(world), NOW_MS) as messages:
        feed = Feed(messages)
        shares: list[list[Message]] = [[] for _ in range(users)]
        turn = 0
        assert feed.is_fresh
        while (due_s := feed.next_due_s()) is not None:
            user = turn * turn % users  # users of unequal speed
            message = feed.take()
            assert message.due_s == due_s
            shares[user].append(message)
            turn += 1
        everything = [messages[number] for number in range(len(messages))]
    assert feed.take() is None and not feed.is_fresh
    assert sorted(message for share in shares for message in share) == sorted(everything)
    assert len(everything) == 3 * 18 + 3


# ---- encodings ------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["none", "trace_id"])
def test_both_encodings_decode_to_the_same(world: Path, key: str) -> None:
    as_json, as_protobuf = (messages_of(Plan(world, encoding, key=key)) for encoding in ("json", "protobuf"))
    assert len(as_json) == len(as_protobuf)
    for one, other in zip(as_json, as_protobuf):
        assert one._replace(value=b"") == other._replace(value=b"")
        if one.topic == CHARGES:
            assert one.value == other.value
        else:
            assert one.value.startswith(b"{") and other.value.startswith(b"\n")
            *tables, rejects = COLLECT[one.topic](one.value)
            assert tables[0] and COLLECT[one.topic](other.value) == (*tables, rejects)


def test_messages_have_no_key_or_their_traces_as_the_collector_sets_them(world: Path) -> None:
    assert {message.key for message in messages_of(Plan(world))} == {None}
    for message in messages_of(Plan(world, key="trace_id")):
        if message.topic in (SPANS, LOGS):
            assert [message.key.decode()] == list(COLLECT[message.topic](message.value)[0])
            assert message.spans == (2 if message.topic == SPANS else 0)
        else:
            assert message.key is None


def test_charges_are_one_json_object_a_row(world: Path) -> None:
    for message in messages_of(Plan(world)):
        if message.topic == CHARGES:
            kind, charge = collect_charge_record(message.value, "2024")
            assert (kind, charge["cost"], charge["tags"]) == ("charge", "0.123456789012", {"a": "b"})
            assert orjson.loads(message.value)["SkuId"] is None


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
def test_what_was_recorded_broken_is_sent_as_it_is(world: Path, encoding: str) -> None:
    (world / "traces" / "broken.jsonl").write_bytes(b'{"resourceSpans":[{"scopeSpans":7}]}\nno json\n\n')
    values = [message.value for message in messages_of(Plan(world, encoding)) if message.topic == SPANS]
    assert b"no json" in values and b'{"resourceSpans":[{"scopeSpans":7}]}' in values
    assert len(values) == 20


# ---- wrong use ------------------------------------------------------------------------------


def test_an_input_without_records_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="not a directory"):
        schedule(Plan(tmp_path / "none"))
    with pytest.raises(UnusableInput, match="no request and no charge in traces, metrics, logs, billing"):
        schedule(Plan(tmp_path))
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "a.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(UnusableInput, match="a.jsonl.gz: can't be read"):
        schedule(Plan(tmp_path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoding": "xml"},
        {"key": "span_id"},
        {"speed": 0},
        {"rate": -1.0},
        {"loops": 0},
        {"billing_delay_h": -1},
        {"max_bytes": 0},
        {"batch_s": 0.0},
        {"shift_unit_min": 0},
    ],
)
def test_a_plan_out_of_range_is_told(wrong: dict) -> None:
    with pytest.raises(ValueError, match="use"):
        Plan(Path("."), **wrong)


def test_spans_leave_as_they_end_by_a_speed_alone() -> None:
    with pytest.raises(ValueError, match="by a speed alone"):
        Plan(Path("."), batch_s=1.0, rate=100.0)


# ---- locust ---------------------------------------------------------------------------------


@pytest.fixture
def locust() -> Callable[..., subprocess.CompletedProcess]:
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "locust", "-f", "simulator/locustfile.py", "--headless", "-u", "3", "-r", "3"]
        return subprocess.run(
            [*command, "--json", "--brokers", "none", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
        )  # fmt: skip

    return run


def test_locust_sends_all_and_shows_messages_spans_bytes_and_lag(
    world: Path, locust: Callable[..., subprocess.CompletedProcess]
) -> None:
    ran = locust("--input", str(world), "--rate", "72")
    assert ran.returncode == 0, ran.stderr
    counts = {(row["method"], row["name"]): row["num_requests"] for row in orjson.loads(ran.stdout)}
    assert counts[("SPANS", "otlp_spans")] == 72
    assert counts[("KAFKA", "otlp_spans")] == counts[("KAFKA", "otlp_logs")] == 18
    assert counts[("KAFKA", "focus_charges")] == 3
    assert counts[("LAG", "behind schedule")] == 57
    assert ("KILOBYTES", "all topics") in counts
    assert "57 messages (0 failed), 72 spans" in ran.stderr


def test_locust_tells_in_one_line_that_brokers_cannot_be_reached(
    world: Path, locust: Callable[..., subprocess.CompletedProcess]
) -> None:
    ran = locust("--input", str(world), "--run-time", "1s", "--brokers", "localhost:no-port")
    assert ran.returncode == 1
    assert "replay: localhost:no-port: " in ran.stderr


def test_locust_tells_wrong_use_in_one_line(locust: Callable[..., subprocess.CompletedProcess]) -> None:
    missing = (), "replay: --input is missing"
    for arguments, line in (missing, (("--input", "/none"), "replay: /none: not a directory")):
        ran = locust(*arguments)
        assert ran.returncode == 2
        assert [text for text in ran.stderr.splitlines() if text.startswith("replay:")][0].startswith(line)
