"""A bill as a cloud delivers it, in the running job by python -m jobs.bill and in a bounded one: the same tables."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from jobs import bill
from tests.bills import Export, correction, recency
from tests.services import Broker, Database, kafka_broker
from tests.simulated import simulate
from tests.streamed import (
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


@pytest.fixture
def broker() -> Iterator[Broker]:
    """One that holds nothing yet."""
    with kafka_broker() as running:
        create_topics(running)
        yield running


def test_the_tables_are_those_of_a_bounded_run_at_each_delivery(
    job, broker: Broker, database: Database, tmp_path: Path
) -> None:
    world = simulate(tmp_path / "world", 24, "metered")
    rows = [
        row | {"Tags": '{"CostCenter": "infra"}'} if number % 2 else row for number, row in enumerate(charges(world))
    ]
    (tmp_path / "budgets.toml").write_text('[cost_centers]\n4711 = ["*a*"]\n')
    centers = f"cost_centers={tmp_path / 'budgets.toml'}"
    for path in (world / "billing").glob("*"):
        path.unlink()

    def write(path: str, content: bytes, at: datetime) -> None:
        target = world / "billing" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    dearer = [row | {"EffectiveCost": str(Decimal(row["EffectiveCost"]) * 3)} for row in rows[::5]]
    deliveries = (
        [row for row in rows if row["ChargePeriodStart"] < "2025-03-03T03:00:00Z"],
        [*dearer, *(row for number, row in enumerate(rows) if number % 5)],
        # It shrinks: a third of it is gone, and what was dear is not. And it is corrected.
        [*(row for number, row in enumerate(rows) if number % 3), correction(rows[1], "-0.01")],
    )
    export = Export("azure", write, list(rows[0]))
    day = datetime(2025, 3, 3, tzinfo=UTC)
    empty(database)
    to = Producer(broker)
    send_telemetry(to, world)
    to.close()
    command = ["--from", str(world / "billing"), "--to", broker.url, "--state", str(tmp_path / "sent"), "--once"]
    process = start("--input", broker.url, "--output", database.url, "--set", "idle.after=15 s", "--set", centers)
    try:
        for delivery, hour in zip(deliveries, (2, 3, 23), strict=True):
            export.deliver(delivery)
            export.say("recency/recency-1", recency(day.replace(hour=hour), day))
            assert bill.main(command) == 0
            tables = job(world, centers)
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
