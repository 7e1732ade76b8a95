"""What a command tells its user when it cannot go on: one line, and the exit status that goes with it."""

from __future__ import annotations

import sys


class UsageError(Exception):
    """The command was called wrongly (exit 2)."""


class JobError(Exception):
    """The command was called rightly and failed (exit 1)."""


class EngineLost(JobError):
    """The embedded engine ended, or its worker; a new one goes on from the last checkpoint, if there is one."""


def one_line(error: Exception) -> str:
    """What an error says, without the hints and positions that a server adds below it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def ended(command: str, error: Exception) -> int:
    """Tells on standard error, in one line, what ended ``command``; returns its exit status."""
    print(f"{command}: {one_line(error)}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1
