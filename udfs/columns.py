"""Payloads of the keyed functions to the columns of their tables; SQL casts times (ms) and money (text)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pandas as pd
from pyflink.table.udf import UserDefinedScalarFunctionWrapper, UserDefinedTableFunctionWrapper, udf, udtf

from udfs.pure.attribute import unpacked
from udfs.pure.contract import TABLES, Table, Type


def _of_table(table: Table) -> Callable[[bytes], Iterator[tuple]]:
    """payload -> values of the columns of ``table`` of each of its rows."""
    read = unpacked if table.name == "cost_allocations" else orjson.loads
    # JSON writes a float without decimals as a whole number.
    reals = {column.name for column in table.columns if column.type is Type.REAL}

    def value(row: dict[str, Any], name: str) -> object:
        found = row[name]
        return float(found) if name in reals and found is not None else found

    def rows(payload: bytes) -> Iterator[tuple]:
        for row in read(payload):
            yield tuple([value(row, name) for name in table.names])

    return rows


def _rows(name: str) -> UserDefinedTableFunctionWrapper:
    """A table function: payload -> a row of table ``name`` for each of its objects."""
    table = TABLES[name]
    return udtf(_of_table(table), result_types=[column.type.sent for column in table.columns])


def _json(name: str) -> UserDefinedScalarFunctionWrapper:
    """A function: payload -> the rows of table ``name`` as JSON, its columns alone, for what is restated as a whole."""
    table = TABLES[name]
    rows = _of_table(table)

    def table_json(payloads: pd.Series) -> pd.Series:
        return pd.Series([
            orjson.dumps([dict(zip(table.names, row, strict=True)) for row in rows(payload)]).decode()
            for payload in payloads
        ])  # fmt: skip

    return udf(table_json, result_type="STRING", func_type="pandas", deterministic=False)


verdict_rows = _rows("trace_verdicts")
allocation_rows = _rows("cost_allocations")
charge_anomaly_rows = _rows("charge_anomalies")
ranked_rows = _rows("ranked_anomalies")
unit_cost_rows = _rows("unit_costs")
incident_rows = _rows("incidents")
unit_cost_by_attribute_rows = _rows("unit_costs_by_attribute")

allocations_json = _json("cost_allocations")
charge_anomalies_json = _json("charge_anomalies")
ranked_json = _json("ranked_anomalies")
unit_costs_json = _json("unit_costs")
incidents_json = _json("incidents")
unit_costs_by_attribute_json = _json("unit_costs_by_attribute")
