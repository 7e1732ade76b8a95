"""The job on an embedded MiniCluster, run over literal records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Tables = dict[str, pa.Table]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"minicluster", "e2e"} & set(item.path.parts):
            item.add_marker(pytest.mark.minicluster)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Tables]:
    """Run the job over a directory; returns its tables. ``settings`` are ``--set`` pairs."""
    # Here, so that tests that need no engine don't wait for its import.
    from jobs import config, tables
    from jobs.anomaly_cost import run

    runs = iter(range(100))

    def run_job(source: Path, *settings: str) -> Tables:
        target = tmp_path / f"tables-{next(runs)}"
        argv = ["--input", str(source), "--output", str(target)]
        run(config.load([*argv, *(word for pair in settings for word in ("--set", pair))]))
        return {name: pq.read_table(target / f"{name}.parquet") for name in tables.SCHEMAS}

    return run_job
