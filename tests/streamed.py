"""What the tests of the job on Kafka and PostgreSQL share: a world sent, the job started and ended, tables compared."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaProducer

from jobs.kafka import TOPICS
from jobs.tables import SCHEMAS
from tests.services import Broker, Database

ROOT = Path(__file__).resolve().parents[1]
PARTITIONS = 3
# No test waits longer than this for what has to come: on two idle cores a minute, but another test runs beside it.
PATIENCE_S = 600

# Settings of a stream of which nobody wants to know how soon its rows are there. By default rows wait a tenth as long,
# which costs a core where other tests run beside it.
UNHURRIED = ("--set", "table.exec.mini-batch.allow-latency=1 s", "--set", "python.fn-execution.bundle.time=1000")

# What differs from run to run by intent.
_PASSING = {"rejected_records": ("rejected_at",)}

# A record of each stream that nobody can use.
UNUSABLE = {"otlp_spans": b"{ not json", "otlp_metrics": b"\n\xff\xff\xff", "focus_charges": b"[]"}

Tables = dict[str, list[tuple]]


class Producer(KafkaProducer):
    """One that batches. What the broker doesn't take is an error of the next ``flush``, not lost in silence."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(bootstrap_servers=broker.bootstrap, linger_ms=20, max_request_size=8 << 20)
        self._failed: list[BaseException] = []

    def send(self, *arguments: object, **named: object) -> object:
        """As KafkaProducer's."""
        return super().send(*arguments, **named).add_errback(self._failed.append)

    def flush(self, timeout: float | None = None) -> None:
        """Raises what a message failed of."""
        super().flush(timeout)
        if self._failed:
            raise self._failed[0]


def create_topics(broker: Broker) -> None:
    """Those that the job reads."""
    for topic in TOPICS:
        broker.create_topic(topic, PARTITIONS)


def send_telemetry(to: KafkaProducer, world: Path) -> None:
    """Send a world's requests as a Collector would."""
    for folder, topic in (("traces", "otlp_spans"), ("metrics", "otlp_metrics"), ("logs", "otlp_logs")):
        for path in sorted((world / folder).glob("*.jsonl*")):
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
                for line in lines:
                    to.send(topic, line.strip())
    to.flush()


def charges(world: Path) -> list[dict[str, str]]:
    """Rows of a world's bill."""
    found = []
    for path in sorted((world / "billing").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as rows:
            found += csv.DictReader(rows)
    return found


def send_charges(to: KafkaProducer, rows: Iterable[dict[str, str]]) -> None:
    """Send rows of a bill as a billing export would."""
    for row in rows:
        to.send("focus_charges", json.dumps({k: v for k, v in row.items() if v}).encode())
    to.flush()


def command(*arguments: str) -> list[str]:
    """The job's."""
    return [sys.executable, "-m", "jobs.anomaly_cost", *arguments]


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    """The job, to its end. environment: what comes on top of this process's."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=os.environ | (environment or {}), capture_output=True, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip


def start(*arguments: str, code: Path = ROOT) -> subprocess.Popen:
    """The job of a checkout, on its way; see ``end``. It hears SIGINT, also where the tests run in the background.

    Its ``stderr`` may be read at any time: it is a file, whose name is gone.
    """
    with tempfile.NamedTemporaryFile() as errors:
        process = subprocess.Popen(
            command(*arguments),
            cwd=code,
            stderr=errors,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        process.stderr = open(errors.name, encoding="utf-8", errors="replace")
    return process


def end(process: subprocess.Popen, number: signal.Signals = signal.SIGINT) -> None:
    """End the job and whatever it started."""
    process.send_signal(number)
    process.wait(PATIENCE_S)
    process.stderr.close()


def parquet(folder: Path) -> Tables:
    """The tables of a directory."""
    return comparable({name: pq.read_table(folder / f"{name}.parquet") for name in SCHEMAS})


def comparable(found: Mapping[str, pa.Table]) -> Tables:
    """The tables that the fixture ``job`` returns."""
    return {name: _comparable(name, table.to_pylist()) for name, table in found.items()}


def stored(database: Database) -> Tables:
    """The tables in PostgreSQL; those that are not there yet are empty."""
    found = {}
    with psycopg.connect(database.dsn, row_factory=psycopg.rows.dict_row) as connection:
        for name in SCHEMAS:
            is_there = connection.execute("select to_regclass(%s) as it", (name,)).fetchone()["it"]
            rows = connection.execute(f"select * from {name}").fetchall() if is_there else []
            found[name] = _comparable(name, rows)
    return found


def empty(database: Database) -> None:
    """Take all rows out of the tables."""
    with psycopg.connect(database.dsn) as connection:
        for name in SCHEMAS:
            if connection.execute("select to_regclass(%s)", (name,)).fetchone()[0]:
                connection.execute(f"truncate {name}")


def _comparable(name: str, rows: list[dict]) -> list[tuple]:
    """Rows of a table as sorted tuples of text, whichever way they were read."""
    columns = [field for field in SCHEMAS[name] if field.name not in _PASSING.get(name, ())]

    def text(value: object, field: pa.Field) -> str:
        if value is None:
            return ""
        if pa.types.is_timestamp(field.type):
            return str(int(value.timestamp() * 1000))
        if field.name in ("explanation", "changes"):
            told = json.loads(value) if isinstance(value, str) else value
            return json.dumps(told, sort_keys=True)
        return repr(value) if isinstance(value, (float, list)) else str(value)

    return sorted(tuple(text(row[field.name], field) for field in columns) for row in rows)


def differing(found: Tables, expected: Tables) -> dict[str, tuple[int, int]]:
    """Table -> (rows that are missing, rows too many)."""
    return {
        name: (len(set(expected[name]) - set(found[name])), len(set(found[name]) - set(expected[name])))
        for name in SCHEMAS
        if found[name] != expected[name]
    }


def wait(
    what: str,
    condition: Callable[[], object],
    fails: Callable[[], str | None] = lambda: None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Until ``condition`` holds. what: it is. fails: tells why there is no use in waiting on."""
    until = time.monotonic() + patience_s
    while not condition():
        assert (why := fails()) is None, why
        assert time.monotonic() < until, f"after {patience_s} s: no {what}{_printed(fails)}"
        time.sleep(0.2)


def wait_for(
    database: Database, expected: Tables, fails: Callable[[], str | None], patience_s: float = PATIENCE_S
) -> None:
    """Until the tables are as expected. fails: tells why there is no use in waiting on."""
    until = time.monotonic() + patience_s
    while off := differing(found := stored(database), expected):
        why = fails()
        assert why is None, why
        assert time.monotonic() < until, (
            f"after {patience_s} s, (missing, too many): {off}; of the first such table:"
            f" {_shown(found, expected, next(iter(off)))}{_printed(fails)}"
        )
        time.sleep(1)


def _shown(found: Tables, expected: Tables, name: str) -> str:
    """The rows that make the difference, shortened."""
    missing, extra = set(expected[name]) - set(found[name]), set(found[name]) - set(expected[name])
    return "\n".join(f"{sign} {[cell[:40] for cell in row]}" for sign, rows in (("-", missing), ("+", extra))
                     for row in sorted(rows)[:8])  # fmt: skip


class ended:
    """What a job that ended says, for ``wait`` and ``wait_for``."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process

    def __call__(self) -> str | None:
        return None if self._process.poll() is None else self._process.stderr.read()[-2000:]

    def printed(self) -> str:
        """What one that goes on has printed, if that can be known without waiting for more."""
        errors = self._process.stderr
        return errors.read()[-2000:] if stat.S_ISREG(os.fstat(errors.fileno()).st_mode) else ""


def _printed(fails: Callable[[], str | None]) -> str:
    told = fails.printed() if isinstance(fails, ended) else ""
    return f"\nthe job printed:\n{told}" if told else ""


def store(database: Database, directory: Path) -> None:
    """Put the Parquet tables of ``directory`` into the database's, in place of what is there."""
    empty(database)
    with psycopg.connect(database.dsn) as connection:
        for name, schema in SCHEMAS.items():
            rows = pq.read_table(directory / f"{name}.parquet").to_pylist()
            columns = ", ".join(schema.names) + (", record_id" if name == "rejected_records" else "")
            with connection.cursor().copy(f"copy {name} ({columns}) from stdin") as copy:
                for number, row in enumerate(rows):
                    copy.write_row([*row.values(), *([str(number)] if name == "rejected_records" else [])])
