"""A shift that lasts: a service that is slow for an hour of data, and nothing but slow, is so by now.

It is told as long as the hour goes by, as the change that it is, and then learnt. What fails, calls again and again, or
uses more than it did goes on costing somebody something, and stays an anomaly however long it lasts.

A fault of hours may have been learnt as well: once its service is fast again, that is learnt at once, so that the next
one is found.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.reading import Reading

# Minutes of data after which a shift is no news: with those that it takes to learn it, an hour.
LASTING_MINUTES = 50
# Faster than usual is a service most of whose spans are so many scales below what they usually take.
FAST = 1.0

# What is known of a service's times: as they always were; slower for long, being learnt; slower, learnt; as fast as
# before again, being learnt.
USUAL, SLOWING, SLOWER, RETURNING = range(4)


class Lasting:
    """State: the phase of each service, and for how many minutes of data it has been slow, and nothing but slow."""

    def __init__(self) -> None:
        self._phase = np.zeros(0, np.int8)  # (services,)
        self._minutes = np.zeros(0, np.int8)  # (services,)

    def follow(self, reading: Reading, slow: np.ndarray, all_slow: np.ndarray, worse: np.ndarray) -> np.ndarray:
        """Take in a minute.

        slow, all_slow, worse: (services,) bool: what is believed of each: some of its calls are slow; nearly all are;
        something else is wrong with it.
        returns: whether each service's times are to be learnt anew.  # (services,)
        """
        services = len(slow)
        blamed = np.where(reading.callee >= 0, reading.callee, reading.service)
        # Some have no spans of their own, and are heard of by the calls to them.
        heard = np.bincount(np.r_[reading.service, blamed], minlength=services) > 0
        fast = _are_fast(reading, blamed, services)
        slow = slow & ~worse
        minutes, phase = grown(self._minutes, services), grown(self._phase, services)
        minutes = np.clip(minutes + np.where(slow, 1, -1), 0, LASTING_MINUTES)
        minutes[worse] = 0
        goes_on = [
            (slow & all_slow & (minutes == LASTING_MINUTES), SLOWING),
            (phase == SLOWING, np.where(slow, SLOWING, SLOWER)),
            (phase == SLOWER, np.where(fast, RETURNING, SLOWER)),
            (phase == RETURNING, np.where(fast, RETURNING, USUAL)),
        ]
        conditions, phases = zip(*goes_on)
        now = np.select(conditions, phases, USUAL)
        self._minutes = np.where(heard, minutes, grown(self._minutes, services)).astype(np.int8)
        self._phase = np.where(heard, now, phase).astype(np.int8)
        return heard & ((self._phase == SLOWING) | (self._phase == RETURNING))

    def reset(self, services: np.ndarray) -> None:
        """The services with these numbers are others from now on."""
        services = services[services < len(self._phase)]
        self._phase[services] = self._minutes[services] = 0


def _are_fast(reading: Reading, blamed: np.ndarray, services: int) -> np.ndarray:
    """Whether most of a minute's times that tell of each service are shorter than usual.  # (services,)

    blamed: (spans,) the service that the time tells of.
    """
    known = reading.is_known
    is_fast = reading.surplus[known] < -FAST * np.sqrt(reading.variance[known])
    return 2 * np.bincount(blamed[known], is_fast, services) > np.bincount(blamed[known], minlength=services)
