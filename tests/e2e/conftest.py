"""What the tests on Kafka, PostgreSQL and a cluster share, started once a session.

Whoever stops or kills a server starts it again; whoever writes to the database empties its tables first; the broker's
topics hold the one world, and what the tests wrote as results. A test with other input has a broker of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from kafka import KafkaConsumer

from jobs.tables import SCHEMAS
from tests.cluster import Cluster, session_cluster
from tests.services import Broker, Database, kafka_broker, postgres
from tests.simulated import simulate
from tests.streamed import (
    UNUSABLE,
    Producer,
    Tables,
    charges,
    comparable,
    create_topics,
    empty,
    parquet,
    run,
    send_charges,
    send_telemetry,
    stored,
)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("kafka") / "world", 24, "mixed")


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    with postgres() as running:
        yield running


@dataclass(frozen=True)
class BoundedRun:
    """What one bounded run wrote, read right after it.

    Attributes:
        tables: to a directory.
        stored: to PostgreSQL.
        ranked: ids of the anomalies that stand in Kafka.
    """

    tables: Tables
    stored: Tables
    ranked: set[str]


@pytest.fixture(scope="session")
def bounded(broker: Broker, database: Database, tmp_path_factory: pytest.TempPathFactory) -> BoundedRun:
    """A bounded run over the broker's topics, to a directory, to PostgreSQL and to Kafka at once."""
    for name in SCHEMAS:
        broker.create_topic(name, 1)
    empty(database)
    target = tmp_path_factory.mktemp("kafka") / "bounded"
    done = run("--input", broker.url, "--bounded", "--output", str(target), "--output", database.url,
               "--output", broker.url)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return BoundedRun(parquet(target), stored(database), _ranked(broker))


def _ranked(broker: Broker) -> set[str]:
    """Ids of the anomalies that stand in the broker's topic."""
    consumer = KafkaConsumer("ranked_anomalies", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest",
                             consumer_timeout_ms=5_000)  # fmt: skip
    standing = {}
    for record in consumer:
        standing[record.key] = record.value and json.loads(record.value)
    consumer.close()
    return {row["anomaly_id"] for row in standing.values() if row}


@pytest.fixture(scope="session")
def expected(bounded: BoundedRun, world: Path, job: Callable[..., dict[str, pa.Table]]) -> Tables:
    """The tables of the directory, read once; and what Kafka alone holds of the unusable."""
    tables = comparable(job(world))
    assert tables["rejected_records"] == []
    return tables | {"rejected_records": bounded.tables["rejected_records"]}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # A bounded run has to take no notice of the interval, and the others say their own.
    settings = {"execution_checkpointing_interval": "1 s"}
    with session_cluster(tmp_path_factory.mktemp("cluster") / "cluster", **settings) as running:
        yield running
