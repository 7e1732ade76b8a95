"""Where the tables go: a directory, PostgreSQL, Kafka; any number of them in one run.

Each output is a set of sink tables in the engine, named after it, and the statements that fill them from the views
of ``sql/outputs``. The same rows go to each. A new kind of output is a class with the methods of ``Output``, and
``open``, and a line in ``OUTPUTS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from pyflink.table import StreamTableEnvironment

from jobs.environment import run_sql, sql_options
from jobs.errors import UsageError
from jobs.kafka import servers
from jobs.postgres import address
from udfs.attribute import ALLOCATIONS, CHARGE_ANOMALIES
from udfs.follow import INCIDENTS
from udfs.pure.contract import TABLES, Column, Table, Type
from udfs.rank import RANKED, UNIT_COSTS, UNIT_COSTS_BY_ATTRIBUTE

# Changes wait at most so long, and at most so many, before they are written to the database.
_FLUSH_INTERVAL, _FLUSH_ROWS, _RETRIES = "100 ms", 1_000, 40


class Output(Protocol):
    """A place that the tables go to."""

    def reach(self) -> None:
        """Make sure that it can be written to, before the engine starts.

        Raises:
            JobError: it does not answer, or refuses.
        """

    def create(self, t_env: StreamTableEnvironment, output: str) -> None:
        """Create the sink tables, their names beginning with ``output``."""

    def inserts(self, output: str) -> Iterator[str]:
        """The statements that fill them."""


@dataclass(frozen=True)
class Directory:
    """Changelogs as JSON in ``folder``, a subfolder a table; jobs.tables folds them."""

    folder: Path

    @classmethod
    def open(cls, url: str, changes: Path, kafka_properties: Mapping[str, str]) -> Self:
        """As ``open_output``."""
        return cls(changes)

    def reach(self) -> None:
        """A directory is made where there is none."""

    def create(self, t_env: StreamTableEnvironment, output: str) -> None:
        """As Output.create."""
        for name in TABLES:
            _create(t_env, output, name, {
                "connector": "filesystem",
                "path": f"file://{self.folder / name}",
                "format": "debezium-json",
                "debezium-json.timestamp-format.standard": "ISO-8601",
                "debezium-json.encode.decimal-as-plain-number": "true",
            })  # fmt: skip

    def inserts(self, output: str) -> Iterator[str]:
        """As Output.inserts."""
        return _inserts(output)


@dataclass(frozen=True)
class Kafka:
    """Topics named after the tables, upserts by key; properties: the client's, secrets among them."""

    servers: str
    properties: Mapping[str, str]

    @classmethod
    def open(cls, url: str, changes: Path, kafka_properties: Mapping[str, str]) -> Self:
        """As ``open_output``."""
        return cls(servers(url), kafka_properties)

    def reach(self) -> None:
        """The engine's client looks for the broker itself, and tries until it is there."""

    def create(self, t_env: StreamTableEnvironment, output: str) -> None:
        """As Output.create."""
        for name in TABLES:
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
        """As Output.inserts; a long payload is cut, for it is in the key, too, and brokers take 1 MB as a rule."""
        cut = ", ".join(_CUT if column == "payload" else f"`{column}`" for column in TABLES["rejected_records"].names)
        return _inserts(output, rejected_records=cut)


@dataclass(frozen=True)
class Postgres:
    """The tables of docker/postgres/migrations; url: postgresql://USER@HOST[:PORT]/DATABASE, password beside it.

    Rankings and costs are sent a window at a time, as one JSON row to ``anomaly_cost.restated``, where a trigger puts
    them in the place of what stood there: the rows of a window are restated together. Verdicts and rejects, which
    never vanish, are upserted one by one.
    """

    url: str

    @classmethod
    def open(cls, url: str, changes: Path, kafka_properties: Mapping[str, str]) -> Self:
        """As ``open_output``."""
        address(url)
        return cls(url)

    def reach(self) -> None:
        """Apply the migrations that the database lacks."""
        # What only this output needs.
        from jobs.migrate import migrate

        migrate(self.url)

    def create(self, t_env: StreamTableEnvironment, output: str) -> None:
        """As Output.create."""
        self._create(t_env, f"{output}restated", "anomaly_cost.restated", _RESTATED, _RESTATED_KEY)
        for name, key in _UPSERTED.items():
            types = [(column.name, _sent_type(column)) for column in _postgres_columns(TABLES[name])]
            self._create(t_env, f"{output}{name}", name, types, key)

    def _create(
        self,
        t_env: StreamTableEnvironment,
        sink: str,
        table: str,
        types: Iterable[tuple[str, str]],
        key: tuple[str, ...],
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
        t_env.execute_sql(create_table(sink, types, key, options))

    def inserts(self, output: str) -> Iterator[str]:
        """As Output.inserts."""
        for view, kind in (
            ("ranked", RANKED),
            ("ranked", UNIT_COSTS),
            ("ranked", UNIT_COSTS_BY_ATTRIBUTE),
            ("followed", INCIDENTS),
            ("attributed", ALLOCATIONS),
            ("attributed", CHARGE_ANOMALIES),
        ):
            yield (
                f"insert into {output}restated select kind, time_ms, event_key, {kind}_json(payload) from {view}"
                f" where kind = '{kind}'"
            )
        for name in _UPSERTED:
            values = ", ".join(map(_sent_value, _postgres_columns(TABLES[name])))
            yield f"insert into {output}{name} select {values} from {name}_rows"


# At most six bytes a character in JSON, and once more in the key.
_SENT_CHARS = 80_000
_CUT = (
    f"case when char_length(payload) <= {_SENT_CHARS} then payload"
    f" else substring(payload from 1 for {_SENT_CHARS}) || '... (cut, md5 of the whole ' || md5(payload) || ')' end"
)

# The way into what is restated as a whole: see docker/postgres/migrations.
_RESTATED = (("kind", "string"), ("time_ms", "bigint"), ("event_key", "string"), ("rows", "string"))
_RESTATED_KEY = ("kind", "time_ms", "event_key")
# Key of what is upserted: a partition's column is part of it; and a reject is too long for an index.
_UPSERTED = {"trace_verdicts": ("trace_id", "start_time"), "rejected_records": ("record_id",)}
_RECORD_ID = Column("record_id", Type.TEXT, "Hash of stream, reason and payload")


def _postgres_columns(table: Table) -> tuple[Column, ...]:
    return (*table.columns, _RECORD_ID) if table.name == "rejected_records" else table.columns


def _sent_type(column: Column) -> str:
    """Of a column in the sink table: times are text, which the server reads."""
    return "string" if column.type is Type.TIME else column.type.engine


def _sent_value(column: Column) -> str:
    """The expression of a column over the view's row."""
    if column is _RECORD_ID:
        return "md5(`stream` || '|' || reason || '|' || payload)"
    if column.type is Type.TIME:
        return f"date_format(`{column.name}`, 'yyyy-MM-dd''T''HH:mm:ss.SSS') || 'Z'"
    return f"`{column.name}`"


# Scheme of a URL -> its output, of (the URL, a folder for changelogs, the Kafka client's properties). A directory is
# a URL without a scheme.
OUTPUTS: dict[str, Callable[[str, Path, Mapping[str, str]], Output]] = {
    "": Directory.open,
    "file": Directory.open,
    "kafka": Kafka.open,
    "postgresql": Postgres.open,
}


def open_output(url: Path | str, changes: Path, kafka_properties: Mapping[str, str]) -> Output:
    """The output that ``url`` names.

    Args:
        url: a directory, or a URL whose scheme is one of OUTPUTS.
        changes: the folder that the changelogs of a directory go to, before they are folded.
        kafka_properties: of the Kafka client, secrets among them.

    Raises:
        UsageError: no output has such a scheme, or its output can't be told from the URL.
    """
    scheme, separator, _ = str(url).partition("://")
    opens = OUTPUTS.get(scheme if separator else "")
    if opens is None:
        known = ", ".join(f"{known}://" for known in OUTPUTS if known)
        raise UsageError(f"{url}: {scheme}:// is not known, use a directory or one of {known}")
    return opens(str(url), changes, kafka_properties)


def create_rows(t_env: StreamTableEnvironment, rejected_at_ms: int) -> None:
    """Create the views of ``sql/outputs``, the rows of each table.

    rejected_at_ms: the time that rejected_records shows.
    """
    columns = {name: ",\n    ".join(map(_selected, table.columns)) for name, table in TABLES.items()}
    sent = {f"{name}_sent": ",\n    ".join(map(_sent_name, table.columns)) for name, table in TABLES.items()}
    run_sql(t_env, "outputs", rejected_at_ms=str(rejected_at_ms), **columns, **sent)


def _sent_name(column: Column) -> str:
    """As the functions send it: times as ms."""
    return f"`{column.name}_ms`" if column.type is Type.TIME else f"`{column.name}`"


def _selected(column: Column) -> str:
    """A column as its table has it, of the one that was sent."""
    if column.type is Type.TIME:
        return f"to_timestamp_ltz({_sent_name(column)}, 3) as `{column.name}`"
    if column.type is Type.MONEY:
        return f"cast(`{column.name}` as {column.type.engine}) as `{column.name}`"
    return f"`{column.name}`"


def create_table(
    name: str,
    types: Iterable[tuple[str, str]],
    key: tuple[str, ...],
    options: Mapping[str, str],
) -> str:
    """The statement that creates a sink table; types: name and type of each column, in order."""
    columns = "".join(f"    `{column}` {kind},\n" for column, kind in types)
    quoted = ", ".join(f"`{column}`" for column in key)
    return (
        f"create temporary table {name} (\n{columns}    primary key ({quoted}) not enforced\n)"
        f" with ({sql_options(options)})"
    )


def _inserts(output: str, **selected: str) -> Iterator[str]:
    """selected: table -> what of its rows is sent, where that is not all of them as they are."""
    for name in TABLES:
        yield f"insert into {output}{name} select {selected.get(name, '*')} from {name}_rows"


def _create(t_env: StreamTableEnvironment, output: str, name: str, options: Mapping[str, str]) -> None:
    table = TABLES[name]
    types = [(column.name, column.type.engine) for column in table.columns]
    t_env.execute_sql(create_table(f"{output}{name}", types, table.key, options))
