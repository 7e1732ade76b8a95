"""The source tables, by what is read: the topics of Kafka, or the files of a directory, opened once before."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

from pyflink.table import DataTypes, StreamTableEnvironment, Table

from jobs.environment import run_sql, sql_options, sql_path, sql_text
from jobs.errors import JobError, UsageError
from jobs.kafka import TOPICS, KafkaInput
from udfs.pure.focus import UnreadableBill, read_charges

# Folder of each stream and the names in it that count; the DDL has the same patterns.
STREAMS = {
    "traces": (".jsonl", ".jsonl.gz"),
    "metrics": (".jsonl", ".jsonl.gz"),
    "logs": (".jsonl", ".jsonl.gz"),
    "billing": (".csv", ".csv.gz", ".parquet"),
}

# Names of files that the engine takes for being written still.
_HIDDEN = (".", "_")


def create(t_env: StreamTableEnvironment, source: Path | KafkaInput, cost_column: str) -> str:
    """Create the source tables; returns the call that reads the charges.

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
    files = find(source, cost_column)
    # The engine looks into all folders below, and takes the files whose whole path fits.
    run_sql(t_env, "ddl/directory", input=sql_path(source), root=sql_text(re.escape(str(source))))
    t_env.create_temporary_view("charge_files", charge_files(t_env, files["billing"]))
    return "charge_files, lateral table(collect_charges(path))"


def _check(path: Path) -> None:
    """Read the first bytes of ``path``, so that what can't be read is told before the engine starts."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            stream.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise JobError(f"{path}: cannot be read ({error})") from error


def find(root: Path, cost_column: str) -> dict[str, list[Path]]:
    """Files of each stream under ``root``, by folder name.

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
    if not any(files.values()):
        wanted = ", ".join(f"{stream}/*{endings[0]}" for stream, endings in STREAMS.items())
        raise UsageError(f"--input {root}: nothing to read, it must hold some of {wanted}")
    for stream, paths in files.items():
        for path in paths:
            _check(path)
            if stream == "billing":
                try:
                    next(read_charges(path, cost_column), None)
                except UnreadableBill as error:
                    raise JobError(str(error)) from error
    return files


def charge_files(t_env: StreamTableEnvironment, paths: list[Path]) -> Table:
    """Billing files as a table (path STRING): a worker reads each whole, for its header names the columns."""
    return t_env.from_elements(
        [(str(path),) for path in paths],
        DataTypes.ROW([DataTypes.FIELD("path", DataTypes.STRING())]),
    )
