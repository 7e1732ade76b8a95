"""The job on a session cluster, from Kafka to PostgreSQL: what is killed, stopped and rescaled ends up with the
tables of a directory read once; and what it counts, as Prometheus reads it."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from jobs.tables import SCHEMAS
from tests.cluster import Cluster
from tests.e2e.conftest import BoundedRun
from tests.services import Broker, Database
from tests.streamed import PATIENCE_S, ROOT, UNHURRIED, UNUSABLE, Tables, differing, empty, stored, wait_for
from tests.unit.test_docker import JOB_METRICS

pytestmark = pytest.mark.services


@pytest.fixture
def arguments(broker: Broker, database: Database, bounded: BoundedRun) -> tuple[str, ...]:
    """Of the job; its tables are there, and empty."""
    empty(database)
    return (
        "--input", broker.url, "--output", database.url,
        "--set", "idle.after=15 s", "--set", "checkpoint.every=2 s", *UNHURRIED,
    )  # fmt: skip


def ended(cluster: Cluster, job_id: str) -> Callable[[], str | None]:
    """What a job that ended failed of, for ``wait_for``."""

    def fails() -> str | None:
        return cluster.exceptions(job_id) if cluster.job_state(job_id) in ("FAILED", "FINISHED", "CANCELED") else None

    return fails


def wait_for_the_middle(cluster: Cluster, job_id: str, database: Database, expected: Tables) -> None:
    """Until some verdicts are there, and a checkpoint."""
    cluster.wait_for(
        "verdicts and a checkpoint",
        lambda: cluster.completed_checkpoints(job_id) and stored(database)["trace_verdicts"],
        PATIENCE_S,
    )
    assert differing(stored(database), expected), "too late: all is there"


def wait_for_checkpoint(cluster: Cluster, job_id: str) -> None:
    """Until every task runs, and one more checkpoint is complete."""
    cluster.wait_until_it_runs(job_id, PATIENCE_S)
    before = cluster.completed_checkpoints(job_id)
    cluster.wait_for("a checkpoint", lambda: cluster.completed_checkpoints(job_id) > before, PATIENCE_S)


def totals(text: str) -> dict[str, float]:
    """Metric -> sum over its series, of what Prometheus reads."""
    found: dict[str, float] = defaultdict(float)
    for name, value in re.findall(r"^(\w+)\{[^}]*\} (\S+)$", text, re.MULTILINE):
        found[name] += float(value)
    return found


def spans_of(world: Path) -> int:
    """Spans in a world's files."""
    count = 0
    for path in (world / "traces").glob("*.jsonl*"):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for line in lines:
                count += sum(
                    len(scope["spans"])
                    for resource in json.loads(line)["resourceSpans"]
                    for scope in resource["scopeSpans"]
                )
    return count


def standing(shown: str) -> set[str]:
    """The one column of what is left of a changelog that the SQL client shows."""
    rows: Counter[str] = Counter()
    for change, value in re.findall(r"^\| (\+I|-U|\+U|-D) \| +(\S+) +\|$", shown, re.MULTILINE):
        rows[value] += 1 if change[0] == "+" else -1
    return set(+rows)


def test_what_it_counts_is_what_prometheus_reads(
    cluster: Cluster,
    arguments: tuple,
    broker: Broker,
    database: Database,
    expected: Tables,
    world: Path,
) -> None:
    """... and the topics of the tables are what the SQL client reads."""
    job_id = cluster.run(*arguments, "--output", broker.url)
    try:
        # What the test of a bounded run finds none of.
        assert cluster.checkpoint_interval_ms(job_id) == 2_000
        wait_for(database, expected, ended(cluster, job_id))
        spans_in = "flink_taskmanager_job_task_operator_anomaly_cost_spans_in"
        spans = spans_of(world)
        # The reporter tells a Python function's numbers when its batch is done.
        cluster.wait_for(
            f"{spans} spans counted, not {totals(cluster.metrics())[spans_in]}",
            lambda: totals(cluster.metrics())[spans_in] == spans,
            30,
        )
        found = totals(cluster.metrics())
        print({name.rpartition("anomaly_cost_")[2]: found.get(name) for name in sorted(JOB_METRICS)})
        assert JOB_METRICS <= found.keys()
        short = {name.rpartition("anomaly_cost_")[2]: found[name] for name in JOB_METRICS}
        assert short["rejected"] == len(UNUSABLE)
        assert short["charges_in"] > 0 and short["usage_points_in"] > 0
        assert short["late_charges"] == 0
        here = f"alter table ranked_anomalies set ('properties.bootstrap.servers' = '{broker.bootstrap}');\n"
        client = ROOT / "sql" / "client" / "init.sql"
        top = "select otel_service_name from top_anomalies_of_the_day where place = 1"
        # Of the two answers in one only the ids have a slash.
        shown = standing(cluster.sql(client, f"{here}select anomaly_id from ranked_anomalies;\n{top};"))
        ids = {value for value in shown if "/" in value}
        assert ids == {row[0] for row in expected["ranked_anomalies"]}
        excess: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
        names = SCHEMAS["ranked_anomalies"].names
        for row in (dict(zip(names, row, strict=True)) for row in expected["ranked_anomalies"]):
            excess[row["otel_service_name"], row["anomaly_kind"]] += Decimal(row["excess_cost"] or 0)
        assert shown - ids == {max(excess, key=lambda key: excess[key])[0]}
    finally:
        cluster.cancel(job_id)


def test_killed_processes_and_another_parallelism_change_nothing(
    cluster: Cluster,
    arguments: tuple,
    database: Database,
    expected: Tables,
) -> None:
    """A TaskManager is killed in the middle, then the JobManager: without high availability (ZooKeeper, Kubernetes)
    nobody but the operator knows of the job, and it goes on from its newest checkpoint. Then it is stopped with a
    savepoint, and goes on from there at parallelism 2."""
    job_id = cluster.run(*arguments)
    try:
        wait_for_the_middle(cluster, job_id, database, expected)
        cluster.kill_taskmanager(job_id)
        cluster.start_taskmanager()
        wait_for_checkpoint(cluster, job_id)
        cluster.kill_jobmanager()
        cluster.start_jobmanager()
        assert cluster.job_state(job_id) == "UNKNOWN"
        job_id = cluster.run_from(cluster.newest_checkpoint(job_id), 1, *arguments)
        wait_for_checkpoint(cluster, job_id)
        savepoint = cluster.stop_with_savepoint(job_id)
        job_id = cluster.run_from(savepoint, 2, *arguments)
        wait_for(database, expected, ended(cluster, job_id))
    finally:
        cluster.cancel(job_id)


def test_a_bounded_run_makes_no_checkpoints_whatever_the_cluster_is_set_to(
    cluster: Cluster, broker: Broker, database: Database
) -> None:
    """Restored from one, it would never end (FLINK-31006)."""
    job_id = cluster.run("--input", broker.url, "--output", database.url, "--bounded")
    try:
        assert cluster.checkpoint_interval_ms(job_id) is None
    finally:
        cluster.cancel(job_id)
    assert not list((cluster.checkpoints / job_id).glob("chk-*"))
