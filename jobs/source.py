"""The source tables, by what is read: the topics of Kafka, or the files of a directory."""

from __future__ import annotations

from pathlib import Path

from pyflink.table import DataTypes, StreamTableEnvironment, Table

from jobs import telemetry
from jobs.environment import run_sql, sql_options, sql_path
from jobs.errors import JobError, UsageError
from jobs.kafka import TOPICS, KafkaInput
from udfs.pure.focus import UnreadableBill, read_charges

BILLING = "billing"
BILL_ENDINGS = (".csv", ".csv.gz", ".parquet")

# Names of files that are being written still.
_HIDDEN = (".", "_")


def create(t_env: StreamTableEnvironment, source: Path | KafkaInput, cost_column: str, scratch: Path | None) -> str:
    """Create the source tables; returns the call that reads the charges.

    Args:
        t_env: gets otlp_spans, otlp_metrics, otlp_logs, what the charges are read from, and rejected_files (reject).
        source: the topics, or the directory.
        cost_column: the FOCUS column that is attributed.
        scratch: the run's own folder, for the files of a directory that the engine is to read.

    Raises:
        UsageError: a directory holds nothing to read.
        JobError: a bill can't be read.
    """
    if isinstance(source, KafkaInput):
        for topic in TOPICS:
            if source.is_there(topic):
                run_sql(t_env, "ddl/kafka", f"*_{topic}", options=sql_options(source.options(topic)))
            else:
                run_sql(t_env, "ddl/missing", "*_topic", topic=topic)
        run_sql(t_env, "ddl/missing", "*_rejected_files")
        return (
            "focus_charges, lateral table(collect_charges(line, date_format(delivered, 'yyyy-MM-dd''T''HH:mm:ss.SSS')))"
        )
    assert scratch is not None, "a directory is read by way of a folder of the run's own"
    links = scratch / "input"
    files = telemetry.link(source, links)
    bills = find_bills(source, cost_column)
    if not (bills or files.usable):
        telemetry_ = ", ".join(f"{stream}/*{telemetry.ENDINGS[1]}" for stream in telemetry.FOLDERS)
        raise UsageError(
            f"--input {source}: nothing to read, it must hold some of {telemetry_}, {BILLING}/*{BILL_ENDINGS[0]}"
        )
    run_sql(t_env, "ddl/directory", input=sql_path(links))
    t_env.create_temporary_view("rejected_files", _texts(t_env, "reject", files.rejects))
    t_env.create_temporary_view("charge_files", _texts(t_env, "path", [str(path) for path in bills]))
    return "charge_files, lateral table(collect_charges(path))"


def find_bills(root: Path, cost_column: str) -> list[Path]:
    """The files of ``root``/billing.

    Raises:
        JobError: one can't be read.
    """
    paths = sorted(
        path
        for path in (root / BILLING).glob("*")
        if path.name.endswith(BILL_ENDINGS) and path.is_file() and not path.name.startswith(_HIDDEN)
    )
    for path in paths:
        try:
            next(read_charges(path, cost_column), None)
        except UnreadableBill as error:
            raise JobError(str(error)) from error
    return paths


def _texts(t_env: StreamTableEnvironment, column: str, values: list[str]) -> Table:
    """A table of one column of STRING. Bills are told by their paths: a worker reads each whole, for its header names
    the columns."""
    row = DataTypes.ROW([DataTypes.FIELD(column, DataTypes.STRING())])
    return t_env.from_elements([(value,) for value in values], row)
