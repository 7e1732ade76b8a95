"""collect, any bytes: mutated, truncated and spliced records give fragments or rejects, and never an exception."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import orjson
import pytest
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.lengths import LENGTHS
from tests.unit.test_collect_focus import ROW
from tests.unit.test_collect_otlp import NOON, POD, attributes, log, metric, request, span
from tests.unit.test_otlp_proto import REQUESTS, protobuf
from udfs.pure.focus_record import collect_charge_record
from udfs.pure.otlp import MAX_TIME_NS, MIN_TIME_NS, USAGE_METRICS
from udfs.pure.reject import PAYLOAD_MAX_CHARS, Code

pytestmark = pytest.mark.long

RECORDS = LENGTHS.fuzzed_records
SEED = 20_240_918

NAMES = ("GET /cart", "caf\u00e9 \U0001f600", "x" * 150)
LINES = {
    "traces": request(
        "traces",
        [
            span(traceId=f"{n + 1:032x}", spanId=f"{m + 1:016x}", name=NAMES[m], kind=m + 1, status={"code": m},
                 attributes=attributes(http__status_code=500, peer__service="redis", pi=3.1, ok=True))
            for n in range(3) for m in range(3)
        ],
        POD,
    ),
    "metrics": request(
        "metrics",
        [
            *(metric(name, "sum", "", 1, startTimeUnixNano=NOON - 9, attributes=attributes(direction="transmit", cpu=n))
              for n, name in enumerate(USAGE_METRICS)),
            *(metric(name, "gauge", "", asDouble=..., asInt="7") for name in USAGE_METRICS),
            metric("http.server.duration", "histogram", "s"),
        ],
        POD,
    ),
    "logs": request(
        "logs",
        [
            log(traceId=f"{n + 1:032x}", severityNumber=n,
                body={"kvlistValue": {"values": attributes(a=n, b="\u00e9")}})
            for n in range(6)
        ] + [log(traceId="")],
        POD,
    ),
}  # fmt: skip
TOP = {"traces": "resourceSpans", "metrics": "resourceMetrics", "logs": "resourceLogs"}
STREAMS = {"traces": "otlp_spans", "metrics": "otlp_metrics", "logs": "otlp_logs"}

# What to put in: huge numbers, no numbers, no text, tags and lengths of protobuf, structure, depth.
PIECES = [
    b"9" * 400, b"-1", b"1e999", b"NaN", b"-Infinity", b"18446744073709551616", b"null", b"true", b'""', b"[]", b"{}",
    b'"', b"\\", b'\\ud83d', b"\\u0000", b"\xff\xfe", b"\xed\xa0\xbd", b"\xc3", b"\x00", b"\n", b"\r", b"{", b"}", b"[",
    b"]", b",", b":", b"\x0a\x00", b"\x12\x00", b"\x0a\x7b", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xff" * 9 + b"\x01",
    b"\xff" * 12, b"\x2a\x02" * 70, b"[" * 300, b'{"a":' * 300, b'{"arrayValue":{"values":[' * 40, b"\x1f",
    b"\x00\x00\x00\x00\x00\x00\xf8\x7f", b"\x00\x00\x00\x00\x00\x00\xf0\xff", b'"resource_spans"', b"_unix_nano\"",
]  # fmt: skip


def mutated(rng: random.Random, record: bytes, others: list[bytes]) -> bytes:
    """One to three changes: bytes flipped, put in, taken out, doubled, cut off, or crossed with another record."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(record) + 1)
        to = min(len(record), at + rng.choice((1, 1, 2, 4, 8, 30)))
        how = rng.randrange(7)
        if how == 0:
            record = record[:at]
        elif how == 1:
            record = record[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in record[at:to]) + record[to:]
        elif how == 2:
            record = record[:at] + rng.choice(PIECES) + record[at:]
        elif how == 3:
            record = record[:at] + rng.choice(PIECES) + record[to:]
        elif how == 4:
            record = record[:at] + record[to:]
        elif how == 5:
            record = record[:to] + record[at:]
        else:
            other = rng.choice(others)
            record = record[:at] + other[rng.randrange(len(other) + 1) :]
    return record


def collected(signal: str, record: bytes) -> tuple[list[dict], list[dict]]:
    """(tables, rejects) of a record, all of them well-formed."""
    try:
        *tables, rejects = REQUESTS[signal][1](record)
    except Exception as error:
        raise AssertionError(f"{signal} raised {error!r} on {record!r}") from error
    for table in tables:
        for key, value in table.items():
            assert type(key) is str and key and type(value) is bytes
            key.encode()
            orjson.loads(value)
    rows = [orjson.loads(reject) for reject in rejects]
    for row in rows:
        assert row["stream"] == STREAMS[signal] and row["reason"] and row["code"] in set(Code)
        assert len(row["payload"]) <= PAYLOAD_MAX_CHARS
        assert row["event_time_ms"] is None or 0 < row["event_time_ms"] < MAX_TIME_NS // 10**6
    return tables, rows


def contents(table: dict[str, bytes]) -> Counter:
    """The leaves of a table of fragments with their keys: spans, log records or points."""
    found: Counter = Counter()
    for key, value in table.items():
        fragment = orjson.loads(value)
        if fragment[0] == "spans":
            rows = [[*group[:3], row] for group in fragment[1] for row in group[3]]
        else:
            rows = fragment[1] if fragment[0] == "logs" else fragment
        found.update((key, orjson.dumps(row)) for row in rows)
    return found


def assert_usable_spans_are_used(record: bytes, tables: list[dict], rejects: list[dict]) -> None:
    """Every span that the library reads is in a fragment or a reject, every valid one in a fragment."""
    try:
        message = ExportTraceServiceRequest.FromString(record)
    except DecodeError:
        return
    spans = [s for entry in message.resource_spans for scope in entry.scope_spans for s in scope.spans]
    used = contents(tables[0])
    if len(rejects) != 1 or "send it to" not in rejects[0]["reason"]:
        assert len(spans) == used.total() + len(rejects)
    ids = {(key, orjson.loads(row)[3][0]) for key, row in used}
    for one in spans:
        times = MIN_TIME_NS <= one.start_time_unix_nano <= one.end_time_unix_nano < MAX_TIME_NS
        parent = len(one.parent_span_id) in (0, 8)
        if times and parent and len(one.trace_id) == 16 and len(one.span_id) == 8:
            if any(one.trace_id) and any(one.span_id):
                assert (one.trace_id.hex(), one.span_id.hex()) in ids


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
def test_mutated_requests_never_raise(encoding: str) -> None:
    rng = random.Random(f"{SEED}/{encoding}")
    both = {signal: {"json": line, "protobuf": protobuf(signal, line)} for signal, line in LINES.items()}
    others = [record for records in both.values() for record in records.values()]
    outcomes: Counter = Counter()
    for _ in range(RECORDS):
        signal = rng.choice(list(LINES))
        record = mutated(rng, both[signal][encoding], others)
        tables, rejects = collected(signal, record)
        if encoding == "protobuf" and signal == "traces" and record.startswith(b"\n"):
            assert_usable_spans_are_used(record, tables, rejects)
        outcomes["fragments"] += bool(tables[0])
        outcomes["rejects"] += bool(rejects)
        outcomes["neither"] += not tables[0] and not rejects
    # A tag turned into that of an unknown field is no error; it must be a rarity all the same.
    assert outcomes["fragments"] > RECORDS / 20 and outcomes["rejects"] > RECORDS / 2, outcomes
    assert outcomes["neither"] < RECORDS / 20, outcomes


@pytest.mark.parametrize("signal", LINES)
def test_what_is_valid_beside_mutated_entries_is_used_in_protobuf(signal: str) -> None:
    rng = random.Random(f"{SEED}/beside/{signal}")
    good = protobuf(signal, LINES[signal])
    wanted = contents(collected(signal, good)[0][0])
    parsed = 0
    for _ in range(RECORDS // 3):
        # Messages written one after the other are one message with the entries of both.
        record = good + mutated(rng, good, [good])
        tables, rejects = collected(signal, record)
        try:
            REQUESTS[signal][0].FromString(record)
        except DecodeError:
            assert tables[0] or len(rejects) == 1  # strings that aren't UTF-8 are read all the same
            continue
        assert wanted <= contents(tables[0]), record
        parsed += 1
    assert parsed > RECORDS / 120


@pytest.mark.parametrize("signal", LINES)
def test_what_is_valid_beside_mutated_entries_is_used_in_json(signal: str) -> None:
    rng = random.Random(f"{SEED}/beside/{signal}")
    [entry] = orjson.loads(LINES[signal])[TOP[signal]]
    good = orjson.dumps(entry)
    wanted = contents(collected(signal, LINES[signal])[0][0])
    parsed = 0
    for _ in range(RECORDS // 3):
        record = b'{"%s":[%s,%s]}' % (TOP[signal].encode(), good, mutated(rng, good, [good]))
        tables, rejects = collected(signal, record)
        try:
            entries = orjson.loads(record)[TOP[signal]]
        except orjson.JSONDecodeError:
            assert tables[0] or len(rejects) == 1  # what careless writers call JSON is read, too
            continue
        if entries[:1] == [entry]:
            assert wanted <= contents(tables[0]), record
            parsed += 1
    assert parsed > RECORDS / 60


# ---- charges --------------------------------------------------------------------------------

ESSENTIAL = ("ChargePeriodStart", "ChargePeriodEnd", "BillingCurrency", "EffectiveCost", "BilledCost")


def same_columns(cells: dict) -> Callable[[str], list]:
    """column -> its cells, under whatever spelling of its name."""

    def spelled(name: str) -> str:
        return name.strip().strip("\ufeff").strip().casefold()

    return lambda column: [value for name, value in cells.items() if spelled(name) == column.casefold()]


def test_mutated_charges_never_raise() -> None:
    rng = random.Random(f"{SEED}/charges")
    row = ROW | {"Tags": {"team": "shop", "n": 1}, "SkuPriceDetails": {"CoreCount": 2, "MemorySize": "8 GiB"},
                 "EffectiveCost": 0.3, "x_Nested": [[1, {"a": None}]]}  # fmt: skip
    line = json.dumps(row).encode()
    assert collect_charge_record(line, "d")[0] == "charge"
    kinds: Counter = Counter()
    for _ in range(RECORDS):
        record = mutated(rng, line, [line, LINES["logs"]])
        try:
            kind, value = collect_charge_record(record, "2024-09-18T22:00:00Z")
        except Exception as error:
            raise AssertionError(f"raised {error!r} on {record!r}") from error
        kinds[kind] += 1
        if kind == "charge":
            orjson.dumps(value)
            assert abs(Decimal(value["cost"])) < 10**16 and value["start_ms"] < value["end_ms"]
            continue
        assert kind == "reject"
        rejected = orjson.loads(value)
        assert rejected["stream"] == "focus_charges" and rejected["reason"] and rejected["code"] in set(Code)
        try:
            cells = orjson.loads(record)
        except orjson.JSONDecodeError:
            continue
        if isinstance(cells, dict) and "nested deeper" not in rejected["reason"]:
            columns = same_columns(cells)
            assert any(columns(name) != [row[name]] for name in ESSENTIAL), (rejected, record)
    assert min(kinds["charge"], kinds["reject"]) > RECORDS / 20, kinds


def test_figures_keep_their_digits_and_text_its_characters() -> None:
    line = json.dumps(ROW | {"EffectiveCost": "@", "Tags": {"a": "#"}}).encode()
    line = line.replace(b'"@"', b"1234567890123456.123456789012").replace(b'"#"', b'"\\ud83d"')
    kind, charge = collect_charge_record(line, "2024")
    assert (kind, charge["cost"], charge["tags"]) == ("charge", "1234567890123456.123456789012", {"a": "?"})
    assert charge["version"] == "0 2024"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "empty: send a FOCUS row as one JSON object a record"),
        (b"BilledCost,BillingCurrency", "not JSON"),
        (b"null", "not an object"),
        (b"[1]", "not an object"),
        (b"{}", "ChargePeriodStart is missing"),
        (b"[" * 100_000, "nested deeper than 32"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "nested deeper than 32"),
        (b" " * (1 << 20) + b"{}", "a row of 1048578 bytes is longer than 1048576"),
    ],
)  # fmt: skip
def test_what_is_no_row_is_one_reject(line: bytes, reason: str) -> None:
    kind, value = collect_charge_record(line, "")
    assert kind == "reject"
    assert reason in orjson.loads(value)["reason"]


def test_a_cost_column_that_focus_does_not_know_is_wrong_use() -> None:
    with pytest.raises(ValueError, match="cost column 'Cost': use one of"):
        collect_charge_record(b"{}", "", "Cost")
