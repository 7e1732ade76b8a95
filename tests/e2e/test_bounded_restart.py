"""A bounded run on Kafka, killed at each of its stages and started again: it ends, with an undisturbed run's tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from jobs.migrate import migrate
from tests.literal import HOUR_MS, MINUTE_MS, NOON_MS, charge, cpu_gauge, resource, span, span_request
from tests.services import Broker, Database, kafka_broker, postgres
from tests.streamed import (
    PARTITIONS,
    PATIENCE_S,
    UNUSABLE,
    Producer,
    Tables,
    command,
    comparable,
    create_topics,
    differing,
    parquet,
    stored,
)
from tests.streamed import ROOT as TREE

pytestmark = pytest.mark.services

CART = resource("cart", "cart-1", "node-1")


def _trace(number: int) -> bytes:
    request = span_request((CART, [span(number, number, None, NOON_MS + number * MINUTE_MS, 20)]))
    return json.dumps(request).encode()


def _bill(cost: str, hour: int) -> bytes:
    start_ms = NOON_MS + hour * HOUR_MS
    return json.dumps(charge("node-1", start_ms, start_ms + HOUR_MS, cost)).encode()


@pytest.fixture
def broker() -> Iterator[Broker]:
    """Traces, usage and a charge; the topic of logs is empty."""
    with kafka_broker() as running:
        create_topics(running)
        to = Producer(running)
        for number in range(1, 61):
            to.send("otlp_spans", _trace(number), partition=number % PARTITIONS)
        points = [(NOON_MS + minute * MINUTE_MS, 0.5) for minute in range(60)]
        to.send("otlp_metrics", json.dumps(cpu_gauge(CART, points)).encode())
        to.send("focus_charges", _bill("4.00", 0))
        for topic, record in UNUSABLE.items():
            to.send(topic, record)
        to.flush()
        to.close()
        yield running


@pytest.fixture
def undisturbed(job, broker: Broker) -> Tables:
    """Of a run that reads what is there at first, and nothing happens to."""
    return comparable(job(broker.url, "detector=usual"))


@pytest.fixture
def database() -> Iterator[Database]:
    with postgres() as running:
        migrate(running.url)
        yield running


# The broker answers when it has so many bytes of a topic, as of the spans, or after two minutes, as to the charges.
HELD = ("--set", "kafka.fetch.min.bytes=2000", "--set", "kafka.fetch.max.wait.ms=120000",
        "--set", "kafka.request.timeout.ms=180000")  # fmt: skip


@contextmanager
def _locked(database: Database, table: str) -> Iterator[Callable[[], bool]]:
    """Nobody writes to ``table``; whether somebody waits to."""
    with psycopg.connect(database.dsn) as holding, psycopg.connect(database.dsn, autocommit=True) as asking:
        holding.execute(f"lock table {table} in access exclusive mode")

        def waits() -> bool:
            query = "select count(*) from pg_locks where not granted"
            return asking.execute(query).fetchone() != (0,)

        yield waits


class Job:
    """The command, on its way; what it says goes to a file."""

    def __init__(self, arguments: tuple[str, ...], log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(command(*arguments), cwd=TREE, stdout=subprocess.DEVNULL, stderr=stderr)

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Until ``condition``; fails where the job ends before it, or it never comes."""
        until = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.said()[-2000:]}"
            assert time.monotonic() < until, f"no {what}: {self.said()[-2000:]}"
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def engine(self) -> int:
        """The process of its engine."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("utf-8").split()
        return next(int(pid) for pid in children if "java" in Path(f"/proc/{pid}/cmdline").read_text("utf-8"))


def test_killed_at_each_stage_a_bounded_run_ends_with_the_tables_of_an_undisturbed_one(
    broker: Broker, database: Database, undisturbed: Tables, tmp_path: Path
) -> None:
    """Its engine once all spans are read, and the command: when it starts, and when it writes."""
    state, tables = tmp_path / "state", tmp_path / "tables"
    arguments = ("--input", broker.url, "--bounded", "--set", "detector=usual", "--set", "checkpoint.every=1 s",
                 "--output", str(tables), "--output", database.url, "--state", str(state))  # fmt: skip
    started: list[Job] = []

    def start(*more: str) -> Job:
        started.append(Job((*arguments, *more), tmp_path / f"{len(started)}.log"))
        return started[-1]

    try:
        # A line of progress every ten seconds: a second after it, what is checkpointed has all spans.
        job = start(*HELD)
        job.wait("all spans read, not the charges", lambda: "trace fragments" in job.said())

        # What comes after the first start isn't the run's, and neither is a partition that comes after it.
        broker.add_partitions("focus_charges", PARTITIONS + 1)
        to = Producer(broker)
        to.send("focus_charges", _bill("7.00", 1), partition=0)
        to.send("focus_charges", _bill("9.00", 2), partition=PARTITIONS)
        to.send("otlp_spans", _trace(61), partition=0)
        to.flush()
        to.close()

        os.kill(job.engine(), signal.SIGKILL)
        job.wait("another engine", lambda: "the engine's process ended" in job.said())
        job.wait("its job's start", lambda: "reading" in job.said().rpartition("process ended")[2])
        assert "Traceback" not in job.said()
        job.kill()

        with _locked(database, "trace_verdicts") as waits:
            job = start()
            job.wait("a row to be written", waits)
            job.kill()

        job = start()
        assert job.process.wait(PATIENCE_S) == 0, job.said()[-2000:]
    finally:
        for job in started:
            job.kill()
    found = parquet(tables)
    assert all(undisturbed[name] for name in ("trace_verdicts", "cost_allocations", "rejected_records"))
    assert differing(found, undisturbed) == {}
    assert differing(stored(database), undisturbed) == {}
