"""``python -m simulator --output DIR --seed N``: a world of telemetry, a bill, and the truth.

Exit 2 with one line for wrong use, 1 with one line for what failed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from simulator.config import UsageError, parse
from simulator.run import run
from simulator.world import build

# At least this long between two lines of progress.
_PROGRESS_SECONDS = 2.0


def main(argv: Sequence[str], prog: str = "python -m simulator") -> int:
    """Simulate one world; the exit status."""
    begun = shown = time.monotonic()

    def progress(share: float, requests: int, spans: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _PROGRESS_SECONDS:
            shown = now
            print(
                f"simulator: {share:6.1%}  {requests:,} requests, {spans:,} spans, {now - begun:.0f} s", file=sys.stderr
            )

    try:
        config, output = parse(argv, prog)
        tally = run(build(config), output, progress)
    except UsageError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 1
    print(
        f"simulator: {tally.requests:,} traces ({tally.anomalous / max(tally.requests, 1):.1%} "
        f"anomalous, {tally.faults} faults), {tally.spans:,} spans, "
        f"{tally.billed_cost:.2f} USD billed ({tally.excess_cost:.2f} by faults) "
        f"in {output}, {time.monotonic() - begun:.0f} s",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
