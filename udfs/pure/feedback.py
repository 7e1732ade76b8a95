"""collect: what people and programs say of incidents, as JSON -> what ``follow`` reads.

Grain: one thing said. docs/interface.md names the fields.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from udfs.pure.follow import FALSE_ALARM, VERDICTS
from udfs.pure.reject import Code, RejectedRecord, reject, shown

STREAM = "incident_feedback"

# What it is of, each where it matters.
_OF = ("incident_id", "otel_service_name", "anomaly_kind")
_TIMES = ("valid_from", "valid_until", "given_at")


def collect_feedback(line: bytes) -> tuple[str, bytes, None] | tuple[None, None, str] | None:
    """(key, what was said as JSON, None), or (None, None, reject); None of an empty line.

    The same thing said twice has one key.
    """
    if not line or not line.strip():
        return None
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return None, None, reject(STREAM, f"no JSON object ({error})", line, code=Code.UNREADABLE)
    try:
        said = orjson.dumps(_said(record), option=orjson.OPT_SORT_KEYS)
    except RejectedRecord as error:
        return None, None, reject(STREAM, error.reason, record)
    return key_of(said), said, None


def key_of(said: bytes) -> str:
    """The key of what ``collect_feedback`` made of something said."""
    return blake2b(said, digest_size=16).hexdigest()


def _said(record: object) -> dict[str, Any]:
    """Raises:
    RejectedRecord: a field is missing, or its value can't be."""
    if not isinstance(record, dict):
        raise RejectedRecord(f"{shown(record)} is no JSON object")
    verdict = record.get("verdict")
    if verdict not in VERDICTS:
        raise RejectedRecord(f"verdict {shown(verdict)} is none of {', '.join(VERDICTS)}")
    said = {"verdict": verdict, **{name: _text(record, name) for name in (*_OF, "author", "note")}}
    if not said["author"]:
        raise RejectedRecord("author is missing: say who says it")
    if not (said["incident_id"] or said["otel_service_name"]):
        raise RejectedRecord("neither incident_id nor otel_service_name is given: say of what it is")
    return said | {name: _time(record, name) for name in _TIMES[:2]} | {"given_at": _time(record, "given_at") or 0}


def _text(record: dict, name: str) -> str | None:
    """None where it is missing or empty."""
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise RejectedRecord(f"{name} {shown(value)} is no text")
    return value.replace("\x00", "\ufffd") if value else None


def _time(record: dict, name: str) -> int | None:
    """In ms, of ISO 8601 text (without a zone it is UTC) or ms since 1970."""
    value = record.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        time = datetime.fromisoformat(value)
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        raise RejectedRecord(f"{name} {shown(value)} is no time as 2026-11-29T10:30:00Z") from None


class FalseAlarm(NamedTuple):
    """Nothing was wrong when a culprit was seen."""

    given_ms: int  # when that was said
    key: str  # of what was said
    culprit: str
    kind: str | None  # None = of any
    of_ms: int  # on the day of this time


def false_alarm(key: str, said: bytes | str) -> FalseAlarm | None:
    """What the detector is to learn of something said; None where that is nothing, or nobody knows when it was said."""
    row = orjson.loads(said)
    if row["verdict"] != FALSE_ALARM or not row["given_at"]:
        return None
    if not row["incident_id"]:
        return FalseAlarm(row["given_at"], key, row["otel_service_name"], row["anomaly_kind"], row["given_at"])
    window, _, rest = row["incident_id"].partition("/")
    culprit = rest.rpartition("/")[0]
    try:
        of_ms = int(datetime.fromisoformat(window).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return FalseAlarm(row["given_at"], key, culprit, row["anomaly_kind"], of_ms)
