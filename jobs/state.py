"""``--state``: what outlives a run. Without an end, its checkpoints; with one, the offsets that it reads to.

A bounded run never goes on from a checkpoint, it starts over. A bounded Kafka source that was restored doesn't end:
its enumerator finds no new partition and never tells the readers that no more splits come (FLINK-31006). And its stop
offsets would be those of the restart. The tables are a function of the set of records, so that to read the same
records once more is always right, at whatever stage the run was ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from jobs import folders
from jobs.config import Config
from jobs.environment import CHECKPOINT_INTERVAL, NEVER
from jobs.errors import JobError, UsageError
from jobs.kafka import Extent, KafkaInput

RECOVERY = "execution.state-recovery.path"
RETRIES = "restart-strategy.type"

# State folder -> the file descriptor that locks it. Held as long as the process lives: its engine does, too.
_locks: dict[Path, int] = {}
# What of the folder is of no use to a later run: changelogs, what the engine spills, links to the input's files.
_PASSING = ("changes", "engine", "input")
# In the environment of what takes the place of a process: the descriptor that it takes over.
_LOCK = "ANOMALY_COST_LOCK"


@contextmanager
def folder(state: Path | None, target: Path | None) -> Iterator[Path]:
    """The folder of a run: within ``state``, so that it outlives the run; else a passing one, beside the tables.

    Raises:
        JobError: another run uses ``state``.
    """
    if state is not None:
        state.mkdir(parents=True, exist_ok=True)
        _lock(state)
        # Of a run that was killed.
        _forget_passing(state)
        _forget_checkpoints(state)
        try:
            yield state
        finally:
            _forget_passing(state)
        return
    scratch = folders.make(target or Path(tempfile.gettempdir()), ".anomaly_cost-")
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _forget_passing(state: Path) -> None:
    for name in _PASSING:
        shutil.rmtree(state / name, ignore_errors=True)


def _forget_checkpoints(state: Path) -> None:
    """Keep the last checkpoint that was completed, and what it shares with others of its start; a start of the job
    that restores it copies all of it with its own first one."""
    kept = newest(state)
    for start in (state / "checkpoints").glob("*"):
        if kept is None or start != kept.parent:
            shutil.rmtree(start, ignore_errors=True)
    for checkpoint in kept.parent.glob("chk-*") if kept else ():
        if checkpoint != kept:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _lock(state: Path) -> None:
    """Keep other processes from ``state`` until this one ends, however it ends.

    Raises:
        JobError: one has it.
    """
    if state in _locks:
        return
    path = state / "lock"
    handed_on = os.environ.pop(_LOCK, None)
    descriptor = int(handed_on) if handed_on else os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.set_inheritable(descriptor, False)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise JobError(f"--state {state}: another run uses it; end that one, or give another folder") from None
    _locks[state] = descriptor


def hand_on_lock(state: Path) -> None:
    """Let what takes the place of this process, by os.execv, have its lock."""
    os.set_inheritable(_locks[state], True)
    os.environ[_LOCK] = str(_locks[state])


def settings(configuration: Config, scratch: Path) -> dict[str, str]:
    """The engine's settings that keep and restore the state; a bounded run keeps none, since it starts over."""
    if configuration.bounded:
        return {CHECKPOINT_INTERVAL: NEVER}
    found = newest(scratch) if configuration.state else None
    restored = {RECOVERY: f"file://{found}"} if found else {}
    kept = {"execution.checkpointing.dir": f"file://{scratch / 'checkpoints'}"}
    return checkpointing(configuration) | kept | restored


def checkpointing(configuration: Config) -> dict[str, str]:
    """How often the state is kept, and that what failed is tried again from there; a bounded run, from its start,
    whatever the cluster's configuration or ``--set`` say of checkpoints."""
    retries = {RETRIES: "exponential-delay"}
    if configuration.bounded:
        return retries | {CHECKPOINT_INTERVAL: NEVER}
    return retries | {
        CHECKPOINT_INTERVAL: f"{configuration.checkpoint_ms} ms",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "2",
        "execution.checkpointing.tolerable-failed-checkpoints": "100",
        "execution.checkpointing.incremental": "true",
    }


def newest(scratch: Path) -> Path | None:
    """The last checkpoint that was completed; each start of the job has a folder of its own."""
    complete = (scratch / "checkpoints").glob("*/chk-*/_metadata")
    return max(
        (path.parent for path in complete), key=lambda path: (path / "_metadata").stat().st_mtime_ns, default=None
    )


def extents(source: KafkaInput, scratch: Path) -> dict[str, Extent]:
    """What a bounded run reads of each topic: as the broker told at its first start, which is kept until its end.

    Raises:
        UsageError: a run with another input left its offsets here.
    """
    path, whose = _extents(scratch), f"kafka://{source.servers} from {source.start}"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["input"] != whose:
            raise UsageError(f"--state {scratch}: kept for a bounded run on {kept['input']}; give another folder")
        return {topic: Extent.parse(extent) for topic, extent in kept["topics"].items()}
    found = source.ask_extents()
    partial = path.with_suffix(".partial")
    told = {"input": whose, "topics": {topic: asdict(extent) for topic, extent in found.items()}}
    partial.write_text(json.dumps(told), encoding="utf-8")
    partial.replace(path)
    return found


def forget_extents(scratch: Path) -> None:
    """The run came to its end: the same command, started again, is another run."""
    _extents(scratch).unlink(missing_ok=True)


def _extents(scratch: Path) -> Path:
    return scratch / "offsets.json"
