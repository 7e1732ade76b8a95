"""Where the tables go: a directory, PostgreSQL, Kafka; any number of them in one run.

Each output is a set of sink tables in the engine, named after it, and the statements that fill them from the views
of ``sql/outputs``. The same rows go to each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyflink.table import StreamTableEnvironment

from jobs.environment import run_sql, sql_options
from jobs.tables import KEYS, SCHEMAS

# Changes wait at most so long, and at most so many, before they are written to the database.
_FLUSH_INTERVAL, _FLUSH_ROWS, _RETRIES = "1 s", 1_000, 40


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
    """The tables of docker/postgres/migrations; url: postgresql://USER@HOST[:PORT]/DATABASE, password beside it."""

    url: str

    def create(self, t_env: StreamTableEnvironment, output: str) -> None:
        """As Directory.create."""
        parts = urlsplit(self.url)
        address = f"{parts.hostname}:{parts.port or 5432}{parts.path}"
        for name in SCHEMAS:
            columns = ", ".join(f"`{column}` {kind}" for column, (kind, _) in _postgres_columns(name).items())
            key = ", ".join(f"`{column}`" for column in POSTGRES_KEYS.get(name, KEYS[name]))
            options = {
                "connector": "jdbc",
                # The server reads text as the column's type: times, arrays and JSON have none in the connector.
                "url": f"jdbc:postgresql://{address}?stringtype=unspecified&reWriteBatchedInserts=true",
                "table-name": name,
                "username": parts.username or "",
                "password": os.environ.get("PGPASSWORD", ""),
                "sink.buffer-flush.interval": _FLUSH_INTERVAL,
                "sink.buffer-flush.max-rows": str(_FLUSH_ROWS),
                "sink.max-retries": str(_RETRIES),
            }
            t_env.execute_sql(
                f"create temporary table {output}{name} ({columns}, primary key ({key}) not enforced)"
                f" with ({sql_options(options)})"
            )

    def inserts(self, output: str) -> Iterator[str]:
        """As Directory.inserts."""
        for name in SCHEMAS:
            values = ", ".join(value for _, value in _postgres_columns(name).values())
            yield f"insert into {output}{name} select {values} from {name}_rows"


Output = Directory | Kafka | Postgres

# What PostgreSQL's keys need beside those of the tables: a partition's column; and a reject is too long for an index.
POSTGRES_KEYS = {"trace_verdicts": ("trace_id", "start_time"), "rejected_records": ("record_id",)}


def _postgres_columns(name: str) -> dict[str, tuple[str, str]]:
    """Column -> (type in the sink table, expression over the view's row)."""
    columns = {}
    for field in SCHEMAS[name]:
        column = f"`{field.name}`"
        if pa.types.is_timestamp(field.type):
            text = f"date_format({column}, 'yyyy-MM-dd''T''HH:mm:ss.SSS') || 'Z'"
            columns[field.name] = "string", text
        elif pa.types.is_list(field.type):
            # An array of text is written as its JSON is, but for the braces.
            text = f"json_string({column})"
            columns[field.name] = "string", f"'{{' || substring({text}, 2, char_length({text}) - 2) || '}}'"
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
