"""Send once more what was rejected, when what it was rejected for is mended: a setting, a clock, a release.

    python -m jobs.replay_rejects --tables DIR|postgresql://USER@HOST/DATABASE --to kafka://HOST:PORT
        [--reason-code CODE ...] [--since TIME] [--set kafka.KEY=VALUE ...]

Each record goes to the topic that it came by. What rejected_records tells in part only stays: files, what is too long,
and what stands for many records, as a metric that isn't used.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from jobs import postgres
from jobs.arguments import Parser, moment
from jobs.errors import JobError, UsageError, ended
from jobs.kafka import FEEDBACK, SETTING_HELP, TOPICS, client_settings, producer, python_settings
from udfs.pure.dimensions import DELTA, GAUGE
from udfs.pure.otlp import MAX_REQUEST_BYTES
from udfs.pure.reject import Code

# Rejects that tell a part of the record, or of many.
_IN_PART = {Code.TOO_LONG, Code.NOT_USED, Code.NO_RESOURCE, Code.FILE_SKIPPED, Code.FILE_BROKEN}
_CHARGES = TOPICS[3]
# What no text holds: such a record's payload is its base64.
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DELTA, _CUMULATIVE = 1, 2
_ROWS_A_BATCH = 1_000


class Reject(NamedTuple):
    """A row of rejected_records, less what no replay needs."""

    stream: str
    reason_code: str
    payload: str


def record_of(reject: Reject) -> bytes | None:
    """The record of a reject, as its topic takes it; None where the reject doesn't hold it."""
    if reject.reason_code in _IN_PART:
        return None
    if reject.reason_code == Code.UNREADABLE:
        # What people say is text, never in base64.
        return reject.payload.encode() if reject.stream == FEEDBACK else _bytes_of(reject.payload)
    try:
        told = orjson.loads(reject.payload)
    except orjson.JSONDecodeError:
        return None
    if reject.stream == FEEDBACK:
        return reject.payload.encode()
    if not isinstance(told, dict):
        return None
    if reject.stream == _CHARGES:
        # Cells that don't fit their header are no row.
        return None if told.keys() == {"cells"} else reject.payload.encode()
    request = _request_of(told)
    return orjson.dumps(request) if request else None


def _bytes_of(payload: str) -> bytes:
    try:
        record = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        return payload.encode()
    return record if record.startswith(b"\n") or _BINARY.search(record) else payload.encode()


def _request_of(told: Mapping[str, Any]) -> dict[str, Any] | None:
    """An OTLP request of a span, a log record or a usage point, with the resource that it came with."""
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in told.get("resource", {}).items()]
    resource = {"attributes": attributes}
    if "span" in told:
        return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [told["span"]]}]}]}
    if "log_record" in told:
        return {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [told["log_record"]]}]}]}
    if "point" in told:
        data: dict[str, Any] = {"dataPoints": [told["point"]]}
        if told["kind"] != GAUGE:
            data["aggregationTemporality"] = _DELTA if told["kind"] == DELTA else _CUMULATIVE
        metric = {"name": told["metric"], "unit": told["unit"], "gauge" if told["kind"] == GAUGE else "sum": data}
        return {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [metric]}]}]}
    return None


def read(tables: str, codes: Sequence[str] = (), since: datetime | None = None) -> Iterator[Reject]:
    """The rejects of a directory of tables or of a database, by reason code (none = all) and time of rejection.

    Raises:
        JobError: there are no tables of this release.
        UsageError: the URL is none that jobs.postgres reads.
    """
    query = f"select {', '.join(_COLUMNS)} from public.rejected_records order by record_id"
    rows = (
        postgres.rows(tables, "anomaly_cost replay_rejects", query, _ROWS_A_BATCH)
        if "://" in tables
        else _of_directory(Path(tables))
    )
    for stream, code, payload, rejected_at in rows:
        if (not codes or code in codes) and (since is None or rejected_at >= since):
            yield Reject(stream, code, payload)


_COLUMNS = ["stream", "reason_code", "payload", "rejected_at"]


def _of_directory(directory: Path) -> Iterator[tuple]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / "rejected_records.parquet"
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_A_BATCH, columns=_COLUMNS):
                # A column that is missing is left out in silence.
                yield from zip(*(batch.column(name).to_pylist() for name in _COLUMNS), strict=True)
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise JobError(f"{path}: no rejects of this release ({error})") from None


def replay(rejects: Iterator[Reject], send: Callable[[str, bytes], object]) -> tuple[Counter[str], Counter[str]]:
    """Send each record, once: (how many by topic, how many could not be sent by reason code)."""
    sent: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for reject in rejects:
        record = record_of(reject)
        if record is None:
            left[reject.reason_code] += 1
        else:
            send(reject.stream, record)
            sent[reject.stream] += 1
    return sent, left


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "nothing"


def _replayed(arguments: argparse.Namespace) -> tuple[Counter[str], Counter[str]]:
    """What ``replay`` gives, once the broker has taken all.

    Raises:
        UsageError: an argument can't be used.
        JobError: there are no tables, or the broker didn't take it.
    """
    from kafka.errors import KafkaError

    since = moment(arguments.since, f"--since {arguments.since}") if arguments.since else None
    failed: list[BaseException] = []
    client = producer(
        arguments.to, python_settings(client_settings(arguments.set)), max_request_size=2 * MAX_REQUEST_BYTES
    )
    try:
        sent, left = replay(
            read(arguments.tables, arguments.reason_code, since),
            lambda topic, record: client.send(topic, record).add_errback(failed.append),
        )
        client.flush()
    except KafkaError as error:
        raise JobError(str(error)) from None
    finally:
        client.close()
    if failed:
        raise JobError(f"{arguments.to}: {len(failed)} records were not taken: {failed[0]}")
    return sent, left


def main(argv: list[str], prog: str = "python -m jobs.replay_rejects") -> int:
    """Exit status: 0; 2 for wrong use, 1 for what failed; the last two with one line."""
    parser = Parser(prog=prog, description="Send rejected records again.")
    parser.add_argument("--tables", required=True, metavar="URL", help="directory of tables, or postgresql://…")
    parser.add_argument("--to", required=True, metavar="URL", help="kafka://HOST:PORT[,HOST:PORT]")
    parser.add_argument(
        "--reason-code", action="append", default=[], choices=sorted(map(str, Code)), help="several add up"
    )
    parser.add_argument("--since", metavar="TIME", help="rejected at this time or later, as 2025-03-03T00:00Z")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SETTING_HELP)
    try:
        sent, left = _replayed(parser.parse_args(argv))
    except (UsageError, JobError) as error:
        return ended("replay_rejects", error)
    print(f"replay_rejects: sent: {_counted(sent)}; told in part only, and left: {_counted(left)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
