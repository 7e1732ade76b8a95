"""The wheel in an environment of its own, from a folder of its own: all that the job reads comes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.migrate import read_migrations
from tests.services import ROOT, Database

pytestmark = pytest.mark.services

SOURCES = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "flink-conf.yaml",
    "jobs",
    "udfs",
    "simulator",
    "sql",
    "docker",
    "docs",
)


class Installed:
    """An environment with the wheel, and the folder that its commands are called in."""

    def __init__(self, environment: Path, here: Path) -> None:
        self.bin, self.here = environment / "bin", here

    def call(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess:
        """What a command of the environment says; it fails where the command does."""
        name, *arguments = map(str, command)
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [self.bin / name, *arguments], cwd=self.here, env=inherited | variables, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of this tree; what it needs comes from the tests' own environment, not from the network."""
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools would leave its build in the checkout, and take from it what an earlier one left.
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = folder.glob("anomaly_cost-*.whl")
    environment = folder / "environment"
    venv.create(environment)
    installs = [*pip, "--python", environment / "bin/python", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(installs, check=True, timeout=300)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (environment / "lib" / version / "site-packages/needed.pth").write_text(sysconfig.get_path("purelib"))
    # What lies in the current folder under the same names is nobody's.
    here = folder / "here"
    for package in ("jobs", "udfs"):
        (here / package).mkdir(parents=True)
        (here / package / "__init__.py").write_text("raise RuntimeError('of the current folder')")
    return Installed(environment, here)


def test_it_is_what_is_called(installed: Installed) -> None:
    code = "import jobs, udfs, simulator; print(jobs.__file__, udfs.__file__, simulator.__file__)"
    found = installed.call("python", "-P", "-c", code).stdout.split()
    assert all(Path(path).is_relative_to(installed.bin.parent) for path in found)
    assert "  simulate " in installed.call("anomaly-cost", "--help").stdout
    for command in ("run", "respond", "export", "train"):
        assert f"usage: anomaly-cost {command} " in installed.call("anomaly-cost", command, "--help").stdout


def test_it_runs_the_job_from_a_world_to_its_report(installed: Installed) -> None:
    here = installed.here
    size = ("--services", "6", "--days", "0.15", "--requests-per-day", "6000")
    installed.call("anomaly-cost", "simulate", "--output", "world", "--seed", "7", *size)
    (here / "pipeline.toml").write_text('input = "world"\noutput = "tables"\n', encoding="utf-8")
    shown = installed.call("anomaly-cost", "run", "--pipeline", "pipeline.toml").stdout
    assert "Anomalies by excess cost" in shown
    ranked = pq.read_table(here / "tables/ranked_anomalies.parquet").to_pylist()
    # The detector's model came along, too.
    assert ranked and all(row["model_version"].startswith("masked") for row in ranked)
    installed.call("anomaly-cost", "report", "--tables", "tables", "--input", "world", "--html", "report.html")
    assert ranked[0]["otel_service_name"] in (here / "report.html").read_text(encoding="utf-8")
    installed.call("anomaly-cost", "doctor", "--input", "world")
    installed.call("anomaly-cost", "export", "--tables", "tables", "--output", "focus.csv")
    assert {path.name for path in here.iterdir()} == {
        "jobs", "udfs", "world", "pipeline.toml", "tables", "report.html", "focus.csv"
    }  # fmt: skip


def test_it_migrates_a_database(installed: Installed, database: Database) -> None:
    with database.another("wheel") as url:
        said = installed.call("anomaly-cost", "migrate", url).stdout.splitlines()
    applied = [f"applied {migration.name}" for migration in read_migrations()]
    assert said[: len(applied)] == applied
