"""The command as a user calls it: exit status, one line, no stack trace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.literal import NOON_MS, resource, span, span_request, write_lines
from udfs.pure.contract import TABLES

ROOT = Path(__file__).resolve().parents[2]


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


def _trace(trace: int) -> dict:
    return span_request((resource("cart"), [span(trace, 1, None, NOON_MS, 5)]))


def test_a_hard_input_under_paths_with_blanks_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    """... and each file that isn't is named; the checkout's own path has blanks, too. No other file is written."""
    checkout = tmp_path / "my checkout"
    for folder in ("jobs", "udfs", "sql"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "flink-conf.yaml", checkout)
    (checkout / ".venv").symlink_to(sys.prefix)
    root, target, here = tmp_path / "my input", tmp_path / "my output, of today", tmp_path / "here"
    here.mkdir()
    # What the script that starts a worker would empty: the parts of the output's path.
    precious = [here / "output,", here / "of", here / "my"]
    for path in precious:
        path.write_text("precious", encoding="utf-8")
    write_lines(root / "traces/day=1/whole lines.json.gz", [_trace(trace) for trace in range(1, 10)])
    (root / "traces/document.json").write_text(json.dumps(_trace(10), indent=2), encoding="utf-8")
    write_lines(root / "traces/cut.jsonl.gz", [_trace(trace) for trace in range(11, 999)])
    whole = (root / "traces/cut.jsonl.gz").read_bytes()
    (root / "traces/cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (root / "traces/empty.jsonl.gz").touch()
    (root / "traces/notes.txt").touch()
    write_lines(root / "metrics/a.json", [b"{ not json"])
    command = [checkout / ".venv/bin/python", "-m", "jobs.anomaly_cost", "--input", root, "--output", target]
    done = subprocess.run(
        [*command, "--set", "detector=usual"],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 files were skipped or are broken" in done.stderr
    assert all(str(root / "traces" / name) in done.stderr for name in ("cut.jsonl.gz", "empty.jsonl.gz", "notes.txt"))
    traces = [int(trace, 16) for trace in pq.read_table(target / "trace_verdicts.parquet")["trace_id"].to_pylist()]
    assert 200 < len(traces) < 990 and sorted(traces) == list(range(1, len(traces) + 1))
    rejects = pq.read_table(target / "rejected_records.parquet").to_pylist()
    assert sorted((row["reason_code"], row["payload"]) for row in rejects) == [
        ("file_broken", "traces/cut.jsonl.gz"),
        ("file_broken", "traces/empty.jsonl.gz"),
        ("file_skipped", "traces/notes.txt"),
        ("unreadable", "{ not json"),
    ]
    assert {path.name for path in target.iterdir()} == {f"{table}.parquet" for table in TABLES}
    assert {path: path.read_text(encoding="utf-8") for path in here.iterdir()} == dict.fromkeys(precious, "precious")
    assert {path.name for path in tmp_path.iterdir()} == {"my checkout", "my input", "my output, of today", "here"}
    assert {path.name for path in checkout.iterdir()} == {"jobs", "udfs", "sql", "flink-conf.yaml", ".venv"}
