"""The servers that tests stand on: what they were given outlives a restart and a kill."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.services import Broker, Database, kafka_broker, postgres

pytestmark = pytest.mark.services

ENDS = ["stop", "kill"]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with kafka_broker() as running:
        yield running


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with postgres() as running:
        yield running


def _all_of(broker: Broker, topic: str, partitions: int) -> list[bytes]:
    """Messages that stand in ``topic`` now, sorted."""
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    try:
        parts = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(parts)
        ends = consumer.end_offsets(parts)
        messages: list[bytes] = []
        while any(consumer.position(part) < ends[part] for part in parts):
            for batch in consumer.poll(timeout_ms=1000).values():
                messages += [message.value for message in batch]
        return sorted(messages)
    finally:
        consumer.close()


@pytest.mark.parametrize("end", ENDS)
def test_messages_outlive_the_broker(broker: Broker, end: str) -> None:
    broker.create_topic(f"until-{end}", partitions=2)
    sent = [b"%03d" % number for number in range(100)]
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
    for message in sent:
        producer.send(f"until-{end}", message, key=message)
    producer.flush()
    producer.close()
    assert _all_of(broker, f"until-{end}", 2) == sent

    before, bootstrap = broker.pid, broker.bootstrap
    getattr(broker, end)()
    broker.start()

    assert (broker.pid != before, broker.bootstrap) == (True, bootstrap)
    assert _all_of(broker, f"until-{end}", 2) == sent


@pytest.mark.parametrize("end", ENDS)
def test_rows_outlive_the_server(database: Database, end: str) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(f"create table until_{end} as select generate_series(1, 100) as number")
        # A session that is open doesn't keep the server from ending.
        before, url = database.pid, database.url
        getattr(database, end)()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    database.start()

    assert (database.pid != before, database.url) == (True, url)
    with psycopg.connect(database.dsn) as connection:
        assert connection.execute(f"select sum(number) from until_{end}").fetchone() == (5050,)


def test_a_server_that_cannot_start_says_why() -> None:
    with postgres() as broken:
        broken.stop()
        (broken.folder / "data" / "PG_VERSION").unlink()
        with pytest.raises(RuntimeError, match="PG_VERSION"):
            broken.start()
