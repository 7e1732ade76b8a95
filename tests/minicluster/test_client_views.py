"""The views of sql/client/init.sql say in the engine what the queries of their names in sql/queries do."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from pyflink.table import StreamTableEnvironment

from jobs.config import load_engine_settings
from jobs.contract import client_columns
from jobs.environment import SQL, free_port, start_engine
from tests.unit.literal_tables import write
from tests.unit.test_queries import at, cost, element, ranked
from udfs.pure.contract import TABLES

VIEWS = (
    "top_anomalies_of_the_day",
    "cost_by_service_against_the_day_before",
    "unallocated_cost",
    "late_bills",
    "what_if",
)

NOTHING = {"usage": None, "total_usage": None}
COSTS = [
    cost(at(1), "cart", "4.5"),
    cost(at(1), "__system__", "0.5"),
    cost(at(1, 1), "__idle__", "1", usage=0.0, total_usage=0.0),
    cost(at(1), "__unallocated__", "0.5", resource_id="__no_resource__", **NOTHING),
    cost(at(2), "__unallocated__", "1.25", dimension="io", **NOTHING),
    cost(at(2), "cart", "3", status="provisional"),
    cost(at(2), "pay", "2", "EUR", status="corrected"),
    cost(at(2, 0, 30), "pay", "2", status="provisional", dimension="memory"),
    cost(at(1, 6), "pay", "9"),
]
ANOMALIES = [
    ranked(at(1), "cart", [element("cpu", "1.5")], [("cpu", "0.5")]),
    ranked(at(2), "cart", [element("cpu", "1.5"), element("network", "0.25")], [("network", "0.75")], rank=2),
    ranked(at(2), "pay", [element("memory", "3")], [("memory", "1"), ("cpu", "0.1")], rank=1, kind="retry_loop"),
    ranked(at(2, 1), "cart", [element("cpu", "2")], [("cpu", "-0.5")], mean=3.0),
    ranked(at(2, 1), "users", [element("cpu", "2")], is_priced=False, rank=2),
    ranked(at(2, 1), "mail", [element("io", "2")], [("io", "4")], currency="EUR"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tables")
    write(target, "cost_allocations", COSTS)
    write(target, "ranked_anomalies", ANOMALIES)
    return target


@pytest.fixture(scope="module")
def engine(folder: Path) -> StreamTableEnvironment:
    """The client's tables over the rows as JSON, and its views."""
    t_env = start_engine(load_engine_settings(), folder, free_port())
    for name in ("cost_allocations", "ranked_anomalies"):
        rows = pq.read_table(folder / f"{name}.parquet").to_pylist()
        lines = "\n".join(json.dumps(row, default=_text) for row in rows)
        (folder / f"{name}.json").write_text(lines, encoding="utf-8")
        t_env.execute_sql(
            f"create table {name} ({client_columns(TABLES[name])}) with ('connector' = 'filesystem', 'format' = 'json',"
            f" 'path' = 'file://{folder}/{name}.json', 'json.timestamp-format.standard' = 'ISO-8601')"
        )
    for statement in _statements((SQL / "client/init.sql").read_text("utf-8")):
        if statement.startswith("create temporary view"):
            t_env.execute_sql(statement)
    return t_env


def _text(value: object) -> str:
    return str(value) if isinstance(value, Decimal) else value.strftime("%Y-%m-%dT%H:%M:%SZ")


def _statements(script: str) -> list[str]:
    """As the SQL client parts a script: a statement ends with its semicolon."""
    script = re.sub(r"^\s*--.*$", "", script, flags=re.MULTILINE)
    return [statement for statement in map(str.strip, script.split(";")) if statement]


def _asked(folder: Path, query: str) -> tuple[list[str], list[tuple]]:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for name in ("cost_allocations", "ranked_anomalies"):
            connection.execute(f"create view {name} as from read_parquet('{folder}/{name}.parquet')")
        cursor = connection.execute((SQL / f"queries/{query}.sql").read_text("utf-8"))
        return [column[0] for column in cursor.description], cursor.fetchall()


def _comparable(rows: list[tuple]) -> list[tuple]:
    def cell(value: object) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)) or str(value) == "NaT":
            return ""
        if hasattr(value, "strftime"):
            return value.strftime("%Y-%m-%d %H:%M").removesuffix(" 00:00")
        return f"{float(value):.9g}" if isinstance(value, (int, float, Decimal)) else str(value)

    return sorted(tuple(map(cell, row)) for row in rows)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_says_what_the_query_says(engine: StreamTableEnvironment, folder: Path, view: str) -> None:
    names, rows = _asked(folder, view)
    assert len(rows) > 1
    found = engine.sql_query(f"select * from {view}").to_pandas()
    assert list(found.columns) == names
    assert _comparable(list(found.itertuples(index=False, name=None))) == _comparable(rows)
