"""The export out of a real database: byte by byte that of the Parquet file of the same table."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.export_focus import export, main
from jobs.migrate import migrate
from tests.services import Database
from tests.streamed import store
from tests.unit.literal_tables import write_outputs
from tests.unit.test_export_focus import NOON, allocate, allocation, source_row, write_bill

pytestmark = pytest.mark.services


def test_it_is_the_same_from_parquet_and_from_postgresql(tmp_path: Path, database: Database) -> None:
    bill = [
        source_row(hours=3, EffectiveCost=f"{number}.{number}", ResourceId=f"{name}-{number}")
        for number in range(1, 9)
        for name in ("i", "I", "node-é")
    ]
    source = write_bill(tmp_path / "input", bill)
    rows = allocate(source, 7) + [
        allocation(
            "cart", "0.2", resource_id="z", cost_center="4711", when=NOON, cost_status=status, dimension=dimension
        )
        for dimension, status in (("cpu", "provisional"), ("io", "corrected"))
    ]
    folder = write_outputs(tmp_path / "tables", cost_allocations=rows)
    migrate(database.url)
    store(database, folder)
    for options in ({}, {"with_provisional": True}, {"source": source}):
        texts = []
        for of in (str(folder), database.url):
            summary = export(of, tmp_path / "out.csv", **options)
            assert summary.rows > 100
            texts.append((tmp_path / "out.csv").read_text("utf-8"))
        assert sorted(texts[0].splitlines()) == sorted(texts[1].splitlines())


def test_a_database_without_the_tables_is_one_line(tmp_path: Path, database: Database, capsys) -> None:
    url = database.url.rpartition("/")[0] + "/postgres"
    assert main(["--tables", url, "--output", str(tmp_path / "out.csv")]) == 1
    error = capsys.readouterr().err
    assert "does not exist" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
