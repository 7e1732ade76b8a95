"""How long the times of a service take at each demand on it, compared with what they usually take.

A service that nears its capacity lets its callers wait. As slow as it has been at a demand before, it is by its demand
and nobody's fault.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.demand import MEMORY_MINUTES

# A curve is straight between points, each at a demand of the square root of 2 times the one before.
STEP, POINTS = np.log(2.0) / 2, 48
# A point is thought to be like the one below it until so many minutes told.
YOUTH_MINUTES = 5.0
# A minute of so many spans tells half as much as one of many.
TELLING_SPANS = 10.0


class Curves:
    """State: per slot and point, the sum over minutes of the mean log time above the usual, and how many they were.

    The usual is of all demands, and so is the mean of a curve. All fade.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((0, POINTS))
        self._minutes = np.zeros((0, POINTS))
        self._spread = np.zeros((0, 2))  # squares of how far minutes were off the curve, and how many they were

    def resize(self, slots: int) -> None:
        """Have at least ``slots`` rows."""
        for name in ("_sums", "_minutes", "_spread"):
            setattr(self, name, grown(getattr(self, name), slots))

    def reset(self, slots: np.ndarray) -> None:
        """Nothing is known of these rows."""
        self._sums[slots] = self._minutes[slots] = self._spread[slots] = 0.0

    def renew(self, slots: np.ndarray) -> None:
        """Let these be learnt quickly: as if each point had been told by YOUTH_MINUTES at most."""
        few = YOUTH_MINUTES / np.maximum(self._minutes[slots], YOUTH_MINUTES)
        self._sums[slots] *= few
        self._minutes[slots] *= few

    def shift(self, demand: np.ndarray) -> np.ndarray:
        """What the demand adds to the log times of each slot: demand makes nothing faster.  # (slots,)

        It is shrunken by how uncertain it is (James and Stein 1961), to nothing where it is no more than chance.
        demand: (slots,) log of it, at least 0.
        """
        curve = self._curve()
        usual = (curve * self._minutes).sum(axis=1) / (self._minutes.sum(axis=1) + YOUTH_MINUTES)
        places = _places(demand)
        beyond = np.maximum(_between(curve, *places) - usual, 0.0)
        squares, minutes = self._spread.T
        told = _between(self._minutes, *places)
        variance = squares / np.maximum(minutes, 1e-9) * told / (told + YOUTH_MINUTES) ** 2
        return np.maximum(beyond - variance / np.maximum(beyond, 1e-9), 0.0)

    def learn(self, demand: np.ndarray, slot: np.ndarray, above: np.ndarray, weight: np.ndarray) -> None:
        """Take in a minute.

        demand: as in ``shift``. slot, above, weight: (spans,) log time above the usual, and how far each may teach.
        """
        slots = len(self._sums)
        counts = np.bincount(slot, minlength=slots)
        seen = np.flatnonzero(counts)
        mean = np.bincount(slot, above, slots)[seen] / counts[seen]
        telling = np.bincount(slot, weight, slots)[seen] / (counts[seen] + TELLING_SPANS)
        low, part = _places(demand[seen])
        off = mean - _between(self._curve()[seen], low, part)
        for table in (self._sums, self._minutes, self._spread):
            table *= 1 - 1 / MEMORY_MINUTES
        self._spread[seen] += telling[:, None] * np.column_stack([off**2, np.ones(len(seen))])
        for point, share in ((low, 1 - part), (low + 1, part)):
            self._sums[seen, point] += telling * share * mean
            self._minutes[seen, point] += telling * share

    def _curve(self) -> np.ndarray:
        """Log times above the usual at each point.  # (slots, POINTS)"""
        curve = np.zeros_like(self._sums)
        below = np.zeros(len(curve))
        for point in range(POINTS):
            told, minutes = self._sums[:, point], self._minutes[:, point]
            below = curve[:, point] = (told + YOUTH_MINUTES * below) / (minutes + YOUTH_MINUTES)
        return curve


def _places(demand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the point below each demand, how far it is to the next)  # 2 x (rows,)"""
    at = np.clip(demand / STEP, 0.0, POINTS - 1.001)
    low = at.astype(np.int64)
    return low, at - low


def _between(table: np.ndarray, low: np.ndarray, part: np.ndarray) -> np.ndarray:
    """What a table has at places of its rows.  # (rows,)"""
    rows = np.arange(len(table))
    return (1 - part) * table[rows, low] + part * table[rows, low + 1]
