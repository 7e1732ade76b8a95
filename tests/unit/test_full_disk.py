"""A full disk is told in one line that names what was full, whoever found it so."""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from pathlib import Path

import pytest
from pyflink.util.exceptions import JavaException

from jobs import submission
from jobs.anomaly_cost import main

NO_SPACE = os.strerror(errno.ENOSPC)
Usage = namedtuple("Usage", "free")

# As a write that Python made, Arrow, and the engine have it.
FOUND = [
    OSError(errno.ENOSPC, NO_SPACE),
    OSError(f"[Errno 28] Error writing bytes to file. Detail: [errno 28] {NO_SPACE}"),
    JavaException(f"java.io.IOException: {NO_SPACE}"),
]


@pytest.mark.parametrize("error", FOUND, ids=["python", "arrow", "engine"])
@pytest.mark.parametrize("full", ["tables", "tmp"])
def test_a_full_disk_is_named_in_one_line(
    error: Exception, full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces/a.jsonl").write_text("{}")
    places = {"tables": tmp_path / "tables", "tmp": tmp_path / "tmp"}

    def start_engine(*_: object) -> None:
        raise error

    def disk_usage(place: Path) -> Usage:
        return Usage(0 if place == places[full] else 1 << 40)

    monkeypatch.setattr(submission, "start_engine", start_engine)
    monkeypatch.setattr(submission.folders, "without_blanks", lambda: places["tmp"])
    monkeypatch.setattr(submission.shutil, "disk_usage", disk_usage)
    argv = ["--input", str(tmp_path), "--output", str(places["tables"]), "--set", "detector=usual"]
    assert main(argv) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"anomaly_cost: {places[full]}: the disk is full\n")


def test_another_failure_to_write_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def start_engine(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/home/x")

    monkeypatch.setattr(submission, "start_engine", start_engine)
    argv = ["--input", str(tmp_path), "--output", str(tmp_path / "tables"), "--set", "detector=usual"]
    assert main(argv) == 1
    assert capsys.readouterr().err == "anomaly_cost: [Errno 30] Read-only file system: '/home/x'\n"
