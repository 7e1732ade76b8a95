"""A real Superset imports what anomaly-cost superset writes, and each chart has rows of a filled database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import psycopg
import pytest

from jobs.superset import CHARTS, DATABASE, VIEWS, Chart, main
from tests.services import Database
from tests.superset import Superset, superset
from tests.year import fill

pytestmark = pytest.mark.services

EVERY_CHART = pytest.mark.parametrize(
    "chart", [chart for row in CHARTS for chart in row], ids=lambda chart: chart.title
)


@pytest.fixture(scope="module")
def url(database: Database) -> Iterator[str]:
    with database.another("superset") as address:
        fill(address)
        yield address


@pytest.fixture(scope="module")
def bundle(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("bundle") / "anomaly_cost.zip"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create role bi_of_superset login password 'bi' in role anomaly_cost_reader")
    try:
        login = url.replace("://anomaly_cost@", "://bi_of_superset@")
        assert main(["--tables", url, "--connect", login, "--output", str(path)]) == 0
        yield path
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("drop role bi_of_superset")


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Superset]:
    """With the bundle imported, twice: the second time it replaces the first."""
    with superset() as running:
        for _ in range(2):
            with bundle.open("rb") as file:
                running.ask(
                    "POST", "/api/v1/dashboard/import/", files={"formData": ("bundle.zip", file, "application/zip")},
                    data={"passwords": json.dumps({f"databases/{DATABASE}.yaml": "bi"}), "overwrite": "true"},
                )  # fmt: skip
        yield running


def test_the_same_database_gives_the_same_bundle(url: str, bundle: Path, tmp_path: Path) -> None:
    assert main(["--tables", url, "--connect", "postgresql://a@b/c", "--output", str(tmp_path / "other.zip")]) == 0
    with ZipFile(bundle) as one, ZipFile(tmp_path / "other.zip") as other:
        differ = {name for name in one.namelist() if one.read(name) != other.read(name)}
    assert differ == {f"anomaly_cost/databases/{DATABASE}.yaml"}


@EVERY_CHART
def test_a_chart_asks_for_what_its_view_has(url: str, chart: Chart) -> None:
    query = _query(chart)
    amounts = [f"{metric['sqlExpression']} as {metric['label']}" for metric in query["metrics"] or ()]
    columns = query["columns"]
    groups = f"group by {', '.join(columns)}" if amounts else ""
    with psycopg.connect(url, options="-c search_path=public") as connection:
        found = connection.execute(f"select {', '.join([*columns, *amounts])} from {chart.view} {groups} limit 1")
        assert found.fetchone(), chart.title
        for column, _ in query["orderby"]:
            connection.execute(f"select {column} from {chart.view} limit 1")


def test_a_database_without_the_views_is_told_in_one_line(database: Database, tmp_path: Path, capsys) -> None:
    with database.another("without_views") as address:
        assert main(["--tables", address, "--output", str(tmp_path / "none.zip")]) == 1
    assert capsys.readouterr().err.endswith("bring the tables up to date: anomaly-cost migrate\n")
    assert not (tmp_path / "none.zip").exists()


def test_a_login_that_holds_a_password_is_refused_and_nothing_is_written(url: str, tmp_path: Path, capsys) -> None:
    assert (
        main(["--tables", url, "--connect", "postgresql://bi:secret@b/c", "--output", str(tmp_path / "none.zip")]) == 2
    )
    assert "PGPASSWORD" in capsys.readouterr().err and not (tmp_path / "none.zip").exists()


def _query(chart: Chart) -> dict[str, Any]:
    """What Superset asks for a chart."""
    params = chart.params
    groups = [*params.get("groupby", []), *([params["x_axis"]] if "x_axis" in params else [])]
    return {
        "columns": params.get("all_columns") or groups,
        "metrics": params.get("metrics"),
        "orderby": [json.loads(by) for by in params.get("order_by_cols", [])],
        "row_limit": params["row_limit"],
    }


@pytest.mark.long_only
def test_all_of_it_is_there_once(server: Superset) -> None:
    [dashboard] = server.ask("GET", "/api/v1/dashboard/")["result"]
    assert dashboard["dashboard_title"] == "Anomaly cost"
    charts = server.ask("GET", f"/api/v1/dashboard/{dashboard['id']}/charts")["result"]
    assert {chart["slice_name"] for chart in charts} == {chart.title for row in CHARTS for chart in row}
    datasets = server.ask("GET", f"/api/v1/dashboard/{dashboard['id']}/datasets")["result"]
    assert {dataset["table_name"] for dataset in datasets} == set(VIEWS)
    for dataset in datasets:
        assert all(column["description"] for column in dataset["columns"]), dataset["table_name"]


@pytest.mark.long_only
@EVERY_CHART
def test_a_chart_has_rows(server: Superset, chart: Chart) -> None:
    datasets = server.ask("GET", "/api/v1/dataset/?q=(page_size:100)")["result"]
    [dataset] = [found["id"] for found in datasets if found["table_name"] == chart.view]
    asked = {"datasource": {"id": dataset, "type": "table"}, "queries": [_query(chart)], "result_format": "json"}
    [answer] = server.ask("POST", "/api/v1/chart/data", json=asked)["result"]
    assert answer["error"] is None and answer["rowcount"] > 0
