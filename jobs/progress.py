"""What a run shows while it works, and the one line it leaves when it fails."""

from __future__ import annotations

from pathlib import Path

from pyflink.table import TableResult


def wait(result: TableResult, scratch: Path) -> None:
    result.wait()
