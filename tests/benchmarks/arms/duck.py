"""The work of a peer in DuckDB: SQL alone, on all cores of the process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import duckdb

from tests.benchmarks.arms import shared

# What is read of a request, as from_json wants it: several times as fast as read_json with the same columns.
_TEXT = "VARCHAR"
_ATTRIBUTES = [{"key": _TEXT, "value": {"stringValue": _TEXT}}]
_RESOURCE = {"attributes": _ATTRIBUTES}
_SPAN = dict.fromkeys(("traceId", "spanId", "parentSpanId", "name", "startTimeUnixNano", "endTimeUnixNano"), _TEXT)
_POINT = dict.fromkeys(("startTimeUnixNano", "timeUnixNano", "asInt"), _TEXT)
_POINTS = {"dataPoints": [_POINT | {"attributes": _ATTRIBUTES, "asDouble": "DOUBLE"}]}
_METRIC = {"name": _TEXT, "unit": _TEXT, "sum": _POINTS, "gauge": _POINTS}
_TRACES = [{"resource": _RESOURCE, "scopeSpans": [{"spans": [_SPAN]}]}]
_METRICS = [{"resource": _RESOURCE, "scopeMetrics": [{"metrics": [_METRIC]}]}]


def attribute(attributes: str, key: str) -> str:
    """SQL: the text of the attribute ``key``, or NULL."""
    return f"list_filter({attributes}, lambda a: a.key = '{key}')[1].value.stringValue"


def create_views(connection: duckdb.DuckDBPyConnection, views: Mapping[str, str]) -> None:
    """Tables of the views that several others read, views of the rest."""
    for name, query in views.items():
        kind = "table" if name in ("timed", "minutes", "used") else "view"
        connection.execute(f"create or replace temp {kind} {name} as {query}")


def decode(connection: duckdb.DuckDBPyConnection, directory: Path) -> None:
    """The tables spans, points and bill of an input directory."""
    _read(connection, "requests", "resourceSpans", _TRACES, shared.files(directory, "traces"))
    _read(connection, "metric_requests", "resourceMetrics", _METRICS, shared.files(directory, "metrics"))
    connection.execute(
        f"create temp table spans as select distinct * from ({shared.decoded_spans('unnest', attribute)})"
    )
    connection.execute(
        "create temp table usage_metrics (name varchar, unit varchar, dimension varchar, preference int, kind varchar,"
        " factor double)"
    )
    connection.executemany("insert into usage_metrics values (?, ?, ?, ?, ?, ?)", shared.USAGE_METRICS)
    connection.execute(f"create temp table points as {shared.decoded_points('unnest', attribute)}")
    create_bill(connection, shared.bill(directory))


def create_bill(connection: duckdb.DuckDBPyConnection, bill: list[tuple]) -> None:
    """The table bill, of BILL_COLUMNS."""
    connection.execute(
        "create temp table bill"
        " (window_ns bigint, resource_id varchar, dimension varchar, currency varchar, cost double)"
    )
    if bill:
        connection.executemany("insert into bill values (?, ?, ?, ?, ?)", bill)


def _read(connection: duckdb.DuckDBPyConnection, view: str, field: str, structure: list, files: list[Path]) -> None:
    names = ", ".join(f"'{path}'" for path in files)
    connection.execute(
        f"create temp view {view} as select from_json(json -> '{field}', '{json.dumps(structure)}') as {field}"
        f" from read_json_objects([{names}], format = 'newline_delimited')"
    )


def main() -> None:
    """Read, judge, allocate, write."""
    chosen = shared.arguments(__doc__.splitlines()[0])
    with duckdb.connect() as connection:
        connection.execute("set preserve_insertion_order = false")
        decode(connection, chosen.input)
        create_views(connection, shared.VERDICT_VIEWS | shared.ALLOCATION_VIEWS)
        for table in shared.TABLES:
            connection.execute(f"copy {table} to '{chosen.output / table}.parquet' (format parquet)")


if __name__ == "__main__":
    main()
