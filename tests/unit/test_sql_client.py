"""The SQL client's tables are those of the sinks: one is a copy of the other that a person can source."""

from __future__ import annotations

import re

import pytest

from jobs.environment import SQL
from jobs.tables import SCHEMAS

_TABLE = re.compile(r"create (?:temporary )?table (?:\$\{output\})?(\w+) \((.+?)\n\) with", re.DOTALL)
CLIENT = dict(_TABLE.findall((SQL / "client/init.sql").read_text("utf-8")))
SINKS = dict(_TABLE.findall("\n".join(path.read_text("utf-8") for path in sorted((SQL / "sinks").glob("*.sql")))))


@pytest.mark.parametrize("name", SCHEMAS)
def test_columns_and_keys_are_the_sink_s(name: str) -> None:
    assert CLIENT[name] == SINKS[name]


def test_none_is_missing_nor_more() -> None:
    assert list(CLIENT) == list(SINKS) == list(SCHEMAS)
