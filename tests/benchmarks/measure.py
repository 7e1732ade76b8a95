"""Wall time, CPU time and peak memory of a command, all processes that it starts included.

    python -m tests.benchmarks.measure --json FILE COMMAND [ARGUMENT ...]

Memory is the sum of the proportional set sizes, sampled once a second; Linux only. Exits with the command's status.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

MIB = 1 << 20
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SAMPLE_S = 0.1  # of CPU times, so that little is lost of a process that nobody waits for
_SAMPLES_A_SIZE = 10  # reading the sizes of an engine's memory costs it time


@dataclass(frozen=True)
class Run:
    """A measured run. status: of the command's exit; cpu_s: user and system; peak_bytes: proportional set sizes."""

    status: int
    wall_s: float
    cpu_s: float
    peak_bytes: int


def measure(command: Sequence[str]) -> Run:
    """Run the command in a session of its own, to its end."""
    started, waited_s = time.monotonic(), _waited_s()
    cpu_s: dict[int, float] = {}
    peak = samples = 0
    with subprocess.Popen(command, start_new_session=True) as process:
        while process.poll() is None:
            family = _family(process.pid)
            for pid in family:
                cpu_s[pid] = max(_cpu_s(pid), cpu_s.get(pid, 0.0))
            if samples % _SAMPLES_A_SIZE == 0:
                peak = max(peak, sum(map(_size, family)))
            samples += 1
            time.sleep(_SAMPLE_S)
    # What the kernel has counted of those that were waited for is exact, and misses those that outlived their parents.
    return Run(process.returncode, time.monotonic() - started, max(sum(cpu_s.values()), _waited_s() - waited_s), peak)


def _waited_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _family(root: int) -> set[int]:
    """``root``, what it started, in whatever session, and what is left in its own session of those that ended."""
    with suppress(psutil.NoSuchProcess):
        started = {root, *(child.pid for child in psutil.Process(root).children(recursive=True))}
        return started.union(pid for pid in psutil.pids() if _session(pid) == root)
    return set()


def _session(pid: int) -> int:
    """The session of a process; -1 when it has gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process; 0 when it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _size(pid: int) -> int:
    """Proportional set size of a process in bytes; 0 when it has gone."""
    try:
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:", 1)[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def main() -> int:
    """Run and measure; exits with the command's status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    run = measure(arguments.command)
    arguments.json.write_text(json.dumps(asdict(run)))
    return run.status


if __name__ == "__main__":
    sys.exit(main())
