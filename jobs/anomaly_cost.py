"""The job: telemetry and bills in, ranked anomaly costs out.

collect -> assemble -> detect -> judge -------+
collect -> meter    -> detect, attribute      +-> rank -> follow -> tables
collect -> price    -> attribute -------------+
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence

from pyflink.common import Types
from pyflink.table import StatementSet, StreamTableEnvironment

from jobs import config, recovery, sinks, source, submission
from jobs.config import Config
from jobs.environment import materialise, on_cluster, run_sql
from jobs.errors import EngineLost, JobError, UsageError, ended
from jobs.report.terminal import ranked_table
from jobs.sinks import Output
from jobs.stages import Stages, each, newest, stages_of


def anomaly_cost(
    t_env: StreamTableEnvironment,
    charges: str,
    outputs: Sequence[Output],
    stages: Stages,
    rejected_at_ms: int,
) -> StatementSet:
    """The way of the data, from the source tables to the sinks, as one statement set.

    Args:
        t_env: has the tables otlp_spans, otlp_metrics, otlp_logs, incident_feedback (line BYTES) and what ``charges``
            reads.
        charges: a call of the table function collect_charges, with its table, as source.create tells it.
        outputs: where the tables go.
        stages: the functions with memory, and how charges are read.
        rejected_at_ms: the time that rejected_records shows, the start of this run.
    """
    stages.register(t_env)
    run_sql(t_env, "views", "1*", charges=charges)
    for view in ("collected_spans", "collected_metrics", "collected_logs", "collected_charges", "collected_feedback"):
        materialise(t_env, view)

    run_sql(t_env, "views", "2[12]_*")  # assemble
    run_sql(t_env, "views", "23_trace_frames_as_they_come" if stages.is_endless else "23_trace_frames_at_the_end")
    run_sql(t_env, "views", "3[12]_*")  # meter
    materialise(t_env, "pod_owners")
    run_sql(t_env, "views", "33_*", system_namespaces=stages.system_namespaces)
    materialise(t_env, "usage_owned")

    run_sql(t_env, "views", "4*")
    frames = stages.awake(t_env, "detector_frames")
    detected = stages.keyed(t_env, "detect", frames, lambda row: "", Types.STRING()).force_non_parallel()
    judged = stages.judged(detected)
    newest(t_env, "incidents", judged)
    each(t_env, "verdicts", judged)

    run_sql(t_env, "views", "5*")
    events = stages.awake(t_env, "resource_events")
    attributed = stages.keyed(t_env, "attribute", events, lambda row: row[0], Types.STRING())
    newest(t_env, "attributed", attributed)

    run_sql(t_env, "views", "6*")
    evidence = stages.awake(t_env, "window_evidence")
    ranked = stages.keyed(t_env, "rank", evidence, lambda row: row[1], Types.LONG())
    newest(t_env, "ranked", ranked)
    followed = stages.processed(ranked, "follow", lambda row: "", Types.STRING()).force_non_parallel()
    newest(t_env, "followed", followed)
    sinks.create_rows(t_env, rejected_at_ms)
    inserts = t_env.create_statement_set()
    for number, output in enumerate(outputs):
        output.create(t_env, f"output{number}_")
        for statement in output.inserts(f"output{number}_"):
            inserts.add_insert_sql(statement)
    return inserts


def prepare(t_env: StreamTableEnvironment, configuration: Config, outputs: Sequence[Output]) -> StatementSet:
    """The job that ``configuration`` asks for, ready to be executed.

    Raises:
        UsageError: the input holds nothing to read.
        JobError: a file can't be read.
    """
    charges = source.create(
        t_env, configuration.input, configuration.cost_column, configuration.scratch, configuration.bill
    )
    return anomaly_cost(t_env, charges, outputs, stages_of(configuration), int(time.time() * 1000))


def main(argv: list[str], prog: str = config.PROG) -> int:
    """Exit status: 0, 2 for wrong use, 1 for what failed, 130 where it is stopped; the last three with one line."""
    if not on_cluster() and threading.current_thread() is threading.main_thread():
        # A container's stop is a Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        configuration = config.load(argv, prog)
        if on_cluster():
            submission.submit(configuration, prepare)
            return 0
        rows = submission.run(configuration, prepare)
    except EngineLost as error:
        recovery.restart(argv, configuration, error)
        hint = "" if configuration.state else "; with --state the job goes on by itself"
        return ended("anomaly_cost", JobError(f"{error}{hint}"))
    except (UsageError, JobError, OSError) as error:
        return ended("anomaly_cost", error)
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
