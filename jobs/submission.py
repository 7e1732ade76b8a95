"""From a configuration to a job that runs: on an embedded MiniCluster, or on the cluster whose client this is."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from py4j.protocol import Py4JError, Py4JJavaError
from pyflink.table import StatementSet, StreamTableEnvironment
from pyflink.util.exceptions import JavaException

from jobs import connectors, folders, kafka, progress, sinks, state, tables
from jobs.config import Config
from jobs.environment import cluster_engine, engine_account, free_port, start_engine
from jobs.errors import EngineLost, JobError, UsageError
from jobs.kafka import KafkaInput
from jobs.recovery import reach
from jobs.sinks import Output

_NO_SPACE = os.strerror(errno.ENOSPC)

# The job that a configuration asks for, from its sources to the outputs, ready to be executed.
Prepare = Callable[[StreamTableEnvironment, Config, Sequence[Output]], StatementSet]


def run(configuration: Config, prepare: Prepare) -> dict[str, int]:
    """Run the job on an embedded MiniCluster; returns the rows of each table of a directory.

    With ``state`` and an input without end it goes on from the last checkpoint there, if there is one.

    Raises:
        UsageError: the input holds nothing to read.
        JobError: a file can't be read, a server doesn't answer, another run uses ``state``, or the engine failed.
        EngineLost: the engine ended, or its worker, after it had taken the job.
    """
    target = configuration.directory
    if target:
        target.mkdir(parents=True, exist_ok=True)
    with state.folder(configuration.state, target) as scratch:
        changes = scratch / "changes"
        outputs = _reached(configuration, changes)
        rest_port = free_port()
        failure = JobError
        try:
            jars = connectors.jars() if _needs_connectors(configuration) else []
            engine = configuration.engine | state.settings(configuration, scratch)
            t_env = start_engine(engine, scratch, rest_port, jars)
            here = replace(_with_extents(configuration, scratch), scratch=scratch)
            running = prepare(t_env, here, outputs).execute()
            if configuration.state or not configuration.bounded:
                # Without an end, what a job fails of is tried again within the engine: what comes out is the
                # engine's end. With one, another engine starts over.
                failure = EngineLost
            progress.wait(running, rest_port, scratch, target or scratch, engine_account)
            rows = {name: tables.fold(changes, name, target) for name in tables.SCHEMAS} if target else {}
        except (Py4JError, JavaException, OSError) as error:
            if _NO_SPACE in str(error):
                # Neither Java, nor Arrow, nor a write that Python made says where.
                raise JobError(_full(target or scratch, folders.without_blanks())) from None
            if isinstance(error, OSError):
                raise
            log = (target or configuration.state or scratch.parent) / "anomaly_cost.log"
            log.write_text(f"{error}\n{engine_account()}", encoding="utf-8")
            is_told = isinstance(error, (Py4JJavaError, JavaException))
            why = progress.reason(str(error)) if is_told else "the engine's process ended"
            if told := progress.unreadable_state(why):
                raise JobError(f"--state {configuration.state}: {told} (the engine's account: {log})") from None
            raise failure(f"{why} (the engine's account: {log})") from None
        state.forget_extents(scratch)
        return rows


def submit(configuration: Config, prepare: Prepare) -> None:
    """Hand the job to the cluster whose client called this (``flink run -py``).

    Raises:
        UsageError: it asks for what a cluster can't do.
        JobError: a server doesn't answer, or the cluster didn't take the job.
    """
    if configuration.directory or isinstance(configuration.input, Path):
        raise UsageError("on a cluster, --input is kafka:// and each --output postgresql:// or kafka://")
    if configuration.state:
        raise UsageError("--state: on a cluster checkpoints are its own (execution.checkpointing.dir)")
    # The client runs a file of this folder, so that jobs/kafka.py would be taken for the package of that name.
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    outputs = _reached(configuration, Path())
    try:
        t_env = cluster_engine(configuration.engine | state.checkpointing(configuration))
        inserts = prepare(t_env, _with_extents(configuration), outputs)
        t_env.get_config().set("pipeline.name", "anomaly_cost")
        inserts.execute()
    except (Py4JError, JavaException) as error:
        raise JobError(f"{progress.reason(str(error))} (the client's log has the engine's account)") from None


def _reached(configuration: Config, changes: Path) -> list[Output]:
    """The outputs of a run; a server that is not there is told before the engine starts.

    Raises:
        UsageError: an output's URL can't be used.
        JobError: a database or a broker doesn't answer.
    """
    source = configuration.input
    try:
        outputs = [sinks.open_output(url, changes, configuration.kafka_properties) for url in configuration.outputs]
    except UsageError as error:
        raise UsageError(f"{configuration.output_told}: {error}") from None
    if isinstance(source, KafkaInput):
        reach(lambda: kafka.check(source))
    for output in outputs:
        reach(output.reach)
    return outputs


def _with_extents(configuration: Config, scratch: Path | None = None) -> Config:
    """With the offsets that a bounded run on Kafka reads to; those that ``scratch`` keeps, if any."""
    source = configuration.input
    if not isinstance(source, KafkaInput) or not source.bounded:
        return configuration
    extents = state.extents(source, scratch) if scratch else source.ask_extents()
    return replace(configuration, input=replace(source, extents=extents))


def _full(*places: Path) -> str:
    """Which of the places that a run writes to has the least left."""
    place = min(places, key=lambda place: shutil.disk_usage(place).free)
    return f"{place}: the disk is full"


def _needs_connectors(configuration: Config) -> bool:
    """Whether an input or an output is more than files."""
    return not isinstance(configuration.input, Path) or any(isinstance(o, str) for o in configuration.outputs)
