"""Another attribution window, for a process that is told so before anything has read W.

    python -m simulator.evaluation.window MINUTES MODULE ARGUMENTS...

runs a module as ``python -m`` would. W is a constant of the job, so nothing else may change it; here it shows what the
figures owe to it.
"""

from __future__ import annotations

import runpy
import sys

# Divisors and multiples of an hour, since charges are hourly.
MINUTES = (5, 15, 30, 60)


def attribute_by(minutes: int) -> None:
    """Set W. The bucket in which usage is metered stays a whole number of windows.

    Raises:
        RuntimeError: something has read W.
    """
    if readers := [name for name in sys.modules if name.startswith("udfs.pure.") and name != "udfs.pure.windows"]:
        raise RuntimeError(f"W is read by {readers[0]} already")
    from udfs.pure import windows

    buckets = windows.USAGE_BUCKET_MS // windows.WINDOW_MS
    windows.WINDOW_MS = minutes * windows.MINUTE_MS
    windows.USAGE_BUCKET_MS = buckets * windows.WINDOW_MS
    from simulator import charges

    charges.WINDOW_MINUTES = minutes


if __name__ == "__main__":
    attribute_by(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
