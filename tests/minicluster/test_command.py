"""The command as a user calls it: exit status, one line, no stack trace."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from tests.literal import NOON_MS, resource, span, span_request, write_lines


def _call(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jobs.anomaly_cost", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def _assert_one_line(done: subprocess.CompletedProcess, status: int, *told: str) -> None:
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if " s  " not in line]
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in told), lines[0]
    assert done.stdout == ""


def test_wrong_use_exits_2_with_one_line(tmp_path: Path) -> None:
    _assert_one_line(_call(), 2, "--input")
    _assert_one_line(_call("--input", tmp_path, "--output", tmp_path, "--fast"), 2, "--fast")


def test_an_empty_directory_exits_2_with_one_line(tmp_path: Path) -> None:
    done = _call("--input", tmp_path, "--output", tmp_path / "out")
    _assert_one_line(done, 2, str(tmp_path), "traces/*.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("traces/a.jsonl.gz", b"not gzip at all", "cannot be read"),
        ("billing/a.csv", b"Colour,Size\nred,1\n", "not a FOCUS bill"),
        ("billing/a.parquet", b"PAR1 no more", "can't be read"),
    ],
)
def test_an_unreadable_file_is_named_before_the_engine_starts(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    path.write_bytes(content)
    _assert_one_line(_call("--input", tmp_path, "--output", tmp_path / "out"), 1, path.name, told)


def test_a_file_that_breaks_off_fails_the_job_with_one_line(tmp_path: Path) -> None:
    requests = [span_request((resource("cart"), [span(trace, 1, None, NOON_MS, 5)])) for trace in range(1, 999)]
    path = tmp_path / "in/traces/a.jsonl.gz"
    write_lines(path, requests)
    whole = path.read_bytes()
    assert gzip.decompress(whole)
    path.write_bytes(whole[: len(whole) // 2])
    done = _call("--input", tmp_path / "in", "--output", tmp_path / "out")
    _assert_one_line(done, 1, "Unexpected end of ZLIB input stream")
    assert not list((tmp_path / "out").glob("*.parquet"))
    assert "Caused by" in (tmp_path / "out/anomaly_cost.log").read_text(encoding="utf-8")
