"""What respond knows and has still to send, in PostgreSQL: see docker/postgres/migrations/0010_respond.sql.

What was decided and what is to be sent are written in one transaction, so a kill loses neither. A message is marked as
sent when its receiver has taken it; a kill in between sends it again, under the same key.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
import psycopg
from psycopg.rows import dict_row, kwargs_row

from jobs.respond.watch import Message, Told

# Tries wait twice as long each time, from the first of these seconds to the second.
_BACKOFF_S, _BACKOFF_MOST_S = 1.0, 300.0

# Incidents that ended so long ago are looked at no more: their bills can't be corrected any longer.
_LOOKED_AT = timedelta(days=75)

_TOLD = [column.name for column in fields(Told)]

# One of several copies that run decides and sends; any number that no other program takes.
_LEADER = 0x616E6F6D_72737064  # "anomrspd"


class Queued(NamedTuple):
    """A message that waits."""

    notification_id: int
    attempts: int
    created_at: datetime
    message: Message


def lead(connection: psycopg.Connection) -> bool:
    """Whether this copy is the one that works, until its connection ends."""
    row = connection.execute("select pg_try_advisory_lock(%s)", [_LEADER]).fetchone()
    return bool(row and row[0])


def begin(connection: psycopg.Connection) -> None:
    """The first copy that ever looks takes down what has ended by now: nobody is told of that."""
    with connection.transaction():
        first = connection.execute("insert into anomaly_cost.respond default values on conflict do nothing").rowcount
        if first:
            connection.execute(
                "insert into anomaly_cost.not_told select incident_id from public.incidents where closed_at is not null"
            )


def incidents(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Rows of the table of which something may be told: of what ended long ago nothing is."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """
            select incidents.* from public.incidents
            where (closed_at is null or closed_at > (select max(last_seen_at) from public.incidents) - %s)
                and not exists (
                    select from anomaly_cost.not_told where not_told.incident_id = incidents.incident_id
                )
            order by incident_id
            """,
            [_LOOKED_AT],
        ).fetchall()


def burning(connection: psycopg.Connection) -> frozenset[str]:
    """Names of the budgets of the newest month that are spent, or will be before it ends."""
    rows = connection.execute(
        "select budget from public.budget_status where month = (select max(month) from public.budget_status)"
        " and greatest(forecast_cost, billed_cost + provisional_cost) > amount"
    ).fetchall()
    return frozenset(name for (name,) in rows)


def told(connection: psycopg.Connection, of: Sequence[str]) -> list[Told]:
    """What was told and isn't over, or is of these incidents, be it under an id that they had before."""
    with connection.cursor(row_factory=kwargs_row(_told)) as cursor:
        return cursor.execute(
            f"""
            select {", ".join(_TOLD)} from anomaly_cost.told
            where not is_over or incident_id = any(%(of)s) or exists (
                select from public.incidents as found
                where found.incident_id = any(%(of)s)
                    and found.otel_service_name = told.otel_service_name
                    and found.billing_currency = told.billing_currency
                    and found.window_start < told.window_end
                    and found.window_end > told.window_start
            )
            order by route, thread
            """,
            {"of": list(of)},
        ).fetchall()


def _told(receivers: list[str], **columns: Any) -> Told:
    return Told(receivers=tuple(receivers), **columns)


def write(connection: psycopg.Connection, told: Sequence[Told], messages: Sequence[Message], now: datetime) -> None:
    """What was told and what is to be sent, together."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            f"insert into anomaly_cost.told ({', '.join(_TOLD)}) values ({', '.join(['%s'] * len(_TOLD))})"
            " on conflict (route, thread) do update set"
            f" {', '.join(f'{name} = excluded.{name}' for name in _TOLD)}",
            [[list(value) if isinstance(value, tuple) else value for value in astuple(row)] for row in told],
        )
        cursor.executemany(
            "insert into anomaly_cost.notifications"
            " (receiver, route, thread, event, severity, incident, created_at, due_at)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                [*message[:5], orjson.dumps(dict(message.incident), default=_text).decode(), now, now]
                for message in messages
            ],
        )


def _text(value: object) -> str:
    """Money and times as text, which rounds neither."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def due(connection: psycopg.Connection, receiver: str, now: datetime) -> Iterator[Queued]:
    """A receiver's messages whose time has come, in their order. One of an incident waits for those before it."""
    rows = connection.execute(
        "select notification_id, attempts, created_at, due_at, route, thread, event, severity, incident"
        " from anomaly_cost.notifications where receiver = %s and notification_state = 'waiting'"
        " order by notification_id limit 1000",
        [receiver],
    ).fetchall()
    held: set[str] = set()
    for number, attempts, created_at, due_at, route, thread, event, severity, incident in rows:
        if thread in held or due_at > now:
            held.add(thread)
        else:
            message = Message(receiver, route, thread, event, severity, incident)
            yield Queued(number, attempts, created_at, message)


def sent(connection: psycopg.Connection, queued: Queued, now: datetime) -> None:
    """The receiver has taken it."""
    connection.execute(
        "update anomaly_cost.notifications set notification_state = 'sent', sent_at = %s, attempts = attempts + 1,"
        " error = null where notification_id = %s",
        [now, queued.notification_id],
    )


def failed(
    connection: psycopg.Connection,
    queued: Queued,
    error: str,
    retry_after_s: float | None,
    now: datetime,
    rng: random.Random,
) -> datetime:
    """The receiver has not: when it is tried again. retry_after_s: what the receiver asks for."""
    wait_s = min(_BACKOFF_S * 2**queued.attempts, _BACKOFF_MOST_S) * rng.uniform(0.5, 1.0)
    due_at = now + timedelta(seconds=max(wait_s, retry_after_s or 0.0))
    connection.execute(
        "update anomaly_cost.notifications set attempts = attempts + 1, error = %s, due_at = %s"
        " where notification_id = %s",
        [error, due_at, queued.notification_id],
    )
    return due_at


def refused(connection: psycopg.Connection, queued: Queued, error: str) -> None:
    """The receiver never will: it stays to be seen."""
    connection.execute(
        "update anomaly_cost.notifications set notification_state = 'dead', attempts = attempts + 1, error = %s"
        " where notification_id = %s",
        [error, queued.notification_id],
    )


def open_alerts(connection: psycopg.Connection, receiver: str) -> list[Message]:
    """The last that a receiver took of each incident that isn't over: some forget what isn't said again."""
    rows = connection.execute(
        """
        select distinct on (sent.route, sent.thread) sent.route, sent.thread, sent.event, sent.severity, sent.incident
        from anomaly_cost.notifications as sent
        join anomaly_cost.told on told.route = sent.route and told.thread = sent.thread and not told.is_over
        where sent.receiver = %s and sent.notification_state = 'sent'
        order by sent.route, sent.thread, sent.notification_id desc
        """,
        [receiver],
    ).fetchall()
    return [Message(receiver, *row) for row in rows]
