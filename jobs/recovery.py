"""A run that outlives its engine: the same command takes the place of the process, with an engine of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from jobs import state
from jobs.config import Config
from jobs.environment import forget_engine
from jobs.errors import EngineLost, JobError
from jobs.resources import PYTHON

# In the environment of a run whose engine was lost: the newest checkpoint then, and how many engines were lost since
# that one came.
_GOES_ON = "ANOMALY_COST_GOES_ON"
_ASK_AGAIN_S = 5.0
# So many engines may end one after another without a checkpoint: what ends them is no server that is away.
_ENGINES_WITHOUT_CHECKPOINT = 10


def reach(ask: Callable[[], object]) -> None:
    """``ask`` a server, once; of a run whose engine was lost, until it answers: it did before.

    Raises:
        JobError: it doesn't answer.
    """
    while True:
        try:
            ask()
            return
        except JobError as error:
            if _GOES_ON not in os.environ:
                raise
            print(f"anomaly_cost: {error}; asking again", file=sys.stderr, flush=True)
            time.sleep(_ASK_AGAIN_S)


def restart(argv: list[str], configuration: Config, error: EngineLost) -> None:
    """Become the same command once more, with an engine of its own; the lost one ends with this process.

    The JDBC connector makes it so: where the database is away, its sink fails, and fails once more when it is closed,
    which the engine takes for the end of its worker, or of itself. A cluster's is started again by what runs it.
    Returns where nothing is kept to start from, or engines end again and again without getting anywhere.
    """
    if configuration.state is None:
        return
    checkpoint = None if configuration.bounded else state.newest(configuration.state)
    before, _, lost = os.environ.get(_GOES_ON, "").rpartition(" ")
    count = int(lost) + 1 if before == str(checkpoint) else 1
    if count > _ENGINES_WITHOUT_CHECKPOINT:
        return
    how = "going on from the last checkpoint" if checkpoint else "starting over"
    print(f"anomaly_cost: {error}: {how}", file=sys.stderr, flush=True)
    os.environ[_GOES_ON] = f"{checkpoint} {count}"
    forget_engine()
    state.hand_on_lock(configuration.state)
    os.execv(sys.executable, [*PYTHON, "-m", "jobs.anomaly_cost", *argv])
