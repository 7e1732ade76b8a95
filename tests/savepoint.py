"""A savepoint of a release, to be restored by later ones: `python -m tests.savepoint VERSION` makes that of this tree.

It lies in tests/data/savepoints/VERSION.tar.gz: the engine's savepoint, and ``tables.json``, what stood in the database
when it was made. Make one for each release; where its stages differ from those of the release before (see "An engine of
your own" in docs/run.md), delete the older ones, and say so in CHANGELOG.md.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import psycopg

from jobs.environment import free_port
from jobs.migrate import migrate
from jobs.tables import SCHEMAS
from tests.literal import HOUR_MS, MINUTE_MS, NOON_MS, charge, cpu_gauge, resource, span, span_request
from tests.services import Broker, Database, kafka_broker, postgres
from tests.streamed import ROOT, UNUSABLE, Producer, create_topics, end, start, stored, wait

SAVEPOINTS = ROOT / "tests/data/savepoints"
# Without a model: what a later one says of the same traces is no matter of state.
SETTINGS = ("--set", "detector=usual", "--set", "checkpoint.every=1 s", "--set", "parallelism.default=1")

# Topic -> partition -> records, in order.
Records = dict[str, dict[int, list[bytes]]]

_NAMES = ("cart", "pay")


def records(hours: range) -> Records:
    """Hours since noon of two workloads on a node, a trace a minute; pay stalls in every third of the fourth hour."""
    traces: list[bytes] = []
    usage: list[bytes] = []
    for minute in range(hours.start * 60, hours.stop * 60):
        start_ms = NOON_MS + minute * MINUTE_MS
        stall_ms = 900 if 180 <= minute < 240 and minute % 3 == 0 else 0
        spans = {
            "cart": span(minute + 1, 1, None, start_ms, 20 + minute % 7 + stall_ms, name="GET /cart"),
            "pay": span(minute + 1, 2, 1, start_ms + 4, 10 + minute % 5 + stall_ms, name="charge"),
        }
        groups = [(resource(name, f"{name}-1", "node-1"), [spans[name]]) for name in _NAMES]
        traces.append(_line(span_request(*groups)))
        for name in _NAMES:
            used = 0.3 + 0.01 * (minute % 3) if name == "cart" else 0.2
            usage.append(_line(cpu_gauge(resource(name, f"{name}-1", "node-1"), [(start_ms, used)])))
    # An hour's bill comes two hours late.
    bill = [_line(_charge(hour - 2)) for hour in hours if hour >= 2]
    if hours.start:
        bill += [_line(_charge(hour)) for hour in range(hours.stop - 2, hours.stop)]
        bill.append(_line(_charge(0) | {"EffectiveCost": "0.8", "BilledCost": "0.8"}))
    else:
        traces.append(UNUSABLE["otlp_spans"])
    return {"otlp_spans": {0: traces}, "otlp_metrics": {0: usage}, "focus_charges": {0: bill}}


def _charge(hour: int) -> dict[str, str | None]:
    since_ms = NOON_MS + hour * HOUR_MS
    return charge("node-1", since_ms, since_ms + HOUR_MS, f"0.{4 + hour % 2}")


def _line(record: dict) -> bytes:
    return json.dumps(record).encode()


# What the savepoint has read, and what comes then.
BEFORE, AFTER = range(3), range(3, 5)


def send(broker: Broker, of: Records) -> None:
    """Produce ``of``."""
    to = Producer(broker)
    for topic, partitions in of.items():
        for partition, lines in partitions.items():
            for line in lines:
                to.send(topic, line, partition=partition)
    to.flush()
    to.close()


def unpack(savepoint: Path, state: Path) -> dict[str, str]:
    """Lay a savepoint where ``--state`` finds it as its newest checkpoint; returns its tables, their rows as JSON."""
    target = state / "checkpoints" / savepoint.name.removesuffix(".tar.gz")
    with tarfile.open(savepoint) as archive:
        archive.extractall(target, filter="data")
    return json.loads((target / "tables.json").read_text("utf-8"))


def load(database: Database, tables: dict[str, str]) -> None:
    """Insert rows into the tables, which are empty."""
    with psycopg.connect(database.dsn) as connection:
        for name, rows in tables.items():
            connection.execute(f"insert into {name} select * from json_populate_recordset(null::{name}, %s)", [rows])


def _rows(database: Database) -> dict[str, str]:
    with psycopg.connect(database.dsn) as connection:
        return {
            name: connection.execute(f"select coalesce(json_agg(t), '[]')::text from {name} t").fetchone()[0]
            for name in SCHEMAS
        }


def _is_read(database: Database) -> bool:
    """Whether all of the records before the savepoint show in the tables."""
    found = stored(database)
    billed = [row for row in found["cost_allocations"] if "billed" in row]
    return (
        len(found["trace_verdicts"]) == 60 * len(BEFORE)
        and len(found["cost_allocations"]) == 2 * 2 * len(BEFORE)
        and len(billed) == 2 * 2 * (len(BEFORE) - 2)
        and len(found["rejected_records"]) == 1
    )


def _ask(url: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def make(target: Path) -> None:
    """Run the job over the first hours, and write its savepoint and tables to ``target``."""
    with tempfile.TemporaryDirectory() as folder, kafka_broker() as broker, postgres() as database:
        create_topics(broker)
        send(broker, records(BEFORE))
        migrate(database.url)
        port = free_port()
        process = start("--input", broker.url, "--output", database.url, *SETTINGS, "--state", f"{folder}/state",
                        "--set", f"rest.port={port}", "--set", "execution.checkpointing.incremental=false")  # fmt: skip
        fails = lambda: None if process.poll() is None else process.stderr.read()  # noqa: E731
        try:
            wait("tables", lambda: _is_read(database), fails)
            jobs = f"http://127.0.0.1:{port}/jobs"
            (job,) = [job["id"] for job in _ask(jobs)["jobs"]]
            trigger = _ask(f"{jobs}/{job}/savepoints", {"target-directory": f"file://{folder}"})["request-id"]
            status = f"{jobs}/{job}/savepoints/{trigger}"
            wait("savepoint", lambda: _ask(status)["status"]["id"] == "COMPLETED", fails)
            savepoint = Path(_ask(status)["operation"]["location"].removeprefix("file:"))
        finally:
            end(process, signal.SIGKILL)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(target, "w:gz") as archive:
            for path in sorted(savepoint.iterdir()):
                archive.add(path, f"chk-1/{path.name}")
            told = json.dumps(_rows(database)).encode()
            entry = tarfile.TarInfo("tables.json")
            entry.size = len(told)
            archive.addfile(entry, io.BytesIO(told))


if __name__ == "__main__":
    made = SAVEPOINTS / f"{sys.argv[1]}.tar.gz"
    make(made)
    print(f"{made}: {made.stat().st_size:,} bytes")
