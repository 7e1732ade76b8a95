"""Whose fault a failing answer is: errors that only one caller of an operation gets are that caller's.

Grain: an operation and a service that calls it, lately. A callee that fails does so to all who ask the same of it.
Where one of them alone is answered with errors, and others ask as well, it asks in the wrong way, or for too much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.pairs import Pairs
from udfs.pure.windows import MINUTE_MS

# "Lately": counts forget with this time constant.
MEMORY_MINUTES = 15.0
# So many nats have to speak for two rates of failure, the caller's and the usual, against one that all callers have.
TELLING = np.log(20.0)


class Callers:
    """State: per (operation, service that calls it) faded counts of calls and of failures."""

    def __init__(self) -> None:
        self._pairs = Pairs()
        self._counts = np.zeros((0, 2))  # calls, failures
        self._minute_ms = 0  # of the last minute

    def __len__(self) -> int:
        return len(self._pairs)

    def is_their_own(
        self, minute_ms: int, operation: Sequence[str], caller: Sequence[str], counts: np.ndarray, usual: np.ndarray
    ) -> np.ndarray:
        """Whether each caller's failures are its own fault, by this minute and what came before.  # (pairs,)

        operation, caller: names of the minute's pairs, each once. counts: (pairs, 2) its calls and failures. usual:
        (pairs,) how often the operation's calls fail.
        """
        fade = self._fade(minute_ms)
        here: dict[str, list[int]] = {}
        for pair, name in enumerate(operation):
            here.setdefault(name, []).append(pair)
        known = self._pairs.get(operation, caller)
        own = np.zeros(len(operation), bool)
        for pair in np.flatnonzero(counts[:, 1]).tolist():
            mine = counts[pair] + (fade * self._counts[known[pair]] if known[pair] >= 0 else 0.0)
            everyone = counts[here[operation[pair]]].sum(axis=0)
            everyone = everyone + fade * self._counts[self._pairs.of(operation[pair])].sum(axis=0)
            others = np.maximum(everyone - mine, 0.0)
            pooled, rate = ((failures + 0.5) / (calls + 1.0) for calls, failures in (everyone, mine))
            says = _log_odds(mine, rate, pooled) + _log_odds(others, usual[pair], pooled)
            own[pair] = rate > pooled and says > TELLING
        return own

    def learn(self, minute_ms: int, operation: Sequence[str], caller: Sequence[str], counts: np.ndarray) -> None:
        """Take in a minute; as of ``is_their_own``."""
        places = self._pairs.see(operation, caller, minute_ms)
        self._counts = grown(self._counts * self._fade(minute_ms), len(self._pairs))
        self._minute_ms = minute_ms
        self._counts[places] += counts

    def forget(self, before_ms: int, most: int) -> None:
        """Forget what was last seen before a time, and of more than ``most`` the oldest."""
        self._counts = self._counts[self._pairs.forget(before_ms, most)]

    def _fade(self, minute_ms: int) -> float:
        return float(np.exp((self._minute_ms - minute_ms) / (MEMORY_MINUTES * MINUTE_MS)))


def _log_odds(counts: np.ndarray, rate: float, other: float) -> float:
    """By how many nats counts of calls and failures speak for one rate of failure against another."""
    calls, failures = counts
    return float(failures * np.log(rate / other) + (calls - failures) * np.log((1 - rate) / (1 - other)))
