"""The report out of a real database: the same page as out of the Parquet files of the same tables."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from jobs.migrate import migrate
from jobs.report.page import main, write_report
from tests.services import Database
from tests.streamed import store
from tests.unit.literal_tables import write_outputs
from tests.unit.test_report import COST, HOSTILE, T0, WINDOW, evidence_of, incident_of
from tests.unit.test_terminal import RUN, allocation, ranked
from udfs.pure.rank import rank_window

pytestmark = pytest.mark.services


def tables(folder: Path) -> Path:
    """Three currencies, names in several scripts and cases, nulls, and amounts that no float holds."""
    of_payment = rank_window(T0, [[evidence_of()]], [{"payment": 10}], [COST])
    of_payment += rank_window(T0 + WINDOW, [[evidence_of()]], [{"payment": 7}], [COST | {"marginal_rate": "1e-7"}])
    others = [
        ranked("Zoë", 1.0, excess_cost="12345678901234.567890123456", billed_excess_cost="0.000000000001"),
        ranked("ada", 1.0, window=3, excess_cost="0.1", projected_monthly_cost="3.3", cost_status="provisional"),
        ranked("Ada", 1.0, window=3, excess_cost="0.1", billing_currency="EUR"),
        ranked(HOSTILE, 2.0, window=5, attributed_cost="-0.3", explanation=json.dumps({"x": HOSTILE})),
        ranked("決済", 2.0, window=6, billing_currency="JPY"),
    ]
    changes = json.dumps([{"what": "version", "at": "2026-01-04T23:50:00Z", "from": None, "to": "1.5"}])
    incidents = [
        incident_of(*of_payment, changes=changes, projected_monthly_cost="0.216007"),
        incident_of(others[0], incident_state="open", excess_cost_per_hour="0.1"),
        incident_of(others[1], is_silenced=True, feedback="expected", feedback_by="ann"),
        *(incident_of(row, is_silenced=None) for row in others[2:4]),
    ]
    costs = [
        *RUN["cost_allocations"],
        *(allocation("ada", "0.000000000003", "0.000000000003", window_start=T0 + i * WINDOW) for i in range(1, 300)),
        allocation("Ada", "7", "7", billing_currency="EUR", cost_status="provisional"),
    ]
    verdicts = [row | {"start_time": T0} for row in RUN["trace_verdicts"]]
    run = {"ranked_anomalies": [*of_payment, *others], "incidents": incidents, "cost_allocations": costs}
    rejected = [{"stream": "focus_charges", "reason": f"no currency {i % 2}", "payload": f"{i}"} for i in range(5)]
    return write_outputs(folder, **run, trace_verdicts=verdicts, rejected_records=rejected)


@pytest.mark.parametrize("since", [None, "2026-01-05T01:30Z"])
def test_the_page_is_the_same_from_parquet_and_from_postgresql(tmp_path: Path, database: Database, since) -> None:
    folder = tables(tmp_path / "tables")
    migrate(database.url)
    store(database, folder)
    pages = []
    for name, of in (("parquet", str(folder)), ("postgresql", database.url)):
        target = tmp_path / f"{name}.html"
        assert main(["--tables", of, "--html", str(target), *(["--since", since] if since else [])]) == 0
        pages.append(target.read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    assert "12,345,678,901,234.567890123456 USD" in pages[0] or since
    assert pages[0].count('<details class="incident"') == (3 if since else 5)


def test_an_empty_database_has_a_report(tmp_path: Path, database: Database) -> None:
    migrate(database.url)
    store(database, write_outputs(tmp_path / "tables"))
    assert main(["--tables", database.url, "--html", str(tmp_path / "r.html")]) == 0
    assert "No window holds an anomaly." in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_reader_may_report_and_writes_nothing(tmp_path: Path, database: Database) -> None:
    migrate(database.url)
    store(database, tables(tmp_path / "tables"))
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("drop role if exists reporter")
        connection.execute("create role reporter login in role anomaly_cost_reader")
    write_report(database.url.replace("//anomaly_cost@", "//reporter@"), None, tmp_path / "r.html")
    assert "payment" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_database_without_the_tables_is_one_line(tmp_path: Path, database: Database, capsys) -> None:
    url = database.url.rpartition("/")[0] + "/postgres"
    assert main(["--tables", url, "--html", str(tmp_path / "r.html")]) == 1
    error = capsys.readouterr().err
    assert "does not exist" in error and error.count("\n") == 1
