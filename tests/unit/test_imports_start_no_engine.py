"""A JVM that starts on import would take none of the settings that the job makes for it."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_job_starts_no_jvm() -> None:
    code = "import jobs.anomaly_cost, pyflink.java_gateway as g; assert g._gateway is None, 'JVM started'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
