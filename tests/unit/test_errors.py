"""What a command tells its user when it cannot go on."""

from __future__ import annotations

import psycopg
import pytest

from jobs.errors import EngineLost, JobError, UsageError, ended


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UsageError("--top 0: must be a whole number from 1"), 2, "--top 0: must be a whole number from 1"),
        (JobError("no tables"), 1, "no tables"),
        (EngineLost("the engine ended"), 1, "the engine ended"),
        (psycopg.errors.UndefinedTable('relation "x" does not exist\nLINE 1: select 1 from x'), 1,
         'relation "x" does not exist'),
        (psycopg.OperationalError(), 1, "OperationalError"),
    ],
)  # fmt: skip
def test_a_command_ends_with_one_line_and_a_status(
    error: Exception, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("doctor", error) == status
    assert capsys.readouterr() == ("", f"doctor: {told}\n")
