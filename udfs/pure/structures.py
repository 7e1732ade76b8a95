"""Sets of children: how often an operation's call makes just these calls.  (A set is a hash of 64 bits.)"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import seen_lately

# A set of children that comes less often than this is rare.
RARE = 0.01


class Structures:
    """State: sets, ascending, how often each came, and when last."""

    def __init__(self) -> None:
        self._sets = np.zeros(0, np.uint64)
        self._count = np.zeros(0)
        self._seen = np.zeros(0, np.int64)  # minute in ms

    def __len__(self) -> int:
        return len(self._sets)

    def share(self, structure: np.ndarray, calls: np.ndarray) -> np.ndarray:
        """How often an operation's call has just this set of children.  # (spans,)"""
        if not len(self._sets):
            return np.zeros(len(structure))
        at = np.minimum(np.searchsorted(self._sets, structure), len(self._sets) - 1)
        seen = np.where(self._sets[at] == structure, self._count[at], 0.0)
        return seen / np.maximum(calls, 1.0)

    def learn(self, minute_ms: int, structure: np.ndarray, weights: np.ndarray, fade: float) -> None:
        """Take in a minute's spans."""
        seen, inverse = np.unique(structure, return_inverse=True)
        counts = np.bincount(inverse, weights)
        new = seen[~np.isin(seen, self._sets)]
        if len(new):
            places = np.searchsorted(self._sets, new)
            self._sets = np.insert(self._sets, places, new)
            self._count = np.insert(self._count, places, 0.0)
            self._seen = np.insert(self._seen, places, 0)
        at = np.searchsorted(self._sets, seen)
        self._count *= fade
        self._count[at] += counts
        self._seen[at] = minute_ms

    def forget(self, before_ms: int, most: int) -> None:
        """Forget what was last seen before a time, and of more than ``most`` the oldest."""
        kept = seen_lately(self._seen, before_ms, most)
        self._sets, self._count, self._seen = self._sets[kept], self._count[kept], self._seen[kept]
