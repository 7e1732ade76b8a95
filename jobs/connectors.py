"""The connectors' jars, pinned: Kafka and PostgreSQL for the engine that is installed.

    python -m jobs.connectors [--directory DIR]     # downloads what is missing, prints one line a jar

docker/connectors/pom.xml names the same versions, for images.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jobs.arguments import Parser
from jobs.errors import JobError, UsageError, ended
from jobs.resources import DOWNLOADS

DIRECTORY = DOWNLOADS / "connectors"
_DOWNLOAD_TIMEOUT_S = 60


@dataclass(frozen=True)
class Jar:
    """A published jar: its Maven coordinates and the SHA-256 of its bytes, in hex."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def engine(self) -> tuple[int, int] | None:
        """The Flink version that it is built for, ``5.0.0-2.2`` -> ``(2, 2)``; None = for any."""
        suffix = re.fullmatch(r".+-(\d+)\.(\d+)", self.version)
        return (int(suffix[1]), int(suffix[2])) if suffix else None


JARS = (
    Jar(
        "org.apache.flink",
        "flink-sql-connector-kafka",
        "5.0.0-2.2",
        "5605c691d11a501382c383fecba37a7a552467da5ab7ba904ef5d6f3d62c5616",
    ),
    # No later one is published; it works with 2.2.
    Jar(
        "org.apache.flink",
        "flink-connector-jdbc-core",
        "4.0.0-2.0",
        "ccb9691bf1d0f97574ae768e1bef05a39c06d7f7b13996e9d485fbdd69dcbfec",
    ),
    Jar(
        "org.apache.flink",
        "flink-connector-jdbc-postgres",
        "4.0.0-2.0",
        "b59c29dc65cafe8ae398e69072b9f6022f4a978a09002fd06a05a1a8dd3348d6",
    ),
    Jar(
        "org.postgresql",
        "postgresql",
        "42.7.14",
        "73914527305a40cce504b0d3d90b23caf565136912d607ae8ae7c5895512332c",
    ),
)


def check_engine(jars: Sequence[Jar], engine_version: str) -> None:
    """A connector fits the Flink minor that it is built for and later ones of the same major.

    Args:
        jars: of which those that are built for no Flink fit always.
        engine_version: the installed engine's, ``2.2.1``.

    Raises:
        JobError: one does not fit, or ``engine_version`` is no version.
    """
    numbers = re.match(r"(\d+)\.(\d+)", engine_version)
    if not numbers:
        raise JobError(f"the engine's version is {engine_version!r}, which starts with no MAJOR.MINOR")
    major, minor = int(numbers[1]), int(numbers[2])
    for jar in jars:
        if jar.engine and not (jar.engine[0] == major and jar.engine[1] <= minor):
            raise JobError(
                f"{jar.artifact} {jar.version} is built for Flink {jar.engine[0]}.{jar.engine[1]} and later of "
                f"{jar.engine[0]}.x, the engine is {engine_version}: install apache-flink as in requirements.lock, "
                "or pin another connector in jobs/connectors.py and docker/connectors/pom.xml"
            )


def _fetch(jar: Jar) -> Path:
    """Where the package manager keeps ``jar``, downloaded if need be; raises whatever it raises."""
    from jgo.maven import MavenContext

    context = MavenContext(timeout=_DOWNLOAD_TIMEOUT_S)
    return context.create_dependency(f"{jar.group}:{jar.artifact}:{jar.version}").artifact.resolve()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _install(jar: Jar, target: Path) -> None:
    """Put ``jar`` at ``target``; whole or not at all, so that two commands may do it at once."""
    try:
        fetched = _fetch(jar)
    except ModuleNotFoundError:  # of an extra that isn't installed
        raise
    # It raises RuntimeError, OSError and the exceptions of the HTTP library below it.
    except Exception as error:
        raise JobError(
            f"{target} is missing and could not be downloaded ({type(error).__name__}): "
            "run python -m jobs.connectors where Maven Central can be reached, or copy the jar there"
        ) from error
    found = _sha256(fetched)
    if found != jar.sha256:
        raise JobError(f"{fetched} has SHA-256 {found}, not {jar.sha256}: delete it and try again")
    number, partial = tempfile.mkstemp(prefix=f".{jar.file_name}.", dir=target.parent)
    os.close(number)
    try:
        shutil.copyfile(fetched, partial)
        os.chmod(partial, 0o644)
        os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)


def jars(directory: Path = DIRECTORY) -> list[Path]:
    """The files of ``JARS``, in that order; those that are missing are downloaded once.

    Raises:
        JobError: the engine is of another version, or a jar cannot be had or is not the pinned one.
    """
    check_engine(JARS, version("apache-flink"))
    paths = []
    for jar in JARS:
        path = directory / jar.file_name
        try:
            if not path.exists():
                directory.mkdir(parents=True, exist_ok=True)
                _install(jar, path)
        except OSError as error:
            raise JobError(f"{path}: {error.strerror}") from error
        paths.append(path.resolve())
    return paths


def main(argv: list[str], prog: str = "python -m jobs.connectors") -> int:
    """Exit status: 0, 2 for wrong use, 1 for what failed; the last two with one line."""
    parser = Parser(prog=prog, description="Download the connectors' jars.")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help=f"where to (default: {DIRECTORY})")
    try:
        arguments = parser.parse_args(argv)
        for path in jars(arguments.directory):
            print(path)
    except (UsageError, JobError) as error:
        return ended("connectors", error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
