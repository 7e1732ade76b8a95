"""The fold: a changelog of inserts and deletes to the rows that stand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import tables


def _allocation(otel_service_name: str, cost: str) -> str:
    """As the engine writes it: money as a plain number of twelve decimals."""
    row = {
        "window_start": "2025-03-03T12:00:00Z",
        "resource_id": "r",
        "dimension": "cpu",
        "otel_service_name": otel_service_name,
        "usage": 1.5,
        "total_usage": 3,
        "share": 0.5,
        "resource_cost": "COST",
        "allocated_cost": "COST",
        "billing_currency": "USD",
        "cost_status": "billed",
        "cost_center": "4711",
    }
    return json.dumps(row).replace('"COST"', cost)


def _part(folder: Path, name: str, *changes: tuple[str, str]) -> None:
    target = folder / "cost_allocations" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    side = {"c": "after", "d": "before"}
    target.write_text("".join(f'{{"{side[op]}":{row},"op":"{op}"}}\n' for op, row in changes), encoding="utf-8")


def _fold(folder: Path) -> pa.Table:
    tables.fold(folder, "cost_allocations", folder)
    return pq.read_table(folder / "cost_allocations.parquet")


def test_an_updated_row_is_the_newest(tmp_path: Path) -> None:
    old, new = _allocation("cart", "1.000000000000"), _allocation("cart", "2.000000000000")
    _part(tmp_path, "part-0", ("c", old), ("d", old), ("c", new))
    assert _fold(tmp_path)["allocated_cost"].to_pylist() == [Decimal("2.000000000000")]


def test_order_across_part_files_means_nothing(tmp_path: Path) -> None:
    old, new = _allocation("cart", "1.000000000000"), _allocation("cart", "2.000000000000")
    _part(tmp_path, "part-0", ("d", old), ("c", new))
    _part(tmp_path, "part-1", ("c", old))
    assert _fold(tmp_path)["allocated_cost"].to_pylist() == [Decimal("2.000000000000")]


def test_money_keeps_every_decimal(tmp_path: Path) -> None:
    exact = "1234567890123456.123456789012"
    _part(tmp_path, "part-0", ("c", _allocation("cart", exact)))
    assert _fold(tmp_path)["allocated_cost"].to_pylist() == [Decimal(exact)]


def test_types_are_those_of_the_contract_and_rows_stand_in_the_order_of_their_key(
    tmp_path: Path,
) -> None:
    rows = [("c", _allocation(name, "1.0")) for name in ("search", "cart")]
    _part(tmp_path, "part-0", *rows)
    table = _fold(tmp_path)
    assert table.schema.equals(tables.SCHEMAS["cost_allocations"])
    assert table["otel_service_name"].to_pylist() == ["cart", "search"]
    assert table["window_start"].to_pylist()[0] == datetime(2025, 3, 3, 12, tzinfo=UTC)
    assert table["total_usage"].to_pylist() == [3.0, 3.0]


def test_a_table_without_rows_is_an_empty_file_of_the_right_type(tmp_path: Path) -> None:
    assert tables.fold(tmp_path, "ranked_anomalies", tmp_path) == 0
    assert pq.read_schema(tmp_path / "ranked_anomalies.parquet").equals(tables.SCHEMAS["ranked_anomalies"])


def test_a_run_in_which_no_table_has_a_row_gives_empty_files_too(tmp_path: Path) -> None:
    """The engine makes no folder then, as where the topics are empty."""
    assert tables.fold(tmp_path / "changes", "cost_allocations", tmp_path) == 0
    assert pq.read_table(tmp_path / "cost_allocations.parquet").num_rows == 0
