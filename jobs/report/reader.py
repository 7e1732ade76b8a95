"""The tables of a run where they lie, a directory of Parquet or a PostgreSQL database, asked in the SQL that both know.

A query names its parameters ``$name``. Both give the same values for the same tables: text is ordered by its bytes,
sums of money are exact, and a database is read as it was at one moment, though a job writes to it meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import duckdb

from jobs.errors import JobError, one_line
from jobs.postgres import connection as connect
from udfs.pure import contract

TABLES = (
    "ranked_anomalies",
    "incidents",
    "trace_verdicts",
    "cost_allocations",
    "charge_anomalies",
    "rejected_records",
)
_PARAMETER = re.compile(r"\$(\w+)")
_ROWS_A_BATCH = 500


class Reader(Protocol):
    """Rows of queries over TABLES."""

    def rows(self, query: str, parameters: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        """The rows of ``query``, in its order, as dicts by column; a batch of them in memory at a time.

        Raises:
            JobError: the tables cannot be read.
        """

    def close(self) -> None:
        """Ends what it holds."""


def open_reader(tables: Path | str) -> Reader:
    """Of a directory, or of a ``postgresql://`` URL.

    Raises:
        JobError: a table is missing or cannot be read.
        UsageError: the URL is none that jobs.postgres reads.
    """
    return _Postgres(tables) if isinstance(tables, str) and "://" in tables else _Parquet(Path(tables))


def _given(query: str, parameters: Mapping[str, object]) -> dict[str, object]:
    """The parameters that the query names."""
    return {name: parameters[name] for name in set(_PARAMETER.findall(query))}


def _fetched(cursor: Any) -> Iterator[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    while batch := cursor.fetchmany(_ROWS_A_BATCH):
        for row in batch:
            yield dict(zip(names, row, strict=True))


class _Parquet:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._connection = duckdb.connect()
        self._connection.execute("set timezone = 'UTC'")
        for table in TABLES:
            path = directory / f"{table}.parquet"
            if not path.is_file():
                raise JobError(f"{path}: no such table, run python -m jobs.anomaly_cost first")
            try:
                found = self._connection.from_parquet(str(path))
                # An earlier release's tables lack what came later.
                missing = [f"null as {name}" for name in contract.TABLES[table].names if name not in found.columns]
                found.project(", ".join(["*", *missing])).create_view(table)
            except duckdb.Error as error:
                raise JobError(f"{path}: cannot be read as Parquet, {one_line(error)}") from error

    def rows(self, query: str, parameters: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        try:
            with self._connection.cursor() as cursor:
                yield from _fetched(cursor.execute(query, _given(query, parameters)))
        except duckdb.Error as error:
            raise JobError(f"{self._directory}: cannot be read, {one_line(error)}") from error

    def close(self) -> None:
        self._connection.close()


class _Postgres:
    def __init__(self, url: str) -> None:
        # What only a database needs.
        import psycopg

        self._url = url
        self._error = psycopg.Error
        try:
            self._connection = connect(url, "anomaly_cost report")
            self._connection.autocommit = False
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._connection.read_only = True
        except psycopg.Error as error:
            raise self._failure(error) from error

    def rows(self, query: str, parameters: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        named = _PARAMETER.sub(r"%(\1)s", query.replace("%", "%%"))
        try:
            # A cursor of the server's: of many rows a batch comes at a time.
            with self._connection.cursor(name="report") as cursor:
                cursor.execute(named, _given(query, parameters))
                yield from _fetched(cursor)
        except self._error as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> JobError:
        return JobError(f"{self._url}: {one_line(error)}")

    def close(self) -> None:
        self._connection.close()
