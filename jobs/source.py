"""The source tables, by what is read: the topics of Kafka, or the files of a directory, opened once before. The bill of
a directory lies in its folder ``billing``, or where ``billing.from`` says."""

from __future__ import annotations

import gzip
import re
import zlib
from itertools import chain
from pathlib import Path

from pyflink.table import DataTypes, StreamTableEnvironment, Table

from jobs import billing
from jobs.environment import run_sql, sql_options, sql_path, sql_text
from jobs.errors import JobError, UsageError
from jobs.kafka import TOPICS, KafkaInput

# Folder of each stream and the names in it that count; the DDL has the same patterns.
STREAMS = {
    "traces": (".jsonl", ".jsonl.gz"),
    "metrics": (".jsonl", ".jsonl.gz"),
    "logs": (".jsonl", ".jsonl.gz"),
}
BILLING = "billing"

# Names of files that the engine takes for being written still.
_HIDDEN = (".", "_")


def create(t_env: StreamTableEnvironment, source: Path | KafkaInput, cost_column: str, bill: str | None = None) -> str:
    """Create the source tables; returns the call that reads the charges.

    bill: where the bill of a directory lies; None = in the directory.

    Raises:
        UsageError: a directory holds nothing to read.
        JobError: a file can't be read.
    """
    if isinstance(source, KafkaInput):
        for topic in TOPICS:
            if source.is_there(topic):
                run_sql(t_env, "ddl/kafka", f"*_{topic}", options=sql_options(source.options(topic)))
            else:
                run_sql(t_env, "ddl/missing", topic=topic)
        return (
            "focus_charges, lateral table(collect_charges(line, date_format(delivered, 'yyyy-MM-dd''T''HH:mm:ss.SSS')))"
        )
    deliveries = billing.find(source / BILLING if bill is None else bill, cost_column)
    find(source, bool(deliveries))
    # The engine looks into all folders below, and takes the files whose whole path fits.
    run_sql(t_env, "ddl/directory", input=sql_path(source), root=sql_text(re.escape(str(source))))
    t_env.create_temporary_view("bill_deliveries", bill_deliveries(t_env, deliveries))
    return "bill_deliveries, lateral table(collect_charges(delivery))"


def _check(path: Path) -> None:
    """Read the first bytes of ``path``, so that what can't be read is told before the engine starts."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            stream.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise JobError(f"{path}: cannot be read ({error})") from error


def find(root: Path, has_bill: bool = False) -> dict[str, list[Path]]:
    """Files of each stream of telemetry under ``root``, by folder name.

    Raises:
        UsageError: there is nothing to read.
        JobError: a file can't be read.
    """
    files = {
        stream: sorted(
            path
            for path in (root / stream).glob("*")
            if path.name.endswith(endings) and path.is_file() and not path.name.startswith(_HIDDEN)
        )
        for stream, endings in STREAMS.items()
    }
    if not any(files.values()) and not has_bill:
        wanted = ", ".join(f"{stream}/*{endings[0]}" for stream, endings in (*STREAMS.items(), (BILLING, (".csv",))))
        raise UsageError(f"--input {root}: nothing to read, it must hold some of {wanted}")
    for path in chain.from_iterable(files.values()):
        _check(path)
    return files


def bill_deliveries(t_env: StreamTableEnvironment, deliveries: list[str]) -> Table:
    """Deliveries of a bill as a table (delivery STRING): a worker reads each whole, for identical rows are numbered."""
    return t_env.from_elements(
        [(delivery,) for delivery in deliveries],
        DataTypes.ROW([DataTypes.FIELD("delivery", DataTypes.STRING())]),
    )
