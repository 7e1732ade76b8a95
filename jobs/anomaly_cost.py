"""The job: telemetry and bills in, ranked anomaly costs out.

collect -> assemble -> detect ----------------+
collect -> meter    -> detect, attribute      +-> rank -> tables
collect -> price    -> attribute -------------+
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from py4j.protocol import Py4JError, Py4JJavaError
from pyflink.common import Row, Types, WatermarkStrategy
from pyflink.common.typeinfo import TypeInformation
from pyflink.datastream import DataStream, KeyedProcessFunction
from pyflink.table import (
    ChangelogMode,
    DataTypes,
    Schema,
    StatementSet,
    StreamTableEnvironment,
)
from pyflink.table.udf import UserDefinedTableFunctionWrapper
from pyflink.util.exceptions import JavaException

from jobs import config, connectors, kafka, progress, sinks, state, tables
from jobs import source as directory
from jobs.config import Config
from jobs.environment import (
    cluster_engine,
    engine_output,
    forget_engine,
    free_port,
    materialise,
    on_cluster,
    run_sql,
    sql_options,
    sql_path,
    start_engine,
)
from jobs.errors import EngineLost, JobError, UsageError
from jobs.kafka import TOPICS, KafkaInput
from jobs.report.terminal import ranked_table
from jobs.sinks import Output
from udfs import assemble, changelog, collect, columns, meter
from udfs.attribute import Attribute, rate_card
from udfs.detect import Detect, DetectAsItComes, DetectAtEnd
from udfs.pure.windows import HOUR_MS
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
    "ranked_json": columns.ranked_json,
    "allocations_json": columns.allocations_json,
    "charge_anomalies_json": columns.charge_anomalies_json,
    "verdict_rows": columns.verdict_rows,
    "allocation_rows": columns.allocation_rows,
    "charge_anomaly_rows": columns.charge_anomaly_rows,
}


# How long after a window's bill may come its evidence is kept for what restates it: a closed month's corrections.
RANK_KEPT_MS = 7 * 24 * HOUR_MS


def _keyed_stage(
    t_env: StreamTableEnvironment,
    verb: str,
    view: str,
    key: Callable[[Row], object],
    key_type: TypeInformation,
    function: KeyedProcessFunction,
    awake: Sequence[str] = (),
) -> DataStream:
    """Send the changes of ``view``, by ``key``, through ``function``; the rows that it sends.

    The changes carry no watermark but the one that ends a bounded input: mini-batches mark their
    progress in the engine's clock, by watermarks of processing time, which a timer of event time
    would take for the end of the world.

    awake: queries of rows that say nothing, which an input without end needs: see ``sql/ddl/pulse``.
    """
    if awake:
        union = " union all ".join((f"select * from {view}", *awake))
        t_env.execute_sql(f"create temporary view {view}_awake as {union}")
        view = f"{view}_awake"
    return (
        t_env.to_changelog_stream(t_env.from_path(view))
        .assign_timestamps_and_watermarks(WatermarkStrategy.no_watermarks())
        .key_by(key, key_type)
        .process(function, changelog.ROW_TYPE)
        .name(verb)
        .uid(verb)
    )


def _newest(t_env: StreamTableEnvironment, table: str, sent: DataStream) -> None:
    """``table``: the newest row of each kind, time_ms and event_key."""
    schema = _columns().primary_key("kind", "time_ms", "event_key").build()
    t_env.create_temporary_view(table, t_env.from_changelog_stream(sent, schema, ChangelogMode.upsert()))


def _each(t_env: StreamTableEnvironment, table: str, sent: DataStream) -> None:
    """``table``: all rows, for what has a key of its own and is never taken back."""
    table_ = t_env.from_changelog_stream(sent, _columns().build(), ChangelogMode.insert_only())
    t_env.create_temporary_view(table, table_)


def _columns() -> Schema.Builder:
    """Of changelog.ROW_TYPE."""
    return (
        Schema.new_builder()
        .column("kind", DataTypes.STRING().not_null())
        .column("time_ms", DataTypes.BIGINT().not_null())
        .column("event_key", DataTypes.STRING().not_null())
        .column("payload", DataTypes.BYTES())
    )


def anomaly_cost(
    t_env: StreamTableEnvironment,
    charges: str,
    outputs: Sequence[Output],
    stages: Stages,
    rejected_at_ms: int,
) -> StatementSet:
    """The way of the data, from the source tables to the sinks, as one statement set.

    Args:
        t_env: has the tables otlp_spans, otlp_metrics, otlp_logs (line BYTES) and what ``charges`` reads.
        charges: a call of the table function collect_charges, with its table; see ``sources``.
        outputs: where the five tables go.
        stages: the functions with memory, and how charges are read.
        rejected_at_ms: the time that rejected_records shows, the start of this run.
    """
    for name, function in (FUNCTIONS | {"collect_charges": stages.collect_charges}).items():
        t_env.create_temporary_system_function(name, function)

    run_sql(t_env, "views", "1*", charges=charges)
    for view in ("collected_spans", "collected_metrics", "collected_logs", "collected_charges"):
        materialise(t_env, view)

    run_sql(t_env, "views", "2[12]_*")  # assemble
    run_sql(t_env, "views", "23_trace_frames_as_they_come" if stages.is_endless else "23_trace_frames_at_the_end")
    run_sql(t_env, "views", "3[12]_*")  # meter
    materialise(t_env, "pod_owners")
    run_sql(t_env, "views", "33_*", system_namespaces=stages.system_namespaces)
    materialise(t_env, "usage_owned")

    if stages.is_endless:
        run_sql(t_env, "ddl/pulse")

    def awake(*queries: str) -> Sequence[str]:
        return queries if stages.is_endless else ()

    run_sql(t_env, "views", "4*")
    detected = _keyed_stage(
        t_env,
        "detect",
        "detector_frames",
        lambda row: "",
        Types.STRING(),
        stages.detect,
        awake("select 'pulse', n, '' from pulses"),
    )
    _newest(t_env, "incidents", detected)
    _each(t_env, "verdicts", detected)
    run_sql(t_env, "views", "5*")
    attributed = _keyed_stage(
        t_env,
        "attribute",
        "resource_events",
        lambda row: row[0],
        Types.STRING(),
        stages.attribute,
        awake(
            "select 'pulse ' || cast(n as string), 'pulse', '', '' from pulses",
            "select resource_id, 'call', '', '' from (select distinct resource_id from resource_events)"
            " cross join roll_call",
        ),
    )
    _newest(t_env, "attributed", attributed)
    run_sql(t_env, "views", "6*")
    ranked = _keyed_stage(
        t_env,
        "rank",
        "window_evidence",
        lambda row: row[1],
        Types.LONG(),
        stages.rank,
        awake(
            "select 'pulse', n, '', cast('' as bytes) from pulses",
            "select 'call', window_ms, '', cast('' as bytes) from (select distinct window_ms from window_evidence)"
            " cross join roll_call",
        ),
    )

    _newest(t_env, "ranked", ranked)
    sinks.create_rows(t_env, rejected_at_ms)
    inserts = t_env.create_statement_set()
    for number, output in enumerate(outputs):
        output.create(t_env, f"output{number}_")
        for statement in output.inserts(f"output{number}_"):
            inserts.add_insert_sql(statement)
    return inserts


@dataclass(frozen=True)
class Stages:
    """The functions that depend on the configuration."""

    detect: Detect
    attribute: Attribute
    rank: Rank
    collect_charges: UserDefinedTableFunctionWrapper
    system_namespaces: str
    is_endless: bool


def stages(configuration: Config) -> Stages:
    """The functions of a run: what has no end sends on what it knows now and then, and forgets."""
    money, pace = configuration.money, None if configuration.bounded else configuration.pace
    skew_ms = configuration.pace.skew_ms
    emit_every_ms = pace and pace.emit_every_ms
    detector = configuration.models, configuration.threshold
    collects = collect.collect_charges if isinstance(configuration.input, Path) else collect.collect_charge_records
    return Stages(
        DetectAsItComes(*detector, pace) if pace else DetectAtEnd(*detector, skew_ms),
        Attribute(money.wait_ms if pace else None, emit_every_ms, money.price_book, money.idle_policy, skew_ms),
        Rank(configuration.rank_by, emit_every_ms, money.wait_ms + RANK_KEPT_MS if pace else None),
        collects(configuration.cost_column, money.exchange),
        ", ".join(f"'{name}'" for name in money.system_namespaces),
        is_endless=pace is not None,
    )


def sources(t_env: StreamTableEnvironment, source: Path | KafkaInput, cost_column: str) -> str:
    """Create the source tables; the call that reads the charges.

    Raises:
        UsageError: a directory holds nothing to read.
        JobError: a file can't be read.
    """
    if isinstance(source, KafkaInput):
        tables_ = {topic: sql_options(source.options(topic)) for topic in TOPICS}
        run_sql(t_env, "ddl/kafka", **tables_)
        return (
            "focus_charges, lateral table(collect_charges(line, date_format(delivered, 'yyyy-MM-dd''T''HH:mm:ss.SSS')))"
        )
    files = directory.find(source, cost_column)
    run_sql(t_env, "ddl/directory", input=sql_path(source))
    t_env.create_temporary_view("charge_files", directory.charge_files(t_env, files["billing"]))
    return "charge_files, lateral table(collect_charges(path))"


def prepare(t_env: StreamTableEnvironment, configuration: Config, sinks_: Sequence[Output]) -> StatementSet:
    """The job that ``configuration`` asks for, ready to be executed.

    Raises:
        UsageError: the input holds nothing to read.
        JobError: a file can't be read.
    """
    charges = sources(t_env, configuration.input, configuration.cost_column)
    return anomaly_cost(t_env, charges, sinks_, stages(configuration), rejected_at_ms=int(time.time() * 1000))


def outputs(configuration: Config, changes: Path) -> list[Output]:
    """The sinks of a run; those that are not there are told before the engine starts.

    Raises:
        JobError: a database or a broker doesn't answer.
    """
    found = [sinks.open_output(url, changes, configuration.kafka_properties) for url in configuration.outputs]
    for output in found:
        _reach(output.reach)
    return found


# In the environment of a run that goes on after its engine was lost: the checkpoint that it went on from, and how many
# engines were lost since that one came.
_GOES_ON = "ANOMALY_COST_GOES_ON"
_ASK_AGAIN_S = 5.0
# So many engines may end one after another without a checkpoint: what ends them is no server that is away.
_ENGINES_WITHOUT_CHECKPOINT = 10


def _reach(ask: Callable[[], object]) -> None:
    """``ask`` a server, once; of a run that goes on, until it answers: it did before.

    Raises:
        JobError: it doesn't answer.
    """
    while True:
        try:
            ask()
            return
        except JobError as error:
            if _GOES_ON not in os.environ:
                raise
            print(f"anomaly_cost: {error}; asking again", file=sys.stderr, flush=True)
            time.sleep(_ASK_AGAIN_S)


def _go_on(argv: list[str], folder: Path, error: EngineLost) -> None:
    """Become the same command once more, with an engine of its own; the lost one ends with this process.

    The JDBC connector makes it so: where the database is away, its sink fails, and fails once more when it is closed,
    which the engine takes for the end of its worker, or of itself. A cluster's is started again by what runs it.
    Returns where engines end again and again without getting anywhere.
    """
    checkpoint = str(state.newest(folder))
    before, _, lost = os.environ.get(_GOES_ON, "").rpartition(" ")
    count = int(lost) + 1 if before == checkpoint else 1
    if count > _ENGINES_WITHOUT_CHECKPOINT:
        return
    print(f"anomaly_cost: {error}: going on from the last checkpoint", file=sys.stderr, flush=True)
    os.environ[_GOES_ON] = f"{checkpoint} {count}"
    forget_engine()
    os.execv(sys.executable, [sys.executable, "-m", "jobs.anomaly_cost", *argv])


def run(configuration: Config) -> dict[str, int]:
    """Run the job on an embedded MiniCluster; returns the rows of each table of a directory.

    With ``state`` it goes on from the last checkpoint there, if there is one.

    Raises:
        UsageError: the input holds nothing to read.
        JobError: a file can't be read, a server doesn't answer, or the engine failed.
        EngineLost: the engine ended, or its worker, after it had taken the job.
    """
    target = configuration.directory
    if target:
        target.mkdir(parents=True, exist_ok=True)
    if isinstance(configuration.input, KafkaInput):
        _reach(lambda: kafka.check(configuration.input))
    with state.folder(configuration.state, target) as scratch:
        rest_port = free_port()
        engine = configuration.engine | state.settings(configuration, scratch)
        changes = scratch / "changes"
        if state.RECOVERY not in engine:
            shutil.rmtree(changes, ignore_errors=True)
        failure = JobError
        try:
            sinks_ = outputs(configuration, changes)
            jars = connectors.jars() if needs_connectors(configuration) else []
            t_env = start_engine(engine, scratch, rest_port, jars)
            running = prepare(t_env, configuration, sinks_).execute()
            if state.RETRIES in engine:
                # What a job fails of is tried again within the engine: a failure that comes out is the engine's end.
                failure = EngineLost
            progress.wait(running, rest_port, scratch)
        except (Py4JError, JavaException) as error:
            log = (target or configuration.state or scratch.parent) / "anomaly_cost.log"
            log.write_text(f"{error}\n{engine_output()}", encoding="utf-8")
            is_told = isinstance(error, (Py4JJavaError, JavaException))
            why = progress.reason(str(error)) if is_told else "the engine's process ended"
            raise failure(f"{why} (the engine's account: {log})") from None
        if target is None:
            return {}
        return {name: tables.fold(changes, name, target) for name in tables.SCHEMAS}


def submit(configuration: Config) -> None:
    """Hand the job to the cluster whose client called this (``flink run -py``).

    Raises:
        UsageError: it asks for what a cluster can't do.
        JobError: a server doesn't answer, or the cluster didn't take the job.
    """
    if configuration.directory or isinstance(configuration.input, Path):
        raise UsageError("on a cluster, --input is kafka:// and each --output postgresql:// or kafka://")
    if configuration.state:
        raise UsageError("--state: on a cluster checkpoints are its own (execution.checkpointing.dir)")
    # The client runs this file, so that jobs/kafka.py would be taken for the package of that name.
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    kafka.check(configuration.input)
    sinks_ = outputs(configuration, Path())
    try:
        t_env = cluster_engine(configuration.engine | state.checkpointing(configuration))
        inserts = prepare(t_env, configuration, sinks_)
        t_env.get_config().set("pipeline.name", "anomaly_cost")
        inserts.execute()
    except (Py4JError, JavaException) as error:
        raise JobError(f"{progress.reason(str(error))} (the client's log has the engine's account)") from None


def needs_connectors(configuration: Config) -> bool:
    """Whether an input or an output is more than files."""
    return not isinstance(configuration.input, Path) or any(isinstance(o, str) for o in configuration.outputs)


def main(argv: list[str]) -> int:
    """Exit status: 0, 2 for wrong use, 1 for what failed; the last two with one line."""
    try:
        configuration = config.load(argv)
        if on_cluster():
            submit(configuration)
            return 0
        rows = run(configuration)
    except UsageError as error:
        print(f"anomaly_cost: {error}", file=sys.stderr)
        return 2
    except (JobError, OSError) as error:
        hint = ""
        if isinstance(error, EngineLost):
            if configuration.state:
                _go_on(argv, configuration.state, error)
            else:
                hint = "; --state lets the job go on from its last checkpoint"
        print(f"anomaly_cost: {error}{hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("anomaly_cost: interrupted", file=sys.stderr)
        return 130
    if configuration.directory:
        written = ", ".join(f"{name} {count:,}" for name, count in rows.items())
        print(f"anomaly_cost: rows written: {written}", file=sys.stderr)
        print(ranked_table(configuration.directory))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
