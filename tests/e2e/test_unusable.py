"""Mutated, truncated and spliced messages through the whole job: it goes on, and each that can't be used is told."""

from __future__ import annotations

import random
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from tests.lengths import LENGTHS
from tests.services import Database, kafka_broker
from tests.streamed import Producer, create_topics, empty, parquet, run, stored
from tests.unit.test_collect_focus import ROW
from tests.unit.test_otlp_fuzz import LINES, SEED, STREAMS, mutated
from tests.unit.test_otlp_proto import REQUESTS, protobuf
from udfs.pure.focus_record import collect_charge_record

pytestmark = pytest.mark.services

MESSAGES = LENGTHS.mutated_messages

# Told of usage that can be read, further down the way.
UNOWNED = "usage of a pod whose billed resource is unknown"


def messages() -> dict[str, list[bytes | None]]:
    """Topic -> messages, a quarter of them each."""
    rng = random.Random(SEED)
    found = {}
    for signal, line in LINES.items():
        originals = [line, protobuf(signal, line)]
        found[STREAMS[signal]] = [mutated(rng, rng.choice(originals), originals) for _ in range(MESSAGES // 4)]
    row = orjson.dumps(ROW)
    found["focus_charges"] = [mutated(rng, row, [row]) for _ in range(MESSAGES // 4)]
    for sent in found.values():
        sent.append(None)  # a message without a value
    return found


def rejects(sent: dict[str, list[bytes | None]]) -> set[tuple[str, str, str]]:
    """(stream, reason, payload) of all that can't be used, each once."""
    told: set[str] = set()
    for signal, topic in STREAMS.items():
        for message in filter(None, sent[topic]):
            told.update(REQUESTS[signal][1](message)[-1])
    for message in sent["focus_charges"]:
        kind, value = collect_charge_record(message or b"", "2024-01-01T00:00:00.000")
        if kind == "reject":
            told.add(value)
    return {(row["stream"], row["reason"], row["payload"]) for row in map(orjson.loads, told)}


@pytest.mark.long
def test_no_message_stops_the_job_and_each_unusable_one_is_told(database: Database, tmp_path: Path) -> None:
    sent = messages()
    empty(database)
    with kafka_broker() as broker:
        create_topics(broker)
        to = Producer(broker)
        for topic, records in sent.items():
            for record in records:
                to.send(topic, record, key=b"key" if record is None else None)
        to.flush()
        to.close()
        done = run("--input", broker.url, "--bounded", "--output", str(tmp_path / "tables"), "--output", database.url)
        assert done.returncode == 0, done.stderr[-2000:]
        rows = pq.read_table(tmp_path / "tables/rejected_records.parquet").to_pylist()
        assert stored(database) == parquet(tmp_path / "tables")
    found = [(row["stream"], row["reason"], row["payload"]) for row in rows if not row["reason"].startswith(UNOWNED)]
    assert len(found) == len(set(found)) > MESSAGES // 8
    assert set(found) == rejects(sent)
