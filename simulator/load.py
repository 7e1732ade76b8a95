"""``anomaly-cost replay``: locust with the load replay as its locustfile; the options are in ``locustfile.py``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str], prog: str = "python -m simulator.load") -> int:
    """Run locust; it exits with its own status: 2 for wrong use, 1 for what failed, each with one line."""
    # It patches the standard library when it is imported, and reads its arguments from nowhere else.
    from locust import events
    from locust.main import main as locust

    @events.init_command_line_parser.add_listener
    def name(parser: ArgumentParser) -> None:
        parser.description, parser.epilog = f"Usage: {prog} [options]", None

    sys.argv = [prog, "-f", str(Path(__file__).with_name("locustfile.py")), *argv]
    locust()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
