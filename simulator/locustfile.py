"""Load replay: recorded or simulated telemetry and its bill into Kafka, on a schedule, by locust.

    locust -f simulator/locustfile.py --headless -u 4 -r 4 -t 60s --input world --speed 60
    locust -f simulator/locustfile.py --input world --rate 20000        # web UI on port 8089
    ... --speed 1 --batch 1 --shift-unit 1      # spans leave within a second of their end, and end now

Everything is encoded before the clock starts (simulator/replay.py). Users take the next message that is due, so each
message is sent once however many users there are; users are greenlets of one process, and one producer batches for all.

The table of statistics: KAFKA rows are messages by topic, with the time until the broker has acknowledged them and
their bytes; SPANS is spans, KILOBYTES what was sent, so that their req/s are spans/s and kB/s; LAG is how many
milliseconds behind its schedule each message was sent. Aggregated are the messages.

--brokers none drops the messages: what the replay itself is able to send. TLS and SASL: KAFKA_SECURITY_PROTOCOL,
KAFKA_SASL_MECHANISM, KAFKA_USERNAME, KAFKA_PASSWORD, KAFKA_SSL_CAFILE in the environment.

Exit 2 with one line for wrong use, 1 with one line for a broker that can't be reached or lacks a topic.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import gevent
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import StatsEntry

# Where locust loads this file from its own folder is on the path, not the folder above it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simulator.replay import SPANS, Feed, Message, Messages, Plan, UnusableInput, encode  # noqa: E402

logger = logging.getLogger("replay")

# Users look at the clock, and at whether they are to stop, at least this often.
_NAP_S = 0.5
_FLUSH_S = 30
_CONNECT_S = 10
_KIB = 1024


class Dropped:
    """A producer without a broker: every message is acknowledged at once."""

    def partitions_for(self, topic: str) -> set[int]:
        return {0}

    def send(self, topic: str, value: bytes, key: bytes | None = None) -> Dropped:
        return self

    def add_callback(self, acknowledged: Callable[[object], None]) -> Dropped:
        acknowledged(None)
        return self

    def add_errback(self, failed: Callable[[BaseException], None]) -> Dropped:
        return self

    def flush(self, timeout: float | None = None) -> None:
        pass

    def close(self, timeout: float | None = None) -> None:
        pass


class Producer(Protocol):
    """What a replay needs of a KafkaProducer."""

    def partitions_for(self, topic: str) -> set[int] | None: ...

    def send(self, topic: str, value: bytes, key: bytes | None = None) -> Any: ...

    def flush(self, timeout: float | None = None) -> None: ...

    def close(self, timeout: float | None = None) -> None: ...


def producer(brokers: str) -> Producer:
    """A KafkaProducer, or Dropped for "none". Raises kafka.errors.KafkaError where nobody answers."""
    if brokers == "none":
        return Dropped()
    from kafka import KafkaProducer

    # It logs every attempt; what fails for good is told in one line, or is a failed request.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    settings = {
        "security_protocol": os.environ.get("KAFKA_SECURITY_PROTOCOL"),
        "sasl_mechanism": os.environ.get("KAFKA_SASL_MECHANISM"),
        "sasl_plain_username": os.environ.get("KAFKA_USERNAME"),
        "sasl_plain_password": os.environ.get("KAFKA_PASSWORD"),
        "ssl_cafile": os.environ.get("KAFKA_SSL_CAFILE"),
    }
    return KafkaProducer(
        bootstrap_servers=brokers.split(","),
        client_id="replay",
        acks="all",
        linger_ms=5,
        batch_size=1 << 18,
        max_request_size=16 << 20,  # what is too long is for the broker to say
        bootstrap_timeout_ms=_CONNECT_S * 1000,
        max_block_ms=_CONNECT_S * 1000,
        **{name: value for name, value in settings.items() if value},
    )


class Replay:
    """One test: its messages, its clock, its producer."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._options = _options_of(environment)
        self._encoded_for: tuple | None = None
        self._messages: Messages | None = None
        self._started: float | None = None
        self._producer: Producer | None = None
        self._ending = False
        self._rest = 0  # bytes sent that make no kilobyte yet
        self.feed: Feed | None = None

    # ---- before the clock ----------------------------------------------------------------------

    def prepare(self) -> None:
        """Encode all messages, unless they are there and none of them has been sent. Exits on wrong use."""
        self._options = _options_of(self._environment)
        asked = tuple(getattr(self._options, name, None) for name in _OPTIONS) + (self._options.run_time,)
        if self.feed and self.feed.is_fresh and asked == self._encoded_for:
            return
        begun = time.monotonic()
        try:
            messages = encode(plan_of(self._options), int(time.time() * 1000))
        except (UnusableInput, ValueError) as error:
            self._fail(2, error)
        if self._messages:
            self._messages.close()
        self._messages, self.feed, self._encoded_for = messages, Feed(messages), asked
        logger.info(
            f"{len(messages):,} messages, {messages.spans:,} spans, {messages.bytes / 1e6:,.1f} MB"
            f" encoded in {time.monotonic() - begun:.1f} s"
        )

    def connect(self) -> None:
        """Find the brokers and the topics. Exits where they don't answer."""
        from kafka.errors import KafkaError

        self._ending, self._started = False, None
        if self._producer:
            return
        brokers = self._options.brokers
        try:
            sending = self._producer = producer(brokers)
        except (KafkaError, OSError, ValueError, AssertionError) as error:
            self._fail(1, f"{brokers}: {error or type(error).__name__}")
        for topic in sorted(self._messages.topics if self._messages else ()):
            try:
                there = sending.partitions_for(topic)
            except KafkaError:
                there = None
            if not there:
                self._fail(1, f"{brokers} has no topic {topic}: create it")
        # Timers count from when the loop last looked at the clock, before all this: --run-time would be cut short.
        gevent.get_hub().loop.update_now()

    @staticmethod
    def _fail(status: int, error: object) -> NoReturn:
        print(f"replay: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        # locust would log a SystemExit of a greenlet and go on.
        os._exit(status)

    # ---- while it runs -------------------------------------------------------------------------

    def elapsed_s(self) -> float:
        """Seconds since the first user came."""
        if self._started is None:
            self._started = time.monotonic()
        return time.monotonic() - self._started

    def send(self, message: Message) -> None:
        """Hand a message to the producer, and count it once it is acknowledged."""
        assert self._producer, "connect comes before send"
        sent = time.perf_counter()
        self._entry("LAG", "behind schedule").log(max(0.0, self.elapsed_s() - message.due_s) * 1000, 0)  # type: ignore[arg-type]  # takes and keeps fractions of ms
        about = message.topic, len(message.value), message.spans, sent
        try:
            future = self._producer.send(message.topic, message.value, message.key)
        except Exception as error:  # too long, no metadata: a failed request, not the end of the test
            self._count(*about, None, error)
            return
        future.add_callback(partial(self._count, *about))
        future.add_errback(partial(self._count, *about, None))

    def _count(
        self, topic: str, size: int, spans: int, sent: float, _: object = None, error: BaseException | None = None
    ) -> None:
        took_ms = (time.perf_counter() - sent) * 1000
        self._environment.events.request.fire(
            request_type="KAFKA", name=topic, response_time=took_ms, response_length=size, exception=error, context={}
        )
        if error is None:
            if spans:
                add(self._entry("SPANS", topic), spans, took_ms, size)
            kilobytes, self._rest = divmod(self._rest + size, _KIB)
            if kilobytes:
                add(self._entry("KILOBYTES", "all topics"), kilobytes, took_ms, kilobytes * _KIB)

    def _entry(self, method: str, name: str) -> StatsEntry:
        return self._environment.stats.get(name, method)

    def end(self) -> None:
        """Everything is sent: wait for the acknowledgements, stop the test. Once."""
        if not self._ending:
            self._ending = True
            gevent.spawn(self._end)

    def _end(self) -> None:
        self.close()
        runner = self._environment.runner
        if not runner:
            return
        if self._options.headless or self._options.autostart:
            runner.quit()
        else:
            runner.stop()

    def close(self) -> None:
        """Wait for what is on its way, then say what came of it."""
        if self._producer is None:
            return
        sending, self._producer = self._producer, None
        try:
            sending.flush(timeout=_FLUSH_S)
        except Exception as error:
            logger.error(f"not all messages were acknowledged: {error}")
        took_s = max(self.elapsed_s(), 1e-9)
        sending.close(timeout=_FLUSH_S)
        total = self._environment.stats.total
        spans, lag = self._entry("SPANS", SPANS), self._entry("LAG", "behind schedule")
        logger.info(
            f"{total.num_requests:,} messages ({total.num_failures:,} failed), {spans.num_requests:,} spans,"
            f" {total.total_content_length / 1e6:,.1f} MB in {took_s:.1f} s:"
            f" {total.num_requests / took_s:,.0f} messages/s,"
            f" {spans.num_requests / took_s:,.0f} spans/s, {total.total_content_length / 1e6 / took_s:,.1f} MB/s;"
            f" lag p50 {lag.get_response_time_percentile(0.5):,.0f} ms, greatest {lag.max_response_time:,.0f} ms"
        )


def add(entry: Any, count: int, took_ms: float, size: int) -> None:
    """Log ``count`` requests of one answer at once; StatsEntry.log takes one at a time.

    entry: a StatsEntry, which is declared with whole milliseconds, and keeps fractions.
    """
    now = time.time()
    entry.num_requests += count
    entry.num_reqs_per_sec[int(now)] += count
    entry.last_request_timestamp = now
    entry.total_response_time += took_ms * count
    entry.min_response_time = took_ms if entry.min_response_time is None else min(entry.min_response_time, took_ms)
    entry.max_response_time = max(entry.max_response_time, took_ms)
    entry.response_times[round(took_ms) if took_ms < 100 else round(took_ms, -1)] += count
    entry.total_content_length += size


def _options_of(environment: Environment) -> Namespace:
    """The command line's, which locust has read before it makes a Replay."""
    assert environment.parsed_options
    return environment.parsed_options


# ---- locust ---------------------------------------------------------------------------------

_OPTIONS = (
    "input", "encoding", "key", "speed", "rate", "batch", "billing_delay", "no_shift", "shift_unit", "loops",
    "max_bytes",
)  # fmt: skip


@events.init_command_line_parser.add_listener
def options(parser: ArgumentParser) -> None:
    """What to replay; locust's own options say with how many users and how long."""
    group = parser.add_argument_group("Replay")
    group.add_argument("--input", default="", help="directory with traces/, metrics/, logs/, billing/")
    group.add_argument("--brokers", default="127.0.0.1:9092", help="host:port[,host:port], or none to drop messages")
    group.add_argument("--encoding", choices=["protobuf", "json"], default="protobuf", help="of telemetry")
    group.add_argument(
        "--key",
        choices=["none", "trace_id"],
        default="none",
        help="trace_id: a message a trace, keyed by its id, as partition_traces_by_id of the Collector",
    )
    group.add_argument("--speed", type=float, default=1.0, help="multiple of real time")
    group.add_argument("--rate", type=float, default=None, help="spans a second in place of --speed, or inf")
    group.add_argument(
        "--batch",
        type=float,
        default=None,
        help="send spans and log records as they end, in batches of so many seconds, as a batch processor does",
    )
    group.add_argument("--billing-delay", type=float, default=6.0, help="hours of event time that bills come later")
    group.add_argument("--no-shift", action="store_true", help="leave times as they were recorded")
    group.add_argument(
        "--shift-unit", type=int, default=60, help="times are moved to now by a whole number of so many minutes"
    )
    group.add_argument("--loops", type=int, default=1, help="how often to replay it, with new trace ids each time")
    group.add_argument("--max-bytes", type=int, default=1_000_000, help="longer requests are sent in parts")


def plan_of(options: Namespace) -> Plan:
    """Raises ValueError for options out of range."""
    if not options.input:
        raise ValueError("--input is missing: a directory with traces/, metrics/, logs/ or billing/")
    return Plan(
        source=Path(options.input),
        encoding=options.encoding,
        key=options.key,
        speed=options.speed,
        rate=float(options.rate) if options.rate else None,
        billing_delay_h=options.billing_delay,
        batch_s=options.batch,
        shift=not options.no_shift,
        shift_unit_min=options.shift_unit,
        loops=options.loops,
        max_bytes=options.max_bytes,
        limit_s=float(options.run_time) if isinstance(options.run_time, (int, float)) else None,
    )


# The replay of each test's environment.
_REPLAYS: dict[Environment, Replay] = {}


@events.init.add_listener
def on_init(environment: Environment, **_: object) -> None:
    if isinstance(environment.runner, (MasterRunner, WorkerRunner)):
        Replay._fail(2, "runs in one process, without --master, --worker and --processes: users share one schedule")
    replay = _REPLAYS[environment] = Replay(environment)
    if _options_of(environment).headless or _options_of(environment).autostart:
        replay.prepare()  # here, as --run-time counts from before test_start
        replay.connect()


@events.test_start.add_listener
def on_test_start(environment: Environment, **_: object) -> None:
    _REPLAYS[environment].prepare()
    _REPLAYS[environment].connect()


@events.test_stop.add_listener
def on_test_stop(environment: Environment, **_: object) -> None:
    _REPLAYS[environment].close()


class ReplayUser(User):
    """Sends what is due, until nothing is left."""

    @task
    def replay(self) -> None:
        replay = _REPLAYS[self.environment]
        feed = replay.feed
        assert feed, "prepare comes before the first user"
        while (due_s := feed.next_due_s()) is not None:
            wait_s = due_s - replay.elapsed_s()
            if wait_s > 0:
                gevent.sleep(min(wait_s, _NAP_S))
                continue  # another user may have taken it
            message = feed.take()
            assert message, "it was due"
            replay.send(message)
            gevent.sleep(0)
        replay.end()
        raise StopUser
