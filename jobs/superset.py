"""A bundle that Superset imports: the views as datasets, charts of them, and a dashboard.

    anomaly-cost superset --tables postgresql://anomaly_cost@HOST/DATABASE --connect postgresql://bi@HOST/DATABASE \
        --output anomaly_cost.zip

Columns, their types and what each means come from the database; the same database gives the same bundle. Its form is
that of Superset's exports, version 1.0.0. It is JSON, which is YAML.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from jobs.arguments import Parser
from jobs.errors import JobError, UsageError, ended
from jobs.postgres import FORM, address, rows

DATABASE = "anomaly_cost"
FORMAT = {"version": "1.0.0"}

# View -> its column of time.
VIEWS = {
    "incidents_now": "opened_at",
    "anomaly_costs_by_day": "day",
    "costs_by_day": "day",
    "unallocated_costs_by_day": "day",
    "shared_costs_by_day": "day",
    "budget_months": "month",
    "unit_costs_by_day": "day",
}

_COLUMNS = """
    select c.relname, a.attname, format_type(a.atttypid, null), coalesce(col_description(c.oid, a.attnum), ''),
        coalesce(obj_description(c.oid), '')
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'v' and a.attnum > 0 and not a.attisdropped
    order by c.relname, a.attnum
"""


class Column(NamedTuple):
    """A view's. kind: its type in PostgreSQL."""

    name: str
    kind: str
    meaning: str

    @property
    def is_time(self) -> bool:
        return self.kind == "date" or self.kind.startswith("timestamp")


class Chart(NamedTuple):
    """What is drawn of a view.

    Attributes:
        kind: viz_type of Superset.
        params: what differs from chart to chart; amounts are summed, and always by currency.
        width: of the dashboard's 12 columns.
    """

    title: str
    view: str
    kind: str
    params: Mapping[str, Any]
    width: int = 6


def _sum(column: str) -> dict[str, Any]:
    """The metric sum(column), by its own name."""
    return {"expressionType": "SQL", "sqlExpression": f"sum({column})", "label": column, "hasCustomLabel": True}


# Amounts to four places, without zeros at their end.
_MONEY = ",.4~f"
_AMOUNTS = ("amount", "spent", "remaining")
_TABLE = {"row_limit": 1_000, "page_length": 10, "show_cell_bars": False, "color_pn": False}


def _by_day(column: str, *groups: str) -> dict[str, Any]:
    return {
        "x_axis": "day", "time_grain_sqla": "P1D", "metrics": [_sum(column)], "groupby": [*groups, "billing_currency"],
        "stack": "Stack", "y_axis_format": _MONEY, "rich_tooltip": True, "show_legend": True, "row_limit": 10_000,
    }  # fmt: skip


def _rows(order: str, *columns: str) -> dict[str, Any]:
    """A table of rows as they are, the greatest of ``order`` first."""
    return {
        **_TABLE, "query_mode": "raw", "all_columns": [*columns], "order_by_cols": [json.dumps([order, False])],
        "column_config": _money(columns), "include_time": False,
    }  # fmt: skip


def _totals(order: str, groups: Sequence[str], *columns: str) -> dict[str, Any]:
    """A table of sums by groups."""
    return {
        **_TABLE, "query_mode": "aggregate", "groupby": [*groups, "billing_currency"], "metrics": [*map(_sum, columns)],
        "timeseries_limit_metric": _sum(order), "order_desc": True, "column_config": _money(columns),
    }  # fmt: skip


def _money(columns: Iterable[str]) -> dict[str, Any]:
    """How those of the columns that are amounts are written."""
    return {name: {"d3NumberFormat": _MONEY} for name in columns if "cost" in name or name in _AMOUNTS}


# A row of the dashboard each.
CHARTS: tuple[tuple[Chart, ...], ...] = (
    (
        Chart("Incidents that go on", "incidents_now", "table", _rows(
            "excess_cost_per_hour", "otel_service_name", "team", "anomaly_kind", "evidence", "opened_at",
            "excess_cost", "excess_cost_per_hour", "projected_monthly_cost", "billing_currency", "cost_status",
            "exemplar_url",
        ), 12),
    ),
    (
        Chart("What anomalies cost, by culprit", "anomaly_costs_by_day", "echarts_timeseries_bar",
              _by_day("excess_cost", "otel_service_name")),
        Chart("... by kind of fault and team", "anomaly_costs_by_day", "table", _totals(
            "excess_cost", ["team", "anomaly_kind"], "excess_cost", "billed_excess_cost", "provisional_excess_cost",
            "anomalous_traces")),
    ),
    (
        Chart("What services cost", "costs_by_day", "echarts_timeseries_bar", _by_day("cost", "otel_service_name")),
        Chart("... billed, corrected and provisional", "costs_by_day", "table", _totals(
            "cost", ["team", "otel_service_name"], "cost", "billed_cost", "corrected_cost", "provisional_cost")),
    ),
    (
        Chart("Cost of no service, by reason", "unallocated_costs_by_day", "echarts_timeseries_bar",
              _by_day("cost", "reason")),
        Chart("... by resource", "unallocated_costs_by_day", "table", _totals(
            "cost", ["resource_id", "dimension", "reason"], "cost")),
    ),
    (
        Chart("Cost that all share, by who bears it", "shared_costs_by_day", "echarts_timeseries_bar",
              _by_day("cost", "otel_service_name")),
        Chart("... by team and kind", "shared_costs_by_day", "table", _totals(
            "cost", ["team", "shared_kind", "divided_by"], "cost")),
    ),
    (
        Chart("Budgets of the month", "budget_months", "table", _rows(
            "month", "month", "budget", "amount", "spent", "remaining", "verdict", "forecast_low", "forecast_cost",
            "forecast_high", "incidents_excess_cost", "billing_currency")),
        Chart("What requests cost", "unit_costs_by_day", "table", _totals(
            "cost", ["root_service_name", "root_operation"], "requests", "cost", "provisional_cost")),
    ),
)  # fmt: skip


def bundle(columns: Mapping[str, tuple[str, Sequence[Column]]], connect: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and content of each file.

    columns: view -> what it is, and its columns. connect: the URL by which Superset logs in, without a password.
    """
    login = address(connect)
    database_id = _id("database")
    yield "metadata.yaml", FORMAT | {"type": "Dashboard", "timestamp": "1970-01-01T00:00:00+00:00"}
    uri = connect.replace(connect.partition("://")[0], "postgresql+psycopg2", 1)
    yield f"databases/{DATABASE}.yaml", FORMAT | {
        "database_name": f"{login.database} on {login.host}", "sqlalchemy_uri": uri, "uuid": database_id,
        "expose_in_sqllab": True, "allow_run_async": False, "allow_ctas": False, "allow_cvas": False,
        "allow_dml": False, "allow_csv_upload": False, "cache_timeout": None,
        "extra": {"engine_params": {"connect_args": {"options": "-c timezone=UTC"}}},
    }  # fmt: skip
    for view, time in VIEWS.items():
        yield f"datasets/{DATABASE}/{view}.yaml", _dataset(view, time, *columns[view]) | {"database_uuid": database_id}
    charts = [chart for row in CHARTS for chart in row]
    for chart in charts:
        yield f"charts/{_slug(chart)}.yaml", FORMAT | {
            "slice_name": chart.title, "viz_type": chart.kind, "uuid": _chart_id(chart),
            "dataset_uuid": _id(chart.view), "cache_timeout": None, "query_context": None,
            "params": {"viz_type": chart.kind, "adhoc_filters": _days(chart.view), **chart.params},
        }  # fmt: skip
    yield "dashboards/anomaly_cost.yaml", FORMAT | {
        "dashboard_title": "Anomaly cost", "slug": "anomaly-cost", "uuid": _id("dashboard"), "css": "",
        "description": "What anomalies cost, what services cost, and which cost is nobody's",
        "position": _position(),
        "metadata": {"native_filter_configuration": _filters()},
    }  # fmt: skip


def _days(view: str) -> list[dict[str, Any]]:
    """The condition that the dashboard's filter of days fills in; none for what is of now, or of whole months."""
    if VIEWS[view] != "day":
        return []
    return [{"clause": "WHERE", "expressionType": "SIMPLE", "subject": "day", "operator": "TEMPORAL_RANGE",
             "comparator": "No filter"}]  # fmt: skip


def _dataset(view: str, time: str, meaning: str, columns: Sequence[Column]) -> dict[str, Any]:
    return FORMAT | {
        "table_name": view, "schema": "public", "description": meaning, "main_dttm_col": time, "uuid": _id(view),
        "filter_select_enabled": True, "sql": None, "params": None, "template_params": None, "cache_timeout": None,
        "offset": 0, "default_endpoint": None, "fetch_values_predicate": None, "extra": None,
        "normalize_columns": False, "always_filter_main_dttm": False,
        "metrics": [{
            "metric_name": "count", "verbose_name": "COUNT(*)", "metric_type": "count", "expression": "COUNT(*)",
            "description": "Rows", "d3format": None, "extra": {}, "warning_text": None,
        }],
        "columns": [
            {
                "column_name": column.name, "verbose_name": None, "type": column.kind.upper(), "is_active": True,
                "is_dttm": column.is_time, "groupby": True, "filterable": True, "expression": None,
                "description": column.meaning, "python_date_format": None, "extra": {},
            }
            for column in columns
        ],
    }  # fmt: skip


def _position() -> dict[str, Any]:
    """Where each chart stands: a grid of rows."""
    found: dict[str, Any] = {
        "DASHBOARD_VERSION_KEY": "v2",
        "ROOT_ID": {"id": "ROOT_ID", "type": "ROOT", "children": ["GRID_ID"]},
        "GRID_ID": {"id": "GRID_ID", "type": "GRID", "parents": ["ROOT_ID"], "children": []},
        "HEADER_ID": {"id": "HEADER_ID", "type": "HEADER", "meta": {"text": "Anomaly cost"}},
    }
    for number, row in enumerate(CHARTS):
        row_id = f"ROW-{number}"
        found["GRID_ID"]["children"].append(row_id)
        names = [f"CHART-{_slug(chart)}" for chart in row]
        found[row_id] = {"id": row_id, "type": "ROW", "parents": ["ROOT_ID", "GRID_ID"], "children": names,
                         "meta": {"background": "BACKGROUND_TRANSPARENT"}}  # fmt: skip
        for name, chart in zip(names, row, strict=True):
            found[name] = {
                "id": name, "type": "CHART", "parents": ["ROOT_ID", "GRID_ID", row_id], "children": [],
                # chartId is Superset's to give, by the uuid.
                "meta": {"uuid": _chart_id(chart), "chartId": 0, "sliceName": chart.title, "width": chart.width,
                         "height": 50},
            }  # fmt: skip
    return found


def _filters() -> list[dict[str, Any]]:
    """Days and currency, for all charts: amounts of several currencies must not be added."""
    scope = {"rootPath": ["ROOT_ID"], "excluded": []}
    return [
        {
            "id": "NATIVE_FILTER-days", "name": "Days", "filterType": "filter_time", "type": "NATIVE_FILTER",
            "targets": [{}], "scope": scope, "controlValues": {}, "cascadeParentIds": [],
            "defaultDataMask": {"extraFormData": {"time_range": "Last month"}, "filterState": {"value": "Last month"}},
        },
        {
            "id": "NATIVE_FILTER-currency", "name": "Currency", "filterType": "filter_select", "type": "NATIVE_FILTER",
            "targets": [{"datasetUuid": _id("costs_by_day"), "column": {"name": "billing_currency"}}], "scope": scope,
            "controlValues": {"multiSelect": False, "defaultToFirstItem": True, "enableEmptyFilter": True},
            "requiredFirst": True, "defaultDataMask": {"extraFormData": {}, "filterState": {}}, "cascadeParentIds": [],
        },
    ]  # fmt: skip


def _slug(chart: Chart) -> str:
    number = [each.title for row in CHARTS for each in row].index(chart.title)
    return f"{number:02}_{chart.view}"


def _chart_id(chart: Chart) -> str:
    """An import leaves a chart alone that is there: so one that is drawn otherwise is another one."""
    return _id(json.dumps([chart, _days(chart.view)], sort_keys=True))


def _id(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"anomaly-cost/superset/{name}"))


def read_columns(url: str) -> dict[str, tuple[str, list[Column]]]:
    """View -> what it is, and its columns.

    Raises:
        UsageError: see ``postgres.address``.
        JobError: the server doesn't answer or refuses, or the views are not there.
    """
    found: dict[str, tuple[str, list[Column]]] = {}
    for view, name, kind, meaning, of_view in rows(url, "anomaly-cost superset", _COLUMNS, batch=1_000):
        found.setdefault(view, (of_view, []))[1].append(Column(name, kind, meaning))
    if missing := [view for view in VIEWS if view not in found]:
        raise JobError(f"{url}: no view {missing[0]}; bring the tables up to date: anomaly-cost migrate")
    return found


def write(path: Path, files: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """The ZIP file. Superset wants all of it in one folder."""
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(ZipInfo(f"anomaly_cost/{name}"), json.dumps(content, indent=1, ensure_ascii=False))


def main(argv: Sequence[str] | None = None, prog: str = "python -m jobs.superset") -> int:
    """Exit status: 0; 2 for wrong use, 1 for what failed, each with one line."""
    parser = Parser(prog=prog, description="A bundle of datasets and a dashboard that Superset imports.")
    parser.add_argument("--tables", required=True, metavar="URL", help=f"{FORM}; the password comes from PGPASSWORD")
    parser.add_argument("--connect", metavar="URL", help="by which Superset logs in, without a password [--tables]")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.zip")
    try:
        arguments = parser.parse_args(argv)
        files = [*bundle(read_columns(arguments.tables), arguments.connect or arguments.tables)]
        write(arguments.output, files)
    except (UsageError, JobError, OSError) as error:
        return ended("superset", error)
    print(f"superset: {arguments.output}: import it as a dashboard; Superset asks for the password", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
