"""Wall time, CPU time and peak memory of one run of the job, engine and workers included.

    python -m tests.benchmarks.job --input DIR [--output DIR] [--set KEY=VALUE ...]

Spans are those of the verdicts (repeated ones count once). Memory is the sum of the proportional
set sizes of all processes of the run, sampled once a second; Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MIB = 1 << 20


def _family(root: int) -> list[int]:
    """The processes of the session that ``root`` leads."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == root:
                members.append(int(entry.name))
    return members


def _sample(pid: int) -> tuple[float, int]:
    """(CPU seconds, proportional set size in bytes) of a process; zeros when it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        pss = Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:", 1)[1].split()[0]
    except (OSError, IndexError):
        return 0.0, 0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(pss) * 1024


def main() -> int:
    """Run and measure; exits with the job's status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = arguments.output or Path(folder)
        command = [sys.executable, "-m", "jobs.anomaly_cost"]
        command += ["--input", str(arguments.input), "--output", str(output)]
        command += [word for pair in arguments.set for word in ("--set", pair)]
        started = time.monotonic()
        cpu_s: dict[int, float] = {}
        peak = 0
        with subprocess.Popen(command, start_new_session=True) as job:
            while job.poll() is None:
                samples = {pid: _sample(pid) for pid in _family(job.pid)}
                peak = max(peak, sum(pss for _, pss in samples.values()))
                for pid, (used_s, _) in samples.items():
                    cpu_s[pid] = max(used_s, cpu_s.get(pid, 0.0))
                time.sleep(1)
        wall_s = time.monotonic() - started
        if job.returncode:
            return job.returncode
        spans = pc.sum(pq.read_table(output / "trace_verdicts.parquet")["span_count"]).as_py() or 0
    print(
        f"{spans:,} spans, {wall_s:.0f} s wall, {sum(cpu_s.values()):.0f} s CPU, "
        f"{spans / wall_s:,.0f} spans a second, {peak / _MIB:,.0f} MiB peak"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
