"""The arguments of a command."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import NoReturn

from jobs.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is for --help."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message} (--help tells the arguments)")


def moment(text: str, told: str, kinds: str = "a time") -> datetime:
    """A time in ISO 8601, with its zone.

    told: what a person wrote, for messages.
    kinds: what may be given.

    Raises:
        UsageError: it is none, or has no zone.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{told}: must be {kinds} as 2025-03-03T00:00Z") from None
    if found.tzinfo is None:
        raise UsageError(f"{told}: say the time and its zone, as in {found.isoformat(timespec='minutes')}Z")
    return found
