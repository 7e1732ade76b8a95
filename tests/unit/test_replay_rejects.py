"""What was rejected is sent once more as it came, to the topic that it came by."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import replay_rejects
from jobs.errors import JobError, UsageError
from jobs.replay_rejects import Reject, read, record_of, replay
from jobs.tables import SCHEMAS
from tests.literal import NOON_MS, charge, cpu_gauge, resource, span, span_request
from udfs.pure import attribute
from udfs.pure.feedback import collect_feedback
from udfs.pure.focus import collect_charge
from udfs.pure.focus_record import collect_charge_record
from udfs.pure.otlp import collect_logs, collect_metrics, collect_spans
from udfs.pure.reject import Code, reject

CART = resource("cart", "cart-1", "node-1")


def _reject(text: str) -> Reject:
    row = orjson.loads(text)
    return Reject(row["stream"], row["code"], row["payload"])


@pytest.mark.parametrize("what", ["spans", "metrics", "logs"])
def test_a_record_of_a_request_comes_again_with_its_resource(what: str) -> None:
    log = {"traceId": "xyz", "timeUnixNano": str(NOON_MS * 10**6), "body": {"stringValue": "no"}}
    collect, request = {
        "spans": (collect_spans, span_request((CART, [span(1, 1, None, NOON_MS, -5)]))),
        "metrics": (collect_metrics, cpu_gauge(CART, [(NOON_MS, -1.0)])),
        "logs": (collect_logs, {"resourceLogs": [{"resource": CART, "scopeLogs": [{"logRecords": [log]}]}]}),
    }[what]
    *_, rejects = collect(orjson.dumps(request))
    record = record_of(_reject(rejects[0]))
    *_, again = collect(record)
    assert len(rejects) == 1 and again == rejects


@pytest.mark.parametrize("kind", ["gauge", "sum"])
def test_a_mended_point_counts_as_if_it_had_come_so(kind: str) -> None:
    def request(value: float) -> dict:
        point = {"timeUnixNano": str(NOON_MS * 10**6), "asDouble": value}
        metric = {"name": "k8s.pod.cpu.time", "unit": "s", kind: {"dataPoints": [point], "aggregationTemporality": 2}}
        return {"resourceMetrics": [{"resource": CART, "scopeMetrics": [{"metrics": [metric]}]}]}

    good, owners, _ = collect_metrics(orjson.dumps(request(7.0)))
    *_, (rejected,) = collect_metrics(orjson.dumps(request(-7.0)))
    mended = record_of(_reject(rejected)).replace(b"-7.0", b"7.0")
    assert collect_metrics(mended) == (good, owners, [])


@pytest.mark.parametrize("record", [b"{ not json", b"\n\xff\xff\xff\x00", b'{"resourceSpans": "' + b"x" * 9_000])
def test_bytes_that_nobody_can_read_come_again_as_they_are(record: bytes) -> None:
    *_, (rejected,) = collect_spans(record)
    assert record_of(_reject(rejected)) == record


def test_a_late_charge_comes_again_as_the_same_charge() -> None:
    row = charge("node-1", NOON_MS, NOON_MS + 3_600_000, "1.5", InvoiceId="of no column that is kept")
    first = collect_charge(row, delivery="2025-03-03T14:00:00Z")
    rejects = [
        attribute.late_charge(first, NOON_MS + 86_400_000, 3_600_000),
        attribute.ahead_charge(first, 600_000),
    ]
    for rejected, code in zip(rejects, ("late", "ahead"), strict=True):
        assert _reject(rejected).reason_code == code
        record = record_of(_reject(rejected))
        assert collect_charge_record(record, "2025-06-01T00:00:00Z") == ("charge", first)
        kind, told = collect_charge_record(record.replace(b'"1.5"', b'"9.5"'), "2025-06-01T00:00:00Z")
        assert kind == "reject" and "x_Charge was changed" in told


def test_a_rejected_row_comes_again_as_the_row() -> None:
    row = charge("node-1", NOON_MS, NOON_MS + 3_600_000, "1.5", BillingCurrency="dollars")
    kind, rejected = collect_charge_record(orjson.dumps(row), "2025-06-01T00:00:00Z")
    record = record_of(_reject(rejected))
    mended = record.replace(b"dollars", b"USD")
    assert kind == "reject"
    assert collect_charge_record(mended, "") == collect_charge_record(
        orjson.dumps(row | {"BillingCurrency": "USD"}), ""
    )


SAID = {"incident_id": "2026-01-01T10:00:00Z/payment/USD", "verdict": "planned", "author": "ann", "ticket": "OPS-1"}


@pytest.mark.parametrize(
    ("wrong", "mended"), [({"verdict": "plan"}, {}), ({"valid_until": "noon"}, {"valid_until": "2026-01-01T12:00:00Z"})]
)
def test_what_somebody_said_comes_again_as_it_was_said(wrong: dict, mended: dict) -> None:
    _, _, rejected = collect_feedback(orjson.dumps(SAID | wrong))
    record = record_of(_reject(rejected))
    assert orjson.loads(record) == SAID | wrong
    assert collect_feedback(record) == (None, None, rejected)
    # Once a release reads what was wrong with it.
    as_read = orjson.dumps(orjson.loads(record) | {name: SAID.get(name) for name in wrong} | mended)
    assert collect_feedback(as_read) == collect_feedback(orjson.dumps(SAID | mended))


@pytest.mark.parametrize("record", [b"{nope", b"fixed", b"fixedfix", b"[1]"])
def test_what_is_no_feedback_comes_again_as_it_was_written(record: bytes) -> None:
    """Some of it could be taken for base64."""
    _, _, rejected = collect_feedback(record)
    assert record_of(_reject(rejected)) == record


@pytest.mark.parametrize(
    "rejected",
    [
        reject("otlp_spans", "broken", b"traces/a.json.gz", code=Code.FILE_BROKEN),
        reject("otlp_metrics", "not used", {"metric": "x", "unit": ""}, code=Code.NOT_USED),
        reject("otlp_metrics", "late", {"consumer": ["a"], "windows": {}}, code=Code.LATE),
        reject("otlp_spans", "ahead", {"trace_id": "1", "pods": []}, code=Code.AHEAD),
        reject("otlp_spans", "too long", b"{...", code=Code.TOO_LONG),
        reject("focus_charges", "ragged", {"cells": ["a"]}),
        reject("otlp_spans", "no array", ["deep"]),
        reject("otlp_spans", "cut", b'{"span": {... (30000000 characters, blake2b 12)'),
        reject("incident_feedback", "cut", b'{"note": {... (30000000 characters, blake2b 12)'),
    ],
)
def test_what_is_told_in_part_is_not_sent(rejected: str) -> None:
    assert record_of(_reject(rejected)) is None


def _table(folder: Path, rows: list[tuple[str, str, datetime]]) -> str:
    told = [
        dict.fromkeys(SCHEMAS["rejected_records"].names)
        | {"stream": "otlp_spans", "reason": "why", "reason_code": code, "payload": payload, "rejected_at": at}
        for code, payload, at in rows
    ]
    pq.write_table(pa.Table.from_pylist(told, SCHEMAS["rejected_records"]), folder / "rejected_records.parquet")
    return str(folder)


def test_rejects_are_chosen_by_code_and_time(tmp_path: Path) -> None:
    noon = datetime(2025, 3, 3, 12, tzinfo=UTC)
    hour = timedelta(hours=1)
    rows = [("unreadable", "{early", noon - hour), ("unreadable", "{late", noon), ("file_broken", "traces/a", noon)]
    tables = _table(tmp_path, rows)
    assert [one.payload for one in read(tables)] == ["{early", "{late", "traces/a"]
    assert [one.payload for one in read(tables, ["unreadable"])] == ["{early", "{late"]
    assert [one.payload for one in read(tables, since=noon)] == ["{late", "traces/a"]
    given: list[tuple[str, bytes]] = []
    sent, left = replay(read(tables, since=noon), lambda topic, record: given.append((topic, record)))
    assert given == [("otlp_spans", b"{late")]
    assert (sent, left) == (Counter(otlp_spans=1), Counter(file_broken=1))


def test_tables_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="rejected_records.parquet: no rejects of this release"):
        list(read(str(tmp_path)))


@pytest.mark.parametrize("url", ["postgres://u:secret@h/d", "mysql://u@h/d"])
def test_a_url_that_names_no_database_to_read_is_told(url: str) -> None:
    with pytest.raises(UsageError, match="holds a password|is not postgresql://"):
        list(read(url))


def test_the_command_says_what_it_sent_and_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    taken: list[tuple[str, bytes]] = []
    is_secured = False

    class Future:
        def add_errback(self, told: object) -> None:
            """Nothing fails."""

    class Producer:
        def __init__(self, **settings: object) -> None:
            assert settings["bootstrap_servers"] == ["h:9092"]
            assert settings.get("security_protocol") == ("SASL_PLAINTEXT" if is_secured else None)

        def send(self, topic: str, record: bytes) -> Future:
            taken.append((topic, record))
            return Future()

        def flush(self) -> None:
            """All is taken."""

        close = flush

    monkeypatch.setattr("kafka.KafkaProducer", Producer)
    noon = datetime(2025, 3, 3, 12, tzinfo=UTC)
    tables = _table(tmp_path, [("unreadable", "{a", noon), ("file_broken", "traces/a", noon)])
    assert replay_rejects.main(["--tables", tables, "--to", "kafka://h:9092"]) == 0
    assert "sent: otlp_spans 1; told in part only, and left: file_broken 1" in capsys.readouterr().out
    assert taken == [("otlp_spans", b"{a")]
    assert replay_rejects.main(["--tables", tables, "--to", "kafka://h:9092", "--since", "2025-03-03T13:00"]) == 2
    assert "say the time and its zone" in capsys.readouterr().err
    is_secured = True
    monkeypatch.setenv("KAFKA_USERNAME", "u")
    monkeypatch.setattr(Producer, "DEFAULT_CONFIG", {}, raising=False)
    secured = ["--to", "kafka://h:9092", "--set", "kafka.security.protocol=SASL_PLAINTEXT"]
    assert replay_rejects.main(["--tables", tables, *secured]) == 0
    assert len(taken) == 2
