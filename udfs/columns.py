"""Payloads of the keyed functions to the columns of their tables; SQL casts times (ms) and money (text)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import orjson
import pandas as pd
from pyflink.table.udf import UserDefinedScalarFunctionWrapper, UserDefinedTableFunctionWrapper, udf, udtf

# Column -> type as it leaves Python; the order is that of the table.
VERDICT_COLUMNS = {
    "trace_id": "STRING",
    "start_time": "BIGINT",
    "root_service_name": "STRING",
    "root_operation": "STRING",
    "span_count": "BIGINT",
    "anomaly_score": "DOUBLE",
    "threshold": "DOUBLE",
    "is_anomalous": "BOOLEAN",
    "culprit_service_name": "STRING",
    "culprit_operation": "STRING",
    "anomaly_kind": "STRING",
    "model_version": "STRING",
    "verdict_state": "STRING",
}
ALLOCATION_COLUMNS = {
    "window_start": "BIGINT",
    "resource_id": "STRING",
    "dimension": "STRING",
    "otel_service_name": "STRING",
    "usage": "DOUBLE",
    "total_usage": "DOUBLE",
    "share": "DOUBLE",
    "resource_cost": "STRING",
    "allocated_cost": "STRING",
    "billing_currency": "STRING",
    "cost_status": "STRING",
}
CHARGE_ANOMALY_COLUMNS = {
    "window_start": "BIGINT",
    "resource_id": "STRING",
    "dimension": "STRING",
    "window_end": "BIGINT",
    "billed_cost": "STRING",
    "expected_cost": "STRING",
    "anomaly_score": "DOUBLE",
    "billing_currency": "STRING",
}
RANKED_COLUMNS = {
    "anomaly_id": "STRING",
    "window_start": "BIGINT",
    "window_end": "BIGINT",
    "otel_service_name": "STRING",
    "rank": "BIGINT",
    "cost_weighted_score": "DOUBLE",
    "anomaly_score": "DOUBLE",
    "threshold": "DOUBLE",
    "anomalous_traces": "BIGINT",
    "total_traces": "BIGINT",
    "attributed_cost": "STRING",
    "excess_cost": "STRING",
    "projected_monthly_cost": "STRING",
    "billing_currency": "STRING",
    "cost_status": "STRING",
    "anomaly_kind": "STRING",
    "affected_services": "ARRAY<STRING>",
    "exemplar_trace_ids": "ARRAY<STRING>",
    "explanation": "STRING",
    "model_version": "STRING",
    "updated_at": "BIGINT",
}


def _of_table(columns: dict[str, str]) -> Callable[[bytes], Iterator[tuple]]:
    """payload (JSON list of objects) -> values of ``columns`` of each of them."""
    names, doubles = tuple(columns), {n for n, kind in columns.items() if kind == "DOUBLE"}

    def convert(name: str) -> Callable[[dict], object]:
        if name in doubles:
            return lambda row: None if row[name] is None else float(row[name])
        return lambda row: row[name]

    converters = [convert(name) for name in names]

    def rows(payload: bytes) -> Iterator[tuple]:
        for row in orjson.loads(payload):
            yield tuple(converter(row) for converter in converters)

    return rows


def _rows(columns: dict[str, str]) -> UserDefinedTableFunctionWrapper:
    """A table function: payload -> a row of ``columns`` for each of its objects."""
    return udtf(_of_table(columns), result_types=list(columns.values()))


def _json(columns: dict[str, str]) -> UserDefinedScalarFunctionWrapper:
    """A function: payload -> the rows of the table as JSON, ``columns`` alone, for what is restated as a whole."""
    rows = _of_table(columns)

    def table_json(payloads: pd.Series) -> pd.Series:
        return pd.Series([
            orjson.dumps([dict(zip(columns, row, strict=True)) for row in rows(payload)]).decode()
            for payload in payloads
        ])  # fmt: skip

    return udf(table_json, result_type="STRING", func_type="pandas", deterministic=False)


verdict_rows = _rows(VERDICT_COLUMNS)
allocation_rows = _rows(ALLOCATION_COLUMNS)
charge_anomaly_rows = _rows(CHARGE_ANOMALY_COLUMNS)
ranked_rows = _rows(RANKED_COLUMNS)

allocations_json = _json(ALLOCATION_COLUMNS)
charge_anomalies_json = _json(CHARGE_ANOMALY_COLUMNS)
ranked_json = _json(RANKED_COLUMNS)
