"""What a command tells its user when it cannot go on: one line, and the exit status that goes with it."""

from __future__ import annotations


class UsageError(Exception):
    """The command was called wrongly (exit 2)."""


class JobError(Exception):
    """The command was called rightly and failed (exit 1)."""


class EngineLost(JobError):
    """The embedded engine ended, or its worker; a new one goes on from the last checkpoint, if there is one."""
