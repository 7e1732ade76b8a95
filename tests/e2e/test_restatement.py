"""A bill that lands hours late, on a running stream: a price at once, restated under the same keys, ranks and all."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from tests.services import Broker, Database, kafka_broker
from tests.simulated import simulate
from tests.streamed import (
    ROOT,
    UNHURRIED,
    Producer,
    charges,
    comparable,
    create_topics,
    empty,
    end,
    ended,
    send_charges,
    send_telemetry,
    start,
    wait_for,
)

pytestmark = pytest.mark.services

# What of the bill is there when the telemetry comes: the first two of six hours.
KNOWN_BEFORE = "2025-03-03T02:00:00Z"


@pytest.fixture
def broker() -> Iterator[Broker]:
    """One that holds nothing yet."""
    with kafka_broker() as running:
        create_topics(running)
        yield running


def _deliver(world: Path, bill: list[dict[str, str]], later: list[dict[str, str]]) -> Path:
    """The world with these rows as its bill; later ones in a later file."""
    for path in (world / "billing").glob("*.csv"):
        path.unlink()
    for name, rows in (("1-bill.csv", bill), ("2-later.csv", later)):
        with (world / "billing" / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(bill[0]))
            writer.writeheader()
            writer.writerows(rows)
    return world


def _costlier(row: dict[str, str], factor: int) -> dict[str, str]:
    """The same charge at ``factor`` times its cost, as a later snapshot of the open month has it."""
    costs = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")
    return row | {name: str(Decimal(row[name]) * factor) for name in costs if row[name]}


def _status(database: Database, table: str) -> Counter[str]:
    with psycopg.connect(database.dsn) as connection:
        return Counter(status for (status,) in connection.execute(f"select cost_status from {table}"))


def _ranks(database: Database) -> dict[str, int]:
    with psycopg.connect(database.dsn) as connection:
        return dict(connection.execute("select anomaly_id, rank from ranked_anomalies").fetchall())


def _recomputed(database: Database) -> int:
    """Asks as docs/how.md does; returns the rows, which all have to follow from their explanations."""
    (query,) = re.findall(r"```sql\n(.+?)```", (ROOT / "docs" / "how.md").read_text("utf-8"), re.DOTALL)
    assert len(query.splitlines()) <= 10
    with psycopg.connect(database.dsn, row_factory=psycopg.rows.dict_row) as connection:
        rows = connection.execute(query).fetchall()
    for row in rows:
        assert (row["c_s"] or 0) == row["attributed_cost"], row
        assert float(row["by_share"] or 0) == pytest.approx(float(row["attributed_cost"]), rel=1e-9, abs=1e-9), row
        assert (row["excess"] or 0) == row["excess_cost"], row
        assert row["alpha"] == pytest.approx(row["anomaly_score"], rel=1e-9), row
        assert (row["s"] or 0) == pytest.approx(row["cost_weighted_score"], rel=1e-9, abs=1e-12), row
    return len(rows)


def test_a_price_at_once_then_the_bills_then_the_corrections(
    job, broker: Broker, database: Database, tmp_path: Path
) -> None:
    world = simulate(tmp_path / "world", 24, "metered")
    bill = charges(world)
    early = [row for row in bill if row["ChargePeriodStart"] < KNOWN_BEFORE]
    late = [row for row in bill if row not in early]
    at_three = [row for row in bill if row["ChargePeriodStart"] == "2025-03-03T03:00:00Z" and row["ResourceId"]]
    # One machine turns out dear: who runs on it costs more than who doesn't.
    machine = max(row["ResourceId"] for row in at_three)
    snapshot = [_costlier(row, 20) for row in at_three if row["ResourceId"] == machine]
    correction = _costlier(late[-1], -1) | {"ChargeClass": "Correction"}
    # What the job makes of it once and for all.
    before, billed, corrected = (
        comparable(job(_deliver(world, *rows))) for rows in ((early, []), (bill, []), (bill, [*snapshot, correction]))
    )

    empty(database)
    to = Producer(broker)
    send_charges(to, early)
    send_telemetry(to, world)
    process = start("--input", broker.url, "--output", database.url, "--set", "idle.after=15 s", *UNHURRIED)
    try:
        wait_for(database, before, ended(process))
        statuses, first = _status(database, "ranked_anomalies"), _ranks(database)
        assert statuses["provisional"] > 5 and statuses["billed"] > 0

        send_charges(to, late)
        wait_for(database, billed, ended(process))
        assert set(_status(database, "ranked_anomalies")) == {"billed"}
        assert set(_status(database, "cost_allocations")) == {"billed"}
        second = _ranks(database)
        assert second.keys() == first.keys()

        send_charges(to, [*snapshot, correction])
        wait_for(database, corrected, ended(process))
        assert _status(database, "ranked_anomalies")["corrected"] > 0
        third = _ranks(database)
        assert third.keys() == first.keys()
        assert third != second, "no rank changed"
        assert _recomputed(database) == len(third)
    finally:
        to.close()
        end(process)
