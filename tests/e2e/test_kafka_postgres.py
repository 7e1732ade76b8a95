"""Kafka in, PostgreSQL out, killed and started again: the tables are those of a directory read once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import BoundedRun
from tests.lengths import LENGTHS
from tests.services import Broker, Database
from tests.streamed import (
    PATIENCE_S,
    UNUSABLE,
    Tables,
    differing,
    empty,
    end,
    ended,
    parquet,
    run,
    start,
    stored,
    wait,
    wait_for,
)

pytestmark = pytest.mark.services


def test_bounded_kafka_gives_the_tables_of_the_directory(bounded: BoundedRun, expected: Tables) -> None:
    """... in Parquet, in PostgreSQL and in Kafka, all in one run."""
    assert differing(bounded.tables, expected) == {}
    assert sorted(row[0] for row in bounded.tables["rejected_records"]) == sorted(UNUSABLE)
    assert differing(bounded.stored, expected) == {}
    assert bounded.ranked == {row[0] for row in expected["ranked_anomalies"]}


@pytest.mark.long
def test_whatever_ends_under_a_stream_loses_nothing(
    broker: Broker, database: Database, expected: Tables, tmp_path: Path
) -> None:
    """Without an end, with --state: the database and the broker are away; the engine's process is killed, as a crash
    would end it, and the command goes on by itself; the command is killed at random, and the same is started again."""
    empty(database)
    draw = random.Random(5)
    arguments = ("--input", broker.url, "--output", database.url, "--state", str(tmp_path / "state"),
                 "--set", "checkpoint.every=2 s", "--set", "idle.after=15 s")  # fmt: skip

    def checkpoints() -> set[Path]:
        return set((tmp_path / "state/checkpoints").glob("*/chk-*/_metadata"))

    def wait_for_checkpoint() -> None:
        before = checkpoints()
        wait("checkpoint", lambda: checkpoints() - before, ended(process))

    def kill_engine() -> None:
        engine = _java_of(process)
        os.kill(engine, signal.SIGKILL)
        wait("other engine", lambda: _java_of(process) not in (None, engine), ended(process))

    process = start(*arguments)
    try:
        wait("first row", lambda: any(stored(database).values()), ended(process))
        assert differing(stored(database), expected), "too late: all is there"
        database.stop()
        broker.stop()
        time.sleep(LENGTHS.away_s)
        broker.start()
        time.sleep(LENGTHS.away_s)
        database.start()
        for _ in range(LENGTHS.engine_kills):
            wait_for_checkpoint()
            kill_engine()
        for _ in range(LENGTHS.kills):
            wait_for_checkpoint()
            time.sleep(draw.uniform(0, 12))
            assert process.poll() is None, process.stderr.read()[-2000:]
            end(process, signal.SIGKILL)
            process = start(*arguments)
        wait_for(database, expected, ended(process), PATIENCE_S + 2 * LENGTHS.away_s)
    finally:
        end(process)


def _java_of(process: subprocess.Popen) -> int | None:
    """The engine's process, if there is one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    with suppress(FileNotFoundError):
        return next(
            (int(pid) for pid in children if "java" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")), None
        )
    return None


def test_a_broker_that_asks_who_is_there_is_read_and_written(
    broker: Broker, bounded: BoundedRun, tmp_path: Path
) -> None:
    """TLS and SASL by settings, the secrets by the environment; a wrong one is told in one line."""
    secrets = {"KAFKA_USERNAME": Broker.USER, "KAFKA_SSL_TRUSTSTORE_PASSWORD": Broker.PASSWORD}
    command = ("--input", broker.secured_url, "--bounded", "--output", broker.secured_url, "--output", str(tmp_path),
               "--set", f"kafka.ssl.truststore.location={broker.truststore}",
               "--set", "kafka.ssl.truststore.type=PKCS12")  # fmt: skip
    done = run(*command, environment=secrets | {"KAFKA_PASSWORD": Broker.PASSWORD})
    assert done.returncode == 0, done.stderr[-2000:]
    assert differing(parquet(tmp_path), bounded.tables) == {}
    wrong = run(*command, environment=secrets | {"KAFKA_PASSWORD": "wrong-one"})
    assert wrong.returncode == 1
    assert "SaslAuthenticationException" in wrong.stderr.splitlines()[-1]
    for text in (done.stderr, wrong.stderr, (tmp_path / "anomaly_cost.log").read_text(encoding="utf-8")):
        assert not any(secret in text for secret in (Broker.PASSWORD, "wrong-one"))


def test_what_is_not_there_is_told_in_one_line(broker: Broker, tmp_path: Path) -> None:
    for arguments, word in (
        (("--input", "kafka://127.0.0.1:9", "--bounded", "--output", str(tmp_path)), "no broker answers"),
        (("--input", broker.url, "--output", "postgresql://app@127.0.0.1:9/app"), "127.0.0.1"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1 and word in done.stderr, done.stderr
