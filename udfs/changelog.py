"""Rows between the stages: one shape for all keyed functions, a changelog by (kind, time_ms, key)."""

from __future__ import annotations

from pyflink.common import Row, RowKind, Types
from pyflink.table import ChangelogMode, DataTypes, Schema

FIELDS = ("kind", "time_ms", "event_key", "payload")

ROW_TYPE = Types.ROW_NAMED(
    list(FIELDS), [Types.STRING(), Types.LONG(), Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())]
)

SCHEMA = (
    Schema.new_builder()
    .column("kind", DataTypes.STRING().not_null())
    .column("time_ms", DataTypes.BIGINT().not_null())
    .column("event_key", DataTypes.STRING().not_null())
    .column("payload", DataTypes.BYTES())
    .primary_key("kind", "time_ms", "event_key")
    .build()
)

UPSERT = ChangelogMode.upsert()

# Event time at which everything that was read has been read: the end of a bounded input fires it.
END_OF_INPUT = 1 << 61


def upsert(kind: str, time_ms: int, event_key: str, payload: bytes) -> Row:
    """The newest state of a row."""
    row = Row(kind, time_ms, event_key, payload)
    row.set_row_kind(RowKind.UPDATE_AFTER)
    return row
