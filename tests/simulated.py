"""Small worlds of the simulator, for tests of the whole job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Six hours of eight services: some 2,000 traces, a few of each kind of fault.
WORLD = ("--services", "8", "--days", "0.25", "--requests-per-day", "8000")


def simulate(target: Path, seed: int, billing: str) -> Path:
    """A small world of ``seed``."""
    command = [sys.executable, "-m", "simulator", "--output", str(target), "--seed", str(seed)]
    subprocess.run([*command, "--billing", billing, *WORLD], check=True, timeout=600)
    return target
