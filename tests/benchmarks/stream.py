"""From Kafka to PostgreSQL: how long after a trace's last span its verdict and its ranked row are there, spans a second
of a backlog, time to come back after a kill, and the size of the state.

    python -m tests.benchmarks.stream [--spans-per-minute 10000] [--history 14] [--live 4]
    ... --rounds 2 --arm "" --arm "emit.every='2 s'" --arm CHECKOUT    # turn about: settings, or another checkout's job

A world whose event time is the clock's: ``history`` minutes of it lie in Kafka when the job starts (the backlog),
``live`` minutes follow as they happen. Spans leave as they end, in batches of at most ``batch`` seconds
(simulator/replay.py). After 60 % of the live minutes the job is killed (SIGKILL) and started again at once.

Latencies count from the moment at which this process hands a trace's last span to the Kafka client, to the one at which
PostgreSQL writes the row (a trigger's clock_timestamp(), a few ms before others can read it), on one machine's clock.
Apart from each other:

- last span -> verdict on all the trace's spans, of all traces that were sent before the kill, ten seconds after the
  backlog's end and later;
- last span -> ranked row, of traces that were flagged at the first look at all their spans. A row counts a trace once
  it counts as many anomalous traces as there were verdicts that blame its culprit when the trace's own was first seen,
  less those that have changed since;
- of traces that were flagged later, by what followed: how long after its end that ended (the wait for evidence), and
  how long after that was sent the ranked row was there (the wait for the machine). What made the difference is the
  trace that was sent last of those that blame the same culprit since the same look; where there is none, it was usage,
  or what a closed minute has taught.

Broker, database, replay and job share the machine. Seeded; nothing asserts seconds.
"""

from __future__ import annotations

import argparse
import gzip
import math
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import orjson
import psutil
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from jobs.migrate import migrate
from simulator.replay import SPANS, Messages, Plan, encode
from tests.services import Database, kafka_broker, postgres
from tests.streamed import ROOT, Producer, create_topics, end, start

_MINUTES_A_DAY = 24 * 60
_SPANS_A_TRACE = 11.0
_SHORTEST = 15.0  # minutes that the simulator makes at least
_FLUSHED_MIN = 0.5  # what a line of the world spans
_POLL_S = 0.25
_KILL_AT = 0.6
# So long after the kill the live stream is watched.
_COMES_BACK_S = 60.0
# What the backlog has left behind is worked off by then.
_SETTLES_S = 10.0
# Verdicts of one look reach the database within so long of each other.
_LOOK_S = 0.5
# A look within so long of the last span is what is usual again.
_PROMPT_S = 5.0

# What is written to the tables, and when.
_LOG = """
create schema bench;
create unlogged table bench.verdicts (
    at double precision, trace_id text, spans bigint, is_anomalous boolean, culprit text, of_window timestamptz
);
create unlogged table bench.ranked (at double precision, culprit text, traces bigint, of_window timestamptz);
create function bench.verdict() returns trigger language plpgsql as $$ begin
    insert into bench.verdicts values (
        extract(epoch from clock_timestamp()), new.trace_id, new.span_count, new.is_anomalous,
        new.culprit_service_name, date_bin('30 minutes', new.start_time, 'epoch')
    );
    return null;
end $$;
create function bench.rank() returns trigger language plpgsql as $$ begin
    insert into bench.ranked values (
        extract(epoch from clock_timestamp()), new.otel_service_name, new.anomalous_traces, new.window_start
    );
    return null;
end $$;
create trigger bench_verdict after insert or update on public.trace_verdicts
for each row execute function bench.verdict();
create trigger bench_rank after insert on public.ranked_anomalies for each row execute function bench.rank();
"""


class Verdict(NamedTuple):
    """A row of trace_verdicts as it was written; at: when, in s since 1970."""

    at: float
    trace_id: str
    spans: int
    is_anomalous: bool
    culprit: str | None
    window: object


class Ranked(NamedTuple):
    """A row of ranked_anomalies as it was written."""

    at: float
    culprit: str
    traces: int
    window: object


@dataclass
class Sent:
    """A trace that was sent.

    Attributes:
        spans: how many.
        last: number of the message with its last span.
        ended: when its last span ended, in event time, s since 1970.
        at: when that message was handed to the client.
    """

    spans: int = 0
    last: int = 0
    ended: float = 0.0
    at: float = math.inf


@dataclass(frozen=True)
class Times:
    """What was measured, in s; one entry a trace.

    Attributes:
        verdict: last span to verdict.
        ranked: last span to ranked row, of traces flagged at the first look.
        evidence: of traces flagged later, how long after their end what made the difference ended.
        machine: ... and how long after that was sent the ranked row was there.
        others: traces flagged later of which no trace made the difference; last span to verdict.
    """

    verdict: list[float]
    ranked: list[float]
    evidence: list[float]
    machine: list[float]
    others: list[float]


def times(traces: Mapping[str, Sent], verdicts: Iterable[Verdict], ranked: Iterable[Ranked], until: float) -> Times:
    """What the writes of the tables say of ``traces``, those of all their spans that are written by ``until``."""
    verdicts = sorted(verdicts, key=lambda verdict: verdict.at)
    counted = _counted(verdicts, ranked)
    looked: dict[str, Verdict] = {}  # the first at all spans
    flagged: dict[str, Verdict] = {}  # the first of those that flags
    by_culprit: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        trace = traces.get(verdict.trace_id)
        if trace and verdict.spans == trace.spans and verdict.at < until:
            looked.setdefault(verdict.trace_id, verdict)
            if verdict.is_anomalous and verdict.culprit:
                if verdict.trace_id not in flagged:
                    by_culprit[verdict.culprit].append(verdict)
                flagged.setdefault(verdict.trace_id, verdict)
    found = Times([], [], [], [], [])
    for trace_id, look in looked.items():
        trace = traces[trace_id]
        found.verdict.append(look.at - trace.at)
        flag = flagged.get(trace_id)
        row_at = max(counted.get(trace_id, math.inf), flag.at if flag else 0.0)
        if flag is None or row_at >= until:
            continue
        if flag is look:
            found.ranked.append(row_at - trace.at)
            continue
        since = [
            other
            for verdict in by_culprit[flag.culprit or ""]
            if abs(verdict.at - flag.at) <= _LOOK_S and (other := traces[verdict.trace_id]).at > trace.at
        ]
        if since:
            newest = max(since, key=lambda other: other.at)
            found.evidence.append(newest.ended - trace.ended)
            found.machine.append(row_at - newest.at)
        else:
            found.others.append(flag.at - trace.at)
    return found


def _counted(verdicts: Iterable[Verdict], ranked: Iterable[Ranked]) -> dict[str, float]:
    """When a ranked row first counted each trace that was ever blamed."""
    blamed: dict[str, tuple] = {}
    counts: Counter[tuple] = Counter()
    stands: dict[tuple, int] = {}
    waiting: defaultdict[tuple, dict[str, int]] = defaultdict(dict)
    found: dict[str, float] = {}
    for row in sorted([*verdicts, *ranked], key=lambda row: row.at):
        if isinstance(row, Ranked):
            key = (row.window, row.culprit)
            stands[key] = row.traces
            for trace_id, number in list(waiting[key].items()):
                if row.traces >= min(number, counts[key]):
                    found.setdefault(trace_id, row.at)
                    del waiting[key][trace_id]
            continue
        before = blamed.pop(row.trace_id, None)
        now = (row.window, row.culprit) if row.is_anomalous and row.culprit else None
        if now:
            blamed[row.trace_id] = now
        if before == now:
            continue
        if before:
            counts[before] -= 1
            waiting[before].pop(row.trace_id, None)
        if now:
            counts[now] += 1
            if stands.get(now, 0) >= counts[now]:
                found.setdefault(row.trace_id, row.at)
            else:
                waiting[now][row.trace_id] = counts[now]
    return found


def _quantiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    p50, p90, p99 = np.quantile(seconds, [0.5, 0.9, 0.99])
    return f"p50 {p50:.1f} s, p90 {p90:.1f} s, p99 {p99:.1f} s ({len(seconds):,} traces)"


# ---- the world ------------------------------------------------------------------------------


def _world(folder: Path, spans_per_minute: float, minutes: float, seed: int) -> None:
    requests = round(spans_per_minute / _SPANS_A_TRACE * _MINUTES_A_DAY)
    days = str(max(minutes, _SHORTEST) / _MINUTES_A_DAY)
    command = [
        sys.executable, "-m", "simulator", "--output", str(folder), "--seed", str(seed), "--services", "20",
        "--days", days, "--requests-per-day", str(requests),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def _thinned(world: Path, to: Path, minutes: float, share: float) -> Path:
    """A copy of ``world`` with a ``share`` of the traces in its first ``minutes``, drawn by their ids."""
    shutil.copytree(world, to, ignore=shutil.ignore_patterns("traces", "truth"))
    (to / "traces").mkdir()
    first_ns = 0
    for path in sorted((world / "traces").iterdir()):
        with gzip.open(path) as lines, gzip.open(to / "traces" / path.name, "wb", compresslevel=1) as thinned:
            for line in lines:
                request = orjson.loads(line)
                scopes = [scope for entry in request["resourceSpans"] for scope in entry["scopeSpans"]]
                begins_ns = min(int(span["startTimeUnixNano"]) for scope in scopes for span in scope["spans"])
                first_ns = first_ns or begins_ns
                if begins_ns < first_ns + minutes * 60e9:
                    for scope in scopes:
                        spans = scope["spans"]
                        scope["spans"] = [s for s in spans if crc32(s["traceId"].encode()) < share * (1 << 32)]
                    line = orjson.dumps(request) + b"\n"
                thinned.write(line)
    return to


def _traces(messages: Messages) -> dict[str, Sent]:
    """Every trace, and the number of the message with its last span."""
    traces: defaultdict[str, Sent] = defaultdict(Sent)
    for number in range(len(messages)):
        message = messages[number]
        if message.topic == SPANS:
            for of in ExportTraceServiceRequest.FromString(message.value).resource_spans:
                for span in (span for scope in of.scope_spans for span in scope.spans):
                    trace = traces[span.trace_id.hex()]
                    trace.spans += 1
                    trace.last = number
                    trace.ended = max(trace.ended, span.end_time_unix_nano / 1e9)
    return dict(traces)


# ---- one run --------------------------------------------------------------------------------


def _log(database: Database) -> None:
    """Have the database write down what it is told from now on."""
    migrate(database.url)
    with psycopg.connect(database.dsn) as connection:
        connection.execute(_LOG)


def _written(database: Database) -> tuple[list[Verdict], list[Ranked]]:
    with psycopg.connect(database.dsn) as connection:
        verdicts = connection.execute("select * from bench.verdicts").fetchall()
        ranked = connection.execute("select * from bench.ranked").fetchall()
    return [Verdict(*row) for row in verdicts], [Ranked(*row) for row in ranked]


def _await(database: Database, job: subprocess.Popen, traces: int) -> None:
    """Until so many traces have a verdict."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        while connection.execute("select count(*) from trace_verdicts").fetchone()[0] < traces:
            time.sleep(_POLL_S)
            assert job.poll() is None, job.stderr.read()


def _cpu_s(job: subprocess.Popen) -> float:
    """Of the job's processes, the engine's and its workers'."""
    own = psutil.Process(job.pid)
    return sum(sum(of.cpu_times()[:2]) for of in [own, *own.children(recursive=True)])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def backlog(
    job: subprocess.Popen, began: float, database: Database, traces: Mapping[str, Sent]
) -> None:  # fmt: skip
    """Wait until the job, which began then, has worked off the ``traces`` that lie in Kafka; prints its rate."""
    _await(database, job, len(traces))
    cpu_s = _cpu_s(job)
    whole: dict[str, float] = {}
    for verdict in _written(database)[0]:
        if verdict.trace_id in traces and verdict.spans == traces[verdict.trace_id].spans:
            whole[verdict.trace_id] = min(verdict.at, whole.get(verdict.trace_id, math.inf))
    spans = sum(trace.spans for trace in traces.values())
    first, done = min(whole.values()), max(whole.values())
    print(f"backlog: {spans:,} spans of {len(traces):,} traces, first verdict {first - began:.0f} s after the start,"
          f" all {done - began:.0f} s: {spans / (done - first):,.0f} spans a second from the first verdict on;"
          f" {cpu_s:.0f} CPU s", flush=True)  # fmt: skip


def live(
    job: subprocess.Popen, arguments: list[str], code: Path, to: Producer, database: Database, folder: Path,
    messages: Messages, traces: Mapping[str, Sent], numbers: list[int], is_killed: bool,
) -> None:  # fmt: skip
    """Send messages as they are due, kill the job in between; prints what was measured."""
    sent: dict[int, float] = {}
    began, offset_s = time.time(), messages.due_s(numbers[0])
    lasts_s = messages.due_s(numbers[-1]) - offset_s
    cpu_s, behind_s = _cpu_s(job), 0.0
    killed, state, cores = math.inf, 0, 0.0
    for number in numbers:
        message = messages[number]
        if (wait := began + message.due_s - offset_s - time.time()) > 0:
            time.sleep(wait)
        behind_s = max(behind_s, -wait)
        if is_killed and killed == math.inf and time.time() - began > lasts_s * _KILL_AT:
            cores = (_cpu_s(job) - cpu_s) / (time.time() - began)
            end(job, signal.SIGKILL)
            killed = time.time()
            state = _size(folder / "state" / "checkpoints")
            job = start(*arguments, code=code)
        sent[number] = time.time()
        to.send(message.topic, message.value, message.key)
    to.flush()
    lasted_s = time.time() - began
    cores = cores or (_cpu_s(job) - cpu_s) / lasted_s
    over = time.time()
    time.sleep(max(_PROMPT_S, killed + _COMES_BACK_S - time.time() if is_killed else 0))
    assert job.poll() is None, job.stderr.read()
    verdicts, ranked = _written(database)
    end(job)

    # Of a trace whose first spans lay in the backlog the last ones count.
    traces = {trace_id: trace for trace_id, trace in traces.items() if trace.last in sent}
    for trace in traces.values():
        trace.at = sent[trace.last]
    spans = sum(messages[number].spans for number in sent)
    until = min(killed, over)
    before = {trace_id: trace for trace_id, trace in traces.items() if began + _SETTLES_S < trace.at < until}
    found = times(before, verdicts, ranked, killed)
    print(f"live: {spans / lasted_s * 60:,.0f} spans a minute for {until - began:.0f} s, {len(traces):,} traces;"
          f" {cores:.2f} cores; the replay at most {behind_s:.1f} s behind")  # fmt: skip
    print("  last span to verdict:", _quantiles(found.verdict))
    print("  last span to ranked row, flagged at the first look:", _quantiles(found.ranked))
    print("  flagged later by a trace that followed: the evidence", _quantiles(found.evidence))
    print("  ... and from that trace's last span to the ranked row:", _quantiles(found.machine))
    print("  flagged later by usage or a closed minute: last span to verdict", _quantiles(found.others))
    if is_killed:
        after = {t: trace for t, trace in traces.items() if trace.at > killed}
        looks = [
            v
            for v in sorted(verdicts, key=lambda verdict: verdict.at)
            if v.trace_id in after and v.spans == after[v.trace_id].spans
        ]
        prompt = [v.at for v in looks if v.at - after[v.trace_id].at < _PROMPT_S]
        print(f"kill: first verdict {looks[0].at - killed if looks else math.nan:.1f} s after it, verdicts within"
              f" {_PROMPT_S:.0f} s of the last span again {min(prompt, default=math.nan) - killed:.1f} s after it",
              flush=True)  # fmt: skip
        print(f"state: {state / 2**20:.0f} MiB of checkpoints (the last two, what they share once)")
    sys.stdout.flush()


@dataclass(frozen=True)
class Arm:
    """A job to measure: settings, and the checkout that has its code."""

    settings: tuple[str, ...]
    code: Path

    @classmethod
    def parse(cls, words: str) -> Arm:
        """Of KEY=VALUE and a folder, quoted as in a shell."""
        settings = tuple(word for word in shlex.split(words) if "=" in word)
        codes = [Path(word).resolve() for word in shlex.split(words) if "=" not in word]
        return cls(settings, codes[0] if codes else ROOT)


def measure(
    arm: Arm, world: Path, folder: Path, history_s: float, live_s: float, batch_s: float, is_killed: bool
) -> None:
    """Print what was measured, a line for each."""
    plan = Plan(world, billing_delay_h=0.0, batch_s=batch_s, shift_unit_min=1, limit_s=history_s + live_s)
    with kafka_broker() as broker, postgres() as database:
        create_topics(broker)
        to = Producer(broker)
        _log(database)
        start_ms = int((time.time() - history_s) * 1000)
        with encode(plan, start_ms) as messages:
            traces = _traces(messages)
            numbers = [
                [number for number in range(len(messages)) if begins_s < messages.due_s(number) <= ends_s]
                for begins_s, ends_s in ((-1.0, history_s), (history_s, history_s + live_s))
            ]
            for number in numbers[0]:
                message = messages[number]
                sent_ms = start_ms + int(message.due_s * 1000)
                to.send(message.topic, message.value, message.key, timestamp_ms=sent_ms)
            to.flush()
            command = ["--input", broker.url, "--output", database.url, "--state", str(folder / "state")]
            command += [word for pair in arm.settings for word in ("--set", pair)]
            began = time.time()
            job = start(*command, code=arm.code)
            backlog(job, began, database, {t: trace for t, trace in traces.items() if trace.last <= numbers[0][-1]})
            if live_s:
                live(job, command, arm.code, to, database, folder, messages, traces, numbers[1], is_killed)
            else:
                end(job)
        to.close()


def main() -> int:
    """Run and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--spans-per-minute", type=float, default=10_000)
    add("--history", type=float, default=14, help="minutes of event time that are there before; 13 warm the detector")
    add("--history-share", type=float, default=1.0, help="share of the traces that the history has")
    add("--live", type=float, default=4, help="minutes that follow as they happen")
    add("--batch", type=float, default=1.0, help="seconds for which an exporter collects spans that end")
    add("--no-kill", action="store_true", help="do not kill the job")
    add("--seed", type=int, default=601)
    add("--world", type=Path, help="a world that the simulator made, in place of a new one")
    add("--arm", action="append", metavar="'[CHECKOUT] [KEY=VALUE ...]'", help="a job to measure; several, turn about")
    add("--rounds", type=int, default=1, help="how often each arm is measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = arguments.world
        if world is None:
            world = folder / "world"
            _world(world, arguments.spans_per_minute, arguments.history + arguments.live, arguments.seed)
        if arguments.history_share < 1:
            world = _thinned(world, folder / "thinned", arguments.history - _FLUSHED_MIN, arguments.history_share)
        arms = list(map(Arm.parse, arguments.arm or [""]))
        for place, arm in enumerate(arms * arguments.rounds):
            if len(arms) > 1:
                print(f"-- {arm.code} {' '.join(arm.settings)}", flush=True)
            measure(arm, world, folder / str(place), arguments.history * 60, arguments.live * 60, arguments.batch,
                    not arguments.no_kill)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
