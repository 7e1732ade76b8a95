"""Rejected records: what could not be used, why, and enough of it for a person to find it again."""

from __future__ import annotations

import hashlib
import reprlib
from enum import StrEnum

import orjson

# A request has 16 MiB at most, in base64 a third more: so a payload is whole, but for what is rejected for its length.
PAYLOAD_MAX_CHARS = 24 << 20

# Values printed in a reason are cut here: a reason is read in one glance.
VALUE_MAX_CHARS = 80

_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


class Code(StrEnum):
    """Why a record could not be used, for programs: reasons may be worded anew, codes never change."""

    UNREADABLE = "unreadable"  # no request, or no row
    TOO_LONG = "too_long"
    INVALID = "invalid"  # a field is missing, or its value can't be
    NOT_USED = "not_used"  # whole, and of no use here: a metric that tells no usage, a log record of no trace
    NO_RESOURCE = "no_resource"  # of a pod whose billed resource nobody tells
    AHEAD = "ahead"  # of the other records, or of the clock
    LATE = "late"  # came when its window was closed
    FILE_SKIPPED = "file_skipped"  # a file whose name is none of the input's
    FILE_BROKEN = "file_broken"  # a file that can't be read, or not to its end


class RejectedRecord(ValueError):
    """An input record that can't be used.

    ``reason`` says what is wrong with which value and what to do about it. ``event_time_ms`` is
    the record's own time (UTC, ms since the epoch), None where it has none that can be read.
    """

    def __init__(self, reason: str, event_time_ms: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.event_time_ms = event_time_ms


def shown(value: object) -> str:
    """``value`` as a reason prints it: its repr, of any depth and size, in one short line."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = text if len(text) <= VALUE_MAX_CHARS else text[:VALUE_MAX_CHARS] + "..."
    return repr(text) if isinstance(value, str) else text


def reject(
    stream: str, reason: str, record: object, event_time_ms: int | None = None, *, code: Code = Code.INVALID
) -> str:
    """One row of ``rejected_records`` as JSON text: stream, reason, payload, event_time_ms, code.

    ``record`` is the raw line (bytes) or what was decoded from it; keys are sorted, so that the
    same record gives the same text however it was written. A payload longer than
    PAYLOAD_MAX_CHARS is cut and ends in its length and digest: different records stay different.
    """
    if isinstance(record, bytes):
        payload = record.decode("utf-8", "backslashreplace")
    else:
        try:
            payload = orjson.dumps(record, default=str, option=_CANONICAL).decode()
        except TypeError:  # what JSON can't carry: nested too deep, integers beyond 64 bits
            payload = reprlib.repr(record)
    # No database takes a NUL.
    payload, reason = payload.replace("\x00", "\ufffd"), reason.replace("\x00", "\ufffd")
    if len(payload) > PAYLOAD_MAX_CHARS:
        digest = hashlib.blake2b(payload.encode(), digest_size=8).hexdigest()
        tail = f"... ({len(payload)} characters, blake2b {digest})"
        payload = payload[: PAYLOAD_MAX_CHARS - len(tail)] + tail
    return orjson.dumps(
        {"stream": stream, "reason": reason, "payload": payload, "event_time_ms": event_time_ms, "code": code}
    ).decode()
