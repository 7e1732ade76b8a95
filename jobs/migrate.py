"""PostgreSQL's tables, brought up to date.

    python -m jobs.migrate postgresql://USER@HOST:PORT/DATABASE [--keep "13 months"] [--ahead "2 months"]

Applies what is new of docker/postgres/migrations, then makes the months ahead of the partitioned tables and,
with --keep, drops those that are older. The password comes from PGPASSWORD (or libpq's other ways).
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from jobs.arguments import Parser
from jobs.errors import JobError, UsageError, ended, one_line
from jobs.postgres import FORM
from jobs.postgres import connection as connect
from jobs.resources import ROOT

MIGRATIONS = ROOT / "docker" / "postgres" / "migrations"
AHEAD = "2 months"

# One lock for all that migrate a database at once; any number that no other program takes.
_LOCK = 0x616E6F6D_636F7374  # "anomcost"

# A table that is read for longer is told, not waited for: what waits here, all others wait behind.
_OPTIONS = "-c lock_timeout=30s -c client_min_messages=warning"

_RECORD = """
create schema if not exists anomaly_cost;
comment on schema anomaly_cost is 'What the tables of results are made and kept with';
create table anomaly_cost.schema_migrations (
    name text primary key,
    sha256 text not null,
    applied_at timestamptz(3) not null default now()
);
comment on table anomaly_cost.schema_migrations is 'Which migrations were applied';
comment on column anomaly_cost.schema_migrations.name is 'File name without .sql';
comment on column anomaly_cost.schema_migrations.sha256 is 'Of the file, in hex';
comment on column anomaly_cost.schema_migrations.applied_at is 'When it was applied';
"""


@dataclass(frozen=True)
class Migration:
    """A file ``NNNN_what.sql``."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(directory: Path = MIGRATIONS) -> list[Migration]:
    """The migrations of ``directory``, in order.

    Raises:
        JobError: there are none, or one is not named ``NNNN_what.sql``.
    """
    paths = sorted(directory.glob("*.sql"))
    if not paths:
        raise JobError(f"{directory}: no migrations (NNNN_what.sql)")
    for path in paths:
        if not re.fullmatch(r"\d{4}_\w+", path.stem):
            raise JobError(f"{path}: a migration is named NNNN_what.sql")
    return [Migration(path.stem, path.read_text("utf-8")) for path in paths]


def _one_line(error: psycopg.Error) -> str:
    """The server's words without its hints and positions."""
    message = error.diag.message_primary or one_line(error)
    return f"{message} ({error.sqlstate})" if error.sqlstate else message


@contextmanager
def _connection(url: str) -> Iterator[psycopg.Connection]:
    """A connection that commits each statement, and holds the lock of those that migrate."""
    try:
        with connect(url, "anomaly_cost migrate", _OPTIONS) as connection:
            connection.execute("select pg_advisory_lock(%s)", [_LOCK])
            yield connection
    except psycopg.Error as error:
        raise JobError(f"{url}: {_one_line(error)}") from error


def _apply(connection: psycopg.Connection, url: str, migrations: list[Migration]) -> list[str]:
    """Apply what is new; returns the names. Checks all before it applies any."""
    recorded = connection.execute("select to_regclass('anomaly_cost.schema_migrations')").fetchone()
    if recorded == (None,):
        with connection.transaction():
            connection.execute(_RECORD)
    applied: dict[str, str] = dict(
        connection.execute("select name, sha256 from anomaly_cost.schema_migrations").fetchall()
    )
    unknown = sorted(applied.keys() - {migration.name for migration in migrations})
    if unknown:
        raise JobError(f"{url}: {unknown[-1]} was applied and is not known here: use the version that brought it")
    for migration in migrations:
        if applied.get(migration.name, migration.sha256) != migration.sha256:
            raise JobError(
                f"{url}: {migration.name}.sql was changed after it was applied "
                f"(SHA-256 {applied[migration.name][:12]}, now {migration.sha256[:12]}): "
                "restore it and put the change into a new migration"
            )
    new = [migration for migration in migrations if migration.name not in applied]
    for migration in new:
        try:
            with connection.transaction():
                connection.execute(migration.sql)
                connection.execute(
                    "insert into anomaly_cost.schema_migrations (name, sha256) values (%s, %s)",
                    [migration.name, migration.sha256],
                )
        except psycopg.Error as error:
            raise JobError(f"{url}: {migration.name}.sql: {_one_line(error)}") from error
    return [migration.name for migration in new]


def migrate(url: str, directory: Path = MIGRATIONS) -> list[str]:
    """Apply each migration that was not applied yet, in order, each in a transaction; returns their names.

    Two at once wait for each other. ``url`` is postgresql://USER@HOST:PORT/DATABASE, its user owns the tables.

    Raises:
        UsageError: ``url`` is no such URL, or holds a password.
        JobError: the server cannot be reached or refuses, a migration was changed after it was applied, or the
            database has one that ``directory`` has not.
    """
    migrations = read_migrations(directory)
    with _connection(url) as connection:
        return _apply(connection, url, migrations)


def maintain(url: str, keep: str | None = None, ahead: str = AHEAD) -> list[str]:
    """Make the months of the partitioned tables until now + ``ahead``, drop those older than ``keep``.

    Args:
        url: as for ``migrate``, which has to be called before.
        keep: an interval of PostgreSQL above zero, ``13 months``; None = all.
        ahead: the same, zero or above.

    Returns:
        A line for each thing that was done.

    Raises:
        UsageError: a wrong ``url`` or interval.
        JobError: the server cannot be reached, or a table was in use for 30 s.
    """
    with _connection(url) as connection:
        try:
            rows = connection.execute(
                "select anomaly_cost.maintain(%s::interval, %s::interval)", [keep, ahead]
            ).fetchall()
        except psycopg.errors.DataError as error:
            raise UsageError(f"--keep or --ahead: {_one_line(error)}") from error
        return [line for (line,) in rows]


def main(argv: list[str], prog: str = "python -m jobs.migrate") -> int:
    """Exit status: 0, 2 for wrong use, 1 for what failed; the last two with one line."""
    parser = Parser(prog=prog, description="Bring PostgreSQL's tables up to date.")
    parser.add_argument("url", help=f"{FORM}; the password comes from PGPASSWORD")
    parser.add_argument("--keep", help='drop months older than this, "13 months" (default: none)')
    parser.add_argument("--ahead", default=AHEAD, help=f'make months ahead (default: "{AHEAD}")')
    try:
        arguments = parser.parse_args(argv)
        for name in migrate(arguments.url):
            print(f"applied {name}")
        for line in maintain(arguments.url, arguments.keep, arguments.ahead):
            print(line)
    except (UsageError, JobError) as error:
        return ended("migrate", error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
