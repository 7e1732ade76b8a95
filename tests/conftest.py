"""What runs when, and what tests of the engine share: the job, a broker, a database and a cluster, once a session."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Tables = dict[str, pa.Table]

# No test depends on how fast the machine is.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say of each test which target of the Makefile runs it, and beside which others: see the markers in pyproject.

    What starts an engine or a server is slow, unless it shares the one engine of the world of all cases. Of two
    workers, one runs what reads Kafka, the other whatever else starts an engine: each has its session's fixtures.
    """
    for item in items:
        if {"minicluster", "e2e"} & set(item.path.parts):
            item.add_marker("minicluster")
        if item.get_closest_marker("minicluster"):
            item.add_marker(pytest.mark.xdist_group("services" if item.get_closest_marker("services") else "engine"))
            if "tables" not in item.fixturenames:
                item.add_marker("slow")
        if item.get_closest_marker("train"):
            item.add_marker("slow")
            item.add_marker(pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed: make train"))


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tables]:
    """Run the job over a directory; returns its tables. ``settings`` are ``--set`` pairs."""
    # Here, so that tests that need no engine don't wait for its import.
    from jobs import config, tables
    from jobs.anomaly_cost import prepare
    from jobs.submission import run

    def run_job(source: Path, *settings: str) -> Tables:
        target = tmp_path_factory.mktemp("tables")
        argv = ["--input", str(source), "--output", str(target)]
        run(config.load([*argv, *(word for pair in settings for word in ("--set", pair))]), prepare)
        return {name: pq.read_table(target / f"{name}.parquet") for name in tables.SCHEMAS}

    return run_job
