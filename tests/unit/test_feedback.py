"""What people say of incidents: read, or rejected with a reason."""

from __future__ import annotations

import orjson
import pytest

from udfs.pure.feedback import STREAM, collect_feedback

WHOLE = {"incident_id": "2026-01-01T10:00:00Z/payment/USD", "verdict": "false_alarm", "author": "ann"}
PLANNED = {
    "otel_service_name": "payment", "anomaly_kind": "latency_spike", "verdict": "planned", "author": "deploy-bot",
    "note": "moves to another zone", "valid_from": "2026-01-01T10:00:00Z", "valid_until": "2026-01-01T12:00:00+02:00",
    "given_at": 1_767_200_000_000, "ticket": "OPS-1",
}  # fmt: skip


def read(record: object) -> dict:
    _, said, reject = collect_feedback(orjson.dumps(record))
    assert reject is None
    return orjson.loads(said)


def test_what_is_said_is_read() -> None:
    assert read(WHOLE) == {
        "incident_id": WHOLE["incident_id"], "otel_service_name": None, "anomaly_kind": None, "verdict": "false_alarm",
        "author": "ann", "note": None, "valid_from": None, "valid_until": None, "given_at": 0,
    }  # fmt: skip
    planned = read(PLANNED)
    assert planned["valid_from"] == planned["valid_until"] == 1_767_261_600_000
    assert "ticket" not in planned


def test_said_twice_is_said_once() -> None:
    keys = {collect_feedback(orjson.dumps(of))[0] for of in (WHOLE, dict(reversed(WHOLE.items())), WHOLE | {"x": 1})}
    assert len(keys) == 1
    assert collect_feedback(orjson.dumps(WHOLE | {"author": "bob"}))[0] not in keys


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (WHOLE | {"verdict": "nonsense"}, "verdict 'nonsense' is none of expected, planned, false_alarm, fixed"),
        ({**WHOLE, "verdict": None}, "verdict None is none of"),
        (WHOLE | {"author": ""}, "author is missing"),
        ({"verdict": "fixed", "author": "ann"}, "neither incident_id nor otel_service_name"),
        (WHOLE | {"note": 7}, "note 7 is no text"),
        (WHOLE | {"valid_until": "tomorrow"}, "valid_until 'tomorrow' is no time"),
        (WHOLE | {"given_at": [1]}, "given_at [1] is no time"),
        ([1], "[1] is no JSON object"),
    ],
)
def test_what_cannot_be_used_is_rejected_with_a_reason(record: object, reason: str) -> None:
    key, said, reject = collect_feedback(orjson.dumps(record))
    told = orjson.loads(reject)
    assert (key, said, told["stream"], told["code"]) == (None, None, STREAM, "invalid")
    assert told["reason"].startswith(reason)


def test_what_is_no_json_is_rejected_and_an_empty_line_is_nothing() -> None:
    told = orjson.loads(collect_feedback(b"{verdict")[2])
    assert (told["code"], told["payload"]) == ("unreadable", "{verdict")
    assert collect_feedback(b"") is collect_feedback(b"  \n") is None
