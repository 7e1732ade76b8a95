"""What the times of one service have in common within a minute (garbage collection, a noisy neighbour, the network).

n spans of a minute say no more than their mean does, whose variance is scale^2 / n and what minutes have in common
beside it.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.reading import OFF_MAX, Reading

# Forgets with this time constant, and is thought to be nothing until so many minutes told.
WANDER_MINUTES, WANDER_YOUTH = 120.0, 5.0


class Wander:
    """State: per (service, kind of time) the sum of the variances that whole minutes have in common, and minutes."""

    def __init__(self) -> None:
        self._sums = np.zeros((0, 2))  # (slots, 2)

    def resize(self, slots: int) -> None:
        """Have at least ``slots`` rows."""
        self._sums = grown(self._sums, slots)

    def reset(self, slots: np.ndarray) -> None:
        """Nothing is known of these rows."""
        self._sums[slots] = 0.0

    def together(self, reading: Reading) -> np.ndarray:
        """What each span's time counts for in the sum over its minute, from 0 to 1.  # (spans,)"""
        slot = reading.load_slot
        counts = np.bincount(slot[reading.is_known], minlength=len(self._sums))
        total, minutes = self._sums.T
        common = np.maximum(total, 0.0) / (minutes + WANDER_YOUTH)
        return 1 / (1 + np.maximum(counts - 1, 0) * common)[slot]

    def learn(self, reading: Reading, times: np.ndarray) -> None:
        """Take in what a minute's times have in common, in variances of the operations' own.

        times: (spans,) how far each may teach."""
        known = np.flatnonzero(reading.is_known)
        slot, rows = reading.load_slot[known], len(self._sums)
        counts = np.bincount(slot, minlength=rows)
        z = np.clip(reading.surplus[known] / np.sqrt(reading.variance[known]), -OFF_MAX, OFF_MAX)
        seen = counts > 1
        each = counts[seen]
        mean = np.bincount(slot, z, rows)[seen] / each
        spread = np.bincount(slot, z * z, rows)[seen] / each - mean**2
        weight = (np.bincount(slot, times[known], rows)[seen] / each)[:, None]
        self._sums[seen] *= 1 - weight / WANDER_MINUTES
        self._sums[seen] += weight * np.column_stack([mean**2 - spread / (each - 1), np.ones(len(each))])
