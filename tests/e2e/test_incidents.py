"""The whole way: a fault in a stream becomes one incident, is told once with its money, restated, escalated, ended."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from jobs.migrate import migrate
from tests.e2e.test_respond import Running
from tests.receiver import Receiver, pagerduty_error
from tests.services import Broker, Database, alertmanager, kafka_broker
from tests.simulated import simulate
from tests.streamed import PATIENCE_S, Producer, charges, create_topics, empty, end, ended, send_charges, start, wait

pytestmark = pytest.mark.services

_TIME = re.compile(rb'"(?:startTimeUnixNano|timeUnixNano)":"?(\d+)')


@pytest.fixture
def broker() -> Iterator[Broker]:
    """One that holds nothing yet."""
    with kafka_broker() as running:
        create_topics(running)
        yield running


def _lines(world: Path) -> list[tuple[datetime, str, bytes]]:
    """(time of its first record, topic, request), in the order of time."""
    found = []
    for folder, topic in (("traces", "otlp_spans"), ("metrics", "otlp_metrics"), ("logs", "otlp_logs")):
        for path in sorted((world / folder).glob("*.jsonl*")):
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
                for line in lines:
                    at_ns = min(map(int, _TIME.findall(line)), default=0)
                    found.append((datetime.fromtimestamp(at_ns / 1e9, UTC), topic, line.strip()))
    return sorted(found, key=lambda line: line[0])


def _incidents(database: Database, service: str) -> list[dict[str, Any]]:
    with psycopg.connect(database.dsn, row_factory=dict_row) as connection:
        return connection.execute(
            "select * from incidents where otel_service_name = %s order by opened_at", [service]
        ).fetchall()


def _sent(database: Database, receiver: str) -> int:
    with psycopg.connect(database.dsn) as connection:
        [(count,)] = connection.execute(
            "select count(*) from anomaly_cost.notifications where receiver = %s and notification_state = 'sent'",
            [receiver],
        ).fetchall()
    return count


def _dearer(row: dict[str, str], factor: int) -> dict[str, str]:
    costs = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")
    return row | {name: str(Decimal(row[name]) * factor) for name in costs if row[name]}


def test_one_fault_is_one_incident_from_its_first_trace_to_its_end(
    job, broker: Broker, database: Database, tmp_path: Path
) -> None:
    world = simulate(tmp_path / "world", 24, "metered")
    # What the job makes of the whole world, once and for all: the incident that costs most is followed.
    expected = [
        row for row in job(world)["incidents"].to_pylist() if row["closed_at"] and (row["excess_cost"] or 0) > 0
    ]
    chosen = max(expected, key=lambda row: row["excess_cost"])
    service, ends = chosen["otel_service_name"], chosen["last_seen_at"]
    lines, bill = _lines(world), charges(world)
    known = [row for row in bill if row["ChargePeriodEnd"] <= chosen["window_start"].strftime("%Y-%m-%dT%H:%M:%SZ")]
    later = [row for row in bill if row not in known]

    migrate(database.url)
    empty(database)
    with psycopg.connect(database.dsn) as connection:
        connection.execute(
            "truncate anomaly_cost.told, anomaly_cost.notifications, anomaly_cost.respond, anomaly_cost.not_told"
        )
    pager, told = Receiver(pagerduty_error), Receiver()
    to = Producer(broker)
    process = start("--input", broker.url, "--output", database.url, "--set", "idle.after=10 min")
    fails = ended(process)
    with alertmanager(f"{told.url}/told") as alerts:
        respond = Running(database, _policy(tmp_path, pager, alerts.url, chosen))
        try:
            send_charges(to, known)
            for at, topic, line in lines:
                if at < ends:
                    to.send(topic, line)
            to.flush()
            wait("open incident that costs", lambda: _costs(database, chosen), fails)
            respond.start()
            pager.wait_for(lambda bodies: _of(bodies, service), PATIENCE_S)
            # respond and the pager are away while the bill lands, twenty times as dear as it was. Killed before it
            # noted that a message was taken, respond would send it again: test_respond has that.
            pager.stop()
            wait("note of what the pager took", lambda: _sent(database, "pager") == len(pager.bodies), fails)
            respond.end()
            alerts.kill()
            send_charges(to, [_dearer(row, 20) for row in later])
            wait("restated incident", lambda: _is_billed(database, chosen), fails)
            respond.start()
            alerts.start()
            pager.start()
            pager.wait_for(lambda bodies: "critical" in _severities(_of(bodies, service)), PATIENCE_S)
            # The rest of the world: the incident ends.
            for at, topic, line in lines:
                if at >= ends:
                    to.send(topic, line)
            to.flush()
            pager.wait_for(lambda bodies: "resolve" in _actions(_of(bodies, service, chosen)), PATIENCE_S)
            wait("end of the alert", lambda: not _firing(alerts, chosen))
        finally:
            if respond.process:
                respond.end()
            to.close()
            end(process)
            pager.stop()
            told.stop()
    events = _of(pager.bodies, service, chosen)
    assert len({event["dedup_key"] for event in events}) == 1
    assert _actions(events)[0] == "trigger" and _actions(events)[-1] == "resolve"
    assert _actions(events).count("resolve") == 1
    first = events[0]["payload"]["custom_details"]
    assert first["cost_status"] == "provisional" and Decimal(first["excess_cost"]) > 0
    # Each thing is told once: nothing of two events is the same.
    assert len({json.dumps(event, sort_keys=True) for event in events}) == len(events)
    [incident] = [of for of in _incidents(database, service) if of["incident_id"] == chosen["incident_id"]]
    assert incident["closed_at"] is not None and incident["windows"] == chosen["windows"]
    # The bill tells that what the culprit uses is twenty times as dear from that hour on.
    prices = [change for change in incident["changes"] if change["what"].startswith("price of ")]
    assert prices and all(
        15 < Decimal(change["to"].split()[0]) / Decimal(change["from"].split()[0]) < 25 for change in prices
    )
    assert incident["excess_cost"] > Decimal(first["excess_cost"])
    with psycopg.connect(database.dsn) as connection:
        [(windows,)] = connection.execute(
            "select sum(excess_cost) from ranked_anomalies where otel_service_name = %s and billing_currency = %s"
            " and window_start >= %s and window_start < %s",
            [service, incident["billing_currency"], incident["window_start"], incident["window_end"]],
        ).fetchall()
    assert windows == incident["excess_cost"]


def _policy(folder: Path, pager: Receiver, alerts: str, incident: dict[str, Any]) -> Path:
    """Whoever costs five times as much as the incident did before its bill is critical."""
    dear = f'{incident["billing_currency"]} = "{5 * incident["excess_cost"]}"'
    path = folder / "policy.toml"
    path.write_text(f"""
[receivers.pager]
kind = "pagerduty"
url = "{pager.url}/v2/enqueue"
routing_key_env = "PD_KEY"
[receivers.alerts]
kind = "alertmanager"
url = "{alerts}"
[[routes]]
name = "all"
receivers = ["pager", "alerts"]
services = ["{incident["otel_service_name"]}"]
cooldown = "1 s"
escalate = [{{ excess = {{ {dear} }}, severity = "critical" }}]
""")
    return path


def _of(bodies: list[Any], service: str, incident: dict[str, Any] | None = None) -> list[Any]:
    """Events of a culprit, or of one incident of it."""
    of = [body for body in bodies if f"/{service}/" in body["dedup_key"]]
    if incident is None:
        return of
    begins = incident["window_start"] - timedelta(hours=1)
    return [
        body
        for body in of
        if begins <= datetime.fromisoformat(body["dedup_key"].partition("/")[0]) <= incident["window_end"]
    ]


def _actions(events: list[Any]) -> list[str]:
    return [event["event_action"] for event in events]


def _severities(events: list[Any]) -> set[str]:
    return {event["payload"]["severity"] for event in events if "payload" in event}


def _costs(database: Database, chosen: dict[str, Any]) -> bool:
    return any(
        of["window_start"] == chosen["window_start"] and (of["excess_cost"] or 0) > 0
        for of in _incidents(database, chosen["otel_service_name"])
    )


def _is_billed(database: Database, chosen: dict[str, Any]) -> bool:
    return any(
        of["cost_status"] != "provisional"
        for of in _incidents(database, chosen["otel_service_name"])
        if of["window_start"] == chosen["window_start"]
    )


def _firing(alerts, chosen: dict[str, Any]) -> list[Any]:
    active = alerts.get("/api/v2/alerts?active=true")
    return [alert for alert in active if alert["labels"]["incident_id"] == chosen["incident_id"]]
