"""The tables of docs/interface.md, section 3 and 4, from literal rows: what a row leaves out is NULL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.tables import SCHEMAS as OUTPUT_SCHEMAS

_TIME = pa.timestamp("ms", "UTC")
_MONEY = pa.decimal128(28, 12)
_NAMES = pa.list_(pa.string())


def _schema(text: Mapping[str, pa.DataType | None]) -> pa.Schema:
    return pa.schema([(name, kind or pa.string()) for name, kind in text.items()])


# fmt: off
SCHEMAS = OUTPUT_SCHEMAS | {
    "traces": _schema({
        "trace_id": None, "is_anomalous": pa.bool_(), "fault_id": None,
        "culprit_service_name": None, "anomaly_kind": None,
    }),
    "faults": _schema({
        "fault_id": None, "otel_service_name": None, "anomaly_kind": None, "start_time": _TIME,
        "end_time": _TIME, "severity": pa.float64(),
    }),
    "costs": _schema({
        "fault_id": None, "window_start": _TIME, "otel_service_name": None, "excess_cost": _MONEY,
    }),
    "labels": _schema({
        "trace_id": None, "is_anomalous": pa.bool_(), "fault_id": None,
        "culprit_service_name": None, "anomaly_kind": None, "label": None,
        "start_time": _TIME, "services": _NAMES,
    }),
}
# fmt: on


def write(directory: Path, table: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Write ``rows`` as ``directory/table.parquet``; money as text or Decimal, times as ms.

    Raises:
        ValueError: a row has a column that the table has not.
    """
    schema, rows = SCHEMAS[table], list(rows)
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise ValueError(f"{table} has no column {sorted(unknown)}")
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if field.type == _MONEY:
            values = [None if value is None else Decimal(value) for value in values]
        columns.append(pa.array(values, field.type))
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), directory / f"{table}.parquet")


def write_outputs(directory: Path, **rows: Iterable[Mapping[str, object]]) -> Path:
    """All five tables of the job, those not given empty; the directory."""
    for table in OUTPUT_SCHEMAS:
        write(directory, table, rows.get(table, ()))
    return directory
