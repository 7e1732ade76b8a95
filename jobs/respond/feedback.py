"""What people wrote into the table feedback, sent to the topic that the job reads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import orjson
import psycopg
from psycopg.rows import dict_row

_ROWS_A_BATCH = 1_000


def forward(connection: psycopg.Connection, send: Callable[[list[bytes]], None]) -> int:
    """Send what was said since the last time; returns how many rows.

    send: hands records over, and raises if they were not taken. What is sent twice counts once.
    """
    count = 0
    while True:
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(
                "select feedback.* from public.feedback, anomaly_cost.respond"
                " where feedback.feedback_id > respond.feedback_id order by feedback.feedback_id limit %s",
                [_ROWS_A_BATCH],
            ).fetchall()
            if not rows:
                return count
            send([record(row) for row in rows])
            cursor.execute("update anomaly_cost.respond set feedback_id = %s", [rows[-1]["feedback_id"]])
        count += len(rows)


def record(row: dict[str, object]) -> bytes:
    """As the topic has it: docs/interface.md, section 1."""
    return orjson.dumps({
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if value is not None and name != "feedback_id"
    })  # fmt: skip
