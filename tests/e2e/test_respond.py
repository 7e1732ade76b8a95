"""respond on a real database: nothing is lost and nothing told twice, whoever goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from jobs.migrate import migrate
from jobs.respond.policy import SEVERITIES
from tests.receiver import Receiver, pagerduty_error
from tests.services import ROOT, Database, alertmanager
from tests.streamed import wait
from tests.unit.test_respond import EVENTS, POLICY, loaded, sent

pytestmark = pytest.mark.services

KEY = "k" * 32
OPENED_MS = 1_767_263_580_000
ID = "2026-01-01T10:30:00Z/payment/USD"


def row(**changes: Any) -> dict[str, Any]:
    """An incident as the job sends it."""
    return {
        "incident_id": ID, "otel_service_name": "payment", "culprit_operation": "INSERT",
        "anomaly_kind": "latency_spike", "incident_state": "open", "opened_at": OPENED_MS,
        "last_seen_at": OPENED_MS + 300_000, "closed_at": None, "windows": 1, "window_start": OPENED_MS - 180_000,
        "window_end": OPENED_MS + 1_620_000, "anomalous_minutes": 5, "anomalous_traces": 212, "total_traces": 900,
        "peak_anomaly_score": 60.0, "affected_services": ["web"], "attributed_cost": "20", "excess_cost": "12.4",
        "billed_excess_cost": "0", "excess_cost_per_hour": "148.8", "projected_monthly_cost": "900",
        "billing_currency": "USD", "cost_status": "provisional", "evidence": "payment's INSERT takes 4.1× as long",
        "changes": "[]", "exemplar_trace_ids": ["ab"], "exemplar_urls": ["http://jaeger/trace/ab"], "feedback": None,
        "feedback_by": None, "feedback_note": None, "is_silenced": False, "model_version": "m",
        "updated_at": OPENED_MS + 1_620_000,
    } | changes  # fmt: skip


CLOSED = {"incident_state": "closed", "closed_at": OPENED_MS + 2_100_000}


def put(database: Database, *rows: dict[str, Any]) -> None:
    """As the job does."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for of in rows:
            connection.execute(
                "insert into anomaly_cost.restated values ('incidents', %s, %s, %s)",
                [of["window_start"], of["incident_id"], json.dumps([of])],
            )


def rows(database: Database, query: str) -> list[tuple]:
    with psycopg.connect(database.dsn) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def tables(database: Database) -> Database:
    """The database without incidents, and respond as if it had never run."""
    migrate(database.url)
    with psycopg.connect(database.dsn) as connection:
        connection.execute(
            "truncate public.incidents, public.feedback, anomaly_cost.told, anomaly_cost.notifications,"
            " anomaly_cost.respond, anomaly_cost.not_told restart identity"
        )
    return database


class Running:
    """respond in a process of its own."""

    def __init__(self, database: Database, policy: Path, *arguments: str, **environment: str) -> None:
        self._command = [
            sys.executable, "-m", "jobs.respond", "--tables", database.url, "--policy", str(policy), *arguments,
        ]  # fmt: skip
        self._environment = os.environ | {"PD_KEY": KEY, "HOOK_SECRET": "s3cret"} | environment
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, cwd=ROOT, env=self._environment)

    def once(self) -> subprocess.CompletedProcess:
        return subprocess.run(
            [*self._command, "--once"], cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=120
        )

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def pager() -> Iterator[Receiver]:
    receiver = Receiver(pagerduty_error)
    yield receiver
    receiver.stop()


@pytest.fixture
def hook() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


def written(folder: Path, pager: Receiver, hook: Receiver, more: str = "", to: str = '"pager", "hook"') -> Path:
    path = folder / "policy.toml"
    path.write_text(f"""
[receivers.pager]
kind = "pagerduty"
url = "{pager.url}/v2/enqueue"
routing_key_env = "PD_KEY"
[receivers.hook]
kind = "webhook"
url = "{hook.url}/hook"
secret_env = "HOOK_SECRET"
{more}
[[routes]]
name = "all"
receivers = [{to}]
cooldown = "1 s"
excess = {{ USD = "1" }}
escalate = [{{ excess = {{ USD = "50" }}, severity = "critical" }}]
""")
    return path


def actions(bodies: list[Any]) -> list[tuple[str, str]]:
    return [(body["event_action"], body["payload"]["severity"] if "payload" in body else "") for body in bodies]


def kinds(bodies: list[Any]) -> list[str]:
    return [body["type"].rpartition(".")[2] for body in bodies]


def test_who_goes_away_loses_nothing_and_is_told_nothing_twice(
    tables: Database, pager: Receiver, hook: Receiver, tmp_path: Path
) -> None:
    respond = Running(tables, written(tmp_path, pager, hook))
    respond.start()
    try:
        put(tables, row())
        pager.wait_for(lambda bodies: actions(bodies) == [("trigger", "warning")])
        hook.wait_for(lambda bodies: kinds(bodies) == ["opened"])

        pager.stop()
        put(tables, row(excess_cost="60"))
        hook.wait_for(lambda bodies: kinds(bodies) == ["opened", "escalated"])
        wait("end of what waits", lambda: not _waiting(tables, "hook"), patience_s=120)
        respond.end()
        put(tables, row(excess_cost="61", cost_status="billed"))
        respond.start()
        hook.wait_for(lambda bodies: kinds(bodies) == ["opened", "escalated", "restated"])
        hook.status = 503
        put(tables, row(excess_cost="61", cost_status="billed", **CLOSED))
        wait("message that waits", lambda: _waiting(tables, "hook") == 1, patience_s=120)
        respond.end()
        hook.status = 200
        pager.start()
        respond.start()
        pager.wait_for(lambda bodies: len(bodies) >= 4)
        hook.wait_for(lambda bodies: len(bodies) >= 4)
        # And then nothing more.
        wait(
            "end of what waits", lambda: not _waiting(tables, "hook") and not _waiting(tables, "pager"), patience_s=120
        )
    finally:
        assert respond.end(signal.SIGTERM) == 130
    assert actions(pager.bodies) == [("trigger", "warning"), *[("trigger", "critical")] * 2, ("resolve", "")]
    assert {body["dedup_key"] for body in pager.bodies} == {ID}
    assert kinds(hook.bodies) == ["opened", "escalated", "restated", "resolved"]
    assert len({body["id"] for body in hook.bodies}) == 4
    assert hook.bodies[2]["data"]["incident"]["excess_cost"] == "61.000000000000"


def _waiting(database: Database, receiver: str) -> int:
    [(count,)] = rows(
        database,
        "select count(*) from anomaly_cost.notifications"
        f" where notification_state = 'waiting' and receiver = '{receiver}'",
    )
    return count


def test_what_was_taken_but_not_noted_is_sent_again_under_its_key(
    tables: Database, pager: Receiver, hook: Receiver, tmp_path: Path
) -> None:
    hook.answers = False
    respond = Running(tables, written(tmp_path, pager, hook))
    respond.start()
    put(tables, row())
    hook.wait_for(lambda bodies: bodies)
    respond.end()
    hook.answers = True
    respond.start()
    wait("end of what waits", lambda: not _waiting(tables, "hook"), patience_s=120)
    respond.end()
    first, *again = hook.bodies
    assert again
    assert all(body == first for body in again)


def test_what_had_ended_before_it_ran_first_is_told_to_nobody(
    tables: Database, pager: Receiver, hook: Receiver, tmp_path: Path
) -> None:
    put(tables, row(**CLOSED), row(incident_id="2026-01-01T10:30:00Z/cart/USD", otel_service_name="cart"))
    respond = Running(tables, written(tmp_path, pager, hook))
    assert respond.once().returncode == 0
    assert [body["dedup_key"] for body in pager.bodies] == ["2026-01-01T10:30:00Z/cart/USD"]
    # What opens and ends while it is away is told.
    put(tables, row(incident_id="2026-01-01T11:30:00Z/web/USD", otel_service_name="web", **CLOSED))
    assert respond.once().returncode == 0
    assert actions(pager.bodies[1:]) == [("trigger", "warning"), ("resolve", "")]


def test_what_a_receiver_refuses_for_good_stays_to_be_seen(
    tables: Database, pager: Receiver, hook: Receiver, tmp_path: Path
) -> None:
    pager.check = lambda body: "routing_key is not known"
    put(tables, row())
    done = Running(tables, written(tmp_path, pager, hook)).once()
    assert done.returncode == 0 and KEY not in done.stderr
    assert "pager refuses message" in done.stderr
    found = rows(
        tables, "select receiver, notification_state, attempts, error from anomaly_cost.notifications order by 1"
    )
    assert found == [("hook", "sent", 1, None), ("pager", "dead", 1, "pagerduty answers 400 routing_key is not known")]


def test_an_alertmanager_is_told_and_tells_once(
    tables: Database, pager: Receiver, hook: Receiver, tmp_path: Path
) -> None:
    told = Receiver()
    try:
        with alertmanager(f"{told.url}/told") as server:
            more = f'[receivers.alerts]\nkind = "alertmanager"\nurl = "{server.url}"'
            respond = Running(tables, written(tmp_path, pager, hook, more, '"alerts"'))
            put(tables, row())
            respond.once()
            [alert] = server.get("/api/v2/alerts")
            assert alert["labels"]["incident_id"] == ID and alert["labels"]["severity"] == "warning"
            assert alert["annotations"]["excess_cost"] == "12.400000000000"
            assert alert["generatorURL"] == "http://jaeger/trace/ab"
            told.wait_for(lambda bodies: _alerts(bodies) == [("firing", "warning")])
            # Said again, it is the same alert.
            respond.once()
            server.kill()
            put(tables, row(excess_cost="99"))
            respond.once()
            server.start()
            _until_due(tables)
            respond.once()
            told.wait_for(lambda bodies: ("firing", "critical") in _alerts(bodies))
            [alert] = server.get("/api/v2/alerts?active=true")
            assert alert["labels"]["severity"] == "critical"
            put(tables, row(excess_cost="99", **CLOSED))
            respond.once()
            told.wait_for(lambda bodies: ("resolved", "critical") in _alerts(bodies))
            assert server.get("/api/v2/alerts?active=true") == []
    finally:
        told.stop()
    assert _alerts(told.bodies).count(("firing", "critical")) == 1
    assert _alerts(told.bodies).count(("firing", "warning")) == 1


def test_an_alertmanager_takes_each_message_by_the_schema_that_it_is_made_of(tmp_path: Path) -> None:
    """It checks what is posted by its published OpenAPI file, and refuses what that doesn't allow."""
    policy = loaded(tmp_path, POLICY)
    bare = {"exemplar_urls": [], "changes": "[]", "culprit_operation": None, "excess_cost": None}
    with alertmanager("http://127.0.0.1:9/nobody") as server:

        def status(body: bytes) -> int:
            headers = {"Content-Type": "application/json"}
            return requests.post(f"{server.url}/api/v2/alerts", body, headers=headers, timeout=10).status_code

        for event, severity, of in product(EVENTS, SEVERITIES, ({}, bare)):
            wanted, alerts = sent(policy, "alerts", event, severity, **of)
            assert status(wanted.body) == 200, (event, severity, of)
            # What isn't in the file is dropped in silence.
            assert all(
                alert.keys() <= {"labels", "annotations", "startsAt", "endsAt", "generatorURL"} for alert in alerts
            )
        [alert] = sent(policy, "alerts")[1]
        for wrong in ({"labels": None}, {"labels": {"severity": 1}}, {"endsAt": "soon"}, {"annotations": {"a": 1.5}}):
            assert 400 <= status(json.dumps([alert | wrong]).encode()) < 500, wrong
        assert 400 <= status(json.dumps([{**alert, "generatorURL": "no address"}]).encode()) < 500


def _alerts(bodies: list[Any]) -> list[tuple[str, str]]:
    return [(alert["status"], alert["labels"]["severity"]) for body in bodies for alert in body["alerts"]]


def _until_due(database: Database) -> None:
    """Until what failed may be tried again."""
    [(due,)] = rows(database, "select max(due_at) from anomaly_cost.notifications where notification_state = 'waiting'")
    wait("time to try again", lambda: datetime.now(UTC) > due + timedelta(milliseconds=10), patience_s=120)


def test_what_people_write_goes_to_the_job_once(
    tables: Database, broker, pager: Receiver, hook: Receiver, tmp_path: Path
) -> None:
    """To a broker that asks who is there, by the settings that the job takes."""
    from kafka import KafkaConsumer

    with psycopg.connect(tables.dsn) as connection:
        connection.execute(
            "insert into public.feedback (incident_id, verdict, author, note)"
            " values (%s, 'false_alarm', 'ann', 'drill')",
            [ID],
        )
    respond = Running(
        tables, written(tmp_path, pager, hook), "--feedback-to", broker.secured_url,
        "--set", f"kafka.ssl.truststore.location={broker.truststore}", "--set", "kafka.ssl.truststore.type=PKCS12",
        KAFKA_USERNAME=broker.USER, KAFKA_PASSWORD=broker.PASSWORD, KAFKA_SSL_TRUSTSTORE_PASSWORD=broker.PASSWORD,
    )  # fmt: skip
    for _ in range(2):
        done = respond.once()
        assert done.returncode == 0 and "feedback waits" not in done.stderr, done.stderr
    consumer = KafkaConsumer(
        "incident_feedback", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=3_000
    )
    [record] = [json.loads(message.value) for message in consumer]
    consumer.close()
    assert (record["incident_id"], record["verdict"], record["author"], record["note"]) == (
        ID,
        "false_alarm",
        "ann",
        "drill",
    )
    assert datetime.fromisoformat(record["given_at"]).tzinfo
