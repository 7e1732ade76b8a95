"""Kafka in, PostgreSQL out, killed and started again: the tables are those of a directory read once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer

from jobs.tables import SCHEMAS
from tests.e2e.test_simulated_world import simulate
from tests.services import Broker, Database, kafka_broker, postgres
from tests.streamed import (
    PATIENCE_S,
    UNUSABLE,
    Producer,
    Tables,
    charges,
    create_topics,
    differing,
    empty,
    end,
    ended,
    parquet,
    run,
    send_charges,
    send_telemetry,
    start,
    stored,
    wait_for,
)

pytestmark = pytest.mark.services

# ANOMALY_COST_KILLS=20 is the long version.
KILLS = int(os.environ.get("ANOMALY_COST_KILLS", "2"))
# Seconds that the broker, and the database twice that long, are away; 60 is the long version.
AWAY_S = float(os.environ.get("ANOMALY_COST_AWAY_S", "5"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("kafka") / "world", 24, "mixed")


@pytest.fixture(scope="module")
def broker(world: Path) -> Iterator[Broker]:
    """A broker that holds the world, and three records that nobody can use."""
    with kafka_broker() as running:
        create_topics(running)
        to = Producer(running)
        send_telemetry(to, world)
        send_charges(to, charges(world))
        for topic, record in UNUSABLE.items():
            to.send(topic, record)
        to.flush()
        to.close()
        yield running


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def bounded(broker: Broker, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """The tables that a bounded run writes to a directory, with PostgreSQL and Kafka in the same run."""
    for name in SCHEMAS:
        broker.create_topic(name, 1)
    target = tmp_path_factory.mktemp("kafka") / "bounded"
    done = run("--input", broker.url, "--bounded", "--output", str(target), "--output", database.url,
               "--output", broker.url)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return parquet(target)


@pytest.fixture(scope="module")
def expected(bounded: Tables, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """The tables of the directory, read once; and what Kafka alone holds of the unusable."""
    target = tmp_path_factory.mktemp("kafka") / "tables"
    run("--input", str(world), "--output", str(target)).check_returncode()
    tables = parquet(target)
    assert tables["rejected_records"] == []
    return tables | {"rejected_records": bounded["rejected_records"]}


def test_bounded_kafka_gives_the_tables_of_the_directory(
    broker: Broker, database: Database, bounded: Tables, expected: Tables
) -> None:
    """... in Parquet, in PostgreSQL and in Kafka, all in one run."""
    assert differing(bounded, expected) == {}
    assert sorted(row[0] for row in bounded["rejected_records"]) == sorted(UNUSABLE)
    assert differing(stored(database), expected) == {}
    consumer = KafkaConsumer("ranked_anomalies", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest",
                             consumer_timeout_ms=5_000)  # fmt: skip
    standing = {}
    for record in consumer:
        standing[record.key] = record.value and json.loads(record.value)
    consumer.close()
    ids = {row["anomaly_id"] for row in standing.values() if row}
    assert ids == {row[0] for row in expected["ranked_anomalies"]}


def test_a_broker_that_asks_who_is_there_is_read_and_written(broker: Broker, bounded: Tables, tmp_path: Path) -> None:
    """TLS and SASL by settings, the secrets by the environment; a wrong one is told in one line."""
    secrets = {"KAFKA_USERNAME": Broker.USER, "KAFKA_SSL_TRUSTSTORE_PASSWORD": Broker.PASSWORD}
    command = ("--input", broker.secured_url, "--bounded", "--output", broker.secured_url, "--output", str(tmp_path),
               "--set", f"kafka.ssl.truststore.location={broker.truststore}",
               "--set", "kafka.ssl.truststore.type=PKCS12")  # fmt: skip
    done = run(*command, environment=secrets | {"KAFKA_PASSWORD": Broker.PASSWORD})
    assert done.returncode == 0, done.stderr[-2000:]
    assert differing(parquet(tmp_path), bounded) == {}
    wrong = run(*command, environment=secrets | {"KAFKA_PASSWORD": "wrong-one"})
    assert wrong.returncode == 1
    assert "SaslAuthenticationException" in wrong.stderr.splitlines()[-1]
    for text in (done.stderr, wrong.stderr, (tmp_path / "anomaly_cost.log").read_text(encoding="utf-8")):
        assert not any(secret in text for secret in (Broker.PASSWORD, "wrong-one"))


def test_killed_at_random_the_stream_ends_up_with_the_same_tables(
    broker: Broker, database: Database, expected: Tables, tmp_path: Path
) -> None:
    """Without an end, with --state: SIGKILL, and the same command again."""
    empty(database)
    draw = random.Random(5)
    arguments = ("--input", broker.url, "--output", database.url, "--state", str(tmp_path / "state"),
                 "--set", "checkpoint.every=2 s", "--set", "idle.after=15 s")  # fmt: skip
    checkpoints = tmp_path / "state/checkpoints"
    for _ in range(KILLS):
        before = set(checkpoints.glob("*/chk-*/_metadata"))
        process = start(*arguments)
        until = time.monotonic() + PATIENCE_S
        while not set(checkpoints.glob("*/chk-*/_metadata")) - before and time.monotonic() < until:
            assert process.poll() is None, process.stderr.read()[-2000:]
            time.sleep(0.2)
        time.sleep(draw.uniform(0, 12))
        assert process.poll() is None, process.stderr.read()[-2000:]
        end(process, signal.SIGKILL)
    process = start(*arguments)
    try:
        wait_for(database, expected, ended(process))
    finally:
        end(process)


@pytest.mark.parametrize("ends", ["servers", "engine"])
def test_what_restarts_under_a_run_loses_nothing(
    broker: Broker, database: Database, expected: Tables, tmp_path: Path, ends: str
) -> None:
    """The database and the broker; or the engine's process, as a crash of it would: the command goes on by itself."""
    empty(database)
    process = start("--input", broker.url, "--output", database.url, "--state", str(tmp_path / "state"),
                    "--set", "checkpoint.every=2 s", "--set", "idle.after=15 s")  # fmt: skip
    try:
        until = time.monotonic() + PATIENCE_S
        while not any(stored(database).values()) and time.monotonic() < until:
            time.sleep(0.5)
        if ends == "engine":
            os.kill(_java_of(process), signal.SIGKILL)
        else:
            database.stop()
            broker.stop()
            time.sleep(AWAY_S)
            broker.start()
            time.sleep(AWAY_S)
            database.start()
        wait_for(database, expected, ended(process), PATIENCE_S + 2 * AWAY_S)
    finally:
        end(process)


def _java_of(process: subprocess.Popen) -> int:
    """The engine's process."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    return next(int(pid) for pid in children if "java" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"))


def test_what_is_not_there_is_told_in_one_line(broker: Broker, tmp_path: Path) -> None:
    for arguments, word in (
        (("--input", "kafka://127.0.0.1:9", "--bounded", "--output", str(tmp_path)), "no broker answers"),
        (("--input", broker.url, "--output", "postgresql://app@127.0.0.1:9/app"), "127.0.0.1"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1 and word in done.stderr, done.stderr
