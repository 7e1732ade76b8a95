"""Embedded sinks: the engine writes changelogs, and the client folds each to the final state of its table.

A changelog is folded as a multiset of whole rows: at parallelism 2 the order of rows across part
files means nothing, so "the last row of a key" would not be a definition. A row stands when it was
inserted more often than it was deleted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_TIME = pa.timestamp("ms", tz="UTC")
_MONEY = pa.decimal128(28, 12)
_NAMES = pa.list_(pa.string())

# The types of interface.md, section 3.
SCHEMAS: dict[str, pa.Schema] = {
    "ranked_anomalies": pa.schema(
        {
            "anomaly_id": pa.string(),
            "window_start": _TIME,
            "window_end": _TIME,
            "otel_service_name": pa.string(),
            "rank": pa.int64(),
            "cost_weighted_score": pa.float64(),
            "anomaly_score": pa.float64(),
            "threshold": pa.float64(),
            "anomalous_traces": pa.int64(),
            "total_traces": pa.int64(),
            "attributed_cost": _MONEY,
            "excess_cost": _MONEY,
            "projected_monthly_cost": _MONEY,
            "billing_currency": pa.string(),
            "cost_status": pa.string(),
            "anomaly_kind": pa.string(),
            "affected_services": _NAMES,
            "exemplar_trace_ids": _NAMES,
            "explanation": pa.string(),
            "model_version": pa.string(),
            "updated_at": _TIME,
        }
    ),
    "trace_verdicts": pa.schema(
        {
            "trace_id": pa.string(),
            "start_time": _TIME,
            "root_service_name": pa.string(),
            "root_operation": pa.string(),
            "span_count": pa.int64(),
            "anomaly_score": pa.float64(),
            "threshold": pa.float64(),
            "is_anomalous": pa.bool_(),
            "culprit_service_name": pa.string(),
            "culprit_operation": pa.string(),
            "anomaly_kind": pa.string(),
            "model_version": pa.string(),
            "verdict_state": pa.string(),
        }
    ),
    "cost_allocations": pa.schema(
        {
            "window_start": _TIME,
            "resource_id": pa.string(),
            "dimension": pa.string(),
            "otel_service_name": pa.string(),
            "usage": pa.float64(),
            "total_usage": pa.float64(),
            "share": pa.float64(),
            "resource_cost": _MONEY,
            "allocated_cost": _MONEY,
            "billing_currency": pa.string(),
            "cost_status": pa.string(),
        }
    ),
    "charge_anomalies": pa.schema(
        {
            "window_start": _TIME,
            "resource_id": pa.string(),
            "dimension": pa.string(),
            "window_end": _TIME,
            "billed_cost": _MONEY,
            "expected_cost": _MONEY,
            "anomaly_score": pa.float64(),
            "billing_currency": pa.string(),
        }
    ),
    "rejected_records": pa.schema(
        {
            "stream": pa.string(),
            "reason": pa.string(),
            "payload": pa.string(),
            "event_time": _TIME,
            "rejected_at": _TIME,
        }
    ),
}

# The key of each table, as in sql/sinks.
KEYS = {
    "ranked_anomalies": ("anomaly_id",),
    "trace_verdicts": ("trace_id",),
    "cost_allocations": (
        "window_start",
        "resource_id",
        "dimension",
        "otel_service_name",
        "billing_currency",
    ),
    "charge_anomalies": ("window_start", "resource_id", "dimension", "billing_currency"),
    "rejected_records": ("stream", "reason", "payload"),
}

# The order in which the rows of each table stand: the same tables are the same files. Where not said, by key.
_SORT = KEYS | {
    "ranked_anomalies": ("window_start", "rank", "billing_currency", "otel_service_name"),
    "trace_verdicts": ("start_time", "trace_id"),
}

_ROWS_A_BATCH = 20_000


def _changes(folder: Path) -> Iterator[tuple[int, dict]]:
    """(+1 or -1, row) for each line of the part files."""
    for part in sorted(folder.rglob("*")):
        # A file that is still named in-progress belongs to a run that did not end.
        if part.is_file() and not part.name.startswith((".", "_")):
            with part.open("rb") as lines:
                for line in lines:
                    change = json.loads(line, parse_float=Decimal)
                    yield (-1, change["before"]) if change["op"] == "d" else (1, change["after"])


def _digest(row: dict) -> bytes:
    """What tells a row from any other."""
    return blake2b(repr(row).encode(), digest_size=16).digest()


def _value(value: object, kind: pa.DataType) -> object:
    if value is None:
        return None
    if pa.types.is_timestamp(kind):
        return datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    if pa.types.is_decimal(kind):
        return Decimal(str(value))
    if pa.types.is_floating(kind):
        return float(value)
    return value


def fold(folder: Path, name: str, target: Path) -> int:
    """Fold the changelog of table ``name`` in ``folder`` to Parquet; returns its number of rows.

    The first pass counts rows by digest, the second writes those that stand: memory grows with the
    number of rows by some 100 bytes each, not with their size.
    """
    schema = SCHEMAS[name]
    count: Counter[bytes] = Counter()
    for sign, row in _changes(folder / name):
        digest = _digest(row)
        count[digest] += sign
        if not count[digest]:
            del count[digest]
    # Where no table has a row, the engine made no folder.
    folder.mkdir(parents=True, exist_ok=True)
    unsorted = folder / f"{name}.parquet"
    rows = 0
    with pq.ParquetWriter(unsorted, schema) as writer:
        batch: list[dict] = []
        for sign, row in _changes(folder / name):
            if sign < 0 or not (standing := count.pop(_digest(row), 0)):
                continue
            batch += [{c.name: _value(row[c.name], c.type) for c in schema}] * standing
            rows += standing
            if len(batch) >= _ROWS_A_BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch.clear()
        writer.write_table(pa.Table.from_pylist(batch, schema))
    table = pq.read_table(unsorted).sort_by([(column, "ascending") for column in _SORT[name]])
    finished = target / f".{name}.parquet"
    pq.write_table(table, finished)
    finished.replace(target / f"{name}.parquet")
    return rows
