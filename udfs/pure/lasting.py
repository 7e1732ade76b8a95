"""Changes that last: slowness, or other calls, of an hour of data that do no harm are how a service is by now.

While the hour goes by they are told, as changes; then they are learnt. A service that fails, repeats its calls or uses
more than it did goes on costing somebody something: that stays an anomaly, however long it lasts.

Other calls are learnt as those of a release: most likely they are one that telemetry doesn't name.

A fault of hours may be learnt as well. Once its service is fast again that is learnt at once, so that the next fault is
found.
"""

from __future__ import annotations

import numpy as np

from udfs.pure.baseline import grown
from udfs.pure.pods import POD_YOUTH_MINUTES
from udfs.pure.reading import Reading

# Minutes of data after which a shift is no news: with those that it takes to learn it, an hour.
LASTING_MINUTES = 50
# Faster than usual is a service most of whose spans are so many scales below what they usually take.
FAST = 1.0

# What is known of a service's times: as they always were; slower for long, being learnt; slower, learnt; as fast as
# before again, being learnt.
USUAL, SLOWING, SLOWER, RETURNING = range(4)


class Lasting:
    """State: for how many minutes each service has been slow, or made other calls, and done nothing worse; the phase of
    its times; for how many minutes more its calls are learnt anew."""

    def __init__(self) -> None:
        self._phase = np.zeros(0, np.int8)  # (services,)
        self._minutes = np.zeros(0, np.int8)  # (services,) slow
        self._other = np.zeros(0, np.int8)  # (services,) makes other calls
        self._left = np.zeros(0, np.int8)  # (services,)

    def is_renewed(self, services: int) -> np.ndarray:
        """Whether what calls each service makes is learnt anew.  # (services,)"""
        return grown(self._left, services) > 0

    def follow(
        self, reading: Reading, slow: np.ndarray, all_slow: np.ndarray, other: np.ndarray, worse: np.ndarray
    ) -> np.ndarray:
        """Take in a minute.

        slow, all_slow, other, worse: (services,) bool: what is believed of each: some of its calls are slow; nearly all
        are; it makes other calls than usual; it does something that never becomes usual.
        returns: whether each service's times are to be learnt anew.  # (services,)
        """
        services = len(slow)
        # One that isn't called any more is not heard of at all.
        self._other = _counted(self._other, other, worse)
        lasts = self._other == LASTING_MINUTES
        self._left = np.where(lasts, POD_YOUTH_MINUTES, np.maximum(grown(self._left, services) - 1, 0)).astype(np.int8)
        self._other[lasts] = 0
        blamed = reading.blamed
        # Some have no spans of their own, and are heard of by the calls to them.
        heard = np.bincount(np.r_[reading.service, blamed], minlength=services) > 0
        fast = _are_fast(reading, blamed, services)
        phase, minutes = grown(self._phase, services), _counted(self._minutes, slow, worse)
        slow = slow & ~worse
        goes_on = [
            (slow & all_slow & (minutes == LASTING_MINUTES), SLOWING),
            (phase == SLOWING, np.where(slow, SLOWING, SLOWER)),
            (phase == SLOWER, np.where(fast, RETURNING, SLOWER)),
            (phase == RETURNING, np.where(fast, RETURNING, USUAL)),
        ]
        conditions, phases = zip(*goes_on)
        now = np.select(conditions, phases, USUAL)
        self._minutes = np.where(heard, minutes, grown(self._minutes, services))
        self._phase = np.where(heard, now, phase).astype(np.int8)
        return heard & ((self._phase == SLOWING) | (self._phase == RETURNING))

    def reset(self, services: np.ndarray) -> None:
        """The services with these numbers are others from now on."""
        services = services[services < len(self._phase)]
        for of in (self._phase, self._minutes, self._other, self._left):
            of[services] = 0


def _counted(minutes: np.ndarray, lasts: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """For how many minutes it has lasted, from 0 to LASTING_MINUTES: one less where it doesn't, none where it is worse.

    # (services,)
    """
    counted = np.clip(grown(minutes, len(lasts)) + np.where(lasts, 1, -1), 0, LASTING_MINUTES)
    return np.where(worse, 0, counted).astype(np.int8)


def _are_fast(reading: Reading, blamed: np.ndarray, services: int) -> np.ndarray:
    """Whether most of a minute's times that tell of each service are shorter than usual.  # (services,)

    blamed: (spans,) the service that the time tells of.
    """
    known = reading.is_known
    is_fast = reading.surplus[known] < -FAST * np.sqrt(reading.variance[known])
    return 2 * np.bincount(blamed[known], is_fast, services) > np.bincount(blamed[known], minlength=services)
