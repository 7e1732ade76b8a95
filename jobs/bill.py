"""python -m jobs.bill: watch where a cloud delivers its bill, and send what changed to the topic that the job reads."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.arguments import Parser
from jobs.errors import JobError, UsageError, ended
from jobs.kafka import SETTING_HELP, client_settings, producer, python_settings, servers
from jobs.ledger import Ledger
from udfs.pure.bills import NoSuchPlace, Place, place
from udfs.pure.deliveries import told
from udfs.pure.focus import COST_COLUMNS, STREAM, UnreadableBill

_NAME = "bill"
_UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_SEND_S = 60

Deliver = Callable[[list[tuple[bytes, bytes]]], None]


@dataclass(frozen=True)
class Settings:
    """What one run does.

    Attributes:
        source: folder or URL of the bill.
        broker: HOST:PORT,... of the topic ``focus_charges``.
        state: what was sent; None = nowhere.
        every_s: seconds from one look to the next; None = one look.
        cost_column: as the job's ``cost.column``.
        kafka: of ``kafka.python_settings``, secrets among them.
    """

    source: str
    broker: str
    state: Path | None
    every_s: int | None
    cost_column: str
    kafka: Mapping[str, Any] = field(default_factory=dict, repr=False)


def load(argv: list[str], environment: Mapping[str, str] = os.environ, prog: str = "python -m jobs.bill") -> Settings:
    """Raises UsageError for wrong arguments."""
    parser = Parser(prog=prog, description="Send what changed in a bill to the topic focus_charges.")
    add = parser.add_argument
    add("--from", dest="source", required=True, metavar="URL", help="folder, s3://, gs:// or abfss:// of the bill")
    add("--to", required=True, metavar="URL", help="kafka://HOST:PORT[,HOST:PORT]")
    add("--state", metavar="FILE", help="what was sent; without it each start sends all, and takes nothing back")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--every", default="5m", metavar="TIME", help="how often to look, as 30s, 5m or 1h (5m)")
    when.add_argument("--once", action="store_true", help="look once")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=f"cost.column, or {SETTING_HELP}")
    given = parser.parse_args(argv)
    every = re.fullmatch(r"([1-9]\d{0,5}) ?(s|m|min|h|d)", given.every)
    if not every:
        raise UsageError(f"--every {given.every}: must be as 30s, 5m or 1h")
    cost_column, kafka = COST_COLUMNS[0], []
    for pair in given.set:
        key, _, value = pair.partition("=")
        if key != "cost.column":
            kafka.append(pair)
        elif value in COST_COLUMNS:
            cost_column = value
        else:
            raise UsageError(f"--set {pair}: must be one of {', '.join(COST_COLUMNS)}")
    return Settings(
        given.source,
        servers(given.to),
        Path(given.state) if given.state else None,
        None if given.once else int(every[1]) * _UNITS_S[every[2]],
        cost_column,
        python_settings(client_settings(kafka), environment),
    )


def look(where: Place, ledger: Ledger, deliver: Deliver, cost_column: str, say: Callable[[str], None]) -> bool:
    """Send what changed since the last look. A delivery that can't be read is named, and tried again at the next one.

    returns: whether all deliveries could be read.

    Raises:
        NoSuchPlace: the place can't be listed. What ``deliver`` raises.
    """
    ledger.send(deliver)  # what an earlier run left
    deliveries, skipped = where.deliveries(is_live=where.is_store)
    for line in told(skipped):
        say(line)
    is_whole = True
    # In the order in which they were delivered.
    for delivery in sorted(deliveries, key=lambda each: (each.time_ms, each.scope)):
        if ledger.is_taken(delivery):
            continue
        try:
            ledger.take(delivery, where.collect(delivery, cost_column))
        except (UnreadableBill, OSError) as error:
            say(f"{delivery.scope}: not sent: {' '.join(str(error).split())}")
            is_whole = False
            continue
        count = ledger.send(deliver)
        say(f"{delivery.scope}: {count:,} records sent")
    return is_whole


def _deliver_to(settings: Settings) -> Deliver:
    """Raises JobError where no broker answers."""
    from kafka.errors import KafkaError

    name = f"kafka://{settings.broker}"
    client = producer(name, settings.kafka, acks="all", linger_ms=20, max_request_size=2 << 20)

    def deliver(records: list[tuple[bytes, bytes]]) -> None:
        try:
            # Of one charge all in order: they go to one partition.
            futures = [client.send(STREAM, record, key=key) for key, record in records]
            client.flush(_SEND_S)
            for future in futures:
                future.get(_SEND_S)
        except (KafkaError, OSError) as error:
            raise JobError(f"{name}: the topic {STREAM} didn't take it ({type(error).__name__}: {error})") from None

    return deliver


def main(argv: list[str], stop: threading.Event | None = None, prog: str = "python -m jobs.bill") -> int:
    """Exit status: 0, 2 for wrong use, 1 for what failed, each with one line. stop: ends the watch."""
    stop = stop or threading.Event()
    last: dict[str, None] = {}

    def say(line: str) -> None:
        # What holds for many looks is said once.
        if line not in last:
            print(f"{_NAME}: {line}", file=sys.stderr, flush=True)
        said[line] = None

    ledger = None
    try:
        settings = load(argv, prog=prog)
        where = place(settings.source)
        ledger = Ledger(settings.state, [where.url, settings.broker, settings.cost_column])
        deliver = _deliver_to(settings)
        while True:
            said: dict[str, None] = {}
            try:
                is_whole = look(where, ledger, deliver, settings.cost_column, say)
            except (JobError, NoSuchPlace) as error:
                if settings.every_s is None:
                    raise
                say(f"{error}; trying again in {settings.every_s} s")
            else:
                if settings.every_s is None:
                    return 0 if is_whole else 1
            last = said
            if stop.wait(settings.every_s):
                return 0
    except (UsageError, JobError, NoSuchPlace, OSError) as error:
        return ended(_NAME, error)
    except KeyboardInterrupt:
        print(f"{_NAME}: interrupted", file=sys.stderr)
        return 130
    finally:
        if ledger:
            ledger.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
