"""The job: telemetry and bills in, ranked anomaly costs out.

    collect -> assemble -> detect ----------------+
    collect -> meter    -> detect, attribute      +-> rank -> tables
    collect -> price    -> attribute -------------+
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyflink.common import Row, Types, WatermarkStrategy
from pyflink.common.typeinfo import TypeInformation
from pyflink.datastream import KeyedProcessFunction
from pyflink.table import (
    ChangelogMode,
    DataTypes,
    Schema,
    StatementSet,
    StreamTableEnvironment,
)
from pyflink.util.exceptions import JavaException

from jobs import config, progress, source, tables
from jobs.config import Config, Money
from jobs.environment import free_port, materialise, run_sql, sql_path, start_engine, statements
from jobs.errors import JobError, UsageError
from jobs.report.terminal import ranked_table
from udfs import assemble, changelog, collect, columns, meter
from udfs.attribute import Attribute, rate_card
from udfs.detect import Detect
from udfs.rank import Rank

FUNCTIONS = {
    "collect_spans": collect.collect_spans,
    "collect_metrics": collect.collect_metrics,
    "collect_logs": collect.collect_logs,
    "reject_columns": collect.reject_columns,
    "assemble": assemble.assemble,
    "meter": meter.meter,
    "own": meter.own,
    "pod_owner": meter.pod_owner,
    "rate_card": rate_card,
    "ranked_rows": columns.ranked_rows,
    "verdict_rows": columns.verdict_rows,
    "allocation_rows": columns.allocation_rows,
    "charge_anomaly_rows": columns.charge_anomaly_rows,
}


def _keyed_stage(
    t_env: StreamTableEnvironment,
    verb: str,
    view: str,
    key: Callable[[Row], object],
    key_type: TypeInformation,
    function: KeyedProcessFunction,
    table: str,
) -> None:
    """Send the changes of ``view``, by ``key``, through ``function``; its newest rows are ``table``.

    The changes carry no watermark but the one that ends a bounded input: mini-batches mark their
    progress in the engine's clock, by watermarks of processing time, which a timer of event time
    would take for the end of the world.
    """
    stream = (
        t_env.to_changelog_stream(t_env.from_path(view))
        .assign_timestamps_and_watermarks(WatermarkStrategy.no_watermarks())
        .key_by(key, key_type)
        .process(function, changelog.ROW_TYPE)
        .name(verb)
    )
    schema = (
        Schema.new_builder()
        .column("kind", DataTypes.STRING().not_null())
        .column("time_ms", DataTypes.BIGINT().not_null())
        .column("event_key", DataTypes.STRING().not_null())
        .column("payload", DataTypes.BYTES())
        .primary_key("kind", "time_ms", "event_key")
        .build()
    )
    t_env.create_temporary_view(
        table, t_env.from_changelog_stream(stream, schema, ChangelogMode.upsert())
    )


def anomaly_cost(
    t_env: StreamTableEnvironment,
    sinks: dict[str, str],
    cost_column: str,
    detect: Detect,
    rank: Rank,
    rejected_at_ms: int,
    money: Money = Money(),  # noqa: B008 (frozen)
) -> StatementSet:
    """The way of the data, from the source tables to the five sinks, as one statement set.

    Args:
        t_env: has the tables otlp_spans, otlp_metrics, otlp_logs (line BYTES) and charge_files (path).
        sinks: connector options of each table of ``sql/sinks``.
        cost_column: the FOCUS column that is attributed.
        detect: the stage that judges traces.
        rank: the stage that orders anomalies.
        rejected_at_ms: the time that rejected_records shows, the start of this run.
        money: how charges become cost.
    """
    for name, function in FUNCTIONS.items():
        t_env.create_temporary_system_function(name, function)
    t_env.create_temporary_system_function(
        "collect_charges", collect.collect_charges(cost_column, money.exchange)
    )

    run_sql(t_env, "views", "1*")
    for view in ("collected_spans", "collected_metrics", "collected_logs", "collected_charges"):
        materialise(t_env, view)

    run_sql(t_env, "views", "2*")  # assemble
    run_sql(t_env, "views", "3[12]_*")  # meter
    materialise(t_env, "pod_owners")
    run_sql(t_env, "views", "33_*")
    materialise(t_env, "usage_owned")

    run_sql(t_env, "views", "4*")
    _keyed_stage(
        t_env, "detect", "detector_frames", lambda row: "", Types.STRING(), detect, "detected"
    )
    run_sql(t_env, "views", "5*")
    _keyed_stage(
        t_env,
        "attribute",
        "resource_events",
        lambda row: row[0],
        Types.STRING(),
        # A directory ends: nothing in it is late.
        Attribute(None, None, money.price_book, money.idle_policy),
        "attributed",
    )
    run_sql(t_env, "views", "6*")
    _keyed_stage(
        t_env, "rank", "window_evidence", lambda row: row[1], Types.LONG(), rank, "ranked"
    )

    run_sql(t_env, "sinks", **sinks)
    inserts = t_env.create_statement_set()
    for statement in statements("inserts", rejected_at_ms=str(rejected_at_ms)):
        inserts.add_insert_sql(statement)
    return inserts


def run(configuration: Config) -> dict[str, int]:
    """Run the job on an embedded MiniCluster over a directory; returns the rows of each table.

    Raises:
        UsageError: the input holds nothing to read.
        JobError: a file can't be read, or the engine failed.
    """
    files = source.find(configuration.input, configuration.cost_column)
    configuration.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".anomaly_cost-", dir=configuration.output) as folder:
        scratch = Path(folder)
        rest_port = free_port()
        try:
            t_env = start_engine(configuration.engine, scratch, rest_port)
            run_sql(t_env, "ddl", input=sql_path(configuration.input))
            t_env.create_temporary_view(
                "charge_files", source.charge_files(t_env, files["billing"])
            )
            inserts = anomaly_cost(
                t_env,
                tables.sink_options(scratch / "changes"),
                configuration.cost_column,
                Detect(configuration.models, configuration.threshold),
                Rank(configuration.rank_by),
                rejected_at_ms=int(time.time() * 1000),
                money=configuration.money,
            )
            progress.wait(inserts.execute(), rest_port, scratch)
        except (Py4JJavaError, JavaException) as error:
            log = configuration.output / "anomaly_cost.log"
            log.write_text(str(error), encoding="utf-8")
            raise JobError(f"{progress.reason(str(error))} (the engine's account: {log})") from None
        return {
            name: tables.fold(scratch / "changes", name, configuration.output)
            for name in tables.SCHEMAS
        }


def main(argv: list[str]) -> int:
    """Exit status: 0, 2 for wrong use, 1 for what failed; the last two with one line."""
    try:
        configuration = config.load(argv)
        rows = run(configuration)
    except UsageError as error:
        print(f"anomaly_cost: {error}", file=sys.stderr)
        return 2
    except (JobError, OSError) as error:
        print(f"anomaly_cost: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("anomaly_cost: interrupted", file=sys.stderr)
        return 130
    written = ", ".join(f"{name} {count:,}" for name, count in rows.items())
    print(f"anomaly_cost: rows written: {written}", file=sys.stderr)
    print(ranked_table(configuration.output))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
