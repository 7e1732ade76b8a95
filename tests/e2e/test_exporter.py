"""The exporter on a real database, scraped by a real Prometheus that evaluates the rules; and the rules' own tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import psycopg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from jobs.budgets import Budget, compute
from jobs.exporter import OTHER, bounded, serve
from jobs.migrate import migrate
from jobs.postgres import connection
from tests.e2e.test_respond import put, row
from tests.services import ROOT, Database, debian_binary, prometheus
from tests.streamed import wait

pytestmark = pytest.mark.services

RULES = ROOT / "docker" / "prometheus" / "rules" / "money.yml"


@pytest.fixture
def tables(database: Database) -> Database:
    """A day of two services in two currencies, two open incidents, and a budget."""
    migrate(database.url)
    with psycopg.connect(database.dsn) as connection:
        connection.execute(
            "truncate public.cost_allocations, public.incidents, public.budgets, public.budget_status,"
            " anomaly_cost.notifications"
        )
        connection.execute(
            """
            insert into public.cost_allocations (window_start, resource_id, dimension, otel_service_name,
                resource_cost, allocated_cost, billing_currency, cost_center, cost_status)
            select at, 'r', 'cpu', service, 2, case service when '__unallocated__' then 0.5 else 1.25 end, currency,
                case service when 'web' then '4711' end,
                case when at < '2026-01-15T20:00Z' then 'billed' else 'provisional' end
            from generate_series('2026-01-10T00:00Z'::timestamptz, '2026-01-15T23:30Z', '30 min') as at,
                unnest(array['web', 'cart', '__unallocated__']) as service, unnest(array['USD', 'EUR']) as currency
            """
        )
        connection.execute("insert into public.budgets values ('web', '2026-01-01', 100, 'USD')")
    put(
        database,
        row(),
        row(incident_id="2026-01-01T10:30:00Z/web/USD", otel_service_name="web", excess_cost="1.1"),
        row(incident_id="2026-01-01T10:30:00Z/cart/USD", otel_service_name="cart", is_silenced=True),
    )
    return database


@pytest.fixture
def port(tables: Database) -> Iterator[int]:
    server, thread = serve(tables.url, 0, 2, "127.0.0.1")
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def samples(port: int) -> dict[tuple[str, tuple], float]:
    """As OpenMetrics, read by the client library's own parser."""
    request = Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text"})
    with urlopen(request, timeout=30) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        text = response.read().decode()
    return {
        (sample.name.removeprefix("anomaly_cost_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**values: str) -> tuple:
    return tuple(sorted(values.items()))


def test_figures_are_those_of_the_tables(tables: Database, port: int) -> None:
    with connection(tables.url, "test") as open_connection:
        [status, all_] = compute(open_connection, [Budget("all", ("*",), None, Decimal(10_000), "USD")])[::-1]
    assert (status.budget, all_.budget) == ("web", "all")
    found = samples(port)
    assert found["up", ()] == 1
    assert found["service_cost_last_day", labels(service="web", currency="USD")] == 60.0
    assert found["service_cost_last_day", labels(service=OTHER, currency="EUR")] == 24.0
    assert found["cost_center_cost_last_day", labels(cost_center="4711", currency="USD")] == 60.0
    assert found["cost_center_cost_last_day", labels(cost_center="", currency="EUR")] == 84.0
    assert found["unallocated_share_last_day", labels(currency="USD")] == pytest.approx(0.5 / 3)
    assert found["windows_last_week", labels(cost_status="provisional")] == 8
    assert found["open_incidents", labels(service="payment", kind="latency_spike", currency="USD")] == 1
    assert ("open_incidents", labels(service="cart", kind="latency_spike", currency="USD")) not in found
    assert found["budget_spent", labels(budget="web", currency="USD")] == 6 * 48 * 1.25
    assert found["budget_forecast", labels(budget="web", currency="USD")] == pytest.approx(22 * 60)
    assert found["newest_window_timestamp_seconds", ()] == datetime(2026, 1, 16, tzinfo=UTC).timestamp()


def test_a_prometheus_scrapes_it_and_its_rules_fire(tables: Database, port: int) -> None:
    with connection(tables.url, "test") as open_connection:
        compute(open_connection, [])
    with prometheus(f"127.0.0.1:{port}", [RULES]) as server:

        def ask(query: str) -> list[dict[str, Any]]:
            return server.get(f"/api/v1/query?query={quote(query)}")["data"]["result"]

        wait("open incidents", lambda: ask("anomaly_cost_open_incidents"), patience_s=120)
        assert {of["metric"]["service"] for of in ask("anomaly_cost_open_incidents")} == {"payment", "web"}
        wait("ratio", lambda: ask("anomaly_cost:budget_spent:ratio"), patience_s=120)
        wait("alert", lambda: ask('ALERTS{alertname="BudgetSpent",alertstate="firing"}'), patience_s=120)
        [alert] = ask('ALERTS{alertname="BudgetSpent"}')
        assert (alert["metric"]["budget"], alert["metric"]["severity"]) == ("web", "critical")


def test_without_a_database_there_are_no_figures_and_it_says_so(port: int, tables: Database) -> None:
    assert samples(port)["up", ()] == 1
    server, thread = serve("postgresql://nobody@127.0.0.1:1/none", 0, 2, "127.0.0.1")
    try:
        assert samples(server.server_port) == {("up", ()): 0.0}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_costliest_are_told_apart_in_each_currency() -> None:
    values = {(f"s{n}", "USD"): float(n) for n in range(5)} | {("a", "EUR"): 7.0, ("b", "EUR"): -9.0}
    assert bounded(values, 1, 2) == {
        ("s4", "USD"): 4.0, ("s3", "USD"): 3.0, (OTHER, "USD"): 3.0, ("b", "EUR"): -9.0, ("a", "EUR"): 7.0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["alerts_test.yml", "money_test.yml"])
def test_the_rules_do_what_their_tests_say(name: str) -> None:
    _promtool("test", "rules", ROOT / "docker" / "prometheus" / name)


def test_the_configuration_and_all_rules_are_valid() -> None:
    told = _promtool("check", "config", ROOT / "docker" / "prometheus" / "prometheus.yml")
    assert "2 rule files found" in told


def _promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [debian_binary("prometheus", "promtool"), *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
