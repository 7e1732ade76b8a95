"""A PostgreSQL URL means the same to psycopg and to JDBC, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import sinks
from jobs.errors import UsageError
from jobs.migrate import migrate
from jobs.postgres import address


@pytest.mark.parametrize(
    ("url", "connection", "jdbc_url"),
    [
        (
            "postgresql://app@db/cost",
            {"host": "db", "port": 5432, "dbname": "cost", "user": "app"},
            "jdbc:postgresql://db:5432/cost",
        ),
        (
            "postgresql://app@db:6432/cost?sslmode=verify-full&sslrootcert=%2Fetc%2Fca%20b.crt",
            {"host": "db", "port": 6432, "dbname": "cost", "user": "app", "sslmode": "verify-full",
             "sslrootcert": "/etc/ca b.crt"},
            "jdbc:postgresql://db:6432/cost?sslmode=verify-full&sslrootcert=%2Fetc%2Fca%20b.crt",
        ),
        (
            "postgresql://app@[::1]:5433/cost?application_name=a&connect_timeout=3",
            {"host": "::1", "port": 5433, "dbname": "cost", "user": "app", "application_name": "a",
             "connect_timeout": "3"},
            "jdbc:postgresql://[::1]:5433/cost?ApplicationName=a&connectTimeout=3",
        ),
        (
            "postgresql://app%40corp@db/cost%40eu%2B1",
            {"host": "db", "port": 5432, "dbname": "cost@eu+1", "user": "app@corp"},
            "jdbc:postgresql://db:5432/cost%40eu%2B1",
        ),
    ],
)  # fmt: skip
def test_both_clients_are_told_the_same(url: str, connection: dict, jdbc_url: str) -> None:
    found = address(url)
    assert (found.connection, found.jdbc_url()) == (connection, jdbc_url)


def test_the_sink_takes_all_of_the_url() -> None:
    """... and the properties that it needs beside."""
    made: list[str] = []

    class Environment:
        execute_sql = made.append

    sinks.Postgres("postgresql://a%40b@[::1]/c%40d?sslmode=verify-full").create(Environment(), "output0_")
    for table in made:
        assert "'jdbc:postgresql://[::1]:5432/c%40d?sslmode=verify-full&stringtype=unspecified" in table
        assert "'username' = 'a@b'" in table


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://app@db/cost?target_session_attrs=primary", "target_session_attrs"),
        ("postgresql://app@db/cost?sslmode=verify_full", "verify-full"),
        ("postgresql://app@db/cost?sslmode", "is not postgresql://"),
        ("postgresql://app@db/cost?password=secret", "PGPASSWORD"),
        ("postgresql://app:secret@db/cost", "PGPASSWORD"),
        ("postgresql://app:secret@db:99999/cost", "PGPASSWORD"),
        ("postgresql://app@a,b/cost", "is not postgresql://"),
        ("postgresql://app@%2Ftmp/cost", "is not postgresql://"),
        ("postgresql://app@[::1/cost", "is not postgresql://"),
        ("postgresql://app@db:0/cost", "is not postgresql://"),
        ("postgresql://app@db:99999/cost", "is not postgresql://"),
        ("postgresql://db/cost", "is not postgresql://"),
        ("postgresql://app@db", "is not postgresql://"),
        ("postgresql://app@db/cost#x", "is not postgresql://"),
    ],
)
def test_what_cannot_be_passed_on_is_refused_in_one_line(url: str, told: str) -> None:
    """... by the job and by migrate."""
    for refuse in (lambda: sinks.open_output(url, Path(), {}), lambda: migrate(url)):
        with pytest.raises(UsageError) as caught:
            refuse()
        assert told in str(caught.value)
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
