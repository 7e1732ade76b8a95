"""How busy everybody is: one factor that times share, and how strongly each kind of them feels it.

A surge of traffic, the daily rhythm or a tired host slow many services at once and are nobody's
fault. The level of a minute is what the own times of most services agree on; a fault in a few of
them doesn't move it.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import SCALE_CLIP, SCALE_NORM, grown

# How a kind of time feels the level until it showed otherwise, as if PRIOR_SPANS at a level of
# log 1.2 had told it.
PRIOR_SLOPE = 1.0
PRIOR_WEIGHT = 20 * np.log(1.2) ** 2
SLOPE_MAX = 5.0
# Below this a level is mostly noise, and would teach that nobody feels it.
LEVEL_TELLING = 0.1
# The level follows a minute of this many spans half way.
LEVEL_SPANS = 30.0
# Of fewer services than this, a slow one can't be told from all being slow.
SERVICES_MIN = 5
# What lies further from the expected than this teaches no more: it isn't the load's.
CLIP = 0.5
MEMORY_MINUTES = 2880.0


class Load:
    """State: the level (a log factor), and the normal equations of each slot's slope."""

    def __init__(self) -> None:
        self._level = 0.0
        self._spread = 0.0  # log of the factor on variances
        self._xy = np.zeros(0)  # (slots,)
        self._xx = np.zeros(0)

    def resize(self, slots: int) -> None:
        """Have at least ``slots`` rows."""
        self._xy, self._xx = grown(self._xy, slots), grown(self._xx, slots)

    def reset(self, slots: np.ndarray) -> None:
        """Nothing is known of these rows."""
        self._xy[slots] = self._xx[slots] = 0.0

    def follow(self, service: np.ndarray, surplus: np.ndarray, scale: np.ndarray) -> None:
        """Bring the level up to the minute: the median surplus, each service with one voice.

        service, surplus (log of own time over the usual), scale: (spans,) of what is well known.
        """
        services, index, counts = np.unique(service, return_inverse=True, return_counts=True)
        if len(services) < SERVICES_MIN:
            self._level = self._spread = 0.0
            return
        weight = 1 / (scale * counts[index])
        order = np.lexsort((weight, surplus))
        reached = np.cumsum(weight[order])
        median = surplus[order][np.searchsorted(reached, reached[-1] / 2)]
        gain = len(order) / (len(order) + LEVEL_SPANS)
        self._level += gain * (median - self._level)
        z = (surplus - self._level) / scale
        spread = np.bincount(index, np.minimum(z * z, SCALE_CLIP**2)) / counts / SCALE_NORM
        self._spread += gain * (np.log(max(float(np.median(spread)), 1.0)) - self._spread)

    def widening(self) -> float:
        """The factor, at least 1, by which everybody's times vary more than usual (of variances)."""
        return float(np.exp(self._spread))

    def shift(self) -> np.ndarray:
        """What the level adds to the log times of each slot.  # (slots,)"""
        slope = (self._xy + PRIOR_SLOPE * PRIOR_WEIGHT) / (self._xx + PRIOR_WEIGHT)
        return np.clip(slope, 0.0, SLOPE_MAX) * self._level

    def learn(self, slot: np.ndarray, surplus: np.ndarray) -> None:
        """Take in how the spans of the minute felt its level."""
        if abs(self._level) < LEVEL_TELLING:
            return
        size = len(self._xy)
        order = np.lexsort((surplus, slot))
        slot, surplus = slot[order], surplus[order]
        expected = self.shift()[slot]
        surplus = expected + np.clip(surplus - expected, -CLIP, CLIP)
        fade = 1 - 1 / MEMORY_MINUTES
        self._xy = fade * self._xy + self._level * np.bincount(slot, surplus, size)
        self._xx = fade * self._xx + self._level**2 * np.bincount(slot, minlength=size)
