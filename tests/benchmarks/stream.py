"""From Kafka to PostgreSQL: spans a second of a backlog, time from a trace's last span to its ranked row, time to come
back after a kill, and the size of the state.

    python -m tests.benchmarks.stream [--spans-per-minute 10000] [--history 60] [--live 5] [--set KEY=VALUE ...]

A world whose event time runs as fast as the clock: ``history`` minutes of it lie in Kafka when the job starts (the
backlog), ``live`` minutes follow as they happen. A trace has arrived when the broker has its last span. It is ranked
when the row of its window and culprit counts as many anomalous traces as there were verdicts of that culprit when its
own was first seen, less those that have changed since; the tables are read four times a second. Then the job is
killed (SIGKILL) in the middle of the live stream and started again; it is back when a verdict of a trace that arrived
after the kill is there.

Broker, database, replay and job share the machine. Seeded; nothing asserts seconds.
"""

from __future__ import annotations

import argparse
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from simulator.replay import SPANS, Message, Plan, encode
from tests.services import Broker, Database, kafka_broker, postgres
from tests.streamed import Producer, create_topics, end, start

_MINUTES_A_DAY = 24 * 60
_SPANS_A_TRACE = 11.0
_SHORTEST = 29.0  # minutes that the simulator makes at least
_POLL_S = 0.25
# So long after the kill the live stream is watched.
_COMES_BACK_S = 100.0


class Watch(threading.Thread):
    """Polls the tables: when each live trace had the verdict of so many spans, and when it was ranked."""

    def __init__(self, database: Database) -> None:
        super().__init__(daemon=True)
        self._database = database
        self.since = "infinity"  # start of the traces that are looked at
        self.verdicts = 0
        self.judged: dict[tuple[str, int], float] = {}  # (trace, its spans by then) -> when its verdict was there
        self.blamed: dict[str, float] = {}  # anomalous trace -> when its verdict said so
        self.ranked: dict[str, float] = {}  # ... and when a row counted it
        self._is_over = threading.Event()

    def run(self) -> None:
        seen: set[str] = set()
        waiting: dict[str, tuple[tuple, int]] = {}
        with psycopg.connect(self._database.dsn, autocommit=True) as connection:
            connection.execute("set timezone = 'UTC'")
            while connection.execute("select to_regclass('anomaly_cost.restated')").fetchone() == (None,):
                time.sleep(_POLL_S)
            while not self._is_over.wait(_POLL_S):
                if self.since == "infinity":
                    (self.verdicts,) = connection.execute("select count(*) from trace_verdicts").fetchone()
                    continue
                verdicts = connection.execute(
                    "select trace_id, span_count, culprit_service_name, date_bin('30 minutes', start_time, 'epoch')"
                    " from trace_verdicts where start_time > %s::timestamptz",
                    [self.since],
                ).fetchall()
                now = time.time()
                counts = Counter((window, culprit) for _, _, culprit, window in verdicts if culprit)
                for trace_id, spans, culprit, window in verdicts:
                    self.judged.setdefault((trace_id, spans), now)
                    if culprit and trace_id not in seen:
                        seen.add(trace_id)
                        self.blamed[trace_id] = now
                        waiting[trace_id] = (window, culprit), counts[window, culprit]
                # Earlier traces of a window are in its row and not among the verdicts that are read.
                stands = {
                    (window, culprit): traces
                    for window, culprit, traces in connection.execute(
                        "select window_start, otel_service_name,"
                        " anomalous_traces - (select count(*) from trace_verdicts where"
                        " culprit_service_name = otel_service_name and start_time >= window_start"
                        " and start_time < window_end and start_time <= %(since)s::timestamptz)"
                        " from ranked_anomalies where window_end > %(since)s::timestamptz",
                        {"since": self.since},
                    )
                }
                now = time.time()
                blames = {trace_id: culprit for trace_id, _, culprit, _ in verdicts}
                for trace_id, (key, number) in list(waiting.items()):
                    if blames[trace_id] != key[1]:
                        del waiting[trace_id]
                    elif stands.get(key, 0) >= min(number, counts[key]):
                        self.ranked[trace_id] = now
                        del waiting[trace_id]

    def end(self) -> None:
        """Look no more."""
        self._is_over.set()
        self.join()


def _traces(message: Message) -> Iterator[tuple[str, int]]:
    """Trace of each span, and when the span starts, in ns."""
    request = ExportTraceServiceRequest.FromString(message.value)
    for of in request.resource_spans:
        for scope in of.scope_spans:
            for span in scope.spans:
                yield span.trace_id.hex(), span.start_time_unix_nano


def _quantiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return f"p50 {p50:.1f} s, p99 {p99:.1f} s, {len(seconds)} traces"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _world(folder: Path, spans_per_minute: float, minutes: float, seed: int) -> Path:
    requests = round(spans_per_minute / _SPANS_A_TRACE * _MINUTES_A_DAY)
    days = str(max(minutes, _SHORTEST) / _MINUTES_A_DAY)
    command = [
        sys.executable, "-m", "simulator", "--output", str(folder), "--seed", str(seed), "--services", "20",
        "--days", days, "--requests-per-day", str(requests),
    ]  # fmt: skip
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
    plan = Plan(world, speed=1.0, billing_delay_h=0.0, limit_s=(history + live) * 60)
    to = Producer(broker)
    start_ms = int((time.time() - history * 60) * 1000)
    with encode(plan, start_ms=start_ms) as messages:
        backlog: set[str] = set()
        spans = newest_ns = 0
        feed = iter(messages)
        for message in feed:
            if message.due_s > history * 60:
                break
            sent_ms = start_ms + int(message.due_s * 1000)
            to.send(message.topic, message.value, message.key, timestamp_ms=sent_ms)
            spans += message.spans
            if message.topic == SPANS:
                for trace_id, start_ns in _traces(message):
                    backlog.add(trace_id)
                    newest_ns = max(newest_ns, start_ns)
        to.flush()
        watch = Watch(database)
        watch.start()
        began = time.time()
        job = start(*arguments)
        # The start of the engine is no matter of the backlog's size.
        while not watch.verdicts:
            time.sleep(_POLL_S)
            assert job.poll() is None, job.stderr.read()
        first = time.time()
        while watch.verdicts < len(backlog):
            time.sleep(_POLL_S)
            assert job.poll() is None, job.stderr.read()
        done = time.time()
        print(f"backlog: {spans:,} spans of {len(backlog):,} traces, first verdict {first - began:.0f} s after the"
              f" start, all {done - began:.0f} s: {spans / (done - began):,.0f} spans a second,"
              f" {spans / max(done - first, _POLL_S):,.0f} from the first verdict on", flush=True)  # fmt: skip

        watch.since = datetime.fromtimestamp(newest_ns / 1e9, UTC).isoformat()
        began, offset_s = time.time(), message.due_s
        killed, state, sent_spans = 0.0, 0, 0
        counted: Counter[str] = Counter()  # of each live trace the spans that were sent
        arrived: dict[str, float] = {}  # ... and when its last one was
        while message is not None:
            if (wait := began + message.due_s - offset_s - time.time()) > 0:
                time.sleep(wait)
            if not killed and time.time() - began > live * 60 * 0.6:
                end(job, signal.SIGKILL)
                killed = time.time()
                state = _size(folder / "state" / "checkpoints")
                job = start(*arguments)
            to.send(message.topic, message.value, message.key)
            sent_spans += message.spans
            if message.topic == SPANS:
                for trace_id, _ in _traces(message):
                    arrived[trace_id] = time.time()
                    counted[trace_id] += 1
            message = next(feed, None)
        to.flush()
        lasted = time.time() - began
        time.sleep(max(0.0, killed + _COMES_BACK_S - time.time()))
        assert job.poll() is None, job.stderr.read()
        watch.end()
        end(job)
    judged = {
        t: watch.judged[t, spans] for t, spans in counted.items() if t not in backlog and (t, spans) in watch.judged
    }
    before = {t: at for t, at in arrived.items() if judged.get(t, killed) < killed}
    print(f"live: {sent_spans / lasted * 60:,.0f} spans a minute for {lasted:.0f} s, {len(arrived):,} traces,"
          f" {len(judged):,} with a verdict on all their spans at the end")  # fmt: skip
    print("  last span to verdict:", _quantiles([judged[t] - at for t, at in before.items()]))
    # A trace that was ranked before its last span came counts from then on.
    ranked = {t: max(watch.ranked[t], judged[t]) for t in before if t in watch.ranked}
    print("  last span to ranked row, of anomalous ones:", _quantiles([at - arrived[t] for t, at in ranked.items()]))
    # At a fault's onset a trace is found anomalous by what follows it.
    print("  verdict that it is anomalous to ranked row:",
          _quantiles([at - watch.blamed[t] for t, at in watch.ranked.items() if t in before]))  # fmt: skip
    after = [judged[t] for t, at in arrived.items() if at > killed and t in judged]
    prompt = [judged[t] for t, at in arrived.items() if at > killed and t in judged and judged[t] - at < 5]
    print(f"kill: first verdict {min(after, default=math.nan) - killed:.0f} s after it, verdicts within 5 s of the last"
          f" span again {min(prompt, default=math.nan) - killed:.0f} s after it")  # fmt: skip
    print(f"state: {state / 2**20:.0f} MiB of checkpoints (the last two, what they share once)", flush=True)


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
