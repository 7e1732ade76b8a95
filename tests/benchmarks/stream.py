"""From Kafka to PostgreSQL: spans a second of a backlog, time from a trace's last span to its ranked row, time to come
back after a kill, and the size of the state.

    python -m tests.benchmarks.stream [--spans-per-minute 10000] [--history 60] [--live 5] [--set KEY=VALUE ...]

A world whose event time runs as fast as the clock: ``history`` minutes of it lie in Kafka when the job starts (the
backlog), ``live`` minutes follow as they happen. A trace has arrived when the broker has its last span. It is ranked
when the row of its window and culprit counts as many anomalous traces as there were verdicts of that culprit when its
own was first seen; the tables are read ten times a second. Then the job is killed (SIGKILL) in the middle of the live
stream and started again; it is back when a verdict of a trace that arrived after the kill is there.

Broker, database, replay and job share the machine. Seeded; nothing asserts seconds.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from simulator.replay import SPANS, Message, Plan, encode
from tests.services import Broker, Database, kafka_broker, postgres
from tests.streamed import create_topics, end, producer, start

_MINUTES_A_DAY = 24 * 60
_SPANS_A_TRACE = 11.0
_POLL_S = 0.1


class Watch(threading.Thread):
    """Reads the tables again and again: when each trace had its verdict, and when it was ranked."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self._database = database
        self.judged: dict[str, float] = {}  # trace -> when its verdict was there
        self.ranked: dict[str, float] = {}  # anomalous trace -> when a row counted it
        self.span_counts = 0
        self._is_over = threading.Event()

    def run(self) -> None:
        counts: Counter[tuple] = Counter()
        waiting: dict[str, tuple[tuple, int]] = {}
        with psycopg.connect(self._database.dsn, autocommit=True) as connection:
            connection.execute("set timezone = 'UTC'")
            while connection.execute("select to_regclass('anomaly_cost.restated')").fetchone() == (None,):
                time.sleep(_POLL_S)
            while not self._is_over.wait(_POLL_S):
                verdicts = connection.execute(
                    "select trace_id, culprit_service_name, date_bin('30 minutes', start_time, 'epoch')"
                    " from trace_verdicts where start_time > now() - interval '3 hours'"
                ).fetchall()
                now = time.time()
                for trace_id, culprit, window in verdicts:
                    if trace_id in self.judged:
                        continue
                    self.judged[trace_id] = now
                    if culprit:
                        counts[window, culprit] += 1
                        waiting[trace_id] = (window, culprit), counts[window, culprit]
                stands = {
                    (window, culprit): traces
                    for window, culprit, traces in connection.execute(
                        "select window_start, otel_service_name, anomalous_traces from ranked_anomalies"
                    )
                }
                now = time.time()
                for trace_id, (key, number) in list(waiting.items()):
                    if stands.get(key, 0) >= number:
                        self.ranked[trace_id] = now
                        del waiting[trace_id]

    def end(self) -> None:
        self._is_over.set()
        self.join()


def _traces(message: Message) -> set[str]:
    request = ExportTraceServiceRequest.FromString(message.value)
    return {span.trace_id.hex() for of in request.resource_spans for scope in of.scope_spans for span in scope.spans}


def _quantiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return f"p50 {p50:.1f} s, p99 {p99:.1f} s, {len(seconds)} traces"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _world(folder: Path, spans_per_minute: float, minutes: float, seed: int) -> Path:
    requests = round(spans_per_minute / _SPANS_A_TRACE * _MINUTES_A_DAY)
    command = [sys.executable, "-m", "simulator", "--output", str(folder), "--seed", str(seed), "--services", "20",
               "--days", str(minutes / _MINUTES_A_DAY), "--requests-per-day", str(requests)]  # fmt: skip
    subprocess.run(command, check=True)
    return folder


def measure(
    broker: Broker, database: Database, folder: Path, spans_per_minute: float, history: float, live: float, seed: int,
    settings: list[str],
) -> None:  # fmt: skip
    """Print what was measured, a line for each."""
    world = _world(folder / "world", spans_per_minute, history + live, seed)
    create_topics(broker)
    arguments = ["--input", broker.url, "--output", database.url, "--state", str(folder / "state")]
    arguments += [word for pair in settings for word in ("--set", pair)]
    plan = Plan(world, speed=1.0, billing_delay_h=0.0)
    to = producer(broker)
    arrived: dict[str, float] = {}
    with encode(plan, start_ms=int((time.time() - history * 60) * 1000)) as messages:
        backlog: set[str] = set()
        spans = 0
        feed = iter(messages)
        for message in feed:
            if message.due_s > history * 60:
                break
            to.send(message.topic, message.value, message.key)
            spans += message.spans
            if message.topic == SPANS:
                backlog |= _traces(message)
        to.flush()
        watch = Watch(database)
        watch.start()
        began = time.time()
        job = start(*arguments)
        # The start of the engine is no matter of the backlog's size.
        while not watch.judged:
            time.sleep(_POLL_S)
            assert job.poll() is None, job.stderr.read()
        first = time.time()
        while len(watch.judged.keys() & backlog) < len(backlog):
            time.sleep(_POLL_S)
            assert job.poll() is None, job.stderr.read()
        done = time.time()
        print(f"backlog: {spans:,} spans of {len(backlog):,} traces, first verdict {first - began:.0f} s after the"
              f" start, all {done - began:.0f} s: {spans / (done - began):,.0f} spans a second,"
              f" {spans / max(done - first, _POLL_S):,.0f} from the first verdict on", flush=True)  # fmt: skip

        began, offset_s = time.time(), message.due_s
        killed = 0.0
        sent_spans = 0
        while message is not None:
            due = began + message.due_s - offset_s
            if (wait := due - time.time()) > 0:
                time.sleep(wait)
            if not killed and time.time() - began > live * 60 * 0.6:
                end(job, signal.SIGKILL)
                killed = time.time()
                state = _size(folder / "state" / "checkpoints")
                job = start(*arguments)
            to.send(message.topic, message.value, message.key)
            sent_spans += message.spans
            if message.topic == SPANS:
                for trace_id in _traces(message):
                    arrived[trace_id] = time.time()
            message = next(feed, None)
        to.flush()
        lasted = time.time() - began
        while time.time() - killed < 90 or (len(watch.judged.keys() & arrived.keys()) < len(arrived)
                                            and time.time() - began < lasted + 120):  # fmt: skip
            time.sleep(1)
            assert job.poll() is None, job.stderr.read()
        watch.end()
        end(job)
    missing = len(arrived.keys() - watch.judged.keys())
    before = {trace_id: at for trace_id, at in arrived.items() if watch.judged.get(trace_id, killed) < killed}
    print(f"live: {sent_spans / lasted * 60:,.0f} spans a minute for {lasted:.0f} s; without a verdict at the end: {missing}")
    print("  last span to verdict:", _quantiles([watch.judged[t] - at for t, at in before.items()]))
    print("  last span to ranked row:", _quantiles([watch.ranked[t] - at for t, at in before.items() if t in watch.ranked]))
    back = min((at for t, at in watch.judged.items() if arrived.get(t, 0) > killed), default=float("nan"))
    caught_up = [watch.judged[t] for t, at in arrived.items() if at > killed and t in watch.judged and watch.judged[t] - at < 5]
    print(f"kill: back after {back - killed:.1f} s, verdicts within 5 s again after {min(caught_up, default=float('nan')) - killed:.1f} s")
    print(f"state: {state / 2**20:.1f} MiB of checkpoints (the last two, their shared files once)")


def main() -> int:
    """Run and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spans-per-minute", type=float, default=10_000)
    parser.add_argument("--history", type=float, default=60, help="minutes of event time that are there before")
    parser.add_argument("--live", type=float, default=5, help="minutes that follow as they happen")
    parser.add_argument("--seed", type=int, default=601)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, kafka_broker() as broker, postgres() as database:
        measure(broker, database, Path(folder), arguments.spans_per_minute, arguments.history, arguments.live,
                arguments.seed, arguments.set)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
