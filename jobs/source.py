"""The source tables, by what is read: the topics of Kafka, or the files of a directory. The bill of a directory lies in
its folder ``billing``, or where ``billing.from`` says."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from pyflink.table import DataTypes, StreamTableEnvironment, Table

from jobs import billing, telemetry
from jobs.environment import run_sql, sql_options, sql_path
from jobs.errors import UsageError
from jobs.kafka import TOPICS, KafkaInput


def create(
    t_env: StreamTableEnvironment,
    source: Path | KafkaInput,
    cost_column: str,
    scratch: Path | None,
    bill: str | None = None,
) -> str:
    """Create the source tables; returns the call that reads the charges.

    Args:
        t_env: gets otlp_spans, otlp_metrics, otlp_logs, incident_feedback, what the charges are read from, and
            rejected_files (reject).
        source: the topics, or the directory.
        cost_column: the FOCUS column that is attributed.
        scratch: the run's own folder, for the files of a directory that the engine is to read.
        bill: where the bill of a directory lies; None = in the directory.

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
    charges = billing.find(source / billing.FOLDER if bill is None else bill, cost_column)
    if not (charges.deliveries or files.usable):
        wanted = ", ".join(f"{stream}/*{telemetry.ENDINGS[1]}" for stream in telemetry.FOLDERS)
        raise UsageError(f"--input {source}: nothing to read, it must hold some of {wanted}, {billing.FOLDER}/*.csv")
    run_sql(t_env, "ddl/directory", input=sql_path(links))
    t_env.create_temporary_view("rejected_files", _texts(t_env, "reject", [*files.rejects, *charges.rejects]))
    # A worker reads a delivery whole, for identical rows of it are numbered.
    t_env.create_temporary_view("bill_deliveries", _texts(t_env, "delivery", charges.deliveries))
    return "bill_deliveries, lateral table(collect_charges(delivery))"


def _texts(t_env: StreamTableEnvironment, column: str, values: list[str]) -> Table:
    """A table of one column of STRING."""
    row = DataTypes.ROW([DataTypes.FIELD(column, DataTypes.STRING())])
    # PyFlink makes a folder for them, of which it removes the file, at this process's end, and not the folder.
    folder = tempfile.mkdtemp(prefix="anomaly_cost.")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    usual, tempfile.tempdir = tempfile.tempdir, folder
    try:
        return t_env.from_elements([(value,) for value in values], row)
    finally:
        tempfile.tempdir = usual
