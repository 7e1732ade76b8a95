"""Rejects out of a real database: the same as out of the Parquet files of the same table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.migrate import migrate
from jobs.replay_rejects import read
from tests.services import Database
from tests.streamed import store
from tests.unit.literal_tables import write_outputs

pytestmark = pytest.mark.services

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)


def test_rejects_are_the_same_from_parquet_and_from_postgresql(tmp_path: Path, database: Database) -> None:
    rejected = [
        {"stream": "otlp_spans", "reason": "why", "reason_code": code, "payload": f"{{{i}",
         "rejected_at": int((NOON + timedelta(minutes=i)).timestamp() * 1000)}
        for i in range(1_500) for code in [("unreadable", "file_broken")[i % 2]]
    ]  # fmt: skip
    folder = write_outputs(tmp_path / "tables", rejected_records=rejected)
    migrate(database.url)
    store(database, folder)
    for asked in ({}, {"codes": ["unreadable"]}, {"since": NOON + timedelta(hours=20)}):
        found = sorted(read(database.url, **asked))
        assert found and found == sorted(read(str(folder), **asked))
