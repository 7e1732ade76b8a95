"""The savepoint of a release is restored by this version, as the newest checkpoint of ``--state``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.migrate import migrate
from tests.literal import write_bill, write_lines
from tests.savepoint import AFTER, BEFORE, SAVEPOINTS, SETTINGS, Records, load, records, send, unpack
from tests.services import Broker, Database, kafka_broker
from tests.streamed import Tables, comparable, create_topics, empty, end, ended, run, start, stored, wait_for

pytestmark = pytest.mark.services


def _write(target: Path, delivery: str, of: Records) -> None:
    """As files that were delivered one after the other."""
    for folder, topic in (("traces", "otlp_spans"), ("metrics", "otlp_metrics")):
        write_lines(target / folder / f"{delivery}.jsonl", of[topic][0])
    write_bill(target / "billing" / f"{delivery}.csv", [json.loads(line) for line in of["focus_charges"][0]])


@pytest.fixture(scope="module")
def undisturbed(job, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Of a run that reads it all at once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    _write(folder, "2025-03-03", records(BEFORE))
    _write(folder, "2025-03-04", records(AFTER))
    return comparable(job(folder, "detector=usual"))


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """What the savepoint has not read yet; what it has read is no more what it was, so that reading it again shows."""
    with kafka_broker() as running:
        create_topics(running)
        send(running, {
            topic: {partition: [b"read before"] * len(lines) for partition, lines in of.items()}
            for topic, of in records(BEFORE).items()
        })  # fmt: skip
        send(running, records(AFTER))
        yield running


@pytest.mark.parametrize("savepoint", sorted(SAVEPOINTS.glob("*.tar.gz")), ids=lambda path: path.name)
def test_the_savepoint_of_a_release_is_restored_and_nothing_is_lost(
    savepoint: Path, broker: Broker, database: Database, undisturbed: Tables, tmp_path: Path
) -> None:
    written = unpack(savepoint, tmp_path / "state")
    migrate(database.url)
    empty(database)
    load(database, written)
    before = stored(database)
    assert all(before[name] for name in ("trace_verdicts", "cost_allocations", "rejected_records"))
    assert len(before["trace_verdicts"]) < len(undisturbed["trace_verdicts"])
    process = start("--input", broker.url, "--output", database.url, *SETTINGS, "--set", "idle.after=5 s",
                    "--state", str(tmp_path / "state"))  # fmt: skip
    try:
        wait_for(database, undisturbed, ended(process))
    finally:
        end(process)


def test_a_savepoint_of_other_stages_is_refused_in_one_line_that_says_what_to_do(
    broker: Broker, tmp_path: Path
) -> None:
    """Another output has other stages, as another release may have."""
    unpack(max(SAVEPOINTS.glob("*.tar.gz")), tmp_path / "state")
    done = run("--input", broker.url, "--output", broker.url, *SETTINGS, "--state", str(tmp_path / "state"))
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if " s  " not in line)
    assert f"--state {tmp_path}/state: the checkpoint there is of a release with other stages" in line
    assert "give another folder" in line
