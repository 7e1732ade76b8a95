"""What runs when, and what tests of the engine share: the job, a broker, a database and a cluster, once a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lengths import LENGTHS, LONG

Tables = dict[str, pa.Table]

# No test depends on how fast the machine is.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

# The login of the store that tests of buckets start: the engine's workers know what was there when it started.
os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hush"}


# What one worker runs in a row, the longest first; the first beginning of a test's path that fits counts. So those that
# share what is dear (the one world in Kafka and the tables of it, the cluster) stay together, and what an engine needs
# is started once a worker. Other tests go one by one, at the end, to who has nothing to do: both are busy until then.
TOGETHER = {
    "tests/e2e/test_cluster.py": "stream",
    "tests/e2e/test_kafka_postgres.py": "stream",
    "tests/e2e/test_bounded_restart.py": "restart",
    "tests/minicluster/": "engine",
    "tests/e2e/test_restatement.py": "restatement",
    "tests/e2e/test_simulated_world.py": "simulated",
    "tests/e2e/test_savepoint.py": "savepoint",
    "tests/e2e/": "services",
    "tests/unit/test_bill_in_stores.py": "stores",
}
_ORDER = list(dict.fromkeys(TOGETHER.values()))


def _together(nodeid: str) -> str:
    """The name of what the test stays together with; its own, where it is by itself."""
    return next((name for start, name in TOGETHER.items() if nodeid.startswith(start)), nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say of each test whether it is slow: see the markers in pyproject.

    What starts an engine or a server is, unless it shares the one engine of the world of all cases.
    """
    for item in items:
        if {"minicluster", "e2e"} & set(item.path.parts):
            item.add_marker("minicluster")
            if "tables" not in item.fixturenames:
                item.add_marker("slow")
        if item.get_closest_marker("train"):
            item.add_marker("slow")
            item.add_marker(pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed: make train"))
        if item.get_closest_marker("long_only"):
            item.add_marker("long")
            item.add_marker(pytest.mark.skipif(LENGTHS is not LONG, reason="it is long: make test-long"))
        if item.get_closest_marker("node"):
            item.add_marker("slow")
            reason = "npm is not installed (Debian: apt-get install npm), which brings Azurite"
            item.add_marker(pytest.mark.skipif(not which("npm"), reason=reason))
    items.sort(key=lambda item: _ORDER.index(name) if (name := _together(item.nodeid)) in _ORDER else len(_ORDER))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """What runs beside what. (xdist's groups by marker do nothing under pytest 9.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _together(nodeid)

    # As they are collected, not by the number of tests.
    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tables]:
    """Run the job over a directory, or a broker's topics as they stand; returns its tables. ``settings`` are ``--set``
    pairs. In this process: an engine starts quickly where there was one before."""
    # Here, so that tests that need no engine don't wait for its import.
    from jobs import config, tables
    from jobs.anomaly_cost import prepare
    from jobs.submission import run

    def run_job(source: Path | str, *settings: str) -> Tables:
        target = tmp_path_factory.mktemp("tables")
        argv = ["--input", str(source), "--output", str(target), "--bounded"]
        run(config.load([*argv, *(word for pair in settings for word in ("--set", pair))]), prepare)
        return {name: pq.read_table(target / f"{name}.parquet") for name in tables.SCHEMAS}

    return run_job
