"""A bill as a cloud delivers it to a bucket, in the running job by python -m jobs.bill and in a bounded one: the same
tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

from jobs import bill
from tests.bills import Export, Write, correction, recency
from tests.services import Broker, Database, kafka_broker
from tests.simulated import simulate
from tests.streamed import (
    UNHURRIED,
    Producer,
    charges,
    comparable,
    create_topics,
    empty,
    end,
    ended,
    send_telemetry,
    start,
    wait_for,
)

pytestmark = pytest.mark.services

# Layouts that take a turn in the long tests alone.
LONG = ("aws_overwrite", "azure", "google")


@pytest.fixture
def broker() -> Iterator[Broker]:
    """One that holds nothing yet."""
    with kafka_broker() as running:
        create_topics(running)
        yield running


@pytest.fixture
def bucket() -> Iterator[tuple[str, Write]]:
    """URL of a prefix of a bucket of S3's, and what writes below it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "{}:{}".format(*server.get_host_and_port())
        # Its buckets are the process's, and a test before may have left some.
        urlopen(Request(f"http://{endpoint}/moto-api/reset", method="POST")).close()
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1")
        client.create_bucket(Bucket="bills")

        def write(path: str, content: bytes, at: datetime) -> None:
            client.put_object(Bucket="bills", Key=f"cost/{path}", Body=content)

        yield f"s3://bills/cost?endpoint_override={endpoint}&scheme=http&region=us-east-1", write
    finally:
        server.stop()


@pytest.mark.parametrize("layout", ["aws_create_new", *(pytest.param(of, marks=pytest.mark.long_only) for of in LONG)])
def test_the_tables_are_those_of_a_bounded_run_at_each_delivery(
    job, layout: str, bucket: tuple[str, Write], broker: Broker, database: Database, tmp_path: Path
) -> None:
    url, write = bucket
    world = simulate(tmp_path / "world", 24, "metered")
    rows = [
        row | {"Tags": '{"CostCenter": "infra"}'} if number % 2 else row for number, row in enumerate(charges(world))
    ]
    (tmp_path / "budgets.toml").write_text('[cost_centers]\n4711 = ["*a*"]\n')
    centers = f"cost_centers={tmp_path / 'budgets.toml'}"
    for path in (world / "billing").glob("*"):
        path.unlink()

    dearer = [row | {"EffectiveCost": str(Decimal(row["EffectiveCost"]) * 3)} for row in rows[::5]]
    deliveries = (
        [row for row in rows if row["ChargePeriodStart"] < "2025-03-03T03:00:00Z"],
        [*dearer, *(row for number, row in enumerate(rows) if number % 5)],
        # It shrinks: a third of it is gone, and what was dear is not. And it is corrected.
        [*(row for number, row in enumerate(rows) if number % 3), correction(rows[1], "-0.01")],
    )
    export = Export(layout, write, list(rows[0]))
    day = datetime(2025, 3, 3, tzinfo=UTC)
    empty(database)
    to = Producer(broker)
    send_telemetry(to, world)
    to.close()
    command = ["--from", url, "--to", broker.url, "--state", str(tmp_path / "sent"), "--once"]
    process = start("--input", broker.url, "--output", database.url, "--set", "idle.after=15 s", "--set", centers,
                    *UNHURRIED)  # fmt: skip
    try:
        for delivery, hour in zip(deliveries, (2, 3, 23), strict=True):
            export.deliver(delivery)
            export.say("recency/recency-1", recency(day.replace(hour=hour), day))
            assert bill.main(command) == 0
            tables = job(world, centers, f"billing.from={url}")
            billed = {
                row["window_start"] < day.replace(hour=hour)
                for row in tables["cost_allocations"].to_pylist()
                if row["cost_status"] == "billed"
            }
            assert {row["cost_center"] for row in tables["cost_allocations"].to_pylist()} >= {"4711", "infra"}
            assert billed == {True}  # what isn't complete is provisional
            wait_for(database, comparable(tables), ended(process))
    finally:
        end(process)
