"""The arguments of a command."""

from __future__ import annotations

import argparse
from typing import NoReturn

from jobs.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is for --help."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message} (--help tells the arguments)")
