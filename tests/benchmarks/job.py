"""Wall time, CPU time and peak memory of one run of the job, engine and workers included.

    python -m tests.benchmarks.job --input DIR [--output DIR] [--set KEY=VALUE ...]

Spans are those of the verdicts (repeated ones count once).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.benchmarks.measure import MIB, measure


def command(source: Path, output: Path, settings: list[str]) -> list[str]:
    """The job on a directory, with settings KEY=VALUE."""
    words = [sys.executable, "-m", "jobs.anomaly_cost", "--input", str(source), "--output", str(output)]
    return words + [word for pair in settings for word in ("--set", pair)]


def main() -> int:
    """Run and measure; exits with the job's status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = arguments.output or Path(folder)
        run = measure(command(arguments.input, output, arguments.set))
        if run.status:
            return run.status
        spans = pc.sum(pq.read_table(output / "trace_verdicts.parquet")["span_count"]).as_py() or 0
    print(
        f"{spans:,} spans, {run.wall_s:.0f} s wall, {run.cpu_s:.0f} s CPU, "
        f"{spans / run.wall_s:,.0f} spans a second, {run.peak_bytes / MIB:,.0f} MiB peak"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
