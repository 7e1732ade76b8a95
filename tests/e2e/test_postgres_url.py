"""All of a postgresql:// URL reaches the server, by psycopg and by JDBC."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from jobs.migrate import migrate
from tests.literal import NOON_MS, resource, span, span_request, write_lines
from tests.services import Database
from tests.streamed import run

pytestmark = pytest.mark.services

USER, NAME, APPLICATION = "app@corp", "cost %+'eu", "the job & I"
URL = "postgresql://app%40corp@127.0.0.1:{port}/cost%20%25%2B%27eu?application_name=the%20job%20%26%20I&sslmode={mode}"


def test_names_are_decoded_and_parameters_are_passed_on(database: Database, tmp_path: Path) -> None:
    """A server without TLS is written to where that is allowed, and refused where TLS is asked for."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(SQL("create role {} login superuser").format(Identifier(USER)))
        connection.execute(SQL("create database {} owner {}").format(Identifier(NAME), Identifier(USER)))
        port = connection.info.port
    url = URL.format(port=port, mode="disable")
    migrate(url)
    with psycopg.connect(host="127.0.0.1", port=port, dbname=NAME, user=USER) as connection:
        connection.execute("alter table trace_verdicts add sent_by text default current_setting('application_name')")
    write_lines(tmp_path / "in/traces/a.jsonl", [span_request((resource("cart"), [span(1, 1, None, NOON_MS, 5)]))])
    arguments = ("--input", str(tmp_path / "in"), "--set", "detector=usual", "--output")
    done = run(*arguments, url)
    assert done.returncode == 0, done.stderr[-2000:]
    with psycopg.connect(host="127.0.0.1", port=port, dbname=NAME, user=USER) as connection:
        assert connection.execute("select sent_by from trace_verdicts").fetchall() == [(APPLICATION,)]
    refused = run(*arguments, URL.format(port=port, mode="verify-full"))
    assert refused.returncode == 1
    assert "SSL" in refused.stderr and len(refused.stderr.splitlines()) == 1, refused.stderr
