"""Folders that belong to a process and go with it; what a killed one left behind goes with the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_LOCK = "lock"
# The lock of each folder is held as long as this process lives.
_locks: list[int] = []


def make(parent: Path, prefix: str) -> Path:
    """A new folder in ``parent``, its name beginning with ``prefix``; others of that prefix that nobody holds go."""
    for left in parent.glob(f"{prefix}*"):
        if not _is_held(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    # Under its name once it is locked: else another process might take the folder for one that was left.
    unlocked = folder / f".{_LOCK}"
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unlocked.rename(folder / _LOCK)
    _locks.append(descriptor)
    return folder


def _is_held(folder: Path) -> bool:
    """Whether a process has ``folder``; of one without a lock nobody knows."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def without_blanks() -> Path:
    """Where temporary folders go whose paths hold no blank: the engine's scripts quote none."""
    usual = tempfile.gettempdir()
    for folder in (usual, "/tmp", "/var/tmp", "/dev/shm"):
        if not any(map(str.isspace, folder)) and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    return Path(usual)
