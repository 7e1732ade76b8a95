"""What Grafana asks of a filled database, as its login: each panel answers, within the time range alone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from jobs.migrate import migrate
from tests.services import ROOT, Database
from tests.streamed import store
from tests.unit.literal_tables import write_outputs
from tests.unit.test_docker import _alert_sql, _targets, without_macros
from tests.unit.test_report import incident_of
from tests.unit.test_terminal import T0, WINDOW, allocation, ranked

pytestmark = pytest.mark.services

LOGIN = ROOT / "docker" / "grafana" / "login.sql"
# Two hours of it are asked for.
HOURS = 12
START, END = "2026-01-05T04:00:00Z", "2026-01-05T06:00:00Z"


@pytest.fixture(scope="module")
def grafana(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection]:
    """Every half hour has costs, an incident, an irregular charge and a reject; the month has a budget."""
    windows = range(2 * HOURS)
    rows = [
        ranked(f"web-{i}", 1.0, window=i, excess_cost="1", billed_excess_cost="0.5", exemplar_trace_ids=["ab" * 16])
        for i in windows
    ]
    costs = [
        allocation(name, "1", "3", window_start=T0 + i * WINDOW, cost_status=("corrected", "provisional")[i % 2])
        for i in windows
        for name in ("web", "__idle__", "__unallocated__")
    ]
    unit_costs = [
        {
            "window_start": T0 + i * WINDOW, "otel_service_name": "web", "root_service_name": "web",
            "root_operation": "GET /", "requests": 10, "cost": "1", "billing_currency": "USD", "cost_status": "billed",
        }
        for i in windows
    ]  # fmt: skip
    charges = [
        {
            "window_start": T0 + i * WINDOW, "resource_id": "r", "dimension": "cpu", "billed_cost": "3",
            "expected_cost": "1", "anomaly_score": 9.0, "billing_currency": "USD",
        }
        for i in windows
    ]  # fmt: skip
    rejects = [
        {"stream": "otlp_spans", "reason": f"late {i}", "payload": "{}", "rejected_at": T0 + i * WINDOW}
        for i in windows
    ]
    # Those that are open began in the time that is asked for, or after it.
    open_ones = [row["window_start"] >= T0 + 8 * WINDOW and i % 2 == 0 for i, row in enumerate(rows)]
    incidents = [
        incident_of(
            row, incident_state="open" if is_open else "closed", closed_at=None if is_open else row["window_end"],
            projected_monthly_cost="7", excess_cost_per_hour="2",
        )
        for row, is_open in zip(rows, open_ones)
    ]  # fmt: skip
    folder = write_outputs(
        tmp_path_factory.mktemp("grafana"), ranked_anomalies=rows, incidents=incidents, cost_allocations=costs,
        charge_anomalies=charges, rejected_records=rejects, unit_costs=unit_costs,
    )  # fmt: skip
    migrate(database.url)
    store(database, Path(folder))
    with psycopg.connect(database.dsn) as connection:
        connection.execute("truncate public.budget_status")
        connection.execute(
            "insert into public.budget_status (budget, month, billing_currency, amount, billed_cost, provisional_cost,"
            " share_of_month, forecast_method, incidents_excess_cost, cost_until)"
            " select 'web', month, 'USD', 100, 12, 1, 0.1, 'mean', 1, '2026-01-05T04:30Z'"
            " from unnest(array['2026-01-01', '2026-02-01']::date[]) as month"
        )
    subprocess.run(
        [str(database.programs / "psql"), "-q", "-f", str(LOGIN), database.url],
        env={"BI_PASSWORD": "secret", "PATH": "/usr/bin:/bin"}, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with psycopg.connect(database.dsn.replace("user=anomaly_cost", "user=grafana"), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("name", _targets("rawSql"))
def test_a_panel_answers_within_the_time_range(grafana: psycopg.Connection, name: str) -> None:
    sql = _targets("rawSql")[name]["rawSql"]
    cursor = grafana.execute(without_macros(sql, START, END))
    names, rows = [column[0] for column in cursor.description], cursor.fetchall()
    assert rows and rows[0][-1] is not None, f"{name}: nothing"
    start, end = datetime.fromisoformat(START), datetime.fromisoformat(END)
    for row in rows:
        times = [value for value in row if isinstance(value, datetime)]
        assert not times or min(times) <= end, f"{name}: of later"
        # What is outstanding is so since earlier; a day's bar begins with the day.
        assert not times or max(times) >= start or "oldest_window" in names or "'day'" in sql, f"{name}: of earlier"
    # A range in which nothing was has nothing.
    empty = grafana.execute(without_macros(sql, "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z")).fetchall()
    assert not empty or set(empty[0]) <= {None, 0}, f"{name}: something of 2020"


@pytest.mark.parametrize("name", _alert_sql())
def test_an_alert_gives_one_number(grafana: psycopg.Connection, name: str) -> None:
    ((value,),) = grafana.execute(without_macros(_alert_sql()[name])).fetchall()
    assert value is not None


def test_figures_are_those_of_the_time_range(grafana: psycopg.Connection) -> None:
    def figure(title: str, dashboard: str = "anomaly_cost") -> object:
        sql = _targets("rawSql")[f"{dashboard}: {title} A"]["rawSql"]
        return grafana.execute(without_macros(sql, START, END)).fetchone()[0]

    # Four half hours: Grafana's own filter has both ends in it, and would take in the one that begins at the end.
    assert figure("Excess cost, $currency") == 4
    assert figure("On the bill, $currency") == 2
    assert figure("Cost, $currency", "finops") == 12
    # Each is of a culprit of its own: those that were opened until the end and seen since the start.
    assert figure("Projected for a month, $currency") == 7 * 6
    assert figure("Open incidents") == 3
    assert figure("An hour of those open, $currency") == 2 * 3


def test_the_login_cannot_write(grafana: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        grafana.execute("delete from incidents")
