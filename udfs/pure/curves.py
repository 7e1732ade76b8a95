"""How long the times of a service take at each demand on it, compared with what they usually take.

A service that nears its capacity lets its callers wait. As slow as it has been at a demand before, it is by its demand
and nobody's fault.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import grown

# A curve is straight between points, each at a demand of the square root of 2 times the one before.
STEP, POINTS = np.log(2.0) / 2, 48
# A point is thought to be like the one below it until so many minutes told.
YOUTH_MINUTES = 5.0
# A minute of so many spans tells half as much as one of many.
TELLING_SPANS = 10.0
MEMORY_MINUTES = 2880.0


class Curves:
    """State: per slot and point, the sum over minutes of the mean log time above the usual, and how many they were."""

    def __init__(self) -> None:
        self._sums = np.zeros((0, POINTS))
        self._minutes = np.zeros((0, POINTS))

    def resize(self, slots: int) -> None:
        """Have at least ``slots`` rows."""
        self._sums, self._minutes = grown(self._sums, slots), grown(self._minutes, slots)

    def reset(self, slots: np.ndarray) -> None:
        """Nothing is known of these rows."""
        self._sums[slots] = self._minutes[slots] = 0.0

    def renew(self, slots: np.ndarray) -> None:
        """Let these be learnt quickly: as if each point had been told by YOUTH_MINUTES at most."""
        few = YOUTH_MINUTES / np.maximum(self._minutes[slots], YOUTH_MINUTES)
        self._sums[slots] *= few
        self._minutes[slots] *= few

    def shift(self, demand: np.ndarray) -> np.ndarray:
        """What the demand adds to the log times of each slot.  # (slots,)

        Beyond the mean over all demands, which is what the usual is of; demand makes nothing faster.
        demand: (slots,) log of it, at least 0.
        """
        curve = np.zeros_like(self._sums)
        below = np.zeros(len(curve))
        for point in range(POINTS):
            told, minutes = self._sums[:, point], self._minutes[:, point]
            below = curve[:, point] = (told + YOUTH_MINUTES * below) / (minutes + YOUTH_MINUTES)
        usual = (curve * self._minutes).sum(axis=1) / (self._minutes.sum(axis=1) + YOUTH_MINUTES)
        low, part = _places(demand)
        rows = np.arange(len(curve))
        return np.maximum((1 - part) * curve[rows, low] + part * curve[rows, low + 1] - usual, 0.0)

    def learn(self, demand: np.ndarray, slot: np.ndarray, above: np.ndarray, weight: np.ndarray) -> None:
        """Take in a minute.

        demand: as in ``shift``. slot, above, weight: (spans,) log time above the usual, and how far each may teach.
        """
        slots = len(self._sums)
        counts = np.bincount(slot, minlength=slots)
        seen = np.flatnonzero(counts)
        mean = np.bincount(slot, above, slots)[seen] / counts[seen]
        telling = np.bincount(slot, weight, slots)[seen] / (counts[seen] + TELLING_SPANS)
        fade = 1 - 1 / MEMORY_MINUTES
        self._sums *= fade
        self._minutes *= fade
        low, part = _places(demand[seen])
        for point, share in ((low, 1 - part), (low + 1, part)):
            self._sums[seen, point] += telling * share * mean
            self._minutes[seen, point] += telling * share


def _places(demand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the point below each demand, how far it is to the next)"""
    at = np.clip(demand / STEP, 0.0, POINTS - 1.001)
    low = at.astype(np.int64)
    return low, at - low
