"""What the pages tell one to type, typed as it stands there: from nothing to a report, and from a broker and a bucket
to a database and what reads it. ``tests/unit/test_docs.py`` sees to it that no command of a page is left out."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import boto3
import psycopg
import pyarrow.parquet as pq
import pytest
from kafka import KafkaConsumer
from moto.server import ThreadedMotoServer

from tests.pages import ROOT, commands, shell
from tests.receiver import Receiver
from tests.services import Broker, Database, free_port, kafka_broker
from tests.streamed import PATIENCE_S, UNHURRIED, Producer, end, ended, wait

pytestmark = pytest.mark.services

TOLD = {told.line for told in commands()}


class Shell:
    """Types commands of the pages, in the checkout.

    Attributes:
        folder: for what they write.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        programs = folder / "programs"
        programs.mkdir()
        self._path, self.variables = programs, variables
        self.install("anomaly-cost", sys.executable, "-m", "jobs")
        self.install("python", sys.executable)

    def install(self, name: str, *command: str) -> None:
        """A program of that name."""
        program = self._path / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        program.chmod(0o755)

    def _start(self, line: str, words: Mapping[str, str]) -> subprocess.Popen:
        assert line in TOLD, f"no page tells: {line}"
        typed = shell(line, {word: str(text) for word, text in words.items()})
        typed = typed.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
        environment = os.environ | {"PATH": f"{self._path}:{os.environ['PATH']}"} | self.variables
        return subprocess.Popen(
            ["bash", "-euc", f"exec {typed}" if not typed.startswith("for ") else typed],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def types(self, line: str, words: Mapping[str, object]) -> str:
        """A command to its end; what it prints. words: what stands for what the page leaves open."""
        process = self._start(line, words)
        told, wrong = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, f"{line}: {process.returncode}\n{told[-2000:]}{wrong[-2000:]}"
        return told

    @contextmanager
    def keeps(
        self, line: str, words: Mapping[str, object], stop: signal.Signals = signal.SIGINT
    ) -> Iterator[Callable[[str, Callable[[], object]], None]]:
        """A command that goes on until it is stopped; gives what waits until something is so."""
        process = self._start(line, words)
        # Nobody reads what it prints before it ends.
        process.stdout.close()
        try:
            yield lambda what, condition: wait(f"{what} of {line}", condition, ended(process))
            assert process.poll() is None, process.stderr.read()
            end(process, stop)
            assert process.returncode == 130, f"{line}: {process.returncode}"
        finally:
            if process.poll() is None:
                end(process)


def test_from_nothing_to_a_report(tmp_path: Path) -> None:
    at = Shell(tmp_path)
    demo = tmp_path / "demo"
    world, tables = demo / "world", demo / "tables"
    shown = at.types("make demo", {"demo": f"demo DEMO={demo}"})
    assert "Anomalies by excess cost" in shown
    culprit = pq.read_table(tables / "ranked_anomalies.parquet").to_pylist()[0]["otel_service_name"]
    assert culprit in (demo / "report.html").read_text(encoding="utf-8")

    again = {"TABLES|postgresql://…": tables, "DIR": world, "report.html": tmp_path / "again.html"}
    at.types(".venv/bin/python -m jobs.report --tables TABLES|postgresql://… --input DIR --html report.html", again)
    assert (tmp_path / "again.html").read_bytes() == (demo / "report.html").read_bytes()
    line = (
        "anomaly-cost export --tables DIR|postgresql://USER@HOST/DATABASE --output FILE.csv|FILE.parquet [--input DIR]"
    )
    for name in ("focus.csv", "focus.parquet"):
        words = {"DIR|postgresql://USER@HOST/DATABASE": tables, "FILE.csv|FILE.parquet": tmp_path / name}
        at.types(line, words)
        assert (tmp_path / name).stat().st_size > 1_000
    line = ".venv/bin/python -m jobs.doctor --input DIR [--bill URL] [--aliases FILE] [--trust ORDER]"
    assert "met" in at.types(line, {"DIR": world})
    assert '"f1"' in _written(at, tables, world).lower()


def _written(at: Shell, tables: Path, world: Path) -> str:
    """What the evaluation says of one run."""
    file = at.folder / "evaluation.json"
    of = f"--tables {tables} --truth {world / 'truth'} --json {file}"
    at.types("python -m simulator.evaluation.job", {"simulator.evaluation.job": f"simulator.evaluation.job {of}"})
    return file.read_text(encoding="utf-8")


@pytest.fixture
def broker() -> Iterator[Broker]:
    """One without topics."""
    with kafka_broker() as running:
        yield running


@pytest.fixture
def bucket() -> Iterator[tuple[object, str]]:
    """A client of S3's with a bucket, and where it is asked."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "{}:{}".format(*server.get_host_and_port())
        client = boto3.client(
            "s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1", aws_access_key_id="key",
            aws_secret_access_key="hush",
        )  # fmt: skip
        client.create_bucket(Bucket="pages")
        yield client, endpoint
    finally:
        server.stop()


def test_from_a_broker_and_a_bucket_to_what_reads_the_database(
    broker: Broker, database: Database, bucket: tuple[object, str], tmp_path: Path
) -> None:
    client, endpoint = bucket
    chat = Receiver()
    with database.another("pages") as url:
        at = Shell(
            tmp_path, AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="hush", PGPASSWORD="none",
            SLACK_WEBHOOK_URL=f"{chat.url}/chat",
        )  # fmt: skip
        at.install("psql", str(database.programs / "psql"))
        try:
            _go(at, broker, url, client, endpoint, chat)
        finally:
            chat.stop()


def _go(at: Shell, broker: Broker, url: str, client: object, endpoint: str, chat: Receiver) -> None:
    folder, tables = at.folder, {"postgresql://USER@HOST/DATABASE": url}
    at.install("kafka-topics.sh", *broker.tool("org.apache.kafka.tools.TopicCommand"))
    at.types(
        "for name in otlp_spans otlp_metrics otlp_logs focus_charges incident_feedback; do kafka-topics.sh"
        " --bootstrap-server HOST:9092 --create --if-not-exists --partitions 4 --topic $name"
        " --config retention.ms=604800000 --config max.message.bytes=4194304; done",
        # The past of the world below.
        {"HOST:9092": broker.bootstrap, "604800000": "-1"},
    )
    world = folder / "world"
    at.types(
        ".venv/bin/python -m simulator --output DIR --seed N [--services 20 --days 7 --requests-per-day 50000"
        " --anomaly-rate 0.12 --billing metered|machine|mixed --mix source|faint|novel --noise plain|wide ...]",
        {"DIR": world, "N": "24 --services 8 --days .25 --requests-per-day 8000 --billing mixed"},
    )
    assert "excess" in at.types("python -m tests.benchmarks.thinned DIR", {"DIR": f"{world} --chances .5"})
    for file in (world / "billing").iterdir():
        client.upload_file(str(file), "pages", f"bill/{file.name}")
        file.unlink()

    def rows(query: str) -> list[tuple]:
        with psycopg.connect(url) as connection:
            is_there = connection.execute("select to_regclass('public.incidents')").fetchone()[0]
            return connection.execute(query).fetchall() if is_there else []

    job = "anomaly-cost run --input kafka://HOST:9092 --output postgresql://USER@HOST/DATABASE --state DIR"
    settings = shlex.join(["--set", "idle.after=15 s", *UNHURRIED])
    places = {"kafka://HOST:9092": broker.url, **tables, "DIR": f"{folder / 'state'} {settings}"}
    with at.keeps(job, places, signal.SIGTERM) as job_until:
        load = ".venv/bin/locust -f simulator/locustfile.py --headless -u 4 -r 4 -t 60s --input DIR --speed 60"
        at.types(
            load,
            {"DIR": f"{world} --brokers {broker.bootstrap} --no-shift", "60s": "20s", "--speed 60": "--speed 3600"},
        )
        broken = Producer(broker)
        broken.send("otlp_spans", b"{ not json")
        broken.flush()
        broken.close()
        bill = "anomaly-cost bill --from s3://BUCKET/PREFIX --to kafka://HOST:9092 --state bill.sqlite --every 5m"
        prefix = f"'s3://pages/bill?endpoint_override={endpoint}&scheme=http&region=us-east-1'"
        to = {"kafka://HOST:9092": broker.url, "s3://BUCKET/PREFIX": prefix, "bill.sqlite": folder / "bill.sqlite"}
        with at.keeps(bill, to):
            job_until("billed row", lambda: rows("select 1 from cost_allocations where cost_status = 'billed' limit 1"))
        job_until("incident", lambda: rows("select 1 from incidents where excess_cost > 0 limit 1"))
        job_until("reject", lambda: rows("select 1 from rejected_records limit 1"))

    met = at.types(
        "anomaly-cost doctor --input DIR --bill s3://BUCKET/PREFIX",
        {"DIR": world, "s3://BUCKET/PREFIX": prefix},
    )
    assert "in use, of which 0 met no charge" in met
    where = (
        'psql postgresql://USER@HOST/DATABASE -c "select resource_id, billing_currency, sum(allocated_cost) from'
        " cost_allocations where otel_service_name = '__unallocated__' group by 1, 2 order by 3 desc limit 20\""
    )
    assert "resource_id" in at.types(where, tables)
    report = folder / "report.html"
    at.types(
        "anomaly-cost report --tables postgresql://USER@HOST/DATABASE --html report.html",
        tables | {"report.html": report},
    )
    ((culprit,),) = rows("select otel_service_name from incidents order by excess_cost desc limit 1")
    assert culprit in report.read_text(encoding="utf-8")
    export = (
        "anomaly-cost export --tables DIR|postgresql://USER@HOST/DATABASE --output FILE.csv|FILE.parquet [--input DIR]"
    )
    words = {"DIR|postgresql://USER@HOST/DATABASE": url, "FILE.csv|FILE.parquet": folder / "focus.csv"}
    at.types(export, words)
    assert (folder / "focus.csv").stat().st_size > 1_000
    at.types(
        "anomaly-cost superset --tables postgresql://anomaly_cost@HOST/DATABASE --connect postgresql://bi@HOST/DATABASE"
        " --output anomaly_cost.zip",
        {
            "postgresql://anomaly_cost@HOST/DATABASE": url,
            "postgresql://bi@HOST/DATABASE": url,
            "anomaly_cost.zip": folder / "dashboard.zip",
        },
    )
    _tell(at, broker, url, chat)
    _watch(at, url, rows)
    again = (
        ".venv/bin/python -m jobs.replay_rejects --tables postgresql://… --to kafka://HOST:9092 [--reason-code late]"
        " [--since TIME]"
    )
    at.types(again, {"postgresql://…": url, "kafka://HOST:9092": broker.url})
    consumer = KafkaConsumer("otlp_spans", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest",
                             consumer_timeout_ms=5_000)  # fmt: skip
    assert [record.value for record in consumer].count(b"{ not json") == 2
    consumer.close()
    at.types('python -m jobs.migrate URL [--keep "13 months"]', {"URL": url})


def _tell(at: Shell, broker: Broker, url: str, chat: Receiver) -> None:
    """The first policy of the page: what opened before it came is told to nobody, what is new is."""
    page = (ROOT / "docs" / "respond.md").read_text("utf-8")
    policy = at.folder / "policy.toml"
    policy.write_text(re.search(r"```toml\n(.*?)```", page, re.S)[1].replace('"5"', '"0"'), encoding="utf-8")
    assert tomllib.loads(policy.read_text("utf-8"))["receivers"]["chat"]["kind"] == "slack"
    words = {"postgresql://USER@HOST/DATABASE": url, "policy.toml": policy}
    line = ".venv/bin/python -m jobs.respond --tables postgresql://USER@HOST/DATABASE --policy policy.toml"
    with at.keeps(line, words) as until, psycopg.connect(url, autocommit=True) as connection:
        until("first look", lambda: connection.execute("select 1 from anomaly_cost.respond").fetchone())
        connection.execute(
            "insert into incidents select (jsonb_populate_record(i, jsonb_build_object('incident_id', 'new',"
            " 'incident_state', 'open', 'closed_at', null))).* from incidents i order by excess_cost desc limit 1"
        )
        until("message", lambda: chat.bodies)
    line = ".venv/bin/python -m jobs.respond --tables postgresql://… --policy FILE [--feedback-to kafka://HOST:9092]"
    words = {"postgresql://…": url, "FILE": f"{policy} --once --feedback-to {broker.url}"}
    at.types(line, words)


def _watch(at: Shell, url: str, rows: Callable[[str], list[tuple]]) -> None:
    """Budgets, Prometheus and an assistant."""
    budgets = at.folder / "budgets.toml"
    budgets.write_text(
        '[[budgets]]\nname = "shop"\nservices = ["*"]\nmonth = "2025-03"\namount = "10"\ncurrency = "USD"\n',
        encoding="utf-8",
    )
    line = ".venv/bin/python -m jobs.budgets --tables postgresql://… [--file budgets.toml] [--every 1h]"
    at.types(line, {"postgresql://…": f"{url} --file {budgets}"})
    assert rows("select 1 from budget_status where budget = 'shop'")
    port = free_port()
    line = ".venv/bin/python -m jobs.exporter --tables postgresql://… [--port 9108]"
    with at.keeps(line, {"postgresql://…": f"{url} --port {port}"}) as until:
        until("figure of cost", lambda: "anomaly_cost_" in _get(f"http://127.0.0.1:{port}/metrics"))
    # It ends where the assistant, its standard input, does.
    at.types(".venv/bin/python -m jobs.ask --tables postgresql://…", {"postgresql://…": url})


def _get(url: str) -> str:
    try:
        with urlopen(url) as answer:
            return answer.read().decode()
    except OSError:
        return ""
