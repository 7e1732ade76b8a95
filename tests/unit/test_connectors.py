"""The connectors' jars: pinned once for Python and for images, and checked against the engine."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from jobs import connectors
from jobs.connectors import JARS, Jar, check_engine
from jobs.errors import JobError
from jobs.resources import ROOT

POM = ROOT / "docker" / "connectors" / "pom.xml"
MAVEN = {"m": "http://maven.apache.org/POM/4.0.0"}
ANY = Jar("group", "artifact", "1.0", hashlib.sha256(b"a jar").hexdigest())


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Jar]:
    """Only ``ANY`` is pinned, with the bytes ``a jar``; the list is of what was downloaded."""
    fetched: list[Jar] = []

    def fetch(jar: Jar) -> Path:
        fetched.append(jar)
        cached = tmp_path / "cached.jar"
        cached.write_bytes(b"a jar")
        return cached

    monkeypatch.setattr(connectors, "_fetch", fetch)
    monkeypatch.setattr(connectors, "JARS", (ANY,))
    return fetched


def test_images_get_the_same_versions() -> None:
    dependencies = ET.parse(POM).getroot().iterfind("m:dependencies/m:dependency", MAVEN)
    named = [
        tuple(dependency.findtext(f"m:{tag}", None, MAVEN) for tag in ("groupId", "artifactId", "version"))
        for dependency in dependencies
    ]
    assert named == [(jar.group, jar.artifact, jar.version) for jar in JARS]


def test_the_version_tells_the_engine() -> None:
    assert {jar.artifact: jar.engine for jar in JARS} == {
        "flink-sql-connector-kafka": (2, 2),
        "flink-connector-jdbc-core": (2, 0),
        "flink-connector-jdbc-postgres": (2, 0),
        "postgresql": None,
    }


def test_the_pinned_jars_fit_the_installed_engine() -> None:
    check_engine(JARS, version("apache-flink"))


@pytest.mark.parametrize("built_for, engine", [("5.0-2.2", "2.2.1"), ("4.0-2.0", "2.2.1"), ("1-2.9", "2.10.0")])
def test_a_connector_fits_its_minor_and_later_ones(built_for: str, engine: str) -> None:
    check_engine([replace(ANY, version=built_for)], engine)


@pytest.mark.parametrize("built_for, engine", [("5.0-2.2", "2.1.0"), ("3.4-1.20", "2.2.1"), ("5.0-2.2", "3.2.0")])
def test_a_connector_that_does_not_fit_is_told_in_one_line(built_for: str, engine: str) -> None:
    with pytest.raises(JobError) as told:
        check_engine([replace(ANY, version=built_for)], engine)
    line = str(told.value)
    assert built_for in line and engine in line and "\n" not in line


def test_jars_are_downloaded_once(published: list[Jar], tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    first, second = connectors.jars(target), connectors.jars(target)
    assert first == second == [target / "artifact-1.0.jar"]
    assert first[0].read_bytes() == b"a jar"
    assert published == [ANY]
    assert [path.name for path in target.iterdir()] == ["artifact-1.0.jar"]


def test_another_file_under_the_name_of_a_jar_is_refused(
    published: list[Jar], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(connectors, "JARS", (replace(ANY, sha256="0" * 64),))
    with pytest.raises(JobError, match="SHA-256") as told:
        connectors.jars(tmp_path / "target")
    assert "\n" not in str(told.value)
    assert list((tmp_path / "target").iterdir()) == []


def test_no_network_is_told_in_one_line(
    published: list[Jar], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(jar: Jar) -> Path:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(connectors, "_fetch", fail)
    assert connectors.main(["--directory", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1 and "artifact-1.0.jar is missing" in told.err


def test_the_command_prints_one_line_a_jar(
    published: list[Jar], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert connectors.main(["--directory", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'artifact-1.0.jar'}\n"
