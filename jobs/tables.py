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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from udfs.pure.contract import TABLES, Type

_ARROW = {
    Type.TEXT: pa.string(),
    Type.JSON: pa.string(),
    Type.INTEGER: pa.int64(),
    Type.REAL: pa.float64(),
    Type.FLAG: pa.bool_(),
    Type.NAMES: pa.list_(pa.string()),
    Type.TIME: pa.timestamp("ms", tz="UTC"),
    Type.MONEY: pa.decimal128(28, 12),
}

SCHEMAS: dict[str, pa.Schema] = {
    name: pa.schema({column.name: _ARROW[column.type] for column in table.columns}) for name, table in TABLES.items()
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


def _value(value: Any, kind: pa.DataType) -> object:
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
    table = pq.read_table(unsorted).sort_by([(column, "ascending") for column in TABLES[name].order])
    finished = target / f".{name}.parquet"
    pq.write_table(table, finished)
    finished.replace(target / f"{name}.parquet")
    return rows
