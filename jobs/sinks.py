"""Where the tables go: a directory, PostgreSQL, Kafka; any number of them in one run.

Each output is a set of sink tables in the engine, named after it, and the statements that fill them from the views
of ``sql/outputs``. The same rows go to each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyflink.table import StreamTableEnvironment

from jobs.environment import run_sql, sql_options
from jobs.postgres import address
from jobs.tables import SCHEMAS
from udfs.attribute import ALLOCATIONS, CHARGE_ANOMALIES
from udfs.rank import RANKED

# Changes wait at most so long, and at most so many, before they are written to the database.
_FLUSH_INTERVAL, _FLUSH_ROWS, _RETRIES = "300 ms", 1_000, 40


@dataclass(frozen=True)
class Directory:
    """Changelogs as JSON in ``folder``, a subfolder a table; jobs.tables folds them."""

    folder: Path

    def create(self, t_env: StreamTableEnvironment, output: str) -> None:
        """Create the sink tables, their names beginning with ``output``."""
        for name in SCHEMAS:
            _create(t_env, output, name, {
                "connector": "filesystem",
                "path": f"file://{self.folder / name}",
                "format": "debezium-json",
                "debezium-json.timestamp-format.standard": "ISO-8601",
                "debezium-json.encode.decimal-as-plain-number": "true",
            })  # fmt: skip

    def inserts(self, output: str) -> Iterator[str]:
        """Statements that fill them."""
        return _inserts(output)


@dataclass(frozen=True)
class Kafka:
    """Topics named after the tables, upserts by key; properties: the client's, secrets among them."""

    servers: str
    properties: Mapping[str, str]

    def create(self, t_env: StreamTableEnvironment, output: str) -> None:
        """As Directory.create."""
        for name in SCHEMAS:
            _create(t_env, output, name, {
                "connector": "upsert-kafka",
                "topic": name,
                "properties.bootstrap.servers": self.servers,
                **{f"properties.{key}": value for key, value in self.properties.items()},
                "key.format": "json",
                "key.json.timestamp-format.standard": "ISO-8601",
                "value.format": "json",
                "value.json.timestamp-format.standard": "ISO-8601",
                "value.json.encode.decimal-as-plain-number": "true",
            })  # fmt: skip

    def inserts(self, output: str) -> Iterator[str]:
        """As Directory.inserts."""
        return _inserts(output)


@dataclass(frozen=True)
class Postgres:
    """The tables of docker/postgres/migrations; url: postgresql://USER@HOST[:PORT]/DATABASE, password beside it.

    Rankings and costs are sent a window at a time, as one JSON row to ``anomaly_cost.restated``, where a trigger puts
    them in the place of what stood there: the rows of a window are restated together. Verdicts and rejects, which
    never vanish, are upserted one by one.
    """

    url: str

    def create(self, t_env: StreamTableEnvironment, output: str) -> None:
        """As Directory.create."""
        restated = {"kind": "string", "time_ms": "bigint", "event_key": "string", "rows": "string"}
        self._create(t_env, f"{output}restated", "anomaly_cost.restated", restated, ("kind", "time_ms", "event_key"))
        for name, key in _UPSERTED.items():
            columns = {column: kind for column, (kind, _) in _postgres_columns(name).items()}
            self._create(t_env, f"{output}{name}", name, columns, key)

    def _create(
        self, t_env: StreamTableEnvironment, sink: str, table: str, columns: Mapping[str, str], key: tuple[str, ...]
    ) -> None:
        server = address(self.url)
        options = {
            "connector": "jdbc",
            # The server reads text as the column's type: times and JSON have none in the connector.
            "url": server.jdbc_url(stringtype="unspecified", reWriteBatchedInserts="true"),
            "table-name": table,
            "username": server.user,
            "password": os.environ.get("PGPASSWORD", ""),
            "sink.buffer-flush.interval": _FLUSH_INTERVAL,
            "sink.buffer-flush.max-rows": str(_FLUSH_ROWS),
            "sink.max-retries": str(_RETRIES),
        }
        listed = ", ".join(f"`{column}` {kind}" for column, kind in columns.items())
        quoted = ", ".join(f"`{column}`" for column in key)
        t_env.execute_sql(
            f"create temporary table {sink} ({listed}, primary key ({quoted}) not enforced)"
            f" with ({sql_options(options)})"
        )

    def inserts(self, output: str) -> Iterator[str]:
        """As Directory.inserts."""
        for view, kind in (("ranked", RANKED), ("attributed", ALLOCATIONS), ("attributed", CHARGE_ANOMALIES)):
            yield (
                f"insert into {output}restated select kind, time_ms, event_key, {kind}_json(payload) from {view}"
                f" where kind = '{kind}'"
            )
        for name in _UPSERTED:
            values = ", ".join(value for _, value in _postgres_columns(name).values())
            yield f"insert into {output}{name} select {values} from {name}_rows"


Output = Directory | Kafka | Postgres

# Key of what is upserted: a partition's column is part of it; and a reject is too long for an index.
_UPSERTED = {"trace_verdicts": ("trace_id", "start_time"), "rejected_records": ("record_id",)}


def _postgres_columns(name: str) -> dict[str, tuple[str, str]]:
    """Column -> (type in the sink table, expression over the view's row)."""
    columns = {}
    for field in SCHEMAS[name]:
        column = f"`{field.name}`"
        if pa.types.is_timestamp(field.type):
            text = f"date_format({column}, 'yyyy-MM-dd''T''HH:mm:ss.SSS') || 'Z'"
            columns[field.name] = "string", text
        else:
            columns[field.name] = _TYPES[str(field.type)], column
    if name == "rejected_records":
        columns["record_id"] = "string", "md5(`stream` || '|' || reason || '|' || payload)"
    return columns


_TYPES = {
    "string": "string", "int64": "bigint", "double": "double", "bool": "boolean",
    "decimal128(28, 12)": "decimal(28, 12)",
}  # fmt: skip


def _inserts(output: str) -> Iterator[str]:
    for name in SCHEMAS:
        yield f"insert into {output}{name} select * from {name}_rows"


def _create(t_env: StreamTableEnvironment, output: str, name: str, options: Mapping[str, str]) -> None:
    run_sql(t_env, "sinks", f"*_{name}", output=output, options=sql_options(options))
