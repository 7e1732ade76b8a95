"""How busy everybody is: one factor that all times share, and how strongly each of them feels it.

A surge of traffic, the daily rhythm or a tired database slow many services at once and are nobody's
fault. The level of a minute is what the times of most services agree on; a fault in one service
doesn't move it.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import grown

# A slot's sensitivity is taken as PRIOR_SLOPE until it showed another, with the weight of
# PRIOR_SPANS spans at a level of log 1.2.
PRIOR_SLOPE = 1.0
PRIOR_WEIGHT = 20 * np.log(1.2) ** 2
SLOPE_MAX = 5.0
# What feels the load less than this has no say in its level.
SLOPE_TELLING = 0.3
# The level follows a minute of this many spans half way.
LEVEL_SPANS = 30.0
# With fewer kinds of times than this, one that is slow can't be told from all being slow.
SLOTS_MIN = 5
# Surpluses beyond this teach no more: they aren't the load's.
CLIP = 1.0
MEMORY_MINUTES = 2880.0


class Load:
    """State: the level, and the normal equations of each slot's sensitivity."""

    def __init__(self) -> None:
        self._level = 0.0  # log of the factor on everybody's times
        self._xy = np.zeros(0)  # (slots,)
        self._xx = np.zeros(0)

    def resize(self, slots: int) -> None:
        """Have at least ``slots`` rows."""
        self._xy, self._xx = grown(self._xy, slots), grown(self._xx, slots)

    def shift(self, slot: np.ndarray, surplus: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Take the minute's level from its spans, and return what it adds to each slot.  # (slots,)

        slot, surplus (log of time over the usual), scale: (spans,) of those that are well known.
        """
        slope = self._slope()
        telling = slope[slot] > SLOPE_TELLING
        if len(np.unique(slot[telling])) >= SLOTS_MIN:
            estimate = surplus[telling] / slope[slot[telling]]
            weight = slope[slot[telling]] / scale[telling]
            order = np.lexsort((weight, estimate))
            reached = np.cumsum(weight[order])
            median = estimate[order][np.searchsorted(reached, reached[-1] / 2)]
            gain = len(order) / (len(order) + LEVEL_SPANS)
            self._level += gain * (median - self._level)
        return slope * self._level

    def learn(self, slot: np.ndarray, surplus: np.ndarray) -> None:
        """Take in how the spans of the minute just measured felt its level."""
        size = len(self._xy)
        surplus = np.clip(surplus, -CLIP, CLIP)
        order = np.lexsort((surplus, slot))
        fade = 1 - 1 / MEMORY_MINUTES
        self._xy *= fade
        self._xx *= fade
        self._xy += np.bincount(slot[order], surplus[order], minlength=size) * self._level
        self._xx += np.bincount(slot, minlength=size) * self._level**2

    def _slope(self) -> np.ndarray:
        slope = (self._xy + PRIOR_SLOPE * PRIOR_WEIGHT) / (self._xx + PRIOR_WEIGHT)
        return np.clip(slope, 0.0, SLOPE_MAX)
