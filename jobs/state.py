"""``--state``: where checkpoints are kept, and which one to go on from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.config import Config

RECOVERY = "execution.state-recovery.path"
RETRIES = "restart-strategy.type"


@contextmanager
def folder(state: Path | None, target: Path | None) -> Iterator[Path]:
    """The folder of a run: within ``state``, so that it outlives the run; else a passing one, beside the tables."""
    if state is not None:
        state.mkdir(parents=True, exist_ok=True)
        yield state
        return
    with tempfile.TemporaryDirectory(prefix=".anomaly_cost-", dir=target) as scratch:
        yield Path(scratch)


def settings(configuration: Config, scratch: Path) -> dict[str, str]:
    """The engine's settings that keep and restore the state; {} where none is kept and nothing needs it."""
    if configuration.state is None:
        return {} if configuration.bounded else checkpointing(configuration) | _at(scratch)
    found = newest(scratch)
    restored = {RECOVERY: f"file://{found}"} if found else {}
    return checkpointing(configuration) | _at(scratch) | restored


def checkpointing(configuration: Config) -> dict[str, str]:
    """How often, and that what failed is tried again from the last checkpoint."""
    return {
        "execution.checkpointing.interval": f"{configuration.checkpoint_ms} ms",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "2",
        "execution.checkpointing.tolerable-failed-checkpoints": "100",
        "execution.checkpointing.incremental": "true",
        RETRIES: "exponential-delay",
    }


def _at(scratch: Path) -> dict[str, str]:
    return {"execution.checkpointing.dir": f"file://{scratch / 'checkpoints'}"}


def newest(scratch: Path) -> Path | None:
    """The last checkpoint that was completed; each start of the job has a folder of its own."""
    complete = (scratch / "checkpoints").glob("*/chk-*/_metadata")
    return max(
        (path.parent for path in complete), key=lambda path: (path / "_metadata").stat().st_mtime_ns, default=None
    )
