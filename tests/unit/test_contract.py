"""The tables stand once, in udfs/pure/contract.py: each copy is compared with it, column by column."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from jobs import contract, migrate
from jobs.resources import ROOT
from jobs.tables import SCHEMAS
from udfs.pure.contract import TABLES, Table

Columns = dict[str, tuple[str, ...]]


def differences(place: str, table: str, found: Columns, expected: Columns, is_ordered: bool = True) -> list[str]:
    """What a copy of a table has otherwise than the contract, a line a column; its place first."""
    told = [f"{place}: {table} lacks {name} {' '.join(expected[name])}" for name in expected if name not in found]
    told += [f"{place}: {table} has {name}, which the contract has not" for name in found if name not in expected]
    told += [
        f"{place}: {table}.{name} is {' '.join(found[name])}, in the contract {' '.join(expected[name])}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    if not told and is_ordered and list(found) != list(expected):
        told.append(f"{place}: {table} has its columns in the order {', '.join(found)}")
    return told


# ---- the SQL client -------------------------------------------------------------------------

_CLIENT_TABLE = re.compile(r"create table (\w+) \((.+?)\n\) with", re.DOTALL)
_CLIENT_COLUMN = re.compile(r"^\s*`?(\w+)`? (.+?),?$", re.MULTILINE)


def client_tables(script: str) -> dict[str, tuple[Columns, str]]:
    """Columns (type and nullability) and key of each table of the SQL client."""
    tables = {}
    for name, body in _CLIENT_TABLE.findall(script):
        columns, _, key = body.partition("primary key (")
        found = {column: (kind,) for column, kind in _CLIENT_COLUMN.findall(columns)}
        tables[name] = found, key.partition(")")[0].replace("`", "")
    return tables


def of_client(table: Table) -> Columns:
    return {c.name: (c.type.engine + (" not null" if c.name in table.key else ""),) for c in table.columns}


def test_the_sql_client_has_the_contract_s_tables() -> None:
    tables = client_tables(contract.CLIENT.read_text("utf-8"))
    assert list(tables) == list(TABLES)
    for name, (columns, key) in tables.items():
        told = differences("sql/client/init.sql (run python -m jobs.contract)", name, columns, of_client(TABLES[name]))
        assert not told, "\n".join(told)
        assert key == ", ".join(TABLES[name].key), f"sql/client/init.sql: key of {name}"


@pytest.mark.parametrize("path", contract.RENDERED, ids=lambda path: path.name)
def test_what_is_written_from_the_contract_is_up_to_date(path) -> None:
    text = path.read_text("utf-8")
    assert contract.RENDERED[path](text) == text, f"{path}: run python -m jobs.contract"


# ---- the documentation ----------------------------------------------------------------------

_DOCUMENTED = re.compile(r"^### `(\w+)`\n(.+?)(?=^#|^<!--)", re.DOTALL | re.MULTILINE)
_DOCUMENTED_COLUMN = re.compile(r"^\| (\*\*)?(\w+)(?:\*\*)? \| `(.+?)` \|", re.MULTILINE)


def test_the_documentation_has_the_contract_s_tables() -> None:
    tables = dict(_DOCUMENTED.findall(contract.INTERFACE.read_text("utf-8")))
    assert list(tables) == list(TABLES)
    for name, body in tables.items():
        found = {column: (kind, "key" if bold else "") for bold, column, kind in _DOCUMENTED_COLUMN.findall(body)}
        key = TABLES[name].key
        expected = {c.name: (c.type.engine, "key" if c.name in key else "") for c in TABLES[name].columns}
        told = differences("docs/interface.md (run python -m jobs.contract)", name, found, expected)
        assert not told, "\n".join(told)


def test_what_the_code_cites_is_in_the_tree() -> None:
    """Pages by their path from the root, sections by their number."""
    sections = set(re.findall(r"^## (\d)\.", contract.INTERFACE.read_text("utf-8"), re.MULTILINE))
    cited = re.compile(r"[\w/]*interface\.md(?:\)?,? (?:§|section )(\d))?")
    for folder in ("jobs", "udfs", "simulator", "sql", "docker", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".sql", ".yaml"):
                for citation in cited.finditer(path.read_text("utf-8")):
                    assert citation[0].startswith("docs/interface.md"), f"{path}: {citation[0]}"
                    assert citation[1] is None or citation[1] in sections, f"{path}: {citation[0]}"


# ---- PostgreSQL -----------------------------------------------------------------------------

_CREATED = re.compile(r"create table public\.(\w+) \((.+?)\n\)", re.DOTALL)
_CREATED_COLUMN = re.compile(r"^    (?!primary key|--)(\w+) (\S.*?),?$", re.MULTILINE)
_ADDED = re.compile(r"alter table public\.(\w+)\s+add column (\w+) ([^;]+);")
_COMMENT = re.compile(r"comment on (table|column) public\.(\w+)(?:\.(\w+))? is\s+'((?:[^']|'')*)'")
# How the sink stores a table otherwise: see jobs.sinks.
_STORED = {"rejected_records": {"record_id": ("text", "Hash of stream, reason and payload")}}


def migrated() -> tuple[dict[str, Columns], dict[str, str]]:
    """Columns (type and comment) of each table after all migrations, and the tables' comments."""
    text = "\n".join(migration.sql for migration in migrate.read_migrations())
    comments = {(table, column): words.replace("''", "'") for _, table, column, words in _COMMENT.findall(text)}
    types: dict[str, dict[str, str]] = {}
    for table, body in _CREATED.findall(text):
        types[table] = dict(_CREATED_COLUMN.findall(body))
    for table, column, kind in _ADDED.findall(text):
        types[table][column] = kind
    columns = {
        table: {
            column: (re.sub(r" (not null|primary key).*", "", kind), comments.get((table, column), "without a comment"))
            for column, kind in of_table.items()
        }
        for table, of_table in types.items()
    }
    return columns, {table: words for (table, column), words in comments.items() if not column}


@pytest.mark.parametrize("name", TABLES)
def test_the_migrations_make_the_contract_s_tables(name: str) -> None:
    columns, comments = migrated()
    table = TABLES[name]
    expected = _STORED.get(name, {}) | {c.name: (c.type.postgres, c.comment) for c in table.columns}
    # Rows are inserted by name, and a column that is added is the last.
    told = differences("docker/postgres/migrations", name, columns[name], expected, is_ordered=False)
    assert not told, "\n".join(told)
    assert comments[name].startswith(f"{table.comment} A row is {table.grain}"), comments[name]


# ---- the copies that are made at run time ---------------------------------------------------


def test_keys_and_orders_are_columns() -> None:
    for table in TABLES.values():
        assert {*table.key, *table.order} <= set(table.names)
        assert len(set(table.names)) == len(table.names)
        assert all(column.comment and not column.comment.endswith(".") for column in table.columns)


def test_parquet_has_the_contract_s_columns() -> None:
    assert {name: tuple(schema.names) for name, schema in SCHEMAS.items()} == {
        name: table.names for name, table in TABLES.items()
    }


# ---- the comparison itself ------------------------------------------------------------------


def _but(columns: Mapping[str, tuple[str, ...]], **changes: tuple[str, ...] | None) -> Columns:
    return {name: kind for name, kind in ({**columns, **changes}).items() if kind is not None}


def test_a_difference_names_the_column_and_the_place() -> None:
    columns = of_client(TABLES["trace_verdicts"])
    assert differences("here", "trace_verdicts", _but(columns, threshold=None), columns) == [
        "here: trace_verdicts lacks threshold double"
    ]
    assert differences("here", "trace_verdicts", _but(columns, more=("string",)), columns) == [
        "here: trace_verdicts has more, which the contract has not"
    ]
    assert differences("here", "trace_verdicts", _but(columns, threshold=("bigint",)), columns) == [
        "here: trace_verdicts.threshold is bigint, in the contract double"
    ]
    [told] = differences("here", "trace_verdicts", dict(reversed(columns.items())), columns)
    assert "in the order verdict_state, model_version" in told
